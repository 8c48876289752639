//! What the process keeps resident when the sizes of what L1 holds change: a small `benches/churn`.

use crate::support::{Client, Proxy, STEP, Server, eventually, resident_kib};

const MIB: usize = 1 << 20;
const BUDGET: usize = 64 * MIB;

#[test]
fn resident_memory_stays_near_the_budget_whatever_the_sizes() {
    let server = Server::with(&["--enable-debug-command", "local", "--tracking-table-max-keys", "0"]);
    let proxy = Proxy::start(&server, &["--workers", "2", "--l1", "64MiB"]);
    let mut clients: Vec<Client> = (0..4).map(|_| proxy.client()).collect();
    // What is there once, whatever the budget.
    let at_start = resident_kib(proxy.pid()) * 1024;
    for (phase, size) in [1000, 200, 3000].into_iter().enumerate() {
        // An entry takes more than its value: this is more than fits.
        let keys = BUDGET / (size + 72);
        let evicted = proxy.metric("cache_evictions_total", &["l1"]).expect("a metric");
        let standing = proxy.metric("nearcache_l1_entries", &[]).expect("a metric");
        read_through(&server, &mut clients, phase, size, keys);
        let evicted = proxy.metric("cache_evictions_total", &["l1"]).expect("a metric") - evicted;
        // Not all: small entries stay longer than large ones.
        assert!(
            evicted >= standing / 5.0,
            "{evicted} of {standing} entries were evicted"
        );
        let used = proxy.metric("cache_size_bytes", &["l1"]).expect("a metric");
        let withheld = proxy.metric("nearcache_l1_withheld_bytes", &[]).expect("a metric");
        assert!(
            used + withheld > BUDGET as f64 * 0.95,
            "the budget was not filled: {used} and {withheld}"
        );
        let ratio = || {
            let grown = (resident_kib(proxy.pid()) * 1024).saturating_sub(at_start);
            grown as f64 / BUDGET as f64
        };
        eprintln!(
            "{keys} values of {size} bytes: {:.3} of the budget are resident",
            ratio()
        );
        // The allocator's own thread gives pages back, when the machine gives it a turn.
        eventually("1.25 of the budget are resident, not more", STEP, || ratio() <= 1.25);
    }
}

/// Makes keys with values of one size and reads each of them once.
fn read_through(server: &Server, clients: &mut [Client], phase: usize, size: usize, keys: usize) {
    const PIECE: usize = 10_000;
    const BATCH: usize = 500;
    let reply = format!("${size}\r\n").len() + size + 2;
    let mut upstream = server.client();
    for piece in 0..keys.div_ceil(PIECE) {
        let prefix = format!("{phase}.{piece}");
        upstream.expect(
            &["DEBUG", "POPULATE", &PIECE.to_string(), &prefix, &size.to_string()],
            "+OK",
        );
        for from in (0..PIECE).step_by(BATCH * clients.len()) {
            for (i, client) in clients.iter_mut().enumerate() {
                let first = from + i * BATCH;
                let requests = (first..first + BATCH).map(|n| {
                    let key = format!("{prefix}:{n}");
                    format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len())
                });
                client.raw(requests.collect::<String>().as_bytes());
            }
            for client in clients.iter_mut() {
                client.bytes(BATCH * reply);
            }
        }
    }
}
