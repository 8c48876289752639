//! What the tier on the disk costs those whose keys are in memory, and what it gives those whose keys are not.

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use crate::Options;
use crate::load::{Keys, Load, Outcome, Pace};
use crate::stage::{Disks, facts};
use crate::table::{Table, median};

/// Hits of L1 alone, beside misses without a disk, beside misses that are all written to the disk, and beside reads of it.
pub fn disk(options: &Options) -> Result<()> {
    let disks = Disks::set_up(options)?;
    let walk = || Keys::Walk {
        first: options.keys,
        count: options.miss_keys,
        next: 0,
    };
    // Through all keys first, so that L1 is full, and the files are.
    let mut highest = f64::MAX;
    for address in [disks.without, disks.writing, disks.reading] {
        let mut fill = options.load(address, walk())?;
        let rate = fill.run(Pace::Closed, Duration::from_secs(1))?.rate;
        let all = 1.5 * options.miss_keys as f64 / rate;
        fill.run(Pace::Closed, Duration::from_secs_f64(all))?;
        highest = highest.min(rate);
    }
    let beside_rate = highest / 3.0;
    let cases: [(&str, SocketAddr, bool); 4] = [
        ("hits alone", disks.without, false),
        ("hits beside misses, no L3", disks.without, true),
        ("hits beside misses that are written to L3", disks.writing, true),
        ("hits beside reads of L3", disks.reading, true),
    ];
    let mut closed: [Vec<f64>; 4] = Default::default();
    let mut open: [Vec<Outcome>; 4] = Default::default();
    let mut beside: [Vec<f64>; 4] = Default::default();
    let mut of_disk = [[0; 2]; 4];
    let mut rate = 0.0;
    for _ in 0..options.rounds {
        for (i, (_, address, has_company)) in cases.into_iter().enumerate() {
            let mut hits = options.load(address, Keys::hot(options.keys))?;
            hits.run(Pace::Closed, Duration::from_millis(300))?;
            let before = facts(address, DISK_FACTS)?;
            let is_over = AtomicBool::new(false);
            let (reached, run, company) = std::thread::scope(|scope| -> Result<_> {
                let company = scope.spawn(|| -> Result<f64> {
                    let mut rates = Vec::new();
                    if has_company {
                        let mut load = options.load(address, walk())?;
                        while !is_over.load(Relaxed) {
                            let pace = Pace::Open { rate: beside_rate };
                            rates.push(load.run(pace, Duration::from_millis(500))?.rate);
                        }
                    }
                    Ok(if rates.is_empty() { 0.0 } else { median(rates) })
                });
                let measured = hits
                    .run(Pace::Closed, Duration::from_secs_f64(options.seconds))
                    .and_then(|outcome| {
                        if rate == 0.0 {
                            rate = options.rate.unwrap_or(outcome.rate / 4.0);
                        }
                        Ok((outcome.rate, options.run(&mut hits, rate)?))
                    });
                is_over.store(true, Relaxed);
                let company = company.join().map_err(|_| Error::other("the other load panicked"))?;
                let (reached, run) = measured?;
                Ok((reached, run, company?))
            })?;
            let after = facts(address, DISK_FACTS)?;
            closed[i].push(reached);
            open[i].push(run);
            beside[i].push(company);
            (0..2).for_each(|fact| of_disk[i][fact] += after[fact] - before[fact]);
        }
    }
    options.say_conditions(&format!(
        "hits of L1 in a closed loop and at {rate:.0} a second, beside other reads at {beside_rate:.0} a second"
    ));
    let mut table = Table::new(options.markdown, &["case"]);
    table.columns(&[
        "hits/s",
        "ratio",
        "p50 µs",
        "p99 µs",
        "p99 ratio",
        "others/s",
        "written",
        "read",
    ]);
    for (i, (name, ..)) in cases.into_iter().enumerate() {
        // Each is compared with the case above it that does not use the disk.
        let base = if i < 2 { 0 } else { 1 };
        let ratio = closed[i].iter().zip(&closed[base]).map(|(one, base)| one / base);
        let p99 = |case: usize| open[case].iter().map(|run| run.at(0.99));
        table.row(vec![
            name.to_owned(),
            format!("{:.0}", median(closed[i].clone())),
            format!("{:.2}", median(ratio.collect())),
            format!("{:.0}", median(open[i].iter().map(|run| run.at(0.5)).collect())),
            format!("{:.0}", median(p99(i).collect())),
            format!(
                "{:.2}",
                median(p99(i).zip(p99(base)).map(|(one, base)| one / base).collect())
            ),
            format!("{:.0}", median(beside[i].clone())),
            of_disk[i][0].to_string(),
            of_disk[i][1].to_string(),
        ]);
    }
    table.print();
    round_trips(options, &disks, walk)
}

const DISK_FACTS: [&str; 2] = ["nearcache_l3_writes", "nearcache_l3_hits"];

/// A read that the disk answers beside the same read at the server, with so many clients that wait for their answers.
fn round_trips(options: &Options, disks: &Disks, walk: impl Fn() -> Keys) -> Result<()> {
    println!();
    let mut table = Table::new(options.markdown, &["clients"]);
    table.columns(&[
        "L3 p50 µs",
        "L3 p99 µs",
        "server p50 µs",
        "server p99 µs",
        "L3/s",
        "server/s",
        "from L3",
    ]);
    for clients in [1, 16, 64] {
        let mut runs: [Vec<Outcome>; 2] = Default::default();
        let (mut read, mut all) = (0, 0.0);
        for _ in 0..options.rounds {
            for (i, address) in [disks.reading, disks.redis].into_iter().enumerate() {
                let mut load = Load::connect(address, clients, walk(), options.size)?;
                let [before] = facts(disks.reading, ["nearcache_l3_hits"])?;
                let run = load.run(Pace::Closed, Duration::from_secs_f64(options.seconds))?;
                let [after] = facts(disks.reading, ["nearcache_l3_hits"])?;
                read += after - before;
                all += if i == 0 { run.rate * options.seconds } else { 0.0 };
                runs[i].push(run);
            }
        }
        let at = |case: usize, quantile| median(runs[case].iter().map(|run| run.at(quantile)).collect());
        let rate = |case: usize| median(runs[case].iter().map(|run| run.rate).collect());
        let mut cells = vec![clients.to_string()];
        cells.extend([at(0, 0.5), at(0, 0.99), at(1, 0.5), at(1, 0.99), rate(0), rate(1)].map(|x| format!("{x:.0}")));
        cells.push(format!("{:.0} %", read as f64 / all * 100.0));
        table.row(cells);
    }
    table.print();
    Ok(())
}
