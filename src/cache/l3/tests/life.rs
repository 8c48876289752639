use super::*;

#[test]
fn what_was_spilled_is_found_with_all_that_was_said_of_it() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let mut writer = writer(&store, next);
    let mut now_us = 10_000_000;
    let mut spill = entry(&store, "a", b"the value");
    (spill.db, spill.key_end, spill.deadline_us) = (3, KeyEnd::WithRecord, Some(60_000_000));
    spill.filled_us = 4_000_000;
    store.spill(spill);
    settle(&mut writer, &mut now_us);
    let query = |db, variant| Query {
        hash: hash(store.seed, b"a"),
        db,
        name: b"a",
        variant,
    };
    let found = store.read(&query(3, b""), 10_000_000).unwrap();
    assert_eq!(&found.value[..], b"the value");
    assert_eq!(
        (found.is_absent, found.is_plain, found.key_end),
        (false, true, KeyEnd::WithRecord)
    );
    assert_eq!((found.age_us, found.expires_us), (6_000_000, Some(60_000_000)));
    assert_eq!(found.origin, origin());
    assert_eq!(found.mark, store.marks.of(hash(store.seed, b"a") as u32));
    assert!(store.read(&query(2, b""), 10_000_000).is_none(), "another database");
    assert!(store.read(&query(3, b"x"), 10_000_000).is_none(), "another variant");
    assert!(store.read(&query(3, b""), 59_999_999).is_some());
    assert!(store.read(&query(3, b""), 60_000_000).is_none(), "expired");
    assert_eq!(store.stats().entries, 0, "what expired is gone");
}

#[test]
fn a_restart_finds_it_again_and_says_that_it_is_of_an_earlier_life() {
    let medium = Simulated::default();
    let mut now_us = 10_000_000;
    {
        let (store, next) = open(config(), &medium, 1);
        let mut writer = writer(&store, next);
        for i in 0..100 {
            let name = format!("name{i}");
            put(&store, &name, &version_of(&name, i));
        }
        settle(&mut writer, &mut now_us);
        for i in 0..100 {
            if i % 3 == 0 {
                void(&store, &format!("name{i}"));
            }
        }
        settle(&mut writer, &mut now_us);
        writer.close();
    }
    // A second restart reads the same, and one after a kill too.
    for _ in 0..2 {
        let (store, next) = open(config(), &medium, now_us);
        let mut writer = writer(&store, next);
        for i in 0..100 {
            let name = format!("name{i}");
            let found = find(&store, &name, now_us);
            assert_eq!(found.is_some(), i % 3 != 0, "{name}");
            if let Some(found) = found {
                assert_eq!(found.value, version_of(&name, i));
                assert_eq!(found.origin, Origin::EarlierLife);
            }
        }
        assert_eq!(store.stats().counts.repairs, 0);
        put(&store, "other", b"x");
        settle(&mut writer, &mut now_us);
    }
}

#[test]
fn what_was_voided_in_this_life_does_not_come_back_in_the_next() {
    let medium = Simulated::default();
    let mut now_us = 10_000_000;
    {
        let (store, next) = open(config(), &medium, 1);
        let mut writer = writer(&store, next);
        for name in ["a", "b", "c"] {
            put(&store, name, name.as_bytes());
        }
        settle(&mut writer, &mut now_us);
        writer.close();
    }
    {
        // The second life voids what it has never read.
        let (store, next) = open(config(), &medium, now_us);
        let mut writer = writer(&store, next);
        void(&store, "a");
        settle(&mut writer, &mut now_us);
    }
    let medium = medium.killed();
    let (store, next) = open(config(), &medium, now_us);
    assert_eq!(
        [value(&store, "a", now_us), value(&store, "b", now_us)],
        [None, Some(b"b".to_vec())]
    );
    let mut writer = writer(&store, next);
    store.void_all();
    settle(&mut writer, &mut now_us);
    now_us += 100_000;
    writer.turn(now_us);
    assert_eq!(
        store.segments.all().len(),
        1,
        "nothing is alive but in the active one: {:?}",
        medium.segments()
    );
    let (store, _) = open(config(), &medium.killed(), now_us);
    assert_eq!([value(&store, "b", now_us), value(&store, "c", now_us)], [None, None]);
}

#[test]
fn voids_while_the_store_recovers_count() {
    let medium = Simulated::default();
    let mut now_us = 10_000_000;
    {
        let (store, next) = open(config(), &medium, 1);
        let mut writer = writer(&store, next);
        for name in ["a", "b", "c"] {
            put(&store, name, name.as_bytes());
        }
        settle(&mut writer, &mut now_us);
        writer.close();
    }
    let image = medium.killed();
    let (store, leftovers) = try_open(config(), &image).unwrap();
    let next = leftovers.next_sequence;
    assert!(store.is_recovering.load(SeqCst));
    void(&store, "a");
    assert_eq!(value(&store, "b", now_us), None, "not read yet");
    recovery::run(&store, leftovers, now_us, || {});
    assert_eq!(
        [value(&store, "a", now_us), value(&store, "b", now_us)],
        [None, Some(b"b".to_vec())]
    );
    let mut writer = writer(&store, next);
    settle(&mut writer, &mut now_us);
    let (store, _) = open(config(), &image.killed(), now_us);
    assert_eq!(
        [value(&store, "a", now_us), value(&store, "b", now_us)],
        [None, Some(b"b".to_vec())]
    );

    let image = medium.killed();
    let (store, leftovers) = try_open(config(), &image).unwrap();
    store.void_all();
    recovery::run(&store, leftovers, now_us, || {});
    assert_eq!(store.stats().entries, 0);
}

#[test]
fn tombstones_do_not_wait_until_all_segments_were_looked_at() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    for i in 0..400 {
        put(&store, &format!("name{i}"), &[b'v'; 300]);
        settle(&mut writer, &mut now_us);
    }
    let medium = medium.killed();
    assert!(medium.segments().len() > 30);
    let (store, leftovers) = try_open(config(), &medium).unwrap();
    let (mut last, mut most) = (medium.calls(), 0);
    recovery::run(&store, leftovers, now_us, || {
        let calls = medium.calls();
        most = most.max(calls - last);
        last = calls;
    });
    assert_eq!(store.stats().entries, 400);
    assert!(
        most <= 16,
        "{most} calls of the medium, during which nobody looks what is due"
    );
}

#[test]
fn a_spill_that_a_void_overtook_is_not_published_in_this_life_or_the_next() {
    for is_all in [false, true] {
        let medium = Simulated::default();
        let mut now_us = 10_000_000;
        let (store, next) = open(config(), &medium, 1);
        let mut writer = writer(&store, next);
        // In L1's hands: the mark is old when it is handed over.
        let late = entry(&store, "late", b"old");
        let (overtake, name) = match is_all {
            true => (Store::void_all as fn(&Store), "late"),
            false => ((|store| void(store, "late")) as fn(&Store), "late"),
        };
        overtake(&store);
        store.spill(late);
        settle(&mut writer, &mut now_us);
        assert_eq!(value(&store, name, now_us), None);
        // In the queue.
        put(&store, name, b"old");
        overtake(&store);
        settle(&mut writer, &mut now_us);
        assert_eq!(value(&store, name, now_us), None);
        // In the batch: written, not published.
        put(&store, name, b"old");
        writer.turn_interrupted(now_us, || overtake(&store));
        assert_eq!(value(&store, name, now_us), None);
        settle(&mut writer, &mut now_us);
        assert_eq!(store.stats().counts.overtaken, 3);
        writer.close();
        let (store, _) = open(config(), &medium.killed(), now_us);
        assert_eq!(value(&store, name, now_us), None, "all: {is_all}");
    }
}

#[test]
fn a_value_that_is_on_the_disk_is_not_written_again() {
    let medium = Simulated::default();
    let mut now_us = 10_000_000;
    let (store, next) = open(config(), &medium, 1);
    let mut writer = writer(&store, next);
    for _ in 0..3 {
        put(&store, "a", b"the value");
        settle(&mut writer, &mut now_us);
    }
    let counts = store.stats().counts;
    assert_eq!((counts.writes, counts.kept), (1, 2));
    // Another epoch's is another value: neither is believed.
    let mut other = entry(&store, "a", b"another value");
    other.origin = Origin::ThisLife {
        link: LinkId::from_index(1),
        epoch: 6,
    };
    store.spill(other);
    settle(&mut writer, &mut now_us);
    assert_eq!(value(&store, "a", now_us), None);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let medium = Simulated::default();
    let (store, next) = open(
        Config {
            queue_bytes: 2000,
            ..config()
        },
        &medium,
        1,
    );
    for i in 0..20 {
        put(&store, &format!("name{i}"), &[b'v'; 100]);
    }
    let stats = store.stats();
    assert!(
        stats.queued_bytes <= 2000 && stats.counts.dropped_queue_full > 0,
        "{stats:?}"
    );
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    settle(&mut writer, &mut now_us);
    let counts = store.stats().counts;
    assert_eq!(counts.writes + counts.dropped_queue_full, 20);
    assert_eq!(store.stats().queued_bytes, 0);
}

#[test]
fn the_rate_of_writes_is_bounded() {
    let medium = Simulated::default();
    let rate = 4000;
    let (store, next) = open(
        Config {
            write_bytes_a_second: Some(rate),
            ..config()
        },
        &medium,
        1,
    );
    let mut writer = writer(&store, next);
    let mut now_us = 1;
    for i in 0..1000u64 {
        put(&store, &format!("name{i}"), &[b'v'; 100]);
        now_us += 10_000;
        writer.turn(now_us);
    }
    let counts = store.stats().counts;
    assert!(
        counts.dropped_rate > 0 && counts.write_bytes > 9 * rate && counts.write_bytes <= 11 * rate,
        "{counts:?}"
    );
}

#[test]
fn only_what_was_asked_for_twice_is_written() {
    for (admission, sights) in [(Admission::SecondSight, 2), (Admission::ThirdSight, 3)] {
        let medium = Simulated::default();
        let (store, next) = open(Config { admission, ..config() }, &medium, 1);
        let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
        for sight in 1..=sights {
            assert_eq!(store.stats().counts.writes, 0);
            store.sketch.count(hash(store.seed, b"a"));
            put(&store, "a", b"value");
            settle(&mut writer, &mut now_us);
            assert_eq!(store.stats().counts.refused_admission, sight.min(sights - 1));
        }
        assert_eq!(store.stats().counts.writes, 1);
    }
}

#[test]
fn large_values_are_refused() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    put(&store, "a", &[1; 801]);
    put(&store, "b", &[1; 800]);
    // L1 has made it short.
    let mut compressor = codec::Compressor::new(Some(Compression {
        method: Method::Lz4,
        from_bytes: 1,
    }));
    let (codec, short) = compressor.compress(&[1; 801]).unwrap();
    store.spill(Spill {
        codec,
        ..entry(&store, "c", short)
    });
    settle(&mut writer, &mut now_us);
    assert_eq!(value(&store, "c", now_us), None);
    assert_eq!(
        (
            value(&store, "a", now_us).is_some(),
            value(&store, "b", now_us).is_some()
        ),
        (false, true)
    );
    assert_eq!(store.stats().counts.refused_too_large, 2);
}

#[test]
fn space_is_bounded_and_what_was_hit_stays() {
    let medium = Simulated::default();
    let config = Config {
        size_bytes: 64 << 10,
        sync: Sync::Never,
        ..config()
    };
    let (most, segment_bytes) = (config.size_bytes + config.segment_bytes, config.segment_bytes);
    let (store, next) = open(config, &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    for i in 0..4000u64 {
        put(&store, &format!("name{i}"), &[b'v'; 200]);
        if i % 20 == 0 && i > 0 {
            assert!(
                value(&store, "name3", now_us).is_some(),
                "hit again and again, lost at {i}"
            );
        }
        if i % 5 == 0 {
            settle(&mut writer, &mut now_us);
        }
        assert!(medium.bytes() <= most, "{} bytes", medium.bytes());
    }
    settle(&mut writer, &mut now_us);
    let stats = store.stats();
    assert!(
        medium.bytes() > most - 3 * segment_bytes,
        "it is used: {} bytes",
        medium.bytes()
    );
    assert_eq!(medium.bytes(), stats.file_bytes);
    assert!(stats.counts.reinserted > 0 && stats.counts.reclaimed_segments > 100);
    assert!(
        stats.counts.medium_bytes < 2 * stats.counts.write_bytes,
        "{:?}",
        stats.counts
    );
    // What the index says is what can be read.
    let found = (0..4000)
        .filter(|i| value(&store, &format!("name{i}"), now_us).is_some())
        .count();
    assert_eq!(found, stats.entries);
}

#[test]
fn write_amplification_is_bounded_when_everything_is_hit() {
    let medium = Simulated::default();
    let config = Config {
        size_bytes: 64 << 10,
        sync: Sync::Never,
        ..config()
    };
    let (store, next) = open(config, &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    for i in 0..3000u64 {
        put(&store, &format!("name{i}"), &[b'v'; 200]);
        settle(&mut writer, &mut now_us);
        assert!(value(&store, &format!("name{i}"), now_us).is_some());
    }
    let counts = store.stats().counts;
    assert!(counts.reinserted > 500, "{counts:?}");
    assert!(
        counts.write_bytes + counts.reinserted_bytes < counts.write_bytes * 22 / 10,
        "{counts:?}"
    );
}

#[test]
fn a_segment_with_nothing_alive_is_freed_at_once_but_not_its_tombstones() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let names: Vec<String> = (0..100).map(|i| format!("name{i}")).collect();
    names.iter().for_each(|name| put(&store, name, &[b'v'; 200]));
    settle(&mut writer, &mut now_us);
    let before = medium.segments().len();
    assert!(before > 5);
    // All but the first segment's: the tombstones must outlive it.
    let first = |name: &String| store.explain(hash(store.seed, name.as_bytes()))[0].segment == 1;
    let (kept, gone): (Vec<_>, Vec<_>) = names.iter().partition(|name| first(name));
    gone.iter().for_each(|name| void(&store, name));
    settle(&mut writer, &mut now_us);
    writer.turn(now_us + 30_000);
    let after = medium.segments().len();
    assert!(after < before, "{:?}", medium.segments());
    let (store, _) = open(config(), &medium.killed(), now_us);
    assert!(gone.iter().all(|name| value(&store, name, now_us).is_none()));
    assert!(kept.iter().all(|name| value(&store, name, now_us).is_some()));
}

#[test]
fn a_segment_whose_entries_have_all_expired_is_freed() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    for i in 0..100 {
        let mut spill = entry(&store, &format!("name{i}"), &[b'v'; 200]);
        spill.deadline_us = Some(10_000_000);
        store.spill(spill);
    }
    settle(&mut writer, &mut now_us);
    assert!(medium.segments().len() > 5);
    writer.turn(11_100_000);
    assert_eq!(medium.segments().len(), 1, "the active one");
    // And after a restart nothing of them is even looked at.
    let (store, _) = open(config(), &medium.killed(), 20_000_000);
    assert_eq!(store.stats().entries, 0);
}

#[test]
fn two_processes_cannot_have_one_directory() {
    let medium = Simulated::default();
    let first = open(config(), &medium, 1);
    assert!(matches!(try_open(config(), &medium), Err(OpenError::Locked(_))));
    drop(first);
    assert!(try_open(config(), &medium).is_ok());
}

#[test]
fn a_size_that_was_lowered_is_kept_after_a_restart() {
    let medium = Simulated::default();
    let mut now_us = 1_000_000;
    {
        let (store, next) = open(config(), &medium, 1);
        let mut writer = writer(&store, next);
        (0..400).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
        settle(&mut writer, &mut now_us);
        writer.close();
    }
    assert!(medium.bytes() > 64 << 10);
    let config = Config {
        size_bytes: 32 << 10,
        ..config()
    };
    let (store, next) = open(config, &medium, now_us);
    let mut writer = writer(&store, next);
    put(&store, "new", b"value");
    settle(&mut writer, &mut now_us);
    assert!(medium.bytes() <= 36 << 10, "{} bytes", medium.bytes());
    assert!(value(&store, "new", now_us).is_some());
    assert!(value(&store, "name399", now_us).is_some(), "the newest stay");
}

#[test]
fn after_a_restart_it_is_known_how_long_ago_an_entry_was_vouched_for_even_if_the_clock_was_set_back() {
    let medium = Simulated::default();
    let booted = |age_ms| Some(Boot { id: 1, age_ms });
    let mut now_us = 1_000_000;
    {
        let (store, next) = open(
            Config {
                boot: booted(0),
                ..config()
            },
            &medium,
            1,
        );
        let mut writer = writer(&store, next);
        let say = |vouched_us: Option<u64>, now_us: u64| {
            let ms = |us| store.unix_ms(us);
            store.vouched.lock().note_at(0, vouched_us.map(ms), ms(now_us));
        };
        say(None, 1000);
        let filled = |name: &str, filled_us| Spill {
            filled_us,
            deadline_us: Some(600_000_000),
            ..entry(&store, name, b"v")
        };
        store.spill(filled("early", 20_000_000));
        store.spill(filled("late", 61_000_000));
        settle(&mut writer, &mut now_us);
        say(Some(60_000_000), 62_000_000);
        writer.turn(62_000_000);
    }
    // Ten seconds later, and the clock of the machine says that it is half a minute earlier.
    for back_ms in [0, 30_000] {
        let config = Config {
            unix_offset_ms: UNIX_OFFSET_MS + 72_000 - back_ms,
            boot: booted(72_000),
            ..config()
        };
        let (store, _) = open(config, &medium.killed(), 1000);
        let age_s = |name: &str| find(&store, name, 1000).map(|found| found.unvouched_us / 1_000_000);
        assert_eq!((age_s("early"), age_s("late")), (Some(12), Some(21)), "{back_ms}");
        assert!(find(&store, "early", 527_000_000).is_some() && find(&store, "early", 529_000_000).is_none());
    }
    // The same after the machine was off for nobody knows how long.
    let rebooted = |back_ms| Config {
        unix_offset_ms: UNIX_OFFSET_MS + 72_000 - back_ms,
        boot: Some(Boot { id: 8, age_ms: 1000 }),
        ..config()
    };
    for (back_ms, is_known) in [(0, true), (30_000, false)] {
        let (store, _) = open(rebooted(back_ms), &medium.killed(), 1000);
        assert_eq!(find(&store, "early", 1000).is_some(), is_known, "{back_ms}");
    }
    // Without the file nobody knows, and what is of the future is of an unknown age.
    let config = Config {
        unix_offset_ms: UNIX_OFFSET_MS + 42_000,
        ..config()
    };
    let image = medium.killed();
    image.put("vouched", b"damaged".to_vec());
    let (store, _) = open(config, &image, 1000);
    assert!(find(&store, "late", 1000).is_none());
    assert_eq!(find(&store, "early", 1000).unwrap().unvouched_us / 1_000_000, 32);
}

#[test]
fn what_an_earlier_life_left_is_not_made_younger_by_being_written_again() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let promoted = Spill {
        filled_us: 0,
        ..entry(&store, "name1", b"v")
    };
    store.spill(promoted);
    settle(&mut writer, &mut now_us);
    assert_eq!((store.stats().entries, store.stats().counts.writes), (0, 0));
}

#[test]
fn a_removed_segment_is_closed_by_the_writer_whoever_reads_it_last() {
    let medium = Simulated::default();
    let config = Config {
        size_bytes: 32 << 10,
        ..config()
    };
    let (store, next) = open(config, &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    put(&store, "a", &[b'v'; 200]);
    settle(&mut writer, &mut now_us);
    let read = store.segments.all().remove(0);
    let watched = Arc::downgrade(&read);
    for i in 0..1000 {
        put(&store, &format!("name{i}"), &[b'v'; 200]);
        settle(&mut writer, &mut now_us);
    }
    assert!(store.stats().counts.reclaimed_segments > 0);
    assert_eq!(writer.removed.len(), 1, "the others were closed");
    drop(read);
    assert!(watched.upgrade().is_some(), "whoever reads has not closed it");
    now_us += 25_000;
    writer.turn(now_us);
    assert!(watched.upgrade().is_none());
}
