//! Compressed values: what is shown is what came in, and the budget holds as many more of them.

use super::*;
use crate::cache::l3::codec::Method;

const METHODS: [Method; 2] = [Method::Lz4, Method::Zstd(1)];

fn packing(method: Method) -> Config {
    Config {
        max_value_bytes: 100 << 10,
        budget_bytes: 4 << 20,
        shards: Some(2),
        compression: Some(Compression {
            method,
            from_bytes: 1 << 10,
        }),
        ..config()
    }
}

/// Text of words that come again, of a length in bytes.
fn prose(random: &mut fastrand::Rng, length: usize) -> String {
    let words = [
        "coherent ",
        "the ",
        "upstream ",
        "reads ",
        "\"id\":",
        "12345,",
        "spill ",
    ];
    let mut text = String::new();
    while text.len() < length {
        text.push_str(words[random.usize(..words.len())]);
    }
    text.truncate(length);
    text
}

#[test]
fn what_is_shown_is_what_came_in_whatever_its_size_and_whether_or_not_it_was_compressed() {
    for method in METHODS {
        let mut random = fastrand::Rng::with_seed(7);
        let r = rig_with(packing(method));
        for round in 0..400 {
            let length = [random.usize(..3000), random.usize(1000..1100), random.usize(..80_000)][round % 3];
            let is_noise = random.u8(..4) == 0;
            let text = match is_noise {
                true => std::iter::repeat_with(|| random.alphanumeric()).take(length).collect(),
                false => prose(&mut random, length),
            };
            let now_us = 10 + round as u64;
            let is_shared = random.bool();
            let fill = Fill {
                value: match is_shared {
                    true => Value::Shared(Bytes::from(text.clone().into_bytes())),
                    false => Value::Bytes(text.as_bytes()),
                },
                pttl_ms: -1,
                is_plain: true,
                most_us: None,
            };
            r.l1.purge(name_hash(b"k"));
            r.fill(get("k"), on(r.a, now_us), Some(fill));
            assert_eq!(r.peek(get("k"), on(r.a, now_us)), Some(text.clone()), "round {round}");
            assert_eq!(r.decide(get("k"), on(r.a, now_us)), Decision::Hit(text.clone()));
            let kept = |view: View<'_>| match view.value.packed() {
                Some(packed) => (packed.shown_bytes(), packed.unpack().unwrap().to_vec()),
                None => (text.len(), text.clone().into_bytes()),
            };
            let shown = r.l1.peek_kept(&get("k"), &on(r.a, now_us), kept);
            assert_eq!(shown, Some((text.len(), text.clone().into_bytes())));
            let is_packed =
                r.l1.peek_kept(&get("k"), &on(r.a, now_us), |view| view.value.packed().is_some());
            let must_be = !is_noise && (1 << 10..=64 << 10).contains(&length);
            let may_be = (1 << 10..=64 << 10).contains(&length);
            assert!(
                is_packed != Some(false) || !must_be,
                "{length} bytes of prose are as they were"
            );
            assert!(is_packed != Some(true) || may_be, "{length} bytes are compressed");
            let explained = &r.l1.explain(name_hash(b"k"), now_us)[0];
            assert_eq!(explained.shown_bytes, length);
            assert_eq!(explained.codec != Codec::Plain, is_packed == Some(true));
            assert!(explained.codec == Codec::Plain || explained.bytes <= length - length / 8);
        }
        let stats = r.l1.stats();
        assert!(stats.compressed_lz4 + stats.compressed_zstd > 100);
        // Zstandard codes letters and digits in fewer bits each.
        assert!(
            stats.compressed_not > 10 || method != Method::Lz4,
            "noise becomes no smaller"
        );
        assert!(stats.compress_to_bytes < stats.compress_from_bytes / 3 * 2);
        assert_eq!(method == Method::Lz4, stats.compressed_zstd == 0);
        r.l1.purge_all();
        assert_eq!(r.l1.stats().data_bytes, 0);
    }
}

#[test]
fn a_budget_holds_as_many_more_entries_as_they_are_smaller() {
    let entries = |compression| {
        let mut random = fastrand::Rng::with_seed(1);
        let r = rig_with(Config {
            compression,
            ..packing(Method::Lz4)
        });
        for i in 0..4000 {
            let (name, text) = (i.to_string(), prose(&mut random, 4000));
            r.fill(get(&name), on(r.a, 10), value(&text));
        }
        let stats = r.l1.stats();
        assert!(stats.used_bytes <= stats.budget_bytes);
        let ratio = stats.compress_from_bytes as f64 / stats.compress_to_bytes.max(1) as f64;
        (stats.entries as f64, ratio)
    };
    let (plain, _) = entries(None);
    for method in METHODS {
        let (more, ratio) = entries(Some(Compression {
            method,
            from_bytes: 1 << 10,
        }));
        assert!(ratio > 2.0, "{method:?}: {ratio}");
        // All of them may fit, and each has some overhead.
        let expected = (plain * ratio).min(4000.0);
        assert!(
            more > expected * 0.8,
            "{method:?}: {more} entries instead of {plain}, at a ratio of {ratio}"
        );
    }
}

#[test]
fn a_value_that_is_too_large_is_refused_by_its_size_as_it_is_shown() {
    let r = rig_with(Config {
        max_value_bytes: 8 << 10,
        ..packing(Method::Lz4)
    });
    let text = "a".repeat((8 << 10) + 1);
    r.fill(get("k"), on(r.a, 10), value(&text));
    assert_eq!(r.peek(get("k"), on(r.a, 10)), None);
    assert_eq!(r.l1.stats().refused_too_large, 1);
    assert_eq!(r.l1.stats().compressed_lz4, 0, "nor is it compressed for that");
}

#[test]
fn one_that_is_no_longer_what_was_compressed_is_not_shown() {
    let packed = Packed {
        codec: Codec::Lz4,
        bytes: Bytes::from_static(b"\x10\0\0\0not what it was"),
    };
    assert_eq!(packed.unpack(), None);
}
