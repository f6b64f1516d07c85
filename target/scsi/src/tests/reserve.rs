//! Reservations and access states as initiators meet them.

use super::*;
use crate::alua::AccessState;
use crate::opcodes::{self, Access};
use crate::reservation::{RULES, Rule, Selector};

const TUR: [u8; 6] = [0; 6];

fn prout(action: u8, kind: u8) -> Vec<u8> {
    vec![0x5f, action, kind, 0, 0, 0, 0, 0, 24, 0]
}

fn keys(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut v = [key.to_be_bytes(), action_key.to_be_bytes()].concat();
    v.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    v
}

#[track_caller]
fn conflict(a: &Answer) {
    assert_eq!(a.status, Status::ReservationConflict, "{a:02x?}");
    assert!(a.sense.is_empty() && a.data.is_empty());
}

/// Every command has its rows in the reservation table, and they say what its entry says: what passes by class passes by row.
#[test]
fn the_command_table_and_the_reservation_table_agree() {
    for e in opcodes::table() {
        let mut rows: Vec<&Rule> = RULES.iter().filter(|r| r.opcode == e.opcode).collect();
        if let Some(action) = e.service_action {
            rows.retain(|r| !matches!(r.selector, Selector::Action(a) if u16::from(a) != action));
            rows.truncate(1);
        }
        assert!(!rows.is_empty(), "{} has no row", e.name);
        let columns = |r: &Rule| (r.legacy, r.write_exclusive, r.exclusive_access);
        if let Some(write) = e.class() {
            assert!(rows.iter().all(|r| columns(r) == (false, !write, false)), "{}", e.name);
        }
        let strictest = rows.iter().map(|r| columns(r)).min().unwrap_or_default();
        match e.access {
            Access::Always => assert!(strictest.1 && strictest.2, "{}", e.name),
            Access::Own => assert!(rows.len() > 1 || strictest == (true, true, true), "{}", e.name),
            Access::Read => assert!(strictest <= (false, true, false), "{}", e.name),
            Access::Write => assert_eq!(strictest, (false, false, false), "{}", e.name),
        }
    }
}

#[test]
fn a_reservation_stops_others_at_once_and_its_end_lets_them_go() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    let (read, write) = (cdb10(0x28, 0, 0, 1), cdb10(0x2a, 0, 0, 1));
    // The fast path of both classes is warm.
    for at in [&mut a, &mut b] {
        rig.run(at, &read, b"", 512).good();
        rig.run(at, &write, &[1; 512], 0).good();
    }
    let registered = rig.run(&mut a, &prout(6, 0), &keys(0, 7, 0), 0);
    assert_eq!(registered.transfer_len, 24);
    registered.good();
    rig.run(&mut a, &prout(1, 1), &keys(7, 0, 0), 0).good();
    conflict(&rig.run(&mut b, &write, &[2; 512], 0));
    for _ in 0..2 {
        rig.run(&mut b, &read, b"", 512).good();
        conflict(&rig.run(&mut b, &write, &[2; 512], 0));
    }
    rig.run(&mut a, &write, &[3; 512], 0).good();
    rig.run(&mut a, &prout(2, 1), &keys(7, 0, 0), 0).good();
    rig.run(&mut a, &prout(1, 3), &keys(7, 0, 0), 0).good();
    conflict(&rig.run(&mut b, &read, b"", 512));
    rig.run(&mut b, &TUR, b"", 0).good();
    rig.run(&mut b, &[0x12, 0, 0, 0, 36, 0], b"", 36).good();
    assert_eq!(rig.peek(0, 512), [3; 512]);
    rig.run(&mut a, &prout(3, 0), &keys(7, 0, 0), 0).good();
    rig.run(&mut b, &write, &[4; 512], 0).good();
}

#[test]
fn attentions_come_in_the_order_of_the_architecture() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    rig.run(&mut a, &prout(6, 0), &keys(0, 7, 0), 0).good();
    rig.run(&mut b, &prout(6, 0), &keys(0, 8, 0), 0).good();
    rig.run(&mut a, &prout(1, 6), &keys(7, 0, 0), 0).good();
    rig.run(&mut a, &prout(4, 1), &keys(7, 7, 0), 0).good();
    // The type changed: b is told, but first what it asks for conflicts.
    conflict(&rig.run(&mut b, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0));
    rig.unit.reset(ResetKind::LogicalUnit);
    rig.run(&mut b, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).sense_is(6, 0x2903);
    conflict(&rig.run(&mut b, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0));
    rig.run(&mut a, &TUR, b"", 0).sense_is(6, 0x2903);
    rig.run(&mut a, &prout(3, 0), &keys(7, 0, 0), 0).good();
    rig.run(&mut b, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).sense_is(6, 0x2a03);
    rig.run(&mut b, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).good();
}

#[test]
fn preempt_and_abort_waits_for_the_victims_and_for_the_medium() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    rig.run(&mut a, &prout(0, 0), &keys(0, 7, 1), 0).good();
    rig.run(&mut b, &prout(0, 0), &keys(0, 8, 1), 0).good();
    assert_eq!(*rig.persisted.borrow(), 2);
    rig.run(&mut a, &prout(1, 3), &keys(7, 0, 0), 0).good();
    let mut task = rig.task(&mut b, &prout(5, 1), &keys(8, 7, 0), 0);
    assert!(matches!(rig.step(&mut task, Input::Start), Step::Persist), "the medium first");
    assert!(task.outlives_abort(), "what was changed becomes durable whatever happens to the command");
    let before = rig.unit.durable_state();
    let mut report = rig.task(&mut b, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0], b"", 64);
    assert!(
        matches!(rig.step(&mut report, Input::Start), Step::Persist),
        "nothing is told that a crash takes back"
    );
    let step = rig.step(&mut task, Input::Persisted(Ok(())));
    let Step::Abort(victims) = step else { panic!("must abort") };
    assert_eq!(victims, Victims::Nexuses(vec![NexusId(1)]));
    let Step::Done(reply) = rig.step(&mut report, Input::Persisted(Ok(()))) else { panic!("must be told") };
    assert_eq!(Answer::from(reply).data[4..16], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 8]);
    conflict(&rig.run(&mut a, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0));
    let Step::Done(reply) = rig.step(&mut task, Input::Aborted) else { panic!("must be done") };
    Answer::from(reply).good();
    rig.run(&mut a, &TUR, b"", 0).sense_is(6, 0x2a05);

    let other = Rig::plain();
    other.unit.restore(&before).unwrap();
    assert_eq!(other.unit.durable_state(), before);
    let mut a = other.attach(1);
    conflict(&other.run(&mut a, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0));
    let mut b = other.attach(2);
    other.run(&mut b, &cdb10(0x2a, 0, 0, 1), &[1; 512], 0).good();
}

#[test]
fn what_cannot_be_made_durable_is_an_error_and_is_tried_again() {
    let rig = Rig::plain();
    let mut a = rig.attach(1);
    let failed = || Input::Persisted(Err(IoError::new(block::IoErrorKind::NoSpace)));
    let mut task = rig.task(&mut a, &prout(0, 0), &keys(0, 7, 1), 0);
    assert!(matches!(rig.step(&mut task, Input::Start), Step::Persist));
    let Step::Done(reply) = rig.step(&mut task, failed()) else { panic!("must be done") };
    Answer::from(reply).sense_is(4, 0x4400);
    // RELEASE of nothing changes nothing, but finds that the registration is not written.
    rig.run(&mut a, &prout(2, 1), &keys(7, 0, 0), 0).good();
    assert_eq!(*rig.persisted.borrow(), 1);
    rig.run(&mut a, &prout(2, 1), &keys(7, 0, 0), 0).good();
    assert_eq!(*rig.persisted.borrow(), 1);
}

#[test]
fn a_damaged_state_is_refused_with_a_reason() {
    let rig = Rig::plain();
    for (bytes, text) in [
        (&b""[..], "not a unit's state"),
        (b"{}{", "not a unit's state"),
        (br#"{"persistent_reservations":null,"x":1}"#, "unknown field"),
        (
            br#"{"persistent_reservations":{"version":9,"registrations":[],"reservation":null}}"#,
            "version 9 is not known",
        ),
    ] {
        let error = rig.unit.restore(bytes).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
    rig.unit.restore(&rig.unit.durable_state()).unwrap();
}

#[test]
fn scsi2_reservations_end_with_their_nexus_and_with_resets() {
    let rig = Rig::plain();
    let (mut a, mut b) = (rig.attach(1), rig.attach(2));
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    rig.run(&mut a, &reserve, b"", 0).good();
    conflict(&rig.run(&mut b, &reserve, b"", 0));
    conflict(&rig.run(&mut b, &TUR, b"", 0));
    conflict(&rig.run(&mut b, &[0x1a, 0, 0x3f, 0, 255, 0], b"", 255));
    rig.run(&mut b, &release, b"", 0).good();
    conflict(&rig.run(&mut b, &cdb10(0x28, 0, 0, 1), b"", 512));
    rig.unit.detach(NexusId(1));
    rig.run(&mut b, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"", 0).good();
    let mut a = rig.attach_quietly(1);
    conflict(&rig.run(&mut a, &TUR, b"", 0));
    rig.unit.reset(ResetKind::TargetWarm);
    rig.run(&mut a, &TUR, b"", 0).sense_is(6, 0x2902);
    rig.run(&mut a, &reserve, b"", 0).good();
    for bad in [0x10, 0x01, 0x0e] {
        rig.run(&mut a, &[0x16, bad, 0, 0, 0, 0], b"", 0).sense_is(5, 0x2400);
    }
}

#[test]
fn persistent_reserve_in_has_four_service_actions() {
    let rig = Rig::plain();
    let mut a = rig.attach(1);
    for action in 0..32u8 {
        let answer = rig.run(&mut a, &[0x5e, action, 0, 0, 0, 0, 0, 0x40, 0, 0], b"", 0x4000);
        if action < 4 {
            assert!(answer.good().len() >= 8);
        } else {
            answer.sense_is(5, 0x2400);
        }
    }
    rig.run(&mut a, &prout(8, 0), &keys(0, 0, 0), 0).sense_is(5, 0x2400);
}

#[test]
fn parameter_lists_of_every_length_are_answered() {
    let rig = Rig::plain();
    let mut a = rig.attach(1);
    for n in 0..40u8 {
        for declared in [n, n + 1] {
            let mut cdb = prout(6, 0);
            cdb[8] = declared;
            let answer = rig.run(&mut a, &cdb, &vec![0; n.into()], 0);
            if (n, declared) == (24, 24) {
                answer.good();
            } else {
                answer.sense_is(5, 0x1a00);
            }
        }
    }
    let mut huge = prout(7, 0);
    huge[5..9].fill(0xff);
    rig.run(&mut a, &huge, &[0; 24], 0).sense_is(5, 0x1a00);
}

#[test]
fn access_states_refuse_and_tell() {
    let rig = Rig::plain();
    let mut a = rig.attach(1);
    rig.unit.set_port_groups(&[1, 2]);
    let read = cdb10(0x28, 0, 0, 1);
    rig.run(&mut a, &read, b"", 512).good();
    for (state, asc) in [
        (AccessState::Standby, 0x040b),
        (AccessState::Unavailable, 0x040c),
        (AccessState::Transitioning, 0x040a),
    ] {
        rig.unit.set_access_state(1, state, false);
        assert_eq!(rig.unit.access_state(1), state);
        rig.run(&mut a, &[0x12, 0, 0, 0, 36, 0], b"", 36).good();
        rig.run(&mut a, &TUR, b"", 0).sense_is(6, 0x2a06);
        rig.run(&mut a, &TUR, b"", 0).sense_is(2, asc);
        rig.run(&mut a, &read, b"", 512).sense_is(2, asc);
        let groups = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0];
        let report = rig.run(&mut a, &groups, b"", 64).good();
        assert_eq!((report.len(), report[4], report[16]), (28, state as u8, 0));
    }
    // Back, by the initiator itself: others are told, it is not.
    rig.unit.set_access_state(1, AccessState::Standby, true);
    let mut b = rig.attach_quietly(2);
    rig.run(&mut a, &TUR, b"", 0).sense_is(6, 0x2a06);
    let set = [0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    rig.run(&mut a, &set, &[0, 0, 0, 0, 1, 0, 0, 1], 0).good();
    rig.run(&mut a, &read, b"", 512).good();
    rig.run(&mut b, &TUR, b"", 0).sense_is(6, 0x2a06);
    let extended = rig.run(&mut a, &[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], b"", 64).good();
    assert_eq!(
        (extended[4], extended[8], extended[13]),
        (0x10, 0x81, 1),
        "preferred, non-optimized, explicit"
    );
    rig.run(&mut a, &[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0], b"", 64).sense_is(5, 0x2400);
    rig.run(&mut a, &set, &[0, 0, 0, 0, 0xf, 0, 0, 1], 0).sense_is(5, 0x2600);
    rig.unit.set_access_modes(true, false);
    rig.run(&mut a, &TUR, b"", 0).sense_is(6, 0x3f03);
    rig.run(&mut a, &set, &[0, 0, 0, 0, 0, 0, 0, 1], 0).sense_is(5, 0x2400);
}

/// Two threads: what begins after RESERVE was answered, and before RELEASE was sent, never passes.
#[test]
fn no_write_slips_past_a_reservation_on_another_thread() {
    let rig = Rig::plain();
    let (unit, rounds) = (Arc::clone(&rig.unit), 300);
    // Odd while the reservation is surely there.
    let phase = AtomicUsize::new(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    let (mut holder, mut other) = (rig.attach(1), rig.attach(2));
    let first = |at: &mut ItNexusLun, cdb: &[u8], out: &[u8]| -> Step {
        let inventory = TestInventory(Vec::new(), Vec::new());
        let waker = || -> Waker { Box::new(|| {}) };
        let pool = Pool::default();
        let mut task = Task::new(at, Rig::command(cdb, out, 0), &inventory);
        task.step(&StepContext { now: Mono::ZERO, pool: &pool, waker: &waker }, Input::Start)
    };
    let good = |step: Step| matches!(step, Step::Done(Reply { status: Status::Good, .. }));
    assert!(good(first(&mut holder, &prout(6, 0), &keys(0, 7, 0))));
    let (passed, stopped) = std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..rounds {
                assert!(good(first(&mut holder, &prout(1, 3), &keys(7, 0, 0))));
                phase.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
                phase.fetch_add(1, Ordering::SeqCst);
                assert!(good(first(&mut holder, &prout(2, 3), &keys(7, 0, 0))));
            }
            over.store(true, Ordering::SeqCst);
        });
        let writer = threads.spawn(|| {
            let (mut passed, mut stopped) = (0, 0);
            // Bounded, should the other thread fail.
            for _ in 0..20_000_000 {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let before = phase.load(Ordering::SeqCst);
                let step = first(&mut other, &cdb10(0x2a, 0, 0, 1), &[1; 512]);
                let after = phase.load(Ordering::SeqCst);
                match step {
                    Step::Io { .. } => {
                        assert!(
                            before != after || before.is_multiple_of(2),
                            "a write passed the reservation"
                        );
                        passed += 1;
                    }
                    Step::Done(reply) => {
                        assert_eq!(reply.status, Status::ReservationConflict);
                        stopped += 1;
                    }
                    step => panic!("unexpected {step:?}"),
                }
            }
            (passed, stopped)
        });
        writer.join().unwrap()
    });
    assert!(passed + stopped > 0, "the writer never ran");
    assert!(unit.lock().reservations.check().is_ok());
}
