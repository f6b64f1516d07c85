//! Text keys and what they are about (RFC 7143 13): the table of keys, what one side wants, and what was agreed.

use std::fmt;
use std::str::FromStr;

use base::limits::{CONNECTIONS_PER_SESSION_MAX, RECV_DATA_SEGMENT_MAX};

use crate::text::value;

/// How a key's value comes about (RFC 7143 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One side says it and the other does not answer.
    Declared,
    /// Yes where both say Yes.
    And,
    /// Yes where either says Yes.
    Or,
    /// The smaller number of two in this range.
    Min(u32, u32),
    /// The larger number of two in this range.
    Max(u32, u32),
    /// The first of the proposer's list that the responder takes.
    List,
    /// A marker key of RFC 3720, which RFC 7143 13.25 made obsolete: answered, never agreed.
    Obsolete,
    /// Belongs to authentication (RFC 7143 12).
    Security,
    /// SendTargets: a request (RFC 7143 appendix C).
    Request,
}

/// Who may send a key first, and when (RFC 7143 13, "Use").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Any stage of a login, and full feature phase (ALL), by either side.
    Always,
    /// Any stage of a login of any connection, by the initiator.
    LoginByInitiator,
    /// By the initiator, at any time.
    ByInitiator,
    /// By the target, at any time.
    ByTarget,
    /// Operational stage of any connection's login (IO).
    Operational,
    /// Operational stage of the leading connection's login (LO).
    Leading,
    /// Security stage.
    SecurityStage,
    /// Full feature phase only (FFPO), by the initiator.
    FullFeatureByInitiator,
}

macro_rules! keys {
    ($($variant:ident $name:literal $rule:expr, $usage:ident;)*) => {
        /// A key that RFC 7143 gives.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Key { $($variant,)* }

        impl Key {
            /// Every key.
            pub const ALL: &'static [Key] = &[$(Key::$variant,)*];

            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Key::$variant => $name,)* }
            }

            /// The key of that name.
            pub fn parse(name: &str) -> Option<Key> {
                match name { $($name => Some(Key::$variant),)* _ => None }
            }

            /// How its value comes about.
            pub const fn rule(self) -> Rule {
                match self { $(Key::$variant => $rule,)* }
            }

            /// Who may send it, and when.
            pub const fn usage(self) -> Use {
                match self { $(Key::$variant => Use::$usage,)* }
            }
        }
    };
}

/// The range of the lengths that are negotiated or declared (RFC 7143 13.12 to 13.14).
pub(crate) const LEN_MIN: u32 = 512;
pub(crate) const LEN_MAX: u32 = 0x00ff_ffff;

keys! {
    SessionType "SessionType" Rule::Declared, LoginByInitiator;
    InitiatorName "InitiatorName" Rule::Declared, LoginByInitiator;
    TargetName "TargetName" Rule::Declared, LoginByInitiator;
    InitiatorAlias "InitiatorAlias" Rule::Declared, ByInitiator;
    TargetAlias "TargetAlias" Rule::Declared, ByTarget;
    TargetAddress "TargetAddress" Rule::Declared, ByTarget;
    TargetPortalGroupTag "TargetPortalGroupTag" Rule::Declared, ByTarget;
    AuthMethod "AuthMethod" Rule::Security, SecurityStage;
    ChapA "CHAP_A" Rule::Security, SecurityStage;
    ChapI "CHAP_I" Rule::Security, SecurityStage;
    ChapC "CHAP_C" Rule::Security, SecurityStage;
    ChapN "CHAP_N" Rule::Security, SecurityStage;
    ChapR "CHAP_R" Rule::Security, SecurityStage;
    HeaderDigest "HeaderDigest" Rule::List, Operational;
    DataDigest "DataDigest" Rule::List, Operational;
    MaxRecvDataSegmentLength "MaxRecvDataSegmentLength" Rule::Declared, Always;
    MaxConnections "MaxConnections" Rule::Min(1, 65535), Leading;
    InitialR2T "InitialR2T" Rule::Or, Leading;
    ImmediateData "ImmediateData" Rule::And, Leading;
    MaxBurstLength "MaxBurstLength" Rule::Min(LEN_MIN, LEN_MAX), Leading;
    FirstBurstLength "FirstBurstLength" Rule::Min(LEN_MIN, LEN_MAX), Leading;
    DefaultTime2Wait "DefaultTime2Wait" Rule::Max(0, 3600), Leading;
    DefaultTime2Retain "DefaultTime2Retain" Rule::Min(0, 3600), Leading;
    MaxOutstandingR2T "MaxOutstandingR2T" Rule::Min(1, 65535), Leading;
    DataPduInOrder "DataPDUInOrder" Rule::Or, Leading;
    DataSequenceInOrder "DataSequenceInOrder" Rule::Or, Leading;
    ErrorRecoveryLevel "ErrorRecoveryLevel" Rule::Min(0, 2), Leading;
    TaskReporting "TaskReporting" Rule::List, Leading;
    ProtocolLevel "iSCSIProtocolLevel" Rule::Min(0, 31), Leading;
    IfMarker "IFMarker" Rule::Obsolete, Operational;
    OfMarker "OFMarker" Rule::Obsolete, Operational;
    IfMarkInt "IFMarkInt" Rule::Obsolete, Operational;
    OfMarkInt "OFMarkInt" Rule::Obsolete, Operational;
    SendTargets "SendTargets" Rule::Request, FullFeatureByInitiator;
}

impl Key {
    /// Whether it means nothing in a discovery session ("Irrelevant when: SessionType=Discovery").
    pub const fn is_irrelevant_in_discovery(self) -> bool {
        matches!(
            self,
            Key::MaxConnections
                | Key::InitialR2T
                | Key::ImmediateData
                | Key::MaxBurstLength
                | Key::FirstBurstLength
                | Key::MaxOutstandingR2T
                | Key::DataPduInOrder
                | Key::DataSequenceInOrder
                | Key::TaskReporting
                | Key::ProtocolLevel
        )
    }
}

/// What runs in a session (RFC 7143 13.21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionType {
    /// SCSI.
    #[default]
    Normal,
    /// SendTargets only.
    Discovery,
}

/// A digest (RFC 7143 13.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DigestKind {
    /// None.
    #[default]
    None,
    /// CRC32C.
    Crc32c,
}

/// How the end of tasks is reported (RFC 7143 13.23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TaskReporting {
    /// As in RFC 3720.
    #[default]
    Rfc3720,
    /// Responses wait for each other (RFC 7143 4.2.2.3.3).
    ResponseFence,
    /// Tasks of other initiators are ended at once (RFC 7143 4.2.3.4).
    FastAbort,
}

macro_rules! list_element {
    ($name:ident { $($variant:ident = $text:literal,)* }) => {
        impl $name {
            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                match text { $($text => Ok($name::$variant),)* _ => Err(()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

list_element! { DigestKind { None = "None", Crc32c = "CRC32C", } }
list_element! { TaskReporting { Rfc3720 = "RFC3720", ResponseFence = "ResponseFence", FastAbort = "FastAbort", } }

/// Elements of a list, comma-separated.
pub(crate) fn join<T: fmt::Display>(elements: &[T]) -> String {
    elements.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Parameters of a session. [`Default`] is what holds where nothing was negotiated (RFC 7143 13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionParams {
    /// MaxConnections.
    pub max_connections: u16,
    /// InitialR2T: no unsolicited Data-Out.
    pub initial_r2t: bool,
    /// ImmediateData: data may come with a command.
    pub immediate_data: bool,
    /// MaxBurstLength, bytes.
    pub max_burst_len: u32,
    /// FirstBurstLength, bytes.
    pub first_burst_len: u32,
    /// DefaultTime2Wait, seconds.
    pub time2wait: u16,
    /// DefaultTime2Retain, seconds.
    pub time2retain: u16,
    /// MaxOutstandingR2T.
    pub max_outstanding_r2t: u16,
    /// DataPDUInOrder.
    pub data_pdu_in_order: bool,
    /// DataSequenceInOrder.
    pub data_sequence_in_order: bool,
    /// ErrorRecoveryLevel.
    pub error_recovery_level: u8,
    /// TaskReporting.
    pub task_reporting: TaskReporting,
    /// iSCSIProtocolLevel.
    pub protocol_level: u8,
}

impl Default for SessionParams {
    fn default() -> Self {
        SessionParams {
            max_connections: 1,
            initial_r2t: true,
            immediate_data: true,
            max_burst_len: 262_144,
            first_burst_len: 65_536,
            time2wait: 2,
            time2retain: 20,
            max_outstanding_r2t: 1,
            data_pdu_in_order: true,
            data_sequence_in_order: true,
            error_recovery_level: 0,
            task_reporting: TaskReporting::Rfc3720,
            protocol_level: 1,
        }
    }
}

impl SessionParams {
    /// The number behind `key` (1 for Yes), if it is one of these parameters and not a list.
    pub fn get(&self, key: Key) -> Option<u32> {
        Some(match key {
            Key::MaxConnections => self.max_connections.into(),
            Key::InitialR2T => self.initial_r2t.into(),
            Key::ImmediateData => self.immediate_data.into(),
            Key::MaxBurstLength => self.max_burst_len,
            Key::FirstBurstLength => self.first_burst_len,
            Key::DefaultTime2Wait => self.time2wait.into(),
            Key::DefaultTime2Retain => self.time2retain.into(),
            Key::MaxOutstandingR2T => self.max_outstanding_r2t.into(),
            Key::DataPduInOrder => self.data_pdu_in_order.into(),
            Key::DataSequenceInOrder => self.data_sequence_in_order.into(),
            Key::ErrorRecoveryLevel => self.error_recovery_level.into(),
            Key::ProtocolLevel => self.protocol_level.into(),
            _ => return None,
        })
    }

    /// Sets what [`SessionParams::get`] reads; `v` is within the key's range.
    pub(crate) fn set(&mut self, key: Key, v: u32) {
        match key {
            Key::MaxConnections => self.max_connections = v as u16,
            Key::InitialR2T => self.initial_r2t = v != 0,
            Key::ImmediateData => self.immediate_data = v != 0,
            Key::MaxBurstLength => self.max_burst_len = v,
            Key::FirstBurstLength => self.first_burst_len = v,
            Key::DefaultTime2Wait => self.time2wait = v as u16,
            Key::DefaultTime2Retain => self.time2retain = v as u16,
            Key::MaxOutstandingR2T => self.max_outstanding_r2t = v as u16,
            Key::DataPduInOrder => self.data_pdu_in_order = v != 0,
            Key::DataSequenceInOrder => self.data_sequence_in_order = v != 0,
            Key::ErrorRecoveryLevel => self.error_recovery_level = v as u8,
            Key::ProtocolLevel => self.protocol_level = v as u8,
            _ => debug_assert!(false, "{key:?} is not a number of a session"),
        }
    }
}

/// Parameters of a connection. [`Default`] is what holds where nothing was negotiated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionParams {
    /// HeaderDigest.
    pub header_digest: DigestKind,
    /// DataDigest.
    pub data_digest: DigestKind,
    /// The data segment that this side takes, bytes.
    pub max_recv_len: u32,
    /// The data segment that the peer takes, bytes.
    pub max_send_len: u32,
}

impl Default for ConnectionParams {
    fn default() -> Self {
        ConnectionParams {
            header_digest: DigestKind::None,
            data_digest: DigestKind::None,
            max_recv_len: RECV_LEN_DEFAULT,
            max_send_len: RECV_LEN_DEFAULT,
        }
    }
}

/// MaxRecvDataSegmentLength of a side that declared none (RFC 7143 13.12). It holds during the login too.
pub const RECV_LEN_DEFAULT: u32 = 8192;

/// What one side wants: the value of each key that goes into the negotiation, and the lists that it takes.
///
/// [`Default`] is what a target starts with: wider than RFC 7143's defaults, so that the initiator's wish decides.
/// Every value of RFC 7143 can be set, as tgt's configurations do; what goes into a negotiation is at most
/// [`CONNECTIONS_PER_SESSION_MAX`] connections and [`RECV_DATA_SEGMENT_MAX`] bytes a data segment, and a
/// FirstBurstLength not above MaxBurstLength (see [`Settings::wanted`], [`Settings::recv_len`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Numbers and booleans.
    pub session: SessionParams,
    /// HeaderDigest, what is taken; in order of preference where this side proposes.
    pub header_digest: Vec<DigestKind>,
    /// DataDigest, likewise.
    pub data_digest: Vec<DigestKind>,
    /// TaskReporting, likewise.
    pub task_reporting: Vec<TaskReporting>,
    /// MaxRecvDataSegmentLength that this side declares, bytes.
    pub max_recv_len: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            session: SessionParams {
                max_connections: CONNECTIONS_PER_SESSION_MAX,
                initial_r2t: false,
                max_burst_len: 0x00ff_fe00,
                first_burst_len: RECV_DATA_SEGMENT_MAX,
                max_outstanding_r2t: 8,
                ..SessionParams::default()
            },
            header_digest: vec![DigestKind::None, DigestKind::Crc32c],
            data_digest: vec![DigestKind::None, DigestKind::Crc32c],
            task_reporting: vec![TaskReporting::Rfc3720],
            max_recv_len: RECV_DATA_SEGMENT_MAX,
        }
    }
}

/// Why a setting cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// No such setting.
    #[error("{0} is not a parameter that can be set")]
    Unknown(String),
    /// A value out of range.
    #[error("{key}={value}: {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would be right.
        expected: String,
    },
}

impl Settings {
    /// The keys that [`Settings::set`] and [`Settings::get`] know.
    pub fn keys() -> impl Iterator<Item = Key> {
        let some = Settings::default();
        Key::ALL.iter().copied().filter(move |&key| some.get(key).is_some())
    }

    /// The number of `key` that goes into a negotiation.
    pub fn wanted(&self, key: Key) -> Option<u32> {
        let n = self.session.get(key)?;
        Some(match key {
            Key::MaxConnections => n.min(CONNECTIONS_PER_SESSION_MAX.into()),
            Key::FirstBurstLength => n.min(self.session.max_burst_len),
            _ => n,
        })
    }

    /// The MaxRecvDataSegmentLength that is declared, bytes.
    pub fn recv_len(&self) -> u32 {
        self.max_recv_len.clamp(LEN_MIN, RECV_DATA_SEGMENT_MAX)
    }

    /// Sets `key` (a name of RFC 7143 13) from text, as `tgtadm --op update` and targets.conf give it.
    pub fn set(&mut self, key: &str, text: &str) -> Result<(), SettingError> {
        let unknown = || SettingError::Unknown(key.to_owned());
        let key = Key::parse(key).ok_or_else(unknown)?;
        let bad =
            |expected: String| SettingError::Value { key: key.name(), value: text.to_owned(), expected };
        match (key, key.rule()) {
            (Key::HeaderDigest, _) => self.header_digest = elements(text).ok_or_else(|| bad(digests()))?,
            (Key::DataDigest, _) => self.data_digest = elements(text).ok_or_else(|| bad(digests()))?,
            (Key::TaskReporting, _) => {
                let expected = || bad("a list of RFC3720, ResponseFence and FastAbort is right".into());
                self.task_reporting = elements(text).ok_or_else(expected)?;
            }
            (Key::MaxRecvDataSegmentLength, _) => {
                self.max_recv_len = ranged(text, LEN_MIN, LEN_MAX).map_err(bad)?;
            }
            (_, Rule::And | Rule::Or) => {
                let on = value::boolean(text).ok_or_else(|| bad("Yes or No is right".into()))?;
                self.session.set(key, on.into());
            }
            (_, Rule::Min(low, high) | Rule::Max(low, high)) => {
                self.session.set(key, ranged(text, low, high).map_err(bad)?);
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// The setting of `key` as text, as [`Settings::set`] takes it.
    pub fn get(&self, key: Key) -> Option<String> {
        Some(match (key, key.rule()) {
            (Key::HeaderDigest, _) => join(&self.header_digest),
            (Key::DataDigest, _) => join(&self.data_digest),
            (Key::TaskReporting, _) => join(&self.task_reporting),
            (Key::MaxRecvDataSegmentLength, _) => self.max_recv_len.to_string(),
            (_, Rule::And | Rule::Or) => value::boolean_text(self.session.get(key)? != 0).to_owned(),
            _ => self.session.get(key)?.to_string(),
        })
    }
}

fn digests() -> String {
    "None, CRC32C, or a list of both is right".into()
}

fn ranged(text: &str, low: u32, high: u32) -> Result<u32, String> {
    match value::number(text).and_then(|n| u32::try_from(n).ok()) {
        Some(n) if (low..=high).contains(&n) => Ok(n),
        _ => Err(format!("a number from {low} to {high} is right")),
    }
}

/// A list whose elements are all known and differ.
fn elements<T: FromStr + PartialEq>(text: &str) -> Option<Vec<T>> {
    let mut out = Vec::new();
    for element in value::list(text)? {
        let element = element.parse().ok()?;
        if out.contains(&element) {
            return None;
        }
        out.push(element);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_round_trip() {
        for (i, &key) in Key::ALL.iter().enumerate() {
            assert_eq!(key as usize, i);
            assert_eq!(Key::parse(key.name()), Some(key));
        }
        assert_eq!(Key::parse("maxconnections"), None, "keys are case-sensitive");
    }

    #[test]
    fn settings_by_text() {
        let mut settings = Settings::default();
        for (key, text) in [
            ("MaxRecvDataSegmentLength", "8192"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "No"),
            ("HeaderDigest", "CRC32C,None"),
            ("DataDigest", "CRC32C"),
            ("MaxConnections", "65535"),
            ("ErrorRecoveryLevel", "1"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "3600"),
            ("MaxOutstandingR2T", "65535"),
            ("DataPDUInOrder", "No"),
            ("DataSequenceInOrder", "No"),
            ("TaskReporting", "FastAbort,RFC3720"),
            ("iSCSIProtocolLevel", "2"),
        ] {
            settings.set(key, text).unwrap();
            assert_eq!(settings.get(Key::parse(key).unwrap()).as_deref(), Some(text));
        }
        assert_eq!(Settings::keys().count(), 16);
        assert_eq!(settings.wanted(Key::MaxConnections), Some(8), "what the daemon's limits allow");
        settings.set("MaxRecvDataSegmentLength", "1048576").unwrap();
        assert_eq!(settings.recv_len(), RECV_DATA_SEGMENT_MAX);
        settings.set("FirstBurstLength", "1048576").unwrap();
        assert_eq!(settings.wanted(Key::FirstBurstLength), Some(262_144), "not above MaxBurstLength");
        let mut copy = Settings::default();
        Settings::keys().for_each(|key| copy.set(key.name(), &settings.get(key).unwrap()).unwrap());
        assert_eq!(copy, settings);
    }

    #[test]
    fn refuses_bad_settings() {
        let mut settings = Settings::default();
        for (key, text) in [
            ("MaxRecvDataSegmentLength", "511"),
            ("MaxRecvDataSegmentLength", "16777216"),
            ("MaxBurstLength", "16777216"),
            ("MaxConnections", "0"),
            ("MaxConnections", "65536"),
            ("InitialR2T", "yes"),
            ("HeaderDigest", ""),
            ("HeaderDigest", "MD5"),
            ("HeaderDigest", "None,None"),
            ("ErrorRecoveryLevel", "3"),
            ("DefaultTime2Wait", "-1"),
            ("TargetName", "iqn.2001-04.com.example"),
            ("IFMarker", "Yes"),
            ("CHAP_A", "5"),
            ("Nonsense", "1"),
        ] {
            let error = settings.set(key, text).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
        }
        assert_eq!(settings, Settings::default());
    }
}
