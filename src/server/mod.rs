//! Builds everything, wires it, and takes it down. The main thread runs the control runtime (accepting, signals, the
//! private server, what is learned of the upstream, the admin API); each worker has a thread of its own.

mod control;
mod events;
mod memory;
mod tiers;
mod touch;
mod upstream;
mod worker;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin;
use crate::cli::EXIT_USAGE;
use crate::config::{Config, LogFormat, Upstream, Warning};
use crate::downstream::listener::Listener;
use crate::proxy::shared::{Message, Shared};
use crate::upstream::embedded::{Embedded, Options};

/// What the start would refuse about files that the configuration names.
///
/// # Errors
/// The option and what is wrong with it.
pub fn check(config: &Config) -> Result<(), String> {
    upstream::check(config)
}

/// Runs until a signal ends it. `reread` reads the configuration again, at `SIGHUP`, or says what is wrong with it.
pub fn run(
    config: Config,
    warnings: &[Warning],
    reread: impl Fn() -> Result<Config, String> + Send + 'static,
) -> ExitCode {
    start_log(&config);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit(&config);
    if let Err(why) = upstream::check(&config) {
        return fail(EXIT_USAGE, &why);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("the control runtime does not start: {error}")),
    };
    runtime.block_on(serve(config, reread))
}

fn fail(code: u8, text: &str) -> ExitCode {
    tracing::error!("{text}");
    ExitCode::from(code)
}

fn start_log(config: &Config) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::new(config.log.level.name());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second subscriber in one process (tests) is of no use and no harm.
    let _ = match config.log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Every client is a file, and may have an upstream connection of its own; so is every segment of L3.
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let wanted = (config.clients.max_clients + config.pinned_max + config.l3.most_files() + 256) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| wanted.min(maximum));
        let raised = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(current),
                maximum: limit.maximum,
            },
        );
        if raised.is_err() || current < wanted {
            tracing::warn!(
                limit = current,
                wanted,
                "the limit of open files is lower than clients.max_clients and upstream.pinned_max need"
            );
        }
    }
}

async fn serve(config: Config, reread: impl Fn() -> Result<Config, String> + Send + 'static) -> ExitCode {
    // Addresses first: a second process on the same ports must not touch anything else.
    let mut listeners = Vec::new();
    for address in &config.listen {
        match Listener::bind(address, config.clients.tcp_keepalive) {
            Ok(listener) => listeners.push(listener),
            Err(error) => return fail(1, &format!("{address} cannot be listened on: {error}")),
        }
    }
    let admin = match config.admin {
        None => None,
        Some(address) => match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                return fail(
                    1,
                    &format!("the admin address {address} cannot be listened on: {error}"),
                );
            }
        },
    };
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(hangup)) = (terminate, interrupt, signal(SignalKind::hangup()))
    else {
        return fail(1, "signals cannot be handled");
    };
    let embedded = match &config.upstream {
        Upstream::Url { .. } => None,
        Upstream::Embedded { data_dir } => {
            // A server that loads much data takes long to answer; a signal must not wait for it.
            let started = tokio::select! {
                started = Embedded::start(data_dir, Options::for_l1_bytes(config.cache.l1_bytes)) => started,
                _ = terminate.recv() => return ExitCode::SUCCESS,
                _ = interrupt.recv() => return ExitCode::SUCCESS,
            };
            match started {
                Ok(embedded) => Some(embedded),
                Err(error) => {
                    let code = if error.is_usage() { EXIT_USAGE } else { 1 };
                    return fail(code, &error.to_string());
                }
            }
        }
    };
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let upstream = match upstream::of(&config, embedded.as_ref(), &cancel) {
        Ok(upstream) => upstream,
        Err(why) => return fail(EXIT_USAGE, &why),
    };
    let l3 = match tiers::open_l3(&config) {
        Ok(l3) => l3,
        Err(why) => return fail(1, &why),
    };
    let mut shared = tiers::build(config, upstream.target, l3);
    shared.topology = upstream.sentinel.as_ref().map(|sentinel| sentinel.topology.clone());
    let (cluster, watcher) = upstream.cluster.unzip();
    shared.cluster = cluster.clone();
    shared.readers = upstream::readers(&shared.config, &shared.target, &cancel);
    let shared = Arc::new(shared);
    if let Some((cluster, watcher)) = cluster.zip(watcher) {
        let followed = upstream::follow_cluster(Arc::clone(&shared), cluster, watcher, cancel.clone());
        tasks.spawn(followed);
    }
    let sentinel_access = upstream.sentinel.as_ref().map(|sentinel| sentinel.access.clone());
    if let Some(sentinel) = upstream.sentinel {
        // No copy may be shown before a majority has vouched for the node.
        shared.links.begin_generation(0, 0);
        tasks.spawn(upstream::follow(Arc::clone(&shared), sentinel, cancel.clone()));
    }
    tasks.spawn(control::reload(
        Arc::clone(&shared),
        hangup,
        reread,
        sentinel_access,
        cancel.clone(),
    ));
    let supervisor = embedded.map(|mut embedded| {
        let cancel = cancel.clone();
        tokio::spawn(async move {
            embedded.supervise(&cancel).await;
            embedded.stop().await;
        })
    });
    tasks.spawn(control::follow_version(Arc::clone(&shared), cancel.clone()));
    control::first_contact(&shared).await;
    let mut threads = Vec::new();
    for index in 0..shared.inboxes.len() {
        match worker::spawn(index as u16, Arc::clone(&shared)) {
            Ok(thread) => threads.push(thread),
            Err(error) => return fail(1, &format!("worker {index} does not start: {error}")),
        }
    }
    tasks.spawn(control::learn(Arc::clone(&shared), cancel.clone()));
    tasks.spawn(control::watch_swapdb(Arc::clone(&shared), cancel.clone()));
    tasks.spawn(touch::tell(Arc::clone(&shared), cancel.clone()));
    tasks.spawn(events::follow(Arc::clone(&shared), cancel.clone()));
    tasks.spawn(control::vouch(Arc::clone(&shared), cancel.clone()));
    tasks.spawn(control::sweep(Arc::clone(&shared), cancel.clone()));
    announce(&listeners, admin.as_ref());
    let accepting = CancellationToken::new();
    for listener in listeners {
        tasks.spawn(listener.run(Arc::clone(&shared), accepting.clone()));
    }
    if let Some(admin) = admin {
        tasks.spawn(admin::serve(admin, Arc::clone(&shared), cancel.clone()));
    }
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
    }
    accepting.cancel();
    drain(&shared, &mut terminate, &mut interrupt).await;
    // Workers first: what they would say about an upstream that goes away with them means nothing.
    for inbox in &shared.inboxes {
        inbox.send(Message::Stop);
    }
    for thread in threads {
        let _ = thread.join();
    }
    // Behind the last eviction: what is queued is written, and the segment sealed.
    if let Some(l3) = shared.cache.l3() {
        l3.close();
    }
    cancel.cancel();
    tasks.close();
    if let Some(supervisor) = supervisor {
        let _ = supervisor.await;
    }
    // Listeners remove their socket files on the way out.
    let _ = tokio::time::timeout(Duration::from_secs(1), tasks.wait()).await;
    ExitCode::SUCCESS
}

/// One line for each address, for whoever started the process and waits for it.
fn announce(listeners: &[Listener], admin: Option<&tokio::net::TcpListener>) {
    let mut text = String::new();
    for listener in listeners {
        text.push_str(&format!("listening on {}\n", listener.address()));
    }
    if let Some(Ok(address)) = admin.map(tokio::net::TcpListener::local_addr) {
        text.push_str(&format!("admin listening on {address}\n"));
    }
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    tracing::info!("{}", text.trim_end().replace('\n', ", "));
}

/// Lets clients have the answers that are due, for at most the drain time; a second signal ends it at once.
async fn drain(
    shared: &Shared,
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) {
    shared.is_draining.store(true, Relaxed);
    for inbox in &shared.inboxes {
        inbox.send(Message::Drain);
    }
    let gone = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while shared.clients.load(Relaxed) > 0 {
            look.tick().await;
        }
    };
    tokio::select! {
        () = gone => {}
        () = tokio::time::sleep(shared.config.shutdown.drain_timeout) => {
            tracing::warn!(clients = shared.clients.load(Relaxed), "clients were still waiting when the drain time ended");
        }
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
