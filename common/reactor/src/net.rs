//! Sockets, made and tuned. Sending and receiving is the ring's.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

/// Connections that wait for an accept.
const BACKLOG: i32 = 1024;

/// A listening TCP socket on `address`. An IPv6 socket takes IPv6 only, so that both families can listen on one port.
/// With `shared`, several sockets (one a thread) may listen on the address and the kernel spreads connections over them.
pub fn listen(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if shared {
        sockopt::set_socket_reuseport(&fd, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    net::bind(&fd, &address)?;
    net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// Options of a storage connection: no delay, keep-alive so that a peer that vanished is noticed.
pub fn tune(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, std::time::Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(&socket, std::time::Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(&socket, 3)?;
    Ok(())
}

/// The address at the other end.
pub fn peer(socket: impl AsFd) -> io::Result<SocketAddr> {
    to_ip(net::getpeername(socket)?)
}

/// The address at this end.
pub fn local(socket: impl AsFd) -> io::Result<SocketAddr> {
    to_ip(Some(net::getsockname(socket)?))
}

/// Ends both directions; operations in flight complete.
pub fn shutdown(socket: impl AsFd) {
    // A socket whose peer is gone already says ENOTCONN: nothing is left to do.
    let _ = net::shutdown(socket, net::Shutdown::Both);
}

fn to_ip(address: Option<net::SocketAddrAny>) -> io::Result<SocketAddr> {
    let unknown = || io::Error::new(io::ErrorKind::AddrNotAvailable, "the socket has no IP address");
    SocketAddr::try_from(address.ok_or_else(unknown)?).map_err(|_| unknown())
}
