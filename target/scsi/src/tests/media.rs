//! Commands to the medium beyond READ and WRITE.

use block::{GateState, IoErrorKind};

use super::*;

const BLOCKS: u64 = 8 << 20 >> 9;

fn thin() -> Rig {
    Rig::new(LuConfig { thin: true, ..LuConfig::default() })
}

fn fill(rig: &Rig, at: &mut ItNexusLun, lba: u64, blocks: u32, byte: u8) {
    rig.run(at, &cdb16(0x8a, 0, lba, blocks), &vec![byte; blocks as usize * 512], 0).good();
}

fn caw(lba: u64, n: u8) -> Vec<u8> {
    let mut c = cdb16(0x89, 0, lba, 0);
    c[13] = n;
    c
}

#[test]
fn compare_and_write() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    fill(&rig, &mut at, 4, 2, 1);
    let mut data = [vec![1; 1024], vec![2; 1024]].concat();
    rig.run(&mut at, &caw(4, 2), &data, 0).good();
    assert_eq!(rig.peek(4 * 512, 1024), vec![2; 1024]);
    data[..1024].fill(2);
    data[700] = 9;
    let a = rig.run(&mut at, &caw(4, 2), &data, 0);
    a.sense_is(0xe, 0x1d00);
    assert_eq!((a.sense[0], &a.sense[3..7]), (0xf0, &700u32.to_be_bytes()[..]), "offset of the difference");
    assert_eq!(rig.peek(4 * 512, 1024), vec![2; 1024]);
    for (wrong, asc) in [(512, 0x0e03), (1024, 0x0e03), (3072, 0x2400)] {
        rig.run(&mut at, &caw(4, 2), &vec![2; wrong], 0).sense_is(5, asc);
    }
    rig.run(&mut at, &caw(BLOCKS - 1, 2), &data, 0).sense_is(5, 0x2100);
    rig.run(&mut at, &caw(0, 0), b"", 0).good();
}

#[test]
fn or_write_and_write_atomic() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    fill(&rig, &mut at, 0, 4, 0x0f);
    rig.run(&mut at, &cdb16(0x8b, 0, 1, 2), &[0xa0; 1024], 0).good();
    assert_eq!(rig.peek(0, 2048), [vec![0x0f; 512], vec![0xaf; 1024], vec![0x0f; 512]].concat());
    // Eight blocks a physical block: atomic writes are of whole ones.
    let mut atomic = cdb16(0x9c, 0, 8, 8);
    rig.run(&mut at, &atomic, &[7; 4096], 0).good();
    assert_eq!(rig.peek(4096, 4096), vec![7; 4096]);
    rig.run(&mut at, &atomic, &[7; 512], 0).sense_is(5, 0x0e03);
    rig.run(&mut at, &cdb16(0x9c, 0, 4, 8), &[7; 4096], 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb16(0x9c, 0, 8, 4), &[7; 2048], 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb16(0x9c, 0, 0, 264), &vec![7; 264 * 512], 0).sense_is(5, 0x2400);
    atomic[11] = 1;
    rig.run(&mut at, &atomic, &[7; 4096], 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb16(0x9c, 0, 8, 0), b"", 0).good();
}

/// Steps of several tasks, interleaved by hand.
#[test]
fn an_atomic_write_excludes_writes_and_reads_notice_it() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    fill(&rig, &mut at, 0, 2, 1);
    // A write holds its range while COMPARE AND WRITE wants it.
    let mut write = rig.task(&mut at, &cdb16(0x8a, 0, 1, 1), &[5; 512], 0);
    let Step::Io { op: write_op, .. } = rig.step(&mut write, Input::Start) else { panic!() };
    let data = [vec![1; 512], vec![5; 512], vec![8; 1024]].concat();
    let mut swap = rig.task(&mut at, &caw(0, 2), &data, 0);
    assert!(matches!(rig.step(&mut swap, Input::Start), Step::Wait));
    // A read that began before goes on meanwhile.
    let mut read = rig.task(&mut at, &cdb16(0x88, 0, 0, 2), b"", 1024);
    let Step::Io { op: read_op, .. } = rig.step(&mut read, Input::Start) else { panic!() };
    let input = rig.io(write_op);
    assert!(matches!(rig.step(&mut write, input), Step::Done(_)));
    assert_eq!(rig.wakes.load(Ordering::SeqCst), 1);
    let Step::Io { op, .. } = rig.step(&mut swap, Input::Woken) else { panic!() };
    let input = rig.io(op);
    let Step::Io { op: swap_op, .. } = rig.step(&mut swap, input) else { panic!("did not match") };
    // The read ends while the atomic write is under way: it must wait and read again.
    let stale = rig.io(read_op);
    assert!(matches!(rig.step(&mut read, stale), Step::Wait));
    // So must a write that comes now.
    let mut late = rig.task(&mut at, &cdb16(0x8a, 0, 0, 1), &[6; 512], 0);
    assert!(matches!(rig.step(&mut late, Input::Start), Step::Wait));
    let input = rig.io(swap_op);
    assert!(matches!(rig.step(&mut swap, input), Step::Done(Reply { status: Status::Good, .. })));
    assert_eq!(rig.wakes.load(Ordering::SeqCst), 3);
    let Step::Io { op, .. } = rig.step(&mut read, Input::Woken) else { panic!() };
    let input = rig.io(op);
    let Step::Done(reply) = rig.step(&mut read, input) else { panic!() };
    assert_eq!(Answer::from(reply).good(), vec![8; 1024]);
    // Aborted while it holds its range: the range is free again.
    let Step::Io { .. } = rig.step(&mut late, Input::Woken) else { panic!() };
    drop(late);
    rig.run(&mut at, &caw(0, 1), &[vec![8; 512], vec![9; 512]].concat(), 0).good();
    // Afterwards reads are read once.
    rig.take_log();
    rig.run(&mut at, &cdb16(0x88, 0, 0, 2), b"", 1024).good();
    assert_eq!(rig.take_log().len(), 1);
}

#[test]
fn verify_compares() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    fill(&rig, &mut at, 0, 3000, 3);
    let whole = vec![3; 3000 * 512];
    rig.run(&mut at, &cdb10(0x2f, 0, 0, 3000), b"", 0).good();
    rig.run(&mut at, &cdb10(0x2f, 0x02, 0, 3000), &whole, 0).good();
    rig.run(&mut at, &cdb10(0x2f, 0x06, 0, 3000), &[3; 512], 0).good();
    let mut off = whole.clone();
    off[3000 * 512 - 1] = 0;
    rig.run(&mut at, &cdb10(0x2f, 0x02, 0, 3000), &off, 0).sense_is(0xe, 0x1d00);
    rig.run(&mut at, &cdb16(0x8f, 0x06, 0, 3001), &[3; 512], 0).sense_is(0xe, 0x1d00);
    rig.run(&mut at, &cdb10(0x2f, 0x04, 0, 1), b"", 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb10(0x2f, 0x02, 0, 2), &[3; 512], 0).sense_is(5, 0x0e03);
    *rig.fail.borrow_mut() = Some(IoError::new(IoErrorKind::Medium));
    rig.run(&mut at, &cdb10(0x2f, 0, 0, 1), b"", 0).sense_is(3, 0x1100);
    // Data that came for nothing are ignored.
    rig.run(&mut at, &cdb10(0x2f, 0, 0, 1), &[9; 512], 0).good();
}

#[test]
fn write_and_verify_is_on_the_medium() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    for byte1 in [0, 2] {
        rig.take_log();
        rig.run(&mut at, &cdb10(0x2e, byte1, 8, 2), &[4; 1024], 0).good();
        let log = rig.take_log();
        assert_eq!((log.len(), log[0].as_str()), (2, "write 4096+1024 fua=true"));
    }
    let a = rig.run(&mut at, &cdb10(0x2e, 2, 0, 2), &[5; 512], 0);
    assert_eq!(a.transfer_len, 1024);
    a.good();
    assert_eq!(rig.peek(0, 1024), [vec![5; 512], vec![0; 512]].concat());
    rig.run(&mut at, &cdb10(0x2e, 6, 0, 1), &[5; 512], 0).sense_is(5, 0x2400);
}

fn unmap_list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let n = (ranges.len() * 16) as u16;
    let mut v = [(n + 6).to_be_bytes(), n.to_be_bytes()].concat();
    v.extend_from_slice(&[0; 4]);
    for (lba, blocks) in ranges {
        v.extend_from_slice(&lba.to_be_bytes());
        v.extend_from_slice(&blocks.to_be_bytes());
        v.extend_from_slice(&[0; 4]);
    }
    v
}

fn run_unmap(rig: &Rig, at: &mut ItNexusLun, list: &[u8]) -> Answer {
    rig.run(at, &cdb10(0x42, 0, 0, list.len() as u16), list, 0)
}

#[test]
fn unmapped_blocks_read_as_zeroes_and_are_holes() {
    let rig = thin();
    let mut at = rig.attach(1);
    fill(&rig, &mut at, 0, 64, 1);
    run_unmap(&rig, &mut at, &unmap_list(&[(8, 16), (1, 1), (5, 0), (BLOCKS, 0)])).good();
    let mut want = vec![1; 64 * 512];
    want[8 * 512..24 * 512].fill(0);
    want[512..1024].fill(0);
    assert_eq!(rig.peek(0, 64 * 512), want);
    let mut status = cdb16(0x9e, 0x12, 0, 512);
    let d = rig.run(&mut at, &status, b"", 512).good();
    let found: Vec<(u64, u32, u8)> = d[8..]
        .chunks(16)
        .map(|c| {
            (
                u64::from_be_bytes(c[..8].try_into().unwrap()),
                u32::from_be_bytes(c[8..12].try_into().unwrap()),
                c[12],
            )
        })
        .collect();
    assert_eq!(found, [(0, 8, 0), (8, 16, 1), (24, 40, 0), (64, BLOCKS as u32 - 64, 1)]);
    status[12..14].copy_from_slice(&[0, 24]);
    let first = rig.run(&mut at, &status, b"", 24).good();
    assert_eq!((first.len(), first[3]), (24, 20));
    rig.run(&mut at, &cdb16(0x9e, 0x12, BLOCKS, 24), b"", 24).sense_is(5, 0x2100);
}

#[test]
fn unmap_refuses() {
    let rig = thin();
    let mut at = rig.attach(1);
    run_unmap(&rig, &mut at, &unmap_list(&[(BLOCKS, 1)])).sense_is(5, 0x2100);
    run_unmap(&rig, &mut at, &unmap_list(&[(u64::MAX, u32::MAX)])).sense_is(5, 0x2600);
    run_unmap(&rig, &mut at, &unmap_list(&vec![(0, 0); 257])).sense_is(5, 0x2600);
    run_unmap(&rig, &mut at, &unmap_list(&vec![(0, 1); 256])).good();
    rig.run(&mut at, &cdb10(0x42, 0, 0, 24), &[0; 7], 0).sense_is(5, 0x1a00);
    rig.run(&mut at, &cdb10(0x42, 0, 0, 8), &[0, 22, 0, 16, 0, 0, 0, 0], 0).sense_is(5, 0x1a00);
    rig.run(&mut at, &cdb10(0x42, 1, 0, 8), &[0; 8], 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb10(0x42, 0, 0, 0), b"", 0).good();
    let plain = Rig::plain();
    let mut at = plain.attach(1);
    run_unmap(&plain, &mut at, &unmap_list(&[(0, 1)])).sense_is(5, 0x2000);
    assert_eq!(plain.run(&mut at, &cdb16(0x9e, 0x12, 0, 24), b"", 24).good()[20], 0, "mapped");
}

#[test]
fn write_same_patterns_zeroes_and_limits() {
    let rig = thin();
    let mut at = rig.attach(1);
    let pattern: Vec<u8> = (0..512).map(|n| n as u8).collect();
    rig.run(&mut at, &cdb10(0x41, 0, 3, 5000), &pattern, 0).good();
    assert_eq!(rig.peek(3 * 512, 5000 * 512), pattern.repeat(5000));
    assert_eq!(rig.peek(5003 * 512, 512), vec![0; 512]);
    // UNMAP with data that are not zeroes writes them.
    rig.run(&mut at, &cdb16(0x93, 0x08, 0, 8), &pattern, 0).good();
    assert_eq!(rig.peek(0, 8 * 512), pattern.repeat(8));
    rig.take_log();
    rig.run(&mut at, &cdb16(0x93, 0x09, 0, 8), b"", 0).good();
    assert_eq!(rig.take_log(), ["WriteZeroes { offset: 0, len: 4096, unmap: true }"]);
    // Zero blocks: WSNZ.
    rig.run(&mut at, &cdb16(0x93, 0, BLOCKS - 10, 0), &pattern, 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb16(0x93, 0x10, 0, 1), &pattern, 0).sense_is(5, 0x2400);
    rig.run(&mut at, &cdb16(0x93, 0, 0, 1), &pattern[..256], 0).sense_is(5, 0x0e03);
    rig.run(&mut at, &cdb16(0x93, 0, 0, 1), &pattern.repeat(2), 0).sense_is(5, 0x0e03);
    rig.run(&mut at, &cdb16(0x93, 0, BLOCKS, 0), &pattern, 0).sense_is(5, 0x2100);
    // A device that cannot write zeroes gets them as data.
    *rig.fail.borrow_mut() = Some(IoErrorKind::Unsupported.into());
    rig.run(&mut at, &cdb16(0x93, 0, 3, 2), &[0; 512], 0).good();
    assert_eq!(rig.peek(3 * 512, 1024), vec![0; 1024]);
    let plain = Rig::plain();
    let mut at = plain.attach(1);
    plain.run(&mut at, &cdb16(0x93, 0x08, 0, 1), &[0; 512], 0).sense_is(5, 0x2400);
    // Zero blocks: to the end.
    plain.run(&mut at, &cdb16(0x93, 0, BLOCKS - 10, 0), &pattern, 0).good();
    assert_eq!(plain.peek((BLOCKS - 10) * 512, 5120), pattern.repeat(10));
    let big = Rig::sized(LuConfig::default(), 512 << 20);
    let mut at = big.attach(1);
    big.run(&mut at, &cdb16(0x93, 0, 0, 0), &[0; 512], 0).sense_is(5, 0x2400);
    big.run(&mut at, &cdb16(0x93, 0, 0, 65_535), &[0; 512], 0).good();
    big.run(&mut at, &cdb16(0x93, 0, 0, 65_536), &[0; 512], 0).sense_is(5, 0x2400);
}

#[test]
fn caches() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    rig.run(&mut at, &cdb10(0x35, 0, 0, 0), b"", 0).good();
    assert_eq!(rig.take_log(), ["Flush"]);
    *rig.fail.borrow_mut() = Some(IoErrorKind::Other.into());
    rig.run(&mut at, &cdb16(0x91, 0, 0, 0), b"", 0).sense_is(3, 0x0c00);
    rig.run(&mut at, &cdb16(0x91, 0, BLOCKS, 0), b"", 0).sense_is(5, 0x2100);
    // IMMED: the status comes first, the error with the next command, marked as deferred.
    *rig.fail.borrow_mut() = Some(IoErrorKind::Other.into());
    rig.run(&mut at, &cdb10(0x35, 2, 0, 0), b"", 0).good();
    rig.run(&mut at, &[0x12, 0, 0, 0, 96, 0], b"", 96).good();
    let late = rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512);
    assert_eq!((late.sense[0], late.sense[2], late.sense[12]), (0x71, 3, 0x0c));
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).good();
    let fetched = rig.run(&mut at, &cdb10(0x34, 0, 0, 8), b"", 0);
    assert_eq!(fetched.status, Status::ConditionMet);
    assert_eq!(rig.run(&mut at, &cdb16(0x90, 2, 0, 0), b"", 0).status, Status::ConditionMet);
    rig.run(&mut at, &cdb16(0x90, 0, BLOCKS, 0), b"", 0).sense_is(5, 0x2100);
    let big = Rig::sized(LuConfig::default(), 64 << 20);
    let mut at = big.attach(1);
    big.run(&mut at, &cdb16(0x90, 0, 0, 0), b"", 0).good();
}

#[test]
fn removable_media() {
    let rig = Rig::new(LuConfig { removable: true, ..LuConfig::default() });
    let mut at = rig.attach(1);
    let mut other = rig.attach(2);
    let eject = [0x1b, 0, 0, 0, 2, 0];
    let load = [0x1b, 0, 0, 0, 3, 0];
    rig.run(&mut at, &[0x1e, 0, 0, 0, 1, 0], b"", 0).good();
    for nexus in [&mut at, &mut other] {
        rig.run(nexus, &eject, b"", 0).sense_is(5, 0x5302);
    }
    assert!(rig.unit.removal_prevented());
    rig.unit.detach(NexusId(1));
    let mut at = rig.attach(1);
    rig.take_log();
    rig.run(&mut at, &eject, b"", 0).good();
    assert_eq!(rig.take_log(), ["Flush"]);
    rig.run(&mut at, &[0; 6], b"", 0).sense_is(2, 0x3a00);
    rig.run(&mut other, &cdb10(0x28, 0, 0, 1), b"", 512).sense_is(2, 0x3a00);
    rig.run(&mut at, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0).sense_is(2, 0x3a00);
    rig.run(&mut at, &eject, b"", 0).good();
    rig.run(&mut at, &[0x1e, 0, 0, 0, 1, 0], b"", 0).good();
    rig.run(&mut at, &load, b"", 0).sense_is(5, 0x5302);
    rig.run(&mut at, &[0x1e, 0, 0, 0, 0, 0], b"", 0).good();
    rig.run(&mut at, &load, b"", 0).good();
    rig.run(&mut at, &[0; 6], b"", 0).good();
    rig.run(&mut other, &[0; 6], b"", 0).sense_is(6, 0x2800);
    // A power condition does not eject, nor does STOP alone.
    rig.run(&mut at, &[0x1b, 0, 0, 0, 0x12, 0], b"", 0).good();
    rig.run(&mut at, &[0x1b, 0, 0, 0, 0, 0], b"", 0).good();
    rig.run(&mut at, &[0; 6], b"", 0).good();
    let fixed = Rig::plain();
    let mut at = fixed.attach(1);
    fixed.run(&mut at, &eject, b"", 0).sense_is(5, 0x2400);
    assert_eq!(fixed.run(&mut at, &cdb10(0x37, 0, 0x1d00_0000, 4), b"", 4).good(), [0, 0x1d, 0, 0]);
    let defects = [0xb7, 0x1d, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
    assert_eq!(fixed.run(&mut at, &defects, b"", 32).good(), [0, 0x1d, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn what_is_reported_is_what_there_is() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let ask = |at: &mut ItNexusLun, option: u8, op: u8, sa: u16| {
        let [a, b] = sa.to_be_bytes();
        rig.run(at, &[0xa3, 0x0c, option, op, a, b, 0, 0, 255, 255, 0, 0], b"", 65535)
    };
    let all = ask(&mut at, 0, 0, 0).good();
    assert_eq!(all.len() - 4, u32::from_be_bytes(all[..4].try_into().unwrap()) as usize);
    let mut last = (0, 0);
    for d in all[4..].chunks(8) {
        let (op, sa, has_sa) = (d[0], u16::from_be_bytes([d[2], d[3]]), d[5] & 1 != 0);
        assert!((op, sa) >= last);
        last = (op, sa);
        let (right, wrong) = if has_sa { (2, 1) } else { (1, 2) };
        let one = ask(&mut at, right, op, sa).good();
        assert_eq!((one[1], one[4], one.len()), (3, op, 4 + usize::from(d[7])));
        ask(&mut at, wrong, op, sa).sense_is(5, 0x2400);
    }
    assert_eq!(ask(&mut at, 1, 0x42, 0).good()[1], 1, "UNMAP: not on this unit");
    assert_eq!(ask(&mut at, 3, 0x48, 2).good()[1], 1);
    let timed = ask(&mut at, 0x80, 0, 0).good();
    assert_eq!(timed.len() - 4, (all.len() - 4) / 8 * 20);
    assert!(timed[4..].chunks(20).all(|d| d[5] & 2 != 0 && d[8..10] == [0, 10]));
    let functions = [0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0];
    assert_eq!(rig.run(&mut at, &functions, b"", 16).good(), [0xda, 0, 0, 0]);
}

#[test]
fn diagnostics_and_logs() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    rig.run(&mut at, &[0x1d, 4, 0, 0, 0, 0], b"", 0).good();
    assert_eq!(rig.take_log(), ["Read { offset: 0, len: 512 }", "Flush"]);
    rig.run(&mut at, &[0x1d, 0x24, 0, 0, 0, 0], b"", 0).sense_is(5, 0x2400);
    rig.run(&mut at, &[0x1d, 0x10, 0, 0, 4, 0], &[0; 4], 0).good();
    rig.run(&mut at, &[0x1d, 0x10, 0, 0, 4, 0], &[7, 0, 0, 0], 0).sense_is(5, 0x2600);
    assert_eq!(rig.run(&mut at, &[0x1c, 1, 0, 0, 32, 0], b"", 32).good(), [0, 0, 0, 1, 0]);
    let log = |at: &mut ItNexusLun, page: u8, sub: u8| {
        rig.run(at, &[0x4d, 0, 0x40 | page, sub, 0, 0, 0, 0, 255, 0], b"", 255)
    };
    assert_eq!(log(&mut at, 0, 0).good(), [0, 0, 0, 2, 0, 0x2f]);
    assert_eq!(log(&mut at, 0x2f, 0).good().len(), 12);
    log(&mut at, 0x31, 0).sense_is(5, 0x2400);
}

fn overwrite(list: &[u8], byte1: u8) -> Vec<u8> {
    let [a, b] = (list.len() as u16).to_be_bytes();
    vec![0x48, byte1 | 1, 0, 0, 0, 0, 0, a, b, 0]
}

#[test]
fn sanitize_overwrites_everything() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    let mut other = rig.attach(2);
    fill(&rig, &mut at, 0, 100, 1);
    let list = [vec![0x83, 0, 0, 3], b"abc".to_vec()].concat();
    let cdb = overwrite(&list, 0);
    let mut task = rig.task(&mut at, &cdb, &list, 0);
    assert!(matches!(rig.step(&mut task, Input::Start), Step::Persist));
    assert!(String::from_utf8(rig.unit.durable_state()).unwrap().contains("Sanitize"));
    let Step::Io { op, .. } = rig.step(&mut task, Input::Persisted(Ok(()))) else { panic!() };
    assert!(task.outlives_abort());
    let input = rig.io(op);
    // It does not take all of the disk.
    assert!(matches!(rig.step(&mut task, input), Step::Pause(at) if at == Mono::from_nanos(1 + 25_000_000)));
    let Step::Io { op, .. } = rig.step(&mut task, Input::Woken) else { panic!() };
    // Meanwhile: who asks is told, with the progress; INQUIRY works.
    for cdb in [&[0; 6][..], &cdb10(0x28, 0, 0, 1), &[0x1b, 0, 0, 0, 0, 0], &cdb10(0x35, 0, 0, 0)] {
        rig.run(&mut other, cdb, b"", 512).sense_is(2, 0x041b);
    }
    rig.run(&mut other, &cdb10(0x2a, 0, 0, 1), &[0; 512], 512).sense_is(2, 0x041b);
    rig.run(&mut other, &overwrite(&list, 0), &list, 0).sense_is(2, 0x041b);
    let sense = rig.run(&mut other, &[3, 0, 0, 0, 18, 0], b"", 18).good();
    assert_eq!((sense[2], sense[12], sense[15]), (2, 4, 0x80));
    assert!(u16::from_be_bytes([sense[16], sense[17]]) > 0, "progress");
    rig.run(&mut other, &[0x12, 0, 0, 0, 96, 0], b"", 96).good();
    rig.unit.reset(ResetKind::LogicalUnit);
    let mut input = rig.io(op);
    loop {
        input = match rig.step(&mut task, input) {
            Step::Io { op, .. } => rig.io(op),
            Step::Pause(at) => {
                assert!(at > Mono::from_nanos(1));
                Input::Woken
            }
            Step::Persist => Input::Persisted(Ok(())),
            Step::Done(reply) => break drop(Answer::from(reply).good()),
            step => panic!("{step:?}"),
        };
    }
    // Three passes, inverted between them: the pattern again.
    let block: Vec<u8> = b"abc".iter().copied().cycle().take(512).collect();
    assert_eq!(rig.peek(0, 8 << 20), block.repeat(BLOCKS as usize));
    assert_eq!(rig.take_log().iter().filter(|l| *l == "Flush").count(), 3);
    rig.run(&mut other, &[0; 6], b"", 0).sense_is(6, 0x2903);
    rig.run(&mut other, &[0; 6], b"", 0).good();
}

#[test]
fn sanitize_checks_its_list_and_its_failure_stays() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    for list in [&[1, 0, 0, 1][..], &[0, 0, 0, 1, 9], &[1, 0, 0, 0, 9], &[1, 0, 0, 2, 9], &[0x21, 0, 0, 1, 9]]
    {
        assert_eq!(rig.run(&mut at, &overwrite(list, 0), list, 0).fixed().0, 5, "{list:?}");
    }
    let long = vec![1; 517];
    rig.run(&mut at, &overwrite(&long, 0), &long, 0).sense_is(5, 0x2400);
    for action in [0, 2, 3, 4, 0x1e] {
        rig.run(&mut at, &[0x48, action, 0, 0, 0, 0, 0, 0, 0, 0], b"", 0).sense_is(5, 0x2400);
    }
    rig.run(&mut at, &[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], b"", 0).good();
    let list = [1, 0, 0, 1, 9];
    *rig.fail.borrow_mut() = Some(IoErrorKind::Medium.into());
    rig.run(&mut at, &overwrite(&list, 0), &list, 0).sense_is(3, 0x0c00);
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).sense_is(3, 0x3103);
    rig.run(&mut at, &[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], b"", 0).sense_is(5, 0x2400);
    // It is there after a restart.
    let again = Rig::plain();
    again.unit.restore(&rig.unit.durable_state()).unwrap();
    let mut at2 = again.attach_anyhow(1);
    again.run(&mut at2, &cdb10(0x28, 0, 0, 1), b"", 512).sense_is(3, 0x3103);
    // AUSE lets it be left; doing it again ends it too, in the background with IMMED.
    *rig.fail.borrow_mut() = Some(IoErrorKind::Medium.into());
    rig.run(&mut at, &overwrite(&list, 0xa0), &list, 0).good();
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).sense_is(3, 0x3103);
    rig.run(&mut at, &[0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0], b"", 0).good();
    rig.run(&mut at, &cdb10(0x28, 0, 0, 1), b"", 512).good();
    rig.run(&mut at, &overwrite(&list, 0x80), &list, 0).good();
    assert_eq!(rig.peek(0, 512), vec![9; 512]);
    rig.run(&mut at, &[0; 6], b"", 0).good();
}

#[test]
fn block_erase_overwrites_and_unmaps_and_format_zeroes() {
    let rig = thin();
    let mut at = rig.attach(1);
    fill(&rig, &mut at, 100, 50, 1);
    fill(&rig, &mut at, BLOCKS - 3, 3, 1);
    rig.take_log();
    rig.run(&mut at, &[0x48, 2, 0, 0, 0, 0, 0, 0, 0, 0], b"", 0).good();
    let log = rig.take_log();
    assert!(log.iter().any(|l| l.starts_with("write ")), "{log:?}");
    assert_eq!(rig.peek(0, 8 << 20), vec![0; 8 << 20]);
    let status = rig.run(&mut at, &cdb16(0x9e, 0x12, 0, 256), b"", 256).good();
    assert_eq!((status.len(), status[20]), (24, 1), "one hole");
    rig.run(&mut at, &[0x48, 2, 0, 0, 0, 0, 0, 0, 8, 0], &[0; 8], 0).sense_is(5, 0x2400);
    fill(&rig, &mut at, 0, 8, 1);
    rig.run(&mut at, &[0x04, 0, 0, 0, 0, 0], b"", 0).good();
    assert_eq!(rig.peek(0, 4096), vec![0; 4096]);
    rig.run(&mut at, &[0x04, 0x10, 0, 0, 0, 0], &[0, 2, 0, 0], 0).good();
    rig.run(&mut at, &[0x04, 0x10, 0, 0, 0, 0], &[0, 8, 0, 0], 0).sense_is(5, 0x2600);
}

#[test]
fn a_fence_reaches_commands_that_wait() {
    let rig = Rig::plain();
    let mut at = rig.attach(1);
    assert!(rig.unit.set_gate(GateState::Frozen { epoch: 1 }));
    let mut task = rig.task(&mut at, &caw(0, 1), &[0; 1024], 0);
    assert!(matches!(rig.step(&mut task, Input::Start), Step::Wait));
    assert!(rig.unit.set_gate(GateState::Fenced { epoch: 2 }));
    let Step::Done(reply) = rig.step(&mut task, Input::Woken) else { panic!() };
    Answer::from(reply).sense_is(2, 0x040c);
}
