//! Management requests: bytes to requests, requests on the control state, and the state to its file and back.

use target_daemon::control::Control;
use target_daemon::control::SavedState;
use target_daemon::control::testing::FakeBackend;
use target_daemon::mgmt::{HEADER_BYTES, Request, RequestHeader};
use target_daemon::mgmt::{Mode, Op};

use crate::Target;

/// Requests, each: mode, operation, tid, LUN, flags (1 outgoing, 2 force, 4 names the driver, 8 is a controller), length of
/// the payload, payload. A mode of 255 is followed by a whole raw header.
pub const TARGET: Target = Target {
    name: "mgmt",
    about: "requests of tgtadm, and what the daemon saves",
    input_bytes_max: 8192,
    run,
};

const INSTANCE: [u8; 16] = [7; 16];
const MODES: [Mode; 8] = [
    Mode::System,
    Mode::Target,
    Mode::Device,
    Mode::Portal,
    Mode::Lld,
    Mode::Session,
    Mode::Connection,
    Mode::Account,
];
const OPS: [Op; 9] =
    [Op::New, Op::Delete, Op::Show, Op::Bind, Op::Unbind, Op::Update, Op::Stats, Op::Start, Op::Stop];

fn run(input: &[u8]) {
    let (mut control, mut backend) = (Control::new(INSTANCE), FakeBackend::default());
    let mut rest = input;
    while let [mode, op, tid, lun, flags, len, tail @ ..] = rest {
        if *mode == 255 {
            let Some((header, after)) = rest[1..].split_first_chunk::<HEADER_BYTES>() else { return };
            rest = raw(&mut control, &mut backend, header, after);
            continue;
        }
        let (payload, after) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = after;
        let mut request = Request::new(MODES[usize::from(mode % 8)], OPS[usize::from(op % 9)]);
        request.tid = if *tid == 255 { request.tid } else { i32::from(*tid) };
        request.lun = if *lun == 255 { request.lun } else { u64::from(*lun) };
        request.sid = u64::from(*lun);
        request.outgoing = flags & 1 != 0;
        request.force = flags & 2 != 0;
        if flags & 4 != 0 {
            request.lld = "iscsi".into();
        }
        if flags & 8 != 0 {
            request.device_type = 0x0c;
        }
        request.payload = String::from_utf8_lossy(payload).replace('\0', " ");
        let bytes = request.encode();
        let Some((header, text)) = bytes.split_first_chunk::<HEADER_BYTES>() else { panic!("no header") };
        let decoded = RequestHeader::decode(header).and_then(|header| header.with_payload(text));
        assert_eq!(decoded.as_ref(), Ok(&request));
        apply(&mut control, &mut backend, &request);
    }
    saved(&control);
}

fn raw<'i>(
    control: &mut Control,
    backend: &mut FakeBackend,
    header: &[u8; HEADER_BYTES],
    rest: &'i [u8],
) -> &'i [u8] {
    let Ok(header) = RequestHeader::decode(header) else { return rest };
    let (payload, after) = rest.split_at(rest.len().min(header.payload_bytes()));
    if let Ok(request) = header.with_payload(payload) {
        apply(control, backend, &request);
    }
    after
}

fn apply(control: &mut Control, backend: &mut FakeBackend, request: &Request) {
    let outcome = control.apply(request, backend);
    assert!(outcome.response.is_ok() || !outcome.changed, "a request that failed changed something");
}

/// What was accepted can be restored, and is the same then.
fn saved(control: &Control) {
    let state = control.saved();
    let json = state.to_json();
    let Ok(json) = json else { panic!("{json:?}") };
    let read = SavedState::from_json(&json);
    let Ok(read) = read else { panic!("{read:?}: {json}") };
    let (mut again, mut backend) = (Control::new(INSTANCE), FakeBackend::default());
    let restored = again.restore(&read, &mut backend);
    assert!(restored.is_ok(), "{restored:?}: {json}");
    assert_eq!(again.saved().to_json().ok(), Some(json));
}
