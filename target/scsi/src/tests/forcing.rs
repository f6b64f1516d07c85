use super::*;
use block::IoErrorKind;

const SYNC: [u8; 10] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn every_nexus_hears_once_of_a_failed_flush() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    *rig.fail.borrow_mut() = Some(IoErrorKind::Medium.into());
    rig.run(&mut a, &SYNC, b"", 0).sense_is(3, 0x0c00);
    rig.run(&mut a, &SYNC, b"", 0).good();
    rig.run(&mut b, &SYNC, b"", 0).sense_is(3, 0x0c00);
    rig.run(&mut b, &SYNC, b"", 0).good();
    // Who comes after the failure has lost nothing.
    rig.run(&mut rig.attach(3), &SYNC, b"", 0).good();
}

#[test]
fn a_flush_that_runs_while_another_fails_is_no_success() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    let mut slow = rig.task(&mut b, &SYNC, b"", 0);
    let Step::Io { op, .. } = rig.step(&mut slow, Input::Start) else { panic!("no flush") };
    *rig.fail.borrow_mut() = Some(IoErrorKind::NoSpace.into());
    assert_eq!(rig.run(&mut a, &SYNC, b"", 0).status, Status::CheckCondition);
    let input = rig.io(op);
    assert!(matches!(rig.step(&mut slow, input), Step::Done(r) if r.status == Status::CheckCondition));
}

#[test]
fn a_failed_flush_whose_command_was_aborted_is_told_of_too() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    let mut aborted = rig.task(&mut a, &SYNC, b"", 0);
    assert!(matches!(rig.step(&mut aborted, Input::Start), Step::Io { .. }));
    aborted.ended_aborted(Err(IoErrorKind::Medium.into()));
    drop(aborted);
    rig.run(&mut a, &SYNC, b"", 0).sense_is(3, 0x0c00);
    rig.run(&mut b, &SYNC, b"", 0).sense_is(3, 0x0c00);
    rig.run(&mut b, &SYNC, b"", 0).good();
}

#[test]
fn a_failed_fua_write_and_a_port_that_was_away() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    rig.run(&mut b, &SYNC, b"", 0).good();
    rig.unit.detach(NexusId(2));
    *rig.fail.borrow_mut() = Some(IoErrorKind::Medium.into());
    let write = [0x2a, 0x08, 0, 0, 0, 0, 0, 0, 1, 0];
    rig.run(&mut a, &write, &[1; 512], 0).sense_is(3, 0x0c00);
    let mut b = rig.attach(2);
    rig.run(&mut b, &SYNC, b"", 0).sense_is(3, 0x0c00);
    rig.run(&mut b, &SYNC, b"", 0).good();
    // A write that is not forced says nothing about others.
    *rig.fail.borrow_mut() = Some(IoErrorKind::Medium.into());
    rig.run(&mut a, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[1; 512], 0).sense_is(3, 0x0c00);
    rig.run(&mut b, &SYNC, b"", 0).good();
}
