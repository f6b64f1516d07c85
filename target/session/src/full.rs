//! The full feature phase (RFC 7143 7, 8.1 S5): what each PDU of an initiator does there, in the order of CmdSN.

use iscsi::pdu::{
    LogoutReason, LogoutRequest, LogoutResponse, LogoutResponsePdu, NopIn, NopOut, PduError, RejectReason,
    Request, Response, Tag,
};
use iscsi::serial::Serial;

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::machine::{Ending, Machine};
use crate::rx::Sink;
use crate::session::{Admit, Held};
use crate::tmf::{Job, JobKind};
use crate::tx::Payload;

/// Data of PDUs that wait for their CmdSN, over a session: only several connections make any wait, and only briefly.
const HELD_BYTES_MAX: usize = 256 * 1024;

impl Machine {
    /// A header: decides where the data segment goes.
    pub(crate) fn full_header(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if let Some(s) = conn.session.and_then(|s| self.sessions.get_mut(s)) {
            s.info.stats.pdus_in += 1;
        }
        let request = match Request::parse(conn.rx.bhs()) {
            Ok(request) => request,
            Err(error @ PduError::UnknownOpcode(_)) => {
                let bhs = *conn.rx.bhs();
                self.count_format_error(id);
                self.reject(id, &bhs, error.reject_reason());
                return;
            }
            Err(error) => {
                // RFC 7143 7.7: a format error ends the connection.
                tracing::debug!(conn = %id, %error, "format error");
                self.count_format_error(id);
                self.protocol_error(cx, id, error.reject_reason(), "format error");
                return;
            }
        };
        conn.rx.request = Some(request);
        if let Some(sn) = exp_stat_sn(&request) {
            self.acknowledge(id, sn);
        }
        match &request {
            Request::ScsiCommand(pdu) => self.command_header(cx, id, pdu),
            Request::DataOut(pdu) => self.data_out_header(id, pdu),
            Request::NopOut(_) | Request::Text(_) => {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.rx.sink = Sink::Gather;
                }
            }
            Request::Login(_) => {
                self.protocol_error(cx, id, RejectReason::ProtocolError, "a Login Request after the login");
            }
            Request::Tmf(_) | Request::Logout(_) | Request::Snack(_) => {}
        }
    }

    /// A whole PDU; `intact`: its data digest is right.
    pub(crate) fn full_pdu(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        request: Request,
        sink: Sink,
        data: Vec<u8>,
        intact: bool,
    ) {
        match &request {
            Request::ScsiCommand(pdu) => return self.command_pdu(cx, id, pdu, sink, intact),
            Request::DataOut(pdu) => return self.data_out_pdu(cx, id, pdu, sink, intact),
            Request::Snack(pdu) => return self.snack(cx, id, pdu),
            _ => {}
        }
        let Some(conn) = self.conns.get(id) else { return };
        let bhs = *conn.rx.bhs();
        let Some(session) = conn.session else { return };
        let Some(s) = self.sessions.get_mut(session) else { return };
        if !intact {
            if s.recovery_level() == 0 {
                self.protocol_error(cx, id, RejectReason::DataDigestError, "data digest error");
            } else {
                self.reject(id, &bhs, RejectReason::DataDigestError);
            }
            return;
        }
        let Some((sn, immediate)) = cmd_sn(&request) else { return };
        match s.admit(sn, immediate) {
            Admit::Ignore => {}
            Admit::Due => {
                if !immediate {
                    s.exp_cmd_sn = s.exp_cmd_sn.next();
                }
                self.deliver(cx, id, request, data);
                self.deliver_held(cx, session);
            }
            Admit::Hold if s.held_bytes + data.len() > HELD_BYTES_MAX => {
                self.protocol_error(cx, id, RejectReason::ProtocolError, "too much data before its CmdSN");
            }
            Admit::Hold => self.consume(cx, session, sn, immediate, Held::Pdu(id, request, data)),
        }
    }

    /// A PDU whose turn has come.
    pub(crate) fn deliver(&mut self, cx: &mut Cx<'_>, id: ConnId, request: Request, data: Vec<u8>) {
        if self.conns.get(id).is_none_or(|c| c.phase != Phase::Full) {
            return;
        }
        match request {
            Request::NopOut(pdu) => self.nop_out(id, &pdu, data),
            Request::Text(pdu) => self.text_request(cx, id, &pdu, &data),
            Request::Tmf(pdu) => self.task_management(cx, id, pdu),
            Request::Logout(pdu) => self.logout(cx, id, &pdu),
            _ => {}
        }
    }

    /// RFC 7143 11.18: an answer to a NOP-In counts as input (it was counted when it came); a ping is echoed.
    fn nop_out(&mut self, id: ConnId, pdu: &NopOut, mut data: Vec<u8>) {
        let Some(conn) = self.conns.get(id).filter(|_| !pdu.itt.is_reserved()) else { return };
        data.truncate(conn.format.max_segment as usize);
        let data = if data.is_empty() { Payload::None } else { Payload::Bytes(data) };
        let answer = NopIn {
            lun: 0,
            itt: pdu.itt,
            ttt: Tag::RESERVED,
            sn: Conn::no_numbers(),
            data_len: data.len() as u32,
        };
        self.reply(id, &Response::NopIn(answer), data);
    }

    /// RFC 7143 11.14.
    fn logout(&mut self, cx: &mut Cx<'_>, id: ConnId, pdu: &LogoutRequest) {
        let Some(session) = self.conns.get(id).and_then(|c| c.session) else { return };
        let Some(s) = self.sessions.get(session) else { return };
        let of_cid =
            |c: &&ConnId| self.conns.get(**c).is_some_and(|c| c.cid == pdu.cid && c.phase == Phase::Full);
        let named = s.conns.iter().find(of_cid).copied();
        let level = s.recovery_level();
        match (pdu.reason, named) {
            (LogoutReason::CloseSession, _) => {
                let tasks = self.tasks_of(session, |_| true);
                self.stop_reading(id);
                self.start_job(
                    cx,
                    session,
                    JobKind::Logout { conn: id, itt: pdu.itt, closes: None },
                    tasks,
                    false,
                );
            }
            (LogoutReason::CloseConnection, Some(closes)) => {
                let tasks = self.tasks_of(session, |t| t.conn == closes);
                self.stop_reading(closes);
                let kind = JobKind::Logout { conn: id, itt: pdu.itt, closes: Some(closes) };
                self.start_job(cx, session, kind, tasks, false);
            }
            (LogoutReason::CloseConnection, None) => {
                self.logout_response(id, pdu.itt, LogoutResponse::CidNotFound);
            }
            (LogoutReason::RemoveForRecovery, _) if level < 2 => {
                self.logout_response(id, pdu.itt, LogoutResponse::RecoveryNotSupported);
            }
            (LogoutReason::RemoveForRecovery, Some(lost)) if lost == id => {
                self.logout_response(id, pdu.itt, LogoutResponse::CleanupFailed);
            }
            (LogoutReason::RemoveForRecovery, lost) => {
                if let Some(lost) = lost {
                    self.end_conn(cx, lost, Ending::Recovery);
                }
                self.logout_response(id, pdu.itt, LogoutResponse::Success);
            }
            (LogoutReason::Other(_), _) => {
                if let Some(conn) = self.conns.get(id) {
                    let bhs = *conn.rx.bhs();
                    self.reject(id, &bhs, RejectReason::InvalidPduField);
                }
            }
        }
    }

    fn stop_reading(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.rx.hold = true;
        }
    }

    fn logout_response(&mut self, id: ConnId, itt: Tag, response: LogoutResponse) {
        let session = self.conns.get(id).and_then(|c| c.session).and_then(|s| self.sessions.get(s));
        let Some(s) = session else { return };
        let pdu = LogoutResponsePdu {
            response,
            itt,
            sn: Conn::no_numbers(),
            time2wait: s.info.params.time2wait,
            time2retain: s.info.params.time2retain,
        };
        self.reply(id, &Response::Logout(pdu), Payload::None);
    }

    /// The tasks of a logout are gone.
    pub(crate) fn logout_done(
        &mut self,
        cx: &mut Cx<'_>,
        job: &Job,
        conn: ConnId,
        itt: Tag,
        closes: Option<ConnId>,
    ) {
        self.logout_response(conn, itt, LogoutResponse::Success);
        match closes {
            None => {
                self.end_conn(cx, conn, Ending::Clean);
                self.session_down(cx, job.session);
            }
            Some(closes) => self.end_conn(cx, closes, Ending::Clean),
        }
    }
}

/// CmdSN and the immediate bit of PDUs that have them and are no commands.
fn cmd_sn(request: &Request) -> Option<(Serial, bool)> {
    match request {
        Request::NopOut(p) => Some((p.cmd_sn, p.immediate)),
        Request::Text(p) => Some((p.cmd_sn, p.immediate)),
        Request::Tmf(p) => Some((p.cmd_sn, p.immediate)),
        Request::Logout(p) => Some((p.cmd_sn, p.immediate)),
        Request::ScsiCommand(_) | Request::DataOut(_) | Request::Snack(_) | Request::Login(_) => None,
    }
}

fn exp_stat_sn(request: &Request) -> Option<Serial> {
    Some(match request {
        Request::NopOut(p) => p.exp_stat_sn,
        Request::ScsiCommand(p) => p.exp_stat_sn,
        Request::Tmf(p) => p.exp_stat_sn,
        Request::Text(p) => p.exp_stat_sn,
        Request::DataOut(p) => p.exp_stat_sn,
        Request::Logout(p) => p.exp_stat_sn,
        Request::Snack(p) => p.exp_stat_sn,
        Request::Login(_) => return None,
    })
}
