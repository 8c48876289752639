//! The seam between the store and the medium: what is done with files, and nothing about what is in them.
//!
//! [`Disk`] is a directory of a real file system. The tests have a second one, which forgets, tears and reorders what was
//! not synced, and fails at any call. All calls block, and none is made by a worker, but for [`SegmentFile::read_at_once`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory of segments. Names are plain file names.
pub trait Storage: Send + Sync + 'static {
    /// Keeps other processes out until the returned value is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: another process has it.
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>>;
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file; it is an error if there is one.
    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// An existing file, for reading and for cutting off its tail.
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// Handles that are open stay good.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Where this is, for messages.
    fn place(&self) -> String;
}

pub trait SegmentFile: Send + Sync {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// As many bytes as there are, at most `into.len()`.
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    /// What can be read without a wait for the medium, which may be less than there is.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: not now. [`io::ErrorKind::Unsupported`]: never.
    fn read_at_once(&self, _into: &mut [u8], _offset: u64) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn truncate(&self, bytes: u64) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
    fn bytes(&self) -> io::Result<u64>;
}

/// Fills `into`, or says how much there was.
pub fn read_up_to(file: &dyn SegmentFile, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A directory.
pub struct Disk {
    path: PathBuf,
    /// Somebody else's, who may have no right to what this process makes, and wants his files as they are.
    is_looked_at: bool,
}

const LOCK_NAME: &str = "lock";
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// Whatever anybody but the owner may do.
const OTHERS: u32 = 0o077;

impl Disk {
    /// Makes the directory if it is missing, for this user alone: what is in it is what clients read.
    pub fn new(path: &Path) -> io::Result<Disk> {
        use std::os::unix::fs::DirBuilderExt;
        if !path.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & OTHERS_WRITE != 0 && mode & STICKY == 0 {
            // Who may look into it was somebody's choice, but nobody can want this.
            tracing::warn!(
                place = %path.display(),
                mode = format!("{:04o}", mode & 0o7777),
                "L3: others than the owner can put files into the directory, and take them away: chmod 700 it"
            );
        }
        Ok(Disk {
            path: path.to_owned(),
            is_looked_at: false,
        })
    }

    /// A directory that must be there, to be looked at: no file is made, opened for writing or closed to others.
    pub fn existing(path: &Path) -> io::Result<Disk> {
        fs::read_dir(path)?;
        Ok(Disk {
            path: path.to_owned(),
            is_looked_at: true,
        })
    }
}

impl Storage for Disk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.path.join(LOCK_NAME);
        let file = match self.is_looked_at {
            true => fs::File::open(path)?,
            false => options().create(true).truncate(false).open(path)?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(options().create_new(true).open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let path = self.path.join(name);
        if self.is_looked_at {
            return Ok(Box::new(File::open(&path)?));
        }
        match options().open(&path) {
            // Reading is all that most segments need; on a read-only file system the tail simply stays.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                Ok(Box::new(File::open(&path)?))
            }
            opened => {
                let file = opened?;
                close_to_others(&file, &path);
                Ok(Box::new(file))
            }
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

/// What was copied here by somebody, say out of a backup, may have got the rights of any file.
fn close_to_others(file: &File, path: &Path) {
    let Ok(mode) = file.metadata().map(|metadata| metadata.permissions().mode()) else {
        return;
    };
    if mode & OTHERS != 0 {
        let closed = file.set_permissions(fs::Permissions::from_mode(mode & !OTHERS & 0o7777));
        tracing::warn!(
            file = %path.display(),
            mode = format!("{:04o}", mode & 0o7777),
            is_closed = closed.is_ok(),
            "L3: others than the owner could use the file"
        );
    }
}

fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

impl SegmentFile for File {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, into, offset)
    }

    /// From the page cache (preadv2(2), `RWF_NOWAIT`). Not all file systems can tell what they have there.
    #[cfg(target_os = "linux")]
    fn read_at_once(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let read = preadv2(self, &mut [io::IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT);
        read.map_err(|errno| match errno {
            // A kernel or a sandbox without the call or the flag says so in other ways.
            Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM => io::ErrorKind::Unsupported.into(),
            errno => errno.into(),
        })
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

#[cfg(test)]
pub mod simulated;
