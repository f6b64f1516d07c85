use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use target_daemon::control::backend::{ConnectionView, SessionView};
use target_daemon::control::testing::FakeBackend;
use target_daemon::control::{Control, SavedState};
use target_daemon::mgmt::socket::{Socket, path};

use super::*;

struct State {
    control: Control,
    backend: FakeBackend,
    log: Vec<Request>,
}

/// A daemon without an engine, in a root of its own.
struct Daemon {
    dir: tempfile::TempDir,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = base::Root::new(dir.path());
        let socket = Socket::bind(&path(&root, None, 0)).unwrap();
        let mut state =
            State { control: Control::new([9; 16]), backend: FakeBackend::default(), log: Vec::new() };
        state.control.start_driver_options("portal=127.0.0.1:3260", &mut state.backend).unwrap();
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            let mut apply = |r: Request| {
                let mut state = shared.lock().unwrap();
                let State { control, backend, log } = &mut *state;
                let outcome = control.apply(&r, backend);
                log.push(r.clone());
                let end = r.payload == "end";
                (outcome.response, end)
            };
            while !socket.serve_one(&mut apply).unwrap() {}
        });
        let daemon = Daemon { dir, state, thread: Some(thread) };
        for name in ["a", "b", "c"] {
            std::fs::write(daemon.file(name), "x").unwrap();
        }
        daemon
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn admin(&self, line: &str) -> (i32, String, String) {
        let mut args = vec!["tgt-admin".to_owned()];
        args.extend(line.split_whitespace().map(str::to_owned));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let root = base::Root::new(self.dir.path());
        let code = run(&args, &mut Terminal { out: &mut out, err: &mut err, root, socket_variable: None });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    /// Writes targets.conf; `@` stands for the directory with the files.
    fn conf(&self, text: &str) {
        let file = self.dir.path().join("etc/tgt/targets.conf");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text.replace('@', &self.dir.path().display().to_string())).unwrap();
    }

    fn apply(&self, text: &str, line: &str) {
        self.conf(text);
        let (code, out, err) = self.admin(line);
        assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""), "{text}");
    }

    fn saved(&self) -> SavedState {
        self.state.lock().unwrap().control.saved()
    }

    /// Changing requests since the last call.
    fn changes(&self) -> Vec<(Option<Mode>, Option<Op>, String)> {
        let log = std::mem::take(&mut self.state.lock().unwrap().log);
        let asked = |r: &Request| matches!(Op::from_wire(r.op), Some(Op::Show | Op::Plinth));
        let short = |r: Request| (Mode::from_wire(r.mode), Op::from_wire(r.op), r.payload);
        log.into_iter().filter(|r| !asked(r)).map(short).collect()
    }

    fn session(&self, tid: i32) {
        let address = "127.0.0.1".parse().unwrap();
        let connections = vec![ConnectionView { cid: 0, address, stats: Default::default() }];
        let session = SessionView {
            sid: 1,
            initiator: "iqn.i".into(),
            alias: None,
            connections,
            negotiated: Vec::new(),
        };
        self.state.lock().unwrap().backend.sessions.insert(tid, vec![session]);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let link = Link { socket: path(&base::Root::new(self.dir.path()), None, 0) };
        let end = Request { payload: "end".into(), ..Request::new(Mode::Target, Op::Show) };
        let _ = link.ask(&end);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const RICH: &str = "
incomingdiscoveryuser disc dpass
<target iqn.z>
    backing-store @/b
    backing-store @/a
    incominguser u1 p1
    outgoinguser u2 p2
    initiator-address 10.0.0.0/8
    initiator-name iqn.i
    MaxBurstLength 4096
    HeaderDigest CRC32C,None
    nop_interval 7
    write-cache off
    state offline
</target>
<target iqn.a>
    <backing-store @/c>
        lun 7
        scsi_sn serial-1
        params removable=1,thin_provisioning=1
        bs-type aio
        block-size 4096
        iops_limit 100
    </backing-store>
    controller_tid 5
</target>
";

#[test]
fn execute_makes_targets_as_tgt_admin_numbers_them() {
    let d = Daemon::new();
    d.apply(RICH, "-e");
    let saved = d.saved();
    let (a, z) = (saved.target("iqn.a").unwrap(), saved.target("iqn.z").unwrap());
    assert_eq!((a.tid, z.tid), (5, 6));
    assert_eq!(a.acl.addresses, ["ALL"]);
    assert_eq!((a.luns[1].0.lun, a.luns[1].0.block_size, a.luns[1].0.limits.iops), (7, 4096, 100));
    assert!(a.luns[1].0.thin_provisioning && a.luns[1].0.removable && a.luns[1].0.scsi_sn == "serial-1");
    let paths: Vec<_> = z.luns.iter().map(|l| (l.0.lun, l.0.path.clone())).collect();
    assert_eq!(paths, [(0, None), (1, Some(d.file("a"))), (2, Some(d.file("b")))]);
    assert_eq!((z.acl.addresses.len(), z.acl.names.len(), z.ready), (1, 1, false));
    assert_eq!(z.bindings.outgoing.as_deref(), Some("u2"));
    assert_eq!(saved.discovery.incoming, ["disc"]);
    d.changes();
    d.apply(RICH, "-e");
    assert_eq!(d.changes(), [], "the second time there is nothing to do");
}

#[test]
fn a_target_with_names_alone_is_not_open_to_all() {
    let d = Daemon::new();
    d.apply(
        "<target iqn.a>\ninitiator-name iqn.i\n</target>\n<target iqn.b>\ninitiator-address none\n</target>",
        "-e",
    );
    let saved = d.saved();
    assert!(saved.targets.iter().all(|t| t.acl.addresses.is_empty()), "{saved:?}");
}

#[test]
fn pretend_prints_tgt_admins_commands_and_does_nothing() {
    let d = Daemon::new();
    d.conf(RICH);
    let (code, out, err) = d.admin("-e -p");
    assert_eq!((code, err.as_str()), (0, ""));
    let wanted = [
        "tgtadm -C 0 --mode account --op new --user=disc --password=dpass".to_owned(),
        "tgtadm -C 0 --mode account --op bind --user=disc ".to_owned(),
        "# default-driver not defined, defaulting to iscsi.\n".to_owned(),
        "# Adding target: iqn.a".to_owned(),
        "tgtadm -C 0 --lld iscsi --op new --mode target --tid 5 -T iqn.a".to_owned(),
        format!(
            "tgtadm -C 0 --lld iscsi --op new --mode logicalunit --tid 5 --lun 7 -b \"{}\"  --bstype aio   --blocksize 4096",
            d.file("c")
        ),
        "tgtadm -C 0 --lld iscsi --op update --mode logicalunit --tid 5 --lun=7 --params scsi_sn=\"serial-1\"".to_owned(),
        "tgtadm -C 0 --lld iscsi --op update --mode logicalunit --tid 5 --lun=7 --params iops_limit=\"100\"".to_owned(),
        "# Write cache is enabled (default) for lun 7.".to_owned(),
        "tgtadm -C 0 --lld iscsi --op update --mode logicalunit --tid 5 --lun=7 --params \"removable=1,thin_provisioning=1\""
            .to_owned(),
        "tgtadm -C 0 --lld iscsi --op bind --mode target --tid 5 -I ALL".to_owned(),
        "# Adding target: iqn.z".to_owned(),
    ];
    assert!(out.starts_with(&(wanted.join("\n") + "\n")), "{out}");
    assert!(d.changes().is_empty() && d.saved().targets.is_empty());
}

#[test]
fn an_update_touches_only_what_differs() {
    let d = Daemon::new();
    d.apply(RICH, "-e");
    d.session(5);
    d.session(6);
    d.changes();
    d.apply(RICH, "--update ALL");
    assert_eq!(d.changes(), []);
    let change = |from: &str, to: &str| {
        let before = d.saved();
        d.apply(&RICH.replace(from, to), "--update ALL");
        let steps: Vec<_> = d.changes().into_iter().map(|(_, op, payload)| (op.unwrap(), payload)).collect();
        assert_ne!(d.saved(), before);
        d.apply(RICH, "--update ALL --force");
        d.changes();
        steps
    };
    let one = |op, payload: &str| vec![(op, payload.to_owned())];
    assert_eq!(change("iops_limit 100", "iops_limit 5"), one(Op::Update, "targetOps iops_limit=5,"));
    assert_eq!(change("state offline", ""), one(Op::Update, "state=ready"));
    assert_eq!(change("MaxBurstLength 4096", ""), one(Op::Update, "MaxBurstLength=262144"));
    assert_eq!(
        change("10.0.0.0/8", "11.0.0.0/8"),
        [
            (Op::Bind, "initiator-address=11.0.0.0/8".to_owned()),
            (Op::Unbind, "initiator-address=10.0.0.0/8".to_owned()),
        ]
    );
    assert_eq!(
        change("u1 p1", "u1 other"),
        [
            (Op::Delete, "user=u1".to_owned()),
            (Op::New, "user=u1,password=other".to_owned()),
            (Op::Bind, "user=u1".to_owned()),
        ]
    );
    let added = change(
        "    backing-store @/b\n",
        "    backing-store @/b\n    <backing-store @/c>\n allow-in-use yes\n</backing-store>\n",
    );
    assert_eq!(added[0], (Op::New, format!("path={},bsopts=allow-in-use", d.file("c"))));
}

#[test]
fn what_disturbs_a_session_needs_force() {
    let d = Daemon::new();
    d.apply(RICH, "-e");
    d.session(6);
    let before = d.saved();
    let less = RICH.replace("    backing-store @/b\n", "");
    d.conf(&less);
    let (code, _, err) = d.admin("--update ALL");
    assert!(
        code == 1
            && err.contains("iqn.z) is in use, it won't be updated")
            && err.contains("nothing was changed")
    );
    assert_eq!(d.saved(), before);
    d.apply(&less, "--update ALL --force");
    assert_eq!(d.saved().target("iqn.z").unwrap().luns.len(), 2);
    let (code, _, err) = d.admin("--delete iqn.z");
    assert!(code == 1 && err.contains("is in use, it won't be deleted"), "{err}");
    assert_eq!(d.admin("--delete iqn.z -f").0, 0);
    assert!(d.saved().target("iqn.z").is_none());
}

#[test]
fn a_failing_update_changes_nothing() {
    let d = Daemon::new();
    d.apply(RICH, "-e");
    let before = d.saved();
    // Known beforehand: a file that is not there, a file that somebody has open, two passwords, a wrong line.
    let open = std::fs::File::open(d.file("c")).unwrap();
    let mut holder = std::process::Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
    for (text, why) in [
        (RICH.replace("backing-store @/b", "backing-store @/nosuch"), "No such file"),
        (RICH.replace("backing-store @/b", "backing-store @/b\n backing-store @/a2"), "a2: No such file"),
        (RICH.replace("outgoinguser u2 p2", "outgoinguser u1 p2"), "u1 has another password at"),
        (RICH.replace("scsi_sn serial-1", "zork 1"), "zork is no option here"),
        ("<target iqn.n>\nbacking-store @/c\n</target>".to_owned() + RICH, "is used by"),
    ] {
        d.conf(&text);
        d.changes();
        let (code, _, err) = d.admin("--update ALL");
        assert!(code != 0 && err.contains(why), "{why}: {code} {err}");
        assert_eq!(d.changes(), [], "{why}");
    }
    d.apply(&("<target iqn.n>\nbacking-store @/c\n</target>".to_owned() + RICH), "--update iqn.n --force");
    assert!(d.changes().iter().any(|(.., payload)| payload.ends_with("bsopts=allow-in-use")));
    d.conf(RICH);
    assert_eq!(d.admin("--update ALL").0, 0);
    assert_eq!(d.saved(), before);
    holder.kill().unwrap();
    holder.wait().unwrap();
    // Known to the daemon alone, in the middle: everything is taken back.
    let text = RICH
        .replace("MaxBurstLength 4096", "MaxBurstLength 8192")
        .replace("backing-store @/a\n", "backing-store /dev/missing\n")
        .replace("iops_limit 100", "iops_limit 5");
    d.conf(&text);
    d.changes();
    let (code, out, err) = d.admin("--update ALL");
    assert!(code == 22 && out.contains("exited with code: 22."), "{out}");
    assert!(err.contains("/dev/missing") && err.contains("everything is as it was before"), "{err}");
    assert!(!d.changes().is_empty());
    assert_eq!(d.saved(), before);
}

#[test]
fn execute_makes_the_good_targets_and_tells_of_the_bad_ones() {
    let d = Daemon::new();
    d.conf(&(RICH.to_owned() + "<target iqn.b>\nbacking-store @/nosuch\n</target>\n<target iqn.c>\nbacking-store /dev/missing\n</target>"));
    let (code, out, err) = d.admin("-e");
    assert_eq!(code, 22, "{out}{err}");
    assert!(err.contains("nosuch: No such file") && err.contains("iqn.c was taken back"), "{err}");
    let saved = d.saved();
    let names: Vec<_> = saved.targets.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["iqn.a", "iqn.z"]);
}

#[test]
fn a_dump_makes_the_same_state_again() {
    let d = Daemon::new();
    d.apply(RICH, "-e");
    let link = Link { socket: path(&base::Root::new(d.dir.path()), None, 0) };
    let ask = |mode, op, tid, lun, payload: &str| {
        let r = Request { tid, lun, payload: payload.into(), ..Request::new(mode, op) };
        assert!(matches!(link.ask(&r), Ok(Answer::Text(_))), "{payload}");
    };
    ask(Mode::Account, Op::New, -1, 0, "user=loose,password=with \"quotes\" # and $igns");
    ask(Mode::Account, Op::Bind, 5, 0, "user=loose");
    ask(Mode::Target, Op::New, 9, 0, "targetname=iqn.closed");
    ask(Mode::Device, Op::New, 9, 1, "");
    ask(Mode::Device, Op::New, 9, 2, "path=/null,bstype=null");
    ask(
        Mode::Device,
        Op::Update,
        9,
        2,
        "targetOps online=0,readonly=1,lbppbe=3,write-cache=off,vendor_id=A # B,",
    );
    ask(Mode::Target, Op::Update, 9, 0, "RedirectAddress=1.2.3.4");
    ask(Mode::Target, Op::Update, 9, 0, "RedirectReason=Temporary");
    ask(Mode::Portal, Op::New, -1, 0, "portalOps portal=[::1]:99,");
    let (code, dump, err) = d.admin("--dump");
    assert_eq!((code, err.as_str()), (0, ""));
    let same = d.dir.path().join("dumped.conf");
    std::fs::write(&same, &dump).unwrap();
    d.changes();
    assert_eq!(d.admin(&format!("--update ALL -c {}", same.display())).0, 0);
    assert_eq!(d.changes(), [], "where it came from it changes nothing");
    let other = Daemon::new();
    let file = other.dir.path().join("dumped.conf");
    std::fs::write(&file, &dump).unwrap();
    let (code, out, err) = other.admin(&format!("-e -c {}", file.display()));
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""), "{dump}");
    let (mut want, mut got) = (d.saved(), other.saved());
    for state in [&mut want, &mut got] {
        // Given or made up, the serials are the same; which one it was the file cannot say. The controller's own follow
        // the daemon. Order of making is that of names.
        state.targets.sort_by_key(|t| t.tid);
        for lun in state.targets.iter_mut().flat_map(|t| &mut t.luns) {
            (lun.0.scsi_id_given, lun.0.scsi_sn_given) = (true, true);
        }
    }
    assert_eq!(got, want, "{dump}");
    assert_eq!(other.admin("--dump").1, dump);
    other.changes();
    assert_eq!(other.admin(&format!("--update ALL -c {}", file.display())).0, 0);
    assert_eq!(other.changes(), []);
}

#[test]
fn a_file_to_make_is_made_once() {
    let d = Daemon::new();
    let text = "<target iqn.a>\n<backing-store made/disk.img>\ncreate 1M\n</backing-store>\n</target>";
    d.conf(text);
    let made = d.dir.path().join("etc/tgt/made/disk.img");
    let (code, out, _) = d.admin("-e -p");
    assert!(code == 0 && out.contains("disk.img") && !made.exists());
    d.apply(text, "-e");
    assert_eq!(std::fs::metadata(&made).unwrap().len(), 1 << 20);
    std::fs::write(&made, "data").unwrap();
    assert_eq!(d.admin("--delete ALL").0, 0);
    d.apply(text, "--update ALL");
    assert_eq!(std::fs::read(&made).unwrap(), b"data");
}

#[test]
fn states_deletes_and_misuse() {
    let d = Daemon::new();
    d.apply(RICH, "-e");
    assert_eq!(d.admin("--offline ALL").0, 0);
    assert!(d.saved().targets.iter().all(|t| !t.ready));
    assert_eq!(d.admin("--ready iqn.a").0, 0);
    assert!(d.saved().target("iqn.a").unwrap().ready);
    assert_eq!(d.admin("--ready tid=6").0, 0);
    let (code, out, _) = d.admin("--offline iqn.nosuch");
    assert_eq!((code, out.as_str()), (1, "There is no target with name \"iqn.nosuch\", can't offline it!\n"));
    let (code, out, _) = d.admin("--offline tid=99");
    let line = "tgtadm -C 0 --op update --mode target --tid=99 -n state -v offline";
    assert_eq!((code, out), (22, format!("Command:\n\t{line}\nexited with code: 22.\n")));
    assert_eq!(d.admin("--delete iqn.nosuch -v").1, "# Target with name iqn.nosuch does not exist!\n");
    assert_eq!(d.admin("--update tid=99").1, "There is no target with tid 99, can't continue!\n");
    assert!(d.admin("--update iqn.nosuch").1.contains("is currently not configured\nand does not exist"));
    assert_eq!(d.admin("--zork"), (1, String::new(), "Unknown option: zork\n".into()));
    assert_eq!(d.admin("-v").1, "No action specified.\n");
    assert!(d.admin("-s").1.starts_with("Target 5: iqn.a\n"));
    assert!(d.admin("--update help").1.contains("--update iqn."));
    assert_eq!(d.admin("--delete tid=5").0, 0);
    assert_eq!(d.admin("--delete ALL").0, 0);
    assert!(d.saved().targets.is_empty());
    let (code, _, err) = d.admin("-e -c /nosuch");
    assert_eq!((code, err.as_str()), (2, "Config file /nosuch not found. Exiting...\n"));
    let nobody = tempfile::tempdir().unwrap();
    let root = base::Root::new(Path::new(nobody.path()));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal { out: &mut out, err: &mut err, root, socket_variable: None };
    assert_eq!(run(&["tgt-admin".into(), "-s".into()], &mut terminal), 107);
    assert!(String::from_utf8(out).unwrap().ends_with("exited with code: 107.\n"));
}
