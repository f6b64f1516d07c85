//! The log: to standard error, in one line an event, with a level that tgtadm can raise while the daemon runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

type Level = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

static LEVEL: OnceLock<Level> = OnceLock::new();

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
