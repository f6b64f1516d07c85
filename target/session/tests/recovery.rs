//! Error recovery levels 1 and 2.

#![allow(clippy::unwrap_used)]

mod common;
use common::*;

use iscsi::pdu::TmfResponse as R;
use iscsi::pdu::*;
use iscsi::serial::Serial;
use target_session::*;

fn at_level(level: &str) -> (World, Ini, SessionId) {
    let mut w = World::new();
    w.dir.0.borrow_mut().params.session.error_recovery_level = 2;
    let mut i = Ini::new(&mut w);
    let extra = [
        ("ErrorRecoveryLevel", level),
        ("MaxConnections", "4"),
        ("DataDigest", "CRC32C"),
        ("ImmediateData", "No"),
        ("DefaultTime2Retain", "20"),
        ("DefaultTime2Wait", "2"),
        ("MaxBurstLength", "16384"),
    ];
    i.login(&mut w, &extra);
    let s = w.session_up();
    assert_eq!(w.m.session(s).unwrap().params.error_recovery_level.to_string(), level);
    (w, i, s)
}

fn snack(i: &Ini, kind: SnackType, itt: Tag, begin: u32, run_len: u32) -> Request {
    Request::Snack(Snack {
        kind,
        lun: 0,
        itt,
        ttt: Tag::RESERVED,
        exp_stat_sn: Serial(i.exp_stat_sn),
        begin: Serial(begin),
        run_len,
    })
}

fn read_done(w: &mut World, i: &mut Ini, len: usize) -> (ScsiCommand, Vec<u8>, DataIn) {
    let read = i.read10(len as u32);
    i.start(w, read);
    let (task, ..) = w.executed();
    w.good(task, &pattern(len), len as u64);
    let mut last = None;
    let mut all = vec![];
    while let Some((Response::DataIn(p), data)) = i.try_recv(w) {
        all.extend(data);
        last = Some(p);
    }
    (read, all, last.unwrap())
}

#[test]
fn data_and_status_again() {
    let (mut w, mut i, _) = at_level("1");
    let before = i.exp_stat_sn;
    let (read, all, last) = read_done(&mut w, &mut i, 50_000);
    assert!(all == pattern(50_000));
    assert_eq!(last.sn.stat_sn.0, before);
    let seen = i.exp_stat_sn;
    // Not acknowledged: ExpStatSN stays.
    i.exp_stat_sn = before;
    let ask = snack(&i, SnackType::DataOrR2t, read.itt, 2, 3);
    i.send(&mut w, &ask, &[]);
    for n in 2..5u32 {
        let (Response::DataIn(p), data) = i.recv(&mut w) else { panic!() };
        // Bursts of 16384 in segments of 8192.
        assert_eq!((p.data_sn.0, p.offset, p.status), (n, n * 8192, None));
        assert!(data == pattern(50_000)[p.offset as usize..][..data.len()]);
    }
    let ask = snack(&i, SnackType::Status, Tag::RESERVED, 0, 0);
    i.send(&mut w, &ask, &[]);
    let (Response::DataIn(p), data) = i.recv(&mut w) else { panic!() };
    assert_eq!((p.data_sn, p.status, p.sn.stat_sn.0), (last.data_sn, Some(0), before));
    assert!(data == pattern(50_000)[p.offset as usize..]);
    // Numbers that never were.
    for ask in [
        snack(&i, SnackType::Status, Tag::RESERVED, seen + 5, 1),
        snack(&i, SnackType::DataOrR2t, read.itt, 0, 100),
        snack(&i, SnackType::DataOrR2t, Tag(4711), 0, 1),
        snack(&i, SnackType::RData, read.itt, 0, 0),
    ] {
        i.exp_stat_sn = 0;
        let mut ask = ask;
        if let Request::Snack(p) = &mut ask {
            p.exp_stat_sn = Serial(before);
        }
        i.send(&mut w, &ask, &[]);
        let Response::Reject(p) = i.recv(&mut w).0 else { panic!() };
        assert_eq!(p.reason, RejectReason::SnackReject);
    }
    // Once acknowledged it is gone.
    i.exp_stat_sn = seen;
    let mut ping = i.nop(Tag::RESERVED.0);
    ping.exp_stat_sn = Serial(seen);
    i.send(&mut w, &Request::NopOut(ping), &[]);
    i.exp_stat_sn = 0;
    let ask = Request::Snack(Snack {
        kind: SnackType::DataOrR2t,
        lun: 0,
        itt: read.itt,
        ttt: Tag::RESERVED,
        exp_stat_sn: Serial(seen),
        begin: Serial(0),
        run_len: 1,
    });
    i.send(&mut w, &ask, &[]);
    assert!(matches!(i.recv(&mut w).0, Response::Reject(_)));
}

#[test]
fn damaged_data_is_asked_for_again() {
    let (mut w, mut i, s) = at_level("1");
    let data = pattern(12_000);
    let write = i.write10(12_000);
    i.start(&mut w, write);
    let r = i.recv_r2t(&mut w);
    i.data_out(&mut w, write.itt, r.ttt, 0, 0, &data[..4000], false);
    let damaged = Request::DataOut(DataOut {
        final_: true,
        lun: 1 << 48,
        itt: write.itt,
        ttt: r.ttt,
        exp_stat_sn: Serial(i.exp_stat_sn),
        data_sn: Serial(1),
        offset: 4000,
        data_len: 0,
    });
    let mut bytes = wire(&damaged, &[], &data[4000..], false, true);
    bytes[100] ^= 1;
    w.send(i.conn, &bytes);
    let (Response::Reject(p), header) = i.recv(&mut w) else { panic!() };
    assert_eq!((p.reason, &header[..]), (RejectReason::DataDigestError, &bytes[..48]));
    let r = i.recv_r2t(&mut w);
    assert_eq!((r.r2t_sn.0, r.offset, r.desired_len), (1, 4000, 8000));
    // An R2T that is lost is sent again on demand, and what stays away is asked for again after a while.
    let ask = snack(&i, SnackType::DataOrR2t, write.itt, 1, 1);
    i.send(&mut w, &ask, &[]);
    assert_eq!(i.recv_r2t(&mut w), r);
    i.data_out(&mut w, write.itt, r.ttt, 0, 4000, &data[4000..6000], false);
    w.wait(6);
    let r = i.recv_r2t(&mut w);
    assert_eq!((r.offset, r.desired_len), (6000, 6000));
    i.data_out(&mut w, write.itt, r.ttt, 0, 6000, &data[6000..], true);
    let (_, _, command) = w.executed();
    assert!(bytes_of(&command) == data);
    assert_eq!(w.m.session(s).unwrap().stats.digest_errors, 1);
}

#[test]
fn damaged_data_fails_the_command_at_level_0() {
    let (mut w, mut i, _) = logged_in(&[("DataDigest", "CRC32C"), ("ImmediateData", "No")]);
    let write = i.write10(512);
    i.start(&mut w, write);
    let r = i.recv_r2t(&mut w);
    let pdu = Request::DataOut(DataOut {
        final_: true,
        lun: 1 << 48,
        itt: write.itt,
        ttt: r.ttt,
        exp_stat_sn: Serial(i.exp_stat_sn),
        data_sn: Serial(0),
        offset: 0,
        data_len: 0,
    });
    let mut bytes = wire(&pdu, &[], &pattern(512), false, true);
    bytes[60] ^= 0x80;
    w.send(i.conn, &bytes);
    assert!(matches!(i.recv(&mut w).0, Response::Reject(_)));
    let (p, data) = i.recv_scsi(&mut w);
    assert_eq!((p.status, data[14], data[15]), (2, 0x47, 0x05));
}

fn second(w: &mut World, i: &Ini, cid: u16) -> Ini {
    let mut j = Ini::new(w);
    (j.tsih, j.cid, j.cmd_sn, j.itt) = (i.tsih, cid, i.cmd_sn, i.itt);
    j.login(w, &[]);
    j
}

#[test]
fn tasks_go_on_on_another_connection() {
    let (mut w, mut i, s) = at_level("2");
    // One that runs, one whose reply is not acknowledged, one that gathers data.
    let running = i.read10(512);
    i.start(&mut w, running);
    let (task, ..) = w.executed();
    let exp = i.exp_stat_sn;
    let (read, ..) = read_done(&mut w, &mut i, 20_000);
    i.exp_stat_sn = exp;
    let data = pattern(5000);
    let write = i.write10(5000);
    i.start(&mut w, write);
    i.recv_r2t(&mut w);
    w.m.conn_failed(cx!(w), i.conn);
    w.turn();
    assert!(w.closed(i.conn) && !w.session_down(), "the session waits");
    // The running one ends while there is no connection.
    w.good(task, &pattern(512), 512);
    let mut j = second(&mut w, &i, 1);
    j.logout(&mut w, LogoutReason::RemoveForRecovery, 0);
    let Response::Logout(p) = j.recv(&mut w).0 else { panic!() };
    assert_eq!(p.response, LogoutResponse::Success);
    let answer = |j: &mut Ini, w: &mut World, itt| {
        j.tmf(w, iscsi::pdu::TmfFunction::TaskReassign, itt, 0);
        j.recv_tmf(w).1
    };
    assert_eq!(answer(&mut j, &mut w, running.itt), R::Complete);
    assert!(j.recv_data(&mut w).0 == pattern(512));
    assert_eq!(answer(&mut j, &mut w, read.itt), R::Complete);
    assert!(j.recv_data(&mut w).0 == pattern(20_000));
    assert_eq!(answer(&mut j, &mut w, write.itt), R::Complete);
    let r = j.recv_r2t(&mut w);
    j.data_out(&mut w, write.itt, r.ttt, 0, 0, &data, true);
    let (task, _, command) = w.executed();
    assert!(bytes_of(&command) == data);
    assert_eq!(answer(&mut j, &mut w, write.itt), R::StillAllegiant);
    w.good(task, &[], 5000);
    j.recv_scsi(&mut w);
    assert_eq!(answer(&mut j, &mut w, Tag(4711)), R::NoTask);
    assert_eq!(w.m.session(s).unwrap().tasks, 0);
}

#[test]
fn a_failed_session_is_kept_for_a_while() {
    let (mut w, mut i, _) = at_level("2");
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    w.m.conn_failed(cx!(w), i.conn);
    w.turn();
    w.wait(21);
    assert!(!w.session_down());
    w.wait(2);
    assert!(w.action(|a| matches!(a, Action::AbortTask { .. })).is_some());
    w.m.task_aborted(cx!(w), task);
    w.turn();
    assert!(w.session_down());
    w.assert_empty();
}

#[test]
fn what_is_kept_is_bounded() {
    let (mut w, mut i, s) = at_level("2");
    let exp = i.exp_stat_sn;
    for _ in 0..1500 {
        // Never acknowledged.
        i.exp_stat_sn = exp;
        let read = i.read10(16_384);
        i.start(&mut w, read);
        let (task, ..) = w.executed();
        w.good(task, &pattern(16_384), 16_384);
        w.wires.get_mut(&i.conn).unwrap().inbox.clear();
    }
    assert_eq!(w.m.session(s).unwrap().stats.commands, 1500);
    assert!(w.m.held_bytes() < 10 << 20, "{} bytes held", w.m.held_bytes());
}
