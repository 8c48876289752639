//! Calls that fail: in one life, whatever fails, nothing wrong is shown; and when the medium works again, so does the store.

use super::*;
use crate::cache::l3::storage::simulated::Fault;

fn run(seed: u64, size_bytes: u64, sync: Sync, fail: Option<(u64, u64, Fault)>) -> u64 {
    let medium = Simulated::default();
    let like = if seed < PACKED_FROM {
        config()
    } else {
        packed(Method::Lz4)
    };
    let config = Config {
        size_bytes,
        sync,
        ..like
    };
    let (store, next) = open(config.clone(), &medium, 1);
    if let Some((from, until, fault)) = fail {
        medium.fail(from, until, fault);
    }
    let mut run = Run::new(seed, 24);
    {
        let mut writer = writer(&store, next);
        for _ in 0..300 {
            run.step(&store, &mut writer);
        }
        let calls = medium.calls();
        medium.heal();
        // Past the longest pause between tries.
        for _ in 0..40 {
            run.now_us += 5_000_000;
            writer.turn(run.now_us);
        }
        run.check_all(&store);
        // It works again.
        void(&store, "name0");
        put(&store, "name0", b"after all");
        settle(&mut writer, &mut run.now_us);
        assert_eq!(
            value(&store, "name0", run.now_us).as_deref(),
            Some(&b"after all"[..]),
            "{fail:?}"
        );
        assert!(store.trouble.lock().is_none() || fail.is_some());
        void(&store, "name0");
        run.current.remove("name0");
        settle(&mut writer, &mut run.now_us);
        if fail.is_none() {
            assert_eq!(store.stats().counts.write_errors, 0);
            // Nothing is lost without a reason.
            for (name, &version) in &run.current {
                if size_bytes >= 1 << 20 {
                    assert_eq!(value(&store, name, run.now_us), Some(version_of(name, version)));
                }
            }
        }
        drop(writer);
        let image = medium.killed();
        let (store, _) = open(config, &image, run.now_us);
        run.check_all(&store);
        calls
    }
}

/// Runs with higher seeds are encrypted and compressed.
const PACKED_FROM: u64 = 5;

#[test]
fn any_call_may_fail_without_anything_wrong_being_shown() {
    let plain = |seed| run(seed, 1 << 20, Sync::EachSegment, None);
    for (seed, size_bytes, sync) in [
        (1, 1 << 20, Sync::EachSegment),
        (2, 20 << 10, Sync::Interval(10_000)),
        (3, 20 << 10, Sync::Never),
        (5, 1 << 20, Sync::Interval(10_000)),
    ] {
        let calls = run(seed, size_bytes, sync, None);
        assert!(calls > 30, "{calls}");
        for call in 0..calls {
            for fault in [Fault::NoSpace, Fault::InputOutput] {
                run(seed, size_bytes, sync, Some((call, call + 1, fault)));
                run(seed, size_bytes, sync, Some((call, call + 20, fault)));
                run(seed, size_bytes, sync, Some((call, u64::MAX, fault)));
            }
        }
    }
    plain(4);
    plain(6);
}

#[test]
fn a_full_disk_is_told_of_and_used_again_when_there_is_room() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    (0..50).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
    settle(&mut writer, &mut now_us);
    medium.limit(medium.bytes() + 1000);
    for i in 50..150 {
        put(&store, &format!("name{i}"), &[b'v'; 200]);
        now_us += 25_000;
        writer.turn(now_us);
    }
    let counts = store.stats().counts;
    assert!(counts.write_errors > 0 && counts.dropped_trouble > 50, "{counts:?}");
    assert!(counts.write_errors < 10, "it is not tried all the time: {counts:?}");
    assert!(store.trouble.lock().as_ref().unwrap().contains("could not be"));
    assert_eq!(store.stats().queued_bytes, 0, "nothing piles up");
    for i in 0..50 {
        assert!(
            value(&store, &format!("name{i}"), now_us).is_some(),
            "what was there stays: {i}"
        );
    }
    medium.heal();
    now_us += 31_000_000;
    (150..200).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
    settle(&mut writer, &mut now_us);
    assert!(value(&store, "name199", now_us).is_some());
    assert_eq!(*store.trouble.lock(), None);
    // The error was no damage: a restart finds all of it, as soon as nothing is owed any more.
    writer.turn(now_us);
    let entries = store.stats().entries;
    let (store, _) = open(config(), &medium.killed(), now_us);
    assert_eq!((store.stats().entries, store.stats().counts.repairs), (entries, 0));
}

#[test]
fn however_many_segments_an_error_ended_all_are_believed_at_the_next_start() {
    for config in [config(), packed(Method::Lz4)] {
        let medium = Simulated::default();
        let (store, next) = open(config.clone(), &medium, 1);
        let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
        for i in 0..40 {
            put(&store, &format!("name{i}"), &[b'v'; 200]);
            settle(&mut writer, &mut now_us);
            // Nothing can be written to that segment any more, nor its footer.
            put(&store, "name500", b"v");
            medium.fail(medium.calls(), u64::MAX, Fault::InputOutput);
            writer.turn(now_us);
            medium.heal();
            // Before footers are tried again; longer than new segments are not.
            writer.seal_late(now_us + 10_000_000);
            now_us += 1_000_000;
        }
        assert!(store.stats().counts.retired_segments >= 40);
        assert!(store.stats().segments >= 40);
        now_us += 31_000_000;
        put(&store, "name501", b"v");
        settle(&mut writer, &mut now_us);
        writer.turn(now_us);
        let (store, _) = open(config, &medium.killed(), now_us);
        for i in 0..40 {
            assert!(value(&store, &format!("name{i}"), now_us).is_some(), "{i}");
        }
        assert_eq!(store.stats().counts.repairs, 0, "{:?}", store.repairs.lock());
    }
}

/// A store whose first segment an error has ended, and what is in that is left to be sealed.
fn ended() -> (Simulated, Arc<Store>, Writer, u64) {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    put(&store, "name0", &[b'v'; 200]);
    settle(&mut writer, &mut now_us);
    put(&store, "name500", b"v");
    medium.fail(medium.calls(), u64::MAX, Fault::InputOutput);
    writer.turn(now_us);
    medium.heal();
    assert_eq!(writer.unsealed.len(), 1);
    (medium, store, writer, now_us + 31_000_000)
}

#[test]
fn who_waits_for_a_tombstone_does_not_wait_until_segments_are_read_and_sealed() {
    let (_medium, store, mut writer, now_us) = ended();
    let segment = Arc::clone(&store.segments.all()[0]);
    void(&store, "name0");
    writer.write_owed(now_us);
    assert!(store.debts.of(hash(store.seed, b"name0")).is_nothing());
    assert!(!segment.is_sealed.load(Relaxed));
    writer.turn(now_us);
    assert!(segment.is_sealed.load(Relaxed));
}

#[test]
fn a_segment_that_is_given_back_is_not_kept_open_to_be_sealed() {
    let (_medium, store, mut writer, mut now_us) = ended();
    writer.seal_late(u64::MAX);
    void(&store, "name0");
    settle(&mut writer, &mut now_us);
    writer.turn(now_us + 30_000);
    assert!(store.segments.all().iter().all(|segment| segment.header.sequence > 1));
    assert!(writer.unsealed.is_empty());
}

#[test]
fn a_segment_that_cannot_be_read_is_retired() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    (0..50).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
    settle(&mut writer, &mut now_us);
    medium.fail(0, u64::MAX, Fault::InputOutput);
    for _ in 0..20 {
        assert_eq!(value(&store, "name0", now_us), None);
    }
    medium.heal();
    now_us += 30_000;
    writer.turn(now_us);
    let stats = store.stats();
    // After the eighth it is not asked any more.
    assert_eq!((stats.counts.read_errors, stats.counts.retired_segments), (8, 1));
    assert_eq!(value(&store, "name0", now_us), None);
    assert!(value(&store, "name49", now_us).is_some(), "the others stay");
}

#[test]
fn on_a_disk_that_has_room_for_the_store_and_no_more_it_goes_on() {
    let medium = Simulated::default();
    let config = Config {
        size_bytes: 20 << 10,
        ..config()
    };
    let (store, next) = open(config, &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    for i in 0..200 {
        put(&store, &format!("name{i}"), &[b'v'; 200]);
        now_us += 25_000;
        writer.turn(now_us);
    }
    // Between two segments there is nothing left for the next one's header.
    writer.close();
    medium.limit(medium.bytes());
    put(&store, "name500", b"v");
    writer.turn(now_us);
    assert!(value(&store, "name500", now_us).is_some(), "{:?}", store.trouble.lock());
    assert_eq!(store.stats().counts.write_errors, 0);
}

#[test]
fn what_is_voided_while_its_segment_cannot_be_removed_or_read_does_not_come_back() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    (0..50).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
    settle(&mut writer, &mut now_us);
    medium.fail(0, u64::MAX, Fault::InputOutput);
    for _ in 0..20 {
        assert_eq!(value(&store, "name0", now_us), None);
    }
    // Given up, and cannot be removed.
    now_us += 31_000_000;
    writer.turn(now_us);
    assert_eq!(store.stats().counts.retired_segments, 1);
    void(&store, "name1");
    medium.heal();
    let round = store.debts.of(hash(store.seed, b"name1"));
    while !store.debts.is_paid(round) {
        now_us += 1_000_000;
        writer.turn(now_us);
    }
    let (store, _) = open(config(), &medium.killed(), now_us);
    assert_eq!(value(&store, "name1", now_us), None);
}
