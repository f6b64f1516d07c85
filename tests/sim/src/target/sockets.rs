//! The node's ends of the links: bytes in and out, in pieces.

use crate::net::{LinkId, Net, Side};
use crate::trace::Trace;

use super::{Mutation, Target, machine};
use base::Entropy;

impl Target {
    /// Receives and sends what can be; in pieces.
    pub(super) fn sockets(&mut self, net: &mut Net, trace: &mut Trace) -> bool {
        let mut any = false;
        let links: Vec<LinkId> = self.conns.keys().copied().collect();
        for link in links {
            any |= self.receive_some(link, trace);
            any |= self.send_some(link, net, trace);
        }
        any
    }

    fn receive_some(&mut self, link: LinkId, trace: &mut Trace) -> bool {
        let Some(c) = self.conns.get_mut(&link) else { return false };
        let id = c.id;
        if c.armed.is_none() {
            if !std::mem::take(&mut c.rearm) {
                return false;
            }
            let batch = machine!(self, take_rx, id);
            let Some(c) = self.conns.get_mut(&link) else { return true };
            c.armed = batch;
        }
        let Some(c) = self.conns.get_mut(&link) else { return true };
        if c.inbox.is_empty() && !c.ended {
            return false;
        }
        let Some(mut batch) = c.armed.take() else { return false };
        if c.inbox.is_empty() && c.failed {
            machine!(self, conn_failed, id);
            return true;
        }
        let room = batch.direct.as_ref().map_or(0, |d| d.len()) + batch.staging.len();
        let n = c.inbox.len().min(room);
        let n = if n > 1 && self.random.below(4) == 0 { 1 + self.random.below(n as u64) as usize } else { n };
        let mut bytes = c.inbox.drain(..n);
        let direct = batch.direct.iter_mut().flat_map(|d| d.iter_mut());
        for (to, from) in direct.chain(batch.staging.iter_mut()).zip(&mut bytes) {
            *to = from;
        }
        drop(bytes);
        c.rearm = true;
        trace.note(self.now, "rx", &[link.0, n as u64]);
        machine!(self, rx_done, id, batch, n);
        true
    }

    fn send_some(&mut self, link: LinkId, net: &mut Net, trace: &mut Trace) -> bool {
        let Some(c) = self.conns.get_mut(&link) else { return false };
        let id = c.id;
        if c.sending.is_none() {
            if !std::mem::take(&mut c.transmit) {
                return false;
            }
            let batch = machine!(self, take_tx, id, 64, 64 * 1024);
            let Some(c) = self.conns.get_mut(&link) else { return true };
            c.sending = batch;
        }
        let Some(c) = self.conns.get_mut(&link) else { return true };
        let room = net.room(link, Side::Callee);
        if room == 0 {
            return false;
        }
        let Some(batch) = c.sending.take() else { return false };
        let bytes: Vec<u8> = batch.segments.iter().flat_map(|&s| batch.bytes(s).iter().copied()).collect();
        let n = bytes.len().min(room);
        let n = if n > 1 && self.random.below(6) == 0 { 1 + self.random.below(n as u64) as usize } else { n };
        let n = net.send(self.now, link, Side::Callee, &bytes[..n]);
        if self.mutation == Some(Mutation::CompleteTwice) && n == bytes.len() && self.random.below(50) == 0 {
            net.send(self.now, link, Side::Callee, &bytes);
        }
        c.transmit = true;
        trace.note(self.now, "tx", &[link.0, n as u64]);
        machine!(self, tx_done, id, batch, n);
        true
    }
}
