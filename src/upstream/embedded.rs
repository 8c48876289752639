//! The private Redis server of a proxy that was given no upstream.
//!
//! Makes `nearcache` alone a working thing: a `redis-server` (or `valkey-server`) as a child, on a Unix socket
//! that only this user can open, its data in one directory. Runs on the control runtime. Units: none on the
//! outside.
//!
//! Promises: one proxy and one server for each data directory, whoever was killed when. Two locks (flock(2),
//! so the kernel drops them with the processes) say so: `nearcache.lock` is held by the proxy; `redis.lock`
//! is the server's standard input, so it is held as long as the server lives, also when the proxy is gone. A
//! proxy that finds `redis.lock` taken adopts the server behind the recorded socket instead of starting a
//! second one over the same files. The server is stopped with the proxy, by SIGTERM, so that it saves.
//! Does not promise to stop the server when dropped without [`Embedded::stop`]: the next start adopts it.

mod place;
mod probe;
mod process;

use place::Place;
use probe::Answer;
use process::{Ended, Server};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A running private server.
#[derive(Debug)]
pub struct Embedded {
    place: Place,
    options: Options,
    /// `None` between the end of one server and the start of the next.
    server: Option<Server>,
    /// Held until the proxy ends.
    _proxy_lock: File,
}

/// How the server is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most keys the server remembers as read by tracking connections. Each costs it about 100 bytes; when there
    /// are more, it invalidates others at random. The entries L1 can hold, with room.
    pub tracking_table_max_keys: usize,
}

impl Options {
    /// Options for an L1 of so many bytes: an entry with its overhead takes at least 64.
    #[must_use]
    pub fn for_l1_bytes(l1_bytes: usize) -> Self {
        Self {
            tracking_table_max_keys: (l1_bytes / 64).max(1_000_000),
        }
    }
}

impl Embedded {
    /// Starts the server of the data directory `dir`, or adopts the one that lives there, and waits until it
    /// answers. The directory is made where it does not exist. A server that loads its data is waited for as
    /// long as it says so.
    ///
    /// # Errors
    /// See [`EmbeddedError`]; each says what to do.
    pub async fn start(dir: &Path, options: Options) -> Result<Self, EmbeddedError> {
        let place = Place::open(dir)?;
        let proxy_lock = place.lock_for_proxy()?;
        let mut embedded = Self {
            place,
            options,
            server: None,
            _proxy_lock: proxy_lock,
        };
        embedded.ensure_server().await?;
        Ok(embedded)
    }

    /// The socket on which the server answers; it stays the same over restarts of the server.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.place.socket()
    }

    /// The process id of the server while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Starts the server again, with growing pauses, whenever it ends; returns when cancelled.
    pub async fn supervise(&mut self, cancel: &CancellationToken) {
        let mut pause = RESTART_PAUSE_MIN;
        while !cancel.is_cancelled() {
            let since = Instant::now();
            if let Some(server) = &mut self.server {
                let ended = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    ended = server.ended() => ended,
                };
                self.server = None;
                tracing::warn!(%ended, "the private Redis server ended; starting it again");
            }
            if since.elapsed() > RESTART_PAUSE_MAX {
                pause = RESTART_PAUSE_MIN;
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = sleep(pause.mul_f64(0.75 + 0.5 * fastrand::f64())) => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
            let started = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                started = self.ensure_server() => started,
            };
            if let Err(error) = started {
                tracing::error!(%error, "the private Redis server does not start");
            }
        }
    }

    /// Ends the server: asks it to save and end, and kills it if it has not after [`STOP_PATIENCE`].
    pub async fn stop(mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        server.terminate();
        if timeout(STOP_PATIENCE, server.ended()).await.is_err() {
            tracing::warn!(pid = server.pid(), "the private Redis server does not end; killing it");
            server.kill();
            // Reaps the child; a process that was killed ends unless the kernel holds it.
            let _ = timeout(STOP_PATIENCE, server.ended()).await;
        }
    }

    /// Brings `self.server` to a server that answers.
    async fn ensure_server(&mut self) -> Result<(), EmbeddedError> {
        let mut patience = Patience::new();
        loop {
            self.look_at_server().await?;
            if self.server.is_none() {
                match self.place.lock_for_server()? {
                    Some(lock) => self.spawn(lock)?,
                    None => self.try_to_adopt().await,
                }
            }
            let answer = match &self.server {
                Some(_) => probe::ping(self.place.socket()).await,
                None => {
                    Answer::Silent("a server holds redis.lock in the data directory but cannot be reached".to_owned())
                }
            };
            match answer {
                Answer::Ready => return Ok(()),
                Answer::Loading => patience.renew(),
                Answer::Silent(why) if patience.is_over() => {
                    return Err(EmbeddedError::Silent {
                        socket: self.place.socket().to_owned(),
                        log: self.place.log(),
                        why,
                    });
                }
                Answer::Silent(_) => {}
            }
            patience.pause().await;
        }
    }

    /// Forgets a server that has ended. Our own child ending before it ever answered is an error; one that was
    /// adopted may have been on its way out.
    async fn look_at_server(&mut self) -> Result<(), EmbeddedError> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        let Some(ended) = server.ended_already().await else {
            return Ok(());
        };
        let program = server.program().to_owned();
        self.server = None;
        match ended {
            Ended::Adopted => Ok(()),
            Ended::Child(_) => Err(self.died(program, &ended)),
        }
    }

    fn spawn(&mut self, lock: File) -> Result<(), EmbeddedError> {
        let server = Server::spawn(&self.place, &self.options, lock)?;
        let (pid, dir) = (server.pid(), self.place.dir().display());
        tracing::info!(pid, %dir, "started a private Redis server");
        self.server = Some(server);
        Ok(())
    }

    /// Takes over the server that holds the directory, if it can be reached and is the one it should be.
    async fn try_to_adopt(&mut self) {
        let Some(socket) = self.place.recorded_socket() else {
            return;
        };
        let Some(pid) = probe::pid_of_server_in(&socket, self.place.dir()).await else {
            return;
        };
        // Taken hold of first and asked again after: the number cannot have passed to another process in between.
        let Some(server) = Server::adopt(pid) else {
            return;
        };
        if probe::pid_of_server_in(&socket, self.place.dir()).await == Some(pid) {
            let dir = self.place.dir().display();
            tracing::info!(pid, %dir, "adopted the private Redis server of an earlier run");
            self.place.use_socket(socket);
            self.server = Some(server);
        }
    }

    fn died(&self, program: PathBuf, ended: &Ended) -> EmbeddedError {
        EmbeddedError::Died {
            program,
            ended: ended.to_string(),
            log: self.place.log(),
            last_lines: self.place.last_log_lines(),
        }
    }
}

/// Why there is no private server. The text of each says what to do.
#[derive(Debug)]
pub enum EmbeddedError {
    /// No server program was found.
    NoProgram,
    /// Another proxy uses the data directory.
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The other proxy, where its number could be read.
        pid: Option<u32>,
    },
    /// Something about the data directory or the program failed.
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The server ended before it answered.
    Died {
        /// The program.
        program: PathBuf,
        /// How it ended.
        ended: String,
        /// Where it logs.
        log: PathBuf,
        /// The end of its log.
        last_lines: String,
    },
    /// A server lives but does not answer.
    Silent {
        /// Where it was asked.
        socket: PathBuf,
        /// Where it logs.
        log: PathBuf,
        /// What came instead of an answer.
        why: String,
    },
}

impl EmbeddedError {
    /// Whether the user asked for something that cannot be (exit code 2), as against something that failed.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::NoProgram | Self::InUse { .. })
    }
}

impl fmt::Display for EmbeddedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgram => f.write_str(
                "no upstream was given, and neither redis-server nor valkey-server is on PATH to start a private one: \
                 install it (apt-get install redis-server), or name an upstream (--upstream redis://host:port)",
            ),
            Self::InUse { dir, pid } => {
                write!(f, "another nearcache ")?;
                if let Some(pid) = pid {
                    write!(f, "(process {pid}) ")?;
                }
                write!(
                    f,
                    "uses the data directory {}: stop it, or set upstream.data_dir to another directory",
                    dir.display()
                )
            }
            Self::Io { what, path, error } => write!(f, "{what} {}: {error}", path.display()),
            Self::Died {
                program,
                ended,
                log,
                last_lines,
            } => write!(
                f,
                "{} {ended} before it answered; the end of its log {}:\n{last_lines}",
                program.display(),
                log.display()
            ),
            Self::Silent { socket, log, why } => write!(
                f,
                "the private Redis server does not answer on {} ({why}); see {}, or end it and start again",
                socket.display(),
                log.display()
            ),
        }
    }
}

impl std::error::Error for EmbeddedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// How long a server may be silent, and how often it is asked meanwhile.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self {
            until: Instant::now() + START_PATIENCE,
            pause: PROBE_PAUSE_MIN,
        }
    }

    fn renew(&mut self) {
        self.until = Instant::now() + START_PATIENCE;
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    async fn pause(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PROBE_PAUSE_MAX);
    }
}

/// How long a server may take to save and end; Redis writes its whole data set.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a server may be silent at its start.
const START_PATIENCE: Duration = Duration::from_secs(15);
const PROBE_PAUSE_MIN: Duration = Duration::from_millis(2);
const PROBE_PAUSE_MAX: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(20);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
