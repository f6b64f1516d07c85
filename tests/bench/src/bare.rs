//! The limit: a server that does nothing but what a target cannot do without. 48 bytes in (and the data of a write), the
//! file read or written, 48 bytes and the data of a read out. One thread, one ring, sockets and file registered, all
//! replies of a turn in one sendmsg. Writes go by a plain system call: ext4 takes no buffered write without the leave to
//! block, so that the ring would hand each to a kernel thread, which costs several times as much.

use std::fs::{File, OpenOptions};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::ring::{self, Message, Ring};

/// Bytes of a request's and of a reply's header.
pub const HEADER: usize = 48;
/// Requests in flight of one connection.
const DEPTH: usize = 128;
const RX_BYTES: usize = 1 << 20;
const IOVECS_MAX: usize = 512;

/// What a request's first byte says.
pub const READ: u8 = 1;
/// A write; its data follow.
pub const WRITE: u8 = 2;

/// A request: operation, tag (4..8), offset (8..16) and length (16..20), little-endian.
pub fn request(op: u8, tag: u32, offset: u64, len: u32) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[0] = op;
    h[4..8].copy_from_slice(&tag.to_le_bytes());
    h[8..16].copy_from_slice(&offset.to_le_bytes());
    h[16..20].copy_from_slice(&len.to_le_bytes());
    h
}

/// Four bytes of a header.
pub fn word(h: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]])
}

struct Slot {
    header: [u8; HEADER],
    data: Vec<u8>,
    len: usize,
    read: bool,
}

struct Connection {
    socket: TcpStream,
    rx: Vec<u8>,
    start: usize,
    end: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    ready: Vec<usize>,
    sending: Vec<usize>,
    message: Message,
    receiving: bool,
    open: bool,
}

const RECV: u64 = 0;
const SEND: u64 = 1;
const DISK: u64 = 2;

fn user_data(kind: u64, connection: usize, slot: usize) -> u64 {
    kind << 56 | (connection as u64) << 24 | slot as u64
}

/// Serves `connections` connections at `port` until all of them are closed.
pub fn serve(port: u16, file: &Path, connections: usize, spin: Duration) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("bind port {port}"))?;
    let file = OpenOptions::new().read(true).write(true).open(file).context("open the file")?;
    let mut server = Server { ring: Ring::new(1024, spin)?, file, connections: Vec::new() };
    let mut fds = vec![server.file.as_raw_fd()];
    for _ in 0..connections {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        fds.push(socket.as_raw_fd());
        server.connections.push(Connection::new(socket));
    }
    server.ring.register(&fds)?;
    server.run()
}

impl Connection {
    fn new(socket: TcpStream) -> Self {
        let slot = || Slot { header: [0; HEADER], data: Vec::new(), len: 0, read: false };
        Connection {
            socket,
            rx: vec![0; RX_BYTES],
            start: 0,
            end: 0,
            slots: (0..DEPTH).map(|_| slot()).collect(),
            free: (0..DEPTH).rev().collect(),
            ready: Vec::with_capacity(DEPTH),
            sending: Vec::with_capacity(DEPTH),
            message: Message::default(),
            receiving: false,
            open: true,
        }
    }
}

struct Server {
    ring: Ring,
    file: File,
    connections: Vec<Connection>,
}

impl Server {
    fn run(&mut self) -> Result<()> {
        for c in 0..self.connections.len() {
            self.receive(c)?;
        }
        let mut touched = Vec::new();
        while self.connections.iter().any(|c| c.open) {
            self.ring.wait(None)?;
            touched.clear();
            while let Some((data, result, _)) = self.ring.next() {
                let (kind, c, slot) = (data >> 56, (data >> 24) as u32 as usize, (data & 0xff_ffff) as usize);
                self.complete(kind, c, slot, result)?;
                if !touched.contains(&c) {
                    touched.push(c);
                }
            }
            for &c in &touched {
                self.parse(c)?;
                self.reply(c)?;
            }
        }
        Ok(())
    }

    fn complete(&mut self, kind: u64, c: usize, slot: usize, result: i32) -> Result<()> {
        let connection = &mut self.connections[c];
        match kind {
            RECV => {
                connection.receiving = false;
                if result <= 0 {
                    connection.open = false;
                    let _ = connection.socket.shutdown(std::net::Shutdown::Both);
                    return Ok(());
                }
                connection.end += result as usize;
            }
            SEND => {
                if result < 0 {
                    connection.open = false;
                }
                connection.free.append(&mut connection.sending);
            }
            _ => {
                if result as usize != connection.slots[slot].len {
                    bail!("the file gave {result} where {} bytes were asked", connection.slots[slot].len);
                }
                connection.ready.push(slot);
            }
        }
        Ok(())
    }

    fn receive(&mut self, c: usize) -> Result<()> {
        let connection = &mut self.connections[c];
        if connection.start == connection.end {
            (connection.start, connection.end) = (0, 0);
        } else if connection.rx.len() - connection.end < RX_BYTES / 2 {
            connection.rx.copy_within(connection.start..connection.end, 0);
            (connection.start, connection.end) = (0, connection.end - connection.start);
        }
        let end = connection.end;
        let entry = ring::recv(c as u32 + 1, &mut connection.rx[end..], 0, user_data(RECV, c, 0));
        connection.receiving = true;
        // SAFETY: the connection's buffer lives as long as the server, and is not moved before the completion.
        unsafe { self.ring.push(&entry)? };
        Ok(())
    }

    /// Starts every request that is there whole, and receives again.
    fn parse(&mut self, c: usize) -> Result<()> {
        let connection = &mut self.connections[c];
        while connection.end - connection.start >= HEADER {
            let at = connection.start;
            let h = &connection.rx[at..at + HEADER];
            let (op, tag, len) = (h[0], word(h, 4), word(h, 16) as usize);
            let offset = u64::from(word(h, 8)) | u64::from(word(h, 12)) << 32;
            let body = if op == WRITE { len } else { 0 };
            if len > RX_BYTES / 4 {
                bail!("a request of {len} bytes");
            }
            if connection.end - at < HEADER + body {
                break;
            }
            let Some(slot) = connection.free.pop() else { break };
            connection.start += HEADER + body;
            let s = &mut connection.slots[slot];
            s.header[4..8].copy_from_slice(&tag.to_le_bytes());
            s.header[16..20].copy_from_slice(&(if op == READ { len as u32 } else { 0 }).to_le_bytes());
            s.len = len;
            s.read = op == READ;
            if op == WRITE {
                self.file.write_all_at(&connection.rx[at + HEADER..at + HEADER + len], offset)?;
                connection.ready.push(slot);
                continue;
            }
            if s.data.len() < len {
                s.data.resize(len, 0);
            }
            let entry = ring::read(0, &mut s.data[..len], offset, user_data(DISK, c, slot));
            // SAFETY: the slot is neither free nor touched before the completion.
            unsafe { self.ring.push(&entry)? };
        }
        let connection = &self.connections[c];
        if !connection.receiving && connection.open && !connection.free.is_empty() {
            self.receive(c)?;
        }
        Ok(())
    }

    /// One sendmsg for everything that is ready.
    fn reply(&mut self, c: usize) -> Result<()> {
        let connection = &mut self.connections[c];
        if connection.ready.is_empty() || !connection.sending.is_empty() || !connection.open {
            return Ok(());
        }
        connection.message.clear();
        while connection.message.len() + 2 <= IOVECS_MAX {
            let Some(slot) = connection.ready.pop() else { break };
            let s = &connection.slots[slot];
            connection.message.add(&s.header);
            if s.read {
                connection.message.add(&s.data[..s.len]);
            }
            connection.sending.push(slot);
        }
        let entry = ring::sendmsg(c as u32 + 1, connection.message.header(), user_data(SEND, c, 0));
        // SAFETY: the message and its slots are not touched before the completion.
        unsafe { self.ring.push(&entry)? };
        Ok(())
    }
}
