//! Text requests in the full feature phase (RFC 7143 11.10, 11.11, appendix C): SendTargets, and what may be declared
//! again.
//!
//! A request may be spread over PDUs (C bit), and so may the answer; both go on under a target transfer tag, of which a
//! connection has one at a time. A request without a tag begins anew and forgets what was.

use iscsi::address::{Host, TargetAddress};
use iscsi::discovery::write_record;
use iscsi::negotiate::{Negotiator, Role};
use iscsi::params::Settings;
use iscsi::pdu::{LoginStage, RejectReason, Response, Tag, TextRequest, TextResponse};
use iscsi::text::{Accumulator, Outgoing, Repeats, Text, TextLimits, TextWriter};

use crate::api::*;
use crate::conn::Conn;
use crate::machine::Machine;
use crate::session::Kind;
use crate::tx::Payload;

/// A text exchange under way.
pub(crate) struct TextExchange {
    itt: Tag,
    ttt: Tag,
    incoming: Accumulator,
    answer: Option<Outgoing>,
}

impl Machine {
    /// A Text Request whose turn has come.
    pub(crate) fn text_request(&mut self, cx: &mut Cx<'_>, id: ConnId, pdu: &TextRequest, data: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if pdu.ttt.is_reserved() {
            let ttt = conn.next_ping_tag();
            let incoming = Accumulator::new(TextLimits::NEGOTIATION);
            conn.text = Some(Box::new(TextExchange { itt: pdu.itt, ttt, incoming, answer: None }));
        }
        let same = |t: &&mut Box<TextExchange>| pdu.ttt.is_reserved() || (t.ttt, t.itt) == (pdu.ttt, pdu.itt);
        let Some(exchange) = conn.text.as_mut().filter(same) else {
            self.protocol_error(cx, id, RejectReason::InvalidPduField, "no such text exchange");
            return;
        };
        if exchange.answer.is_some() {
            if data.is_empty() && !pdu.continues {
                self.text_response(id, pdu);
            } else {
                self.protocol_error(
                    cx,
                    id,
                    RejectReason::ProtocolError,
                    "text while the answer is not complete",
                );
            }
            return;
        }
        let answer = match exchange.incoming.push(data, pdu.continues, Repeats::Refused) {
            Ok(None) => {
                self.text_response(id, pdu);
                return;
            }
            Ok(Some(text)) => self.answer_text(cx, id, &text),
            Err(error) => Err(error.to_string()),
        };
        match answer {
            Ok(answer) => {
                if let Some(exchange) = self.conns.get_mut(id).and_then(|c| c.text.as_mut()) {
                    exchange.answer = Some(answer.finish());
                }
                self.text_response(id, pdu);
            }
            Err(why) => {
                tracing::debug!(conn = %id, why, "bad text");
                self.count_format_error(id);
                self.protocol_error(cx, id, RejectReason::ProtocolError, "bad text");
            }
        }
    }

    /// Sends the next piece of the answer; an empty one where the request is not complete.
    fn text_response(&mut self, id: ConnId, pdu: &TextRequest) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let max = conn.format.max_segment;
        let Some(exchange) = &mut conn.text else { return };
        let ttt = exchange.ttt;
        let (data, continues, over) = match &mut exchange.answer {
            None => (Vec::new(), false, false),
            Some(answer) => {
                let (piece, more) = answer.next_segment(max);
                (piece.to_vec(), more, !more && pdu.final_)
            }
        };
        if over {
            conn.text = None;
        } else if !continues {
            // The initiator may have more to ask in the same exchange.
            exchange.answer = None;
        }
        let data = if data.is_empty() { Payload::None } else { Payload::Bytes(data) };
        let response = TextResponse {
            final_: over,
            continues,
            lun: pdu.lun,
            itt: pdu.itt,
            ttt: if over { Tag::RESERVED } else { ttt },
            sn: Conn::no_numbers(),
            data_len: data.len() as u32,
        };
        self.reply(id, &Response::Text(response), data);
    }

    fn answer_text(&mut self, cx: &mut Cx<'_>, id: ConnId, text: &Text) -> Result<TextWriter, String> {
        let mut out = TextWriter::new();
        let Some(session) = self.conns.get(id).and_then(|c| c.session) else { return Ok(out) };
        let Some(s) = self.sessions.get(session) else { return Ok(out) };
        let mut negotiator = Negotiator::joining(Role::Target, Settings::default(), s.info.params.clone());
        let received =
            negotiator.receive(text, LoginStage::FullFeature, &mut out).map_err(|error| error.to_string())?;
        if let Some(what) = received.send_targets {
            self.send_targets(cx, id, what, &mut out);
        }
        if text.get("MaxRecvDataSegmentLength").is_some()
            && let Some(conn) = self.conns.get_mut(id)
        {
            conn.format.max_segment = negotiator.connection().max_send_len;
        }
        Ok(out)
    }

    /// RFC 7143 appendix C: everything is for discovery sessions; a normal session hears about its own target.
    fn send_targets(&self, cx: &Cx<'_>, id: ConnId, what: &str, out: &mut TextWriter) {
        let Some(conn) = self.conns.get(id) else { return };
        let Some(s) = conn.session.and_then(|s| self.sessions.get(s)) else { return };
        let own = s.info.key.target.as_str();
        let wanted = match (s.kind, what) {
            (Kind::Discovery, "All") => None,
            (Kind::Discovery, "") | (Kind::Normal, "All") => {
                out.pair("SendTargets", "Reject");
                return;
            }
            (Kind::Discovery, name) => Some(name.to_lowercase()),
            (Kind::Normal, "") => Some(own.to_owned()),
            (Kind::Normal, name) if name.eq_ignore_ascii_case(own) => Some(own.to_owned()),
            // Another target is none of this session's business: there are no records of it.
            (Kind::Normal, _) => return,
        };
        let who = Who {
            initiator: s.info.key.initiator.clone(),
            peer: conn.peer.peer,
            local: conn.peer.local,
            portal_group: conn.peer.portal_group,
        };
        for target in cx.directory.visible_targets(&who) {
            if wanted.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(&target.name)) {
                let addresses: Vec<TargetAddress> =
                    target.portals.iter().map(|(at, group)| address(at, *group)).collect();
                write_record(out, &target.name, &addresses);
            }
        }
    }
}

fn address(at: &PortalAddress, group: u16) -> TargetAddress {
    match at {
        PortalAddress::Socket(at) => TargetAddress::of(*at, Some(group)),
        PortalAddress::Host(host, port) => {
            let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
            let host = ip.map_or_else(|_| Host::Domain(host.clone()), Host::Ip);
            TargetAddress { host, port: *port, group: Some(group) }
        }
    }
}
