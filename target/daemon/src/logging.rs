//! The log: one line an event, to standard error, or to the system's log from the background, with a level that tgtadm
//! can raise while the daemon runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::syslog::Syslog;

type Level = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

static LEVEL: OnceLock<Level> = OnceLock::new();

/// Starts the log of a daemon in the background: to the system's log, where there is one.
pub fn start_in_background(debug: bool) {
    let Some(syslog) = Syslog::connect() else { return start(debug) };
    let (filter, handle) = reload::Layer::new(level(debug));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(syslog)
        .with_target(false)
        .with_ansi(false)
        .without_time();
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Starts the log. A second call changes nothing.
pub fn start(debug: bool) {
    let (filter, handle) = reload::Layer::new(level(debug));
    let terminal = std::io::stderr().is_terminal();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(terminal);
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        let _ = LEVEL.set(handle);
    }
}

/// Turns debug messages on or off.
pub fn set_debug(on: bool) {
    if let Some(Err(e)) = LEVEL.get().map(|handle| handle.reload(level(on))) {
        tracing::error!("the log level cannot be changed: {e}");
    }
}

fn level(debug: bool) -> LevelFilter {
    if debug { LevelFilter::DEBUG } else { LevelFilter::INFO }
}
