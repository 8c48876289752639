//! A directory in memory for tests: every call is counted and can be made to fail, and a crash image keeps of what was not
//! synced an arbitrary part, sector by sector.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{SegmentFile, Storage};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub struct Simulated {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// What a process sees.
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    /// What the directory has for sure.
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
    calls: u64,
    /// Calls to fail: from the first on, until the second.
    failing: Option<(u64, u64, Fault)>,
    /// The image of a crash before the call of this number.
    crash_at: Option<(u64, u64)>,
    image: Option<Simulated>,
    live: Option<Simulated>,
    durable: Option<Simulated>,
    is_locked: bool,
    full_at: Option<u64>,
    /// Every other read needs no wait; how many were tried.
    tried: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    NoSpace,
    InputOutput,
}

#[derive(Default, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Unsynced changes, in order.
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

struct SimulatedFile {
    state: Arc<Mutex<State>>,
    content: Arc<Mutex<Content>>,
}

impl Simulated {
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Fails the calls `from..until` that change something or read.
    pub fn fail(&self, from: u64, until: u64, fault: Fault) {
        self.state.lock().failing = Some((from, until, fault));
    }

    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.failing = None;
        state.full_at = None;
    }

    /// No more than so many bytes fit.
    pub fn limit(&self, bytes: u64) {
        self.state.lock().full_at = Some(bytes);
    }

    /// From now on every other read that does not want to wait does not have to.
    pub fn remember(&self) {
        self.state.lock().tried = Some(0);
    }

    /// Lets all calls wait until the returned value is dropped.
    pub fn hold(&self) -> impl Drop + '_ {
        self.state.lock()
    }

    /// Takes the image of a crash just before call number `call`.
    pub fn crash_before(&self, call: u64, seed: u64) {
        self.state.lock().crash_at = Some((call, seed));
    }

    pub fn image(&self) -> Option<Simulated> {
        self.state.lock().image.clone()
    }

    /// What the death of the process alone leaves.
    pub fn killed(&self) -> Simulated {
        copy(&self.state.lock().names, |content| content.now.clone())
    }

    /// What was written when the image of the crash was taken, removed files included that may come back.
    pub fn live_at_crash(&self) -> Option<Simulated> {
        self.state.lock().live.clone()
    }

    /// What of it no crash can take away.
    pub fn durable_at_crash(&self) -> Option<Simulated> {
        self.state.lock().durable.clone()
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().names.keys().cloned().collect()
    }

    /// Those of segments.
    pub fn segments(&self) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| name.ends_with(".seg"));
        names
    }

    pub fn content(&self, name: &str) -> Vec<u8> {
        self.state.lock().names[name].lock().now.clone()
    }

    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let content = Arc::new(Mutex::new(Content {
            now: bytes.clone(),
            durable: bytes,
            pending: Vec::new(),
        }));
        let mut state = self.state.lock();
        state.names.insert(name.to_owned(), Arc::clone(&content));
        state.durable_names.insert(name.to_owned(), content);
    }

    pub fn bytes(&self) -> u64 {
        used(&self.state.lock())
    }
}

fn used(state: &State) -> u64 {
    state
        .names
        .values()
        .map(|content| content.lock().now.len() as u64)
        .sum()
}

fn copy(names: &BTreeMap<String, Arc<Mutex<Content>>>, of: impl Fn(&Content) -> Vec<u8>) -> Simulated {
    let image = Simulated::default();
    for (name, content) in names {
        image.put(name, of(&content.lock()));
    }
    image
}

fn crash(state: &State, seed: u64) -> Simulated {
    let mut random = fastrand::Rng::with_seed(seed);
    let image = Simulated::default();
    let mut names: Vec<&String> = state.names.keys().chain(state.durable_names.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let content = match (state.names.get(name), state.durable_names.get(name)) {
            (Some(content), Some(_)) => content,
            // Created or removed, and the directory not synced: either may be.
            (Some(content), None) | (None, Some(content)) if random.bool() => content,
            _ => continue,
        };
        image.put(name, content.lock().after_crash(&mut random));
    }
    image
}

impl Content {
    fn after_crash(&self, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        // Mostly a good part arrives, sometimes all or nothing does.
        let chance = [0.0, 0.5, 0.9, 1.0][random.usize(..4)];
        for change in &self.pending {
            match change {
                Change::Truncate(to) => {
                    if random.f64() < chance {
                        bytes.resize(*to, 0);
                    }
                }
                Change::Write(offset, written) => {
                    let mut at = 0;
                    while at < written.len() {
                        let end = (at + SECTOR - (offset + at) % SECTOR).min(written.len());
                        if random.f64() < chance {
                            if bytes.len() < offset + end {
                                bytes.resize(offset + end, 0);
                            }
                            bytes[offset + at..offset + end].copy_from_slice(&written[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        bytes
    }
}

/// Counts a call, and fails it or takes the image if it is its turn.
fn call(state: &Mutex<State>) -> io::Result<()> {
    let mut state = state.lock();
    let number = state.calls;
    state.calls += 1;
    if let Some((at, seed)) = state.crash_at
        && at == number
    {
        state.image = Some(crash(&state, seed));
        let (names, durable) = (state.names.clone(), state.durable_names.clone());
        let either = durable.clone().into_iter().chain(names.clone()).collect();
        state.live = Some(copy(&either, |content| content.now.clone()));
        let both = durable
            .into_iter()
            .filter(|(name, _)| names.contains_key(name))
            .collect();
        state.durable = Some(copy(&both, |content| content.durable.clone()));
    }
    match state.failing {
        Some((from, until, fault)) if (from..until).contains(&number) => Err(match fault {
            Fault::NoSpace => io::ErrorKind::StorageFull.into(),
            Fault::InputOutput => io::Error::other("input/output error"),
        }),
        _ => Ok(()),
    }
}

struct Unlock(Arc<Mutex<State>>);

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.lock().is_locked = false;
    }
}

impl Storage for Simulated {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state.lock();
        if state.is_locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.is_locked = true;
        Ok(Box::new(Unlock(Arc::clone(&self.state))))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        call(&self.state)?;
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        call(&self.state)?;
        let mut state = self.state.lock();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Arc::new(Mutex::new(Content::default()));
        state.names.insert(name.to_owned(), Arc::clone(&content));
        Ok(Box::new(SimulatedFile {
            state: Arc::clone(&self.state),
            content,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        call(&self.state)?;
        let content = self
            .state
            .lock()
            .names
            .get(name)
            .cloned()
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile {
            state: Arc::clone(&self.state),
            content,
        }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        call(&self.state)?;
        self.state.lock().names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        call(&self.state)?;
        let mut state = self.state.lock();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn place(&self) -> String {
        "simulated".to_owned()
    }
}

impl SegmentFile for SimulatedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let failed = call(&self.state).err();
        let room = {
            let state = self.state.lock();
            state.full_at.map_or(u64::MAX, |full| full.saturating_sub(used(&state)))
        };
        // What fails may have written some of it.
        let written = match failed {
            Some(_) => &bytes[..bytes.len() / 2],
            None if (bytes.len() as u64) > room => &bytes[..room as usize],
            None => bytes,
        };
        let mut content = self.content.lock();
        let offset = offset as usize;
        if content.now.len() < offset + written.len() {
            content.now.resize(offset + written.len(), 0);
        }
        content.now[offset..offset + written.len()].copy_from_slice(written);
        content.pending.push(Change::Write(offset, written.to_vec()));
        match failed {
            Some(error) => Err(error),
            None if written.len() < bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        call(&self.state)?;
        let content = self.content.lock();
        let there = content.now.get(offset as usize..).unwrap_or_default();
        let read = there.len().min(into.len());
        into[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn read_at_once(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        // Whoever does not want to wait for the medium does not wait for this either.
        let turn = self.state.try_lock().and_then(|mut state| {
            let tried = state.tried.as_mut()?;
            *tried += 1;
            Some(*tried)
        });
        match turn {
            Some(turn) if turn % 2 == 0 => self.read_at(into, offset),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        call(&self.state)?;
        let mut content = self.content.lock();
        content.now.resize(bytes as usize, 0);
        content.pending.push(Change::Truncate(bytes as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        call(&self.state)?;
        let mut content = self.content.lock();
        content.durable = content.now.clone();
        content.pending.clear();
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        call(&self.state)?;
        Ok(self.content.lock().now.len() as u64)
    }
}
