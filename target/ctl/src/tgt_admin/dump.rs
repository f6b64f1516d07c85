//! `--dump`: a configuration file that makes the daemon's state again, passwords and serial numbers included.

use std::fmt::Write;

use target_daemon::config::ALLOW_IN_USE;
use target_daemon::control::backend::{LunSpec, OpenFlags, StoreType};
use target_daemon::control::{SavedLun, SavedState, SavedTarget};

use super::current::Current;

/// The text. Of a stock daemon what can be known; passwords are marked.
pub(super) fn dump(current: &Current) -> String {
    let mut out = String::from("default-driver iscsi\n\n");
    let saved = &current.saved;
    if current.exact {
        globals(&mut out, saved);
    }
    let mut targets: Vec<_> = saved.targets.iter().collect();
    targets.sort_by_key(|t| t.tid);
    for t in targets {
        let _ = writeln!(out, "<target {}>", t.name);
        let _ = writeln!(out, "\tcontroller_tid {}", t.tid);
        target(&mut out, t, saved, current.exact);
        out.push_str("</target>\n\n");
    }
    out
}

/// A value that is read back as it is.
fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        if matches!(c, '\\' | '"' | '#' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out + "\""
}

fn login(saved: &SavedState, user: &str) -> String {
    let password = saved.accounts.iter().find(|a| a.user == user).map_or("", |a| a.password.0.as_str());
    let password = if password.is_empty() { "PLEASE_CORRECT_THE_PASSWORD" } else { password };
    // Such a password stands in the account line alone.
    if password.contains(char::is_whitespace) { quoted(user) } else { quoted(&format!("{user} {password}")) }
}

fn globals(out: &mut String, saved: &SavedState) {
    let system = &saved.system;
    if !system.isns_server.is_empty() {
        let _ = writeln!(out, "iSNSServerIP {}", quoted(&system.isns_server));
    }
    if system.isns_port != 3205 {
        let _ = writeln!(out, "iSNSServerPort {}", system.isns_port);
    }
    if system.isns_access_control {
        let _ = writeln!(out, "iSNSAccessControl On");
    }
    for p in saved.portals.iter().rev() {
        let _ = writeln!(out, "portal {}", p.address);
    }
    // Every account, since the order and those that nobody is bound to count as well.
    for a in saved.accounts.iter().rev() {
        let _ = writeln!(out, "account {}", quoted(&format!("{} {}", a.user, a.password.0)));
    }
    for user in &saved.discovery.incoming {
        let _ = writeln!(out, "incomingdiscoveryuser {}", login(saved, user));
    }
    if let Some(user) = &saved.discovery.outgoing {
        let _ = writeln!(out, "outgoingdiscoveryuser {}", login(saved, user));
    }
    out.push('\n');
}

fn target(out: &mut String, t: &SavedTarget, saved: &SavedState, exact: bool) {
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "\t{name} {value}");
    };
    for (name, value) in &t.params {
        line(name, &quoted(value));
    }
    if exact {
        line("nop_interval", &t.nop_interval.to_string());
        line("nop_count", &t.nop_count.to_string());
    }
    if !t.redirect.address.is_empty() {
        line("RedirectAddress", &quoted(&t.redirect.address));
    }
    if !t.redirect.port.is_empty() {
        line("RedirectPort", &quoted(&t.redirect.port));
    }
    if let Some(permanent) = t.redirect.permanent {
        line("RedirectReason", if permanent { "Permanent" } else { "Temporary" });
    }
    if !t.ready {
        line("state", "offline");
    }
    for user in &t.bindings.incoming {
        line("incominguser", &login(saved, user));
    }
    if let Some(user) = &t.bindings.outgoing {
        line("outgoinguser", &login(saved, user));
    }
    for rule in &t.acl.addresses {
        line("initiator-address", &quoted(rule));
    }
    for rule in &t.acl.names {
        line("initiator-name", &quoted(rule));
    }
    if t.acl.addresses.is_empty() && t.acl.names.is_empty() {
        line("initiator-address", "none");
    }
    for SavedLun(spec) in t.luns.iter().filter(|l| l.0.lun != 0) {
        unit(out, spec, exact);
    }
}

fn unit(out: &mut String, spec: &LunSpec, exact: bool) {
    let path = spec.path.as_deref().unwrap_or_default();
    let _ = writeln!(out, "\t<backing-store {}>", quoted(path));
    unit_options(out, spec, exact);
    out.push_str("\t</backing-store>\n");
}

fn unit_options(out: &mut String, spec: &LunSpec, exact: bool) {
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "\t\t{name} {value}");
    };
    line("lun", &spec.lun.to_string());
    if spec.store != StoreType::Rdwr {
        line("bs-type", spec.store.name());
    }
    match spec.bsopts.as_deref() {
        None => {}
        Some(ALLOW_IN_USE) => line(ALLOW_IN_USE, "yes"),
        Some(options) => line("bsopts", &quoted(options)),
    }
    match spec.flags {
        OpenFlags { sync: false, direct: false } => {}
        OpenFlags { sync: true, direct: false } => line("bsoflags", "sync"),
        OpenFlags { sync: false, direct: true } => line("bsoflags", "direct"),
        OpenFlags { sync: true, direct: true } => line("bsoflags", "sync:direct"),
    }
    line("block-size", &spec.block_size.to_string());
    line("scsi_id", &quoted(&spec.scsi_id));
    line("scsi_sn", &quoted(&spec.scsi_sn));
    let flag = |on: bool| if on { "1" } else { "0" };
    line("removable", flag(spec.removable));
    line("readonly", flag(spec.readonly));
    line("thin_provisioning", flag(spec.thin_provisioning));
    if spec.path.is_some() {
        line("online", flag(spec.online));
    }
    if !exact {
        return;
    }
    line("vendor_id", &quoted(&spec.vendor_id));
    line("product_id", &quoted(&spec.product_id));
    line("product_rev", &quoted(&spec.product_rev));
    line("sense_format", flag(spec.sense_format));
    if let Some(exponent) = spec.lbppbe {
        line("lbppbe", &exponent.to_string());
    }
    let numbers = [
        ("la_lba", u64::from(spec.la_lba)),
        ("optimal_xfer_gran", u64::from(spec.optimal_xfer_gran)),
        ("optimal_xfer_len", u64::from(spec.optimal_xfer_len)),
        ("rotation_rate", u64::from(spec.rotation_rate)),
        ("iops_limit", spec.limits.iops),
        ("bps_limit", spec.limits.bytes_per_second),
    ];
    for (name, value) in numbers.into_iter().filter(|(_, value)| *value != 0) {
        line(name, &value.to_string());
    }
    for page in &spec.mode_pages {
        line("mode_page", &super::diff::page_text(page));
    }
}
