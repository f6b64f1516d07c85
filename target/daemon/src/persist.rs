//! `tgtd --persist`: what was configured survives the daemon.
//!
//! After every change the whole configuration is written to a new file, which is synced, put in the place of the old one,
//! and the directory synced: at any moment there is one complete state on the disk, and a change was answered with success
//! only once it was there. A file that cannot be read is an error, and the daemon neither starts with it nor writes over
//! it. The file has secrets in it; its mode is 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base::Root;
use sha2::{Digest, Sha256};

use crate::control::backend::Backend;
use crate::control::error::{Refusal, TgtError};
use crate::control::{Control, RestoreError, SavedState};
use crate::mgmt::{Request, Response};

const STATE_DIR: &str = "/var/lib/plinth";
const MACHINE_ID: &str = "/etc/machine-id";
const STATE_BYTES_MAX: u64 = 256 << 20;
const ID_BYTES: usize = 16;

/// What went wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// It could not be read or written.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// What it says makes no sense. It was left as it is.
    #[error("{}: {source}. The file was left as it is: repair it, or move it away to start without it", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: RestoreError,
    },
    /// A portal of the command line could not be opened.
    #[error("portal: {0}")]
    Portal(Refusal),
}

/// The state file of one daemon.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The state file at `path`. It need not exist yet; its directory is made.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, PersistError> {
        let path = path.into();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|source| PersistError::Io {
                path: dir.to_owned(),
                what: "make the directory",
                source,
            })?;
        }
        Ok(Store { path })
    }

    /// Where the state of a daemon lies unless it is told otherwise.
    pub fn default_path(root: &Root, control_port: i16) -> PathBuf {
        root.join(STATE_DIR).join(format!("tgtd.{control_port}.json"))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved last; None where nothing ever was.
    pub fn load(&self) -> Result<Option<SavedState>, PersistError> {
        let io = |what, source| PersistError::Io { path: self.path.clone(), what, source };
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io("open", e)),
        };
        let mut text = String::new();
        file.take(STATE_BYTES_MAX).read_to_string(&mut text).map_err(|e| io("read", e))?;
        SavedState::from_json(&text)
            .map(Some)
            .map_err(|source| PersistError::Content { path: self.path.clone(), source })
    }

    /// Puts `state` in the place of what was saved before.
    pub fn save(&self, state: &SavedState) -> Result<(), PersistError> {
        let text = state.to_json().map_err(|e| PersistError::Content {
            path: self.path.clone(),
            source: RestoreError::Syntax(e),
        })?;
        write_durably(&self.path, text.as_bytes()).map_err(|source| PersistError::Io {
            path: self.path.clone(),
            what: "write",
            source,
        })
    }
}

/// Writes a file of mode 0600 so that after a crash there is the old one or the new one, whole.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, path));
    if let Err(e) = written {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// This installation's own number, from which serial numbers of logical units are made: random, made once, kept in
/// /var/lib/plinth/instance-id. Where that cannot be written it is derived from /etc/machine-id, and the text that comes
/// back beside it says so.
pub fn instance_id(root: &Root) -> Result<([u8; ID_BYTES], Option<String>), PersistError> {
    let path = root.join(STATE_DIR).join("instance-id");
    let refused = match read_or_make_id(&path) {
        Ok(id) => return Ok((id, None)),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            return Err(PersistError::Io { path, what: "take as 32 hexadecimal digits", source: e });
        }
        Err(e) => e,
    };
    let machine = fs::read_to_string(root.join(MACHINE_ID)).unwrap_or_default();
    if machine.trim().is_empty() {
        return Err(PersistError::Io { path, what: "make", source: refused });
    }
    let digest = Sha256::new().chain_update(b"plinth instance\0").chain_update(machine.trim()).finalize();
    let mut id = [0; ID_BYTES];
    id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    let why = format!("{}: {refused}; serial numbers come from {MACHINE_ID} instead", path.display());
    Ok((id, Some(why)))
}

fn read_or_make_id(path: &Path) -> io::Result<[u8; ID_BYTES]> {
    match fs::read_to_string(path) {
        Ok(text) => parse_id(text.trim()).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            let mut id = [0; ID_BYTES];
            getrandom::fill(&mut id).map_err(io::Error::other)?;
            let text: String = id.iter().map(|b| format!("{b:02x}")).collect();
            write_durably(path, format!("{text}\n").as_bytes())?;
            Ok(id)
        }
        Err(e) => Err(e),
    }
}

fn parse_id(text: &str) -> Option<[u8; ID_BYTES]> {
    if text.len() != 2 * ID_BYTES || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut id = [0; ID_BYTES];
    for (i, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(id)
}

/// The control state together with what keeps it: what a daemon's control thread owns.
#[derive(Debug)]
pub struct Manager {
    control: Control,
    store: Option<Store>,
}

impl Manager {
    /// Starts: restores what `store` has, then opens the portals of tgtd's `--iscsi` option (`portal=...`; an empty text
    /// and nothing restored: the iSCSI port everywhere). The texts that come back are for the log.
    pub fn start(
        instance: [u8; ID_BYTES],
        store: Option<Store>,
        iscsi: &str,
        backend: &mut dyn Backend,
    ) -> Result<(Self, Vec<String>), PersistError> {
        let mut control = Control::new(instance);
        let saved = store.as_ref().map(Store::load).transpose()?.flatten();
        control.start_driver_options(iscsi, backend).map_err(PersistError::Portal)?;
        let mut warnings = Vec::new();
        if let (Some(saved), Some(store)) = (&saved, &store) {
            warnings = control
                .restore(saved, backend)
                .map_err(|source| PersistError::Content { path: store.path.clone(), source })?;
        }
        control.start_default_portal(backend).map_err(PersistError::Portal)?;
        Ok((Manager { control, store }, warnings))
    }

    /// Carries out one request, and keeps what it led to before it is answered. True: the daemon ends after the answer.
    pub fn apply(&mut self, request: &Request, backend: &mut dyn Backend) -> (Response, bool) {
        let outcome = self.control.apply(request, backend);
        let kept = match &self.store {
            Some(store) if outcome.changed => store.save(&self.control.saved()),
            _ => Ok(()),
        };
        let response = match kept {
            Ok(()) => outcome.response,
            Err(e) => Err(Refusal::new(TgtError::Unknown, format!("done, but not kept: {e}"))),
        };
        (response, outcome.shutdown)
    }

    /// The control state.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::testing::FakeBackend;
    use crate::mgmt::{Mode, Op};

    fn request(mode: Mode, op: Op, tid: i32, payload: &str) -> Request {
        Request { tid, payload: payload.to_owned(), ..Request::new(mode, op) }
    }

    fn start(path: &Path) -> Result<(Manager, Vec<String>, FakeBackend), PersistError> {
        let mut backend = FakeBackend::default();
        let (m, w) = Manager::start([1; 16], Some(Store::new(path)?), "portal=127.0.0.1:1", &mut backend)?;
        Ok((m, w, backend))
    }

    #[test]
    fn what_was_configured_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state.json");
        let (mut m, _, mut b) = start(&path).unwrap();
        for r in [
            request(Mode::Account, Op::New, -1, "user=bob,password=se,cret"),
            request(Mode::Target, Op::New, 2, "targetname=iqn.b"),
            request(Mode::Target, Op::New, 1, "targetname=iqn.a"),
            request(Mode::Account, Op::Bind, 1, "user=bob"),
            request(Mode::Target, Op::Bind, 1, "initiator-address=10.0.0.0/8"),
            request(Mode::Target, Op::Update, 1, "MaxBurstLength=4096"),
            request(Mode::Portal, Op::New, -1, "portalOps portal=127.0.0.1:2,"),
            Request { lun: 1, ..request(Mode::Device, Op::New, 1, "path=/x") },
        ] {
            assert_eq!(m.apply(&r, &mut b), (Ok(String::new()), false), "{r:?}");
        }
        let before = m.control().saved();
        let (again, warnings, b) = start(&path).unwrap();
        assert_eq!(again.control().saved(), before);
        assert!(warnings.is_empty() && b.units.len() == 3, "{warnings:?}");
        let snapshot = b.snapshot.unwrap();
        assert_eq!(snapshot.target(1).unwrap().auth.incoming[0].password.0, "se,cret");
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_device_that_is_gone_stays_configured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let (mut m, _, mut b) = start(&path).unwrap();
        m.apply(&request(Mode::Target, Op::New, 1, "targetname=iqn.a"), &mut b).0.unwrap();
        m.apply(&Request { lun: 1, ..request(Mode::Device, Op::New, 1, "path=/gone") }, &mut b).0.unwrap();
        let text = fs::read_to_string(&path).unwrap().replace("/gone", "/missing");
        fs::write(&path, &text).unwrap();
        let (mut m, warnings, mut b) = start(&path).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("/missing"), "{warnings:?}");
        let show = m.apply(&request(Mode::Target, Op::Show, -1, ""), &mut b).0.unwrap();
        assert!(show.contains("Online: No") && show.contains("path: /missing"), "{show}");
        let lun = |payload: &str| Request { lun: 1, ..request(Mode::Device, Op::Update, 1, payload) };
        assert!(m.apply(&lun("targetOps online=1,"), &mut b).0.is_err(), "still missing");
        m.apply(&lun("targetOps path=/there,"), &mut b).0.unwrap();
        let show = m.apply(&request(Mode::Target, Op::Show, -1, ""), &mut b).0.unwrap();
        assert!(show.contains("path: /there") && !show.contains("Online: No"), "{show}");
    }

    #[test]
    fn a_broken_file_is_an_error_and_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for (text, why) in [
            ("{ \"version\": 1", "EOF"),
            ("{ \"version\": 7 }", "version 7"),
            ("{ \"version\": 1 }", "missing field"),
            ("", "EOF"),
        ] {
            fs::write(&path, text).unwrap();
            let e = start(&path).unwrap_err().to_string();
            assert!(e.contains(why) && e.contains("state.json"), "{e}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_state_that_cannot_be_kept_is_not_answered_with_success() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/state.json");
        let (mut m, _, mut b) = start(&path).unwrap();
        fs::remove_dir_all(dir.path().join("sub")).unwrap();
        let (response, _) = m.apply(&request(Mode::Target, Op::New, 1, "targetname=iqn.a"), &mut b);
        assert!(response.unwrap_err().detail.contains("not kept"));
    }

    #[test]
    fn the_instance_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let (first, warning) = instance_id(&root).unwrap();
        assert!(warning.is_none() && instance_id(&root).unwrap().0 == first);
        fs::write(dir.path().join("var/lib/plinth/instance-id"), "zork").unwrap();
        assert!(instance_id(&root).is_err());
    }
}
