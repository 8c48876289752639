//! The store on a simulated medium, its writer driven step by step.

mod crash;
mod damage;
mod faults;
mod life;
mod owed;
mod secrets;
mod sights;
mod threads;

use std::collections::BTreeMap;

use super::codec::Method;
use super::keys::NewSegments;
use super::recovery::Leftovers;
use super::storage::simulated::Simulated;
use super::writer::Writer;
use super::*;
use crate::cache::link::LinkId;

const UNIX_OFFSET_MS: u64 = 1_700_000_000_000;

/// The low bits are the number in the name: names of a test have marks of their own, and nothing is dropped by chance.
fn hash(seed: u64, name: &[u8]) -> u64 {
    let digits = name.iter().filter(|byte| byte.is_ascii_digit());
    let number = digits.fold(0u64, |number, digit| number.wrapping_mul(10) + u64::from(digit - b'0'));
    xxhash_rust::xxh3::xxh3_64_with_seed(name, seed) & !0x3ff | number & 0x3ff
}

fn config() -> Config {
    Config {
        size_bytes: 1 << 20,
        segment_bytes: 4096,
        max_value_bytes: 800,
        queue_bytes: 1 << 20,
        admission: Admission::All,
        sync: Sync::EachSegment,
        recovery: Recovery::TolerateTornTail,
        write_bytes_a_second: None,
        readers: 1,
        hash,
        identity: 0,
        compression: None,
        keys: KeyRing::default(),
        unix_offset_ms: UNIX_OFFSET_MS,
        boot: None,
    }
}

fn ring(keys: &[u8]) -> KeyRing {
    let keys: Vec<[u8; keys::KEY_BYTES]> = keys.iter().map(|&key| [key; keys::KEY_BYTES]).collect();
    KeyRing::new(&keys, NewSegments::Encrypted)
}

/// Encrypted and compressed.
fn packed(method: Method) -> Config {
    Config {
        compression: Some(Compression { method, from_bytes: 64 }),
        keys: ring(&[1]),
        ..config()
    }
}

fn try_open(config: Config, medium: &Simulated) -> Result<(Arc<Store>, Leftovers), OpenError> {
    medium.remember();
    let parker = Parker::new();
    let (store, leftovers) = recovery::open(config, Box::new(medium.clone()), parker.unparker().clone())?;
    Ok((Arc::new(store), leftovers))
}

/// A store that has read what was there; its writer is the caller's.
fn open(config: Config, medium: &Simulated, now_us: u64) -> (Arc<Store>, u64) {
    let (store, leftovers) = try_open(config, medium).unwrap();
    let next = leftovers.next_sequence;
    recovery::run(&store, leftovers, now_us, || {});
    (store, next)
}

fn writer(store: &Arc<Store>, next_sequence: u64) -> Writer {
    Writer::new(store, next_sequence, Syncer::here())
}

/// Turns until nothing is left to do.
fn settle(writer: &mut Writer, now_us: &mut u64) {
    for _ in 0..100 {
        *now_us += 25_000;
        if !writer.turn(*now_us) {
            return;
        }
    }
    panic!("the writer never rests");
}

fn origin() -> Origin {
    Origin::ThisLife {
        link: LinkId::from_index(1),
        epoch: 5,
    }
}

fn entry(store: &Store, name: &str, value: &[u8]) -> Spill {
    let hash = hash(store.seed, name.as_bytes());
    Spill {
        hash,
        db: 0,
        block: [&b"xx"[..], name.as_bytes(), value, b"xx"].concat().into(),
        parts: 2..2 + name.len() + value.len(),
        name_len: name.len(),
        variant_len: 0,
        value: None,
        codec: codec::Codec::Plain,
        is_absent: false,
        is_plain: true,
        key_end: KeyEnd::Never,
        filled_us: 1,
        deadline_us: None,
        origin: origin(),
        mark: store.marks.of(hash as u32),
    }
}

fn put(store: &Store, name: &str, value: &[u8]) {
    store.spill(entry(store, name, value));
}

fn void(store: &Store, name: &str) {
    store.void(hash(store.seed, name.as_bytes()));
}

fn find(store: &Store, name: &str, now_us: u64) -> Option<Found> {
    let query = Query {
        hash: hash(store.seed, name.as_bytes()),
        db: 0,
        name: name.as_bytes(),
        variant: b"",
    };
    store.read(&query, now_us)
}

fn value(store: &Store, name: &str, now_us: u64) -> Option<Vec<u8>> {
    find(store, name, now_us).map(|found| found.value.to_vec())
}

/// Values of version `version` of a name: of many lengths, and to be told apart.
fn version_of(name: &str, version: u64) -> Vec<u8> {
    let mut value = format!("{name}={version};").into_bytes();
    let length = value.len() + (version * 37 % 400) as usize;
    value.resize(length, b'.');
    value
}

/// A random run against a model: which version of each name counts now.
struct Run {
    random: fastrand::Rng,
    pub now_us: u64,
    pub current: BTreeMap<String, u64>,
    pub version: u64,
    pub names: u64,
    pub is_flushing: bool,
}

impl Run {
    fn new(seed: u64, names: u64) -> Run {
        Run {
            random: fastrand::Rng::with_seed(seed),
            now_us: 1_000_000,
            current: BTreeMap::new(),
            version: 0,
            names,
            is_flushing: true,
        }
    }

    fn name(&mut self) -> String {
        format!("name{}", self.random.u64(..self.names))
    }

    /// One thing that workers or the writer do. Checks what is shown.
    fn step(&mut self, store: &Store, writer: &mut Writer) {
        self.now_us += self.random.u64(..5000);
        match self.random.u8(..100) {
            0..45 => {
                let name = self.name();
                // As L1 does: what it fills anew voids what is here.
                void(store, &name);
                self.version += 1;
                put(store, &name, &version_of(&name, self.version));
                self.current.insert(name, self.version);
            }
            45..60 => {
                let name = self.name();
                void(store, &name);
                self.current.remove(&name);
            }
            60..61 if self.is_flushing => {
                store.void_all();
                self.current.clear();
            }
            60..80 => {
                let name = self.name();
                self.check(store, &name);
            }
            // Something happens between one spill of a batch and the next.
            80..88 => drop(writer.take_spills(self.now_us)),
            _ => {
                writer.turn(self.now_us);
            }
        }
    }

    /// What is found is what counts.
    fn check(&self, store: &Store, name: &str) {
        if let Some(found) = value(store, name, self.now_us) {
            let current = self.current.get(name).map(|&version| version_of(name, version));
            assert_eq!(Some(found), current, "{name} is not what it should be");
        }
    }

    fn check_all(&self, store: &Store) {
        for name in 0..self.names {
            self.check(store, &format!("name{name}"));
        }
    }
}
