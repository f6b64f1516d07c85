//! Authentication: nobody gets in but by the right response.

use base::random::SeededRandom;
use iscsi::chap::{Account, Algorithm, InitiatorAuth, TargetAuth};
use iscsi::params::Key;
use iscsi::text::value::{self, Hex};
use iscsi::text::{Repeats, Text, TextLimits, TextWriter};

use crate::Target;

/// A byte that chooses the role; then texts, each ended by an empty line. The value `$R` stands for the right response to the
/// challenge that the machine sent last.
pub const TARGET: Target = Target {
    name: "chap",
    about: "AuthMethod and CHAP, of target and initiator",
    input_bytes_max: 4096,
    run,
};

const SECRET: &[u8] = b"open sesame 1234";
const RIGHT: &str = "$R";

fn account(user: &str, secret: &[u8]) -> Account {
    Account { user: user.into(), secret: secret.into() }
}

enum Side {
    Target(TargetAuth),
    Initiator(InitiatorAuth),
}

fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first() else { return };
    // Challenges hang on the input, so that no input can learn the response to one of them.
    let seed =
        rest.iter().fold(u64::from(choice), |seed, &b| (seed ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mut random = SeededRandom::new(seed);
    let (ours, theirs) = (account("alice", SECRET), account("target", b"another secret!!"));
    let mut side = match choice & 1 {
        0 => Side::Target(TargetAuth::new(
            vec![account("bob", b"x"), ours],
            (choice & 2 != 0).then_some(theirs),
            &[],
        )),
        _ => {
            let Ok(mut auth) = InitiatorAuth::new(Some(theirs), Some(ours), &[]) else { return };
            auth.start(&mut TextWriter::new());
            Side::Initiator(auth)
        }
    };
    let mut challenge: Option<Text> = None;
    let mut right = false;
    for step in rest.split(|&b| b == b'\n') {
        let Ok(text) = Text::parse(step.to_vec(), TextLimits::NEGOTIATION, Repeats::Refused) else {
            continue;
        };
        let response = challenge.as_ref().and_then(right_response);
        let mut keys: Vec<(Key, &str)> = Vec::new();
        for (name, value) in text.iter() {
            let Some(key) = Key::parse(name) else { continue };
            match (&response, value) {
                (Some(response), RIGHT) if key == Key::ChapR => {
                    right = true;
                    keys.push((key, response));
                }
                _ => keys.push((key, value)),
            }
        }
        let mut out = TextWriter::new();
        let done = match &mut side {
            Side::Target(auth) => {
                let result = auth.step(&keys, &mut random, &mut out);
                assert_eq!(auth.is_satisfied(), result == Ok(iscsi::chap::Progress::Done));
                assert!(!auth.is_satisfied() || auth.user() == Some("alice"));
                result
            }
            Side::Initiator(auth) => auth.step(&keys, &mut random, &mut out),
        };
        match done {
            Ok(iscsi::chap::Progress::Done) => {
                assert!(right, "in without the right response");
                return;
            }
            Ok(_) => {}
            Err(error) => {
                // An input that holds the word may see it again, as a user's name for one.
                let said = rest.windows(6).any(|word| word == b"sesame");
                assert!(said || !error.to_string().contains("sesame"), "a secret in an error: {error}");
                assert!(!error.login_status().is_success());
                assert!(out.is_empty(), "nothing is said beside an error");
                return;
            }
        }
        challenge = Text::parse(out.as_bytes().to_vec(), TextLimits::NEGOTIATION, Repeats::Refused).ok();
        assert!(challenge.is_some(), "what is sent can be read");
    }
}

fn right_response(sent: &Text) -> Option<String> {
    let identifier = u8::try_from(value::number(sent.get("CHAP_I")?)?).ok()?;
    let challenge = value::binary(sent.get("CHAP_C")?, 1024)?;
    // An initiator's challenge comes without CHAP_A; the length tells enough, as its input chose it.
    let algorithm = match sent.get("CHAP_A") {
        Some(code) => Algorithm::from_code(value::number(code)?)?,
        None => Algorithm::ALL.into_iter().find(|a| a.digest_len() == challenge.len())?,
    };
    Some(Hex(&algorithm.response(identifier, SECRET, &challenge)).to_string())
}
