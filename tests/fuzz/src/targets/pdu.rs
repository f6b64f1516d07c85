//! Headers and additional header segments: what parses is the same after encoding and parsing again, and the lengths that
//! keep a stream in step do not depend on whether it parses.

use iscsi::digest;
use iscsi::pdu::{Ahs, BHS_LEN, Bhs, Frame, Pdu, Request, Response};

use crate::Target;

/// One or several PDUs, as a connection without digests would bring them.
pub const TARGET: Target = Target {
    name: "pdu",
    about: "iSCSI headers, both directions, with additional header segments",
    input_bytes_max: 4096,
    run,
};

fn run(input: &[u8]) {
    let mut rest = input;
    while let Some((bhs, after)) = rest.split_first_chunk::<BHS_LEN>() {
        let frame = Frame::of(bhs);
        header(bhs, frame);
        let ahs = after.get(..frame.ahs_len).unwrap_or(after);
        segments(ahs);
        if ahs.len() == frame.ahs_len {
            assert_eq!(digest::header(bhs, ahs), digest::data([&bhs[..], ahs]), "split or not");
        }
        rest = rest.get(frame.wire_len(false, false)..).unwrap_or_default();
    }
}

fn header(bhs: &Bhs, frame: Frame) {
    assert!(frame.wire_len(false, false) <= frame.wire_len(true, true));
    assert_eq!(frame.wire_len(true, true) % 4, 0);
    let parsed = Pdu::parse(bhs);
    match parsed {
        Ok(Pdu::Request(p)) => {
            assert_eq!(Request::parse(bhs), Ok(p));
            assert!(Response::parse(bhs).is_err());
        }
        Ok(Pdu::Response(p)) => {
            assert_eq!(Response::parse(bhs), Ok(p));
            assert!(Request::parse(bhs).is_err());
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(Request::parse(bhs).is_err() && Response::parse(bhs).is_err());
            return;
        }
    }
    if let Ok(pdu) = parsed {
        let mut again = [0xa5; BHS_LEN];
        pdu.encode(&mut again);
        assert_eq!(Pdu::parse(&again), Ok(pdu));
        assert_eq!(Frame::of(&again), frame);
        let mut stable = [0; BHS_LEN];
        pdu.encode(&mut stable);
        assert_eq!(again, stable, "encoding writes every byte");
    }
}

fn segments(bytes: &[u8]) {
    if let Ok(ahs) = Ahs::parse(bytes) {
        let mut again = Vec::new();
        assert!(ahs.encode(&mut again).is_ok(), "{ahs:?}");
        assert_eq!(again.len(), ahs.encoded_len());
        assert!(again.len() <= bytes.len().next_multiple_of(4));
        assert_eq!(Ahs::parse(&again), Ok(ahs));
    }
}
