//! Bits that flip and files that are not what they were: nothing that was never written is shown, and by default nothing that
//! was voided comes back.

use proptest::prelude::*;
use proptest::test_runner::{Config as Proptest, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::cache::l3::format::HEADER_BYTES;
use crate::cache::l3::owed::MARKER;
use crate::cache::l3::storage::Storage as _;

/// A store of several segments, with voided and replaced values in it, as a kill leaves it; and what counts.
fn grown(seed: u64) -> (Simulated, Run) {
    grown_as(&config(), seed)
}

fn grown_as(config: &Config, seed: u64) -> (Simulated, Run) {
    let medium = Simulated::default();
    let (store, next) = open(config.clone(), &medium, 1);
    let mut run = Run::new(seed, 40);
    run.is_flushing = false;
    {
        let mut writer = writer(&store, next);
        let steps = if config.compression.is_some() { 300 } else { 130 };
        for _ in 0..steps {
            run.step(&store, &mut writer);
        }
        settle(&mut writer, &mut run.now_us);
    }
    let image = medium.killed();
    assert!(image.segments().len() >= 3);
    (image, run)
}

fn reopened(image: &Simulated, recovery: Recovery, now_us: u64) -> Arc<Store> {
    open(Config { recovery, ..config() }, image, now_us).0
}

/// Every value that is found was written for that name at some time.
fn check_written(store: &Store, run: &Run) {
    for name in 0..run.names {
        let name = format!("name{name}");
        if let Some(found) = value(store, &name, run.now_us) {
            let is_written = (1..=run.version).any(|version| version_of(&name, version) == found);
            assert!(is_written, "{name} has a value that was never written");
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_never_served_and_revives_nothing() {
    flip_every(1, &config());
}

#[test]
fn nor_is_one_in_files_that_are_encrypted_and_compressed() {
    flip_every(13, &packed(Method::Zstd(1)));
}

fn flip_every(step: usize, config: &Config) {
    let (image, run) = grown_as(config, 1);
    for name in image.segments() {
        let good = image.content(&name);
        for at in (0..good.len()).step_by(step) {
            let bad = image.killed();
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            bad.put(&name, bytes);
            let recovery = match at % 8 {
                7 => Recovery::Salvage,
                _ => Recovery::TolerateTornTail,
            };
            let config = Config {
                recovery,
                ..config.clone()
            };
            let Ok((store, leftovers)) = try_open(config, &bad) else {
                // A bit of the version.
                assert!((8..12).contains(&at), "{name} at {at}");
                continue;
            };
            recovery::run(&store, leftovers, run.now_us, || {});
            match recovery {
                Recovery::Salvage => check_written(&store, &run),
                // The last segment's end may be cut off, with tombstones in it, as after a crash.
                _ if image.segments().last() == Some(&name) => check_written(&store, &run),
                _ => run.check_all(&store),
            }
        }
    }
}

#[test]
fn strict_recovery_changes_nothing_and_stays_off() {
    let (image, run) = grown(2);
    let name = image.segments()[0].clone();
    let mut bytes = image.content(&name);
    bytes[HEADER_BYTES + 36] ^= 1;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    image.put(&name, bytes.clone());
    let (store, next) = open(
        Config {
            recovery: Recovery::Strict,
            ..config()
        },
        &image,
        run.now_us,
    );
    let mut writer = writer(&store, next);
    put(&store, "new", b"value");
    void(&store, "name1");
    for step in 1..10 {
        writer.turn(run.now_us + step * 100_000);
    }
    let stats = store.stats();
    assert!(store.is_off.load(SeqCst) && stats.entries == 0);
    assert!(store.trouble.lock().as_ref().unwrap().contains("strict"));
    let repair = &store.repairs.lock()[0];
    assert_eq!(
        (repair.file.as_str(), repair.offset),
        (name.as_str(), HEADER_BYTES as u64)
    );
    assert_eq!(image.content(&name), bytes);
}

#[test]
fn strict_recovery_removes_nothing_for_want_of_the_marker() {
    let (image, run) = grown(2);
    image.remove(MARKER).unwrap();
    let before: Vec<_> = image.segments().iter().map(|name| image.content(name)).collect();
    for _ in 0..2 {
        let config = Config {
            recovery: Recovery::Strict,
            ..config()
        };
        let image = image.killed();
        let (store, next) = open(config, &image, run.now_us);
        let mut writer = writer(&store, next);
        void(&store, "name1");
        for step in 1..10 {
            writer.turn(run.now_us + step * 100_000);
        }
        assert!(store.is_off.load(SeqCst) && store.trouble.lock().is_some());
        let after: Vec<_> = image.segments().iter().map(|name| image.content(name)).collect();
        assert!(after == before && !image.names().contains(&MARKER.to_owned()));
    }
}

#[test]
fn a_torn_tail_is_cut_off_noted_and_sealed() {
    let (image, run) = grown(3);
    let name = image.segments().last().unwrap().clone();
    let mut bytes = image.content(&name);
    bytes.truncate(bytes.len() - 20);
    image.put(&name, bytes);
    {
        let store = reopened(&image, Recovery::TolerateTornTail, run.now_us);
        let repairs = store.repairs.lock();
        assert_eq!(repairs.len(), 1, "{repairs:?}");
        assert_eq!(repairs[0].file, name);
        assert!(
            repairs[0].offset > HEADER_BYTES as u64 && repairs[0].reason.contains("torn tail"),
            "{repairs:?}"
        );
    }
    let store = reopened(&image, Recovery::Strict, run.now_us);
    assert_eq!(store.stats().counts.repairs, 0, "it is sound now");
    assert!(store.stats().entries > 0);
}

#[test]
fn damage_in_the_middle_costs_what_is_older_unless_it_is_salvaged() {
    let (image, run) = grown(4);
    let names = image.segments();
    let name = names[names.len() - 2].clone();
    let mut bytes = image.content(&name);
    // The first record's checksum, and the footer.
    bytes[HEADER_BYTES] ^= 1;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    image.put(&name, bytes);
    let tolerant = reopened(&image.killed(), Recovery::TolerateTornTail, run.now_us);
    let salvaging = reopened(&image.killed(), Recovery::Salvage, run.now_us);
    run.check_all(&tolerant);
    check_written(&salvaging, &run);
    assert!(salvaging.stats().entries > tolerant.stats().entries);
    assert!(tolerant.stats().counts.repairs > 0 && salvaging.stats().counts.repairs > 0);
}

#[test]
fn damage_that_is_full_of_plausible_lengths_is_not_searched_again_and_again() {
    for like in [config(), packed(Method::Zstd(1))] {
        let config = Config {
            segment_bytes: 8 << 20,
            size_bytes: 64 << 20,
            max_value_bytes: 1 << 20,
            queue_bytes: 4 << 20,
            recovery: Recovery::Salvage,
            sync: Sync::Interval(1),
            ..like
        };
        let medium = Simulated::default();
        let (store, next) = open(config.clone(), &medium, 1);
        let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Vec<u8> = (0..1 << 20).map(|_| random.u8(..)).collect();
        for (name, value) in [("name0", &b"v"[..]), ("name1", &noise[..]), ("name2", b"w")] {
            put(&store, name, value);
            settle(&mut writer, &mut now_us);
        }
        let image = medium.killed();
        let name = format::file_name(1);
        let mut bytes = image.content(&name);
        let damaged = HEADER_BYTES + 256..bytes.len() - 1024;
        // Each sixteen bytes say that half a mebibyte is a record.
        for piece in bytes[damaged.clone()].chunks_mut(4) {
            piece.copy_from_slice(&(512_u32 << 10).to_le_bytes()[..piece.len()]);
        }
        image.put(&name, bytes);
        let begun = std::time::Instant::now();
        let keys = config.keys.clone();
        let (store, _) = open(config, &image, now_us);
        // Of all of them it would be 32 GiB.
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        assert_eq!(value(&store, "name0", now_us).as_deref(), Some(&b"v"[..]));
        assert_eq!(value(&store, "name1", now_us), None);
        assert_eq!(value(&store, "name2", now_us).as_deref(), Some(&b"w"[..]));
        let is_plain = store.config.keys.writing().is_none();
        // In what is encrypted a long record might have been passed over, and that is told.
        let is_told = store
            .repairs
            .lock()
            .iter()
            .any(|repair| repair.reason == recovery::GIVEN_UP);
        assert_eq!(is_told, !is_plain);
        let report = check::check(&image.killed(), &keys, 0, check::Export::Nothing, &mut Vec::new()).unwrap();
        let damage = &report.segments[0].damage;
        assert_eq!(damage.iter().any(|(_, what)| what == recovery::GIVEN_UP), !is_plain);
    }
}

#[test]
fn what_is_behind_many_mebibytes_of_damage_is_found_in_what_is_encrypted_too() {
    let config = Config {
        segment_bytes: 32 << 20,
        size_bytes: 256 << 20,
        max_value_bytes: 1 << 20,
        queue_bytes: 64 << 20,
        recovery: Recovery::Salvage,
        compression: None,
        sync: Sync::Interval(1),
        ..packed(Method::Lz4)
    };
    let medium = Simulated::default();
    let (store, next) = open(config.clone(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let mut random = fastrand::Rng::with_seed(1);
    let mut noise = vec![0; 1 << 20];
    for i in 0..24 {
        random.fill(&mut noise);
        put(&store, &format!("name{i}"), &noise);
        put(&store, &format!("name{}", i + 100), b"v");
        settle(&mut writer, &mut now_us);
    }
    let image = medium.killed();
    let name = format::file_name(1);
    let mut bytes = image.content(&name);
    random.fill(&mut bytes[HEADER_BYTES + (2 << 20)..HEADER_BYTES + (20 << 20)]);
    image.put(&name, bytes);
    let (store, _) = open(config, &image, now_us);
    let is_there = |i| value(&store, &format!("name{i}"), now_us).is_some();
    for i in [0, 20, 21, 22, 23] {
        assert!(is_there(i) && is_there(i + 100), "{i}");
    }
    assert!(!is_there(10) && !is_there(110));
    let repairs = store.repairs.lock();
    assert!(
        repairs.iter().all(|repair| repair.reason != recovery::GIVEN_UP),
        "{repairs:?}"
    );
}

#[test]
fn records_within_a_value_are_none_even_where_everything_that_is_sound_is_kept() {
    for like in [config(), packed(Method::Lz4)] {
        let config = Config {
            segment_bytes: 1 << 20,
            size_bytes: 16 << 20,
            max_value_bytes: 100 << 10,
            recovery: Recovery::Salvage,
            compression: None,
            ..like
        };
        // What a client may have got hold of: a file of the same names, with records at the same offsets.
        let other = Simulated::default();
        let (store, next) = open(config.clone(), &other, 1);
        let (mut theirs, mut now_us) = (writer(&store, next), 1_000_000);
        (0..50).for_each(|i| put(&store, &format!("name{i}"), b"not what was written"));
        settle(&mut theirs, &mut now_us);
        let records = other.content(&format::file_name(1));
        let medium = Simulated::default();
        let (store, next) = open(config.clone(), &medium, 1);
        let mut writer = writer(&store, next);
        put(&store, "name100", &records);
        put(&store, "name101", b"v");
        settle(&mut writer, &mut now_us);
        for at in [0, 8, 40, 48] {
            let image = medium.killed();
            let name = format::file_name(1);
            let mut bytes = image.content(&name);
            bytes[HEADER_BYTES + at] ^= 1;
            image.put(&name, bytes);
            let (store, _) = open(config.clone(), &image, now_us);
            assert_eq!(value(&store, "name101", now_us).as_deref(), Some(&b"v"[..]));
            assert_eq!(store.stats().entries, 1);
        }
    }
}

#[test]
fn a_version_that_is_not_known_is_refused_and_left_alone() {
    let (image, _) = grown(5);
    let name = image.segments()[1].clone();
    let mut bytes = image.content(&name);
    bytes[8] = 9;
    image.put(&name, bytes);
    let before = image.segments();
    for recovery in [Recovery::Strict, Recovery::TolerateTornTail, Recovery::Salvage] {
        let Err(error) = try_open(Config { recovery, ..config() }, &image) else {
            panic!("it was guessed")
        };
        let text = error.to_string();
        assert!(text.contains(&name) && text.contains("version 9"), "{text}");
    }
    assert_eq!(image.segments(), before);
}

#[test]
fn names_that_are_hashed_in_another_way_are_not_used() {
    let (image, run) = grown(6);
    let (store, next) = open(
        Config {
            hash: |seed, name| hash(seed ^ 1, name),
            ..config()
        },
        &image,
        run.now_us,
    );
    assert_eq!(store.stats().entries, 0);
    let mut writer = writer(&store, next);
    let mut now_us = run.now_us;
    settle(&mut writer, &mut now_us);
    writer.turn(now_us + 30_000);
    assert_eq!(image.segments(), Vec::<String>::new(), "nobody can use them again");
}

/// What may happen to a file.
#[derive(Clone, Debug)]
enum Change {
    Flip(f64, u8),
    Cut(f64),
    Zero(f64, u16),
    Repeat(f64, f64, u16),
    Random(f64, u16, u64),
    Remove,
    Swap,
}

fn change() -> impl Strategy<Value = (u8, Change)> {
    let part = || 0.0..1.0f64;
    let change = prop_oneof![
        (part(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        part().prop_map(Change::Cut),
        (part(), 1..2000u16).prop_map(|(at, len)| Change::Zero(at, len)),
        (part(), part(), 1..2000u16).prop_map(|(from, to, len)| Change::Repeat(from, to, len)),
        (part(), 1..200u16, any::<u64>()).prop_map(|(at, len, seed)| Change::Random(at, len, seed)),
        Just(Change::Remove),
        Just(Change::Swap),
    ];
    (any::<u8>(), change)
}

fn apply(image: &Simulated, which: u8, change: &Change) {
    let names = image.segments();
    let Some(name) = names.get(usize::from(which) % names.len().max(1)) else {
        return;
    };
    let mut bytes = image.content(name);
    let place = |part: f64| (part * bytes.len() as f64) as usize;
    match *change {
        Change::Flip(at, bits) => {
            let at = place(at);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
        }
        Change::Cut(at) => bytes.truncate(place(at)),
        Change::Zero(at, len) => {
            let at = place(at);
            bytes.iter_mut().skip(at).take(len.into()).for_each(|byte| *byte = 0);
        }
        Change::Repeat(from, to, len) => {
            let (from, to) = (place(from), place(to));
            let copied: Vec<u8> = bytes[from..].iter().take(len.into()).copied().collect();
            bytes.splice(to..to, copied);
        }
        Change::Random(at, len, seed) => {
            let at = place(at);
            let mut random = fastrand::Rng::with_seed(seed);
            bytes
                .iter_mut()
                .skip(at)
                .take(len.into())
                .for_each(|byte| *byte = random.u8(..));
        }
        Change::Remove => return storage::Storage::remove(image, name).unwrap(),
        Change::Swap => {
            let other = names[usize::from(which / 7) % names.len()].clone();
            let theirs = image.content(&other);
            image.put(&other, bytes);
            return image.put(name, theirs);
        }
    }
    image.put(name, bytes);
}

#[test]
fn whatever_the_files_are_recovery_ends_and_shows_only_what_was_written() {
    change_at_random(&config(), 1000);
}

#[test]
fn nor_does_it_show_anything_else_of_files_that_are_encrypted_and_compressed() {
    change_at_random(&packed(Method::Lz4), 250);
}

/// NEARCACHE_TEST_SEED and NEARCACHE_TEST_CASES ask for other cases than those of every run, and for so many.
fn change_at_random(config: &Config, cases: u32) {
    let asked = |what: &str| std::env::var(format!("NEARCACHE_TEST_{what}")).ok()?.parse().ok();
    let seed: u64 = asked("SEED").unwrap_or(7);
    let (image, run) = grown_as(config, seed);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(
        Proptest {
            cases: asked("CASES").map_or(cases, |cases| cases as u32),
            failure_persistence: None,
            ..Proptest::default()
        },
        TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
    );
    let strategy = (prop::collection::vec(change(), 1..6), 0..3u8);
    runner
        .run(&strategy, |(changes, recovery)| {
            let bad = image.killed();
            changes.iter().for_each(|(which, change)| apply(&bad, *which, change));
            let recovery = [Recovery::Strict, Recovery::TolerateTornTail, Recovery::Salvage][usize::from(recovery)];
            let config = Config {
                recovery,
                ..config.clone()
            };
            let Ok((store, leftovers)) = try_open(config, &bad) else {
                return Ok(());
            };
            let next = leftovers.next_sequence;
            recovery::run(&store, leftovers, run.now_us, || {});
            check_written(&store, &run);
            // And it goes on.
            let mut writer = writer(&store, next);
            let mut now_us = run.now_us;
            void(&store, "name1");
            put(&store, "name1", b"new");
            settle(&mut writer, &mut now_us);
            let is_on = !store.is_off.load(SeqCst);
            prop_assert_eq!(value(&store, "name1", now_us).is_some(), is_on);
            Ok(())
        })
        .unwrap();
}
