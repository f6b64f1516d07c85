//! Each rule, and random sequences against the invariants.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::TargetPort;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const IGNORE: u8 = 6;
const MOVE: u8 = 7;

const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

fn port(n: u8) -> InitiatorPort {
    InitiatorPort { name: format!("iqn.2003-01.host:{}", n / 2), isid: [0x40, 0, 0, 0, 0, n % 2] }
}

fn nexus(n: u8, portal_group: u16) -> Nexus {
    Nexus {
        id: NexusId(u64::from(n) << 16 | u64::from(portal_group)),
        initiator: Arc::new(port(n)),
        target: Arc::new(TargetPort { name: "iqn.2003-01.target:t".into(), portal_group }),
    }
}

fn basic(key: u64, action_key: u64, flags: u8) -> Vec<u8> {
    let mut v = key.to_be_bytes().to_vec();
    v.extend(action_key.to_be_bytes());
    v.extend([0, 0, 0, 0, flags, 0, 0, 0]);
    v
}

fn cdb(action: u8, kind: u8, len: usize) -> [u8; 10] {
    let mut c = [0x5f, action, kind, 0, 0, 0, 0, 0, 0, 0];
    c[5..9].copy_from_slice(&(len as u32).to_be_bytes());
    c
}

type Outcome = Result<Effect, Refusal>;

fn out(r: &mut Reservations, who: &Nexus, action: u8, kind: u8, key: u64, action_key: u64) -> Outcome {
    let data = basic(key, action_key, 0);
    raw(r, who, action, kind, &data)
}

fn raw(r: &mut Reservations, who: &Nexus, action: u8, kind: u8, data: &[u8]) -> Outcome {
    let result = r.persistent_out(who, &cdb(action, kind, data.len()), data);
    assert_eq!(r.check(), Ok(()));
    result
}

fn fetch(r: &Reservations, who: &Nexus, action: u8) -> Vec<u8> {
    r.persistent_in(who, &[0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0]).unwrap()
}

fn keys(r: &Reservations, who: &Nexus) -> Vec<u64> {
    let bytes = fetch(r, who, 0);
    assert_eq!(u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize, bytes.len() - 8);
    bytes[8..].chunks(8).map(|c| u64::from_be_bytes(c.try_into().unwrap())).collect()
}

fn generation(r: &Reservations, who: &Nexus) -> u32 {
    u32::from_be_bytes(fetch(r, who, 0)[..4].try_into().unwrap())
}

/// The reservation as READ RESERVATION tells it: key and type.
fn reserved_as(r: &Reservations, who: &Nexus) -> Option<(u64, u8)> {
    let bytes = fetch(r, who, 1);
    (bytes.len() > 8).then(|| {
        assert_eq!((bytes.len(), bytes[7]), (24, 16));
        (u64::from_be_bytes(bytes[8..16].try_into().unwrap()), bytes[21])
    })
}

/// Three nexuses, registered with the keys 1, 2, 3.
fn three() -> (Reservations, [Nexus; 3]) {
    let mut r = Reservations::default();
    let n = [nexus(0, 1), nexus(1, 1), nexus(2, 1)];
    for (i, who) in n.iter().enumerate() {
        r.attach(who);
        out(&mut r, who, REGISTER, 0, 0, i as u64 + 1).unwrap();
    }
    (r, n)
}

#[test]
fn register_follows_table_61() {
    let mut r = Reservations::default();
    let a = nexus(0, 1);
    r.attach(&a);
    assert_eq!(out(&mut r, &a, REGISTER, 0, 0, 0), Ok(Effect::default()));
    assert_eq!(generation(&r, &a), 0, "nothing was done");
    assert_eq!(out(&mut r, &a, REGISTER, 0, 7, 8), Err(Refusal::Conflict));
    out(&mut r, &a, REGISTER, 0, 0, 8).unwrap();
    assert_eq!((keys(&r, &a), generation(&r, &a)), (vec![8], 1));
    assert_eq!(out(&mut r, &a, REGISTER, 0, 0, 9), Err(Refusal::Conflict));
    out(&mut r, &a, REGISTER, 0, 8, 9).unwrap();
    assert_eq!((keys(&r, &a), generation(&r, &a)), (vec![9], 2));
    out(&mut r, &a, IGNORE, 0, 77, 10).unwrap();
    assert_eq!(keys(&r, &a), [10]);
    out(&mut r, &a, REGISTER, 0, 10, 0).unwrap();
    assert_eq!((keys(&r, &a), generation(&r, &a)), (vec![], 4));
    assert_eq!(out(&mut r, &a, IGNORE, 0, 1, 0), Ok(Effect::default()));
}

#[test]
fn types_exclude_whom_they_should() {
    // (type, registered others read, write, unregistered others read, write)
    let table = [
        (1, true, false, true, false),
        (3, false, false, false, false),
        (5, true, true, true, false),
        (6, true, true, false, false),
        (7, true, true, true, false),
        (8, true, true, false, false),
    ];
    for (kind, reg_read, reg_write, read, write) in table {
        let (mut r, [a, b, _]) = three();
        let stranger = nexus(3, 1);
        out(&mut r, &a, RESERVE, kind, 1, 0).unwrap();
        let may =
            |r: &Reservations, who: &Nexus| (!r.view(who).conflicts(&READ), !r.view(who).conflicts(&WRITE));
        assert_eq!(may(&r, &a), (true, true), "type {kind}: holder");
        assert_eq!(may(&r, &b), (reg_read, reg_write), "type {kind}: registered");
        assert_eq!(may(&r, &stranger), (read, write), "type {kind}: not registered");
        let key = if kind >= 7 { 0 } else { 1 };
        assert_eq!(reserved_as(&r, &stranger), Some((key, kind)));
        // Again the same: nothing happens. Another type, or another nexus: conflict.
        assert_eq!(out(&mut r, &a, RESERVE, kind, 1, 0), Ok(Effect::default()));
        let other = if kind == 1 { 3 } else { 1 };
        assert_eq!(out(&mut r, &a, RESERVE, other, 1, 0), Err(Refusal::Conflict));
        let again = out(&mut r, &b, RESERVE, kind, 2, 0);
        assert_eq!(again.is_ok(), kind >= 7, "every registrant holds an all registrants reservation");
        assert_eq!(out(&mut r, &stranger, RESERVE, kind, 0, 0), Err(Refusal::Conflict));
    }
}

#[test]
fn unregistering_the_holder_releases() {
    for kind in [1, 3, 5, 6] {
        let (mut r, [a, b, c]) = three();
        out(&mut r, &a, RESERVE, kind, 1, 0).unwrap();
        let effect = out(&mut r, &a, REGISTER, 0, 1, 0).unwrap();
        assert_eq!(reserved_as(&r, &b), None, "type {kind}");
        let told: Vec<_> = effect.attentions.iter().map(|x| x.0).collect();
        let expected = if kind >= 5 { vec![b.id, c.id] } else { vec![] };
        assert_eq!(told, expected, "type {kind}");
        assert!(effect.attentions.iter().all(|x| x.1 == Attention::ReservationsReleased));
    }
    for kind in [7, 8] {
        let (mut r, [a, b, c]) = three();
        out(&mut r, &a, RESERVE, kind, 1, 0).unwrap();
        for (who, key) in [(&a, 1), (&c, 3)] {
            assert_eq!(out(&mut r, who, REGISTER, 0, key, 0), Ok(Effect::default()));
            assert_eq!(reserved_as(&r, &a), Some((0, kind)), "others hold it still");
        }
        out(&mut r, &b, REGISTER, 0, 2, 0).unwrap();
        assert_eq!(reserved_as(&r, &a), None, "the last one left");
    }
}

#[test]
fn release_is_the_holders_with_the_right_type() {
    for kind in [1, 3, 5, 6, 7, 8] {
        let (mut r, [a, b, c]) = three();
        assert_eq!(out(&mut r, &a, RELEASE, kind, 1, 0), Ok(Effect::default()), "nothing to release");
        out(&mut r, &a, RESERVE, kind, 1, 0).unwrap();
        let before = generation(&r, &a);
        assert_eq!(out(&mut r, &a, RELEASE, kind, 9, 0), Err(Refusal::Conflict), "wrong key");
        let wrong = if kind == 1 { 3 } else { 1 };
        assert_eq!(out(&mut r, &a, RELEASE, wrong, 1, 0), Err(Refusal::InvalidRelease));
        assert_eq!(out(&mut r, &a, RELEASE, kind | 0x10, 1, 0), Err(Refusal::InvalidRelease), "wrong scope");
        if kind < 7 {
            assert_eq!(out(&mut r, &b, RELEASE, kind, 2, 0), Ok(Effect::default()));
            assert!(reserved_as(&r, &b).is_some(), "a registrant released what it does not hold");
        }
        let effect = out(&mut r, &a, RELEASE, kind, 1, 0).unwrap();
        assert_eq!(reserved_as(&r, &b), None);
        let told = if kind >= 5 { vec![b.id, c.id] } else { vec![] };
        assert_eq!(effect.attentions.iter().map(|x| x.0).collect::<Vec<_>>(), told, "type {kind}");
        assert_eq!(generation(&r, &a), before, "RESERVE and RELEASE do not count");
    }
}

#[test]
fn clear_tells_every_registrant_but_the_sender() {
    let (mut r, [a, b, c]) = three();
    out(&mut r, &a, RESERVE, 3, 1, 0).unwrap();
    assert_eq!(out(&mut r, &b, CLEAR, 0, 1, 0), Err(Refusal::Conflict));
    let effect = out(&mut r, &b, CLEAR, 0, 2, 0).unwrap();
    let raised = Attention::ReservationsPreempted;
    assert_eq!(effect.attentions, [(a.id, raised), (c.id, raised)]);
    assert_eq!((keys(&r, &a), reserved_as(&r, &a), generation(&r, &a)), (vec![], None, 4));
}

#[test]
fn preempt_without_a_reservation_removes_registrations() {
    let (mut r, [a, b, _]) = three();
    assert_eq!(out(&mut r, &b, PREEMPT, 3, 2, 0), Err(Refusal::InvalidFieldInParameters(8, None)));
    assert_eq!(out(&mut r, &b, PREEMPT, 3, 2, 99), Err(Refusal::Conflict));
    let effect = out(&mut r, &b, PREEMPT, 3, 2, 1).unwrap();
    assert_eq!(effect.attentions, [(a.id, Attention::RegistrationsPreempted)]);
    assert_eq!((keys(&r, &a), reserved_as(&r, &a), generation(&r, &a)), (vec![2, 3], None, 4));
    assert!(effect.abort.is_empty());
    assert_eq!(out(&mut r, &a, PREEMPT, 3, 1, 2), Err(Refusal::Conflict), "not registered any more");
}

#[test]
fn preempt_of_the_holder_takes_the_reservation_over() {
    let (mut r, [a, b, c]) = three();
    out(&mut r, &a, RESERVE, 5, 1, 0).unwrap();
    assert_eq!(out(&mut r, &b, PREEMPT, 2, 2, 1), Err(Refusal::InvalidFieldInCdb(2, Some(3))));
    assert_eq!(out(&mut r, &b, PREEMPT, 0x13, 2, 1), Err(Refusal::InvalidFieldInCdb(2, Some(7))));
    let effect = out(&mut r, &b, PREEMPT_AND_ABORT, 6, 2, 1).unwrap();
    assert_eq!(
        effect.attentions,
        [(a.id, Attention::RegistrationsPreempted), (c.id, Attention::ReservationsReleased)]
    );
    assert_eq!(effect.abort, [a.id]);
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![2, 3], Some((2, 6))));
    // The same type again: those who stay are not told.
    let effect = out(&mut r, &c, PREEMPT, 6, 3, 2).unwrap();
    assert_eq!(effect.attentions, [(b.id, Attention::RegistrationsPreempted)]);
    // The holder may preempt itself to change the type, and stays registered.
    out(&mut r, &c, PREEMPT, 1, 3, 3).unwrap();
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![3], Some((3, 1))));
}

#[test]
fn preempt_of_an_all_registrants_reservation() {
    let (mut r, [a, b, c]) = three();
    out(&mut r, &a, RESERVE, 7, 1, 0).unwrap();
    let effect = out(&mut r, &a, PREEMPT, 3, 1, 2).unwrap();
    assert_eq!(effect.attentions, [(b.id, Attention::RegistrationsPreempted)]);
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![1, 3], Some((0, 7))), "only a registration went");
    let effect = out(&mut r, &c, PREEMPT_AND_ABORT, 3, 3, 0).unwrap();
    assert_eq!(effect.attentions, [(a.id, Attention::RegistrationsPreempted)]);
    assert_eq!(effect.abort, [a.id]);
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![3], Some((3, 3))));
}

#[test]
fn several_nexuses_with_one_key_go_together() {
    let (mut r, [a, b, c]) = three();
    out(&mut r, &b, REGISTER, 0, 2, 1).unwrap();
    out(&mut r, &a, RESERVE, 1, 1, 0).unwrap();
    let effect = out(&mut r, &c, PREEMPT_AND_ABORT, 1, 3, 1).unwrap();
    assert_eq!(effect.abort, [a.id, b.id]);
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![3], Some((3, 1))));
    // One's own key, without holding: one's own registration goes, quietly, and one's own tasks stay.
    let (mut r, [a, ..]) = three();
    assert_eq!(out(&mut r, &a, PREEMPT_AND_ABORT, 1, 1, 1), Ok(Effect::default()));
    assert_eq!(keys(&r, &a), [2, 3]);
}

#[test]
fn scsi2_reservations_and_registrations_exclude_each_other() {
    let mut r = Reservations::default();
    let (a, b) = (nexus(0, 1), nexus(1, 1));
    r.attach(&a);
    r.attach(&b);
    let (reserve, release) = ([0x16, 0, 0, 0, 0, 0], [0x17, 0, 0, 0, 0, 0]);
    for _ in 0..2 {
        r.reserve(&a, &reserve).unwrap();
    }
    assert_eq!(r.reserve(&b, &reserve), Err(Refusal::Conflict));
    assert_eq!(r.release(&b, &release), Ok(()), "somebody else's: no effect");
    assert_eq!((r.view(&a), r.view(&b)), (View::Free, View::Legacy));
    for who in [&a, &b] {
        assert_eq!(out(&mut r, who, IGNORE, 0, 0, 1), Err(Refusal::Conflict));
        assert_eq!(r.persistent_in(who, &[0x5e, 0, 0, 0, 0, 0, 0, 0, 8, 0]), Err(Refusal::Conflict));
    }
    r.release(&a, &release).unwrap();
    r.reserve(&b, &reserve).unwrap();
    r.detach(b.id);
    assert_eq!(r.view(&a), View::Free, "nexus loss ends it");
    r.reserve(&a, &reserve).unwrap();
    r.reset();
    assert_eq!(r.view(&b), View::Free, "reset ends it");

    out(&mut r, &a, IGNORE, 0, 0, 1).unwrap();
    for who in [&a, &b] {
        assert_eq!(r.reserve(who, &reserve), Err(Refusal::Conflict), "registrations, no reservation");
        assert_eq!(r.release(who, &release), Err(Refusal::Conflict));
    }
    out(&mut r, &a, RESERVE, 1, 1, 0).unwrap();
    assert_eq!((r.reserve(&a, &reserve), r.release(&a, &release)), (Ok(()), Ok(())), "CRH");
    assert_eq!(reserved_as(&r, &a), Some((1, 1)), "and nothing changed");
    assert_eq!(r.reserve(&b, &reserve), Err(Refusal::Conflict));
    assert_eq!(r.reserve(&a, &[0x16, 0x10, 0, 0, 0, 0]), Err(Refusal::InvalidFieldInCdb(1, Some(4))));
    assert_eq!(
        r.reserve(&a, &[0x56, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]),
        Err(Refusal::InvalidFieldInCdb(1, Some(1)))
    );
}

#[test]
fn a_registration_outlives_its_session_and_a_reset() {
    let (mut r, [a, b, _]) = three();
    out(&mut r, &a, RESERVE, 3, 1, 0).unwrap();
    r.detach(a.id);
    r.reset();
    assert_eq!(r.view(&b), View::ExclusiveAccess);
    let back = Nexus { id: NexusId(999), ..a.clone() };
    r.attach(&back);
    assert_eq!(r.view(&back), View::Free);
    let stranger = nexus(0, 2);
    assert_eq!(
        r.view(&stranger),
        View::ExclusiveAccess,
        "the same initiator through another port is another nexus"
    );
    out(&mut r, &back, RELEASE, 3, 1, 0).unwrap();
}

fn with_ids(key: u64, flags: u8, ids: &[Vec<u8>]) -> Vec<u8> {
    let mut v = basic(0, key, flags);
    let all = ids.concat();
    v.extend((all.len() as u32).to_be_bytes());
    v.extend(all);
    v
}

fn port_id(p: &InitiatorPort) -> Vec<u8> {
    let mut v = Vec::new();
    TransportId::write_port(p, &mut v);
    v
}

fn device_id(name: &str) -> Vec<u8> {
    let n = (name.len() + 1).next_multiple_of(4).max(20);
    let mut v = vec![5, 0, 0, n as u8];
    v.extend(name.as_bytes());
    v.resize(4 + n, 0);
    v
}

#[test]
fn spec_i_pt_and_all_tg_pt_register_others() {
    let mut r = Reservations::default();
    r.set_ports(vec![1, 2]);
    let a = nexus(0, 1);
    r.attach(&a);
    r.attach(&nexus(2, 1));
    r.attach(&nexus(3, 1));
    let unknown = with_ids(5, 0x08, &[device_id("iqn.nobody")]);
    assert!(matches!(
        raw(&mut r, &a, REGISTER, 0, &unknown),
        Err(Refusal::InvalidFieldInParameters(32, None))
    ));
    assert!(keys(&r, &a).is_empty(), "nothing was changed");
    // One port by itself, both of a device's; who is named again counts once.
    let device = device_id("iqn.2003-01.HOST:1");
    let ids = [port_id(&port(9)), device.clone(), port_id(&port(0)), device];
    let data = with_ids(5, 0x08 | 0x04, &ids);
    assert_eq!(
        raw(&mut r, &a, IGNORE, 0, &data),
        Err(Refusal::InvalidFieldInParameters(20, Some(3))),
        "SPEC_I_PT belongs to REGISTER alone"
    );
    raw(&mut r, &a, REGISTER, 0, &data).unwrap();
    assert_eq!(keys(&r, &a), vec![5; 8], "four initiator ports on two target ports");
    assert_eq!(
        raw(&mut r, &a, REGISTER, 0, &{
            let mut d = data.clone();
            d[..8].copy_from_slice(&5u64.to_be_bytes());
            d
        }),
        Err(Refusal::InvalidFieldInCdb(1, Some(4))),
        "not from a registered nexus"
    );
    let full = fetch(&r, &a, 3);
    let mut at = 8;
    let mut seen = Vec::new();
    while at < full.len() {
        let length = u32::from_be_bytes(full[at + 20..at + 24].try_into().unwrap()) as usize;
        let (id, n) = TransportId::parse(&full[at + 24..]).unwrap();
        assert_eq!(n, length);
        let TransportId::Port(p) = id else { panic!("format 01b expected") };
        seen.push((p, u16::from_be_bytes(full[at + 18..at + 20].try_into().unwrap())));
        at += 24 + length;
    }
    seen.sort();
    let mut expected: Vec<_> = [0, 2, 3, 9].iter().flat_map(|&n| [(port(n), 1), (port(n), 2)]).collect();
    expected.sort();
    assert_eq!(seen, expected);
    // Unregister on every target port at once.
    raw(&mut r, &a, REGISTER, 0, &basic(5, 0, 0x04)).unwrap();
    assert_eq!(keys(&r, &a).len(), 6);
}

#[test]
fn malformed_parameter_lists_are_refused() {
    let (mut r, [a, ..]) = three();
    let length = Err(Refusal::ParameterListLength);
    let good = basic(1, 5, 0);
    assert_eq!(raw(&mut r, &a, REGISTER, 0, &good[..23]), length);
    assert_eq!(raw(&mut r, &a, REGISTER, 0, &[&good[..], &[0]].concat()), length);
    assert_eq!(raw(&mut r, &a, REGISTER, 0, &[]), length);
    assert_eq!(
        r.persistent_out(&a, &cdb(REGISTER, 0, 24), &good[..10]),
        length,
        "less data than the CDB says"
    );
    let mut ids = with_ids(5, 0x08, &[port_id(&port(9))]);
    ids[27] += 4;
    assert_eq!(raw(&mut r, &nexus(5, 1), REGISTER, 0, &ids), length, "list longer than the data");
    assert_eq!(raw(&mut r, &a, MOVE, 0, &good[..20]), length);
    assert_eq!(raw(&mut r, &a, 8, 0, &good), Err(Refusal::InvalidFieldInCdb(1, Some(4))));
    assert_eq!(raw(&mut r, &a, RESERVE, 4, &basic(1, 0, 0)), Err(Refusal::InvalidFieldInCdb(2, Some(3))));
    assert_eq!(r.persistent_out(&a, &[0x5f], &[]), Err(Refusal::InvalidFieldInCdb(0, None)));
    for action in 4..32 {
        let cdb = [0x5e, action, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(r.persistent_in(&a, &cdb), Err(Refusal::InvalidFieldInCdb(1, Some(4))));
    }
}

#[test]
fn the_capacity_bounds_registrations() {
    let mut r = Reservations::new(3);
    for n in 0..3 {
        out(&mut r, &nexus(n, 1), REGISTER, 0, 0, 1).unwrap();
    }
    assert_eq!(out(&mut r, &nexus(3, 1), REGISTER, 0, 0, 1), Err(Refusal::NoRegistrationResources));
    out(&mut r, &nexus(0, 1), REGISTER, 0, 1, 2).unwrap();
    out(&mut r, &nexus(0, 1), REGISTER, 0, 2, 0).unwrap();
    let two = with_ids(7, 0x08, &[port_id(&port(9))]);
    assert_eq!(raw(&mut r, &nexus(4, 1), REGISTER, 0, &two), Err(Refusal::NoRegistrationResources));
    assert_eq!(r.registrations().count(), 2, "all or nothing");
    let many: Vec<_> = (20..60).map(|n| port_id(&port(n))).collect();
    assert_eq!(
        raw(&mut r, &nexus(4, 1), REGISTER, 0, &with_ids(7, 0x08, &many)),
        Err(Refusal::NoRegistrationResources)
    );
}

fn move_to(key: u64, action_key: u64, flags: u8, group: u16, id: &[u8]) -> Vec<u8> {
    let mut v = key.to_be_bytes().to_vec();
    v.extend(action_key.to_be_bytes());
    v.extend([0, flags]);
    v.extend(group.to_be_bytes());
    v.extend((id.len() as u32).to_be_bytes());
    v.extend(id);
    v
}

#[test]
fn register_and_move_gives_the_reservation_away() {
    let (mut r, [a, b, c]) = three();
    r.set_ports(vec![1, 2]);
    let d = nexus(6, 2);
    let to_d = port_id(&d.initiator);
    let good = move_to(1, 44, 0x02, 2, &to_d);
    assert_eq!(raw(&mut r, &nexus(7, 1), MOVE, 0, &good), Err(Refusal::Conflict), "not registered");
    assert_eq!(
        raw(&mut r, &a, MOVE, 0, &good),
        Err(Refusal::InvalidFieldInCdb(1, Some(4))),
        "nothing to move"
    );
    out(&mut r, &a, RESERVE, 6, 1, 0).unwrap();
    assert_eq!(
        raw(&mut r, &b, MOVE, 0, &move_to(2, 44, 0, 2, &to_d)),
        Err(Refusal::InvalidFieldInCdb(1, Some(4)))
    );
    let bad = [
        (move_to(9, 44, 0, 2, &to_d), Refusal::Conflict),
        (move_to(1, 0, 0, 2, &to_d), Refusal::InvalidFieldInParameters(8, None)),
        (move_to(1, 44, 0, 3, &to_d), Refusal::InvalidFieldInParameters(18, None)),
        (move_to(1, 44, 0, 1, &port_id(&a.initiator)), Refusal::InvalidFieldInParameters(24, None)),
        (move_to(1, 44, 0, 2, &[]), Refusal::InvalidFieldInParameters(24, None)),
        (move_to(1, 44, 0, 1, &device_id("iqn.2003-01.host:0")), Refusal::InvalidFieldInParameters(24, None)),
    ];
    for (data, refusal) in bad {
        assert_eq!(raw(&mut r, &a, MOVE, 0, &data), Err(refusal));
    }
    raw(&mut r, &a, MOVE, 0, &good).unwrap();
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![2, 3, 44], Some((44, 6))));
    assert_eq!((r.view(&a), r.view(&c), r.view(&d)), (View::ExclusiveAccess, View::Free, View::Free));
    // To somebody who is registered, and staying registered.
    raw(&mut r, &d, MOVE, 0, &move_to(44, 55, 0, 1, &port_id(&b.initiator))).unwrap();
    assert_eq!((keys(&r, &a), reserved_as(&r, &a)), (vec![55, 3, 44], Some((55, 6))));
    assert_eq!(generation(&r, &a), 5);
}

#[test]
fn allocation_length_cuts_but_lengths_stay_true() {
    let (r, [a, ..]) = three();
    for action in 0..4 {
        let whole = fetch(&r, &a, action);
        for n in 0..whole.len() {
            let cut = r.persistent_in(&a, &[0x5e, action, 0, 0, 0, 0, 0, 0, n as u8, 0]).unwrap();
            assert_eq!(cut, whole[..n.min(whole.len())]);
        }
    }
}

#[test]
fn capabilities_are_what_is_there() {
    let (mut r, [a, ..]) = three();
    assert_eq!(fetch(&r, &a, 2), [0, 8, 0x1d, 0x90, 0xea, 0x01, 0, 0]);
    raw(&mut r, &a, IGNORE, 0, &basic(0, 1, 1)).unwrap();
    assert_eq!(fetch(&r, &a, 2)[3], 0x91, "APTPL is active");
}

#[test]
fn durable_before_good() {
    let (mut r, [a, b, _]) = three();
    assert_eq!(out(&mut r, &b, REGISTER, 0, 2, 22).unwrap().persist, None, "APTPL was never asked for");
    let ticket = raw(&mut r, &a, REGISTER, 0, &basic(1, 11, 1)).unwrap().persist.expect("must be written");
    // The write failed: whoever comes next writes, even where its own command changes nothing.
    out(&mut r, &a, RESERVE, 3, 11, 0).unwrap();
    let again = out(&mut r, &a, RESERVE, 3, 11, 0).unwrap().persist.expect("not written yet");
    assert!(again > ticket);
    r.persisted(again);
    assert_eq!(out(&mut r, &a, RESERVE, 3, 11, 0).unwrap().persist, None);
    let image = r.image().unwrap();
    let mut after = Reservations::default();
    after.restore(&image).unwrap();
    after.check().unwrap();
    assert_eq!(after.image().unwrap(), image);
    assert_eq!((keys(&after, &a), reserved_as(&after, &a)), (vec![11, 22, 3], Some((11, 3))));
    assert_eq!(generation(&after, &a), 0);
    assert_eq!(after.restore(&image), Err(ImageError::InUse));
    // Without APTPL the medium must forget.
    let off = raw(&mut after, &a, REGISTER, 0, &basic(11, 12, 0)).unwrap().persist.expect("must be erased");
    assert_eq!(after.image(), None);
    after.persisted(off);
    assert_eq!(out(&mut after, &a, RELEASE, 3, 12, 0).unwrap().persist, None);
}

#[test]
fn a_damaged_image_is_refused_with_its_place() {
    let (mut r, [a, ..]) = three();
    raw(&mut r, &a, IGNORE, 0, &basic(0, 1, 1)).unwrap();
    out(&mut r, &a, RESERVE, 6, 1, 0).unwrap();
    let good = serde_json::to_value(r.image().unwrap()).unwrap();
    let broken: [(&str, serde_json::Value, &str); 10] = [
        ("/version", 2.into(), "version 2 is not known"),
        ("/registrations/1/initiator", "".into(), "registration 1: the initiator's name"),
        ("/registrations/1/initiator", "x".repeat(224).into(), "registration 1: the initiator's name"),
        ("/registrations/0/isid", "40".into(), "registration 0: isid"),
        ("/registrations/0/isid", "+00000000000".into(), "registration 0: isid"),
        ("/registrations/2/key", "0000000000000000".into(), "registration 2: the key is 0"),
        ("/registrations/2/key", "zz".into(), "registration 2: key"),
        ("/registrations/1/isid", "400000000000".into(), "registration 1: the same nexus"),
        ("/reservation/type", 2.into(), "unknown type"),
        ("/reservation/holder", 3.into(), "not registered"),
    ];
    for (place, value, text) in broken {
        let mut image = good.clone();
        *image.pointer_mut(place).unwrap() = value;
        let image: Image = serde_json::from_value(image).unwrap();
        let mut fresh = Reservations::default();
        let error = fresh.restore(&image).unwrap_err().to_string();
        assert!(error.contains(text), "{place}: {error}");
        assert_eq!(fresh.registrations().count(), 0);
    }
    let small = Reservations::new(2).restore(&r.image().unwrap());
    assert_eq!(small, Err(ImageError::TooMany(3, 2)));
    let mut extra = good;
    extra["more"] = 1.into();
    assert!(serde_json::from_value::<Image>(extra).is_err());
}

#[derive(Clone, Debug)]
enum Move {
    Out { who: u8, action: u8, kind: u8, key: u64, action_key: u64, flags: u8, other: u8 },
    Raw { who: u8, cdb: [u8; 10], data: Vec<u8> },
    Reserve(u8),
    Release(u8),
    Lose(u8),
    Return(u8),
    Reset,
}

fn moves() -> impl Strategy<Value = Move> {
    let who = 0..5u8;
    let fields = (0..8u8, prop_oneof![1..9u8, Just(0x11)], 0..4u64, 0..4u64, prop_oneof![0..16u8]);
    prop_oneof![
        12 => (who.clone(), fields, 0..5u8).prop_map(|(who, (action, kind, key, action_key, flags), other)| {
            Move::Out { who, action, kind, key, action_key, flags, other }
        }),
        2 => (who.clone(), any::<[u8; 10]>(), proptest::collection::vec(any::<u8>(), 0..80))
            .prop_map(|(who, cdb, data)| Move::Raw { who, cdb, data }),
        1 => who.clone().prop_map(Move::Reserve),
        1 => who.clone().prop_map(Move::Release),
        1 => who.clone().prop_map(Move::Lose),
        1 => who.prop_map(Move::Return),
        1 => Just(Move::Reset),
    ]
}

fn nexus_of(n: u8) -> Nexus {
    nexus(n, u16::from(n % 2) + 1)
}

/// A list that is valid in form, whatever it asks for.
fn list(action: u8, key: u64, action_key: u64, flags: u8, other: u8) -> Vec<u8> {
    let id = port_id(&nexus_of(other).initiator);
    if action == MOVE {
        return move_to(key, action_key, flags, u16::from(other % 2) + 1, &id);
    }
    let mut v = basic(key, action_key, flags & 0x0d);
    if flags & 0x08 != 0 {
        v.extend((id.len() as u32).to_be_bytes());
        v.extend(id);
    }
    v
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The machine's rules hold after any sequence of commands, and who may do what follows from who is registered.
    #[test]
    fn any_sequence_keeps_the_invariants(sequence in proptest::collection::vec(moves(), 1..60)) {
        let mut r = Reservations::new(6);
        for n in 0..5 {
            r.attach(&nexus_of(n));
        }
        for m in sequence {
            let before = (r.registrants.clone(), r.held.clone(), r.generation);
            let epoch = r.epoch();
            let views: Vec<_> = (0..5).map(|n| r.view(&nexus_of(n))).collect();
            let outcome = match m {
                Move::Out { who, action, kind, key, action_key, flags, other } => {
                    let data = list(action, key, action_key, flags, other);
                    Some((nexus_of(who), r.persistent_out(&nexus_of(who), &cdb(action, kind, data.len()), &data)))
                }
                Move::Raw { who, cdb, data } => {
                    let _ = r.persistent_in(&nexus_of(who), &cdb);
                    Some((nexus_of(who), r.persistent_out(&nexus_of(who), &cdb, &data)))
                }
                Move::Reserve(n) => { let _ = r.reserve(&nexus_of(n), &[0x16, 0, 0, 0, 0, 0]); None }
                Move::Release(n) => { let _ = r.release(&nexus_of(n), &[0x17, 0, 0, 0, 0, 0]); None }
                Move::Lose(n) => { r.detach(nexus_of(n).id); None }
                Move::Return(n) => { r.attach(&nexus_of(n)); None }
                Move::Reset => { r.reset(); None }
            };
            prop_assert_eq!(r.check(), Ok(()));
            match outcome {
                None => prop_assert_eq!(&before, &(r.registrants.clone(), r.held.clone(), r.generation)),
                Some((_, Err(_))) => {
                    prop_assert_eq!(&before, &(r.registrants.clone(), r.held.clone(), r.generation));
                }
                Some((who, Ok(effect))) => {
                    prop_assert!(effect.attentions.iter().all(|a| a.0 != who.id), "told the one who did it");
                    prop_assert!(!effect.abort.contains(&who.id), "aborts itself");
                    prop_assert!(effect.attentions.iter().all(|a| r.present.iter().any(|n| n.id == a.0)));
                    if let Some(ticket) = effect.persist {
                        r.persisted(ticket);
                    }
                }
            }
            views_follow(&r)?;
            let now: Vec<_> = (0..5).map(|n| r.view(&nexus_of(n))).collect();
            prop_assert!(views == now || r.epoch() != epoch, "a view changed within an epoch");
            if let Some(image) = r.image() {
                let text = serde_json::to_vec(&image).unwrap();
                let mut copy = Reservations::new(6);
                copy.restore(&serde_json::from_slice(&text).unwrap()).unwrap();
                prop_assert_eq!(copy.check(), Ok(()));
                prop_assert_eq!(copy.image(), Some(image));
                // SCSI-2 reservations do not survive.
                r.reset();
                for n in 0..5 {
                    prop_assert_eq!(copy.view(&nexus_of(n)), r.view(&nexus_of(n)));
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(action in 0..32u8, kind: u8, data in proptest::collection::vec(any::<u8>(), 0..300)) {
        let (mut r, [a, ..]) = three();
        let _ = raw(&mut r, &a, RESERVE, 5, &basic(1, 0, 0));
        let _ = raw(&mut r, &a, action, kind, &data);
        let _ = TransportId::parse(&data);
        let mut id = vec![0x45, 0, 0, (data.len() & 0xfc) as u8];
        id.extend(&data);
        let _ = TransportId::parse(&id);
    }
}

/// What each nexus may do, derived again from scratch from what PERSISTENT RESERVE IN reports.
fn views_follow(r: &Reservations) -> Result<(), TestCaseError> {
    let stranger = nexus(40, 9);
    let Ok(full) = r.persistent_in(&stranger, &[0x5e, 3, 0, 0, 0, 0, 0, 0xff, 0xff, 0]) else {
        // A SCSI-2 reservation: exactly its holder passes.
        let free = (0..5).filter(|&n| r.view(&nexus_of(n)) == View::Free).count();
        prop_assert_eq!(free, 1);
        prop_assert_eq!(r.view(&stranger), View::Legacy);
        return Ok(());
    };
    let mut holders = BTreeMap::new();
    let mut kind = 0;
    let mut at = 8;
    while at < full.len() {
        let length = u32::from_be_bytes(full[at + 20..at + 24].try_into().unwrap()) as usize;
        let group = u16::from_be_bytes(full[at + 18..at + 20].try_into().unwrap());
        let Ok((TransportId::Port(p), _)) = TransportId::parse(&full[at + 24..]) else {
            panic!("not a port")
        };
        if full[at + 12] == 1 {
            kind = full[at + 13];
        }
        holders.insert((p, group), full[at + 12] == 1);
        at += 24 + length;
    }
    let count = holders.values().filter(|&&h| h).count();
    prop_assert!(count <= 1 || (kind >= 7 && count == holders.len()), "{} holders of type {}", count, kind);
    let reserved = fetch(r, &stranger, 1).len() > 8;
    prop_assert_eq!(reserved, count > 0, "a reservation has a registered holder");
    for n in (0..5).map(nexus_of).chain([stranger]) {
        let entry = holders.get(&((*n.initiator).clone(), n.target.portal_group));
        let passes = !reserved || entry == Some(&true) || (entry.is_some() && kind >= 5);
        let (reads, writes) = match (passes, kind) {
            (true, _) => (true, true),
            (false, 1 | 5 | 7) => (true, false),
            (false, _) => (false, false),
        };
        let view = r.view(&n);
        prop_assert_eq!((!view.conflicts(&READ), !view.conflicts(&WRITE)), (reads, writes), "type {}", kind);
    }
    Ok(())
}
