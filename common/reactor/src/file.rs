//! A file or kernel block device as a [`BlockDevice`], driven by each thread's ring.
//!
//! Durability: a flush is fdatasync, a FUA write carries RWF_DSYNC. When either fails, the kernel has dropped the dirty
//! pages that it could not write and forgets the error; this device does not: from then on every flush and every FUA
//! write fails until the device is opened anew, since what was written before is in doubt.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use block::{
    BlockDevice, Channel, ChannelContext, Features, Geometry, IoError, IoErrorKind, ResizeWatcher, Watchers,
};
use rustix::fs::FlockOperation;

use crate::Ring;
use crate::file_channel::FileChannel;

/// How to open a file.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Bypass the page cache (O_DIRECT).
    pub direct: bool,
    /// Every write is on the medium before it completes (O_DSYNC): there is no volatile cache.
    pub sync: bool,
    /// Do not write.
    pub read_only: bool,
    /// Smallest unit that may be addressed, bytes: a power of two from 512 to 4096.
    pub block_bytes: u32,
    /// Refuse a file that another process has open as a device of ours, or a block device in use (mounted).
    pub exclusive: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions { direct: false, sync: false, read_only: false, block_bytes: 512, exclusive: true }
    }
}

/// Why a file could not become a device.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("{}: in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is a directory, a socket or the like.
    #[error("{}: neither a regular file nor a block device", path.display())]
    NotADisk {
        /// The file.
        path: PathBuf,
    },
    /// The block size is no power of two from 512 to 4096, or smaller than the device's own.
    #[error("{}: block size {bytes} does not fit (the device's own is {own}; a power of two from 512 to 4096 would)", path.display())]
    BlockSize {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        bytes: u32,
        /// The device's logical block.
        own: u32,
    },
}

pub(crate) struct FileShared {
    pub path: PathBuf,
    pub fd: Arc<OwnedFd>,
    pub options: FileOptions,
    pub features: Features,
    /// Which operations on the page cache are done with a plain system call (see [`crate::file_channel`]).
    pub inline: Inline,
    /// Alignment of memory and offsets that O_DIRECT asks for; 1 where it is off.
    pub alignment: u32,
    physical: u32,
    optimal: u32,
    discard_granularity: u32,
    size: AtomicU64,
    pub writes_in_doubt: AtomicBool,
    watchers: Watchers,
}

/// See the module.
#[derive(Clone)]
pub struct FileDevice(Arc<FileShared>);

impl fmt::Debug for FileDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileDevice({})", self.0.path.display())
    }
}

impl FileDevice {
    /// Opens `path`.
    pub fn open(path: &Path, options: FileOptions) -> Result<FileDevice, FileError> {
        let fail = |source| FileError::Open { path: path.to_owned(), source };
        let meta = std::fs::metadata(path).map_err(fail)?;
        let is_block_device = meta.file_type().is_block_device();
        if !is_block_device && !meta.is_file() {
            return Err(FileError::NotADisk { path: path.to_owned() });
        }
        let file = open_file(path, &options, is_block_device)?;
        lock(&file, path, &options, is_block_device)?;
        let mut limits =
            if is_block_device { Limits::of_device(meta.rdev()) } else { Limits::of_file(&meta) };
        if options.direct {
            limits.logical = limits.logical.max(direct_alignment(&file));
        }
        let bytes = options.block_bytes;
        if !bytes.is_power_of_two() || !(512..=4096).contains(&bytes) || bytes < limits.logical {
            return Err(FileError::BlockSize { path: path.to_owned(), bytes, own: limits.logical });
        }
        let features = Features {
            read_only: options.read_only,
            discard: limits.discard_granularity > 0 && !options.read_only,
            volatile_cache: !options.sync,
            maps: !is_block_device,
            rotational: limits.rotational,
        };
        let size = size_of(file.as_fd()).map_err(fail)?;
        let inline = if is_block_device || options.direct || options.sync {
            Inline::default()
        } else {
            Inline::of(file.as_fd()).map_err(fail)?
        };
        Ok(FileDevice(Arc::new(FileShared {
            path: path.to_owned(),
            fd: Arc::new(file.into()),
            alignment: if options.direct { limits.logical.max(512) } else { 1 },
            physical: limits.physical.max(bytes),
            optimal: limits.optimal,
            discard_granularity: limits.discard_granularity,
            size: AtomicU64::new(whole_blocks(size, bytes)),
            inline,
            options,
            features,
            writes_in_doubt: AtomicBool::new(false),
            watchers: Watchers::default(),
        })))
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether a flush failed, so that what was written before it may be missing.
    pub fn writes_in_doubt(&self) -> bool {
        self.0.writes_in_doubt.load(Ordering::Acquire)
    }
}

fn open_file(path: &Path, options: &FileOptions, is_block_device: bool) -> Result<File, FileError> {
    let mut flags = libc::O_CLOEXEC;
    if options.direct {
        flags |= libc::O_DIRECT;
    }
    if options.sync {
        flags |= libc::O_DSYNC;
    }
    // On a block device, O_EXCL without O_CREAT refuses what is mounted or held by the device mapper.
    if is_block_device && options.exclusive {
        flags |= libc::O_EXCL;
    }
    std::fs::OpenOptions::new().read(true).write(!options.read_only).custom_flags(flags).open(path).map_err(
        |source| {
            if source.raw_os_error() == Some(libc::EBUSY) {
                FileError::InUse { path: path.to_owned() }
            } else {
                FileError::Open { path: path.to_owned(), source }
            }
        },
    )
}

/// Two writers of one file would each believe what the other overwrote; readers may share.
fn lock(file: &File, path: &Path, options: &FileOptions, is_block_device: bool) -> Result<(), FileError> {
    if !options.exclusive || is_block_device {
        return Ok(());
    }
    let how = if options.read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    match rustix::fs::flock(file, how) {
        Ok(()) => Ok(()),
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => Err(FileError::InUse { path: path.to_owned() }),
        // Some network file systems have no locks at all.
        Err(e) if e == rustix::io::Errno::OPNOTSUPP || e == rustix::io::Errno::NOLCK => Ok(()),
        Err(e) => Err(FileError::Open { path: path.to_owned(), source: e.into() }),
    }
}

/// The unit in which the file system takes direct operations, bytes; 512 where it does not say.
fn direct_alignment(file: &File) -> u32 {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);
    match statx(file, c"", AtFlags::EMPTY_PATH, DIOALIGN) {
        Ok(found) if found.stx_mask & DIOALIGN.bits() != 0 => {
            found.stx_dio_offset_align.max(found.stx_dio_mem_align).max(512)
        }
        _ => 512,
    }
}

fn whole_blocks(size: u64, block: u32) -> u64 {
    size - size % u64::from(block)
}

fn size_of(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0))?)
}

/// Operations that the ring would hand to a kernel thread on this file system although the page cache takes them at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inline {
    pub reads: bool,
    pub writes: bool,
}

impl Inline {
    fn of(fd: impl AsFd) -> io::Result<Inline> {
        const EXT4: u64 = 0xef53;
        const TMPFS: u64 = 0x0102_1994;
        Ok(match rustix::fs::fstatfs(fd)?.f_type as u64 {
            // ext4 refuses buffered writes that must not wait, whatever they would have to wait for.
            EXT4 => Inline { reads: false, writes: true },
            // A file system in memory, without support for operations that must not wait.
            TMPFS => Inline { reads: true, writes: true },
            _ => Inline::default(),
        })
    }
}

struct Limits {
    logical: u32,
    physical: u32,
    optimal: u32,
    discard_granularity: u32,
    rotational: bool,
}

impl Limits {
    fn of_file(meta: &std::fs::Metadata) -> Limits {
        let block = u32::try_from(meta.blksize()).unwrap_or(4096).next_power_of_two().clamp(512, 4096);
        Limits { logical: 512, physical: 512, optimal: 0, discard_granularity: block, rotational: false }
    }

    fn of_device(rdev: u64) -> Limits {
        let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
        let number = |name: &str| -> Option<u32> {
            // A partition has no queue of its own; its disk's is one level up.
            ["", "../"].iter().find_map(|up| {
                let path = format!("/sys/dev/block/{major}:{minor}/{up}queue/{name}");
                std::fs::read_to_string(path).ok()?.trim().parse().ok()
            })
        };
        let max = number("discard_max_bytes").unwrap_or(0);
        let logical = number("logical_block_size").unwrap_or(512);
        Limits {
            logical,
            physical: number("physical_block_size").unwrap_or(logical),
            optimal: number("optimal_io_size").unwrap_or(0),
            discard_granularity: if max > 0 { number("discard_granularity").unwrap_or(logical) } else { 0 },
            rotational: number("rotational").unwrap_or(0) == 1,
        }
    }
}

impl Drop for FileShared {
    /// A ring that is going away may hold the open file for a while yet; its lock ends here.
    fn drop(&mut self) {
        // Without a lock there is nothing to undo.
        let _ = rustix::fs::flock(&*self.fd, FlockOperation::NonBlockingUnlock);
    }
}

impl FileShared {
    pub fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size.load(Ordering::Acquire),
            logical_block_bytes: self.options.block_bytes,
            physical_block_bytes: self.physical,
            optimal_io_bytes: self.optimal,
            discard_granularity_bytes: self.discard_granularity,
        }
    }
}

impl BlockDevice for FileDevice {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn features(&self) -> Features {
        self.0.features
    }

    fn open(&self, context: &ChannelContext) -> Result<Rc<dyn Channel>, IoError> {
        let ring = context.host::<Ring>().ok_or(IoErrorKind::Unsupported)?;
        Ok(Rc::new(FileChannel::new(&ring, Arc::clone(&self.0))))
    }

    fn refresh(&self) -> Result<Geometry, IoError> {
        let size = size_of(&*self.0.fd)
            .map_err(|e| IoError { errno: e.raw_os_error(), ..IoError::new(IoErrorKind::Other) })?;
        let size = whole_blocks(size, self.0.options.block_bytes);
        let old = self.0.size.swap(size, Ordering::AcqRel);
        let geometry = self.0.geometry();
        if old != size {
            self.0.watchers.notify(geometry);
        }
        Ok(geometry)
    }

    fn watch(&self, watcher: Weak<dyn ResizeWatcher>) {
        self.0.watchers.add(watcher);
    }
}
