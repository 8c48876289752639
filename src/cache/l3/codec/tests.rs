use proptest::prelude::*;

use super::*;

const METHODS: [Method; 4] = [Method::Zstd(1), Method::Zstd(3), Method::Zstd(19), Method::Lz4];

fn compressor(method: Method) -> Compressor {
    Compressor::new(Some(Compression { method, from_bytes: 64 }))
}

/// What does not get smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..bytes).map(|_| random.u8(..)).collect()
}

#[test]
fn what_gets_smaller_comes_back_and_what_does_not_is_left_alone() {
    for method in METHODS {
        let mut compressor = compressor(method);
        for bytes in [64, 100, 1000, 70_000, 1 << 20] {
            let text: Vec<u8> = (0..bytes).map(|i| b"abcdefgh"[i / 3 % 8]).collect();
            let (codec, stored) = compressor.compress(&text).unwrap();
            assert!(
                stored.len() <= bytes - bytes / 8,
                "{method:?}: {} of {bytes}",
                stored.len()
            );
            assert_eq!(shown_bytes(codec, stored), Ok(bytes));
            assert_eq!(decompress(codec, stored), Ok(text));
            assert_eq!(compressor.compress(&noise(bytes)), None);
        }
        for bytes in 0..8 {
            assert_eq!(compressor.compress(&vec![0; bytes]), None);
        }
        compressor.wipe();
        assert!(compressor.output.is_empty());
    }
    assert!(!Compressor::new(None).takes(&noise(1 << 20)));
    assert!(compressor(Method::Lz4).takes(&noise(64)) && !compressor(Method::Lz4).takes(&noise(63)));
}

#[test]
fn a_length_that_is_not_true_is_damage_and_takes_no_memory() {
    for method in METHODS {
        let mut compressor = compressor(method);
        let text = vec![b'a'; 100_000];
        let (codec, stored) = compressor.compress(&text).unwrap();
        for claimed in [0, 1, 99_999, 100_001, 200_000, MAX_VALUE_BYTES as u32] {
            let mut bad = stored.to_vec();
            bad[..4].copy_from_slice(&claimed.to_le_bytes());
            assert_eq!(
                decompress(codec, &bad),
                Err(Damage::Compression),
                "{method:?} {claimed}"
            );
        }
        for claimed in [MAX_VALUE_BYTES as u32 + 1, u32::MAX] {
            let mut bad = stored.to_vec();
            bad[..4].copy_from_slice(&claimed.to_le_bytes());
            assert_eq!(decompress(codec, &bad), Err(Damage::Field), "{method:?} {claimed}");
        }
        let cut = &stored[..stored.len() - 1];
        assert!(decompress(codec, cut).is_err());
        assert!(decompress(codec, &stored[..3]).is_err());
        assert!(decompress(codec, &[]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_a_value_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..300), length in 0..2000u32) {
        for codec in Codec::ALL {
            let mut stored = length.to_le_bytes().to_vec();
            stored.extend_from_slice(&bytes);
            if let Ok(value) = decompress(codec, &stored) && codec != Codec::Plain {
                prop_assert_eq!(value.len(), length as usize);
            }
            let _ = decompress(codec, &bytes);
        }
    }

    #[test]
    fn any_value_comes_back(value in prop::collection::vec(0..4u8, 0..2000)) {
        for method in METHODS {
            if let Some((codec, stored)) = compressor(method).compress(&value) {
                prop_assert!(stored.len() <= value.len() - value.len() / 8);
                prop_assert_eq!(decompress(codec, stored), Ok(value.clone()));
            }
        }
    }
}
