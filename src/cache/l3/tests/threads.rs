//! The store with its threads, on a real directory.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::*;
use crate::cache::l3::storage::{Disk, Storage};
use crate::clock;

fn disk_config() -> Config {
    Config {
        size_bytes: 64 << 20,
        segment_bytes: 1 << 20,
        max_value_bytes: 100_000,
        readers: 2,
        ..config()
    }
}

fn open_disk(config: Config, path: &std::path::Path) -> Result<L3, OpenError> {
    L3::open(config, Box::new(Disk::new(path).unwrap()))
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn look(l3: &L3, name: &str) -> Option<Found> {
    let (tell, told) = mpsc::channel();
    let query = Query {
        hash: hash(l3.seed(), name.as_bytes()),
        db: 0,
        name: name.as_bytes(),
        variant: b"",
    };
    match l3.lookup(
        &query,
        clock::now_us(),
        |_, _| true,
        move |found| tell.send(found).unwrap(),
    ) {
        true => told.recv_timeout(Duration::from_secs(20)).unwrap(),
        false => None,
    }
}

#[test]
fn it_serves_and_survives_on_a_real_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/for/it");
    {
        let l3 = open_disk(disk_config(), &path).unwrap();
        for i in 0..2000 {
            put(&l3.store, &format!("name{i}"), &version_of("v", i));
        }
        wait_for("all are written", || l3.stats().entries == 2000);
        for i in 0..2000 {
            assert_eq!(look(&l3, &format!("name{i}")).unwrap().value, version_of("v", i));
        }
        assert!(look(&l3, "name2000").is_none());
        let refused = open_disk(disk_config(), &path).err().unwrap();
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        (0..1000).for_each(|i| void(&l3.store, &format!("name{i}")));
        wait_for("tombstones are written", || l3.stats().counts.tombstones == 1000);
    }
    let l3 = open_disk(disk_config(), &path).unwrap();
    wait_for("recovery ends", || !l3.store.is_recovering.load(SeqCst));
    assert_eq!(l3.stats().entries, 1000);
    for i in 0..2000 {
        let found = look(&l3, &format!("name{i}"));
        assert_eq!(
            found.map(|found| found.origin),
            (i >= 1000).then_some(Origin::EarlierLife)
        );
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(format::file_name(1))), 0o600);
}

/// Answers of lookups that were there when each of them returned.
fn answered_at_once(l3: &L3, names: usize) -> usize {
    let (tell, told) = mpsc::channel();
    let mut at_once = 0;
    for i in 0..names {
        let (name, tell) = (format!("name{i}"), tell.clone());
        let query = Query {
            hash: hash(l3.seed(), name.as_bytes()),
            db: 0,
            name: name.as_bytes(),
            variant: b"",
        };
        assert!(l3.lookup(&query, 1, |_, _| true, move |found| tell.send(found).unwrap()));
        let found = match told.try_recv() {
            Ok(found) => {
                at_once += 1;
                found
            }
            Err(_) => told.recv_timeout(Duration::from_secs(20)).unwrap(),
        };
        assert_eq!(&found.unwrap().value[..], &version_of("v", i as u64)[..]);
    }
    at_once
}

#[test]
fn what_the_system_has_in_memory_is_answered_before_the_lookup_returns() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    (0..100).for_each(|i| put(&l3.store, &format!("name{i}"), &version_of("v", i)));
    wait_for("all are written", || l3.stats().entries == 100);
    let counted = || l3.stats().counts.reads_at_once as usize;
    // It has nothing there; and another thread may be as fast.
    answered_at_once(&l3, 100);
    assert_eq!(counted(), 0);
    medium.remember();
    let at_once = answered_at_once(&l3, 100);
    assert_eq!(counted(), 50);
    assert!((50..=100).contains(&at_once), "{at_once}");
    // It hangs: whoever asks is not kept.
    let held = medium.hold();
    let query = Query {
        hash: hash(l3.seed(), b"name1"),
        db: 0,
        name: b"name1",
        variant: b"",
    };
    let (tell, told) = mpsc::channel();
    assert!(l3.lookup(&query, 1, |_, _| true, move |found| tell.send(found).unwrap()));
    assert!(told.try_recv().is_err());
    drop(held);
    assert!(told.recv_timeout(Duration::from_secs(20)).unwrap().is_some());
    assert_eq!(counted(), 50);
}

#[test]
fn a_real_file_system_is_asked_what_it_has_in_memory_as_long_as_it_can_tell() {
    let dir = tempfile::tempdir().unwrap();
    let l3 = open_disk(disk_config(), dir.path()).unwrap();
    (0..100).for_each(|i| put(&l3.store, &format!("name{i}"), &version_of("v", i)));
    wait_for("all are written", || l3.stats().entries == 100);
    let disk = Disk::existing(dir.path()).unwrap();
    let file = disk.open(&format::file_name(1)).unwrap();
    let can_tell = file.read_at_once(&mut [0; 8], 0).map_err(|error| error.kind()) != Err(io::ErrorKind::Unsupported);
    let at_once = answered_at_once(&l3, 100);
    // What was just written is there, unless the machine is short of memory.
    assert!(!can_tell || at_once >= 10, "{at_once}");
    assert_eq!(l3.store.has_memory.load(Relaxed), can_tell);
}

#[test]
fn what_is_too_long_to_be_read_by_a_worker_is_read_by_another_thread() {
    let medium = Simulated::default();
    let config = Config {
        max_value_bytes: 100_000,
        segment_bytes: 1 << 20,
        size_bytes: 8 << 20,
        ..packed(Method::Zstd(1))
    };
    let l3 = L3::open(config, Box::new(medium.clone())).unwrap();
    medium.remember();
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..50_000).map(|_| random.u8(..)).collect();
    // Long as it is stored, and long when it is unpacked.
    put(&l3.store, "noise", &noise);
    put(&l3.store, "zeros", &vec![0; 50_000]);
    wait_for("both are written", || l3.stats().entries == 2);
    for _ in 0..4 {
        assert_eq!(&look(&l3, "noise").unwrap().value[..], &noise[..]);
        assert_eq!(&look(&l3, "zeros").unwrap().value[..], &vec![0; 50_000][..]);
    }
    assert_eq!(l3.stats().counts.reads_at_once, 0);
}

#[test]
fn readers_of_one_record_share_a_read() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    // While the medium stands still all of them come.
    let held = medium.hold();
    let (tell, told) = mpsc::channel();
    for _ in 0..50 {
        let tell = tell.clone();
        let query = Query {
            hash: hash(l3.seed(), b"a"),
            db: 0,
            name: b"a",
            variant: b"",
        };
        assert!(l3.lookup(
            &query,
            1,
            |_, _| true,
            move |found| tell.send(found.unwrap().value).unwrap()
        ));
    }
    drop(held);
    for _ in 0..50 {
        assert_eq!(&told.recv_timeout(Duration::from_secs(20)).unwrap()[..], b"the value");
    }
    let counts = l3.stats().counts;
    assert!(counts.reads_joined >= 49, "{counts:?}");
    assert_eq!(counts.hits, 50);
}

#[test]
fn a_medium_that_hangs_is_not_waited_for_by_whoever_comes() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    let _held = medium.hold();
    let query = Query {
        hash: hash(l3.seed(), b"a"),
        db: 0,
        name: b"a",
        variant: b"",
    };
    let asked = (0..100_000).take_while(|_| l3.lookup(&query, 1, |_, _| true, |_| ()));
    assert_eq!(asked.count(), 1 + (16 << 10));
    assert!(l3.stats().counts.reads_shed > 0);
}

#[test]
fn keys_are_not_waited_for_while_the_medium_hangs() {
    let medium = Simulated::default();
    let l3 = L3::open(packed(Method::Lz4), Box::new(medium.clone())).unwrap();
    wait_for("it is read", || l3.state() == State::Working);
    let held = medium.hold();
    put(&l3.store, "a", b"the value");
    wait_for("a segment is being made", || l3.store.keys.is_locked());
    let other = std::thread::scope(|scope| {
        let other = scope.spawn(|| l3.set_keys(ring(&[1, 2])));
        l3.key_segments();
        other.join().unwrap()
    });
    assert!(matches!(other, Err(KeysRefused::Busy)), "{other:?}");
    drop(held);
    wait_for("it is written", || l3.stats().entries == 1);
    l3.set_keys(ring(&[1, 2])).unwrap();
}

#[test]
fn a_void_while_a_record_is_read_is_seen_by_its_mark() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    let held = medium.hold();
    let (tell, told) = mpsc::channel();
    let hash = hash(l3.seed(), b"a");
    let query = Query {
        hash,
        db: 0,
        name: b"a",
        variant: b"",
    };
    assert!(l3.lookup(&query, 1, |_, _| true, move |found| tell.send(found).unwrap()));
    l3.void(hash);
    drop(held);
    let found = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(found.is_none_or(|found| found.mark != l3.mark(hash as u32)));
}

#[test]
fn too_many_reads_are_shed_and_all_that_were_taken_are_answered() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    (0..300).for_each(|i| put(&l3.store, &format!("name{i}"), &[b'v'; 100]));
    wait_for("all are written", || l3.stats().entries == 300);
    let held = medium.hold();
    let (tell, told) = mpsc::channel();
    let mut taken = 0;
    for i in 0..300 {
        let (tell, name) = (tell.clone(), format!("name{i}"));
        let query = Query {
            hash: hash(l3.seed(), name.as_bytes()),
            db: 0,
            name: name.as_bytes(),
            variant: b"",
        };
        taken += usize::from(l3.lookup(&query, 1, |_, _| true, move |found| tell.send(found.is_some()).unwrap()));
    }
    assert!((64..=66).contains(&taken), "{taken}");
    assert_eq!(l3.stats().counts.reads_shed, 300 - taken as u64);
    drop(held);
    for _ in 0..taken {
        assert!(told.recv_timeout(Duration::from_secs(20)).unwrap());
    }
}

#[test]
fn threads_that_spill_void_and_read_never_see_what_was_voided() {
    let medium = Simulated::default();
    let l3 = L3::open(
        Config {
            size_bytes: 100 << 10,
            sync: Sync::Never,
            ..config()
        },
        Box::new(medium),
    )
    .unwrap();
    // Each name belongs to one thread, which knows what counts.
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let l3 = &l3;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread);
                let mut current: BTreeMap<String, u64> = BTreeMap::new();
                let mut hits = 0;
                for version in 1..6000u64 {
                    if version % 40 == 0 {
                        wait_for("the writer writes", || l3.store.queue.is_idle());
                    }
                    let name = format!("name{thread}.{}", random.u64(..50));
                    match random.u8(..4) {
                        0 => {
                            void(&l3.store, &name);
                            put(&l3.store, &name, &version_of(&name, version));
                            current.insert(name, version);
                        }
                        1 => {
                            void(&l3.store, &name);
                            current.remove(&name);
                        }
                        _ => {
                            if let Some(found) = look(l3, &name) {
                                let version = *current.get(&name).expect("it was voided");
                                assert_eq!(found.value, version_of(&name, version));
                                hits += 1;
                            }
                        }
                    }
                }
                assert!(hits > 100, "{hits}");
            });
        }
    });
    let counts = l3.stats().counts;
    assert!(
        counts.reclaimed_segments > 0 && counts.corrupt_records == 0,
        "{counts:?}"
    );
}

#[test]
fn a_directory_that_vanishes_or_cannot_be_written_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("l3");
    let l3 = open_disk(
        Config {
            segment_bytes: 8192,
            max_value_bytes: 1000,
            ..disk_config()
        },
        &path,
    )
    .unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    std::fs::remove_dir_all(&path).unwrap();
    // What is open can still be read.
    assert!(look(&l3, "a").is_some());
    for i in 0..200 {
        put(&l3.store, &format!("name{i}"), &[b'v'; 200]);
    }
    wait_for("it is told of", || l3.trouble().is_some());
    assert!(Disk::existing(&path).is_err());
    Disk::new(&path).unwrap();
    wait_for("it works again", || {
        put(&l3.store, "again", b"the value");
        look(&l3, "again").is_some()
    });
}

#[test]
fn who_only_looks_at_files_leaves_them_as_they_are() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let look = || {
        let disk = Disk::existing(dir.path()).unwrap();
        check::check(&disk, &KeyRing::default(), 0, check::Export::Nothing, &mut Vec::new())
    };
    let l3 = open_disk(disk_config(), dir.path()).unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    assert!(look().unwrap_err().contains("in use"));
    drop(l3);
    let segment = dir.path().join(format::file_name(1));
    std::fs::set_permissions(&segment, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    let report = look().unwrap();
    assert_eq!((report.alive, report.is_sound()), (1, true));
    assert_eq!(segment.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    // It would be of whoever has looked.
    assert!(!dir.path().join("lock").exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert!(Disk::new(&file.join("l3")).is_err());
    let disk = Disk::new(dir.path()).unwrap();
    assert!(disk.list().unwrap().contains(&"file".to_owned()));
    let found = open_disk(disk_config(), dir.path()).map(|l3| l3.stats().entries);
    assert_eq!(found.unwrap(), 0, "other files are left alone");
}

#[test]
fn who_waits_for_a_tombstone_is_told_soon() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    let (tell, told) = mpsc::channel();
    let mut waits = Vec::new();
    for _ in 0..50 {
        void(&l3.store, "a");
        let begun = Instant::now();
        let owed = l3.owed(hash(l3.seed(), b"a"));
        let (tell, medium) = (tell.clone(), medium.clone());
        l3.when_paid(owed, move || tell.send(medium.segments().len()).unwrap());
        assert!(told.recv_timeout(Duration::from_secs(20)).unwrap() > 0);
        waits.push(begun.elapsed());
        assert!(l3.is_paid(owed));
        put(&l3.store, "a", b"the value");
        // By then the writer rests again, for as long as nobody wakes it.
        wait_for("it is written", || l3.stats().entries == 1);
    }
    waits.sort_unstable();
    // Nearly all would take nearly as long as it rests; on a busy machine some take as long anyway.
    assert!(waits[10] < writer::PAUSE / 4, "{waits:?}");
}

#[test]
fn files_that_others_can_read_are_closed_to_them() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    {
        let l3 = open_disk(disk_config(), dir.path()).unwrap();
        put(&l3.store, "a", b"the value");
        wait_for("it is written", || l3.stats().entries == 1);
        l3.close();
    }
    let file = dir.path().join(format::file_name(1));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).unwrap();
    let l3 = open_disk(disk_config(), dir.path()).unwrap();
    wait_for("recovery ends", || !l3.store.is_recovering.load(SeqCst));
    assert_eq!(look(&l3, "a").unwrap().value, b"the value"[..]);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_medium_that_hangs_holds_nobody_up_for_long_and_the_end_of_the_process_neither() {
    let medium = Simulated::default();
    let l3 = L3::open(config(), Box::new(medium.clone())).unwrap();
    put(&l3.store, "a", b"the value");
    wait_for("it is written", || l3.stats().entries == 1);
    let held = medium.hold();
    void(&l3.store, "a");
    let owed = l3.owed(hash(l3.seed(), b"a"));
    let (tell, told) = mpsc::channel();
    l3.when_paid(owed, move || tell.send(()).unwrap());
    for waited_ms in [1, 499, 500, 999] {
        l3.is_slow(Duration::from_millis(waited_ms));
        assert!(!l3.is_paid(owed), "after {waited_ms} ms");
    }
    l3.is_slow(Duration::from_secs(1));
    assert!(l3.is_paid(owed) && told.recv_timeout(Duration::from_secs(20)).is_ok());
    let begun = Instant::now();
    l3.close();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    drop(held);
    wait_for("the next process finds nothing of it", || {
        let (next, _) = open(config(), &medium.killed(), 1_000_000);
        value(&next, "a", 1_000_000).is_none()
    });
}
