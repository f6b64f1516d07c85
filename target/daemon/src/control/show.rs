//! What `--op show` prints, byte for byte as tgt does.

use std::fmt::Write;

use super::backend::{Backend, DeviceType, OpenFlags, SessionView};
use super::error::Refusal;
use super::targets::address_text;
use super::{Bindings, Control, DRIVER, Lun, Target, Tid};
use crate::mgmt::Response;

const TAB1: &str = "    ";
const TAB2: &str = "        ";
const TAB3: &str = "            ";
const TAB4: &str = "                ";

/// Lines go to a String, which cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => { { let _ = writeln!($out, $($arg)*); } };
}

pub(super) fn yes_no(yes: bool) -> &'static str {
    if yes { "Yes" } else { "No" }
}

fn ready(ready: bool) -> &'static str {
    if ready { "ready" } else { "offline" }
}

/// tgt's megabytes: 10^6 bytes, by integer arithmetic that rounds in its own way (and wraps below 974 KiB).
pub(super) fn megabytes(size: u64) -> u64 {
    let sectors = size / 512;
    sectors.wrapping_sub((sectors / 625).wrapping_sub(974)) / 1950
}

pub(super) fn flags_text(flags: OpenFlags) -> &'static str {
    match (flags.sync, flags.direct) {
        (false, false) => "",
        (true, false) => "sync",
        (false, true) => "direct",
        (true, true) => "sync:direct",
    }
}

impl Control {
    fn driver_state(&self) -> &'static str {
        if self.system.driver_ready { "ready" } else { "stopped" }
    }

    pub(super) fn show_system(&self) -> String {
        let mut out = String::new();
        line!(out, "System:");
        line!(out, "{TAB1}State: {}", ready(self.system.online));
        line!(out, "{TAB1}debug: {}", if self.system.debug { "on" } else { "off" });
        line!(out, "LLDs:\n{TAB1}{DRIVER}: {}", self.driver_state());
        line!(out, "Backing stores:\n{TAB1}null\n{TAB1}rdwr (bsoflags sync:direct)\n{TAB1}aio");
        line!(out, "Device types:\n{TAB1}disk\n{TAB1}controller");
        if !self.discovery.incoming.is_empty() {
            line!(out, "{TAB1}Account information:\n");
            show_bindings(&mut out, TAB1, &self.discovery);
        }
        line!(out, "iSNS:\n{TAB1}iSNS=Off");
        line!(out, "{TAB1}iSNSServerIP={}", self.system.isns_server);
        line!(out, "{TAB1}iSNSServerPort={}", self.system.isns_port);
        line!(out, "{TAB1}iSNSAccessControl={}", if self.system.isns_access_control { "On" } else { "Off" });
        out
    }

    pub(super) fn show_drivers(&self) -> String {
        let mut out = format!("LLDs:\n{TAB1}{DRIVER}: {}\n", self.driver_state());
        let mut targets: Vec<_> = self.targets.values().collect();
        targets.sort_by_key(|t| t.created);
        for t in targets {
            line!(out, "{TAB2}Target {}: {}", t.tid, t.name);
        }
        out
    }

    pub(super) fn show_portals(&self) -> String {
        let mut out = String::new();
        for p in &self.portals {
            line!(out, "Portal: {},{}", p.address, p.tag);
        }
        out
    }

    pub(super) fn show_targets(&self, backend: &dyn Backend) -> String {
        let mut out = String::new();
        for target in self.targets.values() {
            show_target(&mut out, target, backend);
        }
        out
    }

    pub(super) fn show_target_params(&self, tid: Tid) -> Response {
        let target = self.target(tid)?;
        let mut out = String::new();
        let redirect = &target.redirect;
        if redirect.address.is_empty() {
            line!(out, "nop_interval={}\nnop_count={}", target.params.nop_interval, target.params.nop_count);
            for (name, value) in target.params.iter() {
                line!(out, "{name}={value}");
            }
        } else {
            let reason = match redirect.permanent {
                None => "Unknown",
                Some(false) => "Temporary",
                Some(true) => "Permanent",
            };
            line!(out, "RedirectAddress={}\nRedirectPort={}", redirect.address, redirect.port);
            line!(out, "RedirectReason={reason}");
        }
        Ok(out)
    }

    pub(super) fn show_connections(&self, tid: Tid, backend: &dyn Backend) -> Result<String, Refusal> {
        self.target(tid)?;
        let mut out = String::new();
        for session in backend.sessions(tid) {
            for connection in &session.connections {
                line!(out, "Session: {}\n{TAB1}Connection: {}", session.sid, connection.cid);
                line!(out, "{TAB2}Initiator: {}", session.initiator);
                line!(out, "{TAB2}IP Address: {}", address_text(connection.address));
            }
        }
        Ok(out)
    }
}

fn show_bindings(out: &mut String, indent: &str, bindings: &Bindings) {
    for user in &bindings.incoming {
        line!(out, "{indent}{user}");
    }
    if let Some(user) = &bindings.outgoing {
        line!(out, "{indent}{user} (outgoing)");
    }
}

fn show_target(out: &mut String, target: &Target, backend: &dyn Backend) {
    line!(out, "Target {}: {}", target.tid, target.name);
    line!(out, "{TAB1}System information:\n{TAB2}Driver: {DRIVER}\n{TAB2}State: {}", ready(target.ready));
    if target.params.nop_interval != 0 {
        line!(out, "{TAB2}Nop interval: {}", target.params.nop_interval);
        line!(out, "{TAB2}Nop count: {}", target.params.nop_count);
    }
    line!(out, "{TAB1}I_T nexus information:");
    for session in backend.sessions(target.tid).iter().rev() {
        show_session(out, session);
    }
    line!(out, "{TAB1}LUN information:");
    for (number, lun) in &target.luns {
        show_lun(out, *number, lun, backend);
    }
    line!(out, "{TAB1}Account information:");
    show_bindings(out, TAB2, &target.bindings);
    line!(out, "{TAB1}ACL information:");
    for rule in target.acl.addresses().chain(target.acl.names()) {
        line!(out, "{TAB2}{rule}");
    }
}

fn show_session(out: &mut String, session: &SessionView) {
    line!(out, "{TAB2}I_T nexus: {}", session.sid);
    let alias = session.alias.as_deref().unwrap_or("none");
    line!(out, "{TAB3}Initiator: {} alias: {alias}", session.initiator);
    for connection in &session.connections {
        line!(out, "{TAB3}Connection: {}", connection.cid);
        line!(out, "{TAB4}IP Address: {}", address_text(connection.address));
    }
}

fn show_lun(out: &mut String, number: u64, lun: &Lun, backend: &dyn Backend) {
    let spec = &lun.spec;
    let info = backend.lun_info(lun.handle);
    let device_type = match spec.device_type {
        DeviceType::Disk => "disk",
        DeviceType::Controller => "controller",
    };
    line!(out, "{TAB2}LUN: {number}");
    line!(out, "{TAB3}Type: {device_type}");
    line!(out, "{TAB3}SCSI ID: {}", spec.scsi_id);
    line!(out, "{TAB3}SCSI SN: {}", spec.scsi_sn);
    line!(out, "{TAB3}Size: {} MB, Block size: {}", megabytes(info.size), spec.block_size);
    line!(out, "{TAB3}Online: {}", yes_no(info.online));
    line!(out, "{TAB3}Removable media: {}", yes_no(spec.removable));
    line!(out, "{TAB3}Prevent removal: {}", yes_no(info.prevent_removal));
    line!(out, "{TAB3}Readonly: {}", yes_no(info.readonly));
    line!(out, "{TAB3}SWP: {}", yes_no(info.swp));
    line!(out, "{TAB3}Thin-provisioning: {}", yes_no(spec.thin_provisioning));
    line!(out, "{TAB3}Backing store type: {}", spec.store.name());
    line!(out, "{TAB3}Backing store path: {}", spec.path.as_deref().unwrap_or("None"));
    line!(out, "{TAB3}Backing store flags: {}", flags_text(spec.flags));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn megabytes_as_tgt_counts_them() {
        // Printed by tgt 1.0.85 for files of these sizes.
        assert_eq!(megabytes(0), 0);
        assert_eq!(megabytes(100 << 20), 105);
        assert_eq!(megabytes(256 << 20), 268);
        assert_eq!(megabytes(1 << 40), 1_099_512);
    }
}
