//! The iSCSI keys of a target that tgtadm can set, with tgt's defaults, limits and way to print them, and the NOP
//! settings.

use super::number::strtol;

/// Kinds of keys: how a value is read and printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A number between the limits.
    Range,
    /// 0, or a number between the limits.
    RangeOrZero,
    /// Yes or No.
    Bool,
    /// A list of None and CRC32C.
    Digest,
    /// Marker intervals: RFC 7143 took markers away; tgt prints Reject.
    Marker,
}

/// A key. The order is tgt's, which is that of `--op show --tid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // named as RFC 7143 and tgt name them
pub enum Key {
    MaxRecvDataSegmentLength,
    HeaderDigest,
    DataDigest,
    InitialR2T,
    MaxOutstandingR2T,
    ImmediateData,
    FirstBurstLength,
    MaxBurstLength,
    DataPDUInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    IFMarker,
    OFMarker,
    DefaultTime2Wait,
    DefaultTime2Retain,
    OFMarkInt,
    IFMarkInt,
    MaxConnections,
    RDMAExtensions,
    TargetRecvDataSegmentLength,
    InitiatorRecvDataSegmentLength,
    MaxOutstandingUnexpectedPDUs,
    MaxXmitDataSegmentLength,
    MaxQueueCmd,
}

/// Number of keys.
pub const KEYS: usize = 24;

/// Bit of a digest value: no digest.
pub const DIGEST_NONE: u32 = 1;
/// Bit of a digest value: CRC32C.
pub const DIGEST_CRC32C: u32 = 2;

struct Definition {
    key: Key,
    name: &'static str,
    kind: Kind,
    default: u32,
    min: u32,
    max: u32,
}

const fn def(key: Key, name: &'static str, kind: Kind, default: u32, min: u32, max: u32) -> Definition {
    Definition { key, name, kind, default, min, max }
}

const SEGMENT_MAX: u32 = 16_777_215;

static DEFINITIONS: [Definition; KEYS] = [
    def(Key::MaxRecvDataSegmentLength, "MaxRecvDataSegmentLength", Kind::Range, 8192, 512, SEGMENT_MAX),
    def(Key::HeaderDigest, "HeaderDigest", Kind::Digest, DIGEST_NONE, 0, 0),
    def(Key::DataDigest, "DataDigest", Kind::Digest, DIGEST_NONE, 0, 0),
    def(Key::InitialR2T, "InitialR2T", Kind::Bool, 1, 0, 1),
    def(Key::MaxOutstandingR2T, "MaxOutstandingR2T", Kind::Range, 1, 1, 65535),
    def(Key::ImmediateData, "ImmediateData", Kind::Bool, 1, 0, 1),
    def(Key::FirstBurstLength, "FirstBurstLength", Kind::Range, 65536, 512, SEGMENT_MAX),
    def(Key::MaxBurstLength, "MaxBurstLength", Kind::Range, 262_144, 512, SEGMENT_MAX),
    def(Key::DataPDUInOrder, "DataPDUInOrder", Kind::Bool, 1, 0, 1),
    def(Key::DataSequenceInOrder, "DataSequenceInOrder", Kind::Bool, 1, 0, 1),
    def(Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Kind::Range, 0, 0, 2),
    def(Key::IFMarker, "IFMarker", Kind::Bool, 0, 0, 1),
    def(Key::OFMarker, "OFMarker", Kind::Bool, 0, 0, 1),
    def(Key::DefaultTime2Wait, "DefaultTime2Wait", Kind::Range, 2, 0, 3600),
    def(Key::DefaultTime2Retain, "DefaultTime2Retain", Kind::Range, 20, 0, 3600),
    def(Key::OFMarkInt, "OFMarkInt", Kind::Marker, 2048, 1, 65535),
    def(Key::IFMarkInt, "IFMarkInt", Kind::Marker, 2048, 1, 65535),
    def(Key::MaxConnections, "MaxConnections", Kind::Range, 1, 1, 65535),
    def(Key::RDMAExtensions, "RDMAExtensions", Kind::Bool, 1, 0, 1),
    def(
        Key::TargetRecvDataSegmentLength,
        "TargetRecvDataSegmentLength",
        Kind::Range,
        262_144,
        512,
        SEGMENT_MAX,
    ),
    def(
        Key::InitiatorRecvDataSegmentLength,
        "InitiatorRecvDataSegmentLength",
        Kind::Range,
        262_144,
        512,
        SEGMENT_MAX,
    ),
    def(Key::MaxOutstandingUnexpectedPDUs, "MaxOutstandingUnexpectedPDUs", Kind::RangeOrZero, 0, 2, u32::MAX),
    def(Key::MaxXmitDataSegmentLength, "MaxXmitDataSegmentLength", Kind::Range, 8192, 512, SEGMENT_MAX),
    def(Key::MaxQueueCmd, "MaxQueueCmd", Kind::Range, 128, 1, 512),
];

/// The keys of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetParams {
    values: [u32; KEYS],
    given: u32,
    /// Seconds between the target's NOP-Ins; 0: none.
    pub nop_interval: i32,
    /// Unanswered NOP-Ins after which a connection is dropped.
    pub nop_count: i32,
}

impl TargetParams {
    /// tgt's defaults for a new target.
    pub fn new(nop_interval: i32, nop_count: i32) -> Self {
        let values = std::array::from_fn(|i| DEFINITIONS.get(i).map_or(0, |d| d.default));
        TargetParams { values, given: 0, nop_interval, nop_count }
    }

    /// The value of `key`: bits for a digest, 0 or 1 for Yes and No.
    pub fn get(&self, key: Key) -> u32 {
        self.values.get(key as usize).copied().unwrap_or_default()
    }

    /// Whether the administrator gave `key`. What was not given is printed as tgt's default, and is the engine's to
    /// choose.
    pub fn is_given(&self, key: Key) -> bool {
        self.given & (1 << key as usize) != 0
    }

    /// Sets the key called `name` (in any case). False where there is none or the value is none of its values.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        let Some(d) = DEFINITIONS.iter().find(|d| d.name.eq_ignore_ascii_case(name)) else { return false };
        let Some(value) = d.parse(value) else { return false };
        let index = d.key as usize;
        if let Some(slot) = self.values.get_mut(index) {
            *slot = value;
            self.given |= 1 << index;
        }
        true
    }

    /// Every key and its value as `--op show --tid` prints them.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        DEFINITIONS.iter().map(|d| (d.name, d.print(self.get(d.key))))
    }

    /// The keys that were given, and their values as [`Self::set`] takes them.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        DEFINITIONS.iter().filter(|d| self.is_given(d.key)).map(|d| {
            let value = match d.kind {
                Kind::Marker => self.get(d.key).to_string(),
                Kind::Digest if self.get(d.key) == DIGEST_NONE | DIGEST_CRC32C => "CRC32C,None".to_owned(),
                _ => d.print(self.get(d.key)),
            };
            (d.name, value)
        })
    }
}

impl Definition {
    fn parse(&self, text: &str) -> Option<u32> {
        match self.kind {
            Kind::Range | Kind::RangeOrZero | Kind::Marker => {
                let value = u32::try_from(strtol(text)).ok()?;
                let zero = value == 0 && self.kind == Kind::RangeOrZero;
                (zero || (self.min..=self.max).contains(&value)).then_some(value)
            }
            Kind::Bool => match text {
                "Yes" => Some(1),
                "No" => Some(0),
                _ => None,
            },
            Kind::Digest => text.split(',').try_fold(DIGEST_NONE, |bits, word| {
                if word.starts_with("None") {
                    Some(bits)
                } else if word.starts_with("CRC32C") {
                    Some(bits | DIGEST_CRC32C)
                } else {
                    None
                }
            }),
        }
    }

    fn print(&self, value: u32) -> String {
        match self.kind {
            Kind::Range | Kind::RangeOrZero => value.to_string(),
            Kind::Bool => if value == 0 { "No" } else { "Yes" }.to_owned(),
            Kind::Digest => if value & DIGEST_CRC32C == 0 { "None" } else { "CRC32C" }.to_owned(),
            Kind::Marker => if value == 0 { "Irrelevant" } else { "Reject" }.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_stand_at_their_keys() {
        for (i, d) in DEFINITIONS.iter().enumerate() {
            assert_eq!(d.key as usize, i);
        }
    }

    #[test]
    fn values_are_read_as_c_does_and_limited() {
        let mut p = TargetParams::new(0, 0);
        assert!(p.set("maxburstlength", "0x1000"));
        assert_eq!(p.get(Key::MaxBurstLength), 4096);
        assert!(p.is_given(Key::MaxBurstLength) && !p.is_given(Key::FirstBurstLength));
        assert!(
            !p.set("MaxBurstLength", "511")
                && !p.set("MaxBurstLength", "x")
                && !p.set("MaxBurstLength", "-1")
        );
        assert!(p.set("ErrorRecoveryLevel", "2") && !p.set("ErrorRecoveryLevel", "3"));
        assert!(p.set("MaxOutstandingUnexpectedPDUs", "0") && !p.set("MaxOutstandingUnexpectedPDUs", "1"));
        assert!(p.set("InitialR2T", "No") && !p.set("InitialR2T", "no"));
        assert!(p.set("HeaderDigest", "CRC32C,None") && !p.set("HeaderDigest", "MD5"));
        assert!(!p.set("NoSuchKey", "1"));
        let given: Vec<_> = p.given().map(|(k, _)| k).collect();
        assert_eq!(
            given,
            [
                "HeaderDigest",
                "InitialR2T",
                "MaxBurstLength",
                "ErrorRecoveryLevel",
                "MaxOutstandingUnexpectedPDUs"
            ]
        );
        let mut q = TargetParams::new(0, 0);
        p.given().for_each(|(k, v)| assert!(q.set(k, &v), "{k}={v}"));
        assert_eq!(p, q);
    }
}
