//! Accepting clients, on the control runtime: limits and protected mode are judged here, then the socket is handed to the
//! worker with the fewest clients.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::config::ListenAddr;
use crate::proxy::shared::{Message, NewClient, Shared};

/// A bound address.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, String),
}

/// Clients that the kernel may keep waiting, if `net.core.somaxconn` allows it (4096 by default). One that finds no place
/// is not refused but asks again after a second.
const BACKLOG: i32 = 4096;
/// After a failed accept (no more file descriptors, say): long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

const PROTECTED: &str = "-DENIED nearcache is running in protected mode because no password is set for it. In this mode connections are only accepted from the loopback interface. If you want to connect from external computers, you may: 1) give the upstream URL a password, which clients then have to send with AUTH, 2) set auth.mode and auth.password in the configuration, or 3) disable protected mode with clients.protected_mode = false, if the network keeps strangers out.\r\n";
const TOO_MANY: &str = "-ERR max number of clients reached\r\n";

impl Listener {
    /// Sockets that are accepted inherit what is set here, which spares each of them the system calls.
    pub fn bind(address: &ListenAddr, tcp_keepalive: Duration) -> io::Result<Listener> {
        match address {
            ListenAddr::Tcp(address) => {
                use socket2::{Domain, Socket, Type};
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.set_tcp_nodelay(true)?;
                if !tcp_keepalive.is_zero() {
                    // As Redis: probes at a third of the interval, three of them.
                    let keepalive = socket2::TcpKeepalive::new()
                        .with_time(tcp_keepalive)
                        .with_interval((tcp_keepalive / 3).max(Duration::from_secs(1)))
                        .with_retries(3);
                    socket.set_tcp_keepalive(&keepalive)?;
                }
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                socket.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
            }
            ListenAddr::Unix(path) => {
                remove_dead_socket(path)?;
                let listener = UnixListener::bind(path)?;
                // The runtime listens with a backlog of its own; the kernel takes the later word.
                socket2::SockRef::from(&listener).listen(BACKLOG)?;
                Ok(Listener::Unix(listener, path.display().to_string()))
            }
        }
    }

    /// The address as it was really bound.
    pub fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().map_or_else(|e| e.to_string(), |a| a.to_string()),
            Listener::Unix(_, path) => format!("unix:{path}"),
        }
    }

    /// Accepts until cancelled.
    pub async fn run(self, shared: Arc<Shared>, cancel: CancellationToken) {
        let mut turn = 0;
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok(client) => admit(&shared, client, &mut turn),
                Err(error) => {
                    tracing::warn!(%error, address = self.address(), "a client could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Listener::Unix(_, path) = &self {
            let _ = std::fs::remove_file(path);
        }
    }

    /// The next client. However many are waiting, the runtime lets its other tasks have their turn after some of them (its
    /// budget of operations for a task).
    async fn accept(&self) -> io::Result<NewClient> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(NewClient::Tcp(stream.into_std()?, peer))
            }
            Listener::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                Ok(NewClient::Unix(stream.into_std()?, path.clone()))
            }
        }
    }
}

/// A socket file that nobody listens on is left over from a process that was killed.
fn remove_dead_socket(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn admit(shared: &Arc<Shared>, client: NewClient, turn: &mut usize) {
    let limits = &shared.config.clients;
    let refusal = if shared.clients.load(Relaxed) >= limits.max_clients {
        Some(TOO_MANY)
    } else if limits.protected_mode && shared.client_credentials().is_none() && !client.is_local() {
        Some(PROTECTED)
    } else {
        None
    };
    if let Some(text) = refusal {
        client.refuse(text);
        return;
    }
    shared.clients.fetch_add(1, Relaxed);
    let workers = shared.inboxes.len();
    *turn += 1;
    // The one with the fewest; ties in turn.
    let worker = (0..workers)
        .map(|i| (i + *turn) % workers)
        .min_by_key(|&i| shared.inboxes[i].clients.load(Relaxed))
        .unwrap_or(0);
    shared.inboxes[worker].clients.fetch_add(1, Relaxed);
    shared.inboxes[worker].send(Message::Socket(client));
}
