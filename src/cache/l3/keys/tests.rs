use aes_gcm::AeadInOut;

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The two test vectors of the specification of XAES-256-GCM.
#[test]
fn keys_of_salts_are_those_of_xaes_256_gcm() {
    for (key, aad, expected) in [
        (1, &b""[..], "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            3,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ] {
        let key = Key::new(&[key; KEY_BYTES]);
        let mut text = *b"XAES-256-GCM";
        let tag = key
            .derive(b"ABCDEFGHIJKL")
            .encrypt_inout_detached(b"MNOPQRSTUVWX".into(), aad, text.as_mut_slice().into())
            .unwrap();
        assert_eq!(hex(&text) + &hex(&tag), expected);
    }
}

#[test]
fn the_last_key_writes_and_every_one_is_found() {
    let keys = [[1; KEY_BYTES], [2; KEY_BYTES], [3; KEY_BYTES]];
    let ring = KeyRing::new(&keys, NewSegments::Encrypted);
    let ids = ring.ids();
    assert_eq!(ids.len(), 3);
    assert_eq!(ring.writing().unwrap().id(), ids[2]);
    assert!(ids.iter().all(|&id| ring.find(id).unwrap().id() == id));
    assert!(ring.find(KeyId(0)).is_none());
    assert!(KeyRing::new(&keys, NewSegments::Plain).writing().is_none());
    assert!(KeyRing::default().writing().is_none());
    assert_eq!(KeyRing::new(&keys[..1], NewSegments::Plain).ids(), ids[..1]);
}

#[test]
fn a_ring_prints_ids_alone() {
    let ring = KeyRing::new(&[[0xab; KEY_BYTES]], NewSegments::Encrypted);
    let text = format!("{ring:?}");
    assert_eq!(text, format!("[{}]", ring.ids()[0]));
    assert!(!text.contains("abab"));
}
