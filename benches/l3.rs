//! The store on the disk by itself: how fast it takes entries, how fast it opens, and how long a lookup takes with so many
//! at a time.
//!
//! `cargo bench --bench l3 -- [--entries 1000000] [--value 100] [--encrypt] [--compression zstd --chance 4]`. The files are in `TMPDIR` and, where memory allows, in the
//! page cache: what is measured is the program, not the medium.

#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hdrhistogram::Histogram;
use nearcache::cache::l3::codec::{self, Method};
use nearcache::cache::l3::keys::{KEY_BYTES, KeyRing, NewSegments};
use nearcache::cache::l3::storage::Disk;
use nearcache::cache::l3::{Admission, Compression, Config, KeyEnd, L3, Origin, Recovery, Spill, State, Sync};
use nearcache::cache::{Links, Query, name_hash_by};
use nearcache::clock::now_us;

/// That of the product.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
    /// Bits of chance in each byte of a value: 8 cannot be compressed, 0 is one byte again and again
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=8))]
    chance: u8,
    #[arg(long, value_enum, default_value = "off")]
    compression: Codec,
    #[arg(long)]
    encrypt: bool,
    /// Threads that read
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Threads that keep the processor busy while it is measured how long a write waits for its tombstone
    #[arg(long, default_value_t = 0)]
    busy: usize,
    /// Where the store is left for another run, which then only opens and reads it
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Codec {
    Off,
    Lz4,
    Zstd,
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
    let passing = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = options.dir.as_deref().unwrap_or(passing.path());
    if !dir.join("complete").exists() {
        make(dir, options)?;
    }
    let mut l3 = None;
    for _ in 0..3 {
        drop(l3.take());
        let (begun, cpu_before) = (Instant::now(), cpu_time());
        let opened = open(dir, options)?;
        while opened.state() == State::Recovering {
            thread::sleep(Duration::from_millis(1));
        }
        let (took, cpu) = (begun.elapsed(), cpu_time() - cpu_before);
        let entries = opened.stats().entries;
        println!(
            "opened: {entries} entries in {:.0} ms, {:.1} M entries/s; {:.0} ms of the processor, {:.1} M entries/s",
            took.as_secs_f64() * 1e3,
            entries as f64 / took.as_secs_f64() / 1e6,
            cpu.as_secs_f64() * 1e3,
            entries as f64 / cpu.as_secs_f64() / 1e6,
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
    if options.dir.is_some() {
        return Ok(());
    }
    let waits = acknowledge(&l3, options)?;
    println!(
        "tombstone written, {} threads busy: p50 {} µs, p99 {} µs, at most {} µs",
        options.busy,
        waits.value_at_quantile(0.5),
        waits.value_at_quantile(0.99),
        waits.max(),
    );
    Ok(())
}

/// How long the acknowledgement of a write waits whose key is on the disk. These keys are gone then.
fn acknowledge(l3: &L3, options: &Options) -> Result<Histogram<u64>, String> {
    let mut waits = Histogram::new(3).map_err(|error| error.to_string())?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..options.busy {
            scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let (tell, told) = channel();
        for i in 0..TOMBSTONES.min(options.entries) {
            let hash = name_hash_by(l3.seed(), name(i).as_bytes());
            let begun = Instant::now();
            l3.void(hash);
            let tell = tell.clone();
            l3.when_paid(l3.owed(hash), move || {
                let _ = tell.send(());
            });
            let _ = told.recv();
            waits += begun.elapsed().as_micros() as u64;
            // As long as the writer takes to rest again.
            thread::sleep(Duration::from_millis(1));
        }
        is_over.store(true, Relaxed);
    });
    Ok(waits)
}

const TOMBSTONES: usize = 2000;

fn make(dir: &Path, options: &Options) -> Result<(), String> {
    let l3 = open(dir, options)?;
    let begun = Instant::now();
    write(&l3, options);
    let took = begun.elapsed();
    let stats = l3.stats();
    println!(
        "written: {} entries, {:.0} MB/s, {:.2} M entries/s, {:.1} bytes of index an entry, {:.2} s of compression, {} to {} bytes",
        stats.entries,
        stats.counts.medium_bytes as f64 / took.as_secs_f64() / 1e6,
        stats.entries as f64 / took.as_secs_f64() / 1e6,
        stats.index_bytes as f64 / stats.entries as f64,
        stats.counts.compress_ns as f64 / 1e9,
        stats.counts.compress_from_bytes,
        stats.counts.compress_to_bytes,
    );
    l3.close();
    Ok(())
}

/// What this process has had of the processor, which other processes do not change.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn open(path: &Path, options: &Options) -> Result<L3, String> {
    let config = Config {
        size_bytes: 64 << 30,
        segment_bytes: 64 << 20,
        max_value_bytes: 1 << 20,
        queue_bytes: 16 << 20,
        admission: Admission::All,
        sync: Sync::Interval(1_000_000),
        recovery: Recovery::TolerateTornTail,
        write_bytes_a_second: None,
        readers: options.readers,
        hash: name_hash_by,
        identity: 0,
        compression: match options.compression {
            Codec::Off => None,
            Codec::Lz4 => Some(Method::Lz4),
            Codec::Zstd => Some(Method::Zstd(3)),
        }
        .map(|method| Compression { method, from_bytes: 64 }),
        keys: match options.encrypt {
            true => KeyRing::new(&[[7; KEY_BYTES]], NewSegments::Encrypted),
            false => KeyRing::default(),
        },
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
    let mut random = fastrand::Rng::with_seed(2);
    for i in 0..options.entries {
        let name = name(i);
        let hash = name_hash_by(l3.seed(), name.as_bytes());
        let mut block = name.clone().into_bytes();
        let mask = 0xff_u16 >> (8 - options.chance);
        block.extend((0..options.value).map(|_| b'@' ^ random.u8(..) & mask as u8));
        // As much as the queue takes; what it drops would make the figure better.
        while l3.stats().queued_bytes > 15 << 20 {
            thread::sleep(Duration::from_micros(200));
        }
        l3.spill(Spill {
            hash,
            db: 0,
            parts: 0..block.len(),
            block: block.into(),
            name_len: name.len(),
            variant_len: 0,
            value: None,
            codec: codec::Codec::Plain,
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
                |_, _| true,
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
