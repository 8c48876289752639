//! The store on the disk by itself: how fast it takes entries, how fast it opens, and how long a lookup takes with so many
//! at a time.
//!
//! `cargo bench --bench l3 -- [--entries 1000000] [--value 100]`. The files are in `TMPDIR` and, where memory allows, in the
//! page cache: what is measured is the program, not the medium.

#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use nearcache::cache::l3::storage::Disk;
use nearcache::cache::l3::{Admission, Config, KeyEnd, L3, Origin, Recovery, Spill, State, Sync};
use nearcache::cache::{Links, Query, name_hash_by};
use nearcache::clock::now_us;

#[derive(Parser)]
#[command(name = "l3", about = "Writes, opens and reads a store of L3.")]
struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    entries: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 100)]
    value: usize,
    /// Lookups for each number of readers
    #[arg(long, default_value_t = 100_000)]
    lookups: usize,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("l3: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let l3 = open(dir.path())?;
    let begun = Instant::now();
    write(&l3, options);
    let took = begun.elapsed();
    let stats = l3.stats();
    println!(
        "written: {} entries, {:.0} MB/s, {:.2} M entries/s, {:.1} bytes of index an entry",
        stats.entries,
        stats.counts.medium_bytes as f64 / took.as_secs_f64() / 1e6,
        stats.entries as f64 / took.as_secs_f64() / 1e6,
        stats.index_bytes as f64 / stats.entries as f64,
    );
    l3.close();
    drop(l3);
    let mut l3 = None;
    for _ in 0..3 {
        drop(l3.take());
        let begun = Instant::now();
        let opened = open(dir.path())?;
        while opened.state() == State::Recovering {
            thread::sleep(Duration::from_micros(200));
        }
        let took = begun.elapsed();
        let entries = opened.stats().entries;
        println!(
            "opened: {entries} entries in {:.0} ms, {:.1} M entries/s",
            took.as_secs_f64() * 1e3,
            entries as f64 / took.as_secs_f64() / 1e6,
        );
        l3 = Some(opened);
    }
    let Some(l3) = l3 else { return Ok(()) };
    for readers in [1, 16, 64] {
        let (times, took) = read(&l3, options, readers)?;
        println!(
            "read, {readers:>2} at a time: p50 {} µs, p99 {} µs, {:.0} lookups/s",
            times.value_at_quantile(0.5),
            times.value_at_quantile(0.99),
            times.len() as f64 / took.as_secs_f64(),
        );
    }
    Ok(())
}

fn open(path: &Path) -> Result<L3, String> {
    let config = Config {
        size_bytes: 64 << 30,
        segment_bytes: 64 << 20,
        max_value_bytes: 1 << 20,
        queue_bytes: 16 << 20,
        admission: Admission::All,
        sync: Sync::Interval(1_000_000),
        recovery: Recovery::TolerateTornTail,
        write_bytes_a_second: None,
        readers: 2,
        hash: name_hash_by,
        identity: 0,
        unix_offset_ms: 1_700_000_000_000,
        boot: None,
    };
    let disk = Disk::new(path).map_err(|error| error.to_string())?;
    L3::open(config, Box::new(disk)).map_err(|error| error.to_string())
}

fn name(i: usize) -> String {
    format!("user:{i:012}")
}

fn write(l3: &L3, options: &Options) {
    let link = Links::new(1).add();
    for i in 0..options.entries {
        let name = name(i);
        let hash = name_hash_by(l3.seed(), name.as_bytes());
        let mut block = name.clone().into_bytes();
        block.resize(name.len() + options.value, b'v');
        // As much as the queue takes; what it drops would make the figure better.
        while l3.stats().queued_bytes > 15 << 20 {
            thread::sleep(Duration::from_micros(200));
        }
        l3.spill(Spill {
            hash,
            db: 0,
            block: block.into(),
            start: 0,
            name_len: name.len(),
            variant_len: 0,
            value: None,
            is_absent: false,
            is_plain: true,
            key_end: KeyEnd::Never,
            filled_us: 1,
            deadline_us: None,
            origin: link.map_or(Origin::EarlierLife, |link| Origin::ThisLife { link, epoch: 1 }),
            mark: l3.mark(hash as u32),
        });
    }
    while l3.stats().queued_bytes > 0 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
}

fn read(l3: &L3, options: &Options, at_a_time: usize) -> Result<(Histogram<u64>, Duration), String> {
    let mut times = Histogram::new(3).map_err(|error| error.to_string())?;
    let (tell, told) = channel();
    let mut random = fastrand::Rng::with_seed(1);
    let begun = Instant::now();
    let (mut asked, mut answered) = (0, 0);
    while answered < options.lookups {
        while asked < options.lookups && asked - answered < at_a_time {
            let name = name(random.usize(..options.entries));
            let query = Query {
                hash: name_hash_by(l3.seed(), name.as_bytes()),
                db: 0,
                name: name.as_bytes(),
                variant: b"",
            };
            let (tell, since) = (tell.clone(), Instant::now());
            let is_there = l3.lookup(
                &query,
                now_us(),
                |_| true,
                move |found| {
                    let _ = tell.send((since, found.is_some()));
                },
            );
            if !is_there {
                return Err(format!("{name} is not there"));
            }
            asked += 1;
        }
        let (since, is_found) = told.recv().map_err(|error| error.to_string())?;
        if !is_found {
            return Err("an entry was not found".to_owned());
        }
        times += since.elapsed().as_micros() as u64;
        answered += 1;
    }
    Ok((times, begun.elapsed()))
}
