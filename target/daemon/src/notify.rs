//! sd_notify: what systemd's Type=notify waits for.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;

/// The daemon is ready.
pub fn ready() {
    say("READY=1");
}

/// The daemon ends.
pub fn stopping() {
    say("STOPPING=1");
}

fn say(what: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send(path.as_bytes(), what) {
        tracing::warn!("systemd could not be told {what}: {e}");
    }
}

fn send(path: &[u8], what: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let socket = UnixDatagram::unbound()?;
    let address = match path.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.send_to_addr(what.as_bytes(), &address).map(drop)
}
