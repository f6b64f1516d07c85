//! Reads, writes, their data flows and residuals.

#![allow(clippy::unwrap_used)]

mod common;
use common::*;

use iscsi::pdu::*;
use scsi::{DataIn as Din, Reply, Status};
use target_session::*;

#[test]
fn read_with_status_in_the_last_data_in() {
    let (mut w, mut i, _) = logged_in(&[]);
    let read = i.read10(20_000);
    let itt = i.start(&mut w, read);
    let (task, lun, command) = w.executed();
    assert_eq!((lun, command.expected_in, command.expected_out), (1 << 48, 20_000, 0));
    assert_eq!(&command.cdb[..], &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0]);
    let data = pattern(20_000);
    w.good(task, &data, 20_000);
    let (got, last) = i.recv_data(&mut w);
    assert!(got == data);
    assert_eq!((last.itt, last.status, last.residual, last.data_sn.0), (itt, Some(0), Residual::None, 2));
    assert!(i.silent(&w));
}

#[test]
fn a_4k_read_reply_is_one_header_and_one_buffer() {
    let (mut w, mut i, _) = logged_in(&[]);
    let read = i.read10(4096);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    let data_in = Din::Bufs(std::iter::once(block::Buf::copy_of(&pattern(4096))).collect());
    w.m.task_done(cx!(w), task, Reply { status: Status::Good, sense: None, data_in, transfer_len: 4096 });
    let batch = w.m.take_tx(cx!(w), i.conn, 128, 1 << 20).unwrap();
    assert_eq!(
        batch.segments,
        [Segment::Header { start: 0, len: 48 }, Segment::Buf { index: 0, start: 0, len: 4096 }]
    );
    assert!(w.m.take_tx(cx!(w), i.conn, 128, 1 << 20).is_none(), "one send at a time");
    w.m.tx_done(cx!(w), i.conn, batch, 4144);
}

#[test]
fn long_reads_end_bursts_with_f_and_survive_short_sends() {
    let (mut w, mut i, _) = logged_in(&[("MaxBurstLength", "65536"), ("MaxRecvDataSegmentLength", "20000")]);
    w.tx_chunk = 777;
    let read = i.read10(1_000_000);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    let data = pattern(1_000_000);
    w.good(task, &data, 1_000_000);
    let mut got: Vec<u8> = vec![];
    loop {
        let (Response::DataIn(p), data) = i.recv(&mut w) else { panic!() };
        assert_eq!(p.offset as usize, got.len());
        got.extend(&data);
        assert_eq!(p.final_, got.len().is_multiple_of(65536) || got.len() == 1_000_000);
        if p.status.is_some() {
            break;
        }
    }
    assert!(got == data);
}

#[test]
fn digests_both_ways() {
    let (mut w, mut i, s) = logged_in(&[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")]);
    let write = i.write10(1001);
    i.send(&mut w, &Request::ScsiCommand(write), &pattern(1001));
    let (task, _, command) = w.executed();
    assert!(bytes_of(&command) == pattern(1001));
    w.good(task, &[], 1001);
    assert_eq!(i.recv_scsi(&mut w).0.residual, Residual::None);
    let read = i.read10(1001);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    w.good(task, &pattern(1001), 1001);
    assert!(i.recv_data(&mut w).0 == pattern(1001));
    // A header that was damaged on the way ends the connection; at level 0 the session.
    let read = i.read10(512);
    let mut bytes = wire(&Request::ScsiCommand(read), &[], &[], true, true);
    bytes[20] ^= 1;
    w.send(i.conn, &bytes);
    assert!(w.closed(i.conn) && w.session_down());
    assert!(w.m.session(s).is_none());
}

#[test]
fn immediate_unsolicited_and_solicited_data() {
    let (mut w, mut i, s) = logged_in(&[
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("FirstBurstLength", "4096"),
        ("MaxBurstLength", "8192"),
        ("MaxOutstandingR2T", "2"),
    ]);
    let data = pattern(40_000);
    let mut write = i.write10(40_000);
    write.final_ = false;
    i.send(&mut w, &Request::ScsiCommand(write), &data[..1024]);
    assert!(i.silent(&w), "no R2T while unsolicited data is coming");
    i.data_out(&mut w, write.itt, Tag::RESERVED, 0, 1024, &data[1024..3000], false);
    i.data_out(&mut w, write.itt, Tag::RESERVED, 1, 3000, &data[3000..4096], true);
    let mut at = 4096;
    let mut outstanding = std::collections::VecDeque::new();
    let mut sn = 0;
    while at < 40_000 {
        while let Some((Response::R2t(r), _)) = i.try_recv(&mut w) {
            assert_eq!(r.r2t_sn.0, sn);
            sn += 1;
            outstanding.push_back(r);
        }
        assert!(outstanding.len() <= 2);
        let r = outstanding.pop_front().unwrap();
        assert_eq!(r.offset as usize, at);
        let end = at + r.desired_len as usize;
        let middle = at + 1000;
        i.data_out(&mut w, write.itt, r.ttt, 0, at as u32, &data[at..middle], false);
        i.data_out(&mut w, write.itt, r.ttt, 1, middle as u32, &data[middle..end], true);
        at = end;
    }
    let (task, _, command) = w.executed();
    assert!(bytes_of(&command) == data);
    w.good(task, &[], 40_000);
    let (p, _) = i.recv_scsi(&mut w);
    assert_eq!((p.itt, p.status, p.residual), (write.itt, 0, Residual::None));
    let stats = w.m.session(s).unwrap().stats;
    assert_eq!((stats.commands, stats.bytes_in, stats.format_errors), (1, 40_000, 0));
}

#[test]
fn large_writes_go_straight_into_their_buffers() {
    let (mut w, mut i, _) = logged_in(&[("MaxBurstLength", "16776704")]);
    let len = 5_000_000;
    let data = pattern(len);
    let write = i.write10(len as u32);
    i.start(&mut w, write);
    let r = i.recv_r2t(&mut w);
    assert_eq!(r.desired_len as usize, len);
    w.rx_chunk = 100_000;
    for (n, piece) in data.chunks(262_144).enumerate() {
        let at = n * 262_144;
        i.data_out(&mut w, write.itt, r.ttt, n as u32, at as u32, piece, at + piece.len() == len);
    }
    let (task, _, command) = w.executed();
    assert!(bytes_of(&command) == data);
    assert!(w.used_direct > 30, "{} receives in place", w.used_direct);
    w.good(task, &[], len as u64);
    assert_eq!(i.recv_scsi(&mut w).0.status, 0);
}

#[test]
fn byte_by_byte() {
    let mut w = World::new();
    w.rx_chunk = 1;
    w.tx_chunk = 1;
    let mut i = Ini::new(&mut w);
    i.login(&mut w, &[("DataDigest", "CRC32C"), ("HeaderDigest", "CRC32C")]);
    for n in [1, 511, 4096, 5000] {
        let write = i.write10(n);
        i.send(&mut w, &Request::ScsiCommand(write), &pattern(n as usize));
        let (task, _, command) = w.executed();
        assert!(bytes_of(&command) == pattern(n as usize));
        w.good(task, &[], n.into());
        i.recv_scsi(&mut w);
        let read = i.read10(n);
        i.start(&mut w, read);
        let (task, ..) = w.executed();
        w.good(task, &pattern(n as usize), n.into());
        assert!(i.recv_data(&mut w).0 == pattern(n as usize));
    }
}

#[test]
fn residuals() {
    let (mut w, mut i, _) = logged_in(&[]);
    // (expected, brought, would transfer)
    for (expected, n, transfer, residual) in [
        (4096, 512, 512, Residual::Underflow(3584)),
        (512, 512, 4096, Residual::Overflow(3584)),
        (0, 0, 4096, Residual::Overflow(4096)),
        (4096, 0, 0, Residual::Underflow(4096)),
        (4096, 4096, 4096, Residual::None),
    ] {
        let read = i.read10(expected);
        i.start(&mut w, read);
        let (task, ..) = w.executed();
        w.good(task, &pattern(n), transfer);
        if n == 0 {
            assert_eq!(i.recv_scsi(&mut w).0.residual, residual);
        } else {
            assert_eq!(i.recv_data(&mut w).1.residual, residual);
        }
        let write = i.write10(expected);
        i.send(&mut w, &Request::ScsiCommand(write), &pattern(expected as usize));
        let (task, ..) = w.executed();
        w.good(task, &[], transfer);
        assert_eq!(i.recv_scsi(&mut w).0.residual, residual);
    }
    // More than expected is never sent.
    let read = i.read10(100);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    w.good(task, &pattern(300), 300);
    let (data, last) = i.recv_data(&mut w);
    assert_eq!((data.len(), last.residual), (100, Residual::Overflow(200)));
}

#[test]
fn check_condition_after_data() {
    let (mut w, mut i, _) = logged_in(&[]);
    let read = i.read10(20_000);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    let sense = vec![0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0];
    let data_in = Din::Bytes(pattern(9000));
    w.done(
        task,
        Reply { status: Status::CheckCondition, sense: Some(sense.clone()), data_in, transfer_len: 9000 },
    );
    for _ in 0..2 {
        let (Response::DataIn(p), _) = i.recv(&mut w) else { panic!() };
        assert_eq!(p.status, None);
    }
    let (p, data) = i.recv_scsi(&mut w);
    assert_eq!((p.status, p.exp_data_sn.0, p.residual), (2, 2, Residual::Underflow(11_000)));
    assert_eq!(data[..2], [0, 18]);
    assert_eq!(data[2..], sense);
}

#[test]
fn wrong_data_numbers_are_not_accepted() {
    for (first, second) in [(0, 0), (27, 28), (u32::MAX, 0), (1, 0)] {
        let (mut w, mut i, _) = logged_in(&[("ImmediateData", "No")]);
        let write = i.write10(1024);
        i.start(&mut w, write);
        let r = i.recv_r2t(&mut w);
        i.data_out(&mut w, write.itt, r.ttt, first, 0, &pattern(512), false);
        i.data_out(&mut w, write.itt, r.ttt, second, 512, &pattern(512), true);
        assert_eq!(w.executes(), 0, "{first} {second}");
        let (p, data) = i.recv_scsi(&mut w);
        assert_eq!((p.status, data[4], data[14], data[15]), (2, 0x0b, 0x47, 0x05));
        // The session goes on.
        let read = i.read10(512);
        i.start(&mut w, read);
        let (task, ..) = w.executed();
        w.good(task, &pattern(512), 512);
        i.recv_data(&mut w);
    }
}

#[test]
fn data_that_was_not_agreed_fails_the_command() {
    // Unsolicited although InitialR2T=Yes.
    let (mut w, mut i, _) = logged_in(&[("InitialR2T", "Yes"), ("FirstBurstLength", "1024")]);
    let mut write = i.write10(2048);
    write.final_ = false;
    i.start(&mut w, write);
    i.data_out(&mut w, write.itt, Tag::RESERVED, 0, 0, &pattern(2048), true);
    let (p, data) = i.recv_scsi(&mut w);
    assert_eq!((p.status, data[14], data[15]), (2, 0x0c, 0x0c));
    // More immediate data than FirstBurstLength, or than the command takes.
    for (expected, n) in [(4096, 1025), (10, 11)] {
        let write = i.write10(expected);
        i.send(&mut w, &Request::ScsiCommand(write), &pattern(n));
        let (p, data) = i.recv_scsi(&mut w);
        assert_eq!((p.status, data[14], data[15]), (2, 0x0c, 0x0d));
    }
    // Both directions; and more than any command may carry.
    let both = i.command(&[0x53], true, true, 0);
    i.start(&mut w, both);
    assert_eq!(i.recv_scsi(&mut w).0.status, 2);
    let huge = i.write10(u32::MAX);
    i.start(&mut w, huge);
    assert_eq!(i.recv_scsi(&mut w).0.status, 2);
    assert_eq!(w.executes(), 0);
}

#[test]
fn the_command_window() {
    let (mut w, mut i, s) = logged_in(&[]);
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    w.good(task, &pattern(512), 512);
    i.recv_data(&mut w);
    assert_eq!(i.max_cmd_sn, i.cmd_sn + 127);
    // Outside the window, and a duplicate: silence.
    let mut high = i.read10(512);
    high.cmd_sn = iscsi::serial::Serial(i.max_cmd_sn + 1);
    i.start(&mut w, high);
    let mut low = i.read10(512);
    low.cmd_sn = read.cmd_sn;
    i.start(&mut w, low);
    assert!(i.silent(&w) && w.executes() == 0);
    i.cmd_sn -= 2;
    // A full queue.
    let mut tags = vec![];
    for _ in 0..130 {
        let c = i.read10(512);
        tags.push(i.start(&mut w, c));
    }
    assert_eq!(w.executes(), 128);
    assert_eq!(w.m.session(s).unwrap().tasks, 128);
    for tag in &tags[..128] {
        let (task, ..) = w.executed();
        w.good(task, &[], 0);
        assert_eq!(i.recv_scsi(&mut w).0.itt, *tag);
    }
    assert_eq!(i.max_cmd_sn, i.exp_cmd_sn + 127);
    assert_eq!(w.m.session(s).unwrap().tasks, 0);
}

#[test]
fn immediate_commands_are_bounded_and_tags_unique() {
    let (mut w, mut i, _) = logged_in(&[]);
    for n in 0..17 {
        let mut c = i.read10(512);
        i.cmd_sn -= 1;
        c.cmd_sn = iscsi::serial::Serial(i.cmd_sn);
        c.immediate = true;
        i.start(&mut w, c);
        assert_eq!(w.executes(), (n + 1).min(16));
    }
    let (Response::Reject(p), header) = i.recv(&mut w) else { panic!() };
    assert_eq!((p.reason, header.len()), (RejectReason::ImmediateCommandReject, 48));
    let mut c = i.read10(512);
    c.itt = Tag(1);
    i.start(&mut w, c);
    let (Response::Reject(p), _) = i.recv(&mut w) else { panic!() };
    assert_eq!(p.reason, RejectReason::TaskInProgress);
    let c = i.read10(512);
    i.start(&mut w, c);
    assert_eq!(w.executes(), 17, "the number of the rejected command counts");
}

#[test]
fn extended_cdbs() {
    let (mut w, mut i, _) = logged_in(&[]);
    let cdb: Vec<u8> = [0x7f, 0, 0, 0, 0, 0, 0, 24].into_iter().chain(1..=24).collect();
    let mut ahs = vec![];
    Ahs { cdb_rest: &cdb[16..], bidi_read_len: None }.encode(&mut ahs).unwrap();
    let mut pdu = i.command(&cdb[..16], true, false, 512);
    pdu.ahs_len = ahs.len() as u16;
    w.send(i.conn, &wire(&Request::ScsiCommand(pdu), &ahs, &[], false, false));
    let (_, _, command) = w.executed();
    assert_eq!(&command.cdb[..], &cdb[..]);
}

#[test]
fn writes_wait_for_room() {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    i.login(&mut w, &[("ImmediateData", "No"), ("MaxBurstLength", "16776704")]);
    let len = 16 * 1024 * 1024u32;
    let mut tags = vec![];
    for _ in 0..6 {
        let write = i.write10(len);
        tags.push(i.start(&mut w, write));
    }
    let mut first = None;
    let mut asked = 0;
    while let Some((Response::R2t(r), _)) = i.try_recv(&mut w) {
        first.get_or_insert(r);
        asked += 1;
    }
    assert_eq!(asked, 4, "64 MiB are gathered at a time");
    // Abort one of them: its room goes to the next.
    i.tmf(&mut w, iscsi::pdu::TmfFunction::AbortTask, tags[0], 100);
    let next = i.recv(&mut w).0;
    let done = i.recv(&mut w).0;
    let r2t =
        [&next, &done].into_iter().find_map(|p| if let Response::R2t(r) = p { Some(r.itt) } else { None });
    assert_eq!(r2t, Some(tags[4]));
}

#[test]
fn back_pressure() {
    let dir = Dir::new();
    let config = MachineConfig { connection_tx_bytes_max: 100_000, ..MachineConfig::default() };
    let mut w = World::with(dir, config);
    let mut i = Ini::new(&mut w);
    i.login(&mut w, &[]);
    w.tx_chunk = 0;
    let read = i.read10(200_000);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    w.good(task, &pattern(200_000), 200_000);
    let read = i.read10(512);
    i.start(&mut w, read);
    assert_eq!(w.executes(), 0, "the connection is not read while too much is queued");
    w.tx_chunk = usize::MAX;
    w.drain_tx(i.conn);
    w.turn();
    assert_eq!(w.executes(), 1);
    // A peer that reads nothing is dropped.
    let (task, ..) = w.executed();
    w.m.task_done(
        cx!(w),
        task,
        Reply { status: Status::Good, sense: None, data_in: Din::None, transfer_len: 0 },
    );
    w.tx_chunk = 0;
    let _batch = w.m.take_tx(cx!(w), i.conn, 128, 1 << 20).unwrap();
    w.wait(29);
    assert!(!w.closed(i.conn));
    w.wait(2);
    assert!(w.closed(i.conn) && w.session_down());
}
