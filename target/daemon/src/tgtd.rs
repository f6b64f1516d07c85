//! The target daemon: the control plane on the management socket, the engine behind it, signals, the metrics endpoint.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base::Root;

use crate::engine::{Engine, EngineBackend, EngineConfig};
use crate::mgmt::socket::{self, PATH_VARIABLE, Socket};
use crate::persist::{self, Manager, Store};
use crate::{logging, metrics, notify};

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Stay in the foreground.
    pub foreground: bool,
    /// The management socket's number.
    pub control_port: i16,
    /// Reactor threads; 0: one a core.
    pub threads: usize,
    /// Where to write the process id.
    pub pid_file: Option<PathBuf>,
    /// Debug messages.
    pub debug: bool,
    /// `portal=host:port`, `nop_interval=N`, `nop_count=N`, by commas.
    pub iscsi: String,
    /// Keep what is configured across restarts.
    pub persist: bool,
    /// Where metrics are served; none: nowhere.
    pub metrics: Option<std::net::SocketAddr>,
    /// Commands that take longer are logged, milliseconds; 0: none.
    pub slow_request_ms: u64,
    /// Spin a little before sleeping.
    pub spin: bool,
    /// Stands for `/` in every path.
    pub root: Root,
}

/// Variable by which a daemon that went to the background knows that it did.
const BACKGROUND_VARIABLE: &str = "PLINTH_TGTD_BACKGROUND";
/// What the background daemon writes on its standard output when it is ready.
const READY: &[u8] = b"ready\n";
/// How long the foreground waits for it.
const READY_WAIT: Duration = Duration::from_secs(60);

/// Runs the daemon as `options` say; `arguments` are those that made them, for the daemon in the background. Returns when
/// the daemon has ended, or has gone to the background.
pub fn run(options: Options, arguments: &[OsString]) -> Result<()> {
    let in_background = std::env::var_os(BACKGROUND_VARIABLE).is_some();
    if !options.foreground && !in_background {
        return to_background(arguments);
    }
    if in_background {
        // Fails only where the process leads a group already, and then it needs no new session.
        let _ = rustix::process::setsid();
        logging::start_in_background(options.debug);
    } else {
        logging::start(options.debug);
    }
    raise_file_limit();
    let daemon = Daemon::start(options)?;
    if in_background {
        let mut out = io::stdout();
        // The parent may be gone; the daemon runs all the same.
        let _ = out.write_all(READY).and_then(|()| out.flush());
    }
    notify::ready();
    let ended = daemon.wait();
    notify::stopping();
    daemon.stop();
    ended
}

/// Starts the same program in a session of its own and waits until it is ready or has failed.
fn to_background(arguments: &[OsString]) -> Result<()> {
    let program = std::env::current_exe().context("cannot find the program's own file")?;
    let mut child = Command::new(program)
        .arg("tgtd")
        .args(arguments)
        .env(BACKGROUND_VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the daemon")?;
    let Some(mut out) = child.stdout.take() else { bail!("the daemon has no standard output") };
    let (tell, told) = sync_channel(1);
    std::thread::spawn(move || {
        let mut said = [0; READY.len()];
        let _ = tell.send(io::Read::read_exact(&mut out, &mut said).map(|()| said));
    });
    match told.recv_timeout(READY_WAIT) {
        Ok(Ok(said)) if said == *READY => Ok(()),
        Ok(_) => {
            let status = child.wait().context("cannot wait for the daemon")?;
            bail!("the daemon ended at its start ({status})")
        }
        Err(_) => bail!("the daemon was not ready within {} s", READY_WAIT.as_secs()),
    }
}

/// Every connection and every backing store takes a descriptor.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("the limit of open files cannot be raised: {e}");
    }
}

/// What the management thread and the metrics endpoint share.
pub(crate) struct Plane {
    manager: Manager,
    pub backend: EngineBackend,
}

/// The shared plane.
pub(crate) type SharedPlane = Arc<Mutex<Plane>>;

pub(crate) fn lock(plane: &SharedPlane) -> MutexGuard<'_, Plane> {
    plane.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running daemon, also for programs that hold one inside of themselves.
pub struct Daemon {
    engine: Engine,
    plane: SharedPlane,
    ended: std::sync::mpsc::Receiver<End>,
    pid_file: Option<PathBuf>,
    socket_path: PathBuf,
}

/// Why a daemon ends.
enum End {
    /// An administrator said so.
    Request,
    /// A signal, by its number.
    Signal(i32),
    /// Something that it cannot go on without failed.
    Failed(String),
}

impl Daemon {
    /// Starts engine, portals, management socket and, where asked for, metrics.
    pub fn start(options: Options) -> Result<Daemon> {
        let variable = std::env::var(PATH_VARIABLE).ok();
        let socket_path = socket::path(&options.root, variable.as_deref(), options.control_port);
        let socket = Socket::bind(&socket_path).with_context(|| "the management socket cannot be opened")?;
        let (instance, warning) = persist::instance_id(&options.root)?;
        let store = if options.persist {
            Some(Store::new(Store::default_path(&options.root, options.control_port))?)
        } else {
            None
        };
        let engine = Engine::start(EngineConfig {
            threads: options.threads,
            root: options.root.clone(),
            slow_request_ms: options.slow_request_ms,
            spin: options.spin,
        })
        .context("the engine cannot be started (io_uring is needed)")?;
        let mut backend = engine.backend();
        let (manager, warnings) = Manager::start(instance, store, &options.iscsi, &mut backend)?;
        for text in warning.into_iter().chain(warnings) {
            tracing::warn!("{text}");
        }
        let plane = Plane { manager, backend };
        let plane = Arc::new(Mutex::new(plane));
        let (end, ended) = sync_channel(8);
        serve_signals(end.clone())?;
        if let Some(address) = options.metrics {
            metrics::serve(address, Arc::clone(&plane)).with_context(|| format!("metrics at {address}"))?;
        }
        serve_management(socket, Arc::clone(&plane), end)?;
        if let Some(path) = &options.pid_file {
            std::fs::write(path, format!("{}\n", std::process::id()))
                .with_context(|| path.display().to_string())?;
        }
        tracing::info!("tgtd {} with {} reactors is ready", env!("CARGO_PKG_VERSION"), engine.threads());
        Ok(Daemon { engine, plane, ended, pid_file: options.pid_file, socket_path })
    }

    /// The management socket's path.
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Waits until the daemon is to end.
    pub fn wait(&self) -> Result<()> {
        match self.ended.recv() {
            Ok(End::Request) => tracing::info!("asked to end"),
            Ok(End::Signal(n)) => tracing::info!("signal {n}"),
            Ok(End::Failed(why)) => bail!(why),
            Err(_) => bail!("nobody is left who could end the daemon"),
        }
        Ok(())
    }

    /// Ends it: sessions are dropped, devices closed.
    pub fn stop(self) {
        drop(lock(&self.plane));
        self.engine.stop();
        if let Some(path) = &self.pid_file
            && let Err(e) = std::fs::remove_file(path)
        {
            tracing::warn!("{}: {e}", path.display());
        }
        tracing::info!("ended");
    }
}

fn serve_management(socket: Socket, plane: SharedPlane, end: SyncSender<End>) -> io::Result<()> {
    let body = move || {
        let mut failures = 0;
        loop {
            let mut apply = |request| {
                let mut guard = lock(&plane);
                let plane = &mut *guard;
                let (response, ends) = plane.manager.apply(&request, &mut plane.backend);
                if let Err(refusal) = &response
                    && !refusal.detail.is_empty()
                {
                    tracing::warn!("refused: {refusal}");
                }
                (response, ends)
            };
            match socket.serve_one(&mut apply) {
                Ok(false) => failures = 0,
                Ok(true) => {
                    let _ = end.send(End::Request);
                    return;
                }
                Err(e) => {
                    failures += 1;
                    tracing::error!("the management socket: {e}");
                    if failures > 100 {
                        let _ = end.send(End::Failed(format!("the management socket failed: {e}")));
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        }
    };
    std::thread::Builder::new().name("control".into()).spawn(body).map(drop)
}

/// SIGTERM and SIGINT end the daemon; SIGHUP is taken and ignored, as it has no file to read again.
fn serve_signals(end: SyncSender<End>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = move || {
        use tokio::signal::unix::{SignalKind, signal};
        runtime.block_on(async move {
            let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (
                signal(SignalKind::terminate()),
                signal(SignalKind::interrupt()),
                signal(SignalKind::hangup()),
            ) else {
                tracing::error!("signals cannot be taken: only tgtadm ends this daemon cleanly");
                return;
            };
            loop {
                let number = tokio::select! {
                    _ = term.recv() => 15,
                    _ = int.recv() => 2,
                    _ = hup.recv() => {
                        tracing::info!("SIGHUP: nothing to do; tgt-admin --update reads targets.conf again");
                        continue;
                    }
                };
                if end.send(End::Signal(number)).is_err() {
                    return;
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(body).map(drop)
}
