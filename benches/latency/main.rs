//! How long requests take under a load that does not wait for the answers, side by side with redis-server.
//!
//! `cargo bench --bench latency` finds the highest rate by a closed loop, then sends half of it at even intervals and
//! prints p50, p99 and p99.9 of hits and of misses through nearcache and of the same requests to redis-server directly.
//! `cargo bench --bench latency -- --relay-delay-ms 0.2` puts a network before the server.
//! `cargo bench --bench latency -- fairness` prints what 50 polite clients see of one that keeps sending pipelines of
//! 10,000. `cargo bench --bench latency -- disk` prints what the tier on the disk costs hits in memory, and how long a read
//! from there takes. `-- --help` lists the options.
//!
//! Latencies count from the moment at which a request was scheduled. All figures are medians of rounds in which the cases
//! take turns, ratios are taken within a round. Needs redis-server, unless addresses are given.

#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

mod disk;
mod greedy;
mod load;
mod relay;
mod stage;
mod table;

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use greedy::Greedy;
use load::{Keys, Load, Outcome, Pace, micros};
use rustix::process::setpriority_process;
use stage::{Stage, reads};
use table::{Table, median};

#[derive(Parser, Debug)]
#[command(about = "Latency under a load that does not wait for the answers, side by side with redis-server.")]
pub struct Options {
    #[arg(value_enum, default_value = "latency")]
    what: What,
    /// Rounds in which each case is measured once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Seconds that each case is measured for in a round.
    #[arg(long, default_value_t = 2.0, value_parser = positive)]
    seconds: f64,
    /// Connections that the requests go over in turn; each polite client is one.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    connections: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Keys that are read again and again.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Keys that are read in order, so that none is still cached when its turn comes again.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    miss_keys: u64,
    /// Requests a second, instead of half of what the slower one of each pair can do.
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// A network before the server, for nearcache and for direct clients alike: milliseconds that it adds to each round
    /// trip, half of them in each direction.
    #[arg(long, value_parser = positive, conflicts_with = "nearcache")]
    relay_delay_ms: Option<f64>,
    /// Worker threads of nearcache; 0 is as many as it takes by default.
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Address of a redis-server or valkey-server to measure; its keys `key:…` are overwritten.
    #[arg(long)]
    redis: Option<SocketAddr>,
    /// Address of a nearcache in front of that server. Misses are only misses if its L1 is small for `--miss-keys`.
    #[arg(long, requires = "redis")]
    nearcache: Option<SocketAddr>,
    /// fairness: requests a second of each polite client.
    #[arg(long, default_value_t = 40.0, value_parser = positive)]
    polite_rate: f64,
    /// fairness: requests in the greedy client's pipeline.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pipeline: u64,
    /// Print a table for a Markdown page.
    #[arg(long)]
    markdown: bool,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    /// Hits, misses and direct requests at half of the highest rate.
    Latency,
    /// Polite clients beside a greedy one.
    Fairness,
    /// Hits of L1 beside reads that go to the disk or write to it, and how long these take.
    Disk,
}

fn main() {
    let options = Options::parse();
    let measured = match options.what {
        What::Latency => Stage::set_up(&options).and_then(|stage| latency(&options, &stage)),
        What::Fairness => Stage::set_up(&options).and_then(|stage| fairness(&options, &stage)),
        What::Disk => disk::disk(&options),
    };
    if let Err(error) = measured {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Of who measures, which others would else keep from sending in time.
const HIGH_PRIORITY: i32 = -10;

/// Hits against direct requests at one rate, misses against direct requests at theirs.
fn latency(options: &Options, stage: &Stage) -> Result<()> {
    let mut direct = options.load(stage.redis, Keys::hot(options.keys))?;
    let mut hits = options.load(stage.hits, Keys::hot(options.keys))?;
    let mut misses = options.load(
        stage.misses,
        Keys::Walk {
            first: options.keys,
            count: options.miss_keys,
            next: 0,
        },
    )?;
    let highest = |load: &mut Load| -> Result<f64> {
        // The first run fills the cache and warms the server.
        load.run(Pace::Closed, Duration::from_millis(500))?;
        Ok(load.run(Pace::Closed, Duration::from_secs(1))?.rate)
    };
    let (of_direct, of_hits, of_misses) = (highest(&mut direct)?, highest(&mut hits)?, highest(&mut misses)?);
    let hit_rate = options.rate.unwrap_or(of_hits.min(of_direct) / 2.0);
    let miss_rate = options.rate.unwrap_or(of_misses.min(of_direct) / 2.0);
    let mut runs: [Vec<Outcome>; 4] = Default::default();
    for _ in 0..options.rounds {
        runs[0].push(options.run(&mut direct, hit_rate)?);
        let before = reads(stage.hits)?;
        runs[1].push(options.run(&mut hits, hit_rate)?);
        let after = reads(stage.hits)?;
        check_share("hits", after.hits - before.hits, after.misses - before.misses)?;
        runs[2].push(options.run(&mut direct, miss_rate)?);
        let before = reads(stage.misses)?;
        runs[3].push(options.run(&mut misses, miss_rate)?);
        let after = reads(stage.misses)?;
        check_share("misses", after.misses - before.misses, after.hits - before.hits)?;
    }

    options.say_conditions("latency of a GET from its scheduled time, open loop");
    println!(
        "{}Highest rates, closed loop: direct {of_direct:.0}/s, hits {of_hits:.0}/s, misses {of_misses:.0}/s.{}\n",
        if options.markdown { "" } else { "# " },
        options.relay_delay_ms.map_or(String::new(), |delay_ms| format!(
            " A network before the server adds {delay_ms} ms to each round trip."
        ))
    );
    let columns = ["p50 µs", "p99 µs", "p99.9 µs"];
    let mut table = Table::new(options.markdown, &["case", "rate/s"]);
    table.columns(&columns);
    table.columns(&["p50 ratio", "p99 ratio", "p99.9 ratio", "send lag p99 µs"]);
    let cases = [
        ("direct", 0, 0, hit_rate),
        ("hit through nearcache", 1, 0, hit_rate),
        ("direct", 2, 2, miss_rate),
        ("miss through nearcache", 3, 2, miss_rate),
    ];
    for (name, case, base, rate) in cases {
        let mut cells = vec![name.to_owned(), format!("{rate:.0}")];
        for quantile in QUANTILES {
            cells.push(format!("{:.0}", median_of(&runs[case], |run| run.at(quantile))));
        }
        for quantile in QUANTILES {
            let pairs = runs[case].iter().zip(&runs[base]);
            let ratio = median(pairs.map(|(run, base)| run.at(quantile) / base.at(quantile)).collect());
            cells.push(format!("{ratio:.2}"));
        }
        cells.push(format!("{:.0}", median_of(&runs[case], Outcome::lag_p99)));
        table.row(cells);
    }
    table.print();
    for (name, case, _, rate) in cases {
        warn(name, &runs[case], rate);
    }
    Ok(())
}

/// Polite clients without and with a greedy one, at nearcache and at redis-server.
fn fairness(options: &Options, stage: &Stage) -> Result<()> {
    let targets = [("redis-server", stage.redis), ("nearcache", stage.hits)];
    // The servers run already, at the ordinary priority. Only root may; for others requests are sent later, which is said.
    let _ = setpriority_process(None, HIGH_PRIORITY);
    let rate = options.polite_rate * options.connections as f64;
    let mut loads = Vec::new();
    for (_, address) in targets {
        let mut load = options.load(address, Keys::hot(options.keys))?;
        load.run(Pace::Closed, Duration::from_millis(500))?;
        loads.push(load);
    }
    let mut alone: [Vec<Outcome>; 2] = Default::default();
    let mut beside: [Vec<Outcome>; 2] = Default::default();
    let mut served: [Vec<f64>; 2] = Default::default();
    for _ in 0..options.rounds {
        for (i, (_, address)) in targets.into_iter().enumerate() {
            alone[i].push(options.run(&mut loads[i], rate)?);
            let greedy = Greedy::start(address, options.pipeline as usize, options.keys, options.size)?;
            let run = options.run(&mut loads[i], rate);
            served[i].push(greedy.end()?);
            beside[i].push(run?);
        }
    }

    options.say_conditions(&format!(
        "latency of hits of {} polite clients, {} a second each, without and with a greedy one that sends {} at once",
        options.connections, options.polite_rate, options.pipeline
    ));
    println!();
    let mut table = Table::new(options.markdown, &["target"]);
    table.columns(&["p50 alone µs", "p50 beside µs", "p99 alone µs", "p99 beside µs"]);
    table.columns(&["p99 ratio", "greedy's req/s", "send lag p99 µs"]);
    for (i, (name, _)) in targets.into_iter().enumerate() {
        let mut cells = vec![name.to_owned()];
        for quantile in [0.5, 0.99] {
            cells.push(format!("{:.0}", median_of(&alone[i], |run| run.at(quantile))));
            cells.push(format!("{:.0}", median_of(&beside[i], |run| run.at(quantile))));
        }
        let ratios = alone[i].iter().zip(&beside[i]).map(|(a, b)| b.at(0.99) / a.at(0.99));
        cells.push(format!("{:.2}", median(ratios.collect())));
        cells.push(format!("{:.0}", median(served[i].clone())));
        cells.push(format!("{:.0}", median_of(&beside[i], Outcome::lag_p99)));
        table.row(cells);
    }
    table.print();
    for (i, (name, _)) in targets.into_iter().enumerate() {
        warn(&format!("{name} alone"), &alone[i], rate);
        warn(&format!("{name} beside the greedy client"), &beside[i], rate);
    }
    Ok(())
}

impl Options {
    fn load(&self, address: SocketAddr, keys: Keys) -> Result<Load> {
        Load::connect(address, self.connections as usize, keys, self.size)
            .map_err(|error| Error::other(format!("{address}: {error}")))
    }

    fn run(&self, load: &mut Load, rate: f64) -> Result<Outcome> {
        load.run(Pace::Open { rate }, Duration::from_secs_f64(self.seconds))
    }

    fn say_conditions(&self, what: &str) {
        let given: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
        let arguments = if given.is_empty() { "" } else { " -- " };
        println!(
            "{}`cargo bench --bench latency{arguments}{}`, {}: {what}. {} connections, values of {} bytes; medians of {} \
             interleaved rounds of {} s.",
            if self.markdown { "" } else { "# " },
            given.join(" "),
            table::when_and_where(),
            self.connections,
            self.size,
            self.rounds,
            self.seconds,
        );
    }
}

impl Outcome {
    fn at(&self, quantile: f64) -> f64 {
        micros(&self.latency, quantile)
    }

    fn lag_p99(&self) -> f64 {
        micros(&self.lag, 0.99)
    }
}

/// Says when figures are those of the generator, or of a server that was given more than it can do.
fn warn(name: &str, runs: &[Outcome], rate: f64) {
    let (lag, p99) = (median_of(runs, Outcome::lag_p99), median_of(runs, |run| run.at(0.99)));
    if lag > p99 / 4.0 {
        println!(
            "! {name}: the generator itself sent up to {lag:.0} µs late (p99), of a p99 of {p99:.0} µs: it, or the machine, \
             is the bottleneck"
        );
    }
    let reached = median_of(runs, |run| run.rate);
    if reached < 0.97 * rate {
        println!("! {name}: {reached:.0} of {rate:.0} requests a second were answered: overloaded");
    }
}

/// A run of hits, or of misses, must have been one.
fn check_share(what: &str, right: u64, wrong: u64) -> Result<()> {
    let share = right as f64 / (right + wrong).max(1) as f64;
    if share < 0.99 {
        let percent = share * 100.0;
        return Err(Error::other(format!(
            "only {percent:.1} % of the reads were {what}: L1 must have room for --keys, and not for --miss-keys"
        )));
    }
    Ok(())
}

fn median_of(runs: &[Outcome], of: impl Fn(&Outcome) -> f64) -> f64 {
    median(runs.iter().map(of).collect())
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number.is_finite() => Ok(number),
        _ => Err("must be a number above 0".into()),
    }
}

const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
