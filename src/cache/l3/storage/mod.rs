//! The seam between the store and the medium: what is done with files, and nothing about what is in them.
//!
//! [`Disk`] is a directory of a real file system. The tests have a second one, which forgets, tears and reorders what was
//! not synced, and fails at any call. All calls block, and none is made by a worker, but for [`SegmentFile::read_at_once`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
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
}

const LOCK_NAME: &str = "lock";

impl Disk {
    /// Makes the directory if it is missing, for this user alone: what is in it is what clients read.
    pub fn new(path: &Path) -> io::Result<Disk> {
        use std::os::unix::fs::DirBuilderExt;
        if !path.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        Ok(Disk { path: path.to_owned() })
    }

    /// A directory that must be there.
    pub fn existing(path: &Path) -> io::Result<Disk> {
        fs::read_dir(path)?;
        Ok(Disk { path: path.to_owned() })
    }
}

impl Storage for Disk {
    fn lock(&self) -> io::Result<Box<dyn Send + Sync>> {
        let file = options().create(true).truncate(false).open(self.path.join(LOCK_NAME))?;
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
            opened => Ok(Box::new(opened?)),
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
