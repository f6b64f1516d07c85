//! Text: sequences joined by the C bit, the values' encodings, and the negotiation of both roles.

use iscsi::address::TargetAddress;
use iscsi::discovery::parse_records;
use iscsi::name::IscsiName;
use iscsi::negotiate::{Negotiator, Role};
use iscsi::params::{Key, SessionParams, Settings};
use iscsi::pdu::LoginStage;
use iscsi::text::value::{self, Base64, Hex};
use iscsi::text::{Accumulator, Repeats, Text, TextLimits, TextWriter};

use crate::Target;

/// A byte that chooses the role and the settings; then for each data segment a byte (0x80: C; the low bits: the stage), a
/// byte of length, and its bytes.
pub const TARGET: Target = Target {
    name: "text",
    about: "key=value text, login and text negotiation of target and initiator",
    input_bytes_max: 8192,
    run,
};

const STAGES: [LoginStage; 4] =
    [LoginStage::Operational, LoginStage::Security, LoginStage::FullFeature, LoginStage::Operational];

fn run(input: &[u8]) {
    let Some((&choice, mut rest)) = input.split_first() else { return };
    let mut machine = machine(choice);
    let mut out = TextWriter::new();
    if choice & 2 != 0 {
        machine.offer(&mut out);
    }
    let repeats = if choice & 4 != 0 { Repeats::TargetRecords } else { Repeats::Refused };
    let mut accumulator = Accumulator::new(TextLimits { bytes: 4096, keys: 64 });
    let mut over = false;
    while let [flags, len, tail @ ..] = rest {
        let (segment, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        let Ok(Some(text)) = accumulator.push(segment, flags & 0x80 != 0, repeats) else { continue };
        assert!(accumulator.is_empty());
        values(&text);
        if over {
            continue;
        }
        let mut out = TextWriter::new();
        let stage = STAGES[usize::from(flags & 3)];
        match machine.receive(&text, stage, &mut out) {
            Ok(_) if stage == LoginStage::Operational => machine.offer(&mut out),
            Ok(_) => {}
            Err(error) => {
                assert!(!error.to_string().is_empty() && !error.login_status().is_success());
                over = true;
            }
        }
        answers(&out);
        agreed(&machine, over);
    }
}

fn machine(choice: u8) -> Negotiator {
    let mut settings = Settings::default();
    if choice & 8 != 0 {
        for (key, text) in [
            ("HeaderDigest", "CRC32C"),
            ("InitialR2T", "Yes"),
            ("ImmediateData", "No"),
            ("MaxBurstLength", "1024"),
            ("FirstBurstLength", "512"),
            ("DefaultTime2Wait", "9"),
            ("iSCSIProtocolLevel", "2"),
        ] {
            assert_eq!(settings.set(key, text), Ok(()));
        }
    }
    let role = if choice & 1 != 0 { Role::Initiator } else { Role::Target };
    match choice & 16 != 0 {
        true => Negotiator::joining(role, settings, SessionParams::default()),
        false => Negotiator::leading(role, settings),
    }
}

/// What this side writes is text that the other side can read.
fn answers(out: &TextWriter) {
    let text = Text::parse(out.as_bytes().to_vec(), TextLimits::NEGOTIATION, Repeats::Refused);
    assert!(text.is_ok(), "{text:?}");
    let mut other = Negotiator::leading(Role::Initiator, Settings::default());
    let mut reply = TextWriter::new();
    other.offer(&mut reply);
    if let Ok(text) = text {
        let _ = other.receive(&text, LoginStage::Operational, &mut reply);
    }
}

/// What was agreed is within the ranges of RFC 7143 13.
fn agreed(machine: &Negotiator, over: bool) {
    let (session, connection) = (machine.session(), machine.connection());
    if !over && machine.is_settled() {
        assert!(session.first_burst_len <= session.max_burst_len, "{session:?}");
    }
    assert!((1..=8).contains(&session.max_connections) && session.error_recovery_level <= 2);
    for len in
        [session.max_burst_len, session.first_burst_len, connection.max_send_len, connection.max_recv_len]
    {
        assert!((512..=0xff_ffff).contains(&len), "{session:?} {connection:?}");
    }
}

fn values(text: &Text) {
    let records = parse_records(text);
    assert!(records.map_or_else(|e| !e.to_string().is_empty(), |records| records.len() <= text.len()));
    let mut settings = Settings::default();
    for (key, value) in text.iter() {
        if let Ok(name) = IscsiName::parse(value) {
            assert_eq!(IscsiName::parse(name.as_str()).as_ref(), Ok(&name), "the normal form is stable");
        }
        if let Ok(address) = TargetAddress::parse(value) {
            assert_eq!(TargetAddress::parse(&address.to_string()), Ok(address));
        }
        if let Some(bytes) = value::binary(value, 1024) {
            assert_eq!(value::binary(&Hex(&bytes).to_string(), 1024).as_ref(), Some(&bytes));
            assert_eq!(value::binary(&Base64(&bytes).to_string(), 1024).as_ref(), Some(&bytes));
        }
        if let Some(n) = value::number(value) {
            assert_eq!(value::number(&n.to_string()), Some(n));
        }
        if let Some((low, high)) = value::number_range(value) {
            assert!(low <= high);
        }
        if settings.set(key, value).is_ok() {
            let text = Key::parse(key).and_then(|key| settings.get(key));
            assert!(text.is_some_and(|text| settings.set(key, &text).is_ok()));
        }
    }
}
