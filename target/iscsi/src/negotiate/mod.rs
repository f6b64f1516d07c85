//! The negotiation of text keys (RFC 7143 6.2, 6.3, 13), for a target or an initiator, on one connection.
//!
//! ```text
//!            peer proposes: answer by the rule           peer answers: check against what was proposed
//!   Idle ────────────────────────────────────▶ Done ◀──────────────────────────────────────── Proposed
//!     └───────────────────────── this side proposes ─────────────────────────────────────────────┘
//! ```
//!
//! The session machine feeds each complete text to [`Negotiator::receive`], which answers into a [`TextWriter`] and
//! hands authentication keys and SendTargets back, and calls [`Negotiator::offer`] when this side speaks in the operational
//! stage. A target must not let the login end before [`Negotiator::is_settled`].
//!
//! Invariants:
//! * A key is negotiated once in a login; a second time is an error (RFC 7143 6.3).
//! * An inadmissible proposal is answered `Reject` and the value stays; an inadmissible declaration or answer, or a key
//!   from the wrong side or in the wrong stage, is an error that ends the login.
//! * FirstBurstLength is not above MaxBurstLength in what was agreed, whatever order they came in.

mod rules;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;

use crate::name::{IscsiName, NAME_BYTES_MAX, NameError};
use crate::params::{
    ConnectionParams, Key, LEN_MAX, LEN_MIN, Rule, SessionParams, SessionType, Settings, Use,
};
use crate::pdu::{LoginStage, LoginStatus};
use crate::text::value::{self, IRRELEVANT, NOT_UNDERSTOOD, REJECT};
use crate::text::{Text, TextWriter};
use rules::Combined;

/// Values that answer a proposal without a result (RFC 7143 6.2).
const CONSTANTS: [&str; 3] = [NOT_UNDERSTOOD, REJECT, IRRELEVANT];

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The initiator.
    Initiator,
    /// The target.
    Target,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Proposed,
    Done,
}

/// What ends a login (and a text exchange: there it is a protocol error).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// RFC 7143 6.3: a key a second time.
    #[error("{} was negotiated before", .0.name())]
    Repeated(Key),
    /// A key of the other side.
    #[error("{} is not for this side to send", .0.name())]
    WrongSide(Key),
    /// A key out of its stage.
    #[error("{} does not belong into the {stage:?} stage", key.name())]
    WrongStage {
        /// The key.
        key: Key,
        /// Where it came.
        stage: LoginStage,
    },
    /// A declaration that is not admissible.
    #[error("{}={value}: {expected}", key.name())]
    BadDeclaration {
        /// The key.
        key: Key,
        /// What came.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A name that is none.
    #[error("{}: {error}", key.name())]
    BadName {
        /// The key.
        key: Key,
        /// Why.
        error: NameError,
    },
    /// A session type that RFC 7143 13.21 does not have.
    #[error("SessionType={0}: Normal or Discovery is right")]
    BadSessionType(String),
    /// An answer that does not follow from the proposal.
    #[error("{}={value} is no answer to {}={proposed}", key.name(), key.name())]
    BadAnswer {
        /// The key.
        key: Key,
        /// What came.
        value: String,
        /// What this side had proposed.
        proposed: String,
    },
    /// An answer to a key that this side did not propose.
    #[error("{}={value} answers nothing that was proposed", key.name())]
    Unasked {
        /// The key.
        key: Key,
        /// What came.
        value: &'static str,
    },
    /// RFC 7143 13.14.
    #[error("FirstBurstLength was agreed at {first}, above the MaxBurstLength of {max} that came later")]
    BurstLengths {
        /// FirstBurstLength.
        first: u32,
        /// MaxBurstLength.
        max: u32,
    },
    /// Nothing that both take.
    #[error("{}: the peer takes {theirs}, this side {ours}", key.name())]
    NoCommonValue {
        /// The key.
        key: Key,
        /// The peer's wish.
        theirs: String,
        /// This side's.
        ours: String,
    },
}

impl NegotiationError {
    /// The status of the Login Response that it ends a login with (RFC 7143 11.13.5).
    pub const fn login_status(&self) -> LoginStatus {
        match self {
            NegotiationError::BadSessionType(_) => LoginStatus::SessionTypeNotSupported,
            _ => LoginStatus::InitiatorError,
        }
    }
}

/// What the peer declared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// InitiatorName.
    pub initiator_name: Option<IscsiName>,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// TargetName: in its normal form where it is an iSCSI name; otherwise as it came, and it is for the directory of
    /// targets to find nothing by it.
    pub target_name: Option<String>,
    /// TargetAlias.
    pub target_alias: Option<String>,
    /// TargetAddress of a redirection.
    pub target_address: Option<String>,
    /// TargetPortalGroupTag.
    pub target_portal_group_tag: Option<u16>,
    /// SessionType; Normal where none was declared.
    pub session_type: Option<SessionType>,
}

/// What a text held that the negotiation does not consume itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received<'t> {
    /// Keys of authentication, in order.
    pub security: SmallVec<[(Key, &'t str); 4]>,
    /// SendTargets: `All`, a target's name, or empty for the target of this session (RFC 7143 appendix C).
    pub send_targets: Option<&'t str>,
}

/// The negotiation of one connection.
#[derive(Clone, Debug)]
pub struct Negotiator {
    role: Role,
    leading: bool,
    settings: Settings,
    state: [State; Key::ALL.len()],
    declared: Declared,
    session: SessionParams,
    connection: ConnectionParams,
}

impl Negotiator {
    /// That of a session's first connection.
    pub fn leading(role: Role, settings: Settings) -> Self {
        Negotiator {
            role,
            leading: true,
            settings,
            state: [State::Idle; Key::ALL.len()],
            declared: Declared::default(),
            session: SessionParams::default(),
            connection: ConnectionParams::default(),
        }
    }

    /// That of another connection, of a session with these parameters.
    pub fn joining(role: Role, settings: Settings, session: SessionParams) -> Self {
        Negotiator { leading: false, session, ..Negotiator::leading(role, settings) }
    }

    /// A target learns only from the first login request which session, and so which settings, the connection is for:
    /// this takes them over before anything operational was negotiated.
    pub fn set_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// The connection joins a session with these parameters.
    pub fn set_joining(&mut self, session: SessionParams) {
        self.leading = false;
        self.session = session;
    }

    /// What the peer declared.
    pub fn declared(&self) -> &Declared {
        &self.declared
    }

    /// What runs in the session.
    pub fn session_type(&self) -> SessionType {
        self.declared.session_type.unwrap_or_default()
    }

    /// For an initiator: says what the session is for, before anything is sent.
    pub fn set_session_type(&mut self, session_type: SessionType) {
        self.declared.session_type = Some(session_type);
    }

    /// What is agreed for the session.
    pub fn session(&self) -> &SessionParams {
        &self.session
    }

    /// What is agreed for the connection. Its lengths hold in full feature phase; in login PDUs either side sends at most
    /// [`crate::params::RECV_LEN_DEFAULT`] bytes (RFC 7143 13.12).
    pub fn connection(&self) -> &ConnectionParams {
        &self.connection
    }

    /// Whether every proposal of this side was answered.
    pub fn is_settled(&self) -> bool {
        !self.state.contains(&State::Proposed)
    }

    /// Takes a whole text of the peer in `stage` and answers into `out`.
    pub fn receive<'t>(
        &mut self,
        text: &'t Text,
        stage: LoginStage,
        out: &mut TextWriter,
    ) -> Result<Received<'t>, NegotiationError> {
        let mut received = Received::default();
        // What a key means may hang on others in the same text: the session type comes first, FirstBurstLength last.
        for pass in 0..3 {
            for (name, value) in text.iter() {
                let Some(key) = Key::parse(name) else {
                    if pass == 1 {
                        self.unknown(name, value, out);
                    }
                    continue;
                };
                if pass == pass_of(key) {
                    self.receive_key(key, value, stage, out, &mut received)?;
                }
            }
        }
        self.reconcile_bursts()?;
        Ok(received)
    }

    /// RFC 7143 13.14: FirstBurstLength must not exceed MaxBurstLength.
    fn reconcile_bursts(&mut self) -> Result<(), NegotiationError> {
        let (first, max) = (self.session.first_burst_len, self.session.max_burst_len);
        if first <= max {
            return Ok(());
        }
        // An initiator may always send less; where nothing is unsolicited the value has no meaning.
        if self.role == Role::Initiator || self.is_irrelevant(Key::FirstBurstLength) {
            self.session.first_burst_len = max;
            return Ok(());
        }
        // A target that has not spoken about it yet proposes a smaller one (offer).
        if self.state[Key::FirstBurstLength as usize] == State::Done {
            return Err(NegotiationError::BurstLengths { first, max });
        }
        Ok(())
    }

    /// Keys that nobody here knows, X- keys among them (RFC 7143 6.2: NotUnderstood). To answer the answer would go on
    /// for ever.
    fn unknown(&self, name: &str, value: &str, out: &mut TextWriter) {
        if !CONSTANTS.contains(&value) {
            out.pair(name, NOT_UNDERSTOOD);
        }
    }

    fn receive_key<'t>(
        &mut self,
        key: Key,
        value: &'t str,
        stage: LoginStage,
        out: &mut TextWriter,
        received: &mut Received<'t>,
    ) -> Result<(), NegotiationError> {
        self.check_side(key)?;
        if !stage_allows(key, stage) {
            let negotiated = !matches!(key.rule(), Rule::Declared | Rule::Security);
            if stage == LoginStage::FullFeature && negotiated {
                out.pair(key.name(), REJECT);
                return Ok(());
            }
            return Err(NegotiationError::WrongStage { key, stage });
        }
        match key.rule() {
            // A method's machine keeps the order of its keys itself.
            Rule::Security => {
                received.security.push((key, value));
                Ok(())
            }
            Rule::Request => {
                received.send_targets = Some(value);
                Ok(())
            }
            Rule::Declared => self.declare(key, value, stage),
            _ => match self.state[key as usize] {
                State::Done => Err(NegotiationError::Repeated(key)),
                State::Proposed => {
                    self.state[key as usize] = State::Done;
                    self.take_answer(key, value)
                }
                State::Idle => {
                    if let Some(value) = CONSTANTS.into_iter().find(|&constant| constant == value) {
                        return Err(NegotiationError::Unasked { key, value });
                    }
                    self.state[key as usize] = State::Done;
                    self.answer(key, value, out)
                }
            },
        }
    }

    fn check_side(&self, key: Key) -> Result<(), NegotiationError> {
        let by_initiator = self.role == Role::Target;
        let right = match key.usage() {
            Use::LoginByInitiator | Use::ByInitiator | Use::FullFeatureByInitiator => by_initiator,
            Use::ByTarget => !by_initiator,
            _ => true,
        };
        if right { Ok(()) } else { Err(NegotiationError::WrongSide(key)) }
    }

    fn declare(&mut self, key: Key, value: &str, stage: LoginStage) -> Result<(), NegotiationError> {
        // MaxRecvDataSegmentLength and aliases may be declared again, in full feature phase (RFC 7143 13.12).
        if stage == LoginStage::FullFeature {
            return self.take_declaration(key, value, stage);
        }
        if self.state[key as usize] != State::Done {
            self.state[key as usize] = State::Done;
            return self.take_declaration(key, value, stage);
        }
        // RFC 7143 6.3 has each key once in a login. libiscsi says its names and SessionType again in the operational stage
        // when CHAP was offered and None chosen; the same thing said twice does no harm.
        let before = (self.declared.clone(), self.connection.clone());
        self.take_declaration(key, value, stage)?;
        if before == (self.declared.clone(), self.connection.clone()) {
            return Ok(());
        }
        (self.declared, self.connection) = before;
        Err(NegotiationError::Repeated(key))
    }

    fn take_declaration(&mut self, key: Key, value: &str, stage: LoginStage) -> Result<(), NegotiationError> {
        let bad = |expected| NegotiationError::BadDeclaration { key, value: value.to_owned(), expected };
        match key {
            Key::SessionType => {
                self.declared.session_type = Some(match value {
                    "Normal" => SessionType::Normal,
                    "Discovery" => SessionType::Discovery,
                    other => return Err(NegotiationError::BadSessionType(other.to_owned())),
                });
            }
            Key::InitiatorName => {
                let name =
                    IscsiName::parse(value).map_err(|error| NegotiationError::BadName { key, error })?;
                self.declared.initiator_name = Some(name);
            }
            Key::TargetName => {
                if value.is_empty() || value.len() > NAME_BYTES_MAX {
                    let error = NameError::Length(value.len());
                    return Err(NegotiationError::BadName { key, error });
                }
                let name = IscsiName::parse(value).map_or_else(|_| value.to_owned(), |name| name.to_string());
                self.declared.target_name = Some(name);
            }
            Key::InitiatorAlias => self.declared.initiator_alias = Some(value.to_owned()),
            Key::TargetAlias => self.declared.target_alias = Some(value.to_owned()),
            Key::TargetAddress => self.declared.target_address = Some(value.to_owned()),
            Key::TargetPortalGroupTag => {
                let tag = value::number(value).and_then(|n| u16::try_from(n).ok());
                self.declared.target_portal_group_tag = Some(tag.ok_or_else(|| bad("0 to 65535 is right"))?);
            }
            Key::MaxRecvDataSegmentLength => {
                let len = value::number(value).and_then(|n| u32::try_from(n).ok());
                match len {
                    Some(len) if (LEN_MIN..=LEN_MAX).contains(&len) => self.connection.max_send_len = len,
                    _ => return Err(bad("512 to 16777215 is right")),
                }
            }
            _ => return Err(NegotiationError::WrongStage { key, stage }),
        }
        Ok(())
    }

    /// Answers a proposal.
    fn answer(&mut self, key: Key, value: &str, out: &mut TextWriter) -> Result<(), NegotiationError> {
        let name = key.name();
        if key.rule() == Rule::Obsolete {
            // RFC 7143 13.25: Reject is what a responder should say; No and Irrelevant are allowed, and old initiators
            // that propose markers take them without giving up.
            let constant = if matches!(key, Key::IfMarker | Key::OfMarker) { value::NO } else { IRRELEVANT };
            out.pair(name, constant);
            return Ok(());
        }
        if self.is_irrelevant(key) {
            out.pair(name, IRRELEVANT);
            return Ok(());
        }
        if key.usage() == Use::Leading && !self.leading {
            out.pair(name, REJECT);
            return Ok(());
        }
        match self.combine(key, value) {
            Combined::Agreed(agreed) => {
                out.pair(name, agreed.text(key.rule()));
                self.agree(key, agreed);
            }
            Combined::Inadmissible => out.pair(name, REJECT),
            Combined::Impossible => {
                return Err(NegotiationError::NoCommonValue {
                    key,
                    theirs: value.to_owned(),
                    ours: self.proposal(key),
                });
            }
        }
        Ok(())
    }

    fn is_irrelevant(&self, key: Key) -> bool {
        let no_unsolicited_data = self.session.initial_r2t && !self.session.immediate_data;
        (self.session_type() == SessionType::Discovery && key.is_irrelevant_in_discovery())
            || (key == Key::FirstBurstLength && no_unsolicited_data)
    }

    /// Takes the answer to a proposal.
    fn take_answer(&mut self, key: Key, value: &str) -> Result<(), NegotiationError> {
        if CONSTANTS.contains(&value) {
            // The value stays as it is; that must be one that this side can live with.
            return if value == IRRELEVANT || !self.must_propose(key) {
                Ok(())
            } else {
                Err(self.bad_answer(key, value))
            };
        }
        match self.follows(key, value) {
            Some(agreed) => {
                self.agree(key, agreed);
                Ok(())
            }
            None => Err(self.bad_answer(key, value)),
        }
    }

    fn bad_answer(&self, key: Key, value: &str) -> NegotiationError {
        NegotiationError::BadAnswer { key, value: value.to_owned(), proposed: self.proposal(key) }
    }

    /// What this side says in the operational stage beside its answers: its MaxRecvDataSegmentLength; an initiator,
    /// every key; a target, those where silence would leave a value that its settings exclude.
    pub fn offer(&mut self, out: &mut TextWriter) {
        if self.connection.max_recv_len != self.settings.recv_len() {
            self.connection.max_recv_len = self.settings.recv_len();
            out.pair(Key::MaxRecvDataSegmentLength.name(), self.settings.recv_len());
        }
        for &key in Key::ALL {
            let negotiable =
                matches!(key.rule(), Rule::And | Rule::Or | Rule::Min(..) | Rule::Max(..) | Rule::List);
            let applies = !self.is_irrelevant(key) && (self.leading || key.usage() != Use::Leading);
            if !negotiable || !applies || self.state[key as usize] != State::Idle {
                continue;
            }
            let wanted = match self.role {
                // Those that only new targets know are proposed where they change something.
                Role::Initiator if matches!(key, Key::TaskReporting | Key::ProtocolLevel) => {
                    self.differs(key)
                }
                Role::Initiator => true,
                Role::Target => self.must_propose(key),
            };
            if wanted {
                out.pair(key.name(), self.proposal(key));
                self.state[key as usize] = State::Proposed;
            }
        }
    }
}

/// In which pass over a text a key is looked at.
fn pass_of(key: Key) -> u8 {
    match key {
        Key::SessionType => 0,
        Key::FirstBurstLength => 2,
        _ => 1,
    }
}

/// RFC 7143 12: only names, aliases and authentication in the security stage; 13, "Use", for the others. The length
/// that is declared by "ALL" is taken there too.
fn stage_allows(key: Key, stage: LoginStage) -> bool {
    match key.usage() {
        Use::LoginByInitiator => stage != LoginStage::FullFeature,
        Use::Always | Use::ByInitiator | Use::ByTarget => true,
        Use::Operational | Use::Leading => stage == LoginStage::Operational,
        Use::SecurityStage => stage == LoginStage::Security,
        Use::FullFeatureByInitiator => stage == LoginStage::FullFeature,
    }
}
