//! The thread that makes reservations durable (APTPL): a file a unit, replaced atomically.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use block::{IoError, IoErrorKind};

use crate::persist::write_durably;

/// Writes that wait at most; more are refused, and the initiator is told.
const QUEUE_MAX: usize = 256;

/// Gives the bytes to write. Called when their turn has come, so that the last write of a file has the last state.
type State = Box<dyn FnOnce() -> Vec<u8> + Send>;
type Done = Box<dyn FnOnce(Result<(), IoError>) + Send>;

struct Job {
    name: String,
    state: State,
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
                let result = replace(&target, &write.name, &(write.state)());
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

    /// Writes what `state` gives as `name`; `done` is told when it is on the medium.
    pub fn write(&self, name: &str, state: State, done: Done) {
        let write = Job { name: name.to_owned(), state, done };
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
    write_durably(&dir.join(name), bytes)
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
            writer.write("x", Box::new(|| text.into()), Box::new(move |r| tell.send(r).unwrap()));
            told.recv().unwrap().unwrap();
            assert_eq!(writer.read("x").unwrap().as_deref(), Some(text.as_bytes()));
        }
        let blocked = StateWriter::start(dir.path().join("a/b/x/no")).unwrap();
        let (tell, told) = sync_channel(1);
        blocked.write("x", Box::new(|| vec![1]), Box::new(move |r| tell.send(r).unwrap()));
        assert!(told.recv().unwrap().is_err());
    }
}
