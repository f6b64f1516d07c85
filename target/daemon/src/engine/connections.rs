//! Sockets: listening, accepting, receiving, sending, moving a connection to another worker.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use reactor::{Gather, Handle, Part, ReceiveBufs, net};
use target_session::{ConnId, PeerInfo, RxBatch, Segment, Transfer, TxBatch};

use super::mail::Mail;
use super::worker::{Listener, Worker, with_machine};

/// Pieces of one send at most.
const SEGMENTS_MAX: usize = 512;
/// Bytes of one send at most, about.
const SEND_BYTES_MAX: usize = 1 << 20;

/// How long a listener rests after it failed to accept.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A connection's socket.
pub(super) struct Conn {
    pub id: ConnId,
    pub handle: Rc<Handle>,
    pub peer: PeerInfo,
    /// The receive that is out has a part that goes straight into a command's buffer.
    direct: bool,
    /// The rest of a send that is out.
    segments: Vec<Segment>,
    total: usize,
}

impl Worker {
    pub fn conn(&self, id: ConnId) -> Option<&Conn> {
        self.conns.get(id.index()).and_then(Option::as_ref).filter(|c| c.id == id)
    }

    fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.index()).and_then(Option::as_mut).filter(|c| c.id == id)
    }

    pub fn listen(&mut self, socket: OwnedFd, address: SocketAddr, tag: u16) {
        let handle = Handle::new(&self.ring, socket);
        let free = self.listeners.iter().position(|l| !l.open);
        let index = free.unwrap_or(self.listeners.len());
        self.ring.accept(&handle, index as u64);
        let listener = Listener { address, tag, handle, open: true };
        if index == self.listeners.len() {
            self.listeners.push(listener);
        } else {
            self.listeners[index] = listener;
        }
    }

    pub fn unlisten(&mut self, address: SocketAddr) {
        for listener in self.listeners.iter_mut().filter(|l| l.open && l.address == address) {
            listener.open = false;
            // Ends the accept that is out; the socket goes with it.
            net::shutdown(&*listener.handle);
        }
    }

    pub fn accepted(&mut self, index: usize, result: io::Result<OwnedFd>) {
        let Some(listener) = self.listeners.get(index).filter(|l| l.open) else { return };
        let (handle, tag) = (Rc::clone(&listener.handle), listener.tag);
        match result {
            Ok(socket) => self.place(socket, tag),
            Err(e) => {
                tracing::warn!("{}: cannot accept a connection: {e}", listener.address);
                // Out of descriptors or memory: accepting again at once would only burn the core.
                self.accept_again.push((self.now + ACCEPT_PAUSE, index));
                return;
            }
        }
        self.ring.accept(&handle, index as u64);
    }

    /// Listens again where accepting failed a while ago.
    pub fn accept_due(&mut self) {
        while let Some(at) = self.accept_again.iter().position(|&(when, _)| when <= self.now) {
            let (_, index) = self.accept_again.swap_remove(at);
            if let Some(listener) = self.listeners.get(index).filter(|l| l.open) {
                self.ring.accept(&listener.handle, index as u64);
            }
        }
    }

    /// Gives a new connection to the worker that has the fewest.
    fn place(&mut self, socket: OwnedFd, tag: u16) {
        let ends = net::tune(&socket).and_then(|()| Ok((net::peer(&socket)?, net::local(&socket)?)));
        // A peer that is gone before it was looked at is nobody's loss.
        let Ok((peer, local)) = ends else { return };
        let peer = PeerInfo { peer, local, portal_group: tag };
        if !self.shared.snapshot().online {
            return;
        }
        let to = self.shared.least_loaded();
        if to == self.index {
            self.take_connection(socket, peer);
        } else {
            self.send(to, Mail::Connection { socket, peer });
        }
    }

    pub fn take_connection(&mut self, socket: OwnedFd, peer: PeerInfo) {
        match with_machine!(self, accept, peer) {
            Ok(id) => self.add_conn(id, Handle::new(&self.ring, socket), peer),
            Err(e) => tracing::warn!("{}: connection refused: {e}", peer.peer),
        }
    }

    pub fn adopt(&mut self, socket: Arc<OwnedFd>, peer: PeerInfo, transfer: Transfer) {
        match with_machine!(self, adopt, peer, transfer) {
            Ok(id) => self.add_conn(id, Handle::new(&self.ring, socket), peer),
            Err(e) => tracing::warn!("{}: connection refused: {e}", peer.peer),
        }
    }

    fn add_conn(&mut self, id: ConnId, handle: Rc<Handle>, peer: PeerInfo) {
        let index = id.index();
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || None);
        }
        self.conns[index] = Some(Conn { id, handle, peer, direct: false, segments: Vec::new(), total: 0 });
        if let Some(load) = self.shared.load.get(self.index as usize) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        self.rearm.push(id);
    }

    fn remove_conn(&mut self, id: ConnId) -> Option<Conn> {
        self.conn(id)?;
        if let Some(load) = self.shared.load.get(self.index as usize) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
        self.conns.get_mut(id.index()).and_then(Option::take)
    }

    /// Moves a connection to the worker where its session lives.
    pub fn hand_over(&mut self, id: ConnId, thread: u32) {
        let Some(transfer) = self.machine.extract(id) else { return };
        let Some(conn) = self.remove_conn(id) else { return };
        self.send(thread, Mail::Adopt { socket: conn.handle.share(), peer: conn.peer, transfer });
    }

    /// Shuts the socket; what is in flight on it ends and is dropped.
    pub fn close(&mut self, id: ConnId) {
        if let Some(conn) = self.remove_conn(id) {
            net::shutdown(&*conn.handle);
        }
    }

    pub fn received(&mut self, id: ConnId, mut bufs: ReceiveBufs, result: io::Result<usize>) {
        let Some(conn) = self.conn(id) else { return };
        let Some(staging) = bufs.pop() else { return };
        let direct = if conn.direct { bufs.pop() } else { None };
        match result {
            Ok(n) => with_machine!(self, rx_done, id, RxBatch { direct, staging }, n),
            Err(e) => {
                tracing::debug!("{}: receive failed: {e}", conn.peer.peer);
                with_machine!(self, conn_failed, id);
            }
        }
        self.rearm.push(id);
    }

    pub fn sent(&mut self, id: ConnId, gather: Gather, result: io::Result<usize>) {
        let Some(conn) = self.conn_mut(id) else { return };
        let segments = std::mem::take(&mut conn.segments);
        let batch = TxBatch { headers: gather.headers, bufs: gather.bufs, segments, total: conn.total };
        match result {
            Ok(n) => with_machine!(self, tx_done, id, batch, n),
            Err(e) => {
                tracing::debug!("{}: send failed: {e}", conn.peer.peer);
                with_machine!(self, conn_failed, id);
            }
        }
        self.transmit.push(id);
    }

    /// Arms receives and sends what is ready.
    pub fn arm_and_send(&mut self) {
        while let Some(id) = self.transmit.pop() {
            self.send_ready(id);
        }
        while let Some(id) = self.rearm.pop() {
            self.arm(id);
        }
    }

    fn arm(&mut self, id: ConnId) {
        let Some(handle) = self.conn(id).map(|c| Rc::clone(&c.handle)) else { return };
        let Some(batch) = with_machine!(self, take_rx, id) else { return };
        let Some(conn) = self.conn_mut(id) else { return };
        conn.direct = batch.direct.is_some();
        let bufs: ReceiveBufs = batch.direct.into_iter().chain(std::iter::once(batch.staging)).collect();
        self.ring.receive(&handle, id.0, bufs);
    }

    fn send_ready(&mut self, id: ConnId) {
        let Some(handle) = self.conn(id).map(|c| Rc::clone(&c.handle)) else { return };
        let Some(batch) = with_machine!(self, take_tx, id, SEGMENTS_MAX, SEND_BYTES_MAX) else { return };
        let parts = batch.segments.iter().map(|&s| match s {
            Segment::Header { start, len } => Part::Header { start, len },
            Segment::Buf { index, start, len } => Part::Buf { index, start, len },
        });
        self.ring.send(&handle, id.0, Gather { headers: batch.headers, bufs: batch.bufs }, parts);
        if let Some(conn) = self.conn_mut(id) {
            conn.total = batch.total;
            conn.segments = batch.segments;
        }
    }
}
