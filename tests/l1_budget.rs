//! Whether `used_bytes` tells the truth: what L1 believes to use against what the allocator has handed out, and against
//! the pages that this keeps in use, after random churn.
//!
//! A test binary of its own, because it looks at the memory of the whole process. The allocator is the product's.

use std::env;
use std::process::Command;
use std::sync::Arc;

use nearcache::cache::{
    Asker, Consistency, Decision, Fill, L1, L1Config, Leasing, Links, Objective, Own, Query, Value, name_hash,
};

use tikv_jemalloc_ctl::{epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const MIB: usize = 1 << 20;

/// Bytes in all blocks that are handed out, as the allocator rounds them; and in the pages in which these lie. (Pages in
/// which none lies any more stay resident for some seconds, so that what is resident depends on the machine's speed; the
/// integration test `churn` looks at that.)
fn taken_from_the_allocator() -> (usize, usize) {
    epoch::advance().expect("the allocator counts");
    let read = |counted: Result<usize, _>| counted.expect("the allocator counts");
    (read(stats::allocated::read()), read(stats::active::read()))
}

/// Sizes of values, least and most, one after the other; and how much more than it believes L1 may keep in use.
struct Phase {
    sizes: &'static [(usize, usize)],
    most: f64,
}

const PHASES: [Phase; 4] = [
    Phase {
        sizes: &[(0, 3000)],
        most: 1.16,
    },
    Phase {
        sizes: &[(0, 40)],
        most: 1.1,
    },
    // The allocator has no classes for these: it rounds them to pages.
    Phase {
        sizes: &[(33 << 10, 35 << 10)],
        most: 1.1,
    },
    // The worst there is: tiny entries that were read again stay on, scattered over pages that larger ones cannot use.
    Phase {
        sizes: &[(0, 60), (200, 1500)],
        most: 1.5,
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
    let links = Arc::new(Links::new(1_000_000));
    let link = links.add().unwrap();
    let before = taken_from_the_allocator();
    let config = L1Config {
        budget_bytes: 24 * MIB,
        shards: None,
        max_value_bytes: 64 << 10,
        negative_ttl_us: None,
        max_age_us: None,
        max_stale_us: None,
        consistency: Consistency::Coherent,
        objective: Objective::Requests,
        compression: None,
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
                takes_stale: false,
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
    let after = taken_from_the_allocator();
    let (given, taken) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    let used = l1.stats().used_bytes;
    let ratio = taken as f64 / used as f64;
    let given_ratio = given as f64 / used as f64;
    eprintln!(
        "{:?}, {taken} taken, {ratio:.3}; {given} handed out, {given_ratio:.3}",
        l1.stats()
    );
    assert!(used > 22 * MIB, "the budget was not filled");
    assert!(
        (0.95..1.05).contains(&given_ratio),
        "{given} bytes handed out, {used} used"
    );
    assert!((0.9..phase.most).contains(&ratio), "{taken} bytes taken, {used} used");
}
