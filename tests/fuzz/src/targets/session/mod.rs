//! The target's session machine under an initiator and an engine that do whatever they like: it must not panic, must close
//! every connection and session once, must give every buffer back, and must only send what parses.
//!
//! The input is a program of small operations (see [`operate`]); raw bytes are one of them, and PDUs whose numbers nearly fit
//! another, since random bytes would hardly ever pass the login.

mod world;

use iscsi::pdu::Opcode;
use target_session::{AsyncEvent, CloseHow, TmfResponse};

use crate::Target;
use world::World;

/// A byte that chooses policy and login; then operations.
pub const TARGET: Target = Target {
    name: "session",
    about: "the session machine: logins, commands, data, task management, recovery, management",
    input_bytes_max: 8192,
    run,
};

const OPCODES: [Opcode; 8] = [
    Opcode::ScsiCommand,
    Opcode::DataOut,
    Opcode::NopOut,
    Opcode::TmfRequest,
    Opcode::TextRequest,
    Opcode::LoginRequest,
    Opcode::LogoutRequest,
    Opcode::Snack,
];

fn run(input: &[u8]) {
    let Some((&choice, mut rest)) = input.split_first() else { return };
    let mut world = World::new(choice);
    while let [op, tail @ ..] = rest {
        rest = operate(&mut world, *op, tail);
        world.turn();
    }
    world.finish();
}

/// Takes up to `n` bytes.
fn take(rest: &[u8], n: usize) -> (&[u8], &[u8]) {
    rest.split_at(rest.len().min(n))
}

/// Does one operation, whose kind is the low 4 bits of `op` and whose connection (or task) is the high 4 bits; what is left of
/// the input.
fn operate<'i>(world: &mut World, op: u8, rest: &'i [u8]) -> &'i [u8] {
    let which = usize::from(op >> 4);
    match op & 15 {
        // Half of all: a PDU. What it is, its flags, how its number fits, its tag, its data's length, and one more.
        0..=6 => {
            let ([kind, flags, number, tag, len, extra], rest) = fixed(rest);
            let (data, rest) = take(rest, usize::from(len));
            world.send_pdu(
                which,
                OPCODES[usize::from(kind & 7)],
                kind & 0x40 != 0,
                [flags, number, tag, extra],
                data,
            );
            rest
        }
        7 => {
            let ([len], rest) = fixed(rest);
            let (bytes, rest) = take(rest, usize::from(len));
            world.send(which, bytes);
            rest
        }
        8 | 9 => {
            let ([how, len], rest) = fixed(rest);
            world.finish_task(which, how, u32::from(len) * 64);
            rest
        }
        10 => {
            let ([how], rest) = fixed(rest);
            let response = match how & 3 {
                0 => TmfResponse::LunDoesNotExist,
                1 => TmfResponse::NotSupported,
                2 => TmfResponse::Rejected,
                _ => TmfResponse::Complete,
            };
            world.finish_tmf(which, response);
            rest
        }
        11 => {
            let ([seconds], rest) = fixed(rest);
            world.wait(u64::from(seconds));
            rest
        }
        12 => {
            world.connect();
            rest
        }
        13 => {
            let ([how], rest) = fixed(rest);
            world.lose(which, how & 1 != 0);
            rest
        }
        14 => {
            let ([rx, tx], rest) = fixed(rest);
            world.chunks(usize::from(rx) * 16, usize::from(tx) * 16);
            rest
        }
        _ => {
            let ([how, seconds], rest) = fixed(rest);
            match how & 7 {
                0 => world.close_session(which, CloseHow::DropNow),
                1 => world.close_session(which, CloseHow::AsyncLogout { seconds: seconds.into() }),
                2 => world.drop_connection(which),
                3 => world.send_async(
                    which,
                    AsyncEvent::Scsi { lun: 1 << 48, sense: vec![0x70; usize::from(seconds)] },
                ),
                4 => world.send_async(which, AsyncEvent::TasksTerminated { lun: 1 << 48 }),
                _ => world.abort_tasks(which, (how & 8 != 0).then_some(u64::from(seconds & 3) << 48)),
            }
            rest
        }
    }
}

/// The next `N` bytes, zeroes where the input ends.
fn fixed<const N: usize>(rest: &[u8]) -> ([u8; N], &[u8]) {
    let (head, tail) = take(rest, N);
    let mut out = [0; N];
    out[..head.len()].copy_from_slice(head);
    (out, tail)
}
