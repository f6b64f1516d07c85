//! From one state of a daemon to another: the steps between them. Units and targets that are the same in both are not
//! touched, and what can be changed in place is.

use std::collections::{BTreeMap, BTreeSet};

use target_daemon::control::backend::{LunSpec, ModePage, OpenFlags, StoreType};
use target_daemon::control::params::TargetParams;
use target_daemon::control::{SavedAcl, SavedBindings, SavedLun, SavedState, SavedTarget};

use super::step::{LunOptions, Step, Words};

/// tgt's caching page.
const CACHING: (u8, u8, [u8; 18]) =
    (8, 0, [0x14, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x80, 0x14, 0, 0, 0, 0, 0, 0]);

/// Steps, and what they take away from initiators.
#[derive(Debug, Default)]
pub(super) struct Diff {
    pub steps: Vec<Step>,
    /// Targets that lose units, or go.
    pub disturbed: BTreeSet<String>,
}

/// The steps that lead from `from` to `to`.
pub(super) fn diff(words: &Words, from: &SavedState, to: &SavedState) -> Diff {
    let mut out = Diff::default();
    let mut from = from.clone();
    // Targets that go, or come back under another id.
    let gone = |t: &SavedTarget| to.target(&t.name).is_none_or(|new| new.tid != t.tid);
    for target in from.targets.iter().filter(|t| gone(t)) {
        out.steps.push(Step::remark(format!("# Removing target: {}", target.name)));
        out.steps.push(words.delete_target(target.tid, true));
        out.disturbed.insert(target.name.clone());
    }
    from.targets.retain(|t| !gone(t));
    accounts(words, &mut from, to, &mut out.steps);
    bindings(words, None, &from.discovery, &to.discovery, &mut out.steps);
    for new in &to.targets {
        match from.target(&new.name) {
            Some(old) => target(words, old, new, &mut out),
            None => {
                out.steps.push(Step::remark(format!("# Adding target: {}", new.name)));
                out.steps.push(words.new_target(new.tid, &new.name));
                target(words, &fresh(new), new, &mut out);
            }
        }
    }
    for user in from.accounts.iter().map(|a| &a.user) {
        if !to.accounts.iter().any(|a| a.user == *user) {
            out.steps.push(words.delete_account(user));
        }
    }
    let portal = |p: &target_daemon::control::backend::Portal| p.address.to_string();
    for p in to.portals.iter().rev().filter(|p| !from.portals.iter().any(|o| o.address == p.address)) {
        out.steps.push(words.portal(true, &portal(p)));
    }
    for p in from.portals.iter().filter(|p| !to.portals.iter().any(|n| n.address == p.address)) {
        out.steps.push(words.portal(false, &portal(p)));
    }
    out
}

/// Accounts that are new, or have another password: these are made again, which takes their bindings away.
fn accounts(words: &Words, from: &mut SavedState, to: &SavedState, steps: &mut Vec<Step>) {
    for account in to.accounts.iter().rev() {
        match from.accounts.iter().find(|a| a.user == account.user) {
            Some(old) if old.password == account.password => continue,
            Some(_) => {
                steps.push(words.delete_account(&account.user));
                let forget = |b: &mut SavedBindings| {
                    b.incoming.retain(|u| *u != account.user);
                    b.outgoing.take_if(|u| *u == account.user);
                };
                forget(&mut from.discovery);
                from.targets.iter_mut().for_each(|t| forget(&mut t.bindings));
            }
            None => {}
        }
        steps.push(words.new_account(&account.user, &account.password));
    }
}

fn bindings(
    words: &Words,
    tid: Option<i32>,
    from: &SavedBindings,
    to: &SavedBindings,
    steps: &mut Vec<Step>,
) {
    // First the new ones: a target without any account is open to everybody.
    for user in to.incoming.iter().filter(|u| !from.incoming.contains(u)) {
        steps.push(words.account(true, tid, user, false));
    }
    for user in from.incoming.iter().filter(|u| !to.incoming.contains(u)) {
        steps.push(words.account(false, tid, user, false));
    }
    if from.outgoing != to.outgoing {
        steps.extend(from.outgoing.iter().map(|u| words.account(false, tid, u, true)));
        steps.extend(to.outgoing.iter().map(|u| words.account(true, tid, u, true)));
    }
}

/// What a target is right after it was made: LUN 0 alone.
fn fresh(new: &SavedTarget) -> SavedTarget {
    let mut fresh = new.clone();
    fresh.ready = true;
    fresh.params = BTreeMap::new();
    fresh.nop_interval = i32::MIN;
    fresh.nop_count = i32::MIN;
    fresh.bindings = SavedBindings::default();
    fresh.acl = SavedAcl::default();
    fresh.redirect.address.clear();
    fresh.redirect.port.clear();
    fresh.redirect.permanent = None;
    fresh.luns.retain(|l| l.0.lun == 0);
    for SavedLun(spec) in &mut fresh.luns {
        let made = made(spec);
        *spec = LunSpec { product_id: "Controller".to_owned(), ..made };
    }
    fresh
}

fn target(words: &Words, old: &SavedTarget, new: &SavedTarget, out: &mut Diff) {
    let tid = new.tid;
    let unit = |t: &'_ SavedTarget, lun: u64| t.luns.iter().find(|l| l.0.lun == lun).map(|l| l.0.clone());
    let mut make = Vec::new();
    for SavedLun(spec) in &old.luns {
        let changes = unit(new, spec.lun).and_then(|wanted| changes(spec, &wanted));
        match changes {
            // The controller comes and goes with its target.
            None if spec.lun == 0 => {}
            Some(changes) => {
                let set = |(name, value): (&str, String)| words.lun_parameter(tid, spec.lun, name, &value);
                make.extend(changes.into_iter().map(set));
            }
            None => {
                out.steps.push(words.delete_lun(tid, spec.lun));
                out.disturbed.insert(new.name.clone());
                make.extend(unit(new, spec.lun).iter().flat_map(|s| new_unit(words, tid, s)));
            }
        }
    }
    for SavedLun(spec) in new.luns.iter().filter(|l| unit(old, l.0.lun).is_none()) {
        make.extend(new_unit(words, tid, spec));
    }
    out.steps.extend(make);
    bindings(words, Some(tid), &old.bindings, &new.bindings, &mut out.steps);
    rules(words, tid, &old.acl, &new.acl, &mut out.steps);
    parameters(words, old, new, &mut out.steps);
}

/// Rules come before others go, so that nobody is locked out in between; but a kind of rules that was not there
/// narrows what is admitted, so names come first.
fn rules(words: &Words, tid: i32, old: &SavedAcl, new: &SavedAcl, steps: &mut Vec<Step>) {
    let kinds = [(true, &old.names, &new.names), (false, &old.addresses, &new.addresses)];
    for (by_name, old, new) in kinds {
        steps.extend(new.iter().filter(|r| !old.contains(r)).map(|r| words.rule(true, by_name, tid, r)));
    }
    for (by_name, old, new) in kinds {
        steps.extend(old.iter().filter(|r| !new.contains(r)).map(|r| words.rule(false, by_name, tid, r)));
    }
}

/// Parameters that have another value. One that is no longer given gets tgt's default.
fn parameters(words: &Words, old: &SavedTarget, new: &SavedTarget, steps: &mut Vec<Step>) {
    let tid = new.tid;
    let mut set = |name: &str, value: &str| steps.push(words.target_parameter(tid, name, value));
    let values = |t: &SavedTarget| {
        let mut params = TargetParams::new(0, 0);
        t.params.iter().for_each(|(k, v)| {
            params.set(k, v);
        });
        params
    };
    let mut wanted = values(new);
    for name in old.params.keys().filter(|k| !new.params.contains_key(*k)) {
        let default = TargetParams::new(0, 0).iter().find(|(n, _)| n == name).map(|(_, v)| v);
        if let Some(default) = default {
            wanted.set(name, &default);
        }
    }
    let before: BTreeMap<_, _> = values(old).iter().collect();
    for (name, value) in wanted.iter().filter(|(name, value)| before.get(name) != Some(value)) {
        set(name, new.params.get(name).unwrap_or(&value));
    }
    if old.nop_interval != new.nop_interval {
        set("nop_interval", &new.nop_interval.to_string());
    }
    if old.nop_count != new.nop_count {
        set("nop_count", &new.nop_count.to_string());
    }
    if old.redirect.port != new.redirect.port {
        set("RedirectPort", &new.redirect.port);
    }
    if let (true, Some(permanent)) =
        (old.redirect.permanent != new.redirect.permanent, new.redirect.permanent)
    {
        set("RedirectReason", if permanent { "Permanent" } else { "Temporary" });
    }
    if old.redirect.address != new.redirect.address {
        set("RedirectAddress", &new.redirect.address);
    }
    if old.ready != new.ready {
        set("state", if new.ready { "ready" } else { "offline" });
    }
}

/// The unit as its options make it, before any parameter.
fn made(spec: &LunSpec) -> LunSpec {
    LunSpec {
        scsi_id_given: false,
        scsi_sn_given: false,
        vendor_id: "IET".to_owned(),
        product_id: "VIRTUAL-DISK".to_owned(),
        product_rev: "0001".to_owned(),
        removable: spec.path.is_none() && spec.lun != 0,
        online: spec.path.is_some() || spec.lun == 0,
        readonly: false,
        sense_format: false,
        lbppbe: None,
        la_lba: 0,
        optimal_xfer_gran: 0,
        optimal_xfer_len: 0,
        thin_provisioning: false,
        rotation_rate: 0,
        mode_pages: Vec::new(),
        limits: Default::default(),
        ..spec.clone()
    }
}

fn new_unit(words: &Words, tid: i32, spec: &LunSpec) -> Vec<Step> {
    let block = spec.block_size.to_string();
    let flags = match spec.flags {
        OpenFlags { sync: false, direct: false } => None,
        OpenFlags { sync: true, direct: false } => Some("sync"),
        OpenFlags { sync: false, direct: true } => Some("direct"),
        OpenFlags { sync: true, direct: true } => Some("sync:direct"),
    };
    let options = LunOptions {
        path: spec.path.as_deref(),
        device_type: None,
        bs_type: (spec.store != StoreType::Rdwr).then(|| spec.store.name()),
        bsopts: spec.bsopts.as_deref(),
        bsoflags: flags,
        block_size: (spec.block_size != 512).then_some(&block),
    };
    let mut steps = vec![words.new_lun(tid, spec.lun, &options)];
    let changes = changes(&made(spec), spec).unwrap_or_default();
    steps.extend(changes.into_iter().map(|(name, value)| words.lun_parameter(tid, spec.lun, name, &value)));
    steps
}

/// The parameters that make `to` of `from`. None: only a new unit can become `to`.
fn changes(from: &LunSpec, to: &LunSpec) -> Option<Vec<(&'static str, String)>> {
    let medium =
        |s: &LunSpec| (s.device_type, s.path.clone(), s.store, s.flags, s.bsopts.clone(), s.block_size);
    if medium(from) != medium(to) {
        return None;
    }
    let mut out: Vec<(&'static str, String)> = Vec::new();
    for page in &to.mode_pages {
        if !from.mode_pages.contains(page) {
            out.push(("mode_page", page_text(page)));
        }
    }
    for page in &from.mode_pages {
        let code = |p: &ModePage| (p.page, p.subpage);
        if !to.mode_pages.iter().any(|p| code(p) == code(page)) {
            if code(page) != (CACHING.0, CACHING.1) {
                return None;
            }
            let default = ModePage { page: CACHING.0, subpage: CACHING.1, data: CACHING.2.to_vec() };
            if default != *page {
                out.push(("mode_page", page_text(&default)));
            }
        }
    }
    out.extend(identities(from, to)?);
    match (from.lbppbe, to.lbppbe) {
        (Some(_), None) => return None,
        (from, Some(to)) if from != Some(to) => out.push(("lbppbe", to.to_string())),
        _ => {}
    }
    let texts = [
        ("vendor_id", &from.vendor_id, &to.vendor_id),
        ("product_id", &from.product_id, &to.product_id),
        ("product_rev", &from.product_rev, &to.product_rev),
    ];
    out.extend(texts.into_iter().filter(|(_, a, b)| a != b).map(|(n, _, b)| (n, b.clone())));
    let pick = |s: &LunSpec| {
        [
            ("sense_format", u64::from(s.sense_format)),
            ("la_lba", u64::from(s.la_lba)),
            ("optimal_xfer_gran", u64::from(s.optimal_xfer_gran)),
            ("optimal_xfer_len", u64::from(s.optimal_xfer_len)),
            ("removable", u64::from(s.removable)),
            ("readonly", u64::from(s.readonly)),
            ("thin_provisioning", u64::from(s.thin_provisioning)),
            ("rotation_rate", u64::from(s.rotation_rate)),
            ("iops_limit", s.limits.iops),
            ("bps_limit", s.limits.bytes_per_second),
            ("online", u64::from(s.online)),
        ]
    };
    let numbers = pick(from).into_iter().zip(pick(to)).filter(|(a, b)| a != b);
    out.extend(numbers.map(|(_, (name, value))| (name, value.to_string())));
    Some(out)
}

/// What gives `from` the serial number and SCSI id of `to`. One that was made up is as good as the same one given, as
/// long as a serial number that changes does not take a made up id with it.
fn identities(from: &LunSpec, to: &LunSpec) -> Option<Vec<(&'static str, String)>> {
    if (from.scsi_sn_given && !to.scsi_sn_given) || (from.scsi_id_given && !to.scsi_id_given) {
        return None;
    }
    let new_sn = to.scsi_sn_given && from.scsi_sn != to.scsi_sn;
    let id_follows = new_sn && !from.scsi_id_given;
    let new_id = to.scsi_id_given && (id_follows || from.scsi_id != to.scsi_id);
    let sn = new_sn.then(|| ("scsi_sn", to.scsi_sn.clone()));
    Some(sn.into_iter().chain(new_id.then(|| ("scsi_id", to.scsi_id.clone()))).collect())
}

pub(super) fn page_text(page: &ModePage) -> String {
    let bytes: String = page.data.iter().map(|b| format!(":{b:#x}")).collect();
    format!("{}:{}:{}{bytes}", page.page, page.subpage, page.data.len())
}
