//! Plays a trace against L1 and says what it misses, beside LRU and what no policy can do without.
//!
//! `cargo bench --bench replay -- TRACE… [--size 1%,10%] [--objective requests,bytes]`; `--help` lists the rest. A trace is
//! lines of `timestamp_s,key,key_size,value_size,op,ttl_s`, plain or compressed with zstd, without a header; all but the key
//! may be empty. Reads are counted; any other operation is a write, which the proxy passes on and which voids the copy.
//!
//! **The same room for all.** A size is a part of the footprint, which is what all keys take at their last sizes: bytes of
//! keys and values, or, where a trace has no sizes and all entries are equal, their number. LRU and the limit get that room
//! as it is. L1 accounts for more (slots, index, ghost, rounding), so it gets the budget with which it holds the room on
//! average from its first eviction on, counted like the others: played several times to find it. The column `entries` says
//! how many that were on average.
//!
//! **L3.** `--below 10%` adds rows for the same L1 over an L3 of that part of the footprint, its files on the disk of this
//! machine (`TMPDIR`): misses of both, the bytes written, all included, and their ratio to writing every entry that L1 evicts.
//!
//! **The limit.** Where entries are equal, Belady's rule with bypass (keep what is read again soonest) is the least number
//! of misses that there is. With sizes the least number is hard to compute; the limit shown is then a bound which no policy
//! can pass and perhaps none reaches: each interval from a read of a key to its next takes size × length of the room ×
//! time there is, and the cheapest intervals for what they save are kept, parts of intervals included (the resource bound
//! PFOO-L of Berger, Beckmann and Harchol-Balter, "Practical bounds on optimal caching with variable object sizes", 2018),
//! once for requests and once for bytes.

#[path = "replay/trace.rs"]
mod trace;

use std::cell::RefCell;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use clap::Parser;
use lru::LruCache;
use nearcache::cache::l3::storage::Disk;
use nearcache::cache::l3::{self, Admission, Hand, L3};
use nearcache::cache::{
    Asker, Consistency, Decision, Fill, L1, L1Config, Leasing, LinkId, Links, Objective, Own, Query, Value, name_hash,
};
use nearcache::units::parse_bytes;
use trace::{Request, Trace};

#[derive(Parser)]
#[command(name = "replay", about = "Plays cache traces against L1, LRU and the limit.")]
struct Options {
    /// Files of `timestamp_s,key,key_size,value_size,op,ttl_s`, plain or compressed with zstd; "-" is standard input
    #[arg(required = true)]
    traces: Vec<String>,
    /// Parts of the footprint to play with
    #[arg(long, default_value = "1%,10%", value_delimiter = ',', value_parser = parse_percent)]
    size: Vec<f64>,
    /// What L1 keeps misses low by
    #[arg(long, default_value = "requests", value_delimiter = ',', value_parser = parse_objective)]
    objective: Vec<Objective>,
    /// Shards of L1, a power of two; 0 = chosen from the budget
    #[arg(long, default_value_t = 0, value_parser = parse_shards)]
    shards: usize,
    /// Larger values are not kept by L1
    #[arg(long, default_value = "1MiB", value_parser = parse_size)]
    max_value: usize,
    /// An L3 of this part of the footprint below L1
    #[arg(long, value_parser = parse_percent)]
    below: Option<f64>,
    /// When it admits: all, second-sight or third-sight
    #[arg(long, default_value = "all,second-sight", value_delimiter = ',', value_parser = parse_admission)]
    admission: Vec<Admission>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.traces.iter().try_for_each(|name| play(name, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn play(name: &str, options: &Options) -> Result<(), String> {
    let trace = Trace::open(name)?;
    let reads = trace.requests.iter().filter(|request| request.is_read).count();
    let writes = trace.requests.len() - reads;
    let room = if trace.has_sizes { "bytes" } else { "entries" };
    let mut out = std::io::stdout().lock();
    let mut print = |line: String| writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"));
    print(format!(
        "{name}: {reads} reads, {writes} writes, {} keys, footprint {} {room}",
        trace.keys.len(),
        trace.footprint,
    ))?;
    print(format!(
        "  {:>6} {:>12}  {:<12} {:>8} {:>8} {:>9}",
        "size", room, "policy", "misses %", "bytes %", "entries"
    ))?;
    for &percent in &options.size {
        let room = (trace.footprint as f64 * percent / 100.0).round() as u64;
        if room == 0 {
            return Err(format!("{name}: {percent}% of the footprint is nothing"));
        }
        let mut rows = vec![("LRU", lru(&trace, room))];
        for &objective in &options.objective {
            let label = match objective {
                Objective::Requests => "L1 requests",
                Objective::Bytes => "L1 bytes",
            };
            let (tally, budget_bytes) = l1(&trace, room, objective, options)?;
            rows.push((label, tally));
            for &admission in options.below.iter().flat_map(|_| &options.admission) {
                let label = match admission {
                    Admission::All => "+ L3 all",
                    Admission::SecondSight => "+ L3 second",
                    Admission::ThirdSight => "+ L3 third",
                };
                rows.push((label, over_l3(&trace, budget_bytes, objective, admission, options)?));
            }
        }
        rows.push(("limit", limit(&trace, room)));
        for (policy, tally) in rows {
            let part = |missed: f64, of: u64| missed / of.max(1) as f64 * 100.0;
            print(format!(
                "  {percent:>5}% {room:>12}  {policy:<12} {:>8.2} {:>8.2} {:>9}",
                part(tally.missed, reads as u64),
                part(tally.missed_bytes, trace.read_bytes),
                tally
                    .held
                    .checked_div(tally.looks)
                    .map_or_else(String::new, |entries| entries.to_string()),
            ))?;
            if let Some((bytes, ratio)) = tally.written {
                print(format!(
                    "  {:>20}  written: {bytes} bytes, {ratio:.2} of all that L1 evicted",
                    ""
                ))?;
            }
        }
    }
    Ok(())
}

/// What a policy did with a trace.
#[derive(Default)]
struct Tally {
    /// Reads; the bound for traces with sizes counts parts of them.
    missed: f64,
    missed_bytes: f64,
    /// Entries held, added up over so many looks.
    held: usize,
    looks: usize,
    /// By L3: bytes, and what part they are of writing whatever L1 evicts.
    written: Option<(u64, f64)>,
}

impl Tally {
    fn miss(&mut self, request: &Request) {
        self.missed += 1.0;
        self.missed_bytes += request.size as f64;
    }

    fn hold(&mut self, entries: usize) {
        self.held += entries;
        self.looks += 1;
    }
}

fn lru(trace: &Trace, room: u64) -> Tally {
    let mut tally = Tally::default();
    let mut held = LruCache::unbounded();
    let mut used = 0;
    for request in &trace.requests {
        let is_live = held
            .get(&request.key)
            .is_some_and(|&(_, deadline_us)| request.now_us < deadline_us);
        if is_live && request.is_read {
            continue;
        }
        if let Some((size, _)) = held.pop(&request.key) {
            used -= size;
        }
        if !request.is_read {
            continue;
        }
        tally.miss(request);
        if request.size > room {
            continue;
        }
        while used + request.size > room
            && let Some((_, (size, _))) = held.pop_lru()
        {
            used -= size;
        }
        used += request.size;
        held.put(request.key, (request.size, request.deadline_us()));
        tally.hold(held.len());
    }
    tally
}

/// The real L1, filled as the proxy fills it: a miss leases, the reply is noted and the fill completed, a write voids.
struct Played<'a> {
    l1: L1<()>,
    links: Arc<Links>,
    link: LinkId,
    trace: &'a Trace,
    /// Values are cut from this.
    bytes: Bytes,
    /// What the threads of L3 would do.
    disk: Option<RefCell<Hand>>,
}

impl<'a> Played<'a> {
    fn new(
        trace: &'a Trace,
        budget_bytes: usize,
        objective: Objective,
        options: &Options,
        l3: Option<(L3, Hand)>,
    ) -> Result<Self, String> {
        let (l3, disk) = l3.unzip();
        let links = Arc::new(Links::new(1_000_000));
        let link = links.add().ok_or("no link is left")?;
        let config = L1Config {
            budget_bytes,
            shards: (options.shards > 0).then_some(options.shards),
            max_value_bytes: options.max_value,
            negative_ttl_us: None,
            max_age_us: None,
            max_stale_us: None,
            consistency: Consistency::Coherent,
            objective,
            compression: None,
        };
        Ok(Played {
            l1: L1::over(config, Arc::clone(&links), l3.map(Arc::new)),
            disk: disk.map(RefCell::new),
            links,
            link,
            trace,
            bytes: Bytes::from(vec![b'v'; trace.largest_value as usize]),
        })
    }

    /// Whether it was a hit.
    fn request(&self, request: &Request) -> bool {
        let name = &self.trace.keys[request.key as usize];
        let hash = name_hash(name);
        if !request.is_read {
            self.l1.acked(self.link, hash);
            return false;
        }
        let query = Query {
            hash,
            db: 0,
            name,
            variant: b"",
        };
        let asker = Asker {
            now_us: request.now_us,
            link: self.link,
            own: Own::Clear,
            floor_us: 0,
            takes_stale: false,
        };
        self.links.answered(self.link, request.now_us);
        match self.l1.decide(&query, &asker, Leasing::Allowed, || (), |_| ()) {
            Decision::Hit(()) => true,
            Decision::Leased(lease) => {
                if let Some(disk) = &self.disk {
                    let (tell, told) = channel();
                    let is_below =
                        self.l1
                            .look_below(&query, request.now_us, || None, move |found| drop(tell.send(found)));
                    // What was not answered at once.
                    if is_below {
                        disk.borrow_mut().read();
                    }
                    if let Ok(Some(found)) = told.try_recv()
                        && self.l1.promote(lease, &found, request.now_us).is_some()
                    {
                        return true;
                    }
                }
                let value = &self.bytes[..request.value_bytes as usize];
                let fill = Fill {
                    value: Value::Bytes(value),
                    pttl_ms: request.ttl_us.map_or(-1, |ttl| (ttl / 1000) as i64),
                    is_plain: true,
                    most_us: None,
                };
                self.l1.got(lease);
                self.l1.complete(lease, Some(fill), request.now_us);
                false
            }
            Decision::Joined { .. } | Decision::Forward => false,
        }
    }
}

/// Plays with the budget at which L1 holds as much as the room, see the head of this file.
/// Returns that budget, too.
fn l1(trace: &Trace, room: u64, objective: Objective, options: &Options) -> Result<(Tally, usize), String> {
    let mut budget_bytes = if trace.has_sizes { room } else { room * 200 } as f64;
    // Budgets with which it holds no more, and more.
    let (mut low, mut high) = (0.0, f64::INFINITY);
    let mut nearest: Option<(f64, Tally, usize)> = None;
    for _ in 0..MOST_TRIES {
        let played = Played::new(trace, budget_bytes as usize, objective, options, None)?;
        let (tally, held) = play_l1(trace, &played);
        let ratio = room as f64 / held;
        if ratio < 1.0 {
            high = budget_bytes;
        } else {
            low = budget_bytes;
            if nearest.as_ref().is_none_or(|&(best, ..)| ratio < best) {
                nearest = Some((ratio, tally, budget_bytes as usize));
            }
            if ratio < 1.0 + CLOSE {
                break;
            }
        }
        // Aims a little below the room.
        budget_bytes *= (ratio * (1.0 - CLOSE / 2.0)).clamp(0.5, 2.0);
        if budget_bytes <= low || budget_bytes >= high {
            budget_bytes = (low + high) / 2.0;
        }
    }
    match nearest {
        Some((_, tally, budget_bytes)) => Ok((tally, budget_bytes)),
        None => Err(format!("no budget was found with which L1 holds {room}")),
    }
}

/// How near to the room L1 must come, and how often it may try.
const CLOSE: f64 = 0.01;
const MOST_TRIES: usize = 12;

/// Plays with that budget over an L3 that holds as much as its room in the end: what a record takes besides key and value, in its
/// segment's footer too, and what is dead, is found by trying.
fn over_l3(
    trace: &Trace,
    budget_bytes: usize,
    objective: Objective,
    admission: Admission,
    options: &Options,
) -> Result<Tally, String> {
    let room = trace.footprint as f64 * options.below.unwrap_or_default() / 100.0;
    let key_bytes = trace.keys.iter().map(|key| key.len()).sum::<usize>() as f64 / trace.keys.len() as f64;
    let value_bytes = trace.requests.iter().map(|r| r.value_bytes as f64).sum::<f64>() / trace.requests.len() as f64;
    let mut size_bytes = match trace.has_sizes {
        true => room,
        false => room * (key_bytes + value_bytes + 56.0),
    };
    // The room in entries, of the mean size where sizes count.
    let most = room / if trace.has_sizes { key_bytes + value_bytes } else { 1.0 };
    let mut nearest = None;
    for _ in 0..MOST_TRIES_BELOW {
        let (tally, entries) = play_over_l3(trace, budget_bytes, objective, admission, options, size_bytes as u64)?;
        let ratio = most / entries as f64;
        if ratio >= 1.0 || nearest.is_none() {
            nearest = Some(tally);
        }
        if (1.0..1.0 + 2.0 * CLOSE).contains(&ratio) || trace.has_sizes {
            break;
        }
        size_bytes *= ratio * (1.0 - CLOSE);
    }
    nearest.ok_or_else(|| "nothing was played".to_owned())
}

const MOST_TRIES_BELOW: usize = 4;

/// Returns how many entries L3 has in the end, too.
fn play_over_l3(
    trace: &Trace,
    budget_bytes: usize,
    objective: Objective,
    admission: Admission,
    options: &Options,
    size_bytes: u64,
) -> Result<(Tally, usize), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let disk = Disk::new(dir.path()).map_err(|error| error.to_string())?;
    let config = l3::Config {
        size_bytes,
        segment_bytes: (size_bytes / 16).clamp(4 << 10, 64 << 20),
        max_value_bytes: options.max_value,
        queue_bytes: 64 << 20,
        admission,
        sync: l3::Sync::Never,
        recovery: l3::Recovery::Strict,
        write_bytes_a_second: None,
        readers: 1,
        compression: None,
        keys: l3::keys::KeyRing::default(),
        hash: |_, name| name_hash(name),
        identity: 0,
        unix_offset_ms: 1_700_000_000_000,
        boot: None,
    };
    let opened = L3::open_by_hand(config, Box::new(disk), 1).map_err(|error| error.to_string())?;
    let played = Played::new(trace, budget_bytes, objective, options, Some(opened))?;
    let (mut tally, _) = play_l1(trace, &played);
    let mut entries = 0;
    if let Some(l3) = played.l1.l3() {
        let stats = l3.stats();
        entries = stats.entries;
        let counts = stats.counts;
        let evicted = counts.writes + counts.kept + counts.refused_admission + counts.refused_too_large;
        let each = counts.write_bytes as f64 / counts.writes.max(1) as f64;
        tally.written = Some((
            counts.medium_bytes,
            counts.medium_bytes as f64 / (evicted as f64 * each),
        ));
    }
    Ok((tally, entries))
}

/// Returns what was held on average too, counted as the room is.
fn play_l1(trace: &Trace, played: &Played<'_>) -> (Tally, f64) {
    let (mut tally, mut held, mut looks) = (Tally::default(), 0.0, 0.0);
    for (i, request) in trace.requests.iter().enumerate() {
        if !played.request(request) && request.is_read {
            tally.miss(request);
        }
        if let Some(disk) = &played.disk {
            disk.borrow_mut().write(request.now_us.max(i as u64));
        }
        // Asking takes all locks, and what is held changes slowly.
        if i % 16 == 0 || i + 1 == trace.requests.len() {
            let stats = played.l1.stats();
            if stats.evictions > 0 || i + 1 == trace.requests.len() {
                held += if trace.has_sizes {
                    stats.data_bytes
                } else {
                    stats.entries
                } as f64;
                looks += 1.0;
                tally.hold(stats.entries);
            }
        }
    }
    (tally, held / looks)
}

/// What no policy can do without, see the head of this file.
fn limit(trace: &Trace, room: u64) -> Tally {
    let next = next_reads(trace);
    if trace.has_sizes {
        return Tally {
            missed: bound(trace, &next, room, |_| 1.0),
            missed_bytes: bound(trace, &next, room, |request| request.size as f64),
            ..Tally::default()
        };
    }
    let mut tally = Tally::default();
    // What is held, by when it is read next. A copy that a write or its expiry ends first is never read again.
    let mut held = std::collections::BTreeSet::new();
    for (at, request) in trace.requests.iter().enumerate() {
        if !request.is_read {
            continue;
        }
        if !held.remove(&at) {
            tally.miss(request);
        }
        if let Some(again) = next[at] {
            held.insert(again);
            if held.len() as u64 > room {
                held.pop_last();
            }
        }
        tally.hold(held.len());
    }
    tally
}

/// For each read, the next read of the key that the same copy could answer.
fn next_reads(trace: &Trace) -> Vec<Option<usize>> {
    let mut next = vec![None; trace.requests.len()];
    let mut later: Vec<Option<usize>> = vec![None; trace.keys.len()];
    for (at, request) in trace.requests.iter().enumerate().rev() {
        let place = &mut later[request.key as usize];
        next[at] = place.filter(|&again| trace.requests[again].now_us < request.deadline_us());
        *place = request.is_read.then_some(at);
    }
    next
}

/// Misses, each counted as `worth` says, when room × time goes to the intervals that save the most for it.
fn bound(trace: &Trace, next: &[Option<usize>], room: u64, worth: impl Fn(&Request) -> f64) -> f64 {
    let mut missed: f64 = trace.requests.iter().filter(|r| r.is_read).map(&worth).sum();
    let mut intervals: Vec<(f64, f64)> = next
        .iter()
        .enumerate()
        .filter_map(|(at, again)| again.map(|again| (at, again)))
        .map(|(at, again)| {
            let cost = trace.requests[at].size as f64 * (again - at) as f64;
            (cost, worth(&trace.requests[again]))
        })
        .collect();
    intervals.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
    let mut left = room as f64 * trace.requests.len() as f64;
    for (cost, saved) in intervals {
        missed -= saved * (left / cost).min(1.0);
        left -= cost;
        if left <= 0.0 {
            break;
        }
    }
    missed
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    match number.parse() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(percent),
        _ => Err("must be a part of the footprint, more than 0% and at most 100%".into()),
    }
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    match text {
        "requests" => Ok(Objective::Requests),
        "bytes" => Ok(Objective::Bytes),
        _ => Err("must be \"requests\" or \"bytes\"".into()),
    }
}

fn parse_admission(text: &str) -> Result<Admission, String> {
    match text {
        "all" => Ok(Admission::All),
        "second-sight" => Ok(Admission::SecondSight),
        "third-sight" => Ok(Admission::ThirdSight),
        _ => Err("must be \"all\", \"second-sight\" or \"third-sight\"".into()),
    }
}

fn parse_shards(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(shards) if shards == 0 || usize::is_power_of_two(shards) && shards <= 64 => Ok(shards),
        _ => Err("must be a power of two up to 64, or 0 for automatic".into()),
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    let bytes = parse_bytes(text).map_err(|why| why.to_string())?;
    match usize::try_from(bytes) {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("must be at least 1B".into()),
    }
}
