//! The load generator: sessions of any wire on one thread and one ring, each with a fixed number of commands in flight.
//! It is built to cost little: data received are looked at no further than their length, data sent come from one
//! pattern, and the clock is read once a turn.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpu;
use crate::ring::{self, Message, Ring};

/// What is asked of each session.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// Writes instead of reads.
    pub write: bool,
    /// Random places instead of one after the other.
    pub random: bool,
    /// Bytes of each command.
    pub bytes: u32,
    /// Commands in flight of each session.
    pub depth: u32,
}

/// What is to be sent: headers from an arena, data from the pattern.
#[derive(Default)]
pub struct Out {
    headers: Vec<u8>,
    /// Bytes of headers up to here, then so many of data.
    pieces: Vec<(usize, usize)>,
}

impl Out {
    /// Adds a header and `data` bytes of the pattern.
    pub fn push(&mut self, header: &[u8], data: usize) {
        self.headers.extend_from_slice(header);
        if data > 0 {
            self.pieces.push((self.headers.len(), data));
        }
    }

    fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    fn clear(&mut self) {
        self.headers.clear();
        self.pieces.clear();
    }
}

/// How the commands look on the wire.
pub trait Wire {
    /// Appends command `tag`.
    fn command(&mut self, out: &mut Out, pattern: &Pattern, tag: u32, offset: u64);
    /// Takes a reply's header: the bytes of data that follow it, and the command that it ends.
    fn reply(&mut self, out: &mut Out, header: &[u8; 48]) -> Result<(usize, Option<u32>)>;
    /// How many more commands the other side takes now.
    fn window(&self) -> u32 {
        u32::MAX
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Commands that ended within the measured time.
    pub count: u64,
    /// The measured time.
    pub wall: Duration,
    /// The server's CPU time in it.
    pub server: Duration,
    /// This thread's CPU time in it.
    pub client: Duration,
    /// Latencies in microseconds: median, 99 %, 99.9 %.
    pub latency_us: [u32; 3],
}

impl Outcome {
    /// Commands a second.
    pub fn iops(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }

    /// The server's CPU time for a command, microseconds.
    pub fn cpu_us(&self) -> f64 {
        self.server.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }

    /// The client's CPU time for a command, microseconds.
    pub fn client_us(&self) -> f64 {
        self.client.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }
}

struct Session {
    socket: TcpStream,
    wire: Box<dyn Wire>,
    size: u64,
    rx: Vec<u8>,
    have: usize,
    /// Bytes of data that are still to come and of no interest.
    skip: usize,
    /// The receive in flight throws its bytes away.
    dropping: bool,
    out: Out,
    flying: Out,
    sending: bool,
    message: Message,
    free: Vec<u32>,
    started: Vec<Instant>,
    next: u64,
}

/// Received data of at least so many bytes are dropped by the kernel without a copy.
const DROP_MIN: usize = 32 * 1024;
const LATENCIES: usize = 200_000;

/// Sessions that run one pattern.
pub struct Load {
    ring: Ring,
    sessions: Vec<Session>,
    pattern: Pattern,
    data: Vec<u8>,
    random: u64,
    now: Instant,
    count: u64,
    latencies: Vec<u32>,
    pid: u32,
}

impl Load {
    /// Sessions over sockets that are logged in already, each on a unit of so many bytes.
    pub fn new(
        sessions: Vec<(TcpStream, Box<dyn Wire>, u64)>,
        pattern: Pattern,
        spin: Duration,
        pid: u32,
    ) -> Result<Load> {
        let ring = Ring::new((sessions.len() as u32 * 4).next_power_of_two().clamp(64, 4096), spin)?;
        let fds: Vec<i32> = sessions.iter().map(|s| s.0.as_raw_fd()).collect();
        ring.register(&fds).context("register the sockets")?;
        let rx = if sessions.len() > 8 { 64 * 1024 } else { 512 * 1024 };
        let now = Instant::now();
        let session = |(socket, wire, size)| Session {
            socket,
            wire,
            size,
            rx: vec![0; rx],
            have: 0,
            skip: 0,
            dropping: false,
            out: Out::default(),
            flying: Out::default(),
            sending: false,
            message: Message::default(),
            free: (0..pattern.depth).rev().collect(),
            started: vec![now; pattern.depth as usize],
            next: 0,
        };
        Ok(Load {
            ring,
            sessions: sessions.into_iter().map(session).collect(),
            pattern,
            data: (0..1 << 18).map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect(),
            random: 0x2545_f491_4f6c_dd1d,
            now,
            count: 0,
            latencies: vec![0; LATENCIES],
            pid,
        })
    }

    /// Runs for `warm` and then, measured, for `time`. The sessions are closed afterwards.
    pub fn run(mut self, warm: Duration, time: Duration) -> Result<Outcome> {
        for s in 0..self.sessions.len() {
            self.receive(s)?;
            self.fill(s)?;
        }
        self.turns(Instant::now() + warm)?;
        self.count = 0;
        self.latencies.fill(0);
        let (server, client, start) = (cpu::process_time(self.pid)?, cpu::thread_time()?, Instant::now());
        self.turns(start + time)?;
        let wall = start.elapsed();
        Ok(Outcome {
            count: self.count,
            wall,
            server: cpu::process_time(self.pid)? - server,
            client: cpu::thread_time()? - client,
            latency_us: [0.5, 0.99, 0.999].map(|q| self.quantile(q)),
        })
    }

    fn quantile(&self, fraction: f64) -> u32 {
        let total: u64 = self.latencies.iter().map(|&n| u64::from(n)).sum();
        let rank = (total as f64 * fraction).ceil() as u64;
        let mut seen = 0;
        let found = self.latencies.iter().position(|&n| {
            seen += u64::from(n);
            seen >= rank
        });
        found.unwrap_or(LATENCIES) as u32
    }

    fn turns(&mut self, until: Instant) -> Result<()> {
        loop {
            self.ring.wait(Some(until))?;
            self.now = Instant::now();
            while let Some((data, result, _)) = self.ring.next() {
                let (s, send) = ((data >> 1) as usize, data & 1 == 1);
                if result <= 0 {
                    let e = std::io::Error::from_raw_os_error(-result);
                    bail!("session {s}: {}: {e}", if send { "send" } else { "receive" });
                }
                if send {
                    self.sessions[s].sending = false;
                    self.sessions[s].flying.clear();
                } else {
                    self.received(s, result as usize)?;
                    self.receive(s)?;
                }
                self.fill(s)?;
            }
            if self.now >= until {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, s: usize) -> Result<()> {
        let session = &mut self.sessions[s];
        session.dropping = session.skip >= DROP_MIN;
        let (range, flags) = if session.dropping {
            (0..session.skip.min(session.rx.len()), libc::MSG_TRUNC)
        } else {
            (session.have..session.rx.len(), 0)
        };
        let entry = ring::recv(s as u32, &mut session.rx[range], flags, (s as u64) << 1);
        // SAFETY: the session's buffer stays until the ring, which is dropped first, has no use for it.
        unsafe { self.ring.push(&entry)? };
        Ok(())
    }

    fn received(&mut self, s: usize, n: usize) -> Result<()> {
        let session = &mut self.sessions[s];
        if session.dropping {
            session.skip -= n;
            return Ok(());
        }
        let end = session.have + n;
        let mut at = 0;
        loop {
            let skipped = session.skip.min(end - at);
            at += skipped;
            session.skip -= skipped;
            let Some(header) = session.rx[at..end].first_chunk::<48>() else { break };
            at += 48;
            let (data, ended) =
                session.wire.reply(&mut session.out, header).with_context(|| format!("session {s}"))?;
            session.skip = data;
            if let Some(tag) = ended {
                let started = session.started.get(tag as usize).context("a tag that was never used")?;
                let us = self.now.saturating_duration_since(*started).as_micros() as usize;
                self.latencies[us.min(LATENCIES - 1)] += 1;
                self.count += 1;
                session.free.push(tag);
            }
        }
        session.rx.copy_within(at..end, 0);
        session.have = end - at;
        Ok(())
    }

    /// Starts as many commands as there may be, and sends.
    fn fill(&mut self, s: usize) -> Result<()> {
        let session = &mut self.sessions[s];
        if session.sending {
            return Ok(());
        }
        let places = session.size / u64::from(self.pattern.bytes);
        while session.wire.window() > 0 {
            let Some(tag) = session.free.pop() else { break };
            let place = if self.pattern.random {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                self.random % places
            } else {
                session.next += 1;
                session.next % places
            };
            session.started[tag as usize] = self.now;
            session.wire.command(&mut session.out, &self.pattern, tag, place * u64::from(self.pattern.bytes));
        }
        if session.out.is_empty() {
            return Ok(());
        }
        std::mem::swap(&mut session.out, &mut session.flying);
        session.sending = true;
        session.message.clear();
        let mut from = 0;
        for &(to, data) in &session.flying.pieces {
            session.message.add(&session.flying.headers[from..to]);
            session.message.add(&self.data[..data]);
            from = to;
        }
        if from < session.flying.headers.len() {
            session.message.add(&session.flying.headers[from..]);
        }
        if session.message.len() > 1024 {
            bail!("{} pieces in one send", session.message.len());
        }
        let entry = ring::sendmsg(s as u32, session.message.header(), (s as u64) << 1 | 1);
        // SAFETY: message and headers stay untouched until the completion.
        unsafe { self.ring.push(&entry)? };
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for s in &self.sessions {
            let _ = s.socket.shutdown(std::net::Shutdown::Both);
        }
        // The kernel is done with the buffers when every receive and send has come back.
        let mut left: usize = self.sessions.iter().map(|s| 1 + usize::from(s.sending)).sum();
        let end = Instant::now() + Duration::from_secs(2);
        while left > 0 && Instant::now() < end {
            if self.ring.wait(Some(end)).is_err() {
                break;
            }
            while self.ring.next().is_some() {
                left = left.saturating_sub(1);
            }
        }
    }
}
