//! L1 alone: hit, miss, an insert that evicts, and batches, under names that are drawn as real ones are (Zipf, 0.99).
//!
//! `cargo bench --bench l1`; the figures to reach are, for 1 M names of which 100,000 fit: hit 120 ns, miss 30 ns, insert
//! 450 ns; with 10,000 names: set 100 ns, get 60 ns, a hundred of each 10 and 6 µs.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use nearcache::cache::{
    Asker, Consistency, Decision, Fill, L1, L1Config, Leasing, LinkId, Links, Objective, Own, Query, Value, View,
    ViewValue, Which, name_hash,
};

const NAMES: usize = 1_000_000;
const VALUE: [u8; 64] = [b'v'; 64];
/// What an entry of these names and values takes, all included.
const ENTRY: usize = 165;

struct Bench {
    l1: L1<u64>,
    links: Arc<Links>,
    link: LinkId,
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(30);
    large(&mut criterion);
    small(&mut criterion);
    criterion.final_summary();
}

/// 1 M names, room for about 100,000.
fn large(criterion: &mut Criterion) {
    let names = names(NAMES);
    let draws = zipf(NAMES, 1 << 20);
    let bench = Bench::new(100_000 * ENTRY);
    for &draw in &draws {
        bench.read_through(&names[draw]);
    }
    eprintln!("{:?}", bench.l1.stats());
    let resident: Vec<_> = draws.iter().copied().filter(|&draw| bench.get(&names[draw])).collect();
    let missing: Vec<_> = (0..NAMES)
        .rev()
        .filter(|&i| !bench.get(&names[i]))
        .take(1 << 20)
        .collect();
    let mut at = 0;
    criterion.bench_function("hit, 100k resident of 1M", |b| {
        b.iter(|| {
            at = (at + 1) % resident.len();
            assert!(bench.get(black_box(&names[resident[at]])));
        })
    });
    criterion.bench_function("miss, 100k resident of 1M", |b| {
        b.iter(|| {
            at = (at + 7919) % missing.len();
            assert!(!bench.get(black_box(&names[missing[at]])));
        })
    });
    let mut at = 0;
    criterion.bench_function("lease and insert that evicts", |b| {
        b.iter(|| {
            at = (at + 1) % draws.len();
            // Beyond the names that are drawn: always a miss.
            let mut name = names[draws[at]].clone().into_bytes();
            name.extend_from_slice(&at.to_le_bytes()[..3]);
            bench.insert(black_box(&name));
        })
    });
}

/// 10,000 names, all resident.
fn small(criterion: &mut Criterion) {
    let names = names(10_000);
    let draws = zipf(names.len(), 1 << 16);
    let bench = Bench::new(10_000 * ENTRY * 3);
    names.iter().for_each(|name| bench.insert(name.as_bytes()));
    let mut at = 0;
    criterion.bench_function("get of 10k", |b| {
        b.iter(|| {
            at = (at + 1) % draws.len();
            assert!(bench.get(black_box(&names[draws[at]])));
        })
    });
    criterion.bench_function("set of 10k", |b| {
        b.iter(|| {
            at = (at + 1) % draws.len();
            let name = &names[draws[at]];
            bench.l1.acked(bench.link, name_hash(name.as_bytes()));
            bench.insert(black_box(name.as_bytes()));
        })
    });
    criterion.bench_function("100 gets of 10k, one by one", |b| {
        b.iter(|| {
            for _ in 0..100 {
                at = (at + 1) % draws.len();
                assert!(bench.get(black_box(&names[draws[at]])));
            }
        })
    });
    criterion.bench_function("100 gets of 10k, as a snapshot", |b| {
        b.iter_batched(
            || {
                at = (at + 100) % (draws.len() - 100);
                draws[at..at + 100]
                    .iter()
                    .map(|&draw| query(names[draw].as_bytes()))
                    .collect::<Vec<_>>()
            },
            |queries| {
                let mut bytes = 0;
                assert!(
                    bench
                        .l1
                        .peek_many(&queries, &bench.asker(), Which::This, |_, view| bytes += copy(view))
                );
                bytes
            },
            BatchSize::SmallInput,
        )
    });
}

impl Bench {
    fn new(budget_bytes: usize) -> Bench {
        let links = Arc::new(Links::new(1_000_000));
        let link = links.add().expect("the first link");
        links.answered(link, 1000);
        let config = L1Config {
            budget_bytes,
            shards: None,
            max_value_bytes: 16 << 10,
            negative_ttl_us: None,
            max_age_us: None,
            max_stale_us: None,
            consistency: Consistency::Coherent,
            objective: Objective::Requests,
            compression: None,
        };
        Bench {
            l1: L1::new(config, links.clone()),
            links,
            link,
        }
    }

    fn asker(&self) -> Asker {
        Asker {
            now_us: 1000,
            link: self.link,
            own: Own::Clear,
            floor_us: 0,
            takes_stale: false,
        }
    }

    fn get(&self, name: &str) -> bool {
        self.l1.peek(&query(name.as_bytes()), &self.asker(), copy).is_some()
    }

    fn insert(&self, name: &[u8]) {
        if let Decision::Leased(lease) = self
            .l1
            .decide(&query(name), &self.asker(), Leasing::Allowed, || 0, copy)
        {
            self.l1.got(lease);
            self.l1.complete(
                lease,
                Some(Fill {
                    value: Value::Bytes(&VALUE),
                    pttl_ms: -1,
                    is_plain: true,
                    most_us: None,
                }),
                1000,
            );
            self.links.answered(self.link, 1000);
        }
    }

    fn read_through(&self, name: &str) {
        self.insert(name.as_bytes());
    }
}

/// As a session does: into a buffer.
fn copy(view: View<'_>) -> usize {
    let mut out = [0; 64];
    match view.value {
        ViewValue::Small(bytes) if bytes.len() <= out.len() => out[..bytes.len()].copy_from_slice(bytes),
        _ => {}
    }
    black_box(&out).len()
}

fn query(name: &[u8]) -> Query<'_> {
    Query {
        hash: name_hash(name),
        db: 0,
        name,
        variant: b"",
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("user:{:011}", i * 7)).collect()
}

/// Draws from a Zipf distribution by its cumulated weights.
fn zipf(names: usize, draws: usize) -> Vec<usize> {
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=names)
        .map(|rank| {
            sum += (rank as f64).powf(-0.99);
            sum
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(7);
    (0..draws)
        .map(|_| {
            let point = rng.f64() * sum;
            // Neighbours in rank are not neighbours in memory.
            cumulated.partition_point(|&c| c < point).min(names - 1) * 7919 % names
        })
        .collect()
}
