//! The login phase (RFC 7143 6, 8.1 S3/S4, 11.12, 11.13).
//!
//! ```text
//!             first request                      T to operational            T to full feature
//!   (Conn) ───────────────▶ Security stage ──────────────────────▶ Operational ─────────▶ finish ──▶ full feature
//!             │ names: target, ACL, session       ▲                  stage                  │
//!             │ ───────▶ handover, redirect       └ authentication                          │ an old session or
//!             │          or refusal                 satisfied                               ▼ connection goes first
//!             └─CSG=operational, no authentication needed──▶ Operational                  waits
//! ```
//!
//! A request's text is complete when its C bit is 0; until then each piece is answered by an empty response. An answer
//! that is longer than a segment goes out in pieces, each asked for by an empty request. Whatever is refused is answered
//! with class and detail (RFC 7143 11.13.5), and the connection is closed.
//!
//! Until the session's thread is known, what was received is kept, so that the connection can be handed over and the
//! login replayed; responses that were sent by then (empty ones, to C bits) are not sent again.

use std::sync::Arc;

use base::limits::LOGIN_EXCHANGES_MAX;
use iscsi::chap::TargetAuth;
use iscsi::negotiate::{Negotiator, Role};
use iscsi::params::{RECV_LEN_DEFAULT, Settings};
use iscsi::pdu::{
    BHS_LEN, Bhs, LoginRequest, LoginResponse, LoginStage, LoginStatus, Opcode, PduError, Request, Response,
    Tag, TargetNumbers, VERSION, padding,
};
use iscsi::serial::Serial;
use iscsi::text::{Accumulator, Outgoing, Repeats, Text, TextLimits, TextWriter};

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::machine::{Ending, Machine};
use crate::rx::Sink;
use crate::tx::{Out, Payload};

/// A login under way.
pub(crate) struct Login {
    text: Accumulator,
    pub negotiator: Negotiator,
    auth: Option<TargetAuth>,
    /// The stage that the next request has to be in; any before the first.
    stage: Option<LoginStage>,
    /// The first request: later ones have to agree with it.
    pub first: Option<LoginRequest>,
    last: Option<LoginRequest>,
    exchanges: u32,
    /// What was received, until it is known where the session lives.
    raw: Option<Vec<u8>>,
    responses: u32,
    /// Responses that another thread has sent already.
    skip: u32,
    answer: Option<Outgoing>,
    /// Known after the names.
    pub who: Option<Who>,
    pub target: Option<Arc<TargetLogin>>,
    pub key: Option<Arc<SessionKey>>,
    pub joins: Option<SessionId>,
    leaves: Option<u32>,
    /// The final response waits for something to be gone.
    pub waits: bool,
    /// Its text.
    pub last_text: Vec<u8>,
}

impl Login {
    fn new() -> Self {
        Login {
            text: Accumulator::new(TextLimits::NEGOTIATION),
            negotiator: Negotiator::leading(Role::Target, Settings::default()),
            auth: None,
            stage: None,
            first: None,
            last: None,
            exchanges: 0,
            raw: Some(Vec::new()),
            responses: 0,
            skip: 0,
            answer: None,
            who: None,
            target: None,
            key: None,
            joins: None,
            leaves: None,
            waits: false,
            last_text: Vec::new(),
        }
    }

    /// This login was begun on another thread, which sent so many responses.
    pub fn adopted(&mut self, responses: u32) {
        self.skip = responses;
    }

    /// Bytes of text that it holds.
    pub fn held_bytes(&self) -> usize {
        self.raw.as_ref().map_or(0, Vec::capacity) + self.last_text.capacity()
    }

    /// Whether it goes on on another thread.
    pub fn leaves(&self) -> bool {
        self.leaves.is_some()
    }

    /// What was received, and how many responses were sent.
    pub fn take_raw(&mut self) -> (Vec<u8>, u32) {
        (self.raw.take().unwrap_or_default(), self.responses)
    }
}

impl Conn {
    pub fn login_mut(&mut self) -> &mut Login {
        self.login.get_or_insert_with(|| Box::new(Login::new()))
    }

    /// Numbers before there is a session: the login's own CmdSN, and no window (RFC 7143 11.13).
    pub fn login_numbers(&self) -> TargetNumbers {
        let sn = self.login.as_ref().and_then(|l| l.first).map_or(Serial(0), |f| f.cmd_sn);
        TargetNumbers { stat_sn: Serial(0), exp_cmd_sn: sn, max_cmd_sn: sn }
    }
}

/// A refusal: the status, and what the log says.
type Refusal = (LoginStatus, String);

fn refusal<T>(status: LoginStatus, why: impl Into<String>) -> Result<T, Refusal> {
    Err((status, why.into()))
}

impl Machine {
    /// A header before the end of the login.
    pub(crate) fn login_header(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let bhs = *conn.rx.bhs();
        match Request::parse(&bhs) {
            Ok(request @ Request::Login(_)) => {
                conn.rx.request = Some(request);
                conn.rx.sink = Sink::Gather;
            }
            Ok(_) | Err(PduError::UnknownOpcode(_) | PduError::WrongDirection(_)) => {
                self.refuse(cx, id, LoginStatus::InvalidDuringLogin, "not a Login Request");
            }
            Err(error @ PduError::Field { opcode: Opcode::LoginRequest, .. }) => {
                self.refuse(cx, id, LoginStatus::InitiatorError, &error.to_string());
            }
            Err(error) => self.refuse(cx, id, LoginStatus::InvalidDuringLogin, &error.to_string()),
        }
    }

    /// A whole Login Request.
    pub(crate) fn login_pdu(&mut self, cx: &mut Cx<'_>, id: ConnId, request: &Request, data: &[u8]) {
        let Request::Login(pdu) = request else { return };
        if let Err((status, why)) = self.login_request(cx, id, pdu, data) {
            self.refuse(cx, id, status, &why);
        }
    }

    fn login_request(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        pdu: &LoginRequest,
        data: &[u8],
    ) -> Result<(), Refusal> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let bhs = *conn.rx.bhs();
        let login = conn.login_mut();
        login.check(pdu)?;
        login.last = Some(*pdu);
        login.exchanges += 1;
        if login.exchanges > LOGIN_EXCHANGES_MAX {
            return refusal(LoginStatus::InitiatorError, "too many login exchanges");
        }
        if let Some(raw) = &mut login.raw {
            if raw.len() + data.len() > 2 * base::limits::TEXT_BYTES_MAX {
                return refusal(LoginStatus::InitiatorError, "too much text before the names");
            }
            raw.extend_from_slice(&bhs);
            raw.extend_from_slice(data);
            raw.resize(raw.len() + padding(data.len() as u32), 0);
        }
        if login.answer.as_ref().is_some_and(|a| !a.is_done()) {
            if !data.is_empty() || pdu.continues {
                return refusal(
                    LoginStatus::InitiatorError,
                    "the answer is not complete: an empty request is right",
                );
            }
            self.login_answer(cx, id, TextWriter::new());
            return Ok(());
        }
        let text = match login.text.push(data, pdu.continues, Repeats::Refused) {
            Ok(text) => text,
            Err(error) => return refusal(LoginStatus::InitiatorError, error.to_string()),
        };
        match text {
            None => self.login_answer(cx, id, TextWriter::new()),
            Some(text) => self.login_text(cx, id, pdu, &text)?,
        }
        Ok(())
    }

    /// The complete text of a request.
    fn login_text(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        pdu: &LoginRequest,
        text: &Text,
    ) -> Result<(), Refusal> {
        let mut out = TextWriter::new();
        let known = self.conns.get(id).and_then(|c| c.login.as_ref()).is_some_and(|l| l.auth.is_some());
        if !known {
            self.identify(cx, id, pdu, text, &mut out)?;
        }
        let Some(conn) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Login) else { return Ok(()) };
        let Some(login) = conn.login.as_deref_mut() else { return Ok(()) };
        if let Some(thread) = login.leaves {
            conn.rx.hold = true;
            if conn.tx.idle() {
                self.actions.push_back(Action::Handover { conn: id, thread });
            }
            return Ok(());
        }
        login.raw = None;
        let received = match login.negotiator.receive(text, pdu.stage, &mut out) {
            Ok(received) => received,
            Err(error) => return refusal(error.login_status(), error.to_string()),
        };
        let Some(auth) = &mut login.auth else { return Ok(()) };
        if pdu.stage == LoginStage::Security {
            if let Err(error) = auth.step(&received.security, cx.entropy, &mut out) {
                return refusal(error.login_status(), error.to_string());
            }
            let silent = received.security.is_empty() && pdu.transit.is_some();
            if silent && !auth.is_satisfied() {
                return refusal(LoginStatus::AuthenticationFailure, "authentication is required");
            }
        } else {
            if !auth.is_satisfied() {
                return refusal(LoginStatus::AuthenticationFailure, "authentication is required");
            }
            login.negotiator.offer(&mut out);
        }
        login.stage = Some(pdu.stage);
        self.login_answer(cx, id, out);
        Ok(())
    }

    /// Sends the next response, with what was answered now, and goes to the next stage where everything is ready.
    fn login_answer(&mut self, cx: &mut Cx<'_>, id: ConnId, out: TextWriter) {
        let Some(login) = self.conns.get_mut(id).and_then(|c| c.login.as_deref_mut()) else { return };
        let Some(pdu) = login.last else { return };
        let answer = match &mut login.answer {
            Some(answer) if !answer.is_done() => answer,
            slot => slot.insert(out.finish()),
        };
        let (data, continues) = answer.next_segment(RECV_LEN_DEFAULT);
        let data = data.to_vec();
        let satisfied = login.auth.as_ref().is_some_and(TargetAuth::is_satisfied);
        let transit = pdu
            .transit
            .filter(|_| !continues && satisfied && login.negotiator.is_settled() && !pdu.continues);
        match transit {
            Some(LoginStage::FullFeature) => {
                login.answer = None;
                self.login_finish(cx, id, data);
            }
            _ => {
                if let Some(next) = transit {
                    login.stage = Some(next);
                }
                self.login_response(id, LoginStatus::Success, transit, continues, 0, data);
            }
        }
    }

    /// Queues a Login Response to the last request.
    pub(crate) fn login_response(
        &mut self,
        id: ConnId,
        status: LoginStatus,
        transit: Option<LoginStage>,
        continues: bool,
        tsih: u16,
        data: Vec<u8>,
    ) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let bhs = *conn.rx.bhs();
        let login = conn.login_mut();
        let (stage, isid, itt) = match &login.last {
            Some(pdu) => (pdu.stage, pdu.isid, pdu.itt),
            None => from_header(&bhs),
        };
        let first_tsih = login.first.map_or(0, |f| f.tsih);
        login.responses += 1;
        if login.responses <= login.skip {
            conn.next_stat_sn();
            return;
        }
        let pdu = LoginResponse {
            continues,
            stage,
            transit,
            version_max: VERSION,
            version_active: VERSION,
            isid,
            tsih: if tsih != 0 { tsih } else { first_tsih },
            itt,
            sn: Conn::no_numbers(),
            status,
            data_len: data.len() as u32,
        };
        let mut bhs: Bhs = [0; BHS_LEN];
        Response::Login(pdu).encode(&mut bhs);
        let payload = if data.is_empty() { Payload::None } else { Payload::Bytes(data) };
        let mut out = Out::whole(bhs, payload, conn.next_stat_sn());
        out.plain = true;
        conn.tx.push(out);
        self.announce(id);
    }

    /// Ends a login with a status.
    pub(crate) fn refuse(&mut self, cx: &mut Cx<'_>, id: ConnId, status: LoginStatus, why: &str) {
        self.refuse_with(cx, id, status, why, &TextWriter::new());
    }

    fn refuse_with(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        status: LoginStatus,
        why: &str,
        text: &TextWriter,
    ) {
        let Some(conn) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Login) else { return };
        let peer = conn.peer.peer;
        let initiator = conn.login_mut().who.as_ref().map_or("", |w| w.initiator.as_str());
        tracing::info!(%peer, initiator, status = status.text(), why, "login refused");
        self.login_response(id, status, None, false, 0, text.as_bytes().to_vec());
        self.end_conn(cx, id, Ending::Protocol("login refused"));
    }

    /// Redirects (RFC 7143 11.13.5, class 1).
    pub(crate) fn redirect(&mut self, cx: &mut Cx<'_>, id: ConnId, to: &PortalAddress, permanent: bool) {
        let mut text = TextWriter::new();
        text.pair("TargetAddress", to);
        let status = if permanent { LoginStatus::MovedPermanently } else { LoginStatus::MovedTemporarily };
        self.refuse_with(cx, id, status, "redirected", &text);
    }

    /// Everything queued for a connection in its login is sent.
    pub(crate) fn login_sent(&mut self, id: ConnId) {
        let thread = self.conns.get(id).and_then(|c| c.login.as_ref()).and_then(|l| l.leaves);
        if let Some(thread) = thread {
            self.actions.push_back(Action::Handover { conn: id, thread });
        }
    }

    /// The connection will have its session on `thread`.
    pub(crate) fn login_leaves(&mut self, id: ConnId, thread: u32) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.login_mut().leaves = Some(thread);
        }
    }

    /// What tells who logs in to what, once.
    pub(crate) fn set_identity(&mut self, id: ConnId, who: Who, auth: AuthPolicy, settings: Settings) {
        if let Some(conn) = self.conns.get_mut(id) {
            let login = conn.login_mut();
            login.who = Some(who);
            login.auth = Some(TargetAuth::new(auth.incoming, auth.outgoing, &auth.algorithms));
            login.negotiator.set_settings(settings);
        }
    }
}

impl Login {
    /// RFC 7143 6.3.1, 11.12: what has to be the same in every request of a login.
    fn check(&mut self, pdu: &LoginRequest) -> Result<(), Refusal> {
        if pdu.version_min > VERSION {
            return refusal(LoginStatus::UnsupportedVersion, "version 0 is spoken here");
        }
        let first = *self.first.get_or_insert(*pdu);
        if (first.isid, first.tsih, first.cid, first.itt) != (pdu.isid, pdu.tsih, pdu.cid, pdu.itt) {
            return refusal(
                LoginStatus::InitiatorError,
                "ISID, TSIH, CID and tag must not change in a login",
            );
        }
        match (self.stage, self.last) {
            (Some(stage), _) if stage != pdu.stage => {
                refusal(LoginStatus::InitiatorError, "CSG is not the current stage")
            }
            (None, Some(last)) if last.stage != pdu.stage => {
                refusal(LoginStatus::InitiatorError, "CSG changes within a text")
            }
            _ => Ok(()),
        }
    }
}

/// What a response to a header that does not parse says.
fn from_header(bhs: &Bhs) -> (LoginStage, [u8; 6], Tag) {
    let mut isid = [0; 6];
    isid.copy_from_slice(&bhs[8..14]);
    let stage = LoginStage::from_code((bhs[1] >> 2) & 3).filter(|s| *s != LoginStage::FullFeature);
    let itt = Tag(u32::from_be_bytes([bhs[16], bhs[17], bhs[18], bhs[19]]));
    (stage.unwrap_or(LoginStage::Security), isid, itt)
}
