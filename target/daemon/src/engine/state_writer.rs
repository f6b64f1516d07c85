//! The thread that makes reservations durable (APTPL): a file a unit, replaced atomically.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use block::{IoError, IoErrorKind};

/// Writes that wait at most; more are refused, and the initiator is told.
const QUEUE_MAX: usize = 256;

type Done = Box<dyn FnOnce(Result<(), IoError>) + Send>;

struct Job {
    name: String,
    bytes: Vec<u8>,
    done: Done,
}

/// See the module.
pub(crate) struct StateWriter {
    dir: PathBuf,
    queue: SyncSender<Job>,
}

impl StateWriter {
    /// A writer of files in `dir`, which is made at first need.
    pub fn start(dir: PathBuf) -> io::Result<Self> {
        let (queue, writes) = sync_channel::<Job>(QUEUE_MAX);
        let target = dir.clone();
        std::thread::Builder::new().name("state-writer".into()).spawn(move || {
            for write in writes {
                let result = replace(&target, &write.name, &write.bytes);
                if let Err(e) = &result {
                    tracing::error!(
                        "{}: reservations could not be saved: {e}",
                        target.join(&write.name).display()
                    );
                }
                (write.done)(result.map_err(|e| to_io_error(&e)));
            }
        })?;
        Ok(StateWriter { dir, queue })
    }

    /// Writes `bytes` as `name`; `done` is told when they are on the medium.
    pub fn write(&self, name: &str, bytes: Vec<u8>, done: Done) {
        let write = Job { name: name.to_owned(), bytes, done };
        if let Err(refused) = self.queue.try_send(write) {
            let (std::sync::mpsc::TrySendError::Full(w) | std::sync::mpsc::TrySendError::Disconnected(w)) =
                refused;
            (w.done)(Err(IoErrorKind::Other.into()));
        }
    }

    /// What is saved as `name`; none where nothing is.
    pub fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()
}

fn to_io_error(e: &io::Error) -> IoError {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoErrorKind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => IoErrorKind::ReadOnly,
        _ => IoErrorKind::Medium,
    };
    IoError { errno: e.raw_os_error(), ..IoError::new(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_replaces_and_reports() {
        let dir = tempfile::tempdir().unwrap();
        let writer = StateWriter::start(dir.path().join("a/b")).unwrap();
        assert_eq!(writer.read("x").unwrap(), None);
        for text in ["one", "two"] {
            let (tell, told) = sync_channel(1);
            writer.write("x", text.into(), Box::new(move |r| tell.send(r).unwrap()));
            told.recv().unwrap().unwrap();
            assert_eq!(writer.read("x").unwrap().as_deref(), Some(text.as_bytes()));
        }
        let blocked = StateWriter::start(dir.path().join("a/b/x/no")).unwrap();
        let (tell, told) = sync_channel(1);
        blocked.write("x", vec![1], Box::new(move |r| tell.send(r).unwrap()));
        assert!(told.recv().unwrap().is_err());
    }
}
