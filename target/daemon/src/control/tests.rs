use proptest::prelude::*;

use super::backend::{ConnectionView, SessionView};
use super::testing::FakeBackend;
use super::*;
use crate::mgmt::device_type;

struct Daemon {
    control: Control,
    backend: FakeBackend,
}

impl Daemon {
    fn new() -> Self {
        let mut d = Daemon { control: Control::new([7; 16]), backend: FakeBackend::default() };
        d.control.start_driver_options("portal=127.0.0.1:3260", &mut d.backend).unwrap();
        d
    }

    fn with_target() -> Self {
        let mut d = Daemon::new();
        d.ok(Mode::Target, Op::New, "targetname=iqn.a");
        d
    }

    fn send(&mut self, request: &Request) -> Result<String, TgtError> {
        self.control.apply(request, &mut self.backend).response.map_err(|r| r.error)
    }

    /// A request to target 1, LUN 1.
    fn ask(&mut self, mode: Mode, op: Op, payload: &str) -> Result<String, TgtError> {
        self.send(&Request { tid: 1, lun: 1, payload: payload.to_owned(), ..Request::new(mode, op) })
    }

    fn ok(&mut self, mode: Mode, op: Op, payload: &str) -> String {
        self.ask(mode, op, payload).unwrap_or_else(|e| panic!("{mode:?} {op:?} {payload}: {e}"))
    }

    fn all(&mut self) -> String {
        self.send(&Request::new(Mode::Target, Op::Show)).unwrap()
    }

    fn session(&mut self, tid: Tid, sid: u64) {
        let connection =
            ConnectionView { cid: 0, address: "127.0.0.1".parse().unwrap(), stats: Default::default() };
        self.backend.sessions.entry(tid).or_default().insert(
            0,
            SessionView {
                sid,
                initiator: "iqn.i".to_owned(),
                alias: None,
                connections: vec![connection],
                negotiated: Vec::new(),
            },
        );
    }
}

#[test]
fn show_is_tgts_text() {
    let mut d = Daemon::with_target();
    d.ok(Mode::Device, Op::New, "path=/x,bsoflags=direct");
    d.ok(Mode::Device, Op::Update, "targetOps scsi_id=IET     00010001,scsi_sn=beaf11,");
    d.ok(Mode::Account, Op::New, "user=bob,password=x");
    d.ok(Mode::Account, Op::New, "user=carol,password=x");
    d.ok(Mode::Account, Op::Bind, "user=bob");
    let mut outgoing = Request { tid: 1, outgoing: true, ..Request::new(Mode::Account, Op::Bind) };
    outgoing.payload = "user=carol".to_owned();
    d.send(&outgoing).unwrap();
    d.ok(Mode::Target, Op::Bind, "initiator-name=iqn.n");
    d.ok(Mode::Target, Op::Bind, "initiator-address=ALL");
    d.ok(Mode::Target, Op::Update, "nop_interval=5");
    d.session(1, 9);
    let text = d.all();
    let lun1 = text.split("LUN: 1\n").nth(1).unwrap();
    assert!(text.starts_with(
        "Target 1: iqn.a
    System information:
        Driver: iscsi
        State: ready
        Nop interval: 5
        Nop count: 0
    I_T nexus information:
        I_T nexus: 9
            Initiator: iqn.i alias: none
            Connection: 0
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
"
    ));
    assert_eq!(
        lun1,
        "            Type: disk
            SCSI ID: IET     00010001
            SCSI SN: beaf11
            Size: 105 MB, Block size: 512
            Online: Yes
            Removable media: No
            Prevent removal: No
            Readonly: No
            SWP: No
            Thin-provisioning: No
            Backing store type: rdwr
            Backing store path: /x
            Backing store flags: direct
    Account information:
        bob
        carol (outgoing)
    ACL information:
        ALL
        iqn.n
"
    );
}

#[test]
fn errors_have_tgts_numbers() {
    use TgtError::*;
    let mut d = Daemon::with_target();
    let cases = [
        (Mode::Target, Op::New, "targetname=iqn.b", TargetExists),
        (Mode::Target, Op::New, "targetname=iqn_b", InvalidRequest),
        (Mode::Target, Op::New, "", InvalidRequest),
        (Mode::Target, Op::Update, "state=zork", InvalidRequest),
        (Mode::Target, Op::Update, "zork=1", InvalidRequest),
        (Mode::Target, Op::Update, "zork", Unsupported),
        (Mode::Target, Op::Unbind, "initiator-address=ALL", NoAcl),
        (Mode::Target, Op::Unbind, "", NoBinding),
        (Mode::Device, Op::Delete, "", NoLun),
        (Mode::Device, Op::Update, "", NoLun),
        (Mode::Device, Op::Stats, "", NoLun),
        (Mode::Device, Op::Show, "", Unsupported),
        (Mode::Device, Op::New, "path=/missing", InvalidRequest),
        (Mode::Account, Op::Bind, "user=x", NoUser),
        (Mode::Account, Op::Delete, "user=x", NoUser),
        (Mode::Account, Op::New, "user=x", InvalidRequest),
        (Mode::Session, Op::Show, "", InvalidRequest),
        (Mode::Session, Op::Stats, "", NoSession),
        (Mode::Connection, Op::Delete, "", NoSession),
        (Mode::Portal, Op::New, "portalOps zork,", InvalidRequest),
        (Mode::Portal, Op::Delete, "portalOps portal=127.0.0.1:1,", InvalidRequest),
        (Mode::System, Op::Delete, "", InvalidRequest),
        (Mode::System, Op::Update, "zork=1", InvalidRequest),
        (Mode::System, Op::Update, "iSNS=On", Unsupported),
        (Mode::Lld, Op::Stop, "", DriverActive),
    ];
    for (mode, op, payload, error) in cases {
        assert_eq!(d.ask(mode, op, payload), Err(error), "{mode:?} {op:?} {payload}");
    }
    let elsewhere = |mode, op| Request { tid: 5, lun: 1, ..Request::new(mode, op) };
    assert_eq!(d.send(&elsewhere(Mode::Device, Op::New)), Err(NoTarget));
    assert_eq!(d.send(&elsewhere(Mode::Device, Op::Delete)), Err(NoLun), "as tgt");
    assert_eq!(d.send(&elsewhere(Mode::Target, Op::Show)), Err(NoTarget));
    assert_eq!(d.send(&Request { lld: "zork".into(), ..elsewhere(Mode::Target, Op::Show) }), Err(NoDriver));
    let tape =
        Request { device_type: device_type::TAPE, tid: 1, lun: 2, ..Request::new(Mode::Device, Op::New) };
    assert_eq!(d.send(&tape), Err(Unsupported));
    assert_eq!(d.send(&Request { mode: 99, ..elsewhere(Mode::Target, Op::Show) }), Err(InvalidRequest));
}

#[test]
fn a_refused_update_changes_nothing() {
    let mut d = Daemon::with_target();
    d.ok(Mode::Device, Op::New, "path=/x");
    let before = d.control.saved();
    for payload in
        ["vendor_id=A,zork=1", "vendor_id=A,path=/y", "online=0,path=/missing", "readonly=1,online=0"]
    {
        let handle = *d.backend.units.keys().last().unwrap();
        d.backend.prevented = if payload.ends_with("online=0") { vec![handle] } else { Vec::new() };
        assert!(d.ask(Mode::Device, Op::Update, &format!("targetOps {payload},")).is_err(), "{payload}");
        assert_eq!(d.control.saved(), before, "{payload}");
        let spec = d.backend.units[&handle].clone();
        assert_eq!((spec.vendor_id.as_str(), spec.readonly, spec.online), ("IET", false, true), "{payload}");
        assert_eq!(spec.path.as_deref(), Some("/x"), "{payload}");
    }
}

#[test]
fn a_medium_is_changed_offline() {
    let mut d = Daemon::with_target();
    d.ok(Mode::Device, Op::New, "");
    assert!(d.all().contains("Removable media: Yes"));
    assert_eq!(d.ask(Mode::Device, Op::Update, "targetOps online=1,"), Err(TgtError::InvalidRequest));
    d.ok(Mode::Device, Op::Update, "targetOps path=/x,");
    assert!(d.all().contains("path: /x"));
    assert_eq!(d.ask(Mode::Device, Op::Update, "targetOps path=/y,"), Err(TgtError::InvalidRequest));
    d.ok(Mode::Device, Op::Update, "targetOps online=0,path=/y,");
    assert!(d.all().contains("path: /y"));
}

#[test]
fn a_busy_target_goes_only_by_force() {
    let mut d = Daemon::with_target();
    d.ok(Mode::Device, Op::New, "path=/x");
    d.session(1, 4);
    let handle = *d.backend.units.keys().last().unwrap();
    d.backend.busy.push(handle);
    assert_eq!(d.ask(Mode::Device, Op::Delete, ""), Err(TgtError::LunActive));
    assert_eq!(d.ask(Mode::Target, Op::Delete, ""), Err(TgtError::TargetActive));
    let force = Request { tid: 1, force: true, ..Request::new(Mode::Target, Op::Delete) };
    d.send(&force).unwrap();
    assert!(d.backend.units.is_empty() && d.backend.sessions.is_empty());
    assert!(d.backend.snapshot.as_ref().unwrap().targets.is_empty());
    let end = d.control.apply(&Request::new(Mode::System, Op::Delete), &mut d.backend);
    assert!(end.shutdown && end.response.is_ok());
}

#[test]
fn accounts_that_are_unbound_leave_no_hole() {
    // tgt 1.0.85 crashes at the show.
    let mut d = Daemon::with_target();
    for user in ["a", "b", "c"] {
        d.ok(Mode::Account, Op::New, &format!("user={user},password=p"));
        d.ok(Mode::Account, Op::Bind, &format!("user={user}"));
    }
    d.ok(Mode::Account, Op::Unbind, "user=a");
    d.ok(Mode::Account, Op::Delete, "user=c");
    let text = d.all();
    assert!(text.contains("Account information:\n        b\n    ACL"), "{text}");
    assert_eq!(d.ok(Mode::Account, Op::Show, ""), "Account list:\n    b\n    a\n");
}

#[test]
fn both_rules_in_one_request_are_two_rules() {
    let mut d = Daemon::with_target();
    d.ok(Mode::Target, Op::Bind, "initiator-address=10.0.0.0/8,initiator-name=iqn.n");
    let snapshot = d.backend.snapshot.clone().unwrap();
    let acl = &snapshot.target(1).unwrap().acl;
    assert!(acl.admits("iqn.n", "10.1.1.1".parse().unwrap()));
    assert!(!acl.admits("iqn.m", "10.1.1.1".parse().unwrap()));
    assert!(!acl.admits("iqn.n", "11.1.1.1".parse().unwrap()));
    let again = d.ask(Mode::Target, Op::Bind, "initiator-address=11.0.0.0/8,initiator-name=iqn.n");
    assert_eq!(again, Err(TgtError::AclExists));
    assert!(!d.all().contains("11.0.0.0/8"), "half of a refused request");
}

#[test]
fn serials_are_unique_stable_and_follow_what_is_given() {
    let spec = |instance: u8, tid: Tid, lun: u64, update: &str| {
        let mut d = Daemon { control: Control::new([instance; 16]), backend: FakeBackend::default() };
        let r =
            |mode, op, payload: &str| Request { tid, lun, payload: payload.into(), ..Request::new(mode, op) };
        d.send(&r(Mode::Target, Op::New, &format!("targetname=iqn.{tid}"))).unwrap();
        d.send(&r(Mode::Device, Op::New, "path=/x")).unwrap();
        d.send(&r(Mode::Device, Op::Update, update)).unwrap();
        d.control.saved().targets[0].luns[1].0.clone()
    };
    let base = spec(1, 1, 11, "");
    assert_eq!(base, spec(1, 1, 11, ""));
    for other in [spec(1, 11, 1, ""), spec(2, 1, 11, ""), spec(1, 1, 1, "")] {
        assert!(
            base.scsi_sn != other.scsi_sn && base.scsi_id != other.scsi_id && base.identity != other.identity
        );
    }
    let a = spec(1, 1, 1, "targetOps scsi_sn=same,");
    let b = spec(2, 5, 7, "targetOps scsi_sn=same,");
    assert!(a.scsi_id == b.scsi_id && a.identity == b.identity && a.scsi_sn == "same");
    let c = spec(2, 5, 7, "targetOps scsi_id=mine,scsi_sn=same,");
    assert!(c.scsi_id == "mine" && c.identity != a.identity);
    assert!(base.scsi_id.len() <= 36 && base.scsi_sn.len() <= 36);
}

#[test]
fn the_driver_stops_and_starts_with_its_portals() {
    let mut d = Daemon::new();
    d.ok(Mode::Portal, Op::New, "portalOps portal=[::1]:99,");
    let portals = d.ok(Mode::Portal, Op::Show, "");
    assert_eq!(portals, "Portal: [::1]:99,1\nPortal: 127.0.0.1:3260,1\n");
    d.ok(Mode::Lld, Op::Stop, "");
    assert!(d.backend.portals.is_empty());
    assert_eq!(d.ok(Mode::Lld, Op::Show, ""), "LLDs:\n    iscsi: stopped\n");
    let named = Request { lld: "iscsi".into(), ..Request::new(Mode::Target, Op::Show) };
    assert_eq!(d.send(&named), Err(TgtError::NoDriver));
    d.ok(Mode::Lld, Op::Start, "");
    assert_eq!(d.ok(Mode::Portal, Op::Show, ""), portals);
}

#[test]
fn json_parses_and_keeps_secrets() {
    let mut d = Daemon::with_target();
    d.ok(Mode::Device, Op::New, "path=/x");
    d.ok(Mode::Account, Op::New, "user=bob,password=hush");
    d.ok(Mode::Account, Op::Bind, "user=bob");
    d.session(1, 3);
    let ask = |d: &mut Daemon, what: &str| {
        let mut r =
            Request { payload: what.into(), sid: 3, lun: 1, ..Request::new(Mode::Plinth, Op::Plinth) };
        r.tid = 1;
        d.send(&r)
    };
    for what in [
        "json system show",
        "json target show",
        "json target stat",
        "json lu stat",
        "json portal show",
        "json account show",
        "json connection show",
        "json session stat",
    ] {
        let text = ask(&mut d, what).unwrap_or_else(|e| panic!("{what}: {e}"));
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert!(!text.contains("hush"), "{what}");
    }
    assert!(ask(&mut d, "stat-text lu").unwrap().contains("All initiators"));
    assert!(ask(&mut d, "json zork").is_err() && ask(&mut d, "zork").is_err());
    let state = ask(&mut d, "state").unwrap();
    assert_eq!(SavedState::from_json(&state).unwrap(), d.control.saved());
    assert!(state.contains("hush"));
}

fn any_request() -> impl Strategy<Value = Request> {
    let payload = prop_oneof![
        ".{0,40}",
        "(targetname=iqn[.a-c]{0,2})|(user=[ab],password=p)|(user=[ab])|(initiator-name=[ab])",
        "(initiator-address=(ALL|1.2.3.4))|(path=/(x|missing))|(targetOps (online=[01],|path=/[xy],|scsi_sn=[ab],){0,3})",
        "(portalOps portal=127.0.0.1:[1-3],)|(state=(ready|offline))|(stat-text lu)|(json (lu stat|target show))|state",
    ];
    let number = prop_oneof![0u32..9, Just(0x504cu32), any::<u32>()];
    (number.clone(), number, -1i32..4, 0u64..4, any::<bool>(), any::<bool>(), payload).prop_map(
        |(mode, op, tid, lun, outgoing, force, payload)| Request {
            mode,
            op,
            tid,
            lun,
            outgoing,
            force,
            payload,
            ..Request::new(Mode::System, Op::Show)
        },
    )
}

proptest! {
    #[test]
    fn any_requests_leave_a_state_that_restores(requests in proptest::collection::vec(any_request(), 1..60)) {
        let mut d = Daemon::new();
        for request in &requests {
            let before = d.control.saved();
            let outcome = d.control.apply(request, &mut d.backend);
            if outcome.response.is_err() || !outcome.changed {
                prop_assert_eq!(d.control.saved(), before, "{:?}", request);
            }
        }
        let saved = d.control.saved();
        let units: usize = saved.targets.iter().map(|t| t.luns.len()).sum();
        prop_assert_eq!(d.backend.units.len(), units);
        let mut again = Daemon { control: Control::new([7; 16]), backend: FakeBackend::default() };
        let warnings = again.control.restore(&saved, &mut again.backend).unwrap();
        prop_assert!(warnings.is_empty(), "{:?}", warnings);
        prop_assert_eq!(again.control.saved(), saved);
    }
}
