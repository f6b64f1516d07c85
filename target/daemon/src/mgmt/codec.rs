//! Requests and responses as bytes.

use base::limits::MANAGEMENT_PAYLOAD_MAX;

use super::{Mode, Op, TID_ALL, device_type};
use crate::control::error::{Refusal, TgtError};

/// Bytes of a request's header.
pub const HEADER_BYTES: usize = 120;
/// Bytes of a response's header.
pub const RESPONSE_BYTES: usize = 8;

const LLD_BYTES: usize = 64;
const LLD_AT: usize = 8;
const LEN_AT: usize = 72;
const TID_AT: usize = 76;
const SID_AT: usize = 80;
const LUN_AT: usize = 88;
const CID_AT: usize = 96;
const HOST_AT: usize = 100;
const DEVICE_TYPE_AT: usize = 104;
const AC_DIR_AT: usize = 108;
const FORCE_AT: usize = 116;

/// Bytes that are no request or response. The connection is closed; there is nothing to answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length field does not even cover the header.
    #[error("length {0} is shorter than the header")]
    TooShort(u32),
    /// More than a management request may have.
    #[error("payload of {0} bytes, the limit is {MANAGEMENT_PAYLOAD_MAX}")]
    TooLong(usize),
    /// The payload has another length than the header said.
    #[error("payload of {got} bytes where the header says {said}")]
    Length {
        /// What came.
        got: usize,
        /// What was announced.
        said: usize,
    },
    /// Not UTF-8 text.
    #[error("payload is not UTF-8 text")]
    NotText,
}

/// The fixed part of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    fields: Request,
    payload_bytes: usize,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Number of the mode; [`Mode::from_wire`].
    pub mode: u32,
    /// Number of the operation; [`Op::from_wire`].
    pub op: u32,
    /// Low-level driver; empty: the first.
    pub lld: String,
    /// Target, or [`TID_ALL`].
    pub tid: i32,
    /// Session.
    pub sid: u64,
    /// Logical unit.
    pub lun: u64,
    /// Connection.
    pub cid: u32,
    /// SCSI host, for drivers that have hosts.
    pub host_no: u32,
    /// Peripheral device type.
    pub device_type: u32,
    /// An account as outgoing.
    pub outgoing: bool,
    /// Even if it is in use.
    pub force: bool,
    /// Options, joined by commas. Without the NUL.
    pub payload: String,
}

impl Request {
    /// A request with nothing but mode and operation, and what tgtadm sends where no option says otherwise.
    pub fn new(mode: Mode, op: Op) -> Self {
        Request {
            mode: mode.to_wire(),
            op: op.to_wire(),
            lld: String::new(),
            tid: TID_ALL,
            sid: 0,
            lun: u64::MAX,
            cid: 0,
            host_no: 0,
            device_type: device_type::DISK,
            outgoing: false,
            force: false,
            payload: String::new(),
        }
    }

    /// The request as bytes. The payload may be longer than a daemon takes: that is for the daemon to say.
    pub fn encode(&self) -> Vec<u8> {
        let payload_bytes = if self.payload.is_empty() { 0 } else { self.payload.len() + 1 };
        let mut out = vec![0; HEADER_BYTES];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(slot) = out.get_mut(at..at + bytes.len()) {
                slot.copy_from_slice(bytes);
            }
        };
        put(0, &self.mode.to_ne_bytes());
        put(4, &self.op.to_ne_bytes());
        let lld = self.lld.as_bytes();
        put(LLD_AT, lld.get(..LLD_BYTES).unwrap_or(lld));
        let len = u32::try_from(HEADER_BYTES + payload_bytes).unwrap_or(u32::MAX);
        put(LEN_AT, &len.to_ne_bytes());
        put(TID_AT, &self.tid.to_ne_bytes());
        put(SID_AT, &self.sid.to_ne_bytes());
        put(LUN_AT, &self.lun.to_ne_bytes());
        put(CID_AT, &self.cid.to_ne_bytes());
        put(HOST_AT, &self.host_no.to_ne_bytes());
        put(DEVICE_TYPE_AT, &self.device_type.to_ne_bytes());
        put(AC_DIR_AT, &u32::from(self.outgoing).to_ne_bytes());
        put(FORCE_AT, &u32::from(self.force).to_ne_bytes());
        if payload_bytes > 0 {
            out.extend_from_slice(self.payload.as_bytes());
            out.push(0);
        }
        out
    }
}

impl RequestHeader {
    /// Reads a header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        let len = u32_at(bytes, LEN_AT);
        let payload_bytes = (len as usize).checked_sub(HEADER_BYTES).ok_or(Malformed::TooShort(len))?;
        if payload_bytes > MANAGEMENT_PAYLOAD_MAX {
            return Err(Malformed::TooLong(payload_bytes));
        }
        let lld = bytes.get(LLD_AT..LLD_AT + LLD_BYTES - 1).unwrap_or_default();
        let lld = lld.split(|b| *b == 0).next().unwrap_or_default();
        let fields = Request {
            mode: u32_at(bytes, 0),
            op: u32_at(bytes, 4),
            lld: String::from_utf8_lossy(lld).into_owned(),
            tid: u32_at(bytes, TID_AT).cast_signed(),
            sid: u64_at(bytes, SID_AT),
            lun: u64_at(bytes, LUN_AT),
            cid: u32_at(bytes, CID_AT),
            host_no: u32_at(bytes, HOST_AT),
            device_type: u32_at(bytes, DEVICE_TYPE_AT),
            outgoing: u32_at(bytes, AC_DIR_AT) != 0,
            force: u32_at(bytes, FORCE_AT) != 0,
            payload: String::new(),
        };
        Ok(RequestHeader { fields, payload_bytes })
    }

    /// How many bytes of payload follow.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The request, with its payload. Text ends at the first NUL.
    pub fn with_payload(self, payload: &[u8]) -> Result<Request, Malformed> {
        if payload.len() != self.payload_bytes {
            return Err(Malformed::Length { got: payload.len(), said: self.payload_bytes });
        }
        let text = payload.split(|b| *b == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| Malformed::NotText)?;
        Ok(Request { payload: text.to_owned(), ..self.fields })
    }
}

/// An answer: text to print (may be empty), or why not.
pub type Response = Result<String, Refusal>;

/// The fixed part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// tgt's error number; 0: success.
    pub error: u32,
    /// Bytes of text that follow, with the NUL.
    pub text_bytes: usize,
}

impl ResponseHeader {
    /// Reads a header.
    pub fn decode(bytes: &[u8; RESPONSE_BYTES]) -> Result<Self, Malformed> {
        let len = u32_at(bytes, 4);
        let text_bytes = (len as usize).checked_sub(RESPONSE_BYTES).ok_or(Malformed::TooShort(len))?;
        Ok(ResponseHeader { error: u32_at(bytes, 0), text_bytes })
    }
}

/// The response as bytes.
pub fn encode_response(response: &Response) -> Vec<u8> {
    let (error, text) = match response {
        Ok(text) => (0, text.as_str()),
        Err(refusal) => (refusal.error.code(), refusal.detail.as_str()),
    };
    let text_bytes = if text.is_empty() { 0 } else { text.len() + 1 };
    let (error, text_bytes) = match u32::try_from(RESPONSE_BYTES + text_bytes) {
        Ok(_) => (error, text_bytes),
        Err(_) => (TgtError::NoMemory.code(), 0),
    };
    let mut out = Vec::with_capacity(RESPONSE_BYTES + text_bytes);
    out.extend_from_slice(&error.to_ne_bytes());
    out.extend_from_slice(&((RESPONSE_BYTES + text_bytes) as u32).to_ne_bytes());
    if text_bytes > 0 {
        out.extend_from_slice(text.as_bytes());
        out.push(0);
    }
    out
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut b = [0; 4];
    if let Some(field) = bytes.get(at..at + 4) {
        b.copy_from_slice(field);
    }
    u32::from_ne_bytes(b)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut b = [0; 8];
    if let Some(field) = bytes.get(at..at + 8) {
        b.copy_from_slice(field);
    }
    u64::from_ne_bytes(b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Result<Request, Malformed> {
        let (header, payload) = bytes.split_at(HEADER_BYTES);
        RequestHeader::decode(header.try_into().unwrap())?.with_payload(payload)
    }

    #[test]
    fn layout_is_that_of_a_stock_tgtadm() {
        // Taken from `tgtadm -C 1 -m lu -o new -t 1 -l 2 -b /x` (tgt 1.0.85, little endian).
        let mut r = Request::new(Mode::Device, Op::New);
        r.tid = 1;
        r.lun = 2;
        r.payload = "path=/x".to_owned();
        let bytes = r.encode();
        assert_eq!(bytes.len(), 128);
        if cfg!(target_endian = "little") {
            assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(bytes[72..80], [128, 0, 0, 0, 1, 0, 0, 0]);
            assert_eq!(bytes[88..96], [2, 0, 0, 0, 0, 0, 0, 0]);
        }
        assert_eq!(&bytes[120..], b"path=/x\0");
        assert_eq!(decode(&bytes), Ok(r));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let mut bytes = Request::new(Mode::System, Op::Show).encode();
        bytes[LEN_AT..LEN_AT + 4].copy_from_slice(&119u32.to_ne_bytes());
        assert_eq!(decode(&bytes), Err(Malformed::TooShort(119)));
        bytes[LEN_AT..LEN_AT + 4].copy_from_slice(&(120 + 8193u32).to_ne_bytes());
        assert_eq!(decode(&bytes), Err(Malformed::TooLong(8193)));
        bytes[LEN_AT..LEN_AT + 4].copy_from_slice(&121u32.to_ne_bytes());
        assert_eq!(decode(&bytes), Err(Malformed::Length { got: 0, said: 1 }));
        assert_eq!(ResponseHeader::decode(&[0; 8]), Err(Malformed::TooShort(0)));
    }

    #[test]
    fn responses() {
        let ok = encode_response(&Ok("x\n".to_owned()));
        let header = ResponseHeader::decode(ok[..8].try_into().unwrap()).unwrap();
        assert_eq!(header, ResponseHeader { error: 0, text_bytes: 3 });
        assert_eq!(encode_response(&Ok(String::new())).len(), 8);
        let no = encode_response(&Err(Refusal::from(TgtError::NoTarget)));
        assert_eq!(no.len(), 8);
        assert_eq!(ResponseHeader::decode(no[..8].try_into().unwrap()).unwrap().error, 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..HEADER_BYTES + 300)) {
            let mut bytes = bytes;
            let _ = decode(&bytes);
            let len = bytes.len() as u32;
            bytes[LEN_AT..LEN_AT + 4].copy_from_slice(&len.to_ne_bytes());
            if let Ok(request) = decode(&bytes)
                && !request.lld.contains(char::REPLACEMENT_CHARACTER)
            {
                prop_assert_eq!(decode(&request.encode()), Ok(request));
            }
        }
    }
}
