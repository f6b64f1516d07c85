//! Whatever comes from the network: nothing panics, nothing is held without bound, and in the end nothing is left.

#![allow(clippy::unwrap_used)]

mod common;
use common::*;

use iscsi::pdu::*;
use proptest::prelude::*;
use target_session::*;

/// The most that one connection can make the machine hold here: a staging buffer, a login's text, one PDU, and the
/// unsolicited data of the few commands that a test sends.
const HELD_MAX: usize = 8 << 20;

/// Plays an engine that finishes whatever it is asked for.
fn serve(w: &mut World) {
    for _ in 0..64 {
        let actions = std::mem::take(&mut w.actions);
        if actions.is_empty() {
            return;
        }
        for action in actions {
            match action {
                Action::Execute { task, command, .. } => {
                    let n = (command.expected_in as usize).min(10_000);
                    w.good(task, &pattern(n), n as u64);
                }
                Action::AbortTask { task } => w.m.task_aborted(cx!(w), task),
                Action::Manage { tmf, .. } => {
                    w.m.tmf_done(cx!(w), tmf, target_session::TmfResponse::Complete);
                }
                _ => {}
            }
        }
        w.turn();
    }
    panic!("the engine never comes to rest");
}

fn attack(bytes: &[u8], chunk: usize, logged_in_first: bool, level: &str) {
    let mut w = World::new();
    w.dir.0.borrow_mut().params.session.error_recovery_level = 2;
    let mut i = Ini::new(&mut w);
    if logged_in_first {
        i.login(&mut w, &[("ErrorRecoveryLevel", level), ("InitialR2T", "No"), ("ImmediateData", "Yes")]);
    }
    w.rx_chunk = chunk.max(1);
    for piece in bytes.chunks(5000) {
        if !w.closed(i.conn) {
            w.send(i.conn, piece);
            serve(&mut w);
        }
        assert!(w.m.held_bytes() < HELD_MAX, "{} bytes are held", w.m.held_bytes());
    }
    // Another initiator is served as ever.
    let mut other = Ini::new(&mut w);
    w.rx_chunk = usize::MAX;
    other.isid[5] = 0xee;
    other.login(&mut w, &[]);
    let read = other.read10(512);
    other.start(&mut w, read);
    serve(&mut w);
    assert_eq!(other.recv_data(&mut w).0.len(), 512);
    for conn in [i.conn, other.conn] {
        w.m.conn_failed(cx!(w), conn);
    }
    w.turn();
    serve(&mut w);
    w.wait(3600);
    serve(&mut w);
    w.wait(3600);
    w.assert_empty();
    assert_eq!(w.m.held_bytes(), 0);
    assert_eq!(w.m.next_deadline(), base::Mono::NEVER);
}

/// A stream as an initiator could send it after its login.
fn valid_stream() -> Vec<u8> {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    i.login(&mut w, &[("InitialR2T", "No")]);
    let mut out = vec![];
    let mut put = |r: Request, data: &[u8]| out.extend(wire(&r, &[], data, false, false));
    put(Request::ScsiCommand(i.read10(512)), &[]);
    put(Request::ScsiCommand(i.write10(2000)), &pattern(2000));
    let mut write = i.write10(3000);
    write.final_ = false;
    put(Request::ScsiCommand(write), &pattern(1000));
    let data = |sn: u32, at: u32, final_| {
        Request::DataOut(DataOut {
            final_,
            lun: 0,
            itt: write.itt,
            ttt: Tag::RESERVED,
            exp_stat_sn: iscsi::serial::Serial(2),
            data_sn: iscsi::serial::Serial(sn),
            offset: at,
            data_len: 0,
        })
    };
    put(data(0, 1000, false), &pattern(1000));
    put(data(1, 2000, true), &pattern(1000));
    put(Request::NopOut(i.nop(77)), b"ping");
    let text_request = TextRequest {
        immediate: true,
        final_: true,
        continues: false,
        lun: 0,
        itt: Tag(50),
        ttt: Tag::RESERVED,
        cmd_sn: iscsi::serial::Serial(i.cmd_sn),
        exp_stat_sn: iscsi::serial::Serial(2),
        data_len: 0,
    };
    put(Request::Text(text_request), &text(&[("SendTargets", "")]));
    for (n, function) in iscsi::pdu::TmfFunction::NAMED.iter().enumerate() {
        put(
            Request::Tmf(TmfRequest {
                immediate: true,
                function: *function,
                lun: 1 << 48,
                itt: Tag(60 + n as u32),
                ref_itt: write.itt,
                cmd_sn: iscsi::serial::Serial(i.cmd_sn),
                exp_stat_sn: iscsi::serial::Serial(2),
                ref_cmd_sn: write.cmd_sn,
                exp_data_sn: iscsi::serial::Serial(0),
            }),
            &[],
        );
        if *function == iscsi::pdu::TmfFunction::TargetWarmReset {
            break;
        }
    }
    for kind in [SnackType::DataOrR2t, SnackType::Status, SnackType::DataAck, SnackType::RData] {
        put(
            Request::Snack(Snack {
                kind,
                lun: 0,
                itt: Tag(1),
                ttt: Tag::RESERVED,
                exp_stat_sn: iscsi::serial::Serial(2),
                begin: iscsi::serial::Serial(0),
                run_len: 0,
            }),
            &[],
        );
    }
    put(Request::ScsiCommand(i.read10(9000)), &[]);
    put(
        Request::Logout(LogoutRequest {
            immediate: false,
            reason: LogoutReason::CloseSession,
            itt: Tag(99),
            cid: 0,
            cmd_sn: iscsi::serial::Serial(i.cmd_sn),
            exp_stat_sn: iscsi::serial::Serial(2),
        }),
        &[],
    );
    out
}

#[test]
fn the_valid_stream_is_valid() {
    let (mut w, i, s) = logged_in(&[("InitialR2T", "No")]);
    let all = valid_stream();
    // Without the SNACKs, which level 0 does not have.
    let mut at = 0;
    let mut kept = vec![];
    while at < all.len() {
        let bhs: Bhs = all[at..at + 48].try_into().unwrap();
        let len = Frame::of(&bhs).wire_len(false, false);
        if bhs[0] & 0x3f != Opcode::Snack as u8 {
            kept.extend_from_slice(&all[at..at + len]);
        }
        at += len;
    }
    w.send(i.conn, &kept);
    let stats = w.m.session(s).unwrap().stats;
    assert_eq!((stats.commands, stats.format_errors, stats.bytes_in), (4, 0, 5000));
    serve(&mut w);
    assert!(w.closed(i.conn));
    w.assert_empty();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..4000),
        chunk in 1usize..5000,
        first in any::<bool>(),
    ) {
        attack(&bytes, chunk, first, "2");
    }

    #[test]
    fn headers_with_lengths_that_fit(
        pdus in prop::collection::vec((any::<[u8; 48]>(), 0usize..18, 0u8..3, 0usize..600), 1..30),
        chunk in 1usize..5000,
        level in 0u8..3,
    ) {
        let mut bytes = vec![];
        for (mut bhs, opcode, ahs, len) in pdus {
            bhs[0] = (bhs[0] & 0x40) | Opcode::ALL[opcode % 8] as u8;
            bhs[1] |= 0x80;
            bhs[4] = if opcode == 1 { ahs } else { 0 };
            set_data_len(&mut bhs, len as u32);
            // Small tags and numbers near the right ones get further.
            bhs[16..19].fill(0);
            bhs[24..27].fill(0);
            bhs[27] = 100 + bhs[27] % 8;
            bytes.extend_from_slice(&bhs);
            bytes.resize(bytes.len() + usize::from(bhs[4]) * 4 + len + padding(len as u32), 7);
        }
        attack(&bytes, chunk, true, &level.to_string());
    }

    #[test]
    fn mutated_streams(
        flips in prop::collection::vec((0usize..12_000, any::<u8>()), 1..8),
        cut in 0usize..12_000,
        chunk in 1usize..5000,
        level in 0u8..3,
    ) {
        let mut bytes = valid_stream();
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let cut = cut % bytes.len();
        if cut.is_multiple_of(3) {
            bytes.drain(cut..(cut + 48).min(bytes.len()));
        }
        attack(&bytes, chunk, true, &level.to_string());
    }

    #[test]
    fn mutated_logins(
        flips in prop::collection::vec((0usize..400, any::<u8>()), 0..6),
        stage in 0u8..16,
        chunk in 1usize..100,
    ) {
        let mut w = World::new();
        let i = Ini::new(&mut w);
        let mut data = text(&NAMES);
        data.extend(text(&[("AuthMethod", "CHAP,None"), ("HeaderDigest", "CRC32C,None"), ("MaxConnections", "3")]));
        let pdu = i.login_request(LoginStage::Operational, Some(LoginStage::FullFeature), false);
        let mut bytes = wire(&Request::Login(pdu), &[], &data, false, false);
        bytes[1] = (bytes[1] & 0xf0) | stage;
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        let twice = [bytes.clone(), bytes].concat();
        attack(&twice, chunk, false, "0");
    }
}

#[test]
fn commands_that_promise_everything_and_send_nothing() {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    i.login(&mut w, &[("InitialR2T", "No"), ("FirstBurstLength", "262144")]);
    for _ in 0..128 {
        let mut write = i.write10(16 << 20);
        write.final_ = false;
        i.send(&mut w, &Request::ScsiCommand(write), &[1]);
    }
    assert!(w.m.held_bytes() <= 36 << 20, "{} bytes are held", w.m.held_bytes());
    w.m.conn_failed(cx!(w), i.conn);
    w.turn();
    assert_eq!(w.m.held_bytes(), 0);
}
