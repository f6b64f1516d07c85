//! A backend without an engine: it opens any path that does not contain "missing", keeps sessions that a test put there, and
//! remembers what was asked of it. For tests of everything that stands on the control state.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::backend::{
    Backend, DeviceType, LunChange, LunHandle, LunInfo, LunSpec, NexusStats, SessionView, Snapshot,
    StoreType, Tid,
};
use super::error::{Refusal, TgtError};

/// The backend.
#[derive(Debug, Default)]
pub struct FakeBackend {
    /// Open units.
    pub units: BTreeMap<LunHandle, LunSpec>,
    /// Units that have commands in flight.
    pub busy: Vec<LunHandle>,
    /// Units whose removal an initiator prevents.
    pub prevented: Vec<LunHandle>,
    /// Sessions by target.
    pub sessions: BTreeMap<Tid, Vec<SessionView>>,
    /// Counters by unit.
    pub stats: BTreeMap<LunHandle, Vec<NexusStats>>,
    /// Addresses that listen.
    pub portals: Vec<SocketAddr>,
    /// What was published last.
    pub snapshot: Option<Arc<Snapshot>>,
    /// Changes that were applied, in order.
    pub changes: Vec<(LunHandle, LunChange)>,
    /// Verbose logging.
    pub debug: bool,
    opened: u64,
}

impl FakeBackend {
    fn check(spec: &LunSpec) -> Result<(), Refusal> {
        match &spec.path {
            Some(path) if path.contains("missing") && spec.store != StoreType::Null => {
                Err(Refusal::invalid(format!("{path}: No such file or directory")))
            }
            _ => Ok(()),
        }
    }
}

impl Backend for FakeBackend {
    fn open_lun(&mut self, _tid: Tid, _target: &str, spec: &LunSpec) -> Result<LunHandle, Refusal> {
        Self::check(spec)?;
        self.opened += 1;
        let handle = LunHandle(self.opened);
        self.units.insert(handle, spec.clone());
        Ok(handle)
    }

    fn update_lun(&mut self, unit: LunHandle, change: &LunChange, spec: &LunSpec) -> Result<(), Refusal> {
        if *change == LunChange::Online(false) && self.prevented.contains(&unit) {
            return Err(TgtError::PreventRemoval.into());
        }
        Self::check(spec)?;
        self.units.insert(unit, spec.clone());
        self.changes.push((unit, change.clone()));
        Ok(())
    }

    fn close_lun(&mut self, unit: LunHandle, force: bool) -> Result<(), Refusal> {
        if self.busy.contains(&unit) && !force {
            return Err(TgtError::LunActive.into());
        }
        self.units.remove(&unit).map(|_| ()).ok_or_else(|| TgtError::NoLun.into())
    }

    fn lun_info(&self, unit: LunHandle) -> LunInfo {
        let Some(spec) = self.units.get(&unit) else { return LunInfo::default() };
        let size = match (spec.device_type, &spec.path, spec.store) {
            (DeviceType::Controller, _, _) | (_, None, _) => 0,
            (_, _, StoreType::Null) => 1 << 40,
            (_, Some(path), _) => std::fs::metadata(path).map_or(100 << 20, |m| m.len()),
        };
        let online = spec.device_type == DeviceType::Controller || (spec.online && spec.path.is_some());
        let prevent_removal = self.prevented.contains(&unit);
        LunInfo { size, online, prevent_removal, readonly: spec.readonly, swp: false }
    }

    fn lun_stats(&self, unit: LunHandle) -> Vec<NexusStats> {
        self.stats.get(&unit).cloned().unwrap_or_default()
    }

    fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
    }

    fn sessions(&self, tid: Tid) -> Vec<SessionView> {
        self.sessions.get(&tid).cloned().unwrap_or_default()
    }

    fn drop_connection(&mut self, tid: Tid, sid: u64, cid: u32) -> Result<(), Refusal> {
        let sessions = self.sessions.entry(tid).or_default();
        let at = sessions.iter().position(|s| s.sid == sid).ok_or(TgtError::NoSession)?;
        if !sessions.iter().any(|s| s.sid == sid && s.connections.iter().any(|c| c.cid == cid)) {
            return Err(TgtError::NoConnection.into());
        }
        sessions.remove(at);
        Ok(())
    }

    fn drop_sessions(&mut self, tid: Tid) {
        self.sessions.remove(&tid);
    }

    fn open_portal(&mut self, host: Option<&str>, port: u16, _tag: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let ips = match host {
            None => vec![IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)],
            Some(host) => {
                vec![host.parse().map_err(|_| Refusal::invalid(format!("{host}: no such address")))?]
            }
        };
        let opened: Vec<_> = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
        if opened.iter().any(|a| self.portals.contains(a)) {
            return Err(Refusal::invalid(format!("{opened:?}: address in use")));
        }
        self.portals.extend(&opened);
        Ok(opened)
    }

    fn close_portal(&mut self, address: SocketAddr) -> Result<(), Refusal> {
        let at = self.portals.iter().position(|a| *a == address).ok_or(TgtError::InvalidRequest)?;
        self.portals.remove(at);
        Ok(())
    }

    fn set_debug(&mut self, on: bool) {
        self.debug = on;
    }
}
