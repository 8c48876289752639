//! Whether `used_bytes` tells the truth: what L1 believes to use against what it has asked the allocator for, and against
//! what the process grew by, after random churn.
//!
//! A test binary of its own, because it looks at the memory of the whole process and counts every allocation.

use std::alloc::System;
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use nearcache::cache::{
    Asker, Consistency, Decision, Fill, L1, L1Config, Leasing, Links, Objective, Own, Query, Value, name_hash,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MIB: usize = 1 << 20;

/// What the system allocator adds to a block on average: a header of 8 bytes, and rounding up to 16 (glibc malloc.c).
const BLOCK_OVERHEAD: usize = 16;

/// Anonymous memory that is resident, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Sizes of values, least and most, one after the other; and how much more than it believes L1 may take.
struct Phase {
    sizes: &'static [(usize, usize)],
    most: f64,
}

const PHASES: [Phase; 3] = [
    Phase {
        sizes: &[(0, 3000)],
        most: 1.1,
    },
    Phase {
        sizes: &[(0, 40)],
        most: 1.1,
    },
    // The blocks of tiny entries that are left keep the allocator from joining what was freed around them.
    Phase {
        sizes: &[(0, 60), (200, 1500)],
        most: 1.4,
    },
];

/// Tells a process which of [`PHASES`] it is to run.
const PHASE: &str = "NEARCACHE_TEST_L1_BUDGET_PHASE";

#[test]
fn used_bytes_agree_with_what_the_process_takes() {
    if let Ok(phase) = env::var(PHASE) {
        return churn(&PHASES[phase.parse::<usize>().unwrap()]);
    }
    // What one phase frees stays with the allocator and would hide what the next one takes.
    for phase in 0..PHASES.len() {
        let test = ["--exact", "used_bytes_agree_with_what_the_process_takes", "--nocapture"];
        let child = Command::new(env::current_exe().unwrap())
            .args(test)
            .env(PHASE, phase.to_string())
            .output()
            .unwrap();
        assert!(
            child.status.success(),
            "phase {phase}: {}",
            String::from_utf8_lossy(&child.stderr)
        );
    }
}

fn churn(phase: &Phase) {
    let links = Arc::new(Links::new());
    let link = links.add().unwrap();
    let region = Region::new(ALLOCATOR);
    let before = resident();
    let config = L1Config {
        budget_bytes: 24 * MIB,
        shards: None,
        max_value_bytes: 64 << 10,
        negative_ttl_us: None,
        max_age_us: None,
        bound_us: 1_000_000,
        consistency: Consistency::Coherent,
        objective: Objective::Requests,
    };
    let l1 = L1::<u64>::new(config, links.clone());
    let mut rng = fastrand::Rng::with_seed(11);
    let mut now_us = 1;
    for &(least, most) in phase.sizes {
        let inserts = 4 * 24 * MIB / (most / 2 + 120);
        let mut draw = || format!("user:{}", rng.u32(0..(inserts / 2) as u32));
        let mut sizes = fastrand::Rng::with_seed(12);
        for _ in 0..inserts {
            now_us += 1;
            let (name, other) = (draw(), draw());
            let q = Query {
                hash: name_hash(name.as_bytes()),
                db: 0,
                name: name.as_bytes(),
                variant: b"",
            };
            let asker = Asker {
                now_us,
                link,
                own: Own::Clear,
                floor_us: 0,
            };
            if let Decision::Leased(lease) = l1.decide(&q, &asker, Leasing::Allowed, || 0, |_| ()) {
                let value = vec![b'v'; sizes.usize(least..most)];
                l1.complete(
                    lease,
                    Some(Fill {
                        value: Value::Bytes(&value),
                        pttl_ms: -1,
                        is_plain: true,
                        most_us: None,
                    }),
                    now_us,
                );
            }
            if sizes.u8(0..20) == 0 {
                l1.push(link, name_hash(other.as_bytes()));
            }
            links.answered(link, now_us);
        }
    }
    let counted = region.change();
    let live = counted.allocations.saturating_sub(counted.deallocations);
    let asked_for = counted.bytes_allocated.saturating_sub(counted.bytes_deallocated) + live * BLOCK_OVERHEAD;
    let (used, taken) = (l1.stats().used_bytes, resident().saturating_sub(before));
    let ratio = taken as f64 / used as f64;
    let asked_ratio = asked_for as f64 / used as f64;
    eprintln!(
        "{:?}, {taken} taken, {ratio:.3}; {asked_for} asked for, {asked_ratio:.3}",
        l1.stats()
    );
    assert!(used > 22 * MIB, "the budget was not filled");
    assert!(
        (0.9..1.1).contains(&asked_ratio),
        "{asked_for} bytes asked for, {used} used"
    );
    assert!((0.9..phase.most).contains(&ratio), "{taken} bytes taken, {used} used");
}
