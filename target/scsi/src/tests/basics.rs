//! READ, WRITE, INQUIRY, READ CAPACITY, REPORT LUNS, MODE SENSE and SELECT, unit attentions, the gate.

use block::{BlockDevice, GateState, IoErrorKind};

use super::*;

#[test]
fn reads_back_what_was_written_in_all_sizes() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let data: Vec<u8> = (0..1024).map(|n| n as u8).collect();
    let mut w6 = vec![0x0a, 0, 0, 8, 2, 0];
    rig.run(&mut at, &w6, &data, 0).good();
    w6[0] = 0x08;
    assert_eq!(rig.run(&mut at, &w6, b"", 1024).good(), data);
    rig.run(&mut at, &cdb10(0x2a, 0, 100, 2), &data, 0).good();
    assert_eq!(rig.run(&mut at, &cdb10(0x28, 0, 100, 2), b"", 1024).good(), data);
    rig.run(&mut at, &cdb16(0x8a, 0, 200, 2), &data, 0).good();
    assert_eq!(rig.run(&mut at, &cdb16(0x88, 0, 200, 2), b"", 1024).good(), data);
    let c12 = |op: u8| vec![op, 0, 0, 0, 1, 0x2c, 0, 0, 0, 2, 0, 0];
    rig.run(&mut at, &c12(0xaa), &data, 0).good();
    assert_eq!(rig.run(&mut at, &c12(0xa8), b"", 1024).good(), data);
    assert_eq!(rig.peek(300 * 512, 1024), data);
}

#[test]
fn fua_and_write_through_reach_the_device() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).good();
    rig.run(&mut at, &cdb10(0x2a, 0x08, 0, 1), &[1; 512], 0).good();
    rig.unit.update(&LuChange { write_cache: Some(false), ..LuChange::default() }).unwrap();
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).sense_is(6, 0x2a01);
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).good();
    assert_eq!(rig.take_log(), ["write 0+512 fua=false", "write 0+512 fua=true", "write 0+512 fua=true"]);
}

#[test]
fn refuses_what_lies_outside_or_is_too_long_or_protected() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let blocks = 8 << 20 >> 9;
    for (lba, n) in [(blocks, 0), (blocks, 1), (blocks - 1, 2), (u64::MAX, 1), (1 << 63, 0)] {
        let a = rig.run(&mut at, &cdb16(0x88, 0, lba, n), b"", 4096);
        a.sense_is(5, 0x2100);
    }
    rig.run(&mut at, &cdb16(0x88, 0, blocks - 1, 1), b"", 512).good();
    rig.run(&mut at, &cdb16(0x88, 0, 0, 0), b"", 0).good();
    let a = rig.run(&mut at, &cdb16(0x88, 0x20, 0, 1), b"", 512);
    a.sense_is(5, 0x2400);
    assert_eq!(&a.sense[15..18], [0xcf, 0, 1], "bit 7 of byte 1 of the CDB");
    let big = Rig::sized(LuConfig::default(), 64 << 20);
    let mut at = big.attach(1);
    big.run(&mut at, &cdb16(0x88, 0, 0, 32769), b"", u32::MAX).sense_is(5, 0x2400);
    assert_eq!(big.run(&mut at, &cdb16(0x88, 0, 0, 32768), b"", u32::MAX).good().len(), 16 << 20);
    // NACA, a reserved bit, an unknown operation code, a CDB that is too short.
    let mut naca = cdb10(0x28, 0, 0, 1);
    naca[9] = 0x04;
    big.run(&mut at, &naca, b"", 512).sense_is(5, 0x2400);
    let mut reserved = cdb10(0x28, 0, 0, 1);
    reserved[6] = 0x80;
    big.run(&mut at, &reserved, b"", 512).sense_is(5, 0x2400);
    big.run(&mut at, &[0xc1, 0, 0, 0, 0, 0], b"", 0).sense_is(5, 0x2000);
    big.run(&mut at, &[0x28, 0, 0, 0, 0, 0], b"", 0).sense_is(5, 0x2400);
}

#[test]
fn residuals() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    for (expected, got) in [(0, 0), (200, 200), (512, 512), (10_000, 1024)] {
        let a = rig.run(&mut at, &cdb10(0x28, 0, 0, 2), b"", expected);
        assert_eq!((a.transfer_len, a.data.len()), (1024, got));
        a.good();
    }
    // Sent a part of a block: nothing is written. Sent fewer blocks, or more: those that were asked for and sent.
    let a = rig.run(&mut at, &cdb10(0x2a, 0, 0, 2), &[9; 700], 0);
    a.sense_is(5, 0x0e03);
    assert_eq!(a.transfer_len, 1024);
    assert_eq!(rig.peek(0, 1024), vec![0; 1024]);
    let a = rig.run(&mut at, &cdb10(0x2a, 0, 4, 2), &[8; 512], 0);
    assert_eq!(a.transfer_len, 1024);
    a.good();
    assert_eq!(rig.peek(4 * 512, 1024), [vec![8; 512], vec![0; 512]].concat());
    let a = rig.run(&mut at, &cdb10(0x2a, 0, 0, 2), b"", 0);
    assert_eq!(a.transfer_len, 1024);
    a.good();
    let a = rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[9; 1000], 0);
    assert_eq!(a.transfer_len, 512);
    a.good();
    assert_eq!(rig.peek(0, 1024), [vec![9; 512], vec![0; 512]].concat());
}

#[test]
fn device_errors_become_sense_with_the_address() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    *rig.fail.borrow_mut() = Some(IoError::at(IoErrorKind::Medium, 10 * 512));
    let a = rig.run(&mut at, &cdb10(0x28, 0, 10, 1), b"", 512);
    a.sense_is(3, 0x1100);
    assert_eq!(&a.sense[3..7], [0, 0, 0, 10]);
    *rig.fail.borrow_mut() = Some(IoError::new(IoErrorKind::NoSpace));
    rig.run(&mut at, &cdb10(0x2a, 0, 10, 1), &[0; 512], 0).sense_is(7, 0x2707);
}

#[test]
fn inquiry_and_its_pages() {
    let mut naa = [0; 16];
    naa[0] = 0x60;
    naa[15] = 7;
    let rig =
        Rig::new(LuConfig { serial: "abc123".into(), scsi_id: "id".into(), naa, ..LuConfig::default() });
    let mut at = rig.attach(1);
    let std = rig.run(&mut at, &[0x12, 0, 0, 1, 0, 0], b"", 256).good();
    assert_eq!((std.len(), usize::from(std[4]) + 5), (96, 96));
    assert_eq!(&std[8..36], b"IET     VIRTUAL-DISK    0001");
    let page = |at: &mut ItNexusLun, p: u8| rig.run(at, &[0x12, 1, p, 1, 0, 0], b"", 256);
    let list = page(&mut at, 0).good();
    for p in list[4..].iter().copied() {
        let d = page(&mut at, p).good();
        assert_eq!((d[1], usize::from(u16::from_be_bytes([d[2], d[3]])) + 4), (p, d.len()));
    }
    assert_eq!(&page(&mut at, 0x80).good()[4..], b"abc123");
    assert_eq!(page(&mut at, 0xb0).good().len(), 64);
    page(&mut at, 0xc0).sense_is(5, 0x2400);
    rig.run(&mut at, &[0x12, 0, 1, 1, 0, 0], b"", 256).sense_is(5, 0x2400);
    assert_eq!(rig.run(&mut at, &[0x12, 0, 0, 0, 5, 0], b"", 256).good().len(), 5, "allocation length");
    // Designators: whole, within the page, and the unit knows its own.
    let ids = page(&mut at, 0x83).good();
    let mut p = 4;
    let mut naa_seen = false;
    while p < ids.len() {
        let n = usize::from(ids[p + 3]);
        if ids[p + 1] & 0x3f == 3 {
            naa_seen = rig.unit.has_designator(3, &ids[p + 4..p + 4 + n]);
        }
        p += 4 + n;
    }
    assert_eq!((p, naa_seen), (ids.len(), true));
}

#[test]
fn capacity_and_resize() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let c10 = rig.run(&mut at, &cdb10(0x25, 0, 0, 0), b"", 8).good();
    assert_eq!(c10, [0, 0, 0x3f, 0xff, 0, 0, 2, 0]);
    let c16 = rig.run(&mut at, &cdb16(0x9e, 0x10, 0, 32), b"", 32).good();
    assert_eq!(
        (c16.len(), &c16[6..14]),
        (32, &[0x3f, 0xff, 0, 0, 2, 0, 0, 3][..]),
        "8 blocks a physical block"
    );
    rig.device.resize(16 << 20);
    rig.unit.resized(rig.device.geometry());
    rig.run(&mut at, &[0; 6], b"", 0).sense_is(6, 0x2a09);
    rig.run(&mut at, &[0; 6], b"", 0).good();
    assert_eq!(rig.run(&mut at, &cdb10(0x25, 0, 0, 0), b"", 8).good()[..4], [0, 0, 0x7f, 0xff]);
    rig.run(&mut at, &cdb10(0x25, 0, 1, 0), b"", 8).sense_is(5, 0x2400);
}

#[test]
fn luns_are_reported() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let mut cdb = vec![0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    let all = rig.run(&mut at, &cdb, b"", 512).good();
    assert_eq!(all, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    cdb[2] = 1;
    assert_eq!(rig.run(&mut at, &cdb, b"", 512).good(), [0; 8]);
    cdb[2] = 9;
    rig.run(&mut at, &cdb, b"", 512).sense_is(5, 0x2400);
    let nobody = |cdb: &[u8]| Answer::from(no_such_lun(&Rig::command(cdb, b"", 512), &rig.inventory));
    assert_eq!(nobody(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]).good(), all);
    assert_eq!(nobody(&[0x12, 0, 0, 0, 96, 0]).good()[0], 0x7f);
    nobody(&[0, 0, 0, 0, 0, 0]).sense_is(5, 0x2500);
}

#[test]
fn mode_pages_are_sensed_and_selected() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let mut other = rig.attach(2);
    let all = rig.run(&mut at, &[0x1a, 0, 0x3f, 0xff, 255, 0], b"", 255).good();
    assert_eq!((usize::from(all[0]) + 1, all[2], all[3]), (all.len(), 0x10, 8));
    let caching = rig.run(&mut at, &[0x1a, 8, 8, 0, 255, 0], b"", 255).good();
    assert_eq!((caching.len(), caching[6]), (4 + 20, 4), "WCE");
    let mut new = caching.clone();
    (new[0], new[2], new[6]) = (0, 0, 0);
    rig.run(&mut at, &[0x15, 0x10, 0, 0, 24, 0], &new, 0).good();
    assert_eq!(rig.take_log(), ["Flush"], "what was cached is on the medium before the cache is off");
    rig.run(&mut other, &[0; 6], b"", 0).sense_is(6, 0x2a01);
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).good();
    assert_eq!(rig.take_log(), ["write 0+512 fua=true"]);
    // A bit that may not change, a page that is not there, a length that is not the page's.
    let mut bad = new.clone();
    bad[7] = 1;
    rig.run(&mut at, &[0x15, 0x10, 0, 0, 24, 0], &bad, 0).sense_is(5, 0x2600);
    rig.run(&mut at, &[0x15, 0x10, 0, 0, 6, 0], &[0, 0, 0, 0, 0x30, 0], 0).sense_is(5, 0x2600);
    rig.run(&mut at, &[0x15, 0x10, 0, 0, 5, 0], &[0, 0, 0, 0, 0x08], 0).sense_is(5, 0x1a00);
    rig.run(&mut at, &[0x15, 0x11, 0, 0, 24, 0], &new, 0).sense_is(5, 0x2400);
    // SWP protects, D_SENSE changes the format.
    let mut control = rig.run(&mut at, &[0x5a, 8, 0x0a, 0, 0, 0, 0, 0, 255, 0], b"", 255).good();
    control[..8].fill(0);
    control[8 + 4] |= 0x08;
    rig.run(&mut at, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 20, 0], &control, 0).good();
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).sense_is(7, 0x2702);
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).good();
    control[8 + 2] |= 0x04;
    control[8 + 4] &= !0x08;
    rig.run(&mut at, &[0x55, 0x10, 0, 0, 0, 0, 0, 0, 20, 0], &control, 0).good();
    assert_eq!(rig.run(&mut at, &cdb10(0x28, 0, u32::MAX, 1), b"", 512).sense[0], 0x72);
    rig.run(&mut at, &[0x1a, 0, 0xca, 0, 255, 0], b"", 255);
}

#[test]
fn attentions_are_reported_once_and_not_to_inquiry() {
    let rig = Rig::plain();
    let mut at = rig.unit.attach(&nexus(1));
    rig.run(&mut at, &[0x12, 0, 0, 0, 96, 0], b"", 96).good();
    rig.run(&mut at, &[0xc1, 0, 0, 0, 0, 0], b"", 0).sense_is(6, 0x2900);
    rig.run(&mut at, &[0; 6], b"", 0).good();
    rig.unit.reset(ResetKind::LogicalUnit);
    let sense = rig.run(&mut at, &[3, 0, 0, 0, 18, 0], b"", 18).good();
    assert_eq!((sense[2], &sense[12..14]), (6, &[0x29, 3][..]));
    assert_eq!(rig.run(&mut at, &[3, 0, 0, 0, 18, 0], b"", 18).good()[2], 0);
    rig.unit.update(&LuChange { vendor: Some("ACME".into()), ..LuChange::default() }).unwrap();
    let std = rig.run(&mut at, &[0x12, 0, 0, 0, 96, 0], b"", 96).good();
    assert_eq!(&std[8..16], b"ACME    ");
    rig.run(&mut at, &[0; 6], b"", 0).good();
    assert!(
        rig.unit.update(&LuChange { vendor: Some("too long a name".into()), ..LuChange::default() }).is_err()
    );
}

#[test]
fn the_gate_holds_and_refuses() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    assert!(rig.unit.set_gate(GateState::Frozen { epoch: 1 }));
    let mut task = rig.task(&mut at, &cdb10(0x2a, 0, 0, 1), &[7; 512], 0);
    assert!(matches!(rig.step(&mut task, Input::Start), Step::Wait));
    rig.run(&mut at, &[0x12, 0, 0, 0, 96, 0], b"", 96).good();
    assert!(rig.unit.set_gate(GateState::Open { epoch: 2 }));
    assert_eq!(rig.wakes.load(Ordering::SeqCst), 1);
    let Step::Io { op, .. } = rig.step(&mut task, Input::Woken) else { panic!("not written") };
    let input = rig.io(op);
    assert!(matches!(rig.step(&mut task, input), Step::Done(Reply { status: Status::Good, .. })));
    assert!(rig.unit.set_gate(GateState::Fenced { epoch: 3 }));
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[8; 512], 0).sense_is(2, 0x040c);
}

#[test]
fn read_only_and_offline() {
    let rig = Rig::new(LuConfig { read_only: true, ..LuConfig::default() });
    let mut at = rig.attach(1);
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).sense_is(7, 0x2700);
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).good();
    assert_eq!(rig.run(&mut at, &[0x1a, 8, 8, 0, 255, 0], b"", 255).good()[2], 0x90);
    rig.unit.update(&LuChange { online: Some(false), ..LuChange::default() }).unwrap();
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).sense_is(2, 0x0412);
}

#[test]
fn a_controller_has_no_medium() {
    let rig = Rig::plain();
    let controller = LogicalUnit::controller(LuConfig::default());
    let mut at = controller.attach(&nexus(1));
    assert_eq!(rig.run(&mut at, &[0x12, 0, 0, 0, 96, 0], b"", 96).good()[0], 0x0c);
    rig.run(&mut at, &[0; 6], b"", 0).sense_is(6, 0x2900);
    rig.run(&mut at, &[0; 6], b"", 0).good();
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).sense_is(5, 0x2000);
    rig.run(&mut at, &[0x1a, 0, 0x3f, 0, 255, 0], b"", 255).good();
}
