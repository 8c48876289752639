//! Questions to a private server over its socket, each on a connection of its own and bounded in time.
//!
//! Runs on the control runtime, at start and adoption only.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, ServerErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// What came back for a PING.
#[derive(Debug)]
pub(super) enum Answer {
    /// The server serves.
    Ready,
    /// It lives and reads its data.
    Loading,
    /// No answer, or not one of these; the reason.
    Silent(String),
}

pub(super) async fn ping(socket: &Path) -> Answer {
    let asked = async {
        redis::cmd("PING")
            .query_async::<String>(&mut connect(socket).await?)
            .await
    };
    match asked.await {
        Ok(_) => Answer::Ready,
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) => Answer::Loading,
        Err(error) => Answer::Silent(error.to_string()),
    }
}

/// The process id of the server behind `socket`, if it is one that keeps its data in `dir`. Answers while the
/// server loads, too.
///
/// The number comes from the kernel, as this process would see it; the server's own must agree, or it lives in
/// another container, where the same number means another process.
pub(super) async fn pid_of_server_in(socket: &Path, dir: &Path) -> Option<u32> {
    let listener = UnixStream::connect(socket).await.ok()?.peer_cred().ok()?;
    let pid = u32::try_from(listener.pid()?).ok()?;
    let mut connection = connect(socket).await.ok()?;
    let (config, info): (Vec<String>, String) = redis::pipe()
        .cmd("CONFIG")
        .arg(&["GET", "dir"])
        .cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await
        .ok()?;
    let data_dir = Path::new(config.get(1)?).canonicalize().ok()?;
    let own_pid = info
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"))
        .and_then(|pid| pid.trim().parse().ok());
    (data_dir == dir && own_pid == Some(pid)).then_some(pid)
}

async fn connect(socket: &Path) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(STEP_TIMEOUT))
        .set_response_timeout(Some(STEP_TIMEOUT));
    Client::open(ConnectionAddr::Unix(socket.to_owned()))?
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

const STEP_TIMEOUT: Duration = Duration::from_secs(2);
