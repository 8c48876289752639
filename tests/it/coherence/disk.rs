//! The tier on the disk in the hands of a walk: its files are in memory, its threads take a step when they are told to.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use nearcache::cache::l3::codec;
use nearcache::cache::l3::format::{self, HEADER_BYTES, Header, Kind, Record};
use nearcache::cache::l3::keys::KeyRing;
use nearcache::cache::l3::storage::{SegmentFile, Storage};
use nearcache::cache::l3::{Admission, Config, Hand, KeyEnd, L3, Origin, Recovery, Spill, Sync};
use nearcache::cache::{Links, name_hash};

/// A store that takes everything, and what its threads would do.
pub fn open(memory: &Memory, now_us: u64) -> (L3, Hand) {
    let config = Config {
        size_bytes: 64 << 10,
        segment_bytes: 4 << 10,
        max_value_bytes: 1 << 10,
        queue_bytes: 1 << 20,
        admission: Admission::All,
        sync: Sync::Never,
        recovery: Recovery::TolerateTornTail,
        write_bytes_a_second: None,
        readers: 1,
        hash: |_, name| name_hash(name),
        identity: 0,
        compression: None,
        keys: KeyRing::default(),
        unix_offset_ms: 0,
        boot: None,
    };
    let (l3, hand) = L3::open_by_hand(config, Box::new(memory.clone()), now_us).expect("memory can be opened");
    (l3, hand)
}

/// What an earlier process has left: these keys, with the milliseconds that they live.
pub fn leave(memory: &Memory, keys: &[(&[u8], Vec<u8>, Option<u64>)], now_us: u64) {
    let (l3, mut hand) = open(memory, now_us);
    let link = Links::new(1).add().expect("the first");
    for (name, value, ttl_ms) in keys {
        let hash = name_hash(name);
        l3.spill(Spill {
            hash,
            db: 0,
            block: [*name, value].concat().into(),
            parts: 0..name.len() + value.len(),
            name_len: name.len(),
            variant_len: 0,
            value: None,
            codec: codec::Codec::Plain,
            is_absent: false,
            is_plain: true,
            key_end: ttl_ms.map_or(KeyEnd::Never, |_| KeyEnd::WithRecord),
            filled_us: now_us,
            deadline_us: ttl_ms.map(|ms| now_us + ms * 1000),
            origin: Origin::ThisLife { link, epoch: 1 },
            mark: l3.mark(hash as u32),
        });
    }
    while hand.has_write() {
        hand.write(now_us);
    }
}

/// The files.
#[derive(Clone, Default)]
pub struct Memory {
    files: Arc<Mutex<BTreeMap<String, File>>>,
}

/// An entry that the next process would find.
pub struct Left {
    pub name: Vec<u8>,
    pub variant: Vec<u8>,
    /// `None`: the key is absent.
    pub value: Option<Vec<u8>>,
}

impl Memory {
    /// What the death of the process would leave now for the next one to show, by the specification of the files alone.
    pub fn left(&self, now_us: u64) -> Vec<Left> {
        let mut left: Vec<(u64, Left)> = Vec::new();
        for (name, file) in &*self.files.lock().unwrap() {
            let mut bytes = file.0.lock().unwrap().clone();
            let keys = KeyRing::default();
            let Some((_, envelope)) = name.ends_with(".seg").then(|| Header::decode(&bytes, &keys).unwrap()) else {
                continue;
            };
            let mut at = HEADER_BYTES;
            while let Some(rest) = bytes.get_mut(at..)
                && let Ok(record) = Record::decode(rest, &envelope, at as u64)
            {
                at += format::padded(record.length());
                let (hash, entry) = (
                    record.hash,
                    Left {
                        name: record.name.to_vec(),
                        variant: record.variant.to_vec(),
                        value: (!record.is_absent).then(|| codec::decompress(record.codec, record.value).unwrap()),
                    },
                );
                match record.kind {
                    Kind::TombstoneOfAll => left.clear(),
                    Kind::Tombstone => left.retain(|(of, _)| *of != hash),
                    Kind::Entry => {
                        left.retain(|(_, old)| (&old.name, &old.variant) != (&entry.name, &entry.variant));
                        // The clock of the files begins with the walk's.
                        if record.expires_ms > now_us / 1000 {
                            left.push((hash, entry));
                        }
                    }
                }
            }
        }
        left.into_iter().map(|(_, entry)| entry).collect()
    }
}

#[derive(Clone, Default)]
struct File(Arc<Mutex<Vec<u8>>>);

impl Storage for Memory {
    fn lock(&self) -> io::Result<Box<dyn Send + std::marker::Sync>> {
        Ok(Box::new(()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.files.lock().unwrap().keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let file = File::default();
        self.files.lock().unwrap().insert(name.to_owned(), file.clone());
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let file = self.files.lock().unwrap().get(name).cloned();
        Ok(Box::new(file.ok_or(io::ErrorKind::NotFound)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.lock().unwrap().remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn place(&self) -> String {
        "memory".to_owned()
    }
}

impl SegmentFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut all = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        if all.len() < end {
            all.resize(end, 0);
        }
        all[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let all = self.0.lock().unwrap();
        let there = all.get(offset as usize..).unwrap_or_default();
        let read = there.len().min(into.len());
        into[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.lock().unwrap().truncate(bytes as usize);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }
}
