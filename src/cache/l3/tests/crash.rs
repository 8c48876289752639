//! A crash before every call of a long run. What is found afterwards must be what some prefix of the log says that holds at
//! least all that was durable.

use super::*;
use crate::cache::l3::format::{HEADER_BYTES, Header, Kind, Record};

/// A record: where it is, whose it is, and its value if it is an entry.
#[derive(Clone, PartialEq, Debug)]
struct Logged {
    place: (String, usize),
    hash: u64,
    value: Option<Vec<u8>>,
    is_of_all: bool,
}

fn log(medium: &Simulated, keys: &KeyRing) -> Vec<Logged> {
    let mut records = Vec::new();
    for name in medium.segments() {
        let mut bytes = medium.content(&name);
        let Ok((_, envelope)) = Header::decode(&bytes, keys) else {
            continue;
        };
        let mut at = HEADER_BYTES;
        while let Some(rest) = bytes.get_mut(at..)
            && let Ok(record) = Record::decode(rest, &envelope, at as u64)
        {
            records.push(Logged {
                place: (name.clone(), at),
                hash: record.hash,
                value: (record.kind == Kind::Entry).then(|| codec::decompress(record.codec, record.value).unwrap()),
                is_of_all: record.kind == Kind::TombstoneOfAll,
            });
            at += format::padded(envelope.length(&record));
        }
    }
    records
}

type Replayed = BTreeMap<u64, Vec<u8>>;

fn replay(log: &[Logged]) -> Replayed {
    let mut now = Replayed::new();
    for record in log {
        match &record.value {
            Some(value) => drop(now.insert(record.hash, value.clone())),
            None if record.is_of_all => now.clear(),
            None => drop(now.remove(&record.hash)),
        }
    }
    now
}

fn check_crash(seed: u64, call: Option<u64>, config: &Config, recovery: Recovery) -> u64 {
    let medium = Simulated::default();
    let (store, next) = open(config.clone(), &medium, 1);
    let mut run = Run::new(seed, 24);
    let mut writer = writer(&store, next);
    if let Some(call) = call {
        medium.crash_before(call, seed ^ call);
    }
    for _ in 0..400 {
        run.step(&store, &mut writer);
        if medium.image().is_some() {
            break;
        }
    }
    let Some(call) = call else { return medium.calls() };
    let Some(crashed) = medium.image() else {
        panic!("there is no call {call}");
    };
    let (live, durable) = (medium.live_at_crash().unwrap(), medium.durable_at_crash().unwrap());
    let (live, durable) = (log(&live, &config.keys), log(&durable, &config.keys));
    let is_reclaiming = config.size_bytes < 1 << 20;
    // What was written before something that is durable is durable, or was freed.
    let least = match durable.last() {
        Some(last) => live.iter().position(|record| record == last).unwrap() + 1,
        None => 0,
    };
    let (store, _) = open(
        Config {
            recovery,
            ..config.clone()
        },
        &crashed,
        run.now_us,
    );
    let allowed: Vec<Replayed> = match is_reclaiming {
        false => (least..=live.len()).map(|end| replay(&live[..end])).collect(),
        // Which files were there is not known: every value that is the newest of its name at some point since.
        true => (0..=live.len()).map(|end| replay(&live[..end])).collect(),
    };
    let mut all = Replayed::new();
    for name in 0..run.names {
        let name = format!("name{name}");
        let hash = hash(store.seed, name.as_bytes());
        let Some(found) = find(&store, &name, run.now_us) else {
            continue;
        };
        assert_eq!(found.origin, Origin::EarlierLife);
        let found = found.value.to_vec();
        assert!(
            allowed.iter().any(|replayed| replayed.get(&hash) == Some(&found)),
            "crash before call {call}: {name} has a value that it should not have"
        );
        all.insert(hash, found);
    }
    if !is_reclaiming {
        // One prefix explains everything. What of it is missing was not durable: the footer of a segment can arrive on the
        // medium before its records do.
        let is_durable = |name: u64, value: &Vec<u8>| {
            durable
                .iter()
                .any(|record| record.hash == name && record.value.as_ref() == Some(value))
        };
        let explains = |replayed: &Replayed| {
            let is_right = all.iter().all(|(hash, value)| replayed.get(hash) == Some(value));
            let is_complete = |(hash, value): (&u64, &Vec<u8>)| all.contains_key(hash) || !is_durable(*hash, value);
            is_right && replayed.iter().all(is_complete)
        };
        assert!(
            allowed.iter().any(explains),
            "crash before call {call}: {:?} is no prefix of at least {least} of {} records",
            store.repairs.lock(),
            live.len()
        );
    }
    call
}

#[test]
fn after_a_crash_at_any_call_the_store_is_a_prefix_of_the_log_with_all_that_was_durable() {
    for (seed, sync, config) in [
        (1, Sync::EachSegment, config()),
        (2, Sync::Interval(20_000), config()),
        (3, Sync::EachSegment, packed(Method::Zstd(1))),
        (4, Sync::Interval(20_000), packed(Method::Lz4)),
    ] {
        let config = Config { sync, ..config };
        let calls = check_crash(seed, None, &config, Recovery::TolerateTornTail);
        assert!(calls > 40, "{calls}");
        for call in 4..calls {
            check_crash(seed, Some(call), &config, Recovery::TolerateTornTail);
        }
    }
}

#[test]
fn after_a_crash_without_syncs_nothing_is_shown_that_was_never_true() {
    for seed in 10..14 {
        let like = if seed < 12 { config() } else { packed(Method::Lz4) };
        let config = Config {
            sync: Sync::Never,
            size_bytes: if seed < 12 { 24 << 10 } else { 16 << 10 },
            ..like
        };
        let calls = check_crash(seed, None, &config, Recovery::TolerateTornTail);
        for call in 4..calls {
            check_crash(seed, Some(call), &config, Recovery::TolerateTornTail);
            check_crash(seed, Some(call), &config, Recovery::Salvage);
        }
    }
}

#[test]
fn after_the_death_of_the_process_nothing_that_was_written_is_lost() {
    for seed in 20..24 {
        let medium = Simulated::default();
        let like = if seed < 22 { config() } else { packed(Method::Zstd(3)) };
        let config = Config {
            sync: Sync::Never,
            ..like
        };
        let mut run = Run::new(seed, 24);
        let mut media = vec![medium.clone()];
        for life in 0..6 {
            let medium = media.last().unwrap().clone();
            let (store, next) = open(config.clone(), &medium, run.now_us);
            run.check_all(&store);
            assert_eq!(store.stats().counts.repairs, 0, "life {life}");
            let mut writer = writer(&store, next);
            for _ in 0..200 {
                run.step(&store, &mut writer);
            }
            settle(&mut writer, &mut run.now_us);
            for (name, &version) in &run.current {
                assert_eq!(
                    value(&store, name, run.now_us),
                    Some(version_of(name, version)),
                    "life {life}: {name}"
                );
            }
            media.push(medium.killed());
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_recovers_leaves_what_it_found() {
    for is_salvage in [false, true] {
        let medium = Simulated::default();
        let config = Config {
            recovery: if is_salvage {
                Recovery::Salvage
            } else {
                Recovery::TolerateTornTail
            },
            ..config()
        };
        let mut now_us = 1_000_000;
        {
            let (store, next) = open(config.clone(), &medium, now_us);
            let mut writer = writer(&store, next);
            (0..50).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
            settle(&mut writer, &mut now_us);
        }
        // The last segment was never sealed; a tombstone is due while it is read.
        let mut killed = vec![medium.killed()];
        for _ in 0..3 {
            let medium = killed.pop().unwrap();
            let (store, leftovers) = try_open(config.clone(), &medium).unwrap();
            let mut writer = writer(&store, leftovers.next_sequence);
            void(&store, "name1");
            recovery::run(&store, leftovers, now_us, || {
                writer.write_owed(now_us);
                killed.push(medium.killed());
            });
        }
        // One that had not yet written its first header.
        for last in [None, Some(Vec::new())] {
            let medium = killed.last().unwrap().killed();
            if let Some(bytes) = last {
                // Those before it are sealed by then.
                drop(open(config.clone(), &medium, now_us));
                medium.put(&format::file_name(99), bytes);
            }
            let (store, leftovers) = try_open(config.clone(), &medium).unwrap();
            let mut writer = writer(&store, leftovers.next_sequence);
            let mut image = None;
            void(&store, "name1");
            recovery::run(&store, leftovers, now_us, || {
                writer.write_owed(now_us);
                image = Some(medium.killed());
            });
            let (store, _) = open(config.clone(), &image.unwrap(), now_us);
            let found = (0..50).filter(|i| value(&store, &format!("name{i}"), now_us).is_some());
            assert_eq!(found.count(), 49, "{:?}", store.repairs.lock());
        }
    }
}
