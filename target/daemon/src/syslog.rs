//! The log of a daemon in the background: to the system's log socket, as tgtd's goes.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;

use tracing_subscriber::fmt::MakeWriter;

const SOCKET: &str = "/dev/log";
/// Facility daemon, severity info (RFC 5424 6.2.1): the level is in the text.
const PRIORITY: &str = "<30>";

/// Writes each event as one message.
pub(crate) struct Syslog(UnixDatagram);

impl Syslog {
    /// None where the system has no log socket.
    pub fn connect() -> Option<Self> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        // A log that does not keep up must not hold up a disk.
        socket.set_nonblocking(true).ok()?;
        Some(Syslog(socket))
    }
}

/// One event's text.
pub(crate) struct Message<'a>(&'a UnixDatagram, Vec<u8>);

impl Write for Message<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.1);
        let line = format!("{PRIORITY}tgtd[{}]: {}", std::process::id(), text.trim_end());
        // There is nobody left to be told that the log cannot be written.
        let _ = self.0.send(line.as_bytes());
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Message<'a> {
        Message(&self.0, Vec::new())
    }
}
