//! EXTENDED COPY and RECEIVE COPY RESULTS.

use block::{BlockDevice, GateState, IoErrorKind};
use proptest::prelude::*;

use super::*;

fn naa(n: u8) -> [u8; 16] {
    let mut naa = [n; 16];
    naa[0] = 0x60;
    naa
}

fn rig(n: u8, block_bytes: u32) -> Rig {
    Rig::sized(LuConfig { naa: naa(n), block_bytes, ..LuConfig::default() }, 8 << 20)
}

fn cscd(n: u8, block_bytes: u32) -> Vec<u8> {
    let mut d = vec![0xe4, 0, 0, 0, 1, 3, 0, 16];
    d.extend(naa(n));
    d.resize(28, 0);
    d.extend(block_bytes.to_be_bytes());
    d
}

fn blocks(source: u16, destination: u16, count: u16, from: u64, to: u64) -> Vec<u8> {
    let mut d = vec![2, 0, 0, 0x18];
    d.extend(source.to_be_bytes());
    d.extend(destination.to_be_bytes());
    d.extend([0, 0]);
    d.extend(count.to_be_bytes());
    d.extend(from.to_be_bytes());
    d.extend(to.to_be_bytes());
    d
}

/// Bytes from (LBA, offset) to (LBA, offset).
fn bytes(source: u16, destination: u16, count: u32, from: (u64, u16), to: (u64, u16)) -> Vec<u8> {
    let mut d = vec![0x0a, 0, 0, 0x1c];
    d.extend(source.to_be_bytes());
    d.extend(destination.to_be_bytes());
    d.extend(count.to_be_bytes());
    d.extend(from.0.to_be_bytes());
    d.extend(to.0.to_be_bytes());
    d.extend(from.1.to_be_bytes());
    d.extend(to.1.to_be_bytes());
    d
}

fn list(id: u8, usage: u8, cscds: &[Vec<u8>], segments: &[Vec<u8>]) -> Vec<u8> {
    let (c, s) = (cscds.concat(), segments.concat());
    let mut v = vec![id, usage << 3];
    v.extend((c.len() as u16).to_be_bytes());
    v.extend([0; 4]);
    v.extend((s.len() as u32).to_be_bytes());
    v.extend([0; 4]);
    v.extend(c);
    v.extend(s);
    v
}

fn cdb(len: usize) -> Vec<u8> {
    let mut c = vec![0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    c.extend((len as u32).to_be_bytes());
    c.extend([0, 0]);
    c
}

fn results(action: u8, id: u8) -> Vec<u8> {
    vec![0x84, action, id, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0]
}

fn copy(rig: &Rig, at: &mut ItNexusLun, list: &[u8]) -> Answer {
    rig.run(at, &cdb(list.len()), list, 0)
}

/// Runs a task whose operations go to the rig of the unit that they name; the first is the task's own.
fn run_over(rigs: &[&Rig], at: &mut ItNexusLun, list: &[u8]) -> Answer {
    let mut task = rigs[0].task(at, &cdb(list.len()), list, 0);
    let mut input = Input::Start;
    loop {
        input = match rigs[0].step(&mut task, input) {
            Step::Io { on, op } => {
                let on = on.unwrap_or_else(|| Arc::clone(&rigs[0].unit));
                rigs.iter().find(|r| Arc::ptr_eq(&r.unit, &on)).expect("another unit").io(op)
            }
            Step::Done(reply) => return reply.into(),
            other => panic!("unexpected step {other:?}"),
        };
    }
}

fn fill(rig: &Rig, offset: u64, data: &[u8]) {
    let bufs = std::iter::once(Buf::copy_of(data)).collect();
    let Input::Io { result, .. } = rig.io(IoOp::Write { offset, bufs, fua: false }) else { unreachable!() };
    result.unwrap();
}

fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(31) ^ n >> 8) as u8).collect()
}

#[test]
fn copies_blocks_within_a_unit() {
    let rig = rig(1, 512);
    let mut at = rig.attach(1);
    let data = noise(2 << 20);
    fill(&rig, 0, &data);
    let l = list(
        1,
        2,
        &[cscd(1, 512)],
        &[blocks(0, 0, 2048, 0, 8192), blocks(0, 0xffff, 2048, 2048, 8192 + 2048)],
    );
    let answer = copy(&rig, &mut at, &l);
    assert_eq!(answer.transfer_len, l.len() as u64);
    answer.good();
    assert_eq!(rig.peek(8192 * 512, 2 << 20), data);
    // Nothing to do.
    copy(&rig, &mut at, &[]).good();
    copy(&rig, &mut at, &list(0, 3, &[], &[])).good();
    copy(&rig, &mut at, &list(0, 3, &[cscd(9, 512)], &[])).good();
}

#[test]
fn copies_between_units_of_different_blocks() {
    let (one, mut two) = (rig(1, 512), rig(2, 4096));
    two.inventory.1.push(Arc::clone(&one.unit));
    let mut at = two.attach(1);
    let data = noise(64 << 10);
    fill(&one, 512 * 7, &data);
    let cscds = [cscd(1, 512), cscd(2, 4096)];
    run_over(&[&two, &one], &mut at, &list(3, 0, &cscds, &[blocks(0, 1, 128, 7, 5)])).good();
    assert_eq!(two.peek(5 * 4096, 64 << 10), data);
    // DC: the count is of the destination's blocks.
    let mut counted = blocks(0, 1, 2, 7, 100);
    counted[1] = 0x02;
    run_over(&[&two, &one], &mut at, &list(3, 0, &cscds, &[counted])).good();
    assert_eq!(two.peek(100 * 4096, 12288), [&data[..8192], &[0; 4096]].concat());
    let inexact = run_over(&[&two, &one], &mut at, &list(3, 0, &cscds, &[blocks(0, 1, 9, 0, 0)]));
    inexact.sense_is(0xa, 0x260a);
}

#[test]
fn results_are_kept_by_list_identifier_and_nexus() {
    let rig = rig(1, 512);
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    rig.run(&mut a, &results(0, 5), b"", 1024).sense_is(5, 0x2400);
    copy(&rig, &mut a, &list(5, 0, &[cscd(1, 512)], &[blocks(0, 0, 16, 0, 100)])).good();
    assert_eq!(rig.run(&mut a, &results(0, 5), b"", 1024).good(), [0, 0, 0, 8, 1, 0, 1, 0, 0, 0, 0x20, 0]);
    assert_eq!(rig.run(&mut a, &results(1, 5), b"", 1024).good(), [0; 4]);
    assert_eq!(rig.run(&mut a, &results(4, 5), b"", 1024).good(), [0; 4]);
    rig.run(&mut b, &results(0, 5), b"", 1024).sense_is(5, 0x2400);
    // The second of three segments fails.
    let l = list(
        5,
        0,
        &[cscd(1, 512)],
        &[blocks(0, 0, 1, 0, 9), blocks(0, 0, 2, 0, 16383), blocks(0, 0, 1, 0, 9)],
    );
    let failed = copy(&rig, &mut a, &l);
    failed.sense_is(0xa, 0x0000);
    assert_eq!(failed.sense[8..12], [0, 0, 0, 1], "which segment");
    assert_eq!(rig.run(&mut a, &results(0, 5), b"", 1024).good(), [0, 0, 0, 8, 2, 0, 1, 0, 0, 0, 2, 0]);
    let details = rig.run(&mut a, &results(4, 5), b"", 1024).good();
    assert_eq!(details[..4], (details.len() as u32 - 4).to_be_bytes());
    assert_eq!((details[56], &details[58..60], &details[60..]), (2, &[0, 18][..], &failed.sense[..]));
    rig.unit.detach(NexusId(1));
    let mut a = rig.attach(1);
    rig.run(&mut a, &results(0, 5), b"", 1024).sense_is(5, 0x2400);
    rig.run(&mut a, &results(2, 5), b"", 1024).sense_is(5, 0x2400);
}

#[test]
fn a_list_identifier_is_used_once_at_a_time() {
    let rig = rig(1, 512);
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    let l = list(7, 0, &[cscd(1, 512)], &[blocks(0, 0, 1, 0, 9)]);
    let mut task = rig.task(&mut a, &cdb(l.len()), &l, 0);
    let Step::Io { .. } = rig.step(&mut task, Input::Start) else { panic!("must read") };
    copy(&rig, &mut a, &l).sense_is(5, 0x0016);
    copy(&rig, &mut b, &l).good();
    assert_eq!(rig.run(&mut a, &results(0, 7), b"", 1024).good()[4..7], [0, 0, 0]);
    rig.run(&mut a, &results(1, 7), b"", 1024).sense_is(5, 0x2400);
    // Aborted: gone, and its range with it.
    drop(task);
    rig.run(&mut a, &results(0, 7), b"", 1024).sense_is(5, 0x2400);
    copy(&rig, &mut a, &l).good();
}

#[test]
fn malformed_lists_are_refused_as_a_whole() {
    let rig = rig(1, 512);
    let mut at = rig.attach(1);
    fill(&rig, 0, &[7; 512]);
    let (c, s) = (cscd(1, 512), blocks(0, 0, 1, 0, 9));
    let good = list(1, 0, std::slice::from_ref(&c), std::slice::from_ref(&s));
    for n in 1..good.len() {
        copy(&rig, &mut at, &good[..n]).sense_is(5, 0x1a00);
    }
    rig.run(&mut at, &cdb(good.len() + 1), &good, 0).sense_is(5, 0x1a00);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut l = good.clone();
        change(&mut l);
        l
    };
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("too many CSCDs", list(1, 0, &vec![c.clone(); 17], std::slice::from_ref(&s)), 0x2606),
        ("too many segments", list(1, 0, std::slice::from_ref(&c), &vec![s.clone(); 65]), 0x2608),
        ("too many bytes", list(1, 0, &vec![c.clone(); 17], &vec![s.clone(); 130]), 0x1a00),
        ("other CSCD type", with(&|l| l[16] = 0xe0), 0x2607),
        ("other segment type", with(&|l| l[48] = 3), 0x2609),
        ("segment length", with(&|l| l[51] = 0x1c), 0x2600),
        ("designator length", with(&|l| l[23] = 21), 0x2600),
        ("association", with(&|l| l[21] = 0x13), 0x2600),
        ("inline data", with(&|l| l[15] = 1), 0x260b),
        ("LIST ID USAGE 01b", with(&|l| l[1] = 0x08), 0x2600),
        ("an identifier with LIST ID USAGE 11b", with(&|l| l[1] = 0x18), 0x2600),
    ];
    for (what, l, asc) in cases {
        let answer = copy(&rig, &mut at, &l);
        assert_eq!(answer.fixed(), (5, asc), "{what}");
    }
    assert_eq!(rig.peek(9 * 512, 512), [0; 512]);
    // LU ID TYPE and NUL are obsolete.
    copy(&rig, &mut at, &with(&|l| l[17] = 0xe0)).good();
    assert_eq!(rig.peek(9 * 512, 512), [7; 512]);
}

#[test]
fn what_a_segment_cannot_reach_aborts_the_copy() {
    let rig = rig(1, 512);
    let mut at = rig.attach(1);
    let size = 16384;
    let mut tape = cscd(1, 512);
    tape[1] = 1;
    let cases = [
        ("index", cscd(1, 512), blocks(0, 1, 1, 0, 9), 0x0804),
        ("nobody", cscd(5, 512), blocks(0, 0, 1, 0, 9), 0x0d02),
        ("type", tape, blocks(0, 0, 1, 0, 9), 0x0d03),
        ("block length", cscd(1, 4096), blocks(0, 0, 1, 0, 9), 0x2600),
        ("source end", cscd(1, 512), blocks(0, 0, 2, size - 1, 9), 0),
        ("destination end", cscd(1, 512), blocks(0, 0, 2, 0, size - 1), 0),
        ("far away", cscd(1, 512), blocks(0, 0, 2, u64::MAX, 0), 0),
        ("offset", cscd(1, 512), bytes(0, 0, 1, (0, 512), (9, 0)), 0x2600),
        ("too long", cscd(1, 512), bytes(0, 0, u32::MAX, (0, 0), (9, 0)), 0x2600),
    ];
    for (what, c, s, asc) in cases {
        assert_eq!(copy(&rig, &mut at, &list(1, 0, &[c], &[s])).fixed(), (0xa, asc), "{what}");
    }
    *rig.fail.borrow_mut() = Some(IoError::new(IoErrorKind::Medium));
    let l = list(1, 0, &[cscd(1, 512)], &[blocks(0, 0, 1, 0, 9)]);
    copy(&rig, &mut at, &l).sense_is(0xa, 0x0d01);
    // The failed copy holds nothing.
    copy(&rig, &mut at, &l).good();
}

#[test]
fn a_copy_may_only_what_its_nexus_may() {
    let (one, mut two) = (rig(1, 512), rig(2, 512));
    two.inventory.1.push(Arc::clone(&one.unit));
    let (mut at, mut other) = (two.attach(1), one.attach(2));
    let cscds = [cscd(1, 512), cscd(2, 512)];
    let (pull, push) =
        (list(1, 0, &cscds, &[blocks(0, 1, 1, 0, 9)]), list(1, 0, &cscds, &[blocks(1, 0, 1, 0, 9)]));
    let go = |at: &mut ItNexusLun, l: &[u8]| run_over(&[&two, &one], at, l);
    let register = [&[0; 8][..], &7u64.to_be_bytes(), &[0; 8]].concat();
    let hold = [&7u64.to_be_bytes()[..], &[0; 16]].concat();
    one.run(&mut other, &[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], &register, 0).good();
    one.run(&mut other, &[0x5f, 1, 1, 0, 0, 0, 0, 0, 24, 0], &hold, 0).good();
    go(&mut at, &pull).good();
    go(&mut at, &push).sense_is(0xa, 0x0d01);
    one.run(&mut other, &[0x5f, 3, 0, 0, 0, 0, 0, 0, 24, 0], &hold, 0).good();
    go(&mut at, &push).good();
    one.unit.update(&LuChange { read_only: Some(true), ..LuChange::default() }).unwrap();
    go(&mut at, &push).sense_is(0xa, 0x2700);
    go(&mut at, &pull).good();
    one.unit.set_access_state(1, crate::alua::AccessState::Standby, false);
    go(&mut at, &pull).sense_is(0xa, 0x040b);
    one.unit.set_access_state(1, crate::alua::AccessState::ActiveOptimized, false);
    assert!(one.unit.set_gate(GateState::Fenced { epoch: 2 }));
    go(&mut at, &pull).sense_is(0xa, 0x0d02);
    // A frozen gate of the other unit: the copy waits for it.
    assert!(one.unit.set_gate(GateState::Frozen { epoch: 3 }));
    let mut task = two.task(&mut at, &cdb(pull.len()), &pull, 0);
    assert!(matches!(two.step(&mut task, Input::Start), Step::Wait));
    assert!(one.unit.set_gate(GateState::Open { epoch: 4 }));
    assert_eq!(two.wakes.load(Ordering::SeqCst), 1);
    let Step::Io { on: Some(on), .. } = two.step(&mut task, Input::Woken) else { panic!("must read") };
    assert!(Arc::ptr_eq(&on, &one.unit));
}

#[test]
fn an_atomic_command_on_the_range_is_waited_for() {
    let rig = rig(1, 512);
    let mut at = rig.attach(1);
    let waker = || -> Waker { Box::new(|| {}) };
    let range = |start: u64, end: u64| crate::range_lock::Range { start, end };
    let l = list(1, 0, &[cscd(1, 512)], &[blocks(0, 0, 1, 0, 9)]);
    let (source, _) = rig.unit.ranges.acquire(range(0, 512), true, &waker);
    let (destination, _) = rig.unit.ranges.acquire(range(9 * 512, 10 * 512), true, &waker);
    let mut task = rig.task(&mut at, &cdb(l.len()), &l, 0);
    assert!(matches!(rig.step(&mut task, Input::Start), Step::Wait));
    assert!(matches!(rig.step(&mut task, Input::Woken), Step::Wait), "woken for nothing");
    rig.unit.ranges.release(source);
    let Step::Io { op, .. } = rig.step(&mut task, Input::Woken) else { panic!("must read") };
    let read = rig.io(op);
    assert!(matches!(rig.step(&mut task, read), Step::Wait));
    let (free, held) = rig.unit.ranges.acquire(range(0, 512), true, &waker);
    assert!(held, "the source was let go");
    rig.unit.ranges.release(free);
    rig.unit.ranges.release(destination);
    let Step::Io { op: IoOp::Write { .. }, .. } = rig.step(&mut task, Input::Woken) else {
        panic!("must write")
    };
}

#[test]
fn says_what_it_can() {
    let rig = rig(1, 512);
    let mut at = rig.attach(1);
    let parameters = rig.run(&mut at, &results(3, 0), b"", 1024).good();
    assert_eq!(parameters.len(), 47);
    assert_eq!(parameters[..4], [0, 0, 0, 43]);
    assert_eq!(parameters[8..16], [0, 16, 0, 64, 0, 0, 16, 0]);
    assert_eq!(parameters[43..], [3, 0x02, 0x0a, 0xe4]);
    assert_eq!(rig.run(&mut at, &[0x12, 0, 0, 0, 96, 0], b"", 96).good()[5] & 0x08, 0x08, "3PC");
    let page = rig.run(&mut at, &[0x12, 1, 0x8f, 4, 0, 0], b"", 1024).good();
    assert_eq!(usize::from(u16::from_be_bytes([page[2], page[3]])), page.len() - 4);
    let mut kinds = Vec::new();
    let mut place = 4;
    while place < page.len() {
        let len = usize::from(u16::from_be_bytes([page[place + 2], page[place + 3]]));
        assert_eq!(len % 4, 0);
        kinds.push(u16::from_be_bytes([page[place], page[place + 1]]));
        place += 4 + len;
    }
    assert_eq!((place, kinds), (page.len(), vec![0x0001, 0x0004, 0x0008, 0x000c, 0x8001]));
    assert_eq!(page[8..18], [9, 0x83, 1, 0, 0x84, 4, 0, 1, 3, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes from anywhere to anywhere, overlapping or not, is what a memmove would do; nothing else changes.
    #[test]
    fn bytes_move_as_in_memory(
        len in 0..40_000u32,
        far in proptest::bool::weighted(0.1),
        from in (0..150u64, 0..512u16),
        to in (0..150u64, 0..512u16),
    ) {
        let rig = rig(1, 512);
        let mut at = rig.attach(1);
        let len = if far { len + (1 << 20) } else { len };
        let mut model = noise(2 << 20);
        fill(&rig, 0, &model);
        let l = list(1, 0, &[cscd(1, 512)], &[bytes(0, 0, len, from, to)]);
        copy(&rig, &mut at, &l).good();
        let place = |(lba, offset): (u64, u16)| lba as usize * 512 + usize::from(offset);
        model.copy_within(place(from)..place(from) + len as usize, place(to));
        prop_assert!(rig.peek(0, 2 << 20) == model);
        prop_assert_eq!(rig.device.geometry().size_bytes, 8 << 20);
    }

    #[test]
    fn arbitrary_lists_never_panic(mut l in proptest::collection::vec(any::<u8>(), 0..200), valid: bool) {
        let rig = rig(1, 512);
        let mut at = rig.attach(1);
        if valid && l.len() >= 80 {
            let header = list(1, 0, &[cscd(1, 512)], &[blocks(0, 0, 1, 0, 9)]);
            l[..16].copy_from_slice(&header[..16]);
            l[16] = 0xe4;
            l[48..52].copy_from_slice(&header[48..52]);
        }
        let _ = copy(&rig, &mut at, &l);
    }
}
