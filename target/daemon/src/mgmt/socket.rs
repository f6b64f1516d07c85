//! The management socket: its path, its lock, who may speak, and how long.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::Root;
use rustix::fs::FlockOperation;

use super::codec::encode_response;
use super::{HEADER_BYTES, RESPONSE_BYTES, Request, RequestHeader, Response, ResponseHeader};
use crate::control::error::{Refusal, TgtError};

/// The variable that replaces the socket's path; the control port is still appended.
pub const PATH_VARIABLE: &str = "TGT_IPC_SOCKET";
/// The socket's path without the control port.
pub const PATH_DEFAULT: &str = "/var/run/tgtd/socket";
/// Bytes of the answer that a client takes at most.
const RESPONSE_TEXT_MAX: usize = 1 << 30;
/// How long a client of ours may take for its request and for reading the answer.
const CLIENT_SECONDS_MAX: u64 = 10;

/// The socket of a control port. `variable` is the value of [`PATH_VARIABLE`].
pub fn path(root: &Root, variable: Option<&str>, control_port: i16) -> PathBuf {
    let prefix = match variable {
        Some(p) => PathBuf::from(p),
        None => root.join(PATH_DEFAULT),
    };
    let mut name = prefix.into_os_string();
    name.push(format!(".{control_port}"));
    PathBuf::from(name)
}

/// A listening management socket. Like tgt's, the file stays when the daemon ends: a client that waits for the end sees
/// connections refused.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    _lock: File,
}

impl Socket {
    /// Takes the lock beside the path and listens. Fails where another daemon holds the lock.
    pub fn bind(path: &Path) -> io::Result<Socket> {
        let describe = |what: &str, e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| describe(&dir.display().to_string(), e))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(&lock_path)
            .map_err(|e| describe(&lock_path.display().to_string(), e))?;
        take_lock(&lock, &lock_path)?;
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(describe(&path.display().to_string(), e));
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(|e| describe(&path.display().to_string(), e))?;
        Ok(Socket { listener, _lock: lock })
    }

    /// The listener.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Waits for one client, reads its request, answers with what `apply` says. Clients that are not of the daemon's user
    /// and group, or that send no request, are dropped; that is not an error. The answer of `apply` comes with whether
    /// the daemon ends now; true is returned after the answer is out.
    pub fn serve_one(&self, apply: &mut dyn FnMut(Request) -> (Response, bool)) -> io::Result<bool> {
        let (stream, _) = self.listener.accept()?;
        Ok(serve(&stream, apply).unwrap_or(false))
    }
}

/// fcntl locks, as tgt takes them, keep a stock tgtd out; a flock keeps out a second daemon of ours.
fn take_lock(lock: &File, path: &Path) -> io::Result<()> {
    let taken =
        |_| io::Error::new(io::ErrorKind::AddrInUse, format!("another tgtd is using {}", path.display()));
    rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).map_err(taken)?;
    rustix::fs::fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive).map_err(taken)
}

/// One client: check, read, apply, answer. True where the daemon ends now, whether or not the client took its answer.
pub fn serve(stream: &UnixStream, apply: &mut dyn FnMut(Request) -> (Response, bool)) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid != rustix::process::getuid() || peer.gid != rustix::process::getgid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "management client of another user"));
    }
    let request = read_request(&mut Deadline::new(stream, CLIENT_SECONDS_MAX))?;
    let (response, ends) = apply(request);
    let written = Deadline::new(stream, CLIENT_SECONDS_MAX).write_all(&encode_response(&response));
    if ends { Ok(true) } else { written.map(|()| false) }
}

fn read_request(from: &mut impl Read) -> io::Result<Request> {
    let malformed = |e: super::Malformed| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let header = RequestHeader::decode(&header).map_err(malformed)?;
    let mut payload = vec![0; header.payload_bytes()];
    from.read_exact(&mut payload)?;
    header.with_payload(&payload).map_err(malformed)
}

/// A stream whose whole transfer, not each read of it, has to be over in time.
struct Deadline<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl<'a> Deadline<'a> {
    fn new(stream: &'a UnixStream, seconds: u64) -> Self {
        Deadline { stream, end: Instant::now() + Duration::from_secs(seconds) }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Deadline<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buf)
    }
}

impl Write for Deadline<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the daemon said, as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Success, and text to print.
    Text(String),
    /// An error by its number, and why, where the daemon says so.
    Refused {
        /// tgt's number.
        code: u32,
        /// Why; empty from a stock tgtd.
        detail: String,
    },
}

impl From<Answer> for Response {
    fn from(answer: Answer) -> Response {
        match answer {
            Answer::Text(text) => Ok(text),
            Answer::Refused { code, detail } => {
                Err(Refusal::new(TgtError::from_code(code).unwrap_or(TgtError::Unknown), detail))
            }
        }
    }
}

/// Why a client has no answer.
#[derive(Debug)]
pub enum ClientError {
    /// The request could not be sent: no daemon.
    Send(io::Error),
    /// The daemon closed the connection without an answer.
    Closed,
    /// The answer stopped in the middle, or makes no sense.
    Receive(io::Error),
}

/// Sends `request` to the daemon at `path` and waits for its answer.
pub fn call(path: &Path, request: &Request) -> Result<Answer, ClientError> {
    let mut stream = UnixStream::connect(path).map_err(ClientError::Send)?;
    // A daemon that refuses a request by its header has already closed its end: its answer, if any, counts.
    let sent = stream.write_all(&request.encode());
    let mut header = [0; RESPONSE_BYTES];
    let mut have = 0;
    while let Some(room) = header.get_mut(have..).filter(|r| !r.is_empty()) {
        match stream.read(room) {
            Ok(0) if have == 0 => return Err(sent.map_or_else(ClientError::Send, |()| ClientError::Closed)),
            Ok(0) => return Err(ClientError::Receive(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset && have == 0 => {
                return Err(ClientError::Closed);
            }
            Err(e) => return Err(ClientError::Receive(e)),
        }
    }
    let malformed = |e| ClientError::Receive(io::Error::new(io::ErrorKind::InvalidData, e));
    let header = ResponseHeader::decode(&header).map_err(malformed)?;
    let mut text = Vec::new();
    let limit = header.text_bytes.min(RESPONSE_TEXT_MAX) as u64;
    stream.take(limit).read_to_end(&mut text).map_err(ClientError::Receive)?;
    if header.error == 0 && text.len() != header.text_bytes {
        return Err(ClientError::Receive(io::ErrorKind::UnexpectedEof.into()));
    }
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    text.truncate(end);
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(match header.error {
        0 => Answer::Text(text),
        code => Answer::Refused { code, detail: text },
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, Op};
    use super::*;

    #[test]
    fn paths() {
        let root = Root::new("/tmp/n");
        assert_eq!(path(&root, None, 0), Path::new("/tmp/n/var/run/tgtd/socket.0"));
        assert_eq!(path(&root, Some("/x/s"), 7), Path::new("/x/s.7"));
    }

    #[test]
    fn one_request_one_answer_and_one_daemon_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("socket.1");
        let socket = Socket::bind(&at).unwrap();
        assert!(Socket::bind(&at).unwrap_err().to_string().contains("another tgtd is using"));
        let client = std::thread::spawn({
            let at = at.clone();
            move || {
                let first = call(&at, &Request::new(Mode::Target, Op::Show)).unwrap();
                let second = call(&at, &Request::new(Mode::System, Op::Delete)).unwrap();
                (first, second)
            }
        });
        let mut seen = 0;
        let mut apply = |r: Request| {
            seen += 1;
            match Mode::from_wire(r.mode) {
                Some(Mode::Target) => (Ok("hello\n".to_owned()), false),
                _ => (Err(Refusal::invalid("no")), true),
            }
        };
        assert!(!socket.serve_one(&mut apply).unwrap());
        assert!(socket.serve_one(&mut apply).unwrap());
        assert_eq!(seen, 2);
        let (first, second) = client.join().unwrap();
        assert_eq!(first, Answer::Text("hello\n".to_owned()));
        assert_eq!(second, Answer::Refused { code: 17, detail: "no".to_owned() });
        drop(socket);
        assert!(matches!(call(&at, &Request::new(Mode::Target, Op::Show)), Err(ClientError::Send(_))));
    }

    #[test]
    fn a_request_that_is_too_long_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("socket.1");
        let socket = Socket::bind(&at).unwrap();
        let client = std::thread::spawn(move || {
            let mut r = Request::new(Mode::Target, Op::New);
            r.payload = "x".repeat(9000);
            call(&at, &r)
        });
        assert!(!socket.serve_one(&mut |_| panic!("not a request")).unwrap());
        assert!(matches!(client.join().unwrap(), Err(ClientError::Closed | ClientError::Send(_))));
    }
}
