//! A backend that does nothing and refuses nothing: what a plan is tried on before a daemon is asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::backend::{
    Backend, LunChange, LunHandle, LunInfo, LunSpec, NexusStats, SessionView, Snapshot, Tid,
};
use super::error::Refusal;

/// The backend.
#[derive(Debug, Default)]
pub struct DryBackend {
    units: std::collections::BTreeMap<LunHandle, LunSpec>,
    opened: u64,
}

impl Backend for DryBackend {
    fn open_lun(&mut self, _tid: Tid, _target: &str, spec: &LunSpec) -> Result<LunHandle, Refusal> {
        self.opened += 1;
        self.units.insert(LunHandle(self.opened), spec.clone());
        Ok(LunHandle(self.opened))
    }

    fn update_lun(&mut self, unit: LunHandle, _change: &LunChange, spec: &LunSpec) -> Result<(), Refusal> {
        self.units.insert(unit, spec.clone());
        Ok(())
    }

    fn close_lun(&mut self, unit: LunHandle, _force: bool) -> Result<(), Refusal> {
        self.units.remove(&unit);
        Ok(())
    }

    fn lun_info(&self, unit: LunHandle) -> LunInfo {
        let spec = self.units.get(&unit);
        LunInfo {
            online: spec.is_some_and(|s| s.online),
            readonly: spec.is_some_and(|s| s.readonly),
            ..LunInfo::default()
        }
    }

    fn lun_stats(&self, _unit: LunHandle) -> Vec<NexusStats> {
        Vec::new()
    }

    fn publish(&mut self, _snapshot: Arc<Snapshot>) {}

    fn sessions(&self, _tid: Tid) -> Vec<SessionView> {
        Vec::new()
    }

    fn drop_connection(&mut self, _tid: Tid, _sid: u64, _cid: u32) -> Result<(), Refusal> {
        Ok(())
    }

    fn drop_sessions(&mut self, _tid: Tid) {}

    fn open_portal(&mut self, host: Option<&str>, port: u16, _tag: u16) -> Result<Vec<SocketAddr>, Refusal> {
        // A name that only the daemon's resolver knows stands for some address.
        let ip = host.and_then(|h| h.parse().ok()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(vec![SocketAddr::new(ip, port)])
    }

    fn close_portal(&mut self, _address: SocketAddr) -> Result<(), Refusal> {
        Ok(())
    }

    fn set_debug(&mut self, _on: bool) {}
}
