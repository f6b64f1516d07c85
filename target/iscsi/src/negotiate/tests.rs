//! Rules one by one, and whole negotiations between two of them.

use super::*;
use crate::params::{DigestKind, TaskReporting};
use crate::text::{Repeats, TextLimits};
use proptest::prelude::*;

fn text(pairs: &str) -> Text {
    let bytes: String = pairs.split_whitespace().map(|pair| format!("{pair}\0")).collect();
    Text::parse(bytes.into_bytes(), TextLimits::NEGOTIATION, Repeats::Refused).unwrap()
}

fn written(out: &TextWriter) -> String {
    let text = String::from_utf8(out.as_bytes().to_vec()).unwrap();
    text.split_terminator('\0').collect::<Vec<_>>().join(" ")
}

fn target() -> Negotiator {
    Negotiator::leading(Role::Target, Settings::default())
}

/// What `negotiator` answers in the operational stage.
fn answer(negotiator: &mut Negotiator, pairs: &str) -> Result<String, NegotiationError> {
    let mut out = TextWriter::new();
    negotiator.receive(&text(pairs), LoginStage::Operational, &mut out)?;
    Ok(written(&out))
}

fn with(settings: &[(&str, &str)]) -> Settings {
    let mut s = Settings::default();
    settings.iter().for_each(|(key, value)| s.set(key, value).unwrap());
    s
}

#[test]
fn answers_by_the_rule_of_each_key() {
    let settings = with(&[
        ("MaxConnections", "4"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxBurstLength", "65536"),
        ("FirstBurstLength", "32768"),
        ("DefaultTime2Wait", "3"),
        ("DefaultTime2Retain", "10"),
        ("MaxOutstandingR2T", "2"),
        ("ErrorRecoveryLevel", "1"),
        ("HeaderDigest", "CRC32C,None"),
        ("DataDigest", "None"),
        ("iSCSIProtocolLevel", "2"),
    ]);
    for (proposal, expected) in [
        ("MaxConnections=8", "MaxConnections=4"),
        ("MaxConnections=1", "MaxConnections=1"),
        ("InitialR2T=No", "InitialR2T=No"),
        ("InitialR2T=Yes", "InitialR2T=Yes"),
        ("ImmediateData=No", "ImmediateData=No"),
        ("MaxBurstLength=0x40000", "MaxBurstLength=65536"),
        ("FirstBurstLength=262144", "FirstBurstLength=32768"),
        ("FirstBurstLength=512", "FirstBurstLength=512"),
        ("DefaultTime2Wait=0", "DefaultTime2Wait=3"),
        ("DefaultTime2Wait=3600", "DefaultTime2Wait=3600"),
        ("DefaultTime2Retain=20", "DefaultTime2Retain=10"),
        ("MaxOutstandingR2T=1", "MaxOutstandingR2T=1"),
        ("ErrorRecoveryLevel=2", "ErrorRecoveryLevel=1"),
        ("DataPDUInOrder=No", "DataPDUInOrder=Yes"),
        ("DataSequenceInOrder=Yes", "DataSequenceInOrder=Yes"),
        ("HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C"),
        ("HeaderDigest=None,CRC32C", "HeaderDigest=None"),
        ("HeaderDigest=X-other,CRC32C", "HeaderDigest=CRC32C"),
        ("DataDigest=CRC32C,None", "DataDigest=None"),
        ("TaskReporting=FastAbort,RFC3720", "TaskReporting=RFC3720"),
        ("iSCSIProtocolLevel=31", "iSCSIProtocolLevel=2"),
        // Inadmissible: the value stays.
        ("MaxConnections=0", "MaxConnections=Reject"),
        ("MaxConnections=65536", "MaxConnections=Reject"),
        ("MaxBurstLength=511", "MaxBurstLength=Reject"),
        ("MaxBurstLength=16777216", "MaxBurstLength=Reject"),
        ("MaxBurstLength=99999999999999999999", "MaxBurstLength=Reject"),
        ("FirstBurstLength=many", "FirstBurstLength=Reject"),
        ("InitialR2T=maybe", "InitialR2T=Reject"),
        ("ErrorRecoveryLevel=3", "ErrorRecoveryLevel=Reject"),
        ("HeaderDigest=", "HeaderDigest=Reject"),
        ("DataDigest=MD5", "DataDigest=Reject"),
        ("TaskReporting=FastAbort", "TaskReporting=Reject"),
        // RFC 7143 13.25
        ("IFMarker=Yes", "IFMarker=No"),
        ("OFMarker=No", "OFMarker=No"),
        ("IFMarkInt=2048~8192", "IFMarkInt=Irrelevant"),
        ("OFMarkInt=1", "OFMarkInt=Irrelevant"),
        // Nobody knows these.
        ("X-com.example.speed=fast", "X-com.example.speed=NotUnderstood"),
        ("RDMAExtensions=Yes", "RDMAExtensions=NotUnderstood"),
        ("X-com.example.speed=NotUnderstood", ""),
        // Declared, so not answered.
        ("MaxRecvDataSegmentLength=512", ""),
        ("InitiatorAlias=me", ""),
    ] {
        let mut n = Negotiator::leading(Role::Target, settings.clone());
        assert_eq!(answer(&mut n, proposal).unwrap(), expected, "{proposal}");
        let key = Key::parse(proposal.split('=').next().unwrap());
        if expected.ends_with("=Reject") {
            assert_eq!(n.session(), &SessionParams::default());
            assert_eq!(n.connection(), &ConnectionParams::default());
        } else if let Some(agreed) = key.and_then(|key| n.session().get(key)) {
            let value = expected.split('=').nth(1).unwrap();
            let value = value::boolean(value).map_or_else(|| value::number(value).unwrap(), u64::from);
            assert_eq!(u64::from(agreed), value, "{proposal}");
        }
    }
}

#[test]
fn each_key_once() {
    for (key, again) in [
        ("MaxConnections=1", "MaxConnections=1"),
        ("HeaderDigest=None", "HeaderDigest=None"),
        ("MaxRecvDataSegmentLength=512", "MaxRecvDataSegmentLength=1024"),
        ("SessionType=Normal", "SessionType=Discovery"),
        ("InitiatorAlias=a", "InitiatorAlias=b"),
        ("IFMarker=No", "IFMarker=No"),
    ] {
        let mut n = target();
        answer(&mut n, key).unwrap();
        let error = answer(&mut n, again).unwrap_err();
        assert!(matches!(error, NegotiationError::Repeated(_)), "{error}");
        assert_eq!(error.login_status(), LoginStatus::InitiatorError);
    }
    for same in
        ["SessionType=Normal", "InitiatorName=iqn.2026-11.org.plinth:a", "MaxRecvDataSegmentLength=512"]
    {
        let mut n = target();
        answer(&mut n, same).unwrap();
        assert!(answer(&mut n, same).is_ok(), "libiscsi declares {same} twice");
    }
    let mut n = target();
    answer(&mut n, "MaxConnections=0").unwrap();
    assert!(answer(&mut n, "MaxConnections=1").is_err(), "also after a Reject");
}

#[test]
fn declarations() {
    let mut n = target();
    let pairs = "InitiatorName=IQN.2001-04.com.example:Host InitiatorAlias=x SessionType=Normal \
                 TargetName=iqn.2001-04.com.example:Disk MaxRecvDataSegmentLength=0x10000";
    assert_eq!(answer(&mut n, pairs).unwrap(), "");
    assert_eq!(n.declared().initiator_name.as_ref().unwrap().as_str(), "iqn.2001-04.com.example:host");
    assert_eq!(n.declared().target_name.as_deref(), Some("iqn.2001-04.com.example:disk"));
    assert_eq!(n.connection().max_send_len, 65536);
    assert_eq!(n.session_type(), SessionType::Normal);
    for bad in [
        "MaxRecvDataSegmentLength=511",
        "MaxRecvDataSegmentLength=16777216",
        "MaxRecvDataSegmentLength=x",
        "MaxRecvDataSegmentLength=Reject",
        "InitiatorName=host",
        "TargetName=",
        "TargetAlias=t",
        "TargetAddress=10.0.0.1:3260,1",
        "TargetPortalGroupTag=1",
        "MaxConnections=Reject",
        "HeaderDigest=NotUnderstood",
        "SendTargets=All",
        "AuthMethod=None",
        "CHAP_A=5",
    ] {
        let error = answer(&mut target(), bad).unwrap_err();
        assert_eq!(error.login_status(), LoginStatus::InitiatorError, "{bad}: {error}");
    }
    let error = answer(&mut target(), "SessionType=Other").unwrap_err();
    assert_eq!(error.login_status(), LoginStatus::SessionTypeNotSupported);
    let mut n = target();
    answer(&mut n, "TargetName=Disk-1").unwrap();
    assert_eq!(n.declared().target_name.as_deref(), Some("Disk-1"), "not a name: as it came");
}

#[test]
fn stages() {
    let receive = |stage, pairs: &str| {
        let mut out = TextWriter::new();
        let text = text(pairs);
        target().receive(&text, stage, &mut out).map(|received| {
            let security: Vec<_> = received.security.iter().map(|&(key, v)| (key, v.to_owned())).collect();
            (written(&out), security, received.send_targets.map(str::to_owned))
        })
    };
    let (out, security, _) =
        receive(LoginStage::Security, "InitiatorName=iqn.2001-04.com.example AuthMethod=CHAP,None SRP_U=x")
            .unwrap();
    assert_eq!(out, "SRP_U=NotUnderstood");
    assert_eq!(security, [(Key::AuthMethod, "CHAP,None".to_owned())]);
    assert!(matches!(
        receive(LoginStage::Security, "MaxConnections=1"),
        Err(NegotiationError::WrongStage { key: Key::MaxConnections, stage: LoginStage::Security })
    ));
    assert!(receive(LoginStage::FullFeature, "SessionType=Normal").is_err());
    let (out, _, all) =
        receive(LoginStage::FullFeature, "SendTargets=All MaxConnections=2 HeaderDigest=None X-a=b").unwrap();
    assert_eq!(all.as_deref(), Some("All"));
    assert_eq!(out, "MaxConnections=Reject HeaderDigest=Reject X-a=NotUnderstood");
}

#[test]
fn lengths_are_declared_again_in_full_feature_phase() {
    let mut n = target();
    answer(&mut n, "MaxRecvDataSegmentLength=4096").unwrap();
    let mut out = TextWriter::new();
    for len in [8192u32, 65536] {
        let text = text(&format!("MaxRecvDataSegmentLength={len}"));
        n.receive(&text, LoginStage::FullFeature, &mut out).unwrap();
        assert_eq!(n.connection().max_send_len, len);
    }
    assert!(out.is_empty());
}

#[test]
fn discovery_makes_much_irrelevant_wherever_the_type_stands() {
    let mut n = target();
    let out = answer(
        &mut n,
        "MaxConnections=1 InitialR2T=No DefaultTime2Wait=0 HeaderDigest=None SessionType=Discovery",
    );
    assert_eq!(
        out.unwrap(),
        "MaxConnections=Irrelevant InitialR2T=Irrelevant DefaultTime2Wait=2 HeaderDigest=None"
    );
    assert!(n.session().initial_r2t);
}

#[test]
fn burst_lengths() {
    // In one text, in either order.
    let mut n = target();
    assert_eq!(
        answer(&mut n, "FirstBurstLength=65536 MaxBurstLength=4096").unwrap(),
        "MaxBurstLength=4096 FirstBurstLength=4096"
    );
    // Nothing unsolicited.
    let mut n = target();
    assert_eq!(
        answer(&mut n, "FirstBurstLength=65536 ImmediateData=No InitialR2T=Yes MaxBurstLength=512").unwrap(),
        "ImmediateData=No InitialR2T=Yes MaxBurstLength=512 FirstBurstLength=Irrelevant"
    );
    assert_eq!(n.session().first_burst_len, 512);
    // A silent initiator gets a proposal.
    let mut n = target();
    answer(&mut n, "MaxBurstLength=4096 MaxRecvDataSegmentLength=8192").unwrap();
    let mut out = TextWriter::new();
    n.offer(&mut out);
    assert_eq!(written(&out), "MaxRecvDataSegmentLength=262144 FirstBurstLength=4096");
    assert!(!n.is_settled());
    assert!(matches!(
        answer(&mut n.clone(), "FirstBurstLength=8192"),
        Err(NegotiationError::BadAnswer { .. })
    ));
    assert!(matches!(
        answer(&mut n.clone(), "FirstBurstLength=Reject"),
        Err(NegotiationError::BadAnswer { .. })
    ));
    answer(&mut n, "FirstBurstLength=1024").unwrap();
    assert!(n.is_settled());
    assert_eq!(n.session().first_burst_len, 1024);
    // Later and smaller.
    let mut n = target();
    answer(&mut n, "FirstBurstLength=65536").unwrap();
    assert_eq!(
        answer(&mut n, "MaxBurstLength=512"),
        Err(NegotiationError::BurstLengths { first: 65536, max: 512 })
    );
}

#[test]
fn a_target_proposes_what_it_needs_and_nothing_else() {
    let mut out = TextWriter::new();
    target().offer(&mut out);
    assert_eq!(written(&out), "MaxRecvDataSegmentLength=262144");

    let strict = with(&[
        ("HeaderDigest", "CRC32C"),
        ("ImmediateData", "No"),
        ("MaxBurstLength", "8192"),
        ("FirstBurstLength", "4096"),
        ("DefaultTime2Wait", "5"),
        ("MaxRecvDataSegmentLength", "8192"),
    ]);
    let mut n = Negotiator::leading(Role::Target, strict.clone());
    let mut out = TextWriter::new();
    n.offer(&mut out);
    let proposals =
        "HeaderDigest=CRC32C ImmediateData=No MaxBurstLength=8192 FirstBurstLength=4096 DefaultTime2Wait=5";
    assert_eq!(written(&out), proposals);
    assert_eq!(answer(&mut n, proposals).unwrap(), "", "answers are not answered");
    assert!(n.is_settled());
    assert_eq!(n.connection().header_digest, DigestKind::Crc32c);
    let mut again = TextWriter::new();
    n.offer(&mut again);
    assert!(again.is_empty(), "once");

    let mut n = Negotiator::leading(Role::Target, strict.clone());
    let error = answer(&mut n, "HeaderDigest=None").unwrap_err();
    assert!(matches!(error, NegotiationError::NoCommonValue { key: Key::HeaderDigest, .. }), "{error}");

    for refused in ["HeaderDigest=None", "HeaderDigest=Reject", "ImmediateData=Yes", "DefaultTime2Wait=1"] {
        let mut n = Negotiator::leading(Role::Target, strict.clone());
        n.offer(&mut TextWriter::new());
        let error = answer(&mut n, refused).unwrap_err();
        assert!(matches!(error, NegotiationError::BadAnswer { .. }), "{error}");
    }
}

#[test]
fn another_connection_takes_the_session_as_it_is() {
    let session =
        SessionParams { max_connections: 3, max_burst_len: 1024, first_burst_len: 512, ..Default::default() };
    let mut n = Negotiator::joining(Role::Target, Settings::default(), session.clone());
    assert_eq!(
        answer(&mut n, "MaxConnections=8 HeaderDigest=CRC32C MaxBurstLength=65536").unwrap(),
        "MaxConnections=Reject HeaderDigest=CRC32C MaxBurstLength=Reject"
    );
    let mut out = TextWriter::new();
    n.offer(&mut out);
    assert_eq!(written(&out), "MaxRecvDataSegmentLength=262144");
    assert_eq!(n.session(), &session);
}

/// Runs an initiator against a target until both are settled.
fn negotiate(
    initiator: Settings,
    target: Settings,
    kind: SessionType,
) -> Result<(Negotiator, Negotiator), NegotiationError> {
    let mut i = Negotiator::leading(Role::Initiator, initiator);
    let mut t = Negotiator::leading(Role::Target, target);
    i.set_session_type(kind);
    let kind = if kind == SessionType::Normal { "Normal" } else { "Discovery" };
    let mut to_target = TextWriter::new();
    to_target.pair("SessionType", kind);
    i.offer(&mut to_target);
    for _ in 0..4 {
        let mut to_initiator = TextWriter::new();
        let parse = |w: &TextWriter| {
            Text::parse(w.as_bytes().to_vec(), TextLimits::NEGOTIATION, Repeats::Refused).unwrap()
        };
        t.receive(&parse(&to_target), LoginStage::Operational, &mut to_initiator)?;
        t.offer(&mut to_initiator);
        to_target = TextWriter::new();
        i.receive(&parse(&to_initiator), LoginStage::Operational, &mut to_target)?;
        if i.is_settled() && t.is_settled() {
            return Ok((i, t));
        }
    }
    panic!("never settled");
}

#[test]
fn both_roles_agree() {
    let (i, t) = negotiate(
        with(&[("HeaderDigest", "CRC32C,None"), ("InitialR2T", "No"), ("MaxBurstLength", "16776192")]),
        with(&[("InitialR2T", "Yes"), ("MaxBurstLength", "1048576")]),
        SessionType::Normal,
    )
    .unwrap();
    assert_eq!(i.session(), t.session());
    assert_eq!(t.connection().header_digest, DigestKind::Crc32c);
    assert_eq!(i.connection().header_digest, DigestKind::Crc32c);
    assert_eq!((t.session().initial_r2t, t.session().max_burst_len), (true, 1_048_576));
    assert_eq!(i.connection().max_send_len, t.connection().max_recv_len);
}

#[test]
fn an_initiator_lives_with_an_old_target() {
    let mut i = Negotiator::leading(
        Role::Initiator,
        with(&[("TaskReporting", "FastAbort,RFC3720"), ("iSCSIProtocolLevel", "2")]),
    );
    let mut out = TextWriter::new();
    i.offer(&mut out);
    assert!(written(&out).contains("TaskReporting=FastAbort,RFC3720 iSCSIProtocolLevel=2"));
    answer(&mut i, "TaskReporting=NotUnderstood iSCSIProtocolLevel=NotUnderstood MaxBurstLength=512 FirstBurstLength=65536").unwrap();
    assert_eq!(i.session().task_reporting, TaskReporting::Rfc3720);
    assert_eq!((i.session().max_burst_len, i.session().first_burst_len), (512, 512), "it just sends less");
    assert!(answer(&mut i, "InitiatorName=iqn.2001-04.com.example").is_err(), "from the wrong side");
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let digests = || {
        prop_oneof![
            Just(vec![DigestKind::None]),
            Just(vec![DigestKind::Crc32c]),
            Just(vec![DigestKind::Crc32c, DigestKind::None])
        ]
    };
    let numbers =
        (1u16..20, any::<bool>(), any::<bool>(), 512u32..100_000, 512u32..100_000, 0u16..30, 0u16..30);
    let more = (1u16..9, any::<bool>(), any::<bool>(), 0u8..3, 0u8..3, 512u32..500_000);
    (numbers, more, digests(), digests()).prop_map(|(a, b, header_digest, data_digest)| Settings {
        session: SessionParams {
            max_connections: a.0,
            initial_r2t: a.1,
            immediate_data: a.2,
            max_burst_len: a.3,
            first_burst_len: a.4,
            time2wait: a.5,
            time2retain: a.6,
            max_outstanding_r2t: b.0,
            data_pdu_in_order: b.1,
            data_sequence_in_order: b.2,
            error_recovery_level: b.3,
            task_reporting: TaskReporting::Rfc3720,
            protocol_level: b.4,
        },
        header_digest,
        data_digest,
        task_reporting: vec![TaskReporting::Rfc3720],
        max_recv_len: b.5,
    })
}

proptest! {
    /// Whatever both want, they end with the same values, or with no digest in common.
    #[test]
    fn any_two_agree(a in any_settings(), b in any_settings(), discovery in any::<bool>()) {
        let kind = if discovery { SessionType::Discovery } else { SessionType::Normal };
        match negotiate(a.clone(), b.clone(), kind) {
            Ok((i, t)) => {
                prop_assert_eq!(i.session(), t.session());
                prop_assert_eq!(i.connection().header_digest, t.connection().header_digest);
                prop_assert_eq!(i.connection().data_digest, t.connection().data_digest);
                prop_assert_eq!(i.connection().max_send_len, t.connection().max_recv_len);
                prop_assert_eq!(t.connection().max_send_len, i.connection().max_recv_len);
                prop_assert!(t.session().first_burst_len <= t.session().max_burst_len);
                prop_assert!(t.session().max_connections <= 8);
            }
            Err(NegotiationError::NoCommonValue { key, .. }) => {
                let disjoint = |x: &[DigestKind], y: &[DigestKind]| x.iter().all(|d| !y.contains(d));
                let nothing_in_common = match key {
                    Key::HeaderDigest => disjoint(&a.header_digest, &b.header_digest),
                    _ => disjoint(&a.data_digest, &b.data_digest),
                };
                prop_assert!(nothing_in_common);
            }
            Err(NegotiationError::BadAnswer { key, .. }) => {
                // The target rejected a digest that the initiator insists on.
                prop_assert!(matches!(key, Key::HeaderDigest | Key::DataDigest));
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn never_panics(pairs in proptest::collection::vec((0usize..40, "[0-9A-Za-z,~.:-]{0,12}|Yes|No|Reject|0x[0-9a-f]{1,9}"), 0..12), initiator in any::<bool>(), stage in 0u8..3) {
        let mut bytes = Vec::new();
        for (key, value) in pairs {
            let name = Key::ALL.get(key).map_or("X-unknown", |key| key.name());
            bytes.extend_from_slice(format!("{name}={value}\0").as_bytes());
        }
        let role = if initiator { Role::Initiator } else { Role::Target };
        let mut n = Negotiator::leading(role, Settings::default());
        let mut out = TextWriter::new();
        if initiator {
            n.offer(&mut out);
        }
        let stage = [LoginStage::Security, LoginStage::Operational, LoginStage::FullFeature][usize::from(stage)];
        if let Ok(text) = Text::parse(bytes, TextLimits::NEGOTIATION, Repeats::Refused)
            && n.receive(&text, stage, &mut out).is_ok()
        {
            // A target still has to propose a smaller FirstBurstLength where the default is too large.
            n.offer(&mut out);
            prop_assert!(!n.is_settled() || n.session().first_burst_len <= n.session().max_burst_len);
        }
    }
}
