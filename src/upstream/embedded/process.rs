//! The server as a process: a child of ours, or one adopted from an earlier run.
//!
//! Runs on the control runtime. An adopted process is held by a pidfd, so that a signal can never reach another
//! process which got its number.

use super::place::{Place, failed};
use super::{EmbeddedError, Options};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

/// A server process.
#[derive(Debug)]
pub(super) struct Server {
    pid: u32,
    program: PathBuf,
    process: Process,
}

/// How a server ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// A child, with what the system says of it.
    Child(io::Result<ExitStatus>),
    /// An adopted process, of which nothing is known.
    Adopted,
}

#[derive(Debug)]
enum Process {
    Child(Child),
    /// Readable once the process has ended.
    Adopted(AsyncFd<OwnedFd>),
}

impl Server {
    /// Starts a server in `place`. It keeps `lock` open for as long as it lives.
    pub fn spawn(place: &Place, options: &Options, lock: File) -> Result<Self, EmbeddedError> {
        let program =
            find_program(std::env::var_os("PATH").unwrap_or_default().as_os_str()).ok_or(EmbeddedError::NoProgram)?;
        let cannot = || failed("cannot start", &program);
        place.record()?;
        let log = place.open_log()?;
        let errors = log.try_clone().map_err(cannot())?;
        let child = Command::new(&program)
            .args(["--port", "0", "--daemonize", "no", "--unixsocketperm", "700"])
            .arg("--unixsocket")
            .arg(place.socket())
            .arg("--dir")
            .arg(place.dir())
            // Every write is in the file within a second, whole snapshots now and then (the Redis defaults).
            .args(["--appendonly", "yes", "--appendfsync", "everysec"])
            .args(["--save", "3600 1 300 100 60 10000"])
            // The proxy bounds its clients itself, and each may need a connection of its own.
            .args(["--maxclients", "20000"])
            .arg("--tracking-table-max-keys")
            .arg(options.tracking_table_max_keys.to_string())
            .stdin(Stdio::from(lock))
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            // A Ctrl-C in the terminal is for the proxy, which answers what is in flight before it stops the server.
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .map_err(cannot())?;
        Ok(Self {
            pid: child.id().unwrap_or_default(),
            program,
            process: Process::Child(child),
        })
    }

    /// Takes hold of a running process; `None` when it has ended, or the kernel knows no pidfd (before 5.3).
    pub fn adopt(pid: u32) -> Option<Self> {
        let handle = pidfd_open(as_pid(pid)?, PidfdFlags::NONBLOCK).ok()?;
        #[expect(
            deprecated,
            reason = "its successor is an unsafe fn; an OwnedFd keeps its promise anyway"
        )]
        let handle = AsyncFd::with_interest(handle, Interest::READABLE).ok()?;
        Some(Self {
            pid,
            program: PathBuf::from("the adopted server"),
            process: Process::Adopted(handle),
        })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Waits for the end. May be given up and asked again.
    pub async fn ended(&mut self) -> Ended {
        match &mut self.process {
            Process::Child(child) => Ended::Child(child.wait().await),
            Process::Adopted(handle) => {
                // Readiness is all a pidfd has to say; an error would come from the runtime's own end.
                let _ = handle.readable().await;
                Ended::Adopted
            }
        }
    }

    /// The end, if it is known to have come.
    pub async fn ended_already(&mut self) -> Option<Ended> {
        tokio::time::timeout(Duration::ZERO, self.ended()).await.ok()
    }

    /// Asks the server to save and end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let sent = match &self.process {
            // A child keeps its number until it is reaped, and then has no id.
            Process::Child(child) => match child.id().and_then(as_pid) {
                Some(pid) => kill_process(pid, signal),
                None => Ok(()),
            },
            Process::Adopted(handle) => pidfd_send_signal(handle.get_ref(), signal),
        };
        if let Err(error) = sent
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = self.pid, %error, "cannot send a signal to the private Redis server");
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Child(Ok(status)) => write!(f, "ended ({status})"),
            Self::Child(Err(error)) => write!(f, "ended (status unknown: {error})"),
            Self::Adopted => f.write_str("ended"),
        }
    }
}

/// The first server program in a list of directories such as `PATH`.
pub(super) fn find_program(path: &std::ffi::OsStr) -> Option<PathBuf> {
    PROGRAMS.iter().find_map(|name| {
        std::env::split_paths(path)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|candidate| {
                candidate
                    .metadata()
                    .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
            })
    })
}

fn as_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
