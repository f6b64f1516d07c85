//! iSCSI on the wire (RFC 7143): bytes to types and back, for both ends of a connection. Sans-IO: no sockets, no
//! clock, no tasks; the session machines of target and initiator stand on this crate.
//!
//! | module | what it holds | RFC 7143 |
//! |---|---|---|
//! | [`pdu`] | every PDU's basic header segment, framing, additional header segments, codes | 11 |
//! | [`serial`] | serial number arithmetic for CmdSN, StatSN, DataSN | 4.2.2.1 |
//! | [`digest`] | CRC32C header and data digests | 11.2.3 |
//! | [`text`] | `key=value` text in and out, encodings of values | 6.1 |
//! | [`params`] | the table of keys; what one side wants and what was agreed | 13 |
//! | [`negotiate`] | the negotiation, for either role | 6.2, 6.3, 13 |
//! | [`discovery`] | the answer to SendTargets | C |
//! | [`chap`] | AuthMethod and CHAP, for either role | 12.1 |
//! | [`name`] | iSCSI names | 4.2.7 |
//! | [`address`] | TargetAddress | 13.8 |
//! | [`isid`] | initiator session ids | 11.12.5 |
//! | [`lun`] | the 8-byte LUN field | 11.2.1.7, SAM-5 4.7 |
//!
//! Everything that is parsed here comes from the network: parsing never panics, never allocates by a length that the
//! peer chose without a limit, and says which field is wrong.

pub mod address;
pub mod chap;
pub mod digest;
pub mod discovery;
pub mod isid;
pub mod lun;
pub mod name;
pub mod negotiate;
pub mod params;
pub mod pdu;
pub mod serial;
pub mod text;
