//! Many clients at once: how they are spread over the workers, storms of them that come and go, and one that asks for
//! more than all the others together. (What ten thousand idle ones cost is in `limits`.)

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;

use crate::support::client::encode;
use crate::support::{Proxy, STEP, Server, eventually, show};

#[test]
fn a_burst_of_clients_is_spread_evenly_over_the_workers() {
    const CLIENTS: usize = 1000;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", &WORKERS.to_string()]);
    let mut clients = storm(&proxy, CLIENTS);
    clients.iter_mut().for_each(is_answered);
    is_spread(&proxy, CLIENTS);
    // Most go, at random; those who come then fill up what is empty.
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..3 {
        rng.shuffle(&mut clients);
        clients.truncate(CLIENTS / 4);
        eventually("they are gone", STEP, || clients_of(&proxy) == clients.len());
        let mut more = storm(&proxy, CLIENTS - clients.len());
        more.iter_mut().for_each(is_answered);
        clients.extend(more);
        is_spread(&proxy, CLIENTS);
    }
}

#[test]
fn storms_of_clients_that_come_and_go() {
    const CLIENTS: usize = 1000;
    const ROUNDS: usize = 4;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "2"]);
    let mut other = proxy.client();
    other.expect(&["SET", "k", "v"], "+OK");
    other.expect(&["GET", "k"], "$1\r\nv");
    eventually("both workers are connected", STEP, || {
        proxy.metric("nearcache_links_tracked", &[]) == Some(2.0)
    });
    let files = open_files(&proxy);
    for _ in 0..ROUNDS {
        thread::scope(|scope| {
            let storm = scope.spawn(|| storm(&proxy, CLIENTS).iter_mut().for_each(is_answered));
            while !storm.is_finished() {
                other.expect(&["GET", "k"], "$1\r\nv");
            }
            storm.join().expect("everyone is answered");
        });
        eventually("they are gone", STEP, || clients_of(&proxy) == 1);
    }
    eventually("their sockets are closed", STEP, || open_files(&proxy) <= files);
    let accepted = proxy.metric("nearcache_clients_accepted_total", &[]).expect("a metric");
    assert!(accepted >= (ROUNDS * CLIENTS) as f64, "{accepted}");
    assert_eq!(proxy.metric("nearcache_clients_refused_total", &[]), Some(0.0));
}

#[test]
fn a_storm_of_more_clients_than_there_may_be() {
    const MOST: usize = 50;
    let server = Server::start();
    let proxy = Proxy::with_config(&server.url(), &format!("[clients]\nmax_clients = {MOST}\n"), &[]);
    for _ in 0..3 {
        let mut served = Vec::new();
        let mut refused = 0;
        for mut client in storm(&proxy, 8 * MOST) {
            let mut reply = Vec::new();
            let mut byte = [0; 64];
            while !reply.ends_with(b"\r\n") {
                match client.read(&mut byte) {
                    Ok(n) if n > 0 => reply.extend_from_slice(&byte[..n]),
                    end => panic!("{end:?} after {}", show(&reply)),
                }
            }
            match reply.as_slice() {
                b"+PONG\r\n" => served.push(client),
                b"-ERR max number of clients reached\r\n" => refused += 1,
                other => panic!("{}", show(other)),
            }
        }
        // All came before the first of them went.
        assert_eq!((served.len(), refused), (MOST, 7 * MOST));
        drop(served);
        eventually("there is room again", STEP, || clients_of(&proxy) == 0);
    }
}

/// Order is told by the replies alone: a client that has sent a deep pipeline asks at its end who is there, and finds the
/// name that another client gave itself after the pipeline was begun.
#[test]
fn a_deep_pipeline_does_not_keep_others_waiting() {
    const DEPTH: usize = 10_000;
    /// Replies that must still be due when the other client speaks, so that there is something to overtake.
    const LEFT: usize = 4_000;
    const WANTED: usize = 10;
    let server = Server::start();
    let proxy = Proxy::start(&server, &["--workers", "1"]);
    let (mut greedy, mut polite) = (proxy.client(), proxy.client());
    polite.expect(&["SET", "k", "v"], "+OK");
    polite.expect(&["GET", "k"], "$1\r\nv");
    polite.expect(&["GET", "k"], "$1\r\nv");
    let mut pipeline = encode(&["GET", "k"]).repeat(DEPTH);
    pipeline.extend(encode(&["CLIENT", "LIST"]));
    let reply = b"$1\r\nv\r\n".len();
    let (mut tried, mut overtook) = (0, 0);
    while overtook < WANTED {
        tried += 1;
        assert!(
            tried <= 500,
            "only {overtook} pipelines were not over when they were halted"
        );
        let (mut writer, whole) = (greedy.second_handle(), pipeline.clone());
        let writing = thread::spawn(move || writer.raw(&whole));
        let mut replies = greedy.bytes(reply).len();
        // In the middle of it, whatever the machine is busy with.
        proxy.freeze();
        replies += greedy.bytes_at_hand();
        let name = format!("polite-{tried}");
        polite.send(&["CLIENT", "SETNAME", &name]);
        proxy.thaw();
        greedy.bytes((DEPTH - 1) * reply);
        let list = greedy.frame();
        writing.join().expect("the pipeline was sent");
        assert_eq!(show(&polite.frame()), "+OK\\r\\n");
        if replies / reply + LEFT <= DEPTH {
            assert!(
                String::from_utf8_lossy(&list).contains(&format!("name={name} ")),
                "{} replies were there, and the other client was kept waiting for the rest",
                replies / reply
            );
            overtook += 1;
        }
    }
    eprintln!("{overtook} of {tried} pipelines were halted in the middle");
}

const WORKERS: usize = 4;

/// What a worker watches besides its clients: its upstream connections, and what wakes it.
const OF_ITS_OWN: usize = 5;

/// Each worker has its part of the clients, as the kernel sees it: the sockets that its epoll instance watches.
fn is_spread(proxy: &Proxy, clients: usize) {
    let fair = clients / WORKERS;
    let mut watched = Vec::new();
    eventually("the clients are spread", STEP, || {
        watched = watched_sockets(proxy);
        watched.len() > WORKERS
            && watched[..WORKERS]
                .iter()
                .all(|n| (fair..=fair + OF_ITS_OWN).contains(n))
    });
    eprintln!("{watched:?}");
}

/// How many files each epoll instance of the process watches, most first.
fn watched_sockets(proxy: &Proxy) -> Vec<usize> {
    let at = format!("/proc/{}", proxy.pid());
    let is_epoll = |file: &PathBuf| fs::read_link(file).is_ok_and(|to| to.ends_with("anon_inode:[eventpoll]"));
    let files = fs::read_dir(format!("{at}/fd")).expect("it is alive");
    let watched = |file: PathBuf| -> BTreeSet<String> {
        let name = file.file_name().expect("a descriptor has a number").to_string_lossy();
        let info = fs::read_to_string(format!("{at}/fdinfo/{name}")).unwrap_or_default();
        let targets = info.lines().filter_map(|line| line.strip_prefix("tfd:"));
        targets
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect()
    };
    // An instance may have several descriptors; what they watch is then the same.
    let instances: BTreeSet<BTreeSet<String>> = files
        .flatten()
        .map(|file| file.path())
        .filter(is_epoll)
        .map(watched)
        .collect();
    let mut counts: Vec<usize> = instances.iter().map(BTreeSet::len).collect();
    counts.sort_unstable_by_key(|&n| Reverse(n));
    counts
}

/// Connects `count` clients as fast as eight threads can, each with a `PING` sent.
fn storm(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    const THREADS: usize = 8;
    let port = proxy.port();
    let connect = move |_| {
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("one more is accepted");
        client.set_read_timeout(Some(STEP)).expect("a timeout can be set");
        // One that is refused may be gone already.
        let _ = client.write_all(b"PING\r\n");
        client
    };
    let storms: Vec<_> = (0..THREADS)
        .map(|i| thread::spawn(move || (i..count).step_by(THREADS).map(connect).collect::<Vec<_>>()))
        .collect();
    let clients = storms
        .into_iter()
        .flat_map(|storm| storm.join().expect("all can connect"));
    clients.collect()
}

fn is_answered(client: &mut TcpStream) {
    let mut reply = [0; 7];
    client.read_exact(&mut reply).expect("a reply");
    assert_eq!(show(&reply), "+PONG\\r\\n");
}

fn clients_of(proxy: &Proxy) -> usize {
    proxy.metric("nearcache_clients", &[]).expect("a metric") as usize
}

fn open_files(proxy: &Proxy) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", proxy.pid()));
    files.expect("it is alive").count()
}
