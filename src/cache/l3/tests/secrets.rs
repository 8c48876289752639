//! Keys and codecs: what the files show to a stranger, what a wrong key does, and that both may change whenever they like.

use super::*;
use crate::cache::l3::codec::Codec;
use crate::cache::l3::envelope::Envelope;
use crate::cache::l3::format::{HEADER_BYTES, Header, Record};

const PIECE: usize = 8;

/// Values without repetitions, so that each piece of one is found only where it is written.
fn secret_value(i: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(i);
    (0..100).map(|_| random.u8(..)).collect()
}

fn secret_name(i: u64) -> String {
    let mut random = fastrand::Rng::with_seed(i ^ 0xffff);
    (0..24).map(|_| random.alphanumeric()).collect()
}

/// Pieces of names, values, hashes and the seed that the files show, of a store in which there are entries, moved entries and
/// tombstones, sealed segments and one that is written.
fn shown_pieces(config: Config) -> usize {
    let medium = Simulated::default();
    let mut now_us = 1_000_000;
    let (store, next) = open(
        Config {
            size_bytes: 64 << 10,
            ..config
        },
        &medium,
        1,
    );
    let mut writer = writer(&store, next);
    let mut images = Vec::new();
    for i in 0..400 {
        put(&store, &secret_name(i), &secret_value(i));
        if i % 3 == 0 {
            void(&store, &secret_name(i / 2));
        }
        let _ = value(&store, &secret_name(i.saturating_sub(40)), now_us);
        if i % 20 == 19 {
            settle(&mut writer, &mut now_us);
            images.push(medium.killed());
        }
    }
    let counts = store.stats().counts;
    assert!(
        counts.tombstones > 50 && counts.reinserted > 0 && counts.reclaimed_segments > 0,
        "{counts:?}"
    );
    writer.close();
    images.push(medium.killed());
    let mut secrets = std::collections::HashSet::new();
    for i in 0..400 {
        let (name, value) = (secret_name(i), secret_value(i));
        let all = [name.as_bytes(), &value]
            .into_iter()
            .flat_map(|part| part.windows(PIECE));
        secrets.extend(all.map(<[u8]>::to_vec));
        secrets.insert(hash(store.seed, name.as_bytes()).to_le_bytes().to_vec());
    }
    secrets.insert(store.seed.to_le_bytes().to_vec());
    let mut shown = std::collections::HashSet::new();
    for image in images {
        for name in image.segments() {
            let content = image.content(&name);
            shown.extend(
                content
                    .windows(PIECE)
                    .filter(|piece| secrets.contains(*piece))
                    .map(<[u8]>::to_vec),
            );
        }
    }
    shown.len()
}

#[test]
fn encrypted_files_show_no_piece_of_a_name_a_value_a_hash_or_the_seed() {
    assert!(shown_pieces(config()) > 10_000, "the search finds what is there");
    let encrypted = Config {
        keys: ring(&[1]),
        ..config()
    };
    assert_eq!(shown_pieces(encrypted), 0);
    assert_eq!(shown_pieces(packed(Method::Lz4)), 0);
}

fn with(keys: KeyRing) -> Config {
    Config { keys, ..config() }
}

/// Sealed, and with one entry; and when that was done.
fn of_one_segment(keys: KeyRing) -> (Simulated, u64) {
    let (medium, mut now_us) = (Simulated::default(), 1_000_000);
    let (store, next) = open(with(keys), &medium, 1);
    let mut writer = writer(&store, next);
    put(&store, "name1", b"the value");
    settle(&mut writer, &mut now_us);
    writer.close();
    (medium, now_us)
}

#[test]
fn a_key_that_is_missing_is_refused_and_nothing_is_changed() {
    let (medium, now_us) = of_one_segment(ring(&[1]));
    let before: Vec<_> = medium.segments().iter().map(|name| medium.content(name)).collect();
    let id = ring(&[1]).ids()[0].to_string();
    for (keys, said) in [
        (KeyRing::default(), "nor was any other"),
        (ring(&[2, 3]), &*ring(&[2]).ids()[0].to_string()),
    ] {
        for recovery in [Recovery::Strict, Recovery::TolerateTornTail, Recovery::Salvage] {
            let config = Config {
                recovery,
                ..with(keys.clone())
            };
            let text = try_open(config, &medium).err().unwrap().to_string();
            assert!(
                text.contains(&id) && text.contains(&medium.segments()[0]) && text.contains(said),
                "{text}"
            );
        }
    }
    let after: Vec<_> = medium.segments().iter().map(|name| medium.content(name)).collect();
    assert_eq!(before, after);
    let (store, _) = open(with(ring(&[2, 1, 3])), &medium, now_us);
    assert_eq!(value(&store, "name1", now_us).as_deref(), Some(&b"the value"[..]));
}

#[test]
fn keys_are_exchanged_while_the_store_works_and_given_up_when_nothing_needs_them() {
    let medium = Simulated::default();
    let mut now_us = 1_000_000;
    let small = |keys| Config {
        keys,
        size_bytes: 32 << 10,
        ..config()
    };
    let (store, next) = open(small(ring(&[1])), &medium, 1);
    let mut writer = writer(&store, next);
    let segments_of = |store: &Store, key: u8| {
        let id = Some(ring(&[key]).ids()[0]);
        let all = store.key_segments();
        all.iter().find(|(key, _)| *key == id).map(|&(_, count)| count)
    };
    (0..20).for_each(|i| put(&store, &format!("name{i}"), &secret_value(i)));
    settle(&mut writer, &mut now_us);
    assert!(segments_of(&store, 1) > Some(0));
    store.set_keys(ring(&[1, 2])).unwrap();
    (20..30).for_each(|i| put(&store, &format!("name{i}"), &secret_value(i)));
    settle(&mut writer, &mut now_us);
    assert_eq!(segments_of(&store, 2), Some(1), "at once, not when the segment is full");
    assert_eq!(store.key_segments().last().unwrap().0, Some(ring(&[2]).ids()[0]));
    for i in 0..30 {
        assert_eq!(value(&store, &format!("name{i}"), now_us), Some(secret_value(i)));
    }
    let refused = store.set_keys(ring(&[2])).unwrap_err();
    assert_eq!(in_use(&refused), ring(&[1]).ids());
    assert!(refused.to_string().contains(&ring(&[1]).ids()[0].to_string()));
    // A process that is killed now finds all of it.
    let (killed, _) = open(small(ring(&[1, 2])), &medium.killed(), now_us);
    for i in 0..30 {
        assert_eq!(value(&killed, &format!("name{i}"), now_us), Some(secret_value(i)));
    }
    assert_eq!(killed.stats().counts.repairs, 0);
    // Until what the old key encrypts is reclaimed.
    for i in 30..400 {
        put(&store, &format!("name{i}"), &secret_value(i));
        if i % 10 == 0 {
            settle(&mut writer, &mut now_us);
        }
    }
    settle(&mut writer, &mut now_us);
    assert_eq!(segments_of(&store, 1), Some(0));
    store.set_keys(ring(&[2])).unwrap();
    writer.close();
    let (store, _) = open(small(ring(&[2])), &medium.killed(), now_us);
    assert_eq!(value(&store, "name399", now_us), Some(secret_value(399)));
}

#[test]
fn no_key_is_given_up_before_all_segments_are_known() {
    let (medium, now_us) = of_one_segment(ring(&[1]));
    let (store, leftovers) = try_open(with(ring(&[1, 2])), &medium).unwrap();
    assert_eq!(in_use(&store.set_keys(ring(&[2])).unwrap_err()), ring(&[1]).ids());
    store.set_keys(ring(&[1, 2, 3])).unwrap();
    recovery::run(&store, leftovers, now_us, || {});
    assert_eq!(in_use(&store.set_keys(ring(&[2, 3])).unwrap_err()), ring(&[1]).ids());
    store.set_keys(ring(&[3, 1])).unwrap();
    assert!(value(&store, "name1", now_us).is_some());
}

#[test]
fn encryption_is_switched_on_and_off_over_files_that_stay_readable() {
    let medium = Simulated::default();
    let mut now_us = 1_000_000;
    let plain = KeyRing::new(&[[1; keys::KEY_BYTES]], NewSegments::Plain);
    let lives = [KeyRing::default(), ring(&[1]), plain];
    for (life, keys) in (0u64..).zip(&lives) {
        let config = Config {
            keys: keys.clone(),
            ..config()
        };
        let (store, next) = open(config, &medium, now_us);
        for i in 0..life * 10 {
            assert_eq!(
                value(&store, &format!("name{i}"), now_us),
                Some(secret_value(i)),
                "life {life}"
            );
        }
        let mut writer = writer(&store, next);
        (life * 10..life * 10 + 10).for_each(|i| put(&store, &format!("name{i}"), &secret_value(i)));
        settle(&mut writer, &mut now_us);
        writer.close();
        let segments = store.segments.all();
        let newest = segments.last().unwrap();
        assert_eq!(newest.envelope.key_id(), keys.writing().map(|key| key.id()));
    }
    // The key is needed as long as one segment is.
    assert!(try_open(config(), &medium).is_err());
}

/// The one segment, its guard, and the place of each record.
fn records(medium: &Simulated, keys: &KeyRing) -> (Vec<u8>, Envelope, Vec<std::ops::Range<usize>>) {
    let bytes = medium.content(&medium.segments()[0]);
    let (_, envelope) = Header::decode(&bytes, keys).unwrap();
    let (mut at, mut places, mut copy) = (HEADER_BYTES, Vec::new(), bytes.clone());
    while let Ok(record) = Record::decode(&mut copy[at..], &envelope, at as u64) {
        let length = format::padded(envelope.length(&record));
        places.push(at..at + length);
        at += length;
    }
    (bytes, envelope, places)
}

#[test]
fn records_that_have_changed_places_are_damage_where_there_is_a_key() {
    for keys in [KeyRing::default(), ring(&[1])] {
        let medium = Simulated::default();
        let mut now_us = 1_000_000;
        let config = Config {
            keys: keys.clone(),
            ..config()
        };
        let (store, next) = open(config, &medium, 1);
        let mut writer = writer(&store, next);
        put(&store, "name1", b"the one value");
        put(&store, "name2", b"the two value");
        settle(&mut writer, &mut now_us);
        let (mut bytes, _, places) = records(&medium, &keys);
        assert_eq!(places.len(), 2);
        let first = bytes[places[0].clone()].to_vec();
        bytes.copy_within(places[1].clone(), places[0].start);
        bytes[places[1].clone()].copy_from_slice(&first);
        let file = storage::Storage::open(&medium, &medium.segments()[0]).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(
            [value(&store, "name1", now_us), value(&store, "name2", now_us)],
            [None, None]
        );
        // Without a key each is sound, and another key's.
        let damaged = if keys.writing().is_some() { 2 } else { 0 };
        assert_eq!(store.stats().counts.corrupt_records, damaged);
    }
}

#[test]
fn a_value_whose_length_is_a_lie_is_damage_and_is_counted() {
    let (medium, mut now_us) = (Simulated::default(), 1_000_000);
    let config = packed(Method::Zstd(1));
    let (store, next) = open(config.clone(), &medium, 1);
    let mut writer = writer(&store, next);
    put(&store, "name1", &[b'a'; 700]);
    settle(&mut writer, &mut now_us);
    assert_eq!(value(&store, "name1", now_us), Some(vec![b'a'; 700]));
    let (mut bytes, envelope, places) = records(&medium, &config.keys);
    // Whoever has the key can write anything.
    for claimed in [u32::MAX, 1 << 24, 701, 0] {
        let at = places[0].start;
        let mut copy = bytes.clone();
        let record = Record::decode(&mut copy[at..], &envelope, at as u64).unwrap();
        assert_eq!(record.codec, Codec::Zstd);
        let lie = [&claimed.to_le_bytes()[..], &record.value[4..]].concat();
        let mut forged = Vec::new();
        Record { value: &lie, ..record }
            .encode(&envelope, at as u64, &mut forged)
            .unwrap();
        bytes[places[0].clone()].copy_from_slice(&forged);
        let image = medium.killed();
        image.put(&medium.segments()[0], bytes.clone());
        let (store, _) = open(config.clone(), &image, now_us);
        assert_eq!(value(&store, "name1", now_us), None, "{claimed}");
        assert_eq!(store.stats().counts.corrupt_records, 1, "{claimed}");
        let report = check::check(&image, &config.keys, 0, check::Export::Nothing, &mut Vec::new());
        // The first store has no lock on a copy, the second one has.
        assert!(report.is_err());
        drop(store);
        let report = check::check(&image, &config.keys, 0, check::Export::Entries, &mut Vec::new()).unwrap();
        assert!(!report.is_sound(), "{claimed}: {report}");
    }
}

#[test]
fn what_is_compressed_is_counted_and_takes_less_room() {
    let mut sizes = Vec::new();
    for compression in [None, Some(Method::Zstd(3)), Some(Method::Lz4)] {
        let medium = Simulated::default();
        let mut now_us = 1_000_000;
        let config = Config {
            compression: compression.map(|method| Compression {
                method,
                from_bytes: 100,
            }),
            ..config()
        };
        let (store, next) = open(config, &medium, 1);
        let mut writer = writer(&store, next);
        for i in 0..50 {
            put(&store, &format!("name{i}"), &[b'v'; 400]);
            put(&store, &format!("noise{i}"), &secret_value(i));
            put(&store, &format!("short{i}"), &[b'v'; 99]);
        }
        settle(&mut writer, &mut now_us);
        let counts = store.stats().counts;
        let tried = if compression.is_some() { 50 } else { 0 };
        assert_eq!(counts.compressed_zstd + counts.compressed_lz4, tried);
        assert_eq!(counts.compressed_not, tried);
        assert_eq!(counts.compress_from_bytes, tried * 500);
        assert!(counts.compress_to_bytes <= tried * 150);
        for i in 0..50 {
            assert_eq!(value(&store, &format!("name{i}"), now_us), Some(vec![b'v'; 400]));
            assert_eq!(value(&store, &format!("noise{i}"), now_us), Some(secret_value(i)));
        }
        sizes.push(medium.bytes());
    }
    assert!(sizes[1] < sizes[0] * 2 / 3 && sizes[2] < sizes[0] * 2 / 3, "{sizes:?}");
}

#[test]
fn whatever_is_set_in_each_life_all_lives_are_read() {
    for seed in 100..112 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut run = Run::new(seed, 40);
        run.is_flushing = false;
        let mut medium = Simulated::default();
        for life in 0..8 {
            // A key that was ever used may be needed.
            let known: Vec<[u8; keys::KEY_BYTES]> = (0..random.u8(1..4))
                .map(|i| [(life + i) % 8; keys::KEY_BYTES])
                .collect();
            let mut all: Vec<[u8; keys::KEY_BYTES]> = (0..8).map(|i| [i; keys::KEY_BYTES]).collect();
            all.retain(|key| !known.contains(key));
            all.extend(known);
            let new_segments = match random.bool() {
                true => NewSegments::Encrypted,
                false => NewSegments::Plain,
            };
            let method = [None, Some(Method::Lz4), Some(Method::Zstd(1)), Some(Method::Zstd(12))][random.usize(..4)];
            let from_bytes = random.usize(64..300);
            let config = Config {
                size_bytes: 48 << 10,
                compression: method.map(|method| Compression { method, from_bytes }),
                keys: KeyRing::new(&all, new_segments),
                ..config()
            };
            let (store, next) = open(config, &medium, run.now_us);
            run.check_all(&store);
            assert_eq!(store.stats().counts.repairs, 0, "seed {seed}, life {life}");
            let mut writer = writer(&store, next);
            for step in 0..250 {
                if step % 80 == 79 {
                    let last = all.len() - 1;
                    all[..last].rotate_left(1);
                    all.swap(0, last);
                    store.set_keys(KeyRing::new(&all, new_segments)).unwrap();
                }
                run.step(&store, &mut writer);
            }
            settle(&mut writer, &mut run.now_us);
            run.check_all(&store);
            assert_eq!(store.stats().counts.corrupt_records, 0);
            if random.bool() {
                writer.close();
            }
            medium = medium.killed();
        }
        assert!(run.current.len() > 10);
    }
}

fn in_use(refused: &KeysRefused) -> Vec<KeyId> {
    match refused {
        KeysRefused::InUse(keys) => keys.clone(),
        KeysRefused::Busy => Vec::new(),
    }
}
