//! Instructions of the steps that every request takes, counted one by one by valgrind, and compared with those recorded in
//! `benches/instructions.baseline`. Unlike times, they are the same on a busy machine, so CI can refuse a change of 3 %.
//!
//! `cargo bench --bench instructions` compares, and fails where a count is more than 3 % off, in either direction: what got
//! cheaper must be recorded, too, or a later loss would hide in it. `cargo bench --bench instructions -- --record` writes
//! the baseline anew; commit it with the change that explains it.
//!
//! Each step is run N and 2 N times in processes of their own; the difference is that of N steps, without start and set-up.
//! Counts depend on the compiler and on whether the machine has AVX2, so the baseline names both; elsewhere counts are
//! shown and nothing is refused. Without valgrind the bench is skipped, but for CI, where that is a failure.

#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

mod frames;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use nearcache::cache::{
    Asker, Consistency, Decision, Fill, L1, L1Config, Leasing, LinkId, Links, Objective, Own, Query, Value, View,
    ViewValue, name_hash, seed_names,
};
use nearcache::resp::convert::{Rule, to_resp2};
use nearcache::resp::limits::Limits;
use nearcache::resp::reply::FrameScanner;
use nearcache::resp::request::{Scan, Scanner};

/// A change of more than this is refused.
const TOLERANCE: f64 = 0.03;
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.baseline");
/// Entries in L1, and names that are in use.
const NAMES: usize = 4096;

/// The steps, by name; each runs so many times.
type Step = fn(usize);
const STEPS: [(&str, Step); 9] = [
    ("scan a GET", |times| scan(&frames::get(1), times)),
    ("scan a pipeline of 16 GETs", |times| scan(&frames::pipeline(16), times)),
    ("find the end of a value", |times| find_end(&frames::value(), times)),
    ("find the end of a map of 10", |times| find_end(&frames::map(10), times)),
    ("convert a value to RESP2", |times| convert(&frames::value(), times)),
    ("convert a map of 10 to RESP2", |times| convert(&frames::map(10), times)),
    ("L1: hit", hit),
    ("L1: miss", miss),
    ("L1: lease, insert, evict", insert),
];
/// How often a step runs for one count, and twice as often for the other.
const TIMES: usize = 20_000;
/// The hash has another seed in each process, so filling L1 costs a little more or less; over so many short steps that
/// difference does not show.
const TIMES_OF_READS: usize = 100_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => check(Baseline::Compared),
        ["--record"] => check(Baseline::Recorded),
        // What valgrind runs.
        ["--step", number, times] => match (number.parse::<usize>(), times.parse()) {
            (Ok(number), Ok(times)) if number < STEPS.len() => {
                // By another hash other lines of L1's index are full, and other searches take a step more.
                assert!(seed_names(1), "no name has been hashed yet");
                STEPS[number].1(times);
                ExitCode::SUCCESS
            }
            _ => fail("--step takes the number of a step, and how often"),
        },
        _ => fail("the only argument is --record"),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Baseline {
    Compared,
    Recorded,
}

fn check(baseline: Baseline) -> ExitCode {
    if Command::new("valgrind").arg("--version").output().is_err() {
        let why = "valgrind, which counts the instructions, is not installed (apt-get install valgrind)";
        if baseline == Baseline::Recorded || std::env::var_os("CI").is_some() {
            return fail(why);
        }
        println!("skipped: {why}");
        return ExitCode::SUCCESS;
    }
    let mut counts = Vec::new();
    for (number, (name, _)) in STEPS.iter().enumerate() {
        match count(number) {
            Ok(count) => counts.push((*name, count)),
            Err(error) => return fail(&format!("{name}: {error}")),
        }
    }
    let conditions = conditions();
    if baseline == Baseline::Recorded {
        return record(&conditions, &counts);
    }
    let recorded = match Recorded::read(Path::new(BASELINE)) {
        Ok(recorded) => recorded,
        Err(error) => return fail(&error),
    };
    let mut wrong = 0;
    for (name, count) in &counts {
        let (was, verdict) = match recorded.counts.get(*name) {
            None => ("-".to_owned(), "not recorded".to_owned()),
            Some(was) => {
                let change = count / was - 1.0;
                let verdict = if change.abs() <= TOLERANCE { "" } else { "  <- off" };
                (format!("{was:.1}"), format!("{:+6.1} %{verdict}", change * 100.0))
            }
        };
        wrong += usize::from(verdict.ends_with("off") || verdict == "not recorded");
        println!("{name:30} {count:8.1} instructions, recorded {was:>8}  {verdict}");
    }
    if conditions != recorded.conditions {
        println!(
            "not checked: recorded with {}, and this is {conditions}. `cargo bench --bench instructions -- --record` \
             records them anew",
            recorded.conditions
        );
        return ExitCode::SUCCESS;
    }
    if wrong > 0 {
        return fail(&format!(
            "{wrong} of {} counts are more than {} % off. If that is meant, record them anew: cargo bench --bench \
             instructions -- --record",
            counts.len(),
            TOLERANCE * 100.0
        ));
    }
    println!(
        "all {} counts are within {} % of those recorded",
        counts.len(),
        TOLERANCE * 100.0
    );
    ExitCode::SUCCESS
}

/// Instructions of one step.
fn count(number: usize) -> Result<f64, String> {
    let times = match STEPS[number].0 {
        "L1: hit" | "L1: miss" => TIMES_OF_READS,
        _ => TIMES,
    };
    let once = count_process(number, times)?;
    let twice = count_process(number, 2 * times)?;
    Ok((twice as f64 - once as f64) / times as f64)
}

fn count_process(number: usize, times: usize) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args(["--step", &number.to_string(), &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    // "==4711== I   refs:      1,234,567"
    let counted = said.lines().find_map(|line| line.split_once("refs:"));
    let digits: String = counted.map_or("", |(_, count)| count).replace(',', "");
    match digits.trim().parse() {
        Ok(count) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind failed: {said}")),
    }
}

/// What counts depend on besides the source.
fn conditions() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("-vV").output();
    let said = output.map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let fact = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("unknown")
    };
    #[cfg(target_arch = "x86_64")]
    let simd = if std::arch::is_x86_feature_detected!("avx2") {
        ", AVX2"
    } else {
        ", no AVX2"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let simd = "";
    format!("rustc {}, {}{simd}", fact("release: "), fact("host: "))
}

struct Recorded {
    conditions: String,
    counts: BTreeMap<String, f64>,
}

const HEADER: &str = "# Instructions of one step, written by `cargo bench --bench instructions -- --record`; CI refuses a \
                      change of more than 3 %.\n";

impl Recorded {
    fn read(path: &Path) -> Result<Recorded, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut recorded = Recorded {
            conditions: String::new(),
            counts: BTreeMap::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            match line.split_once(" = ") {
                Some(("with", conditions)) => recorded.conditions = conditions.to_owned(),
                Some((name, count)) => {
                    let count = count.parse().map_err(|_| format!("no number: {line}"))?;
                    recorded.counts.insert(name.to_owned(), count);
                }
                None => return Err(format!("{}: neither a comment nor a count: {line}", path.display())),
            }
        }
        Ok(recorded)
    }
}

fn record(conditions: &str, counts: &[(&str, f64)]) -> ExitCode {
    let mut text = format!("{HEADER}with = {conditions}\n");
    for (name, count) in counts {
        text.push_str(&format!("{name} = {count:.1}\n"));
    }
    print!("{text}");
    match std::fs::write(BASELINE, text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{BASELINE}: {error}")),
    }
}

fn fail(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::FAILURE
}

/// All requests of `buf`.
fn scan(buf: &[u8], times: usize) {
    let (limits, mut spans, mut scanner) = (Limits::AUTHENTICATED, Vec::new(), Scanner::default());
    for _ in 0..times {
        let mut rest = black_box(buf);
        while !rest.is_empty() {
            spans.clear();
            match scanner.scan(rest, &limits, &mut spans) {
                Ok(Scan::Complete { len }) => rest = &rest[len..],
                other => panic!("not a whole request: {other:?}"),
            }
            black_box(&spans);
        }
    }
}

fn find_end(frame: &[u8], times: usize) {
    let mut scanner = FrameScanner::default();
    for _ in 0..times {
        let found = scanner.advance(black_box(frame));
        assert_eq!(found, Ok((frame.len(), true)));
    }
}

fn convert(frame: &[u8], times: usize) {
    let mut out = Vec::with_capacity(2 * frame.len());
    for _ in 0..times {
        out.clear();
        assert!(to_resp2(&Rule::General, black_box(frame), &mut out).is_ok());
        black_box(&out);
    }
}

fn hit(times: usize) {
    let cache = Cache::filled();
    let names = names(0..NAMES);
    for i in 0..times {
        // A stride, so that neighbours in memory are not neighbours in time.
        assert!(cache.get(black_box(&names[i * 1009 % NAMES])));
    }
}

fn miss(times: usize) {
    let cache = Cache::filled();
    let names = names(NAMES..2 * NAMES);
    for i in 0..times {
        assert!(!cache.get(black_box(&names[i * 1009 % NAMES])));
    }
}

/// Of names that were not there before, in a cache that is full.
fn insert(times: usize) {
    let cache = Cache::filled();
    // Made before, and as many in both runs.
    let names = names(2 * NAMES..2 * NAMES + 2 * TIMES);
    for name in &names[..times] {
        cache.insert(black_box(name));
    }
}

struct Cache {
    l1: L1<u64>,
    links: Arc<Links>,
    link: LinkId,
}

impl Cache {
    /// One shard, full of the first names.
    fn filled() -> Cache {
        let links = Arc::new(Links::new(1_000_000));
        let link = links.add().expect("the first link");
        let config = L1Config {
            budget_bytes: NAMES * ENTRY_BYTES,
            shards: Some(1),
            max_value_bytes: 16 << 10,
            negative_ttl_us: None,
            max_age_us: None,
            max_stale_us: None,
            consistency: Consistency::Coherent,
            objective: Objective::Requests,
            compression: None,
        };
        let cache = Cache {
            l1: L1::new(config, links.clone()),
            links,
            link,
        };
        cache.links.answered(link, NOW_US);
        names(0..NAMES).iter().for_each(|name| cache.insert(name));
        cache
    }

    fn asker(&self) -> Asker {
        Asker {
            now_us: NOW_US,
            link: self.link,
            own: Own::Clear,
            floor_us: 0,
            takes_stale: false,
        }
    }

    fn get(&self, name: &[u8]) -> bool {
        self.l1.peek(&query(name), &self.asker(), copy).is_some()
    }

    fn insert(&self, name: &[u8]) {
        let decision = self
            .l1
            .decide(&query(name), &self.asker(), Leasing::Allowed, || 0, copy);
        let Decision::Leased(lease) = decision else {
            panic!("the name was there: {decision:?}");
        };
        let fill = Fill {
            value: Value::Bytes(&[b'v'; 64]),
            pttl_ms: -1,
            is_plain: true,
            most_us: None,
        };
        self.l1.complete(lease, Some(fill), NOW_US);
        self.links.answered(self.link, NOW_US);
    }
}

fn names(range: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    range.map(|i| format!("user:{i:011}").into_bytes()).collect()
}

fn query(name: &[u8]) -> Query<'_> {
    Query {
        hash: name_hash(name),
        db: 0,
        name,
        variant: b"",
    }
}

/// As a session does: into a buffer.
fn copy(view: View<'_>) -> usize {
    let mut out = [0; 64];
    if let ViewValue::Small(bytes) = view.value {
        out[..bytes.len()].copy_from_slice(bytes);
    }
    black_box(&out).len()
}

const NOW_US: u64 = 1000;
/// What an entry of these names and values takes, all included, and a little more: all of them fit.
const ENTRY_BYTES: usize = 200;
