//! L1 alone: hit, miss, an insert that evicts, and batches, under names that are drawn as real ones are (Zipf, 0.99).
//!
//! Beside it the crate `lru` behind a mutex, which is neither bounded in bytes nor coherent: what the machine allows.
//!
//! `cargo bench --bench l1`; the figures to reach are, for 1 M names of which 100,000 fit: hit 120 ns, miss 30 ns, insert
//! 450 ns; with 10,000 names: set 100 ns, get 60 ns, a hundred of each 10 and 6 µs.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use lru::LruCache;
use nearcache::cache::{
    Asker, Consistency, Decision, Fill, L1, L1Config, LeaseId, Leasing, LinkId, Links, Objective, Own, Query, Value,
    View, ViewValue, Which, name_hash,
};
use parking_lot::Mutex;

/// As the server has it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const NAMES: usize = 1_000_000;
type Name = [u8; 16];
const VALUE: [u8; 64] = [b'v'; 64];
/// What an entry of these names and values takes at most, all included.
const ENTRY: usize = 155;

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
    let draws = zipf(NAMES, 1 << 20);
    let bench = Bench::new(100_000 * ENTRY);
    let mut lru = LruCache::new(NonZeroUsize::new(100_000).expect("more than none"));
    for &draw in &draws {
        bench.fill(&name(draw));
        if lru.get(&name(draw)[..]).is_none() {
            lru.put(Box::from(name(draw)), Box::from(VALUE));
        }
    }
    eprintln!("{:?}", bench.l1.stats());
    let lru = Mutex::new(lru);
    let peeked = |name: &Name| {
        lru.lock()
            .get(&name[..])
            .map(|value| black_box(copied(value)))
            .is_some()
    };

    let hits = |is_hit: &dyn Fn(&Name) -> bool| draws.iter().map(|&draw| name(draw)).filter(is_hit).collect();
    let misses = |is_hit: &dyn Fn(&Name) -> bool| (0..NAMES).rev().map(name).filter(|name| !is_hit(name)).collect();
    let mut each = Each::new(hits(&|name| bench.get(name)));
    criterion.bench_function("hit, 100k resident of 1M", |b| {
        b.iter(|| assert!(bench.get(each.next())));
    });
    let mut each = Each::new(misses(&|name| bench.get(name)));
    criterion.bench_function("miss, 100k resident of 1M", |b| {
        b.iter(|| assert!(!bench.get(each.next())));
    });
    // Beyond the names that are drawn: always a miss.
    let mut each = Each::new((NAMES..2 * NAMES).map(name).collect());
    criterion.bench_function("lease and insert that evicts", |b| b.iter(|| bench.fill(each.next())));

    let mut each = Each::new(hits(&peeked));
    criterion.bench_function("lru behind a mutex: hit", |b| b.iter(|| assert!(peeked(each.next()))));
    let mut each = Each::new(misses(&peeked));
    criterion.bench_function("lru behind a mutex: miss", |b| b.iter(|| assert!(!peeked(each.next()))));
    let mut each = Each::new((NAMES..2 * NAMES).map(name).collect());
    criterion.bench_function("lru behind a mutex: insert that evicts", |b| {
        b.iter(|| lru.lock().put(Box::from(*each.next()), Box::from(VALUE)));
    });
}

/// 10,000 names, all resident.
fn small(criterion: &mut Criterion) {
    const COUNT: usize = 10_000;
    let bench = Bench::new(COUNT * ENTRY * 3);
    (0..COUNT).for_each(|i| bench.fill(&name(i)));
    let mut each = Each::new(zipf(COUNT, 1 << 16).into_iter().map(name).collect());
    criterion.bench_function("get of 10k", |b| b.iter(|| assert!(bench.get(each.next()))));
    criterion.bench_function("set of 10k: the lease of a value and its insert", |b| {
        b.iter(|| bench.refill(each.next()));
    });
    criterion.bench_function("write and refill of 10k", |b| b.iter(|| bench.write(each.next())));
    criterion.bench_function("100 sets of 10k", |b| {
        b.iter(|| (0..100).for_each(|_| bench.refill(each.next())));
    });
    criterion.bench_function("100 gets of 10k, one by one", |b| {
        b.iter(|| (0..100).for_each(|_| assert!(bench.get(each.next()))));
    });
    let (names, mut at) = (each.names, 0);
    criterion.bench_function("100 gets of 10k, as a snapshot", |b| {
        b.iter_batched(
            || {
                at = (at + 100) % (names.len() - 100);
                names[at..at + 100].iter().map(query).collect::<Vec<_>>()
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

/// Names in the order in which they are asked for, side by side: a session has the name in the buffer it has just read, so
/// the time to fetch it from memory is not L1's.
struct Each {
    names: Vec<Name>,
    at: usize,
}

impl Each {
    fn new(names: Vec<Name>) -> Each {
        Each { names, at: 0 }
    }

    fn next(&mut self) -> &Name {
        self.at = (self.at + 1) % self.names.len();
        black_box(&self.names[self.at])
    }
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

    fn get(&self, name: &Name) -> bool {
        self.l1.peek(&query(name), &self.asker(), copy).is_some()
    }

    /// What a miss costs, unless it is none.
    fn fill(&self, name: &Name) {
        if let Decision::Leased(lease) = self
            .l1
            .decide(&query(name), &self.asker(), Leasing::Allowed, || 0, copy)
        {
            self.end(lease);
        }
    }

    /// A new value in the place of one that is there.
    fn refill(&self, name: &Name) {
        let lease = self.l1.lease_anew(&query(name), &self.asker());
        self.end(lease.expect("nobody else has one"));
    }

    /// The acknowledgement of a write, and the miss behind it.
    fn write(&self, name: &Name) {
        self.l1.acked(self.link, name_hash(name));
        self.fill(name);
    }

    fn end(&self, lease: LeaseId) {
        let fill = Fill {
            value: Value::Bytes(&VALUE),
            pttl_ms: -1,
            is_plain: true,
            most_us: None,
        };
        self.l1.complete(lease, Some(fill), 1000);
        self.links.answered(self.link, 1000);
    }
}

/// As a session does: into a buffer.
fn copy(view: View<'_>) -> usize {
    match view.value {
        ViewValue::Small(bytes) => black_box(&copied(bytes)).len(),
        _ => 0,
    }
}

fn copied(value: &[u8]) -> [u8; 64] {
    let mut out = [0; 64];
    out[..value.len()].copy_from_slice(value);
    out
}

fn query(name: &Name) -> Query<'_> {
    Query {
        hash: name_hash(name),
        db: 0,
        name,
        variant: b"",
    }
}

fn name(number: usize) -> Name {
    let mut name = *b"user:00000000000";
    let mut left = number * 7;
    for digit in name[5..].iter_mut().rev() {
        *digit += (left % 10) as u8;
        left /= 10;
    }
    name
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
