//! `tgtadm`: one management request from one command line.

mod help;
mod options;
mod validate;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use target_daemon::control::error::TgtError;
use target_daemon::mgmt::socket::{Answer, ClientError, call, path};
use target_daemon::mgmt::{Mode, Op, Request, verb};

use crate::Terminal;
use options::{Options, Stop};

/// What most errors end with.
pub(crate) const EINVAL: i32 = 22;

/// The longest path that a local socket can have, without the NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Runs the command line `args`.
pub fn run(args: &[String], terminal: &mut Terminal<'_>) -> i32 {
    match request(args, terminal) {
        Ok((options, request)) => send(&options, &request, terminal),
        Err(stop) => stop.print(terminal),
    }
}

fn request(args: &[String], terminal: &mut Terminal<'_>) -> Result<(Options, Request), Stop> {
    let mut options = Options::read(args)?;
    let (mode, op) = validate::check(&mut options)?;
    if let Some(root) = &options.root {
        terminal.root = base::Root::new(root);
    }
    let request = build(&options, mode, op)?;
    Ok((options, request))
}

fn build(options: &Options, mode: Mode, op: Op) -> Result<Request, Stop> {
    let mut request = Request::new(mode, op);
    request.lld.clone_from(&options.lld);
    request.tid = options.tid;
    request.sid = options.sid;
    request.cid = options.cid;
    request.lun = options.lun;
    request.host_no = options.host_no;
    request.device_type = options.device_type;
    request.outgoing = options.outgoing;
    request.force = options.force;
    request.payload = options.payload();
    if options.json || options.extended {
        let what = mode_name(mode);
        let verb = match (op, options.json) {
            (Op::Show, true) => format!("{} {what} show", verb::JSON),
            (Op::Stats, true) => format!("{} {what} stat", verb::JSON),
            (Op::Stats, false) => format!("{} {what}", verb::STAT_TEXT),
            _ => return Err(Stop::complaint("--json goes with show and stat, --extended with stat")),
        };
        request.mode = Mode::Plinth.to_wire();
        request.op = Op::Plinth.to_wire();
        request.payload = verb;
    }
    Ok(request)
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::System => "system",
        Mode::Target => "target",
        Mode::Device => "lu",
        Mode::Portal => "portal",
        Mode::Lld => "lld",
        Mode::Session => "session",
        Mode::Connection => "connection",
        Mode::Account => "account",
        Mode::Plinth => "plinth",
    }
}

fn send(options: &Options, request: &Request, terminal: &mut Terminal<'_>) -> i32 {
    let socket = socket_path(terminal, options.control_port);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        terminal.complain(&format!("tgtadm: management path too long: {}\n", socket.display()));
        return not_connected(terminal);
    }
    match call(&socket, request) {
        Ok(Answer::Text(text)) => {
            if request.mode == Mode::System.to_wire() && request.op == Op::Delete.to_wire() {
                wait_for_end(&socket);
            }
            terminal.print(&text);
            0
        }
        Ok(Answer::Refused { code, detail }) => {
            refused(options, request, code, &detail, terminal);
            EINVAL
        }
        Err(ClientError::Send(_)) => not_connected(terminal),
        Err(ClientError::Closed) => {
            terminal.complain("tgtadm: tgtd closed the socket\n");
            EINVAL
        }
        Err(ClientError::Receive(e)) => {
            terminal.complain(&format!("tgtadm: can't get the response, {e}\n"));
            EINVAL
        }
    }
}

/// The socket that a command talks to.
pub(crate) fn socket_path(terminal: &Terminal<'_>, control_port: i16) -> PathBuf {
    path(&terminal.root, terminal.socket_variable.as_deref(), control_port)
}

fn refused(options: &Options, request: &Request, code: u32, detail: &str, terminal: &mut Terminal<'_>) {
    if request.mode == Mode::Plinth.to_wire() && detail.is_empty() && code == TgtError::InvalidRequest.code()
    {
        terminal.complain("tgtadm: this daemon knows neither --json nor --extended\n");
        return;
    }
    let text = TgtError::from_code(code)
        .map_or_else(|| "(unknown tgtadm_errno)".to_owned(), |error| error.to_string());
    terminal.complain(&format!("tgtadm: {text}\n"));
    if options.debug && !detail.is_empty() {
        terminal.complain(&format!("tgtadm: {detail}\n"));
    }
}

/// tgt's text and exit code where no daemon listens.
fn not_connected(terminal: &mut Terminal<'_>) -> i32 {
    let why = "Transport endpoint is not connected";
    terminal.complain(&format!("tgtadm: failed to send request hdr to tgt daemon, {why}\n"));
    Errno::NOTCONN.raw_os_error()
}

/// Until nobody listens any more.
fn wait_for_end(socket: &Path) {
    loop {
        match std::os::unix::net::UnixStream::connect(socket) {
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                return;
            }
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use target_daemon::control::Control;
    use target_daemon::control::testing::FakeBackend;
    use target_daemon::mgmt::socket::Socket;

    use super::*;

    fn tgtadm(line: &str, root: &Path) -> (i32, String, String) {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let root = base::Root::new(root);
        let code = run(&args, &mut Terminal { out: &mut out, err: &mut err, root, socket_variable: None });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn command_lines_that_ask_nothing() {
        let hint = "Try `tgtadm --help' for more information.\n";
        let cases = [
            ("tgtadm", 22, "tgtadm: specify the operation type\n"),
            ("tgtadm -o show", 22, "tgtadm: specify the mode\n"),
            ("tgtadm -m zork", 1, "tgtadm: unknown mode: zork\n"),
            ("tgtadm -o zork", 1, "tgtadm: unknown operation: zork\n"),
            ("tgtadm -m sys -o new", 22, "tgtadm: operation new not supported in system mode\n"),
            ("tgtadm -m lld -o new", 22, "tgtadm: option 0 not supported in lld mode\n"),
            (
                "tgtadm -m target -o show -l 3",
                22,
                "tgtadm: target mode: option '-l' is not allowed/supported\n",
            ),
            (
                "tgtadm -m lu -o update -t 1 -l 1 -b x",
                22,
                "tgtadm: option '-b' not supported in logicalunit mode\n",
            ),
            ("tgtadm -m lu -o new -t 1", 22, "tgtadm: 'lun' option is necessary\n"),
            ("tgtadm -m portal -o new", 22, "tgtadm: you must specify --param portal=<portal>\n"),
            ("tgtadm -m portal -P portal=x -o new -C", 22, "tgtadm: option requires an argument -- 'C'\n"),
            ("tgtadm -t abc", 22, "-t argument value 'abc' invalid\n"),
        ];
        for (line, code, text) in cases {
            let (got, out, err) = tgtadm(line, Path::new("/nowhere"));
            assert!(got == code && out.is_empty(), "{line}: {got} {out}");
            assert_eq!(err.replace(hint, ""), text, "{line}");
        }
        let (code, _, err) = tgtadm("tgtadm -m target -o show", Path::new("/nowhere"));
        let text = "tgtadm: failed to send request hdr to tgt daemon, Transport endpoint is not connected\n";
        assert_eq!((code, err.as_str()), (107, text));
    }

    #[test]
    fn a_session_with_a_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let root = base::Root::new(dir.path());
        let socket = Socket::bind(&path(&root, None, 3)).unwrap();
        let daemon = std::thread::spawn(move || {
            let mut control = Control::new([3; 16]);
            let mut backend = FakeBackend::default();
            let mut apply = |r: Request| {
                let outcome = control.apply(&r, &mut backend);
                (outcome.response, outcome.shutdown)
            };
            while !socket.serve_one(&mut apply).unwrap() {}
        });
        let run = |line: &str| tgtadm(&format!("tgtadm -C 3 {line}"), dir.path());
        let none = || (0, String::new(), String::new());
        assert_eq!(run("-m target -o new -t 1 -T iqn.a"), none());
        assert_eq!(run("-m target -o new -t 1 -T iqn.a").2, "tgtadm: this target already exists\n");
        let debug = run("-d -m target -o new -t 1 -T iqn.a").2;
        assert_eq!(debug, "tgtadm: this target already exists\ntgtadm: tid 1 is taken\n");
        assert_eq!(run("-m lu -o new -t 1 -l 1 -b /x"), none());
        assert_eq!(run("-m lu -o update -t 1 -l 1 --param iops_limit=100"), none());
        assert!(run("-m target -o show").1.starts_with("Target 1: iqn.a\n"));
        let json: serde_json::Value = serde_json::from_str(&run("-m target -o show --json").1).unwrap();
        assert_eq!(json[0]["luns"][1]["iops_limit"], 100);
        assert!(run("-m lu -o stat -t 1 -l 1 --ext").1.contains("IOPS 100"));
        assert_eq!(run("-m target -o delete -t 1 --json").0, 22);
        assert_eq!(run("-m sys -o delete").0, 22);
        assert_eq!(run("-m target -o delete -t 1"), none());
        assert_eq!(run("-m sys -o delete"), none());
        daemon.join().unwrap();
        assert_eq!(run("-m target -o show").0, 107);
    }
}
