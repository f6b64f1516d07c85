//! Authentication in the security stage: AuthMethod (RFC 7143 12.1) and CHAP (12.1.3, RFC 1994), for both ends.
//!
//! ```text
//!   initiator                                   target
//!   AuthMethod=CHAP,None  ───────────────────▶  [Method]     picks what its accounts ask for
//!                         ◀───────────────────  AuthMethod=CHAP
//!   CHAP_A=7,5            ───────────────────▶  [Algorithm]  picks by its own preference
//!                         ◀───────────────────  CHAP_A=7 CHAP_I=.. CHAP_C=..
//!   CHAP_N=.. CHAP_R=..   ───────────────────▶  [Challenge]  checks
//!   (CHAP_I=.. CHAP_C=..) ◀───────────────────  (CHAP_N=.. CHAP_R=..)   [Done]
//! ```
//!
//! Invariants:
//! * A response is compared in constant time; an unknown user and a wrong secret run the same code and give the same error.
//! * A target proves itself only after the initiator has (RFC 7143 12.1.3), never to its own challenge, and never with a
//!   secret that also serves the other direction (RFC 7143 9.2.1): either would let an impostor have a response computed.
//! * Secrets are in no `Debug` and in no error.

use std::fmt;

use base::Entropy;
use md5::Digest;
use subtle::{Choice, ConstantTimeEq};

use crate::params::{Key, join};
use crate::pdu::LoginStatus;
use crate::text::TextWriter;
use crate::text::value::{self, Hex};

/// The largest challenge or response, bytes (RFC 7143 12.1.3).
pub const CHAP_BINARY_MAX: usize = 1024;

const METHOD_CHAP: &str = "CHAP";

/// The hash of a response (RFC 7143 12.1.3; IANA, PPP Authentication Algorithms).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// MD5.
    Md5 = 5,
    /// SHA1.
    Sha1 = 6,
    /// SHA-256.
    Sha256 = 7,
    /// SHA3-256.
    Sha3_256 = 8,
}

impl Algorithm {
    /// All of them, the strongest first.
    pub const ALL: [Algorithm; 4] = [Algorithm::Sha3_256, Algorithm::Sha256, Algorithm::Sha1, Algorithm::Md5];

    /// Its number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The algorithm of that number.
    pub fn from_code(code: u64) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| u64::from(a.code()) == code)
    }

    /// Bytes of a response; challenges are made as long.
    pub const fn digest_len(self) -> usize {
        match self {
            Algorithm::Md5 => 16,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 | Algorithm::Sha3_256 => 32,
        }
    }

    /// The response of `secret` to a challenge (RFC 1994 4.1).
    pub fn response(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(parts: [&[u8]; 3]) -> Vec<u8> {
            let mut hash = D::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        }
        let parts = [&[identifier][..], secret, challenge];
        match self {
            Algorithm::Md5 => hash::<md5::Md5>(parts),
            Algorithm::Sha1 => hash::<sha1::Sha1>(parts),
            Algorithm::Sha256 => hash::<sha2::Sha256>(parts),
            Algorithm::Sha3_256 => hash::<sha3::Sha3_256>(parts),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code().fmt(f)
    }
}

/// A user and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The CHAP name.
    pub user: String,
    /// The CHAP secret.
    pub secret: Vec<u8>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({}, ***)", self.user)
    }
}

/// Why an authentication failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No method that both take.
    #[error("AuthMethod={theirs}: {ours} is required here")]
    NoMethod {
        /// What the peer takes.
        theirs: String,
        /// What this side takes.
        ours: &'static str,
    },
    /// No algorithm that both take.
    #[error("CHAP_A={theirs}: one of {ours} is required here")]
    NoAlgorithm {
        /// What the peer takes.
        theirs: String,
        /// What this side takes.
        ours: String,
    },
    /// Wrong user or wrong secret; which of them is not told.
    #[error("user {0:?} or its secret is wrong")]
    Refused(String),
    /// A challenge that came back.
    #[error("the peer's challenge is the one that this side sent (reflection, RFC 7143 9.2.1)")]
    Reflected,
    /// One secret for both directions.
    #[error("the same secret serves both directions; RFC 7143 9.2.1 asks for two")]
    SameSecret,
    /// Mutual authentication without an account for it.
    #[error("the initiator asks the target to authenticate, and there is no outgoing account")]
    NoOutgoingAccount,
    /// A key that has to be there.
    #[error("{} is missing", .0.name())]
    Missing(Key),
    /// A key that must not be there.
    #[error("{} is out of turn", .0.name())]
    Unexpected(Key),
    /// A value that is not what its key takes.
    #[error("the value of {} is not {expected}", key.name())]
    BadValue {
        /// The key.
        key: Key,
        /// What would be right.
        expected: &'static str,
    },
    /// A step after the end.
    #[error("authentication is over")]
    Over,
}

impl AuthError {
    /// The status of the Login Response that says so (RFC 7143 11.13.5).
    pub const fn login_status(&self) -> LoginStatus {
        match self {
            AuthError::Missing(_) => LoginStatus::MissingParameter,
            AuthError::Unexpected(_) | AuthError::BadValue { .. } | AuthError::Over => {
                LoginStatus::InitiatorError
            }
            _ => LoginStatus::AuthenticationFailure,
        }
    }
}

/// How far an authentication is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer speaks next.
    Continue,
    /// It is done. What was written is still to be sent.
    Done,
}

/// An outstanding challenge.
#[derive(Clone, Debug)]
struct Challenge {
    algorithm: Algorithm,
    identifier: u8,
    bytes: Vec<u8>,
}

impl Challenge {
    fn new(algorithm: Algorithm, entropy: &mut dyn Entropy) -> Self {
        let mut identifier = [0];
        let mut bytes = vec![0; algorithm.digest_len()];
        entropy.fill(&mut identifier);
        entropy.fill(&mut bytes);
        Challenge { algorithm, identifier: identifier[0], bytes }
    }

    fn is_answered(&self, secret: &[u8], response: &[u8]) -> Choice {
        self.algorithm.response(self.identifier, secret, &self.bytes).ct_eq(response)
    }

    fn write(&self, out: &mut TextWriter) {
        out.pair(Key::ChapI.name(), self.identifier);
        out.pair(Key::ChapC.name(), Hex(&self.bytes));
    }
}

/// The keys of one step; all of them have to be used.
struct Keys<'k, 't> {
    keys: &'k [(Key, &'t str)],
}

impl<'k, 't> Keys<'k, 't> {
    /// Refuses keys that this step has no use for.
    fn only(keys: &'k [(Key, &'t str)], expected: &[Key]) -> Result<Self, AuthError> {
        match keys.iter().find(|(key, _)| !expected.contains(key)) {
            Some(&(key, _)) => Err(AuthError::Unexpected(key)),
            None => Ok(Keys { keys }),
        }
    }

    fn get(&self, key: Key) -> Option<&'t str> {
        self.keys.iter().find(|&&(k, _)| k == key).map(|&(_, value)| value)
    }

    fn need(&self, key: Key) -> Result<&'t str, AuthError> {
        self.get(key).ok_or(AuthError::Missing(key))
    }

    fn binary(&self, key: Key) -> Result<Vec<u8>, AuthError> {
        let expected = "1 to 1024 bytes in hexadecimal (0x) or base64 (0b)";
        value::binary(self.need(key)?, CHAP_BINARY_MAX).ok_or(AuthError::BadValue { key, expected })
    }

    fn identifier(&self) -> Result<u8, AuthError> {
        let number = value::number(self.need(Key::ChapI)?).and_then(|n| u8::try_from(n).ok());
        number.ok_or(AuthError::BadValue { key: Key::ChapI, expected: "a number from 0 to 255" })
    }
}

fn list_of(key: Key, text: &str) -> Result<impl Iterator<Item = &str> + Clone, AuthError> {
    value::list(text).ok_or(AuthError::BadValue { key, expected: "a list" })
}

#[derive(Clone, Debug)]
enum TargetState {
    Method,
    Algorithm,
    Challenge(Challenge),
    Done,
    Failed,
}

/// The target's side of an authentication.
#[derive(Clone, Debug)]
pub struct TargetAuth {
    incoming: Vec<Account>,
    outgoing: Option<Account>,
    algorithms: Vec<Algorithm>,
    state: TargetState,
    user: Option<String>,
}

impl TargetAuth {
    /// One that lets the users of `incoming` pass, or everybody where there are none; that proves itself as `outgoing`
    /// where it is asked to; with these algorithms, the preferred first (none given: all, the strongest first).
    pub fn new(incoming: Vec<Account>, outgoing: Option<Account>, algorithms: &[Algorithm]) -> Self {
        let algorithms = if algorithms.is_empty() { &Algorithm::ALL } else { algorithms };
        TargetAuth {
            incoming,
            outgoing,
            algorithms: algorithms.to_vec(),
            state: TargetState::Method,
            user: None,
        }
    }

    /// Whether the initiator may leave the security stage (or never enter it).
    pub fn is_satisfied(&self) -> bool {
        match self.state {
            TargetState::Done => true,
            TargetState::Method => self.incoming.is_empty(),
            _ => false,
        }
    }

    /// Who authenticated, once done with CHAP.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Takes the authentication keys of one text and writes the answer. After an error there is no going on.
    pub fn step(
        &mut self,
        keys: &[(Key, &str)],
        entropy: &mut dyn Entropy,
        out: &mut TextWriter,
    ) -> Result<Progress, AuthError> {
        if keys.is_empty() && matches!(self.state, TargetState::Method | TargetState::Done) {
            return Ok(if self.is_satisfied() { Progress::Done } else { Progress::Continue });
        }
        let next = match std::mem::replace(&mut self.state, TargetState::Failed) {
            TargetState::Method => self.choose_method(keys, out)?,
            TargetState::Algorithm => self.choose_algorithm(keys, entropy, out)?,
            TargetState::Challenge(challenge) => self.check(&challenge, keys, out)?,
            TargetState::Done | TargetState::Failed => return Err(AuthError::Over),
        };
        self.state = next;
        Ok(if matches!(self.state, TargetState::Done) { Progress::Done } else { Progress::Continue })
    }

    fn choose_method(&self, keys: &[(Key, &str)], out: &mut TextWriter) -> Result<TargetState, AuthError> {
        let theirs = Keys::only(keys, &[Key::AuthMethod])?.need(Key::AuthMethod)?;
        let (ours, next) = match self.incoming.is_empty() {
            true => (value::NONE, TargetState::Done),
            false => (METHOD_CHAP, TargetState::Algorithm),
        };
        if !list_of(Key::AuthMethod, theirs)?.any(|method| method == ours) {
            return Err(AuthError::NoMethod { theirs: theirs.to_owned(), ours });
        }
        out.pair(Key::AuthMethod.name(), ours);
        Ok(next)
    }

    fn choose_algorithm(
        &self,
        keys: &[(Key, &str)],
        entropy: &mut dyn Entropy,
        out: &mut TextWriter,
    ) -> Result<TargetState, AuthError> {
        let theirs = Keys::only(keys, &[Key::ChapA])?.need(Key::ChapA)?;
        let offered = list_of(Key::ChapA, theirs)?.filter_map(|a| Algorithm::from_code(value::number(a)?));
        let algorithm = self.algorithms.iter().copied().find(|&ours| offered.clone().any(|a| a == ours));
        let Some(algorithm) = algorithm else {
            return Err(AuthError::NoAlgorithm { theirs: theirs.to_owned(), ours: join(&self.algorithms) });
        };
        let challenge = Challenge::new(algorithm, entropy);
        out.pair(Key::ChapA.name(), algorithm);
        challenge.write(out);
        Ok(TargetState::Challenge(challenge))
    }

    fn check(
        &mut self,
        challenge: &Challenge,
        keys: &[(Key, &str)],
        out: &mut TextWriter,
    ) -> Result<TargetState, AuthError> {
        let keys = Keys::only(keys, &[Key::ChapN, Key::ChapR, Key::ChapI, Key::ChapC])?;
        let user = keys.need(Key::ChapN)?;
        let response = keys.binary(Key::ChapR)?;
        let mutual = match (keys.get(Key::ChapI), keys.get(Key::ChapC)) {
            (None, None) => None,
            _ => Some((keys.identifier()?, keys.binary(Key::ChapC)?)),
        };
        let secret = self.verify(challenge, user, &response)?;
        if let Some((identifier, theirs)) = mutual {
            if theirs == challenge.bytes {
                return Err(AuthError::Reflected);
            }
            let outgoing = self.outgoing.as_ref().ok_or(AuthError::NoOutgoingAccount)?;
            if bool::from(outgoing.secret.ct_eq(secret)) {
                return Err(AuthError::SameSecret);
            }
            let response = challenge.algorithm.response(identifier, &outgoing.secret, &theirs);
            out.pair(Key::ChapN.name(), &outgoing.user);
            out.pair(Key::ChapR.name(), Hex(&response));
        }
        self.user = Some(user.to_owned());
        Ok(TargetState::Done)
    }

    /// The secret of `user`, where `response` proves that the initiator has it.
    fn verify(&self, challenge: &Challenge, user: &str, response: &[u8]) -> Result<&[u8], AuthError> {
        // Against timing, an unknown user is checked too, with a secret that cannot let it pass.
        let mut secret: &[u8] = b"nobody's secret.";
        let mut known = Choice::from(0);
        for account in &self.incoming {
            let same = account.user.as_bytes().ct_eq(user.as_bytes());
            known |= same;
            if bool::from(same) {
                secret = &account.secret;
            }
        }
        let right = challenge.is_answered(secret, response);
        if bool::from(known & right) { Ok(secret) } else { Err(AuthError::Refused(user.to_owned())) }
    }
}

#[derive(Clone, Debug)]
enum InitiatorState {
    Start,
    Method,
    Challenge,
    Proof(Challenge),
    Done,
    Failed,
}

/// The initiator's side of an authentication.
#[derive(Clone, Debug)]
pub struct InitiatorAuth {
    account: Option<Account>,
    target: Option<Account>,
    algorithms: Vec<Algorithm>,
    state: InitiatorState,
}

impl InitiatorAuth {
    /// One that authenticates as `account`, or not at all; that wants the target to prove itself as `target`, if given;
    /// with these algorithms, the preferred first (none given: all, the strongest first).
    pub fn new(
        account: Option<Account>,
        target: Option<Account>,
        algorithms: &[Algorithm],
    ) -> Result<Self, AuthError> {
        match (&account, &target) {
            (Some(a), Some(t)) if bool::from(a.secret.ct_eq(&t.secret)) => return Err(AuthError::SameSecret),
            (None, Some(_)) => return Err(AuthError::Missing(Key::ChapN)),
            _ => {}
        }
        let algorithms = if algorithms.is_empty() { &Algorithm::ALL } else { algorithms };
        Ok(InitiatorAuth { account, target, algorithms: algorithms.to_vec(), state: InitiatorState::Start })
    }

    /// Writes the proposal of methods. None is among them only where the target need not prove itself.
    pub fn start(&mut self, out: &mut TextWriter) {
        let methods = match (&self.account, &self.target) {
            (None, _) => value::NONE,
            (Some(_), None) => "CHAP,None",
            (Some(_), Some(_)) => METHOD_CHAP,
        };
        out.pair(Key::AuthMethod.name(), methods);
        self.state = InitiatorState::Method;
    }

    /// Takes the authentication keys of one text and writes the answer. After an error there is no going on.
    pub fn step(
        &mut self,
        keys: &[(Key, &str)],
        entropy: &mut dyn Entropy,
        out: &mut TextWriter,
    ) -> Result<Progress, AuthError> {
        let next = match std::mem::replace(&mut self.state, InitiatorState::Failed) {
            InitiatorState::Method => self.take_method(keys, out)?,
            InitiatorState::Challenge => self.answer(keys, entropy, out)?,
            InitiatorState::Proof(challenge) => self.check(&challenge, keys)?,
            _ => return Err(AuthError::Over),
        };
        self.state = next;
        Ok(if matches!(self.state, InitiatorState::Done) { Progress::Done } else { Progress::Continue })
    }

    fn take_method(&self, keys: &[(Key, &str)], out: &mut TextWriter) -> Result<InitiatorState, AuthError> {
        let method = Keys::only(keys, &[Key::AuthMethod])?.need(Key::AuthMethod)?;
        match (method, &self.account, &self.target) {
            (value::NONE, _, None) => Ok(InitiatorState::Done),
            (METHOD_CHAP, Some(_), _) => {
                out.pair(Key::ChapA.name(), join(&self.algorithms));
                Ok(InitiatorState::Challenge)
            }
            (_, account, target) => {
                let ours = match (account, target) {
                    (None, _) => value::NONE,
                    (Some(_), None) => "CHAP or None",
                    (Some(_), Some(_)) => METHOD_CHAP,
                };
                Err(AuthError::NoMethod { theirs: method.to_owned(), ours })
            }
        }
    }

    fn answer(
        &self,
        keys: &[(Key, &str)],
        entropy: &mut dyn Entropy,
        out: &mut TextWriter,
    ) -> Result<InitiatorState, AuthError> {
        let keys = Keys::only(keys, &[Key::ChapA, Key::ChapI, Key::ChapC])?;
        let theirs = keys.need(Key::ChapA)?;
        let algorithm = value::number(theirs).and_then(Algorithm::from_code);
        let Some(algorithm) = algorithm.filter(|a| self.algorithms.contains(a)) else {
            return Err(AuthError::NoAlgorithm { theirs: theirs.to_owned(), ours: join(&self.algorithms) });
        };
        let (identifier, challenge) = (keys.identifier()?, keys.binary(Key::ChapC)?);
        let account = self.account.as_ref().ok_or(AuthError::Missing(Key::ChapN))?;
        let response = algorithm.response(identifier, &account.secret, &challenge);
        out.pair(Key::ChapN.name(), &account.user);
        out.pair(Key::ChapR.name(), Hex(&response));
        if self.target.is_none() {
            return Ok(InitiatorState::Done);
        }
        let ours = Challenge::new(algorithm, entropy);
        if ours.bytes == challenge {
            return Err(AuthError::Reflected);
        }
        ours.write(out);
        Ok(InitiatorState::Proof(ours))
    }

    fn check(&self, challenge: &Challenge, keys: &[(Key, &str)]) -> Result<InitiatorState, AuthError> {
        let keys = Keys::only(keys, &[Key::ChapN, Key::ChapR])?;
        let user = keys.need(Key::ChapN)?;
        let response = keys.binary(Key::ChapR)?;
        let target = self.target.as_ref().ok_or(AuthError::Over)?;
        let known = target.user.as_bytes().ct_eq(user.as_bytes());
        if bool::from(known & challenge.is_answered(&target.secret, &response)) {
            Ok(InitiatorState::Done)
        } else {
            Err(AuthError::Refused(user.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests;
