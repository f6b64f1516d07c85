//! `tgtd`: the options of the daemon.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use base::Root;
use clap::Parser;
use target_daemon::tgtd::Options;

/// The iSCSI target daemon.
#[derive(Debug, Parser)]
#[command(
    name = "tgtd",
    version,
    about = "Plinth's iSCSI target daemon, in tgtd's place",
    disable_version_flag = true
)]
struct Arguments {
    /// make the program run in the foreground
    #[arg(short = 'f', long, visible_alias = "nodaemonize", visible_short_alias = 'D')]
    foreground: bool,
    /// use port NNNN for the mgmt channel
    #[arg(short = 'C', long, value_name = "NNNN", default_value_t = 0)]
    control_port: i16,
    /// specify the number of I/O threads; 0 is one a core
    #[arg(
        short = 't',
        long = "nr_iothreads",
        visible_alias = "threads",
        value_name = "NNNN",
        default_value_t = 0
    )]
    threads: usize,
    /// specify the pid file
    #[arg(short = 'p', long, value_name = "filename")]
    pid_file: Option<PathBuf>,
    /// print debugging information
    #[arg(short = 'd', long = "debug", value_name = "debuglevel", default_value_t = 0)]
    debug: u32,
    /// portal=HOST:PORT, nop_interval=N, nop_count=N, by commas
    #[arg(long, value_name = "PARAMS", default_value = "")]
    iscsi: Vec<String>,
    /// keep what is configured across restarts
    #[arg(long)]
    persist: bool,
    /// serve Prometheus metrics at ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// log commands that take longer, milliseconds; 0 logs none
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    slow_request_ms: u64,
    /// do not spin before sleeping: less CPU, more latency at low depth
    #[arg(long)]
    no_spin: bool,
    /// stands for / in every path (also PLINTH_ROOT)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// print version and exit
    #[arg(short = 'V', long)]
    version: bool,
}

/// Runs the command; gives its exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(e) => {
            // Where not even the message can be printed, the exit code says enough.
            let _ = e.print();
            return if e.use_stderr() { 1 } else { 0 };
        }
    };
    if parsed.version {
        println!("{}", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    let options = Options {
        foreground: parsed.foreground,
        control_port: parsed.control_port,
        threads: parsed.threads,
        pid_file: parsed.pid_file,
        debug: parsed.debug > 0,
        iscsi: parsed.iscsi.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(","),
        persist: parsed.persist,
        metrics: parsed.metrics,
        slow_request_ms: parsed.slow_request_ms,
        spin: !parsed.no_spin,
        root: parsed.root.map_or_else(crate::root, Root::new),
    };
    match target_daemon::tgtd::run(options, arguments.get(1..).unwrap_or_default()) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("tgtd: {e:#}");
            1
        }
    }
}
