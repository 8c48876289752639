//! What a client was told is done holds after the death of the process at any moment: nothing that was voided before comes back,
//! whether or not the medium takes anything.

use super::*;
use crate::cache::l3::owed::MARKER;
use crate::cache::l3::storage::simulated::Fault;

/// Clients who write, and what they were told.
#[derive(Default)]
struct Clients {
    waiting: Vec<(String, u64, Owed)>,
    /// The newest version of each name that somebody was told is overwritten.
    told: BTreeMap<String, u64>,
    waited: u64,
}

impl Clients {
    /// A write of the name is acknowledged once that may be.
    fn write(&mut self, store: &Store, name: &str, version: u64) {
        void(store, name);
        let owed = store.debts.of(hash(store.seed, name.as_bytes()));
        self.waited += u64::from(!owed.is_nothing());
        self.waiting.push((name.to_owned(), version, owed));
        self.tell(store);
    }

    fn tell(&mut self, store: &Store) {
        let Clients { waiting, told, .. } = self;
        waiting.retain(|(name, version, owed)| {
            let is_told = store.debts.is_paid(*owed);
            if is_told {
                let newest = told.entry(name.clone()).or_default();
                *newest = (*newest).max(*version);
            }
            !is_told
        });
    }

    /// The process is killed: what is found by the next one?
    fn check_killed(&self, medium: &Simulated, run: &Run, what: &str) -> usize {
        let (store, _) = open(config(), &medium.killed(), run.now_us);
        let mut found = 0;
        for name in 0..run.names {
            let name = format!("name{name}");
            let Some(value) = value(&store, &name, run.now_us) else {
                continue;
            };
            found += 1;
            let told = self.told.get(&name).copied().unwrap_or(0);
            let is_newer = (told + 1..=run.version).any(|version| version_of(&name, version) == value);
            assert!(
                is_newer,
                "{what}: {name} is back, and version {told} was said to be over"
            );
        }
        found
    }
}

fn walk(seed: u64, size_bytes: u64) -> (u64, usize) {
    let medium = Simulated::default();
    let config = Config {
        sync: Sync::Never,
        size_bytes,
        ..config()
    };
    let (store, next) = open(config, &medium, 1);
    let mut run = Run::new(seed, 40);
    let mut clients = Clients::default();
    let mut writer = writer(&store, next);
    let mut found = 0;
    for step in 0..400 {
        run.now_us += run.random.u64(..200_000);
        clients.tell(&store);
        let name = run.name();
        match run.random.u8(..100) {
            0..35 => {
                void(&store, &name);
                run.version += 1;
                put(&store, &name, &version_of(&name, run.version));
            }
            35..60 => clients.write(&store, &name, run.version),
            60..75 => drop(writer.turn(run.now_us)),
            75..85 => {
                // What is in the writer's hands is voided, too.
                let now_us = run.now_us;
                let names: Vec<String> = (0..6).map(|_| run.name()).collect();
                writer.turn_interrupted(now_us, || {
                    names.iter().for_each(|name| clients.write(&store, name, run.version));
                });
                clients.tell(&store);
                found += clients.check_killed(&medium, &run, "amidst a write");
            }
            85..88 => medium.limit(medium.bytes() + run.random.u64(..3000)),
            88..92 => medium.heal(),
            92..93 => store.void_all(),
            _ => found += clients.check_killed(&medium, &run, &format!("seed {seed}, step {step}")),
        }
    }
    // Its end, whatever the disk takes.
    while writer.turn(run.now_us) {}
    writer.close();
    clients
        .waiting
        .iter_mut()
        .for_each(|(_, _, owed)| *owed = Owed::NOTHING);
    clients.tell(&store);
    found += clients.check_killed(&medium, &run, &format!("seed {seed}, at the end"));
    (clients.waited, found)
}

#[test]
fn what_was_acknowledged_to_be_over_does_not_come_back_when_the_process_is_killed() {
    let (mut waited, mut found) = (0, 0);
    for seed in 0..150 {
        let size_bytes = if seed % 2 == 0 { 1 << 20 } else { 24 << 10 };
        let (w, f) = walk(seed, size_bytes);
        waited += w;
        found += f;
    }
    assert!(waited > 2000 && found > 5000, "{waited} waited, {found} were found");
}

#[test]
fn who_overwrites_what_is_not_on_the_disk_does_not_wait() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let mut clients = Clients::default();
    put(&store, "name1", b"v");
    settle(&mut writer, &mut now_us);
    for name in ["name2", "name1", "name1", "name3"] {
        clients.write(&store, name, 0);
    }
    // The second write of the name finds nothing any more, and what the first has voided is still there.
    assert_eq!((clients.waited, clients.waiting.len()), (2, 2));
    settle(&mut writer, &mut now_us);
    clients.tell(&store);
    assert_eq!(clients.waiting.len(), 0);
    clients.write(&store, "name1", 0);
    assert_eq!(clients.waited, 2);
}

#[test]
fn without_its_marker_nothing_of_an_earlier_life_is_believed_and_it_comes_back_with_the_medium() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let mut clients = Clients::default();
    let has_marker = || medium.names().contains(&MARKER.to_owned());
    (0..50).for_each(|i| put(&store, &format!("name{i}"), &[b'v'; 200]));
    settle(&mut writer, &mut now_us);
    assert!(has_marker());
    medium.limit(medium.bytes());
    clients.write(&store, "name1", 0);
    assert_eq!(clients.waiting.len(), 1);
    writer.turn(now_us);
    clients.tell(&store);
    assert!(clients.waiting.is_empty() && !has_marker());
    let report = check::check(
        &medium.killed(),
        &KeyRing::default(),
        0,
        check::Export::Nothing,
        &mut Vec::new(),
    );
    assert!(report.unwrap().to_string().contains("complete is missing"));
    {
        let (store, next) = open(config(), &medium.killed(), now_us);
        assert!((0..50).all(|i| value(&store, &format!("name{i}"), now_us).is_none()));
        assert_eq!(store.stats().counts.repairs, 1);
        let mut writer = super::writer(&store, next);
        settle(&mut writer, &mut now_us);
        assert_eq!(
            store.stats().file_bytes,
            store.segments.all()[0].bytes.load(Relaxed),
            "the old ones are gone"
        );
    }
    // In this life they were never doubted.
    assert!(value(&store, "name2", now_us).is_some() && value(&store, "name1", now_us).is_none());
    medium.heal();
    now_us += 31_000_000;
    settle(&mut writer, &mut now_us);
    writer.turn(now_us);
    assert!(has_marker());
    let (store, _) = open(config(), &medium.killed(), now_us);
    assert!(value(&store, "name2", now_us).is_some() && value(&store, "name1", now_us).is_none());
}

#[test]
fn a_medium_that_lets_nothing_be_removed_holds_nobody_up() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let mut clients = Clients::default();
    put(&store, "name1", b"v");
    settle(&mut writer, &mut now_us);
    medium.fail(0, u64::MAX, Fault::InputOutput);
    clients.write(&store, "name1", 0);
    writer.turn(now_us);
    clients.tell(&store);
    assert_eq!(clients.waiting.len(), 0);
    medium.heal();
    now_us += 31_000_000;
    settle(&mut writer, &mut now_us);
    writer.turn(now_us);
    let (store, _) = open(config(), &medium.killed(), now_us);
    assert_eq!(
        (value(&store, "name1", now_us), store.stats().counts.repairs),
        (None, 0)
    );
}

#[test]
fn a_tombstone_is_never_behind_the_value_that_came_after_it() {
    for is_on_the_disk in [true, false] {
        let medium = Simulated::default();
        let (store, next) = open(config(), &medium, 1);
        let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
        put(&store, "name1", b"old");
        match is_on_the_disk {
            true => settle(&mut writer, &mut now_us),
            // In the buffer, where it will be found to be overtaken.
            false => drop(writer.take_spills(now_us)),
        }
        void(&store, "name1");
        put(&store, "name1", b"new");
        writer.take_spills(now_us);
        settle(&mut writer, &mut now_us);
        assert_eq!(value(&store, "name1", now_us), Some(b"new".to_vec()));
        let (store, _) = open(config(), &medium.killed(), now_us);
        let found = value(&store, "name1", now_us);
        assert_eq!(found, Some(b"new".to_vec()), "on the disk: {is_on_the_disk}");
    }
}

#[test]
fn everything_that_was_voided_is_so_before_what_came_after_it() {
    let medium = Simulated::default();
    let (store, next) = open(config(), &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    put(&store, "name1", b"old");
    settle(&mut writer, &mut now_us);
    store.void_all();
    put(&store, "name2", b"new");
    writer.take_spills(now_us);
    settle(&mut writer, &mut now_us);
    let (store, _) = open(config(), &medium.killed(), now_us);
    let found = ["name1", "name2"].map(|name| value(&store, name, now_us));
    assert_eq!(found, [None, Some(b"new".to_vec())]);
}
