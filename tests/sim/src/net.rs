//! The virtual network: links that carry bytes both ways, in order, late, in pieces, until they are cut. It knows no
//! protocol and no nodes; whoever sends names the link and the side.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use base::random::SeededRandom;
use base::{Entropy, Mono};

/// A link between two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One of the two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Who connected.
    Caller,
    /// Who was connected to.
    Callee,
}

impl Side {
    fn index(self) -> usize {
        self as usize
    }

    fn other(self) -> Side {
        if self == Side::Caller { Side::Callee } else { Side::Caller }
    }
}

/// What comes out of a link.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The link is over: nothing more comes and nothing more goes.
    End,
}

/// What links are like.
#[derive(Clone, Copy, Debug)]
pub struct NetConfig {
    /// A piece takes at least so long.
    pub min: Duration,
    /// A piece takes commonly at most so long.
    pub max: Duration,
    /// One piece in so many is late; 0: none.
    pub slow_one_in: u64,
    /// How late, at most.
    pub slow: Duration,
    /// Largest piece, bytes.
    pub piece_max: u64,
    /// Bytes that one direction carries at a time; more are not taken.
    pub window: usize,
}

impl Default for NetConfig {
    fn default() -> Self {
        NetConfig {
            min: Duration::from_micros(20),
            max: Duration::from_micros(300),
            slow_one_in: 300,
            slow: Duration::from_millis(200),
            piece_max: 6000,
            window: 64 * 1024,
        }
    }
}

#[derive(Debug, Default)]
struct Pipe {
    pieces: VecDeque<(Mono, Arrival)>,
    last: Mono,
    bytes: usize,
    /// Nothing more is taken.
    shut: bool,
}

#[derive(Debug, Default)]
struct Link {
    /// By the side that they lead to.
    to: [Pipe; 2],
    /// One piece in so many towards the callee has a bit flipped; 0: none.
    flip_one_in: u64,
}

/// All links.
#[derive(Debug)]
pub struct Net {
    /// What links are like; may be changed at any time.
    pub config: NetConfig,
    random: SeededRandom,
    links: BTreeMap<LinkId, Link>,
    /// Links on which a bit was flipped, also those that are over.
    flipped: BTreeSet<LinkId>,
    next: u64,
}

impl Net {
    /// A network without links.
    pub fn new(config: NetConfig, seed: u64) -> Self {
        Net {
            config,
            random: SeededRandom::new(seed ^ 0x6e65_7400),
            links: BTreeMap::new(),
            flipped: BTreeSet::new(),
            next: 0,
        }
    }

    /// A new link.
    pub fn connect(&mut self) -> LinkId {
        let id = LinkId(self.next);
        self.next += 1;
        self.links.insert(id, Link::default());
        id
    }

    /// Bytes that `from` may send now.
    pub fn room(&self, link: LinkId, from: Side) -> usize {
        self.links.get(&link).map_or(0, |l| {
            let pipe = &l.to[from.other().index()];
            if pipe.shut { 0 } else { self.config.window.saturating_sub(pipe.bytes) }
        })
    }

    /// Sends as many of `bytes` as there is room for; returns how many.
    pub fn send(&mut self, now: Mono, link: LinkId, from: Side, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room(link, from));
        let (config, random) = (self.config, &mut self.random);
        let Some(l) = self.links.get_mut(&link) else { return 0 };
        let pipe = &mut l.to[from.other().index()];
        let mut rest = &bytes[..n];
        while !rest.is_empty() {
            let len = (1 + random.below(config.piece_max)).min(rest.len() as u64) as usize;
            let mut piece = rest[..len].to_vec();
            rest = &rest[len..];
            if from == Side::Caller && l.flip_one_in > 0 && random.below(l.flip_one_in) == 0 {
                let bit = random.below(len as u64 * 8) as usize;
                piece[bit / 8] ^= 1 << (bit % 8);
                self.flipped.insert(link);
            }
            let at = pipe.last.max(now + delay(&config, random));
            pipe.last = at;
            pipe.bytes += len;
            pipe.pieces.push_back((at, Arrival::Bytes(piece)));
        }
        n
    }

    /// From now on one piece in so many towards the callee has a bit flipped; 0: none.
    pub fn flip(&mut self, link: LinkId, one_in: u64) {
        if let Some(l) = self.links.get_mut(&link) {
            l.flip_one_in = one_in;
        }
    }

    /// No link flips bits any more.
    pub fn flip_none(&mut self) {
        self.links.values_mut().for_each(|l| l.flip_one_in = 0);
    }

    /// Whether a bit was flipped on the link.
    pub fn was_flipped(&self, link: LinkId) -> bool {
        self.flipped.contains(&link)
    }

    /// `side` closes: the other hears of it after the bytes on the way; nothing more comes back.
    pub fn close(&mut self, now: Mono, link: LinkId, side: Side) {
        let at = now + delay(&self.config, &mut self.random);
        let Some(l) = self.links.get_mut(&link) else { return };
        let pipe = &mut l.to[side.other().index()];
        if !pipe.shut {
            pipe.shut = true;
            let at = pipe.last.max(at);
            pipe.pieces.push_back((at, Arrival::End));
        }
        let back = &mut l.to[side.index()];
        back.shut = true;
        back.pieces.clear();
        self.tidy(link);
    }

    /// The link breaks: what is on the way is lost; each side hears of it after its own delay.
    pub fn cut(&mut self, link: LinkId, caller_hears: Mono, callee_hears: Mono) {
        let Some(l) = self.links.get_mut(&link) else { return };
        for (pipe, at) in l.to.iter_mut().zip([caller_hears, callee_hears]) {
            pipe.pieces.clear();
            if !pipe.shut {
                pipe.shut = true;
                pipe.pieces.push_back((at, Arrival::End));
            }
        }
        self.tidy(link);
    }

    /// The links that exist.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.links.keys().copied()
    }

    /// When the next piece arrives.
    pub fn next_due(&self) -> Mono {
        let pipes = self.links.values().flat_map(|l| &l.to);
        pipes.filter_map(|p| p.pieces.front()).map(|p| p.0).min().unwrap_or(Mono::NEVER)
    }

    /// What has arrived by `now`, in the order of the links.
    pub fn arrivals(&mut self, now: Mono) -> Vec<(LinkId, Side, Arrival)> {
        let mut out = Vec::new();
        let mut over = Vec::new();
        for (&id, link) in &mut self.links {
            for (pipe, side) in link.to.iter_mut().zip([Side::Caller, Side::Callee]) {
                while pipe.pieces.front().is_some_and(|p| p.0 <= now) {
                    let Some((_, arrival)) = pipe.pieces.pop_front() else { break };
                    if let Arrival::Bytes(b) = &arrival {
                        pipe.bytes -= b.len();
                    }
                    out.push((id, side, arrival));
                }
            }
            over.push(id);
        }
        over.into_iter().for_each(|id| self.tidy(id));
        out
    }

    fn tidy(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(|l| l.to.iter().all(|p| p.shut && p.pieces.is_empty())) {
            self.links.remove(&id);
        }
    }
}

fn delay(config: &NetConfig, random: &mut SeededRandom) -> Duration {
    let spread = config.max.saturating_sub(config.min).as_nanos() as u64;
    let mut d = config.min + Duration::from_nanos(random.below(spread + 1));
    if config.slow_one_in > 0 && random.below(config.slow_one_in) == 0 {
        d += Duration::from_nanos(random.below(config.slow.as_nanos() as u64 + 1));
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_whatever_the_pieces() {
        let mut net = Net::new(NetConfig { piece_max: 7, ..NetConfig::default() }, 5);
        let link = net.connect();
        let sent: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        assert_eq!(net.send(Mono::ZERO, link, Side::Caller, &sent), 1000);
        let mut got = Vec::new();
        while net.next_due() < Mono::NEVER {
            for (_, side, arrival) in net.arrivals(net.next_due()) {
                assert_eq!(side, Side::Callee);
                if let Arrival::Bytes(b) = arrival {
                    assert!(b.len() <= 7);
                    got.extend(b);
                }
            }
        }
        assert_eq!(got, sent);
    }

    #[test]
    fn a_closed_link_delivers_what_is_on_the_way_and_a_cut_one_does_not() {
        for cut in [false, true] {
            let mut net = Net::new(NetConfig::default(), 5);
            let link = net.connect();
            net.send(Mono::ZERO, link, Side::Caller, &[1, 2, 3]);
            if cut {
                net.cut(link, Mono::from_nanos(5), Mono::from_nanos(9));
            } else {
                net.close(Mono::ZERO, link, Side::Caller);
            }
            let all = net.arrivals(Mono::from_nanos(u64::MAX - 1));
            let bytes = all.iter().any(|a| matches!(a.2, Arrival::Bytes(_)));
            assert_eq!(bytes, !cut);
            assert!(all.contains(&(link, Side::Callee, Arrival::End)));
            assert_eq!(net.room(link, Side::Caller), 0);
        }
    }

    #[test]
    fn a_full_link_takes_no_more() {
        let mut net = Net::new(NetConfig { window: 10, ..NetConfig::default() }, 5);
        let link = net.connect();
        assert_eq!(net.send(Mono::ZERO, link, Side::Callee, &[0; 64]), 10);
        assert_eq!(net.room(link, Side::Callee), 0);
        net.arrivals(Mono::from_nanos(u64::MAX - 1));
        assert_eq!(net.room(link, Side::Callee), 10);
    }
}
