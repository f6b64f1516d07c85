//! Where a login meets sessions: who logs in to what, which session it makes, joins or replaces, and the entry into the
//! full feature phase (RFC 7143 6.3.1, 6.3.5, 6.3.6, 11.12.6).
//!
//! | TSIH | session of this name, ISID, target, group | result |
//! |---|---|---|
//! | 0 | none | a new session |
//! | 0 | there is one | session reinstatement: it goes first |
//! | its own | there is one, CID not in it | another connection |
//! | its own | there is one, CID in it | connection reinstatement: that connection goes first |
//! | other | any | 0x020a |

use std::sync::Arc;

use base::limits::COMMANDS_PER_SESSION_MAX;
use iscsi::name::IscsiName;
use iscsi::params::{DigestKind, SessionType, Settings};
use iscsi::pdu::{LoginRequest, LoginStage, LoginStatus};
use iscsi::text::{Text, TextWriter};

use crate::api::*;
use crate::conn::Phase;
use crate::machine::{Ending, Machine};
use crate::session::{Kind, Life, Session};
use crate::tmf::JobKind;
use crate::tx::Format;

type Refusal = (LoginStatus, String);

impl Machine {
    /// Looks at the names in the first text (RFC 7143 6.3: they have to be there), before anything is negotiated.
    pub(crate) fn identify(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        pdu: &LoginRequest,
        text: &Text,
        out: &mut TextWriter,
    ) -> Result<(), Refusal> {
        let Some(conn) = self.conns.get(id) else { return Ok(()) };
        let Some(name) = text.get("InitiatorName") else {
            return Err((LoginStatus::MissingParameter, "InitiatorName is missing".into()));
        };
        let name = IscsiName::parse(name)
            .map_err(|e| (LoginStatus::InitiatorError, format!("InitiatorName: {e}")))?;
        let who = Who {
            initiator: name.to_string(),
            peer: conn.peer.peer,
            local: conn.peer.local,
            portal_group: conn.peer.portal_group,
        };
        match text.get("SessionType") {
            None | Some("Normal") => {}
            Some("Discovery") => {
                if pdu.tsih != 0 {
                    return Err((
                        LoginStatus::SessionDoesNotExist,
                        "a discovery session has one connection".into(),
                    ));
                }
                let auth = cx.directory.discovery_auth();
                self.set_identity(id, who, auth, bounded(Settings::default(), 0));
                return Ok(());
            }
            Some(other) => {
                return Err((LoginStatus::SessionTypeNotSupported, format!("SessionType={other}")));
            }
        }
        let Some(target) = text.get("TargetName") else {
            return Err((LoginStatus::MissingParameter, "TargetName is missing".into()));
        };
        let target = IscsiName::parse(target).map_or_else(|_| target.to_owned(), |n| n.to_string());
        let login = match cx.directory.login(&who, &target) {
            Ok(login) => login,
            Err(no) => return self.not_there(cx, id, no),
        };
        let key = SessionKey {
            initiator: who.initiator.clone(),
            isid: pdu.isid,
            target: login.name.clone(),
            portal_group: who.portal_group,
        };
        self.find_session(cx, id, pdu, &key)?;
        out.pair("TargetPortalGroupTag", who.portal_group);
        if !login.alias.is_empty() {
            out.pair("TargetAlias", &login.alias);
        }
        let settings = bounded(login.params.clone(), 2);
        self.set_identity(id, who, login.auth.clone(), settings);
        let joined = self.conns.get(id).and_then(|c| c.login.as_ref()).and_then(|l| l.joins);
        let params = joined.and_then(|s| self.sessions.get(s)).map(|s| s.info.params.clone());
        if let Some(conn) = self.conns.get_mut(id) {
            let l = conn.login_mut();
            l.target = Some(Arc::new(login));
            l.key = Some(Arc::new(key));
            if let Some(params) = params {
                l.negotiator.set_joining(params);
            }
        }
        Ok(())
    }

    fn not_there(&mut self, cx: &mut Cx<'_>, id: ConnId, no: LoginRefusal) -> Result<(), Refusal> {
        let status = match no {
            LoginRefusal::NotFound => LoginStatus::NotFound,
            LoginRefusal::Removed => LoginStatus::TargetRemoved,
            LoginRefusal::NotAuthorized => LoginStatus::AuthorizationFailure,
            LoginRefusal::Unavailable => LoginStatus::ServiceUnavailable,
            LoginRefusal::OutOfResources => LoginStatus::OutOfResources,
            LoginRefusal::Redirect { to, permanent } => {
                self.redirect(cx, id, &to, permanent);
                return Ok(());
            }
        };
        Err((status, "refused by the directory".into()))
    }

    /// Finds the session that the login is for; on another thread, the connection goes there.
    fn find_session(
        &mut self,
        cx: &Cx<'_>,
        id: ConnId,
        pdu: &LoginRequest,
        key: &SessionKey,
    ) -> Result<(), Refusal> {
        let place = cx.directory.find_session(key);
        let Some(place) = place.filter(|p| pdu.tsih == 0 || p.tsih == pdu.tsih) else {
            if pdu.tsih != 0 {
                return Err((LoginStatus::SessionDoesNotExist, format!("no session with TSIH {}", pdu.tsih)));
            }
            return Ok(());
        };
        if place.thread != self.config.thread {
            self.login_leaves(id, place.thread);
            return Ok(());
        }
        if pdu.tsih != 0 {
            let Some(&session) = self.by_key.get(key) else {
                return Err((LoginStatus::SessionDoesNotExist, "the session is gone".into()));
            };
            self.may_join(session, pdu)?;
            if let Some(conn) = self.conns.get_mut(id) {
                conn.login_mut().joins = Some(session);
            }
        }
        Ok(())
    }

    /// Whether a session takes another connection.
    fn may_join(&self, session: SessionId, pdu: &LoginRequest) -> Result<(), Refusal> {
        let Some(s) = self.sessions.get(session).filter(|s| s.life != Life::Down) else {
            return Err((LoginStatus::SessionDoesNotExist, "the session is going down".into()));
        };
        let others = s.info.connections.iter().filter(|c| c.cid != pdu.cid).count();
        if others >= usize::from(s.info.params.max_connections) {
            return Err((
                LoginStatus::TooManyConnections,
                format!("MaxConnections={}", s.info.params.max_connections),
            ));
        }
        Ok(())
    }

    /// The last request was answered but for its final response, whose text is `data`.
    pub(crate) fn login_finish(&mut self, cx: &mut Cx<'_>, id: ConnId, data: Vec<u8>) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.login_mut().last_text = data;
        }
        self.login_goes_on(cx, id);
    }

    /// Ends a login whose last request was answered, unless something has to go first.
    pub(crate) fn login_goes_on(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|c| c.phase == Phase::Login) else { return };
        let login = conn.login_mut();
        login.waits = false;
        let result = match (login.negotiator.session_type(), login.joins) {
            (SessionType::Discovery, _) => self.new_session(cx, id, Kind::Discovery),
            (SessionType::Normal, None) => self.new_session(cx, id, Kind::Normal),
            (SessionType::Normal, Some(session)) => self.join(cx, id, session),
        };
        match result {
            // It waits, or it went on already: what had to go was gone at once.
            Ok(None) => {}
            Ok(Some(session)) => self.enter_full_feature(cx, id, session),
            Err((status, why)) => self.refuse(cx, id, status, &why),
        }
    }

    fn login_waits(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.login_mut().waits = true;
            conn.rx.hold = true;
        }
    }

    /// A login is over, by its end or by that of its connection: nobody is to wake it any more.
    pub(crate) fn login_ended(&mut self, id: ConnId) {
        let Some(key) = self.conns.get(id).and_then(|c| c.login.as_ref()).and_then(|l| l.key.clone()) else {
            return;
        };
        if let Some(s) = self.by_key.get(&key).copied().and_then(|s| self.sessions.get_mut(s)) {
            s.successors.retain(|c| *c != id);
        }
    }

    /// A new session, after the one of the same key is gone (RFC 7143 6.3.5).
    fn new_session(&mut self, cx: &mut Cx<'_>, id: ConnId, kind: Kind) -> Result<Option<SessionId>, Refusal> {
        let Some(login) = self.conns.get(id).and_then(|c| c.login.as_ref()) else { return Ok(None) };
        let (key, target) = (login.key.clone(), login.target.clone());
        let mut tsih = [0; 2];
        if let (Kind::Normal, Some(key)) = (kind, &key)
            && let Some(&old) = self.by_key.get(key)
        {
            if let Some(s) = self.sessions.get_mut(old) {
                s.successors.push(id);
            }
            self.login_waits(id);
            self.replace_session(cx, old);
            return Ok(None);
        }
        if self.sessions.len() >= self.config.sessions_max {
            return Err((LoginStatus::OutOfResources, "too many sessions".into()));
        }
        if let (Kind::Normal, Some(key)) = (kind, &key) {
            match cx.directory.register_session(key, self.config.thread) {
                SessionSlot::Registered { tsih: t } => tsih = t.to_be_bytes(),
                SessionSlot::OnThread(_) => {
                    return Err((
                        LoginStatus::ServiceUnavailable,
                        "another login of the same name and ISID".into(),
                    ));
                }
                SessionSlot::Full => return Err((LoginStatus::OutOfResources, "too many sessions".into())),
            }
        } else {
            cx.entropy.fill(&mut tsih);
        }
        let tsih = u16::from_be_bytes(tsih).max(1);
        let Some(conn) = self.conns.get_mut(id) else { return Ok(None) };
        let peer = conn.peer;
        let login = conn.login_mut();
        let key = key.unwrap_or_else(|| {
            Arc::new(SessionKey {
                initiator: login.who.as_ref().map_or_else(String::new, |w| w.initiator.clone()),
                isid: login.first.map_or([0; 6], |f| f.isid),
                target: String::new(),
                portal_group: peer.portal_group,
            })
        });
        let queue = target.as_ref().map_or(COMMANDS_PER_SESSION_MAX, |t| t.max_queue_cmd);
        let info = SessionInfo {
            id: SessionId(0),
            tid: target.as_ref().map_or(0, |t| t.tid),
            key: Arc::clone(&key),
            initiator_alias: login.negotiator.declared().initiator_alias.clone(),
            tsih,
            connections: Vec::new(),
            params: login.negotiator.session().clone(),
            stats: Stats::default(),
            tasks: 0,
        };
        let exp = login.first.map_or(iscsi::serial::Serial(0), |f| f.cmd_sn);
        let queue = queue.clamp(1, COMMANDS_PER_SESSION_MAX);
        let session = self.sessions.insert_with(|id| Session::new(id, kind, info, target, exp, queue));
        if kind == Kind::Normal {
            self.by_key.insert(key, session);
        }
        Ok(Some(session))
    }

    /// Takes an old session down at once: its initiator has come back and knows nothing of it.
    fn replace_session(&mut self, cx: &mut Cx<'_>, old: SessionId) {
        let conns = self.sessions.get(old).map(|s| s.conns.clone()).unwrap_or_default();
        for conn in conns {
            self.end_conn(cx, conn, Ending::Dropped("its session is replaced"));
        }
        self.session_down(cx, old);
    }

    /// Another connection of a session, after the one of the same CID is gone (RFC 7143 6.3.6).
    fn join(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        session: SessionId,
    ) -> Result<Option<SessionId>, Refusal> {
        let Some(first) = self.conns.get_mut(id).and_then(|c| c.login_mut().first) else { return Ok(None) };
        self.may_join(session, &first)?;
        let Some(s) = self.sessions.get(session) else { return Ok(None) };
        let same =
            |c: &&ConnId| self.conns.get(**c).is_some_and(|c| c.cid == first.cid && c.phase == Phase::Full);
        if let Some(old) = s.conns.iter().find(same).copied() {
            let victims = match s.recovery_level() {
                2 => Vec::new(),
                _ => self.tasks_of(session, |t| t.conn == old),
            };
            self.login_waits(id);
            // While it has no connection the session must not go down.
            if let Some(s) = self.sessions.get_mut(session) {
                s.expects += 1;
            }
            self.end_conn(cx, old, Ending::Recovery);
            self.start_job(cx, session, JobKind::Login { conn: id, session }, victims, false);
            return Ok(None);
        }
        Ok(Some(session))
    }

    /// The final response, and everything that holds from then on.
    fn enter_full_feature(&mut self, cx: &mut Cx<'_>, id: ConnId, session: SessionId) {
        let Some(tsih) = self.sessions.get(session).map(|s| s.info.tsih) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        let text = std::mem::take(&mut conn.login_mut().last_text);
        self.login_response(id, LoginStatus::Success, Some(LoginStage::FullFeature), false, tsih, text);
        let Some(s) = self.sessions.get_mut(session) else { return };
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(login) = conn.login.take() else { return };
        let params = login.negotiator.connection().clone();
        conn.phase = Phase::Full;
        conn.session = Some(session);
        conn.cid = login.first.map_or(0, |f| f.cid);
        conn.format = Format {
            header_digest: params.header_digest == DigestKind::Crc32c,
            data_digest: params.data_digest == DigestKind::Crc32c,
            max_segment: params.max_send_len,
            max_burst: s.info.params.max_burst_len,
        };
        conn.max_recv_segment = params.max_recv_len;
        conn.keeps = s.recovery_level() > 0;
        conn.login_by = base::Mono::NEVER;
        conn.last_rx = cx.now;
        s.conns.push(id);
        s.info.connections.push(ConnectionInfo { id, cid: conn.cid, peer: conn.peer, params });
        if s.life == Life::Failed {
            s.life = Life::Up;
            s.retain_until = base::Mono::NEVER;
        }
        self.unauthenticated -= 1;
        let up = s.kind == Kind::Normal && !s.announced;
        s.announced |= up;
        if let Some(target) = s.target.as_ref().filter(|_| up) {
            tracing::info!(session = %session, initiator = %s.info.key.initiator, target = %target.name, "session up");
            self.actions.push_back(Action::SessionUp { session });
        }
        self.arm_conn(id);
        self.go_on_reading(cx, id);
    }

    fn go_on_reading(&mut self, cx: &mut Cx<'_>, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if std::mem::take(&mut conn.rx.hold) {
            self.pump(cx, id);
            self.resume(id);
        }
    }
}

/// What of a target's settings goes into a negotiation: bounded unsolicited data, data in order, and a recovery level
/// that is supported.
fn bounded(mut settings: Settings, recovery_level_max: u8) -> Settings {
    let s = &mut settings.session;
    s.first_burst_len = s.first_burst_len.min(FIRST_BURST_MAX);
    s.data_pdu_in_order = true;
    s.data_sequence_in_order = true;
    s.error_recovery_level = s.error_recovery_level.min(recovery_level_max);
    settings
}
