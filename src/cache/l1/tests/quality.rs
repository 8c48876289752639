//! What L1 misses on small traces that are made here: each has one of the features of real ones that tell policies apart.
//! `benches/replay.rs` plays real ones.

use super::*;

/// Names and sizes of their values, in the order of the reads.
type Reads = Vec<(u32, usize)>;

struct Missed {
    requests: f64,
    bytes: f64,
}

/// Plays `reads` and returns the parts that were missed.
fn play(reads: &Reads, budget_bytes: usize, objective: Objective) -> Missed {
    let r = rig_with(Config {
        budget_bytes,
        shards: Some(1),
        max_value_bytes: budget_bytes,
        objective,
        ..config()
    });
    let value = vec![b'v'; reads.iter().map(|&(_, size)| size).max().unwrap_or(0)];
    let (mut missed, mut missed_bytes, mut bytes) = (0, 0, 0);
    for (i, &(number, size)) in reads.iter().enumerate() {
        bytes += size;
        let (name, now_us) = (number.to_string(), 1000 + i as u64);
        r.links.answered(r.a, now_us);
        let Decision::Leased(lease) = r.decide(get(&name), on(r.a, now_us)) else {
            continue;
        };
        let fill = Fill {
            value: Value::Bytes(&value[..size]),
            pttl_ms: -1,
            is_plain: true,
            most_us: None,
        };
        r.l1.got(lease);
        r.l1.complete(lease, Some(fill), now_us);
        missed += 1;
        missed_bytes += size;
        let used_bytes = r.l1.stats().used_bytes;
        assert!(used_bytes <= budget_bytes + budget_bytes / 10, "{used_bytes}");
    }
    Missed {
        requests: f64::from(missed) / reads.len() as f64,
        bytes: missed_bytes as f64 / bytes as f64,
    }
}

/// The same with the `lru` crate, and as many entries as L1 can hold of that size.
fn lru_misses(reads: &Reads, budget_bytes: usize) -> f64 {
    let mut held = lru::LruCache::unbounded();
    let (mut used, mut missed) = (0, 0);
    for &(number, size) in reads {
        if held.get(&number).is_some() {
            continue;
        }
        missed += 1;
        used += size + 72;
        held.put(number, size);
        while used > budget_bytes {
            used -= held.pop_lru().map_or(0, |(_, size)| size + 72);
        }
    }
    f64::from(missed) / reads.len() as f64
}

const BUDGET: usize = 256 << 10;

/// Low numbers are read most: the cube of a uniform draw.
fn skewed(rng: &mut fastrand::Rng, names: u32) -> u32 {
    (rng.f64().powi(3) * f64::from(names)) as u32
}

#[test]
fn a_scan_does_not_displace_what_is_read_again() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut reads = Reads::new();
    for round in 0..20 {
        reads.extend((0..3000).map(|_| (skewed(&mut rng, 5000), 64)));
        reads.extend((0..3000).map(|i| (1_000_000 + round * 3000 + i, 64)));
    }
    let (ours, lru) = (
        play(&reads, BUDGET, Objective::Requests).requests,
        lru_misses(&reads, BUDGET),
    );
    assert!(ours < lru - 0.03, "{ours} against {lru}");
}

#[test]
fn bursts_are_hit_as_by_lru() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut reads = Reads::new();
    // Each name lives for a while, is read at random in it, and never again.
    for at in 0..60_000u32 {
        reads.push((at / 4 + rng.u32(0..500), 64));
    }
    let (ours, lru) = (
        play(&reads, BUDGET, Objective::Requests).requests,
        lru_misses(&reads, BUDGET),
    );
    assert!(ours < lru + 0.03, "{ours} against {lru}");
}

#[test]
fn size_decides_where_requests_count_and_not_where_bytes_do() {
    let mut rng = fastrand::Rng::with_seed(3);
    // Sizes from 32 B to 16 KiB by powers of two, whatever the popularity.
    let reads: Reads = (0..60_000)
        .map(|_| {
            let name = skewed(&mut rng, 4000);
            (name, 32 << ((name.wrapping_mul(2_654_435_761) >> 16) % 10))
        })
        .collect();
    let by_requests = play(&reads, BUDGET, Objective::Requests);
    let by_bytes = play(&reads, BUDGET, Objective::Bytes);
    let lru = lru_misses(&reads, BUDGET);
    assert!(
        by_requests.requests < lru - 0.07,
        "{} against {lru}",
        by_requests.requests
    );
    assert!(by_requests.requests < by_bytes.requests - 0.01);
    assert!(
        by_bytes.bytes < by_requests.bytes - 0.005,
        "{} against {}",
        by_bytes.bytes,
        by_requests.bytes
    );
}

#[test]
fn a_large_value_does_not_empty_l1() {
    let mut rng = fastrand::Rng::with_seed(4);
    let reads: Reads = (0..40_000)
        .map(|i| match i % 100 {
            0 => (1_000_000 + i, BUDGET / 8),
            _ => (skewed(&mut rng, 3000), 64),
        })
        .collect();
    let (ours, lru) = (
        play(&reads, BUDGET, Objective::Requests).requests,
        lru_misses(&reads, BUDGET),
    );
    assert!(ours < lru - 0.03, "{ours} against {lru}");
}
