//! The private server against a real `redis-server`: started, restarted, adopted, stopped, refused.

use super::process::find_program;
use super::{Embedded, EmbeddedError, Options};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn the_server_answers_once_started_and_is_gone_once_stopped() {
    let dir = TempDir::new().unwrap();
    let embedded = start(dir.path()).await.unwrap();
    let pid = embedded.pid().unwrap();
    assert_eq!(ask(embedded.socket(), &["SET", "k", "v"]).await, "OK");
    let mode = embedded.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "others could open the socket");

    embedded.stop().await;

    assert!(!is_alive(pid));
    let again = start(dir.path()).await.unwrap();
    assert_eq!(ask(again.socket(), &["GET", "k"]).await, "v", "a stop must save");
    again.stop().await;
}

#[tokio::test]
async fn a_second_proxy_on_the_same_directory_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let embedded = start(dir.path()).await.unwrap();

    let error = start_once(dir.path()).await.unwrap_err();

    assert!(error.is_usage());
    assert!(
        error.to_string().contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    embedded.stop().await;
}

#[tokio::test]
async fn a_server_that_outlived_its_proxy_is_adopted_and_stopped() {
    let dir = TempDir::new().unwrap();
    let first = start(dir.path()).await.unwrap();
    let pid = first.pid().unwrap();
    ask(first.socket(), &["SET", "k", "v"]).await;
    // What a proxy that is killed leaves: its own lock gone, the server alive.
    drop(first);

    let second = start(dir.path()).await.unwrap();

    assert_eq!(second.pid(), Some(pid));
    assert_eq!(ask(second.socket(), &["GET", "k"]).await, "v");
    second.stop().await;
    eventually(|| !is_alive(pid)).await;
}

#[tokio::test]
async fn a_server_that_dies_is_started_again_with_its_data() {
    let dir = TempDir::new().unwrap();
    let mut embedded = start(dir.path()).await.unwrap();
    let socket = embedded.socket().to_owned();
    let pid = embedded.pid().unwrap();
    ask(&socket, &["CONFIG", "SET", "appendfsync", "always"]).await;
    ask(&socket, &["SET", "k", "v"]).await;
    let cancel = CancellationToken::new();
    let supervised = tokio::spawn({
        let cancel = cancel.clone();
        async move {
            embedded.supervise(&cancel).await;
            embedded
        }
    });

    signal(pid, Signal::KILL);

    let value = loop {
        match try_ask(&socket, &["GET", "k"]).await {
            Ok(value) => break value,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(value, "v");
    cancel.cancel();
    let embedded = supervised.await.unwrap();
    assert_ne!(embedded.pid(), Some(pid));
    embedded.stop().await;
}

#[tokio::test]
async fn an_adopted_server_that_dies_is_replaced_by_a_child() {
    let dir = TempDir::new().unwrap();
    let first = start(dir.path()).await.unwrap();
    let pid = first.pid().unwrap();
    drop(first);
    let mut second = start(dir.path()).await.unwrap();
    assert_eq!(second.pid(), Some(pid));
    signal(pid, Signal::KILL);
    let ended = second.server.as_mut().unwrap().ended();
    timeout(PATIENCE, ended).await.unwrap();

    second.ensure_server().await.unwrap();

    assert_ne!(second.pid(), Some(pid));
    second.stop().await;
}

#[tokio::test]
async fn a_long_data_path_gets_a_short_socket_that_is_found_again() {
    let dir = TempDir::new().unwrap();
    let long = dir.path().join("d".repeat(120));
    let first = start(&long).await.unwrap();
    let (pid, socket) = (first.pid(), first.socket().to_owned());
    assert!(socket.as_os_str().len() <= 107);
    let private = socket.parent().unwrap().to_owned();
    assert_eq!(private.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    drop(first);

    let second = start(&long).await.unwrap();

    assert_eq!(second.pid(), pid);
    assert_eq!(second.socket(), socket);
    second.stop().await;
    std::fs::remove_dir_all(private).unwrap();
}

#[tokio::test]
async fn a_server_that_cannot_read_its_data_is_reported_with_its_log() {
    let dir = TempDir::new().unwrap();
    let files = dir.path().join("appendonlydir");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("appendonly.aof.manifest"), "this is no manifest\n").unwrap();

    let error = start(dir.path()).await.unwrap_err();

    assert!(matches!(error, EmbeddedError::Died { .. }), "{error}");
    assert!(error.to_string().contains("manifest"), "{error}");
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_named_in_the_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("data");
    std::fs::write(&path, "").unwrap();

    let error = start(&path).await.unwrap_err();

    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn the_program_is_the_first_executable_of_either_name() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let put = |dir: &TempDir, name: &str, mode: u32| {
        let path = dir.path().join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    };
    let path = std::env::join_paths([one.path(), two.path()]).unwrap();
    assert_eq!(find_program(&path), None);
    let valkey = put(&one, "valkey-server", 0o755);
    put(&one, "redis-server", 0o644);
    assert_eq!(
        find_program(&path),
        Some(valkey),
        "a file that cannot be run is passed over"
    );
    let redis = put(&two, "redis-server", 0o755);
    assert_eq!(find_program(&path), Some(redis));
}

/// Starts, and tries again where the lock is taken: a process that another test forks at this moment holds the
/// locks of all tests until it execs.
async fn start(dir: &Path) -> Result<Embedded, EmbeddedError> {
    let until_free = async {
        loop {
            match start_once(dir).await {
                Err(EmbeddedError::InUse { .. }) => tokio::task::yield_now().await,
                started => return started,
            }
        }
    };
    timeout(PATIENCE, until_free).await.unwrap()
}

async fn start_once(dir: &Path) -> Result<Embedded, EmbeddedError> {
    Embedded::start(dir, Options::for_l1_bytes(0)).await
}

async fn ask(socket: &Path, command: &[&str]) -> String {
    try_ask(socket, command).await.unwrap()
}

async fn try_ask(socket: &Path, command: &[&str]) -> redis::RedisResult<String> {
    let client = redis::Client::open(redis::ConnectionAddr::Unix(socket.to_owned()))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd(command[0])
        .arg(&command[1..])
        .query_async(&mut connection)
        .await
}

/// Whether the process runs; one that ended but is not reaped counts as gone.
fn is_alive(pid: u32) -> bool {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = state
        .rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    test_kill_process(number).is_ok() && !is_zombie
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

async fn eventually(is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

const PATIENCE: Duration = Duration::from_secs(20);
