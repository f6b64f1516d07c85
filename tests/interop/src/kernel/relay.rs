//! A relay of TCP connections that can be cut: a path to the target that can be lost while the target lives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;

/// A relay on a port of its own.
pub struct Relay {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cut: bool,
    ended: bool,
    open: Vec<TcpStream>,
}

impl Relay {
    /// Relays to `to`.
    pub fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        std::thread::spawn(move || accept(&listener, to, &shared));
        Ok(Self { port, state })
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends what is open, and every new connection at once, until [`Self::mend`].
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.cut = true;
        for stream in state.open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cut = false;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        // Wakes the thread that accepts, so that it sees the end.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn accept(listener: &TcpListener, to: SocketAddr, state: &Mutex<State>) {
    for stream in listener.incoming() {
        let Ok(near) = stream else { continue };
        let mut shared = state.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.ended {
            return;
        }
        if shared.cut {
            continue;
        }
        let Ok(far) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else { continue };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else { continue };
        let (Ok(near3), Ok(far3)) = (near.try_clone(), far.try_clone()) else { continue };
        shared.open.extend([near3, far3]);
        std::thread::spawn(move || copy(near, far));
        std::thread::spawn(move || copy(far2, near2));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_relays_and_can_be_cut() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let relay = Relay::start(listener.local_addr().expect("an address")).expect("started");
        let mut near = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        near.write_all(b"hello").expect("written");
        let mut got = [0; 5];
        far.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"hello");
        relay.cut();
        assert_eq!(near.read(&mut got).unwrap_or(0), 0);
        relay.mend();
        let mut again = TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        again.write_all(b"again").expect("written");
        far.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"again");
    }
}
