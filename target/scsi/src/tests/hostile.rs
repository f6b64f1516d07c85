//! Whatever an initiator sends: nothing panics, every command ends, and no reply is longer than what is taken.

use block::IoErrorKind;
use proptest::prelude::*;

use super::*;
use crate::opcodes;

/// A CDB of the table with random fields, most of them where fields are, or random bytes.
fn cdb() -> impl Strategy<Value = Vec<u8>> {
    let listed = (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 16), 0..10u8).prop_map(
        |(index, noise, mode)| {
            let table: Vec<_> = opcodes::table().collect();
            let usage = table[index.index(table.len())].usage;
            let mut c: Vec<u8> = usage
                .iter()
                .zip(&noise)
                .enumerate()
                .map(|(at, (u, n))| match (at, mode) {
                    (0, _) => *u,
                    // Small addresses and lengths, so that they are in range.
                    (2..=8, 0..=5) if usage.len() == 16 => 0,
                    (2..=4, 0..=5) => 0,
                    (_, 9) => *n,
                    _ => u & n,
                })
                .collect();
            if let Some(action) = table[index.index(table.len())].service_action {
                c[1] = (c[1] & 0xe0) | action as u8;
            }
            if mode != 9
                && let Some(control) = c.last_mut()
            {
                *control = 0;
            }
            c
        },
    );
    prop_oneof![8 => listed, 1 => prop::collection::vec(any::<u8>(), 0..40)]
}

/// Write data: nothing, whole blocks, or random bytes, some with a plausible header.
fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        (0..8usize, any::<u8>()).prop_map(|(n, b)| vec![b; n * 512]),
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(0..20u8, 0..64),
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    cdb: Vec<u8>,
    out: Vec<u8>,
    expected_in: u32,
    fails: bool,
    second: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let expected_in = prop_oneof![Just(0), 1..600u32, Just(65536), Just(u32::MAX)];
    (cdb(), data(), expected_in, prop::bool::weighted(0.05), any::<bool>())
        .prop_map(|(cdb, out, expected_in, fails, second)| Sent { cdb, out, expected_in, fails, second })
}

fn rig(kind: u8) -> Rig {
    let base = LuConfig::default();
    Rig::sized(
        match kind {
            0 => base,
            1 => LuConfig { thin: true, ..base },
            2 => LuConfig { removable: true, descriptor_sense: true, ..base },
            3 => LuConfig { read_only: true, write_cache: false, ..base },
            _ => LuConfig { block_bytes: 4096, thin: true, ..base },
        },
        1 << 20,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_sent_breaks_anything(kind in 0..5u8, commands in prop::collection::vec(sent(), 1..60)) {
        let rig = rig(kind);
        let mut nexuses = [rig.attach_anyhow(1), rig.attach_anyhow(2)];
        for sent in commands {
            if sent.fails {
                *rig.fail.borrow_mut() = Some(IoErrorKind::Medium.into());
            }
            let at = &mut nexuses[usize::from(sent.second)];
            let answer = rig.run(at, &sent.cdb, &sent.out, sent.expected_in);
            *rig.fail.borrow_mut() = None;
            prop_assert!(answer.data.len() as u64 <= answer.transfer_len, "{:02x?}", sent);
            prop_assert_eq!(answer.status == Status::CheckCondition, !answer.sense.is_empty(), "{:02x?}", sent);
            prop_assert!(answer.sense.len() <= 252);
            rig.take_log();
        }
        // Whatever was reserved, ejected or failed: INQUIRY is answered.
        let inquiry = rig.run(&mut nexuses[0], &[0x12, 0, 0, 0, 96, 0], b"", 96);
        prop_assert_eq!(inquiry.good().len(), 96);
    }

    #[test]
    fn nowhere_is_answered_too(cdb in cdb(), expected_in in 0..300u32) {
        let inventory = TestInventory(vec![0, 1 << 48], Vec::new());
        let answer = Answer::from(no_such_lun(&Rig::command(&cdb, b"", expected_in), &inventory));
        prop_assert!(answer.data.len() <= expected_in as usize);
    }

    /// A task may be dropped between any two steps: its range is free afterwards.
    #[test]
    fn a_task_that_is_dropped_leaves_nothing_behind(sent in sent(), steps in 0..6usize) {
        let rig = rig(1);
        let mut at = rig.attach(1);
        let mut task = rig.task(&mut at, &sent.cdb, &sent.out, sent.expected_in);
        let mut input = Input::Start;
        for _ in 0..steps {
            input = match rig.step(&mut task, input) {
                Step::Io { op, .. } => rig.io(op),
                Step::Persist => Input::Persisted(Ok(())),
                Step::Abort(_) => Input::Aborted,
                Step::Reply(_) => Input::Replied,
                Step::Pause(_) => Input::Woken,
                Step::Wait | Step::Done(_) | Step::Finished => break,
            };
        }
        drop(task);
        prop_assert!(rig.unit.ranges.is_free());
        prop_assert_eq!(rig.unit.atomic_begun(), rig.unit.atomic_ended());
    }
}
