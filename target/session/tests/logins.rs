//! Logins: stages, refusals, CHAP, long text, reinstatement, several connections, handover.

#![allow(clippy::unwrap_used)]

mod common;
use common::*;

use iscsi::chap::{Algorithm, InitiatorAuth, Progress};
use iscsi::pdu::*;
use iscsi::text::{Repeats, Text, TextLimits, TextWriter};
use target_session::*;

use LoginStage::{FullFeature, Operational, Security};

/// Logs in from the security stage with CHAP; the last response.
fn chap(w: &mut World, i: &mut Ini, mut auth: InitiatorAuth, names: &[(&str, &str)]) -> LoginResponse {
    let mut out = TextWriter::new();
    out.pair("InitiatorName", INITIATOR);
    names.iter().for_each(|(k, v)| out.pair(k, v));
    auth.start(&mut out);
    let mut transit = None;
    loop {
        let (pdu, answer) = i.login_step(w, Security, transit, out.as_bytes());
        if !pdu.status.is_success() || pdu.transit.is_some() {
            return pdu;
        }
        let text = Text::parse(answer.into_bytes(), TextLimits::NEGOTIATION, Repeats::Refused).unwrap();
        let keys: Vec<_> = text
            .iter()
            .filter_map(|(k, v)| Some((iscsi::params::Key::parse(k)?, v)))
            .filter(|(k, _)| k.rule() == iscsi::params::Rule::Security)
            .collect();
        out = TextWriter::new();
        let progress = auth.step(&keys, &mut w.rng, &mut out).unwrap();
        // The proof of the initiator goes out with T.
        transit =
            (progress == Progress::Done || out.as_bytes().starts_with(b"CHAP_N")).then_some(FullFeature);
    }
}

fn status_of(data: &[u8], stage: LoginStage) -> LoginStatus {
    let mut w = World::new();
    status_in(&mut w, data, stage)
}

fn status_in(w: &mut World, data: &[u8], stage: LoginStage) -> LoginStatus {
    let mut i = Ini::new(w);
    let (pdu, _) = i.login_step(w, stage, Some(FullFeature), data);
    assert_eq!(w.closed(i.conn), !pdu.status.is_success());
    pdu.status
}

#[test]
fn one_request_and_its_answers() {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    let answer =
        i.login(&mut w, &[("MaxBurstLength", "65536"), ("X-com.example.key", "1"), ("IFMarker", "Yes")]);
    for expected in [
        "TargetPortalGroupTag=1\0",
        "TargetAlias=a disk\0",
        "MaxBurstLength=65536\0",
        "X-com.example.key=NotUnderstood\0",
    ] {
        assert!(answer.contains(expected), "{expected} in {answer}");
    }
    let id = w.session_up();
    let s = w.m.session(id).unwrap();
    assert_eq!(
        (s.tid, s.key.initiator.as_str(), s.connections.len(), s.params.max_burst_len),
        (1, INITIATOR, 1, 65536)
    );
    assert_eq!(s.tsih, i.tsih);
    i.logout(&mut w, LogoutReason::CloseSession, 0);
    let Response::Logout(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!(p.response, LogoutResponse::Success);
    assert!(w.session_down());
    w.assert_empty();
}

#[test]
fn all_stages() {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    let mut data = text(&NAMES);
    data.extend(text(&[("AuthMethod", "CHAP,None")]));
    let (pdu, answer) = i.login_step(&mut w, Security, Some(Operational), &data);
    assert_eq!((pdu.stage, pdu.transit, pdu.tsih), (Security, Some(Operational), 0));
    assert!(answer.contains("AuthMethod=None\0"));
    let (pdu, _) = i.login_step(&mut w, Operational, None, &text(&[("InitialR2T", "Yes")]));
    assert_eq!((pdu.stage, pdu.transit), (Operational, None));
    let (pdu, _) = i.login_step(&mut w, Operational, Some(FullFeature), &[]);
    assert_eq!((pdu.transit, pdu.tsih), (Some(FullFeature), 1));
    w.session_up();
}

#[test]
fn refusals() {
    let names = text(&NAMES);
    assert_eq!(status_of(&text(&NAMES[1..]), Operational), LoginStatus::MissingParameter);
    assert_eq!(status_of(&text(&NAMES[..1]), Operational), LoginStatus::MissingParameter);
    assert_eq!(status_of(b"junk", Operational), LoginStatus::InitiatorError);
    let other = text(&[NAMES[0], ("TargetName", "iqn.2001-04.com.example:none")]);
    assert_eq!(status_of(&other, Operational), LoginStatus::NotFound);
    let kind = text(&[NAMES[0], NAMES[1], ("SessionType", "Strange")]);
    assert_eq!(status_of(&kind, Operational), LoginStatus::SessionTypeNotSupported);
    let twice = text(&[NAMES[0], NAMES[1], NAMES[0]]);
    assert_eq!(status_of(&twice, Operational), LoginStatus::InitiatorError);
    for (no, status) in [
        (LoginRefusal::Removed, LoginStatus::TargetRemoved),
        (LoginRefusal::NotAuthorized, LoginStatus::AuthorizationFailure),
        (LoginRefusal::Unavailable, LoginStatus::ServiceUnavailable),
        (LoginRefusal::OutOfResources, LoginStatus::OutOfResources),
    ] {
        let mut w = World::new();
        w.dir.0.borrow_mut().refuse = Some(no);
        assert_eq!(status_in(&mut w, &names, Operational), status);
        w.assert_empty();
    }
}

#[test]
fn redirection() {
    for (permanent, status) in [(false, LoginStatus::MovedTemporarily), (true, LoginStatus::MovedPermanently)]
    {
        let mut w = World::new();
        let to = PortalAddress::Socket("[fe80::1]:3261".parse().unwrap());
        w.dir.0.borrow_mut().refuse = Some(LoginRefusal::Redirect { to, permanent });
        let mut i = Ini::new(&mut w);
        let (pdu, answer) = i.login_step(&mut w, Operational, Some(FullFeature), &text(&NAMES));
        assert_eq!((pdu.status, answer.as_str()), (status, "TargetAddress=[fe80::1]:3261\0"));
        assert!(w.closed(i.conn));
    }
}

#[test]
fn requests_that_are_none() {
    let mut w = World::new();
    // A SCSI command before the login.
    let mut i = Ini::new(&mut w);
    let c = i.read10(512);
    i.start(&mut w, c);
    let (pdu, _) = i.login_answer(&mut w);
    assert_eq!(pdu.status, LoginStatus::InvalidDuringLogin);
    // A version that nobody speaks; a stage that is none; fields that change on the way.
    let mut i = Ini::new(&mut w);
    let mut pdu = i.login_request(Operational, None, false);
    (pdu.version_min, pdu.version_max) = (1, 2);
    w.send(i.conn, &wire(&Request::Login(pdu), &[], &text(&NAMES), false, false));
    assert_eq!(i.login_answer(&mut w).0.status, LoginStatus::UnsupportedVersion);
    let mut i = Ini::new(&mut w);
    let mut bytes = wire(&Request::Login(i.login_request(Operational, None, false)), &[], &[], false, false);
    bytes[1] = 0x08;
    w.send(i.conn, &bytes);
    assert_eq!(i.login_answer(&mut w).0.status, LoginStatus::InitiatorError);
    let mut i = Ini::new(&mut w);
    i.login_step(&mut w, Operational, None, &text(&NAMES));
    i.isid[5] = 9;
    assert_eq!(i.login_step(&mut w, Operational, None, &[]).0.status, LoginStatus::InitiatorError);
    let mut i = Ini::new(&mut w);
    i.login_step(&mut w, Operational, None, &text(&NAMES));
    assert_eq!(i.login_step(&mut w, Security, None, &[]).0.status, LoginStatus::InitiatorError);
    let mut i = Ini::new(&mut w);
    i.tsih = 77;
    let (pdu, _) = i.login_step(&mut w, Operational, None, &text(&NAMES));
    assert_eq!(pdu.status, LoginStatus::SessionDoesNotExist);
    w.assert_empty();
}

#[test]
fn too_slow_too_long_too_many() {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    i.login_step(&mut w, Operational, None, &text(&NAMES));
    w.wait(14);
    assert!(!w.closed(i.conn));
    w.wait(2);
    assert!(w.closed(i.conn));
    let mut i = Ini::new(&mut w);
    i.login_step(&mut w, Operational, None, &text(&NAMES));
    let last =
        (0..70).map(|_| i.login_step(&mut w, Operational, None, &[]).0.status).find(|s| !s.is_success());
    assert_eq!(last, Some(LoginStatus::InitiatorError));
    // Text without end.
    let i = Ini::new(&mut w);
    for _ in 0..20 {
        if !w.closed(i.conn) {
            let pdu = Request::Login(i.login_request(Operational, None, true));
            w.send(i.conn, &wire(&pdu, &[], &[b'a'; 8000], false, false));
        }
    }
    assert!(w.closed(i.conn));
    // More than fits into a login segment.
    let i = Ini::new(&mut w);
    let pdu = Request::Login(i.login_request(Operational, None, false));
    w.send(i.conn, &wire(&pdu, &[], &[b'a'; 9000], false, false));
    assert!(w.closed(i.conn));
    let limits = MachineConfig { unauthenticated_max: 2, connections_max: 3, ..MachineConfig::default() };
    let mut w = World::with(Dir::new(), limits);
    let mut a = Ini::new(&mut w);
    w.connect();
    let peer =
        PeerInfo { peer: "1.1.1.1:1".parse().unwrap(), local: "1.1.1.2:1".parse().unwrap(), portal_group: 1 };
    assert_eq!(w.m.accept(cx!(w), peer), Err(Refused::TooManyUnauthenticated(2)));
    a.login(&mut w, &[]);
    w.connect();
    assert_eq!(w.m.accept(cx!(w), peer), Err(Refused::TooManyConnections(3)));
}

#[test]
fn long_text_both_ways() {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    // Unknown keys are answered one by one: 400 of them give an answer of more than 8192 bytes.
    let keys: Vec<String> = (0..400).map(|n| format!("X-com.example.key{n}")).collect();
    let mut data = text(&NAMES);
    for k in &keys {
        data.extend(text(&[(k, "1")]));
    }
    let pieces: Vec<&[u8]> = data.chunks(3000).collect();
    let mut answer = String::new();
    for (n, piece) in pieces.iter().enumerate() {
        let last = n + 1 == pieces.len();
        let pdu = i.login_request(Operational, last.then_some(FullFeature), !last);
        w.send(i.conn, &wire(&Request::Login(pdu), &[], piece, false, false));
        let (pdu, data) = i.login_answer(&mut w);
        assert_eq!((pdu.continues, data.is_empty()), (last, !last));
        answer += &data;
    }
    loop {
        let (pdu, data) = i.login_step(&mut w, Operational, Some(FullFeature), &[]);
        answer += &data;
        assert_eq!(pdu.transit.is_some(), !pdu.continues);
        if !pdu.continues {
            break;
        }
    }
    assert_eq!(answer.matches("=NotUnderstood\0").count(), 400);
    w.session_up();
}

#[test]
fn chap_one_way_and_mutual() {
    for algorithm in Algorithm::ALL {
        let mut w = World::new();
        w.dir.0.borrow_mut().auth = AuthPolicy {
            incoming: vec![account("bob", "secret-of-bob-1"), account("eve", "another-secret")],
            outgoing: Some(account("target", "secret-of-target")),
            algorithms: vec![],
        };
        let names = &NAMES[1..];
        let user = Some(account("bob", "secret-of-bob-1"));
        let mut i = Ini::new(&mut w);
        let auth = InitiatorAuth::new(user.clone(), None, &[algorithm]).unwrap();
        assert_eq!(chap(&mut w, &mut i, auth, names).transit, Some(FullFeature));
        w.session_up();
        let mut i = Ini::new(&mut w);
        i.isid[5] = 2;
        let peer = Some(account("target", "secret-of-target"));
        let auth = InitiatorAuth::new(user, peer, &[algorithm]).unwrap();
        assert_eq!(chap(&mut w, &mut i, auth, names).transit, Some(FullFeature));
        w.session_up();
        let mut i = Ini::new(&mut w);
        let auth = InitiatorAuth::new(Some(account("bob", "wrong")), None, &[algorithm]).unwrap();
        assert_eq!(chap(&mut w, &mut i, auth, names).status, LoginStatus::AuthenticationFailure);
    }
}

#[test]
fn authentication_cannot_be_gone_around() {
    let required = || {
        let w = World::new();
        w.dir.0.borrow_mut().auth.incoming = vec![account("bob", "secret-of-bob-1")];
        w
    };
    let names = text(&NAMES);
    let mut none = names.clone();
    none.extend(text(&[("AuthMethod", "None")]));
    for (data, stage) in [(&names, Operational), (&names, Security), (&none, Security)] {
        let mut w = required();
        assert_eq!(status_in(&mut w, data, stage), LoginStatus::AuthenticationFailure);
        w.assert_empty();
    }
    // In the middle of CHAP, T is not granted.
    let mut w = required();
    let mut i = Ini::new(&mut w);
    let mut data = names.clone();
    data.extend(text(&[("AuthMethod", "CHAP")]));
    let (pdu, _) = i.login_step(&mut w, Security, Some(FullFeature), &data);
    assert_eq!((pdu.status, pdu.transit), (LoginStatus::Success, None));
    let (pdu, _) = i.login_step(&mut w, Security, Some(Operational), &text(&[("CHAP_A", "5")]));
    assert_eq!((pdu.status, pdu.transit), (LoginStatus::Success, None));
    let (pdu, _) = i.login_step(&mut w, Operational, Some(FullFeature), &[]);
    assert!(!pdu.status.is_success());
    w.assert_empty();
}

#[test]
fn discovery() {
    let mut w = World::new();
    w.dir.0.borrow_mut().discovery.incoming = vec![account("disco", "secret-of-disco")];
    let mut i = Ini::new(&mut w);
    let auth = InitiatorAuth::new(Some(account("disco", "secret-of-disco")), None, &[]).unwrap();
    let pdu = chap(&mut w, &mut i, auth, &[("SessionType", "Discovery")]);
    assert_eq!(pdu.transit, Some(FullFeature));
    assert_ne!(pdu.tsih, 0);
    assert!(w.actions.is_empty(), "a discovery session is no session of a target");
    let ask = |i: &mut Ini, w: &mut World, what: &str, ttt: Tag| {
        let pdu = TextRequest {
            immediate: false,
            final_: true,
            continues: false,
            lun: 0,
            itt: Tag(7),
            ttt,
            cmd_sn: iscsi::serial::Serial(i.cmd_sn),
            exp_stat_sn: iscsi::serial::Serial(i.exp_stat_sn),
            data_len: 0,
        };
        i.cmd_sn += 1;
        let data = if what == "-" { vec![] } else { text(&[("SendTargets", what)]) };
        i.send(w, &Request::Text(pdu), &data);
        let (Response::Text(p), data) = i.recv(w) else { panic!() };
        (p, String::from_utf8(data).unwrap())
    };
    let all = format!("TargetName={TARGET}\0TargetAddress=10.0.0.1:3260,1\0");
    assert_eq!(ask(&mut i, &mut w, "All", Tag::RESERVED).1, all);
    assert_eq!(ask(&mut i, &mut w, TARGET, Tag::RESERVED).1, all);
    assert_eq!(ask(&mut i, &mut w, "iqn.2001-04.com.example:no", Tag::RESERVED).1, "");
    assert_eq!(ask(&mut i, &mut w, "", Tag::RESERVED).1, "SendTargets=Reject\0");
    // A long list comes in pieces.
    let portal = PortalAddress::Host("san.example.com".into(), 3260);
    w.dir.0.borrow_mut().listing = (0..500)
        .map(|n| TargetListing {
            name: format!("iqn.2001-04.com.example:t{n}"),
            portals: vec![(portal.clone(), 1)],
        })
        .collect();
    let (mut p, mut list) = ask(&mut i, &mut w, "All", Tag::RESERVED);
    let mut pieces = 1;
    while p.continues {
        assert!(!p.final_ && !p.ttt.is_reserved());
        let (next, more) = ask(&mut i, &mut w, "-", p.ttt);
        (p, pieces) = (next, pieces + 1);
        list += &more;
    }
    assert!(p.final_ && p.ttt.is_reserved() && pieces > 3);
    assert_eq!(list.matches("TargetAddress=san.example.com:3260,1\0").count(), 500);
    // No commands here.
    let c = i.read10(512);
    i.start(&mut w, c);
    assert!(matches!(i.recv(&mut w).0, Response::Reject(_)) && w.closed(i.conn));
    // In a normal session: the own target only.
    let (mut w, mut i, _) = logged_in(&[]);
    assert_eq!(ask(&mut i, &mut w, "All", Tag::RESERVED).1, "SendTargets=Reject\0");
    assert_eq!(ask(&mut i, &mut w, "", Tag::RESERVED).1, all);
}

#[test]
fn session_reinstatement_waits_for_the_old_tasks() {
    let (mut w, mut old, first) = logged_in(&[]);
    let read = old.read10(512);
    old.start(&mut w, read);
    let (task, ..) = w.executed();
    let mut new = Ini::new(&mut w);
    new.send_login(&mut w, Operational, Some(FullFeature), &text(&NAMES));
    assert!(w.closed(old.conn));
    assert!(new.silent(&w), "the old session's task still runs");
    assert!(
        matches!(w.action(|a| matches!(a, Action::AbortTask { .. })), Some(Action::AbortTask { task: t }) if t == task)
    );
    w.m.task_aborted(cx!(w), task);
    w.turn();
    let order: Vec<bool> =
        w.actions.iter().map(|a| matches!(a, Action::SessionDown { session } if *session == first)).collect();
    assert_eq!(order, [true, false]);
    let mut answer = new.login_answer(&mut w).0;
    if answer.transit.is_none() {
        answer = new.login_step(&mut w, Operational, Some(FullFeature), &[]).0;
    }
    assert_eq!(answer.transit, Some(FullFeature));
    assert_ne!(answer.tsih, 0);
    assert!(w.session_down());
    w.session_up();
    w.m.task_done(
        cx!(w),
        task,
        scsi::Reply { status: scsi::Status::Good, sense: None, data_in: scsi::DataIn::None, transfer_len: 0 },
    );
    w.turn();
    assert!(new.silent(&w), "a stale id is ignored");
}

fn second(w: &mut World, i: &Ini, cid: u16) -> Ini {
    let mut j = Ini::new(w);
    (j.tsih, j.cid, j.cmd_sn) = (i.tsih, cid, i.cmd_sn);
    j
}

#[test]
fn several_connections() {
    let (mut w, mut i, s) = logged_in(&[("MaxConnections", "2"), ("ImmediateData", "Yes")]);
    let mut j = second(&mut w, &i, 1);
    j.login(&mut w, &[]);
    assert_eq!(w.m.session(s).unwrap().connections.len(), 2);
    let third = second(&mut w, &i, 2).login_step(&mut w, Operational, Some(FullFeature), &text(&NAMES)).0;
    assert_eq!(third.status, LoginStatus::TooManyConnections);
    // Commands on both, in the order of CmdSN whatever the order of arrival.
    let first = i.read10(512);
    j.cmd_sn = i.cmd_sn;
    let mut late = j.write10(100);
    late.itt = Tag(1000);
    j.send(&mut w, &Request::ScsiCommand(late), &pattern(100));
    assert_eq!(w.executes(), 0, "an earlier command is missing");
    i.start(&mut w, first);
    assert_eq!(w.executes(), 2);
    let (t1, _, c1) = w.executed();
    let (t2, _, c2) = w.executed();
    assert_eq!((c1.cdb[0], c2.cdb[0]), (0x28, 0x2a));
    assert!(bytes_of(&c2) == pattern(100));
    w.good(t2, &[], 100);
    w.good(t1, &pattern(512), 512);
    assert_eq!(j.recv_scsi(&mut w).0.itt, Tag(1000));
    i.recv_data(&mut w);
    // A logout of one connection leaves the other.
    j.logout(&mut w, LogoutReason::CloseConnection, 1);
    let Response::Logout(p) = j.recv(&mut w).0 else { panic!() };
    assert_eq!(p.response, LogoutResponse::Success);
    assert!(w.closed(j.conn) && !w.closed(i.conn));
    i.logout(&mut w, LogoutReason::CloseConnection, 9);
    let Response::Logout(p) = i.recv(&mut w).0 else { panic!() };
    assert_eq!(p.response, LogoutResponse::CidNotFound);
}

#[test]
fn connection_reinstatement() {
    let (mut w, mut i, s) = logged_in(&[("MaxConnections", "2")]);
    let read = i.read10(512);
    i.start(&mut w, read);
    let (task, ..) = w.executed();
    let mut again = second(&mut w, &i, 0);
    again.send_login(&mut w, Operational, Some(FullFeature), &text(&NAMES));
    assert!(w.closed(i.conn) && again.silent(&w));
    w.m.task_aborted(cx!(w), task);
    w.turn();
    let mut answer = again.login_answer(&mut w).0;
    if answer.transit.is_none() {
        answer = again.login_step(&mut w, Operational, Some(FullFeature), &[]).0;
    }
    assert_eq!((answer.transit, answer.tsih), (Some(FullFeature), i.tsih));
    assert!(!w.session_down());
    assert_eq!(w.m.session(s).unwrap().connections.len(), 1);
    let read = again.read10(512);
    again.start(&mut w, read);
    let (task, ..) = w.executed();
    w.good(task, &pattern(512), 512);
    again.recv_data(&mut w);
}

#[test]
fn a_lost_connection_takes_the_session_along_at_level_0() {
    let (mut w, i, _) = logged_in(&[("MaxConnections", "2")]);
    let mut j = second(&mut w, &i, 1);
    j.login(&mut w, &[]);
    w.m.conn_failed(cx!(w), j.conn);
    w.turn();
    assert!(w.closed(i.conn) && w.session_down());
    w.assert_empty();
}

#[test]
fn handover_to_the_thread_of_the_session() {
    let dir = Dir::new();
    let mut a = World::with(dir.clone(), MachineConfig { thread: 0, ..MachineConfig::default() });
    let mut b = World::with(dir, MachineConfig { thread: 1, ..MachineConfig::default() });
    let mut i = Ini::new(&mut a);
    i.login(&mut a, &[("MaxConnections", "4")]);
    let id = a.session_up();
    // The second connection comes to the other thread, with its names in two pieces.
    let mut j = second(&mut b, &i, 1);
    let data = text(&NAMES);
    let pdu = j.login_request(Operational, None, true);
    b.send(j.conn, &wire(&Request::Login(pdu), &[], &data[..30], false, false));
    let (first, _) = j.login_answer(&mut b);
    let pdu = j.login_request(Operational, Some(FullFeature), false);
    b.send(j.conn, &wire(&Request::Login(pdu), &[], &data[30..], false, false));
    assert!(j.silent(&b));
    let Some(Action::Handover { conn, thread }) = b.actions.pop() else { panic!() };
    assert_eq!((conn, thread), (j.conn, 0));
    let transfer = b.m.extract(conn).unwrap();
    let peer =
        PeerInfo { peer: "1.1.1.1:1".parse().unwrap(), local: "1.1.1.2:1".parse().unwrap(), portal_group: 1 };
    let there = a.m.adopt(cx!(a), peer, transfer).unwrap();
    a.wires.insert(there, Wire::default());
    a.turn();
    j.conn = there;
    assert_eq!(j.exp_stat_sn, first.sn.stat_sn.0 + 1);
    let mut answer = j.login_answer(&mut a).0;
    if answer.transit.is_none() {
        answer = j.login_step(&mut a, Operational, Some(FullFeature), &[]).0;
    }
    assert_eq!((answer.transit, answer.tsih), (Some(FullFeature), i.tsih));
    assert_eq!(a.m.session(id).unwrap().connections.len(), 2);
}
