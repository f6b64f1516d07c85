//! The control plane's side of the engine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use block::{BlockDevice, Features, Geometry, NullDevice};
use reactor::{Blocking, FileDevice, FileError, FileOptions, net};
use scsi::LogicalUnit;

use super::convert;
use super::mail::{Answer, Mail};
use super::shared::{Shared, SizeCarrier, Unit};
use super::throttle::Throttle;
use crate::control::backend::{
    Backend, DeviceType, LunChange, LunHandle, LunInfo, LunSpec, NexusStats, SessionView, Snapshot,
    StoreType, Tid,
};
use crate::control::error::{Refusal, TgtError};

/// How long an answer of a worker is waited for. A worker that takes longer is stuck in the kernel.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Size of a unit without a medium of its own (tgt's null store), bytes.
const NULL_BYTES: u64 = 1 << 40;

/// How long after the start a portal's address may still be another's: a ring outlives its killed process for a moment,
/// and holds the listening sockets of the daemon before this one.
const TAKEOVER_WAIT: Duration = Duration::from_secs(5);
/// Between two attempts.
const TAKEOVER_PAUSE: Duration = Duration::from_millis(50);

/// See the module.
pub struct EngineBackend {
    started: Instant,
    shared: Arc<Shared>,
    listening: Vec<SocketAddr>,
    carriers: Vec<(LunHandle, Arc<SizeCarrier>)>,
}

impl EngineBackend {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        EngineBackend { started: Instant::now(), shared, listening: Vec::new(), carriers: Vec::new() }
    }

    /// What logins are decided by at this moment.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// Asks every worker and gathers the answers.
    fn ask<T: Send>(&self, question: impl Fn(Answer<T>) -> Mail) -> Vec<T> {
        let posts = self.shared.posts();
        let (answer, answers): (Answer<T>, Receiver<T>) = sync_channel(posts.len().max(1));
        for post in posts {
            let mut mail = question(answer.clone());
            while let Err(full) = post.send(mail) {
                mail = full.0;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(answer);
        let mut got = Vec::with_capacity(posts.len());
        while got.len() < posts.len() {
            match answers.recv_timeout(ANSWER_WAIT) {
                Ok(a) => got.push(a),
                Err(_) => {
                    tracing::error!("a reactor gave no answer within {} s", ANSWER_WAIT.as_secs());
                    break;
                }
            }
        }
        got
    }

    /// Opens what stands behind a unit.
    fn open_device(&self, spec: &LunSpec) -> Result<Option<Arc<dyn BlockDevice>>, Refusal> {
        if spec.device_type == DeviceType::Controller {
            return Ok(None);
        }
        if spec.store == StoreType::Null {
            return Ok(Some(Arc::new(NullDevice::new(NULL_BYTES, spec.block_size))));
        }
        let Some(path) = &spec.path else { return Ok(None) };
        let allow_in_use = spec.bsopts.as_deref().is_some_and(|o| o.contains("allow-in-use"));
        let options = FileOptions {
            direct: spec.flags.direct || spec.store == StoreType::Aio,
            sync: spec.flags.sync,
            // `readonly` can be taken back while the unit runs; it is the unit that refuses writes.
            read_only: false,
            block_bytes: spec.block_size,
            exclusive: !allow_in_use,
        };
        let opened = self.open_file(Path::new(path), &options).or_else(|e| {
            // A medium that cannot be written is served read-only, as tgt does, and says so in every MODE SENSE.
            let read_only = matches!(&e, FileError::Open { source, .. } if matches!(
                source.kind(),
                std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied
            ));
            if !read_only {
                return Err(e);
            }
            tracing::warn!("{path}: cannot be written ({e}); the unit is read-only");
            FileDevice::open(Path::new(path), FileOptions { read_only: true, ..options.clone() })
        });
        // aio means O_DIRECT where the file system can; asked for by a flag, it is that or nothing.
        let opened = opened.or_else(|e| {
            let cannot = matches!(&e, FileError::BlockSize { .. })
                || matches!(&e, FileError::Open { source, .. } if source.kind() == std::io::ErrorKind::InvalidInput);
            if spec.flags.direct || spec.store != StoreType::Aio || !cannot {
                return Err(e);
            }
            tracing::warn!("{path}: no direct IO for this unit ({e}); it goes through the page cache");
            FileDevice::open(Path::new(path), FileOptions { direct: false, ..options.clone() })
        });
        match opened {
            Ok(device) => Ok(Some(Arc::new(device))),
            Err(e) => {
                tracing::error!("lun {}: {e}", spec.lun);
                Err(Refusal::invalid(e.to_string()))
            }
        }
    }

    fn watch_size(&mut self, unit: &Unit, device: &dyn BlockDevice) {
        let carrier = Arc::new(SizeCarrier(Arc::downgrade(&unit.lu)));
        let watcher: Weak<dyn block::ResizeWatcher> = Arc::downgrade(&carrier) as _;
        device.watch(watcher);
        self.carriers.retain(|(handle, _)| *handle != unit.handle);
        self.carriers.push((unit.handle, carrier));
    }

    fn restore_reservations(&self, unit: &Unit) -> Result<(), Refusal> {
        match self.shared.writer.read(&unit.state_name) {
            Ok(None) => Ok(()),
            Ok(Some(bytes)) => unit.lu.restore(&bytes).map_err(|e| {
                Refusal::invalid(format!(
                    "reservations in {}: {e}; move the file away to go on without",
                    unit.state_name
                ))
            }),
            Err(e) => Err(Refusal::invalid(format!("reservations in {}: {e}", unit.state_name))),
        }
    }

    fn replace_medium(&mut self, unit: &Unit, spec: &LunSpec) -> Result<(), Refusal> {
        let device = self.open_device(spec)?;
        if let Some(device) = &device {
            unit.lu.resized(device.geometry());
            self.watch_size(unit, &**device);
        }
        *unit.device.lock().unwrap_or_else(PoisonError::into_inner) = device;
        self.ask(|answer| Mail::ReopenUnit { unit: unit.handle, answer });
        Ok(())
    }
}

/// Puts on the medium what was written while the write cache was on.
fn flush(unit: &Unit) -> Result<(), Refusal> {
    let Some(device) = unit.device() else { return Ok(()) };
    let failed = |e: &dyn std::fmt::Display| {
        Refusal::invalid(format!("the write cache is off, but what was in it could not be flushed: {e}"))
    };
    let device = Blocking::open(device).map_err(|e| failed(&e))?;
    device.flush().map_err(|e| failed(&e))
}

/// The file that keeps a unit's reservations: by its identity, so that it is found again whatever number the unit has.
fn state_name(spec: &LunSpec) -> String {
    let hex: String = convert::naa(spec.identity).iter().map(|b| format!("{b:02x}")).collect();
    format!("{hex}.json")
}

impl Backend for EngineBackend {
    fn open_lun(&mut self, _: Tid, target: &str, spec: &LunSpec) -> Result<LunHandle, Refusal> {
        let config = convert::lu_config(spec);
        config.check().map_err(|e| Refusal::invalid(e.to_string()))?;
        let device = self.open_device(spec)?;
        let nothing = Geometry {
            size_bytes: 0,
            logical_block_bytes: spec.block_size,
            physical_block_bytes: spec.block_size,
            optimal_io_bytes: 0,
            discard_granularity_bytes: 0,
        };
        let (geometry, features) =
            device.as_ref().map_or((nothing, Features::default()), |d| (d.geometry(), d.features()));
        let unit = Unit {
            handle: self.shared.new_handle(),
            lun: spec.lun,
            lu: LogicalUnit::new(config, geometry, features),
            device: Mutex::new(device.clone()),
            throttle: Throttle::default(),
            state_name: state_name(spec),
            target: target.to_owned(),
        };
        unit.throttle.set(spec.limits.iops, spec.limits.bytes_per_second);
        if spec.device_type == DeviceType::Disk {
            self.restore_reservations(&unit)?;
        }
        if let Some(device) = &device {
            self.watch_size(&unit, &**device);
        }
        let handle = unit.handle;
        self.shared.add_unit(Arc::new(unit));
        Ok(handle)
    }

    fn update_lun(&mut self, handle: LunHandle, change: &LunChange, spec: &LunSpec) -> Result<(), Refusal> {
        let unit = self.shared.unit(handle).ok_or(TgtError::NoLun)?;
        if let LunChange::Path(_) = change {
            self.replace_medium(&unit, spec)?;
        }
        if matches!(change, LunChange::Online(false)) && unit.lu.removal_prevented() {
            return Err(TgtError::PreventRemoval.into());
        }
        if let Some(change) = convert::lu_change(change, spec) {
            unit.lu.update(&change).map_err(|e| Refusal::invalid(e.to_string()))?;
            if change.write_cache == Some(false) {
                flush(&unit)?;
            }
        }
        unit.throttle.set(spec.limits.iops, spec.limits.bytes_per_second);
        // Any update is also a moment to notice a grown medium.
        if let Some(Err(e)) = unit.device().map(|d| d.refresh()) {
            tracing::warn!("{} lun {}: {e}", unit.target, unit.lun);
        }
        Ok(())
    }

    fn close_lun(&mut self, handle: LunHandle, force: bool) -> Result<(), Refusal> {
        let _ = self.shared.unit(handle).ok_or(TgtError::NoLun)?;
        if !force && self.ask(|answer| Mail::CountTasks { unit: handle, answer }).iter().any(|&n| n > 0) {
            return Err(TgtError::LunActive.into());
        }
        self.ask(|answer| Mail::CloseUnit { unit: handle, answer });
        self.shared.remove_unit(handle);
        self.carriers.retain(|(h, _)| *h != handle);
        Ok(())
    }

    fn lun_info(&self, handle: LunHandle) -> LunInfo {
        let Some(unit) = self.shared.unit(handle) else { return LunInfo::default() };
        let config = unit.lu.config();
        LunInfo {
            size: unit.device().map_or(0, |d| d.geometry().size_bytes),
            online: config.online && unit.lu.medium_present(),
            prevent_removal: unit.lu.removal_prevented(),
            readonly: config.read_only || unit.device().is_some_and(|d| d.features().read_only),
            swp: config.swp,
        }
    }

    fn lun_stats(&self, handle: LunHandle) -> Vec<NexusStats> {
        let mut all: Vec<NexusStats> =
            self.ask(|answer| Mail::UnitStats { unit: handle, answer }).into_iter().flatten().collect();
        all.sort_by_key(|s| s.sid);
        all
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        let old = self.shared.snapshot();
        self.shared.set_snapshot(Arc::clone(&snapshot));
        let mut groups: Vec<u16> = snapshot.portals.iter().map(|p| p.tag).collect();
        groups.sort_unstable();
        groups.dedup();
        for unit in self.shared.units() {
            unit.lu.set_port_groups(&groups);
        }
        self.ask(Mail::Refresh);
        for target in &snapshot.targets {
            let before = old.target(target.tid).filter(|t| t.name == target.name);
            if before.is_some_and(|t| t.luns != target.luns) {
                let stayed = target.luns.iter().filter_map(|&(_, handle)| self.shared.unit(handle));
                stayed.for_each(|unit| unit.lu.luns_changed());
            }
        }
    }

    fn sessions(&self, tid: Tid) -> Vec<SessionView> {
        let mut all: Vec<SessionView> =
            self.ask(|answer| Mail::Sessions { tid, answer }).into_iter().flatten().collect();
        all.sort_by_key(|s| std::cmp::Reverse(s.sid));
        all
    }

    fn drop_connection(&mut self, tid: Tid, sid: u64, cid: u32) -> Result<(), Refusal> {
        let answers = self.ask(|answer| Mail::DropConnection { tid, sid, cid, answer });
        match answers.iter().find(|(session, _)| *session) {
            None => Err(TgtError::NoSession.into()),
            Some((_, false)) => Err(TgtError::NoConnection.into()),
            Some(_) => Ok(()),
        }
    }

    fn drop_sessions(&mut self, tid: Tid) {
        self.ask(|answer| Mail::DropSessions { tid, answer });
    }

    fn open_portal(&mut self, host: Option<&str>, port: u16, tag: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let wanted: Vec<SocketAddr> = match host {
            None => vec![
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
                SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            ],
            Some(name) => {
                let bare = name.trim_start_matches('[').trim_end_matches(']');
                let found = (bare, port).to_socket_addrs();
                found.map_err(|e| Refusal::invalid(format!("portal {name}: {e}")))?.collect()
            }
        };
        let mut opened = Vec::new();
        let mut why = String::from("no address");
        for address in wanted {
            match self.listen(address).and_then(|socket| Ok((net::local(&socket)?, socket))) {
                Ok((at, socket)) => {
                    self.listen_on_first(socket, at, tag);
                    opened.push(at);
                }
                Err(e) => why = format!("portal {address}: {e}"),
            }
        }
        if opened.is_empty() {
            return Err(Refusal::invalid(why));
        }
        self.listening.extend(&opened);
        Ok(opened)
    }

    fn close_portal(&mut self, address: SocketAddr) -> Result<(), Refusal> {
        let at = self.listening.iter().position(|&a| a == address).ok_or(TgtError::InvalidRequest)?;
        self.listening.remove(at);
        self.ask(|answer| Mail::Unlisten { address, answer });
        Ok(())
    }

    fn set_debug(&mut self, on: bool) {
        crate::logging::set_debug(on);
    }
}

impl EngineBackend {
    /// Opens a backing file. A killed daemon's rings hold its files for a moment after it is gone, so that a daemon that
    /// has just started waits for them.
    fn open_file(&self, path: &Path, options: &FileOptions) -> Result<FileDevice, FileError> {
        loop {
            match FileDevice::open(path, options.clone()) {
                Err(FileError::InUse { .. }) if self.started.elapsed() < TAKEOVER_WAIT => {
                    std::thread::sleep(TAKEOVER_PAUSE);
                }
                done => return done,
            }
        }
    }

    fn listen(&self, address: SocketAddr) -> std::io::Result<std::os::fd::OwnedFd> {
        loop {
            match net::listen(address, false) {
                Err(e)
                    if e.kind() == std::io::ErrorKind::AddrInUse
                        && self.started.elapsed() < TAKEOVER_WAIT =>
                {
                    std::thread::sleep(TAKEOVER_PAUSE);
                }
                done => return done,
            }
        }
    }

    /// The first worker accepts for all: it gives each connection to the worker with the fewest.
    fn listen_on_first(&self, socket: std::os::fd::OwnedFd, address: SocketAddr, tag: u16) {
        let Some(post) = self.shared.posts().first() else { return };
        let (answer, done) = sync_channel(1);
        let mut mail = Mail::Listen { socket, address, tag, answer };
        while let Err(full) = post.send(mail) {
            mail = full.0;
            std::thread::sleep(Duration::from_millis(1));
        }
        if done.recv_timeout(ANSWER_WAIT).is_err() {
            tracing::error!("the reactor does not listen on {address}");
        }
    }
}
