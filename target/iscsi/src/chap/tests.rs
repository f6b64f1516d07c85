//! Vectors, both ends against each other, and every way to fail.

use super::*;
use crate::text::{Repeats, Text, TextLimits};
use base::random::SeededRandom;
use proptest::prelude::*;

fn account(user: &str, secret: &str) -> Account {
    Account { user: user.into(), secret: secret.into() }
}

fn parse(out: &TextWriter) -> Text {
    Text::parse(out.as_bytes().to_vec(), TextLimits::NEGOTIATION, Repeats::Refused).unwrap()
}

fn keys(text: &Text) -> Vec<(Key, &str)> {
    text.iter().map(|(key, value)| (Key::parse(key).unwrap(), value)).collect()
}

/// Runs both ends to the end.
fn run(initiator: &mut InitiatorAuth, target: &mut TargetAuth, seed: u64) -> Result<(), AuthError> {
    let (mut theirs, mut ours) = (SeededRandom::new(seed), SeededRandom::new(seed + 1));
    let mut to_target = TextWriter::new();
    initiator.start(&mut to_target);
    for _ in 0..4 {
        let mut to_initiator = TextWriter::new();
        let done = target.step(&keys(&parse(&to_target)), &mut ours, &mut to_initiator)?;
        to_target = TextWriter::new();
        if !to_initiator.is_empty() {
            initiator.step(&keys(&parse(&to_initiator)), &mut theirs, &mut to_target)?;
        }
        if done == Progress::Done {
            assert!(target.is_satisfied());
            return Ok(());
        }
        assert!(!target.is_satisfied());
    }
    panic!("never done");
}

/// Computed with Python's hashlib.
#[test]
fn vectors() {
    let challenge: Vec<u8> = (0..16).collect();
    for (algorithm, expected) in [
        (Algorithm::Md5, "0x49e7f627124cba1f274909b861b0cbe1"),
        (Algorithm::Sha1, "0x14e7e58c20826ac7260a67b038a56a23d0ca0447"),
        (Algorithm::Sha256, "0x4524f542abfff61b87b0ea74a3efd35b329e25e01edad7e096601d3b17d6b17c"),
        (Algorithm::Sha3_256, "0x5f9598f7439c1ede3cf1b8bc20dfb011c151111f553c79db83d491048b949deb"),
    ] {
        let response = algorithm.response(0x5a, b"a secret of 16 b", &challenge);
        assert_eq!(Hex(&response).to_string(), expected);
        assert_eq!(response.len(), algorithm.digest_len());
        assert_eq!(Algorithm::from_code(algorithm.code().into()), Some(algorithm));
    }
    assert_eq!(Algorithm::from_code(9), None);
}

#[test]
fn every_algorithm_one_way_and_mutual() {
    for algorithm in Algorithm::ALL {
        for target_account in [None, Some(account("target", "another secret"))] {
            let alice = account("alice", "alices own secret");
            let mut i =
                InitiatorAuth::new(Some(alice.clone()), target_account.clone(), &[algorithm]).unwrap();
            let mut t = TargetAuth::new(vec![account("bob", "x"), alice], target_account, &[]);
            run(&mut i, &mut t, 5).unwrap();
            assert_eq!(t.user(), Some("alice"));
        }
    }
}

#[test]
fn picks_by_the_targets_preference() {
    let mut t = TargetAuth::new(vec![account("a", "b")], None, &[Algorithm::Sha256, Algorithm::Md5]);
    let mut out = TextWriter::new();
    let mut random = SeededRandom::new(1);
    t.step(&[(Key::AuthMethod, "KRB5,CHAP,None")], &mut random, &mut out).unwrap();
    t.step(&[(Key::ChapA, "5,0x7,99,x")], &mut random, &mut out).unwrap();
    let text = parse(&out);
    assert_eq!(text.get("AuthMethod"), Some("CHAP"));
    assert_eq!(text.get("CHAP_A"), Some("7"));
    assert_eq!(value::binary(text.get("CHAP_C").unwrap(), 1024).unwrap().len(), 32);
}

#[test]
fn without_accounts_nobody_is_asked() {
    let mut t = TargetAuth::new(vec![], None, &[]);
    assert!(t.is_satisfied());
    let mut random = SeededRandom::new(1);
    let mut out = TextWriter::new();
    assert_eq!(t.step(&[], &mut random, &mut out), Ok(Progress::Done));
    assert_eq!(t.step(&[(Key::AuthMethod, "CHAP,None")], &mut random, &mut out), Ok(Progress::Done));
    assert_eq!(out.as_bytes(), b"AuthMethod=None\0");
    let mut t = TargetAuth::new(vec![], None, &[]);
    let error = t.step(&[(Key::AuthMethod, "CHAP")], &mut random, &mut out).unwrap_err();
    assert_eq!(error.login_status(), LoginStatus::AuthenticationFailure);
    run(&mut InitiatorAuth::new(None, None, &[]).unwrap(), &mut TargetAuth::new(vec![], None, &[]), 1)
        .unwrap();
}

#[test]
fn with_accounts_everybody_is() {
    let mut random = SeededRandom::new(1);
    let mut t = TargetAuth::new(vec![account("a", "b")], None, &[]);
    assert_eq!(t.step(&[], &mut random, &mut TextWriter::new()), Ok(Progress::Continue));
    assert!(!t.is_satisfied());
    let error = run(&mut InitiatorAuth::new(None, None, &[]).unwrap(), &mut t, 1).unwrap_err();
    assert!(matches!(error, AuthError::NoMethod { ours: "CHAP", .. }));
    assert!(!t.is_satisfied());
    assert_eq!(t.step(&[], &mut random, &mut TextWriter::new()), Err(AuthError::Over));
}

#[test]
fn unknown_user_and_wrong_secret_look_the_same() {
    let attempt = |user: &str, secret: &str| {
        let mut t = TargetAuth::new(vec![account("alice", "right")], None, &[]);
        let error = run(&mut InitiatorAuth::new(Some(account(user, secret)), None, &[]).unwrap(), &mut t, 9)
            .unwrap_err();
        assert!(!t.is_satisfied() && t.user().is_none());
        assert_eq!(error.login_status(), LoginStatus::AuthenticationFailure);
        error
    };
    assert_eq!(attempt("alice", "wrong"), AuthError::Refused("alice".into()));
    assert_eq!(attempt("mallory", "right"), AuthError::Refused("mallory".into()));
    assert_eq!(attempt("alic", "right"), AuthError::Refused("alic".into()));
    assert_eq!(attempt("mallory", "nobody's secret."), AuthError::Refused("mallory".into()));
}

/// A target that has sent its challenge, and what it sent.
fn challenged(outgoing: Option<Account>) -> (TargetAuth, Text) {
    let mut t = TargetAuth::new(vec![account("alice", "right")], outgoing, &[Algorithm::Md5]);
    let mut out = TextWriter::new();
    let mut random = SeededRandom::new(4);
    t.step(&[(Key::AuthMethod, "CHAP")], &mut random, &mut TextWriter::new()).unwrap();
    t.step(&[(Key::ChapA, "5")], &mut random, &mut out).unwrap();
    (t, parse(&out))
}

fn right_response(challenge: &Text) -> String {
    let identifier = value::number(challenge.get("CHAP_I").unwrap()).unwrap() as u8;
    let bytes = value::binary(challenge.get("CHAP_C").unwrap(), 1024).unwrap();
    value::Base64(&Algorithm::Md5.response(identifier, b"right", &bytes)).to_string()
}

#[test]
fn base64_is_taken() {
    let (mut t, sent) = challenged(None);
    let response = right_response(&sent);
    let keys = [(Key::ChapN, "alice"), (Key::ChapR, &response)];
    assert_eq!(t.step(&keys, &mut SeededRandom::new(1), &mut TextWriter::new()), Ok(Progress::Done));
}

#[test]
fn reflection_is_refused() {
    let (mut t, sent) = challenged(Some(account("t", "other")));
    let response = right_response(&sent);
    let keys = [
        (Key::ChapN, "alice"),
        (Key::ChapR, &response),
        (Key::ChapI, "1"),
        (Key::ChapC, sent.get("CHAP_C").unwrap()),
    ];
    let mut out = TextWriter::new();
    assert_eq!(t.step(&keys, &mut SeededRandom::new(1), &mut out), Err(AuthError::Reflected));
    assert!(out.is_empty() && !t.is_satisfied());
}

#[test]
fn one_secret_for_both_directions_is_refused() {
    let both = account("t", "right");
    assert_eq!(
        InitiatorAuth::new(Some(account("alice", "right")), Some(both.clone()), &[]).unwrap_err(),
        AuthError::SameSecret
    );
    let (mut t, sent) = challenged(Some(both));
    let response = right_response(&sent);
    let keys = [(Key::ChapN, "alice"), (Key::ChapR, &response), (Key::ChapI, "1"), (Key::ChapC, "0x0102")];
    let mut out = TextWriter::new();
    assert_eq!(t.step(&keys, &mut SeededRandom::new(1), &mut out), Err(AuthError::SameSecret));
    assert!(out.is_empty());
}

#[test]
fn a_target_does_not_prove_itself_to_an_impostor() {
    let (mut t, _) = challenged(Some(account("t", "other")));
    let wrong = Hex(&[0; 16]).to_string();
    let keys = [(Key::ChapN, "alice"), (Key::ChapR, &wrong), (Key::ChapI, "1"), (Key::ChapC, "0x0102")];
    let mut out = TextWriter::new();
    assert_eq!(t.step(&keys, &mut SeededRandom::new(1), &mut out), Err(AuthError::Refused("alice".into())));
    assert!(out.is_empty());
}

#[test]
fn an_impostor_target_is_refused() {
    for (target, expected) in [
        (account("target", "wrong"), AuthError::Refused("target".into())),
        (account("other", "proof"), AuthError::Refused("other".into())),
    ] {
        let alice = account("alice", "right");
        let mut i = InitiatorAuth::new(Some(alice.clone()), Some(account("target", "proof")), &[]).unwrap();
        assert_eq!(run(&mut i, &mut TargetAuth::new(vec![alice], Some(target), &[]), 3), Err(expected));
    }
    // One that says that none is needed.
    let mut i = InitiatorAuth::new(Some(account("a", "b")), Some(account("t", "s")), &[]).unwrap();
    i.start(&mut TextWriter::new());
    let error = i.step(&[(Key::AuthMethod, "None")], &mut SeededRandom::new(1), &mut TextWriter::new());
    assert!(matches!(error, Err(AuthError::NoMethod { ours: "CHAP", .. })));
    // One that has nothing to show.
    let alice = account("alice", "right");
    let mut i = InitiatorAuth::new(Some(alice.clone()), Some(account("t", "s")), &[]).unwrap();
    assert_eq!(
        run(&mut i, &mut TargetAuth::new(vec![alice], None, &[]), 3),
        Err(AuthError::NoOutgoingAccount)
    );
}

#[test]
fn malformed_steps() {
    let (t, sent) = challenged(None);
    let response = right_response(&sent);
    let long = Hex(&[1; 1025]).to_string();
    let r = response.as_str();
    let cases: &[(&[(Key, &str)], LoginStatus)] = &[
        (&[], LoginStatus::MissingParameter),
        (&[(Key::ChapR, r)], LoginStatus::MissingParameter),
        (&[(Key::ChapN, "alice")], LoginStatus::MissingParameter),
        (&[(Key::ChapN, "alice"), (Key::ChapR, "12")], LoginStatus::InitiatorError),
        (&[(Key::ChapN, "alice"), (Key::ChapR, "0x")], LoginStatus::InitiatorError),
        (&[(Key::ChapN, "alice"), (Key::ChapR, &long)], LoginStatus::InitiatorError),
        (&[(Key::ChapN, "alice"), (Key::ChapR, "0x01")], LoginStatus::AuthenticationFailure),
        (&[(Key::ChapN, "alice"), (Key::ChapR, r), (Key::ChapI, "1")], LoginStatus::MissingParameter),
        (&[(Key::ChapN, "alice"), (Key::ChapR, r), (Key::ChapC, "0x1")], LoginStatus::MissingParameter),
        (
            &[(Key::ChapN, "alice"), (Key::ChapR, r), (Key::ChapI, "256"), (Key::ChapC, "0x1")],
            LoginStatus::InitiatorError,
        ),
        (
            &[(Key::ChapN, "alice"), (Key::ChapR, r), (Key::ChapI, "1"), (Key::ChapC, "0x1")],
            LoginStatus::AuthenticationFailure,
        ),
        (&[(Key::ChapN, "alice"), (Key::ChapR, r), (Key::ChapA, "5")], LoginStatus::InitiatorError),
        (&[(Key::AuthMethod, "None")], LoginStatus::InitiatorError),
    ];
    for (keys, status) in cases {
        let mut t = t.clone();
        let error = t.step(keys, &mut SeededRandom::new(1), &mut TextWriter::new()).unwrap_err();
        assert_eq!(error.login_status(), *status, "{keys:?}: {error}");
        assert!(!t.is_satisfied());
        assert_eq!(t.step(keys, &mut SeededRandom::new(1), &mut TextWriter::new()), Err(AuthError::Over));
    }
    let mut t = TargetAuth::new(vec![account("a", "b")], None, &[Algorithm::Sha1]);
    t.step(&[(Key::AuthMethod, "CHAP")], &mut SeededRandom::new(1), &mut TextWriter::new()).unwrap();
    let error =
        t.step(&[(Key::ChapA, "5,7")], &mut SeededRandom::new(1), &mut TextWriter::new()).unwrap_err();
    assert_eq!(error, AuthError::NoAlgorithm { theirs: "5,7".into(), ours: "6".into() });
}

#[test]
fn secrets_are_not_shown() {
    let t = TargetAuth::new(vec![account("alice", "hushhush")], Some(account("t", "hushhush")), &[]);
    let i = InitiatorAuth::new(Some(account("alice", "hushhush")), None, &[]).unwrap();
    let shown = format!("{t:?} {i:?} {:?}", account("alice", "hushhush"));
    assert!(shown.contains("alice") && !shown.contains("hush"), "{shown}");
    assert!(!shown.contains(&format!("{:?}", b"hushhush")), "{shown}");
}

proptest! {
    /// Nothing but the secret gets in.
    #[test]
    fn only_the_secret_passes(a in "[ -~]{1,20}", b in "[ -~]{1,20}", seed in any::<u64>()) {
        let seed = seed / 2;
        let mut t = TargetAuth::new(vec![account("alice", &a)], None, &[]);
        let mut i = InitiatorAuth::new(Some(account("alice", &b)), None, &[]).unwrap();
        prop_assert_eq!(run(&mut i, &mut t, seed).is_ok(), a == b);
        prop_assert_eq!(t.is_satisfied(), a == b);
    }

    #[test]
    fn never_panics(steps in proptest::collection::vec(proptest::collection::vec((7usize..13, "[0-9a-zA-Z,=+/]{0,9}|CHAP|None|0x[0-9a-f]{1,40}|5|alice"), 0..5), 0..5), initiator in any::<bool>()) {
        let mut t = TargetAuth::new(vec![account("alice", "right")], Some(account("t", "s")), &[]);
        let mut i = InitiatorAuth::new(Some(account("alice", "right")), Some(account("t", "s")), &[]).unwrap();
        i.start(&mut TextWriter::new());
        for step in &steps {
            let keys: Vec<(Key, &str)> = step.iter().map(|(key, value)| (Key::ALL[*key], value.as_str())).collect();
            let mut out = TextWriter::new();
            let mut random = SeededRandom::new(1);
            let result = if initiator { i.step(&keys, &mut random, &mut out) } else { t.step(&keys, &mut random, &mut out) };
            if result.is_err() {
                break;
            }
        }
        prop_assert!(!t.is_satisfied());
    }
}
