//! The data directory of a private server: its locks, its log and where its socket is.
//!
//! Pure file work at start, on the control runtime; small and local, so blocking is accepted.

use super::EmbeddedError;
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A data directory that exists, and the socket that belongs to it.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    socket: PathBuf,
}

impl Place {
    /// Makes the directory where it does not exist, for this user alone.
    pub fn open(dir: &Path) -> Result<Self, EmbeddedError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("cannot make the data directory", dir))?;
        let dir = dir
            .canonicalize()
            .map_err(failed("cannot use the data directory", dir))?;
        let in_dir = dir.join("redis.sock");
        let socket = if in_dir.as_os_str().len() <= SUN_PATH_MAX_BYTES {
            in_dir
        } else {
            private_dir_for(&dir)?.join("redis.sock")
        };
        Ok(Self { dir, socket })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("redis.log")
    }

    /// The right to use this directory as a proxy, until the file is closed.
    pub fn lock_for_proxy(&self) -> Result<File, EmbeddedError> {
        let path = self.dir.join("nearcache.lock");
        let mut file = open_lock(&path)?;
        if !lock(&file, &path)? {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(EmbeddedError::InUse {
                dir: self.dir.clone(),
                pid,
            });
        }
        // The number only serves the message above.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(file)
    }

    /// The right to run a server on this directory, to be handed to it; `None` while one lives.
    pub fn lock_for_server(&self) -> Result<Option<File>, EmbeddedError> {
        let path = self.dir.join("redis.lock");
        let file = open_lock(&path)?;
        Ok(lock(&file, &path)?.then_some(file))
    }

    /// Notes where the server that is about to start will listen; where the socket lies is not always known from
    /// the directory.
    pub fn record(&self) -> Result<(), EmbeddedError> {
        let path = self.dir.join(RECORD);
        let fresh = self.dir.join("redis.socket.new");
        std::fs::write(&fresh, self.socket.as_os_str().as_encoded_bytes())
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(failed("cannot write", &path))
    }

    /// The socket that was noted, of a server that an earlier run started.
    pub fn recorded_socket(&self) -> Option<PathBuf> {
        let bytes = std::fs::read(self.dir.join(RECORD)).ok()?;
        (!bytes.is_empty()).then(|| PathBuf::from(OsString::from_vec(bytes)))
    }

    pub fn use_socket(&mut self, socket: PathBuf) {
        self.socket = socket;
    }

    /// A handle for what the server prints.
    pub fn open_log(&self) -> Result<File, EmbeddedError> {
        let path = self.log();
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("cannot open the log", &path))
    }

    /// The end of the log, a few lines.
    pub fn last_log_lines(&self) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let from = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
            file.seek(SeekFrom::Start(from))?;
            let mut tail = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        let text = read().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

/// An error with its place, for `map_err`.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |error| EmbeddedError::Io { what, path, error }
}

fn open_lock(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("cannot open", path))
}

fn lock(file: &File, path: &Path) -> Result<bool, EmbeddedError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(failed("cannot lock", path)(error.into())),
    }
}

/// A directory with a short path that only this user can enter, one for each data directory.
fn private_dir_for(data_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    let uid = rustix::process::getuid().as_raw();
    let mut hasher = DefaultHasher::new();
    data_dir.hash(&mut hasher);
    let name = format!("nearcache-{uid}-{:016x}", hasher.finish());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let base = runtime.filter(|dir| dir.is_absolute() && dir.is_dir());
    let dir = base.unwrap_or_else(std::env::temp_dir).join(name);
    let what = "cannot make a private directory for the socket at";
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(what, &dir)(error)),
        _ => {}
    }
    // In a directory for everybody somebody else may have made it first.
    let metadata = dir.symlink_metadata().map_err(failed(what, &dir))?;
    if !metadata.is_dir() || metadata.uid() != uid || metadata.mode() & 0o077 != 0 {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, "it exists and others can reach it");
        return Err(failed(what, &dir)(error));
    }
    Ok(dir)
}

/// `sizeof(sun_path)` on Linux is 108 with the closing zero (unix(7)).
const SUN_PATH_MAX_BYTES: usize = 107;
const RECORD: &str = "redis.socket";
const LOG_TAIL_BYTES: u64 = 4096;
const LOG_TAIL_LINES: usize = 8;
