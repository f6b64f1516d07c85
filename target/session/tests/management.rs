//! Task management, NOPs, asynchronous messages, and the ends of sessions.

#![allow(clippy::unwrap_used)]

mod common;
use common::*;

use iscsi::pdu::TmfFunction as F;
use iscsi::pdu::TmfResponse as R;
use iscsi::pdu::*;
use iscsi::serial::Serial;
use target_session::{Action, AsyncEvent, CloseHow, Cx, MachineConfig, TaskId, TmfFunction, TmfResponse};

fn aborts(w: &mut World) -> Vec<TaskId> {
    let mut tasks = vec![];
    while let Some(Action::AbortTask { task }) = w.action(|a| matches!(a, Action::AbortTask { .. })) {
        tasks.push(task);
    }
    tasks
}

fn manage(w: &mut World) -> (target_session::TmfId, u64, TmfFunction) {
    match w.action(|a| matches!(a, Action::Manage { .. })) {
        Some(Action::Manage { tmf, lun, function, .. }) => (tmf, lun, function),
        _ => panic!("nothing to manage"),
    }
}

#[test]
fn abort_task() {
    let (mut w, mut i, s) = logged_in(&[("ImmediateData", "No")]);
    let read = i.read10(512);
    let itt = i.start(&mut w, read);
    let (task, ..) = w.executed();
    let tmf = i.tmf(&mut w, F::AbortTask, itt, read.cmd_sn.0);
    assert!(i.silent(&w), "the task still runs");
    assert_eq!(aborts(&mut w), [task]);
    w.m.task_aborted(cx!(w), task);
    w.turn();
    assert_eq!(i.recv_tmf(&mut w), (tmf, R::Complete));
    assert!(i.silent(&w), "no response for the aborted command");
    // One that still gathers data is gone at once; its data is dropped.
    let write = i.write10(512);
    i.start(&mut w, write);
    let r = i.recv_r2t(&mut w);
    i.tmf(&mut w, F::AbortTask, write.itt, write.cmd_sn.0);
    assert_eq!(i.recv_tmf(&mut w).1, R::Complete);
    i.data_out(&mut w, write.itt, r.ttt, 0, 0, &pattern(512), true);
    assert!(i.silent(&w) && w.executes() == 0);
    // One that ended meanwhile; one that never was; one that is still to come.
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    i.tmf(&mut w, F::AbortTask, read.itt, read.cmd_sn.0);
    w.good(task, &pattern(512), 512);
    assert_eq!(i.recv_tmf(&mut w).1, R::Complete, "the reply is thrown away");
    i.tmf(&mut w, F::AbortTask, Tag(4711), read.cmd_sn.0);
    assert_eq!(i.recv_tmf(&mut w).1, R::NoTask);
    let lost = i.read10(512);
    i.tmf(&mut w, F::AbortTask, lost.itt, lost.cmd_sn.0);
    assert_eq!(i.recv_tmf(&mut w).1, R::Complete);
    i.start(&mut w, lost);
    assert_eq!(w.executes(), 0, "it comes too late");
    let read = i.read10(512);
    i.start(&mut w, read);
    assert_eq!(w.executes(), 1, "its number was counted");
    assert_eq!(w.m.session(s).unwrap().tasks, 1);
    assert_eq!(i.max_cmd_sn.wrapping_sub(i.exp_cmd_sn), 127);
}

#[test]
fn task_sets_and_resets() {
    for (f, function, all) in [
        (F::AbortTaskSet, TmfFunction::AbortTaskSet, false),
        (F::ClearTaskSet, TmfFunction::ClearTaskSet, false),
        (F::LogicalUnitReset, TmfFunction::LogicalUnitReset, false),
        (F::TargetWarmReset, TmfFunction::TargetWarmReset, true),
        (F::TargetColdReset, TmfFunction::TargetColdReset, true),
    ] {
        let (mut w, mut i, _) = logged_in(&[("ImmediateData", "No")]);
        let read = i.read10(512);
        i.start(&mut w, read);
        let (running, ..) = w.executed();
        let mut elsewhere = i.read10(512);
        elsewhere.lun = 2 << 48;
        i.start(&mut w, elsewhere);
        let (other, ..) = w.executed();
        let write = i.write10(512);
        i.start(&mut w, write);
        i.recv_r2t(&mut w);
        i.tmf(&mut w, f, Tag::RESERVED, 0);
        let gone = aborts(&mut w);
        assert_eq!(gone, if all { vec![running, other] } else { vec![running] });
        let (tmf, lun, asked) = manage(&mut w);
        assert_eq!((lun, asked), (if all { 0 } else { 1 << 48 }, function));
        for task in gone {
            assert!(i.silent(&w));
            w.m.task_aborted(cx!(w), task);
        }
        w.turn();
        assert!(i.silent(&w), "the engine is not done");
        w.m.tmf_done(cx!(w), tmf, TmfResponse::Complete);
        w.turn();
        assert_eq!(i.recv_tmf(&mut w).1, R::Complete);
        assert_eq!(w.closed(i.conn), f == F::TargetColdReset);
        assert_eq!(w.session_down(), f == F::TargetColdReset);
    }
}

#[test]
fn functions_that_are_refused() {
    let (mut w, mut i, _) = logged_in(&[]);
    for f in [F::ClearAca, F::QueryTask, F::Other(99)] {
        i.tmf(&mut w, f, Tag::RESERVED, 0);
        assert_eq!(i.recv_tmf(&mut w).1, R::NotSupported);
    }
    i.tmf(&mut w, F::TaskReassign, Tag(1), 0);
    assert_eq!(i.recv_tmf(&mut w).1, R::ReassignNotSupported);
    i.tmf(&mut w, F::LogicalUnitReset, Tag::RESERVED, 0);
    let (tmf, ..) = manage(&mut w);
    w.m.tmf_done(cx!(w), tmf, TmfResponse::LunDoesNotExist);
    w.turn();
    assert_eq!(i.recv_tmf(&mut w).1, R::NoLun);
    // They are bounded.
    for _ in 0..16 {
        i.tmf(&mut w, F::LogicalUnitReset, Tag::RESERVED, 0);
    }
    assert!(i.silent(&w));
    i.tmf(&mut w, F::LogicalUnitReset, Tag::RESERVED, 0);
    let Response::Reject(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!(p.reason, RejectReason::ImmediateCommandReject);
}

#[test]
fn a_reset_waits_for_commands_that_were_sent_before_it() {
    let (mut w, mut i, _) = logged_in(&[("MaxConnections", "2")]);
    let mut j = Ini::new(&mut w);
    (j.tsih, j.cid, j.cmd_sn) = (i.tsih, 1, i.cmd_sn);
    j.login(&mut w, &[]);
    let late = i.read10(512);
    j.cmd_sn = i.cmd_sn;
    j.tmf(&mut w, F::LogicalUnitReset, Tag::RESERVED, 0);
    assert!(!w.actions.iter().any(|a| matches!(a, Action::Manage { .. })));
    i.start(&mut w, late);
    let (task, ..) = w.executed();
    assert_eq!(aborts(&mut w), [task]);
    let (tmf, ..) = manage(&mut w);
    w.m.tmf_done(cx!(w), tmf, TmfResponse::Complete);
    w.m.task_aborted(cx!(w), task);
    w.turn();
    assert_eq!(j.recv_tmf(&mut w).1, R::Complete);
}

#[test]
fn aborts_for_other_nexuses() {
    let (mut w, mut i, s) = logged_in(&[("ImmediateData", "No"), ("TaskReporting", "FastAbort")]);
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    let own = i.read10(512);
    i.start(&mut w, own);
    let (asks, ..) = w.executed();
    let write = i.write10(512);
    i.start(&mut w, write);
    i.recv_r2t(&mut w);
    assert_eq!(w.m.abort_tasks(cx!(w), s, Some(1 << 48), Some(asks), 5), 2);
    w.turn();
    assert_eq!(aborts(&mut w), [task]);
    let over = |w: &mut World| w.action(|a| matches!(a, Action::TasksAborted { token: 5 })).is_some();
    assert!(!over(&mut w));
    w.m.task_aborted(cx!(w), task);
    w.turn();
    assert!(over(&mut w) && w.m.session(s).unwrap().tasks == 1);
    assert_eq!(w.m.abort_tasks(cx!(w), s, Some(7 << 48), None, 5), 0);
    w.turn();
    assert!(over(&mut w));
    assert_eq!(w.m.abort_tasks(cx!(w), target_session::SessionId(99), None, None, 5), 0);
    w.turn();
    assert!(over(&mut w));
}

#[test]
fn nops() {
    let mut w = World::new();
    w.dir.0.borrow_mut().nop = (5, 2);
    let mut i = Ini::new(&mut w);
    i.login(&mut w, &[]);
    let mut ping = i.nop(9);
    ping.immediate = false;
    i.cmd_sn += 1;
    i.send(&mut w, &Request::NopOut(ping), b"are you there");
    let (Response::NopIn(p), data) = i.recv(&mut w) else { panic!() };
    assert_eq!((p.itt, p.ttt, &data[..]), (Tag(9), Tag::RESERVED, &b"are you there"[..]));
    assert_eq!(i.exp_cmd_sn, i.cmd_sn);
    // The target asks after 5 seconds of silence; answers keep the connection.
    for _ in 0..3 {
        w.wait(5);
        let (Response::NopIn(p), _) = i.recv(&mut w) else { panic!() };
        assert!(p.itt.is_reserved() && !p.ttt.is_reserved());
        let mut answer = i.nop(Tag::RESERVED.0);
        answer.ttt = p.ttt;
        i.send(&mut w, &Request::NopOut(answer), &[]);
        assert!(i.silent(&w));
    }
    w.wait(5);
    w.wait(5);
    assert!(!w.closed(i.conn));
    w.wait(5);
    assert!(w.closed(i.conn) && w.session_down());
    w.assert_empty();
    // Without an interval an idle connection needs no timer.
    let (w, ..) = logged_in(&[]);
    assert!(w.m.next_deadline() < w.now + std::time::Duration::from_secs(60), "that of the login, once");
}

#[test]
fn sessions_closed_by_management() {
    let (mut w, mut i, s) = logged_in(&[]);
    w.m.close_session(cx!(w), s, CloseHow::AsyncLogout { seconds: 10 });
    w.turn();
    let Response::Async(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!((p.event, p.parameter3), (iscsi::pdu::AsyncEvent::LogoutRequest, 10));
    w.wait(9);
    assert!(!w.closed(i.conn));
    w.wait(2);
    assert!(w.closed(i.conn) && w.session_down());
    let (mut w, mut i, s) = logged_in(&[]);
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    w.m.close_session(cx!(w), s, CloseHow::DropNow);
    w.turn();
    let Response::Async(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!(p.event, iscsi::pdu::AsyncEvent::SessionDrop);
    assert!(w.closed(i.conn) && !w.session_down(), "its task still runs");
    assert_eq!(aborts(&mut w), [task]);
    w.m.task_aborted(cx!(w), task);
    w.turn();
    assert!(w.session_down());
    w.assert_empty();
    let (mut w, mut i, _) = logged_in(&[]);
    w.m.drop_connection(cx!(w), i.conn);
    w.turn();
    let Response::Async(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!(p.event, iscsi::pdu::AsyncEvent::ConnectionDrop);
    assert!(w.closed(i.conn) && w.session_down());
}

#[test]
fn scsi_events() {
    let (mut w, mut i, s) = logged_in(&[]);
    w.m.send_async(cx!(w), s, AsyncEvent::Scsi { lun: 1 << 48, sense: vec![0x70; 18] });
    w.turn();
    let (Response::Async(p), data) = i.recv(&mut w) else { panic!() };
    assert_eq!((p.lun, &data[..2], data.len()), (1 << 48, &[0, 18][..], 20));
}

#[test]
fn logout_with_running_tasks() {
    let (mut w, mut i, _) = logged_in(&[]);
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    i.logout(&mut w, LogoutReason::CloseSession, 0);
    assert!(i.silent(&w));
    w.m.task_aborted(cx!(w), task);
    w.turn();
    let Response::Logout(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!(p.response, LogoutResponse::Success);
    assert!(w.session_down() && w.closed(i.conn));
    w.assert_empty();
}

#[test]
fn unknown_and_malformed_pdus() {
    let (mut w, mut i, s) = logged_in(&[]);
    let mut bytes = [0u8; 48];
    bytes[0] = 0x1c;
    w.send(i.conn, &bytes);
    let (Response::Reject(p), header) = i.recv(&mut w) else { panic!() };
    assert_eq!((p.reason, &header[..]), (RejectReason::CommandNotSupported, &bytes[..]));
    assert_eq!(w.m.session(s).unwrap().stats.format_errors, 1);
    // The wrong direction; a login; a SNACK at level 0; a format error.
    for bytes in [[0x21, 0x80], [0x43, 0x87], [0x10, 0x80], [0x01, 0x87]] {
        let (mut w, mut i, _) = logged_in(&[]);
        let mut bhs = [0u8; 48];
        bhs[..2].copy_from_slice(&bytes);
        w.send(i.conn, &bhs);
        assert!(matches!(i.recv(&mut w).0, Response::Reject(_)));
        assert!(w.closed(i.conn) && w.session_down());
        w.assert_empty();
    }
    // More data than was declared.
    let (mut w, mut i, _) = logged_in(&[]);
    let mut ping = i.nop(1);
    ping.cmd_sn = Serial(i.cmd_sn);
    i.send(&mut w, &Request::NopOut(ping), &pattern(300_000));
    assert!(w.closed(i.conn));
}

#[test]
fn idle_connections_hold_little() {
    let mut w = World::with(Dir::new(), MachineConfig::default());
    let mut all = vec![];
    for n in 0..50u8 {
        let mut i = Ini::new(&mut w);
        i.isid[5] = n;
        i.login(&mut w, &[]);
        // A burst of large writes, then quiet.
        for _ in 0..4 {
            let write = i.write10(200_000);
            i.send(&mut w, &Request::ScsiCommand(write), &pattern(60_000));
            let r = i.recv_r2t(&mut w);
            i.data_out(&mut w, write.itt, r.ttt, 0, 60_000, &pattern(140_000), true);
            let (task, ..) = w.executed();
            w.good(task, &[], 200_000);
            i.recv_scsi(&mut w);
        }
        for _ in 0..5 {
            let ping = i.nop(Tag::RESERVED.0);
            i.send(&mut w, &Request::NopOut(ping), &[]);
        }
        all.push(i);
    }
    for i in &all {
        let batch = w.m.take_rx(cx!(w), i.conn).unwrap();
        assert_eq!(batch.staging.capacity(), 4096);
        w.m.rx_done(cx!(w), i.conn, batch, 0);
    }
    w.turn();
    w.assert_empty();
}
