//! What to do to bring a daemon to what the configuration says, decided and tried on a copy before the daemon is
//! asked anything.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use target_daemon::config::{Login, StoreConf, TargetConf, TargetsConf, Value};
use target_daemon::control::backend::{Account, Portal, Secret};
use target_daemon::control::dry::DryBackend;
use target_daemon::control::{Control, SavedState, SavedTarget};

use super::add::{Forced, Known, account, add};
use super::current::Current;
use super::devices;
use super::diff::diff;
use super::step::{Step, Words};

/// Steps that stand or fall together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// The target that they make. None: they concern all.
    pub target: Option<(i32, String)>,
    pub steps: Vec<Step>,
}

/// A plan, or what is in its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub groups: Vec<Group>,
    /// What cannot be done, and why.
    pub problems: Vec<String>,
}

/// Which targets an update is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    Name(String),
}

pub(super) struct Planner<'a> {
    pub words: &'a Words,
    pub conf: &'a TargetsConf,
    pub current: &'a Current,
    pub force: bool,
}

impl Planner<'_> {
    /// `--execute`: what is missing is made, what is not in the configuration goes, what is there is left as it is.
    pub fn execute(&self) -> Plan {
        let mut plan = Plan::default();
        self.check_passwords(&mut plan);
        let mut known: Known = self.current.saved.accounts.iter().map(|a| a.user.clone()).collect();
        let mut global = self.global(&mut known);
        global.steps.extend(self.changed_passwords());
        if !self.conf.default_driver_given {
            global.steps.push(Step::remark("# default-driver not defined, defaulting to iscsi.\n"));
        }
        plan.groups.push(global);
        let mut devices = Devices::new(self, &[]);
        let mut tids = Tids::new(self);
        for target in self.conf.targets.values() {
            if self.current.saved.target(&target.name).is_some() {
                let text = format!("# Target {} already exists!", target.name);
                plan.groups.push(Group { target: None, steps: vec![Step::remark(text)] });
                continue;
            }
            let tid = tids.next(target);
            let mut problems = devices.check(target);
            problems.extend(self.desired(target, tid, &devices.forced).err());
            if problems.is_empty() {
                let steps = add(self.words, target, tid, &mut known, &devices.forced);
                plan.groups.push(Group { target: Some((tid, target.name.clone())), steps });
            }
            plan.problems.extend(problems);
        }
        plan.groups.push(Group { target: None, steps: vec![Step::remark("")] });
        let stays = |t: &&SavedTarget| !self.conf.targets.contains_key(&t.name);
        for target in self.current.saved.targets.iter().filter(stays) {
            plan.groups.push(Group { target: None, steps: self.remove(target, &mut plan.problems) });
        }
        plan
    }

    /// The steps that remove a target, unless it is in use.
    pub fn remove(&self, target: &SavedTarget, problems: &mut Vec<String>) -> Vec<Step> {
        removal(self.words, self.current, target, self.force, problems)
    }

    /// `--update`: what differs is changed, and nothing else.
    pub fn update(&self, scope: &Scope) -> Plan {
        let mut plan = Plan::default();
        self.check_passwords(&mut plan);
        let in_scope = |name: &str| match scope {
            Scope::All => true,
            Scope::Name(one) => one == name,
        };
        if self.current.exact {
            self.update_exact(&in_scope, &mut plan);
        } else {
            self.update_stock(&in_scope, &mut plan);
        }
        plan
    }

    fn update_exact(&self, in_scope: &dyn Fn(&str) -> bool, plan: &mut Plan) {
        let saved = &self.current.saved;
        let selected: Vec<_> = self.conf.targets.values().filter(|t| in_scope(&t.name)).collect();
        let mut forced = Forced::new();
        let mut problems = Vec::new();
        let mut to = self.wanted(in_scope, &selected, &forced, &mut problems);
        let mut result = diff(self.words, saved, &to);
        let opened = self.opened(&selected, &to, &result.steps);
        if !opened.is_empty() {
            let mut devices = Devices::new(self, &opened);
            devices.shared = shared(&to);
            let found: Vec<_> = selected.iter().flat_map(|t| devices.check(t)).collect();
            forced = devices.forced;
            if !forced.is_empty() {
                problems.clear();
                to = self.wanted(in_scope, &selected, &forced, &mut problems);
                result = diff(self.words, saved, &to);
            }
            problems.extend(found);
        }
        for name in &result.disturbed {
            let Some(target) = saved.target(name).filter(|t| self.current.in_use(t.tid) && !self.force)
            else {
                continue;
            };
            problems.push(format!(
                "Target with tid {} ({name}) is in use, it won't be updated: a unit of it or the target itself has to \
                 go. --force does it.",
                target.tid
            ));
        }
        let isns = self.conf.isns.iter().filter(|(name, v)| self.isns_differs(name, &v.text));
        let mut steps: Vec<_> = isns.map(|(name, v)| self.words.system(name, &v.text).at(&v.at)).collect();
        steps.extend(result.steps);
        self.name_places(&selected, &mut steps);
        problems.extend(self.rehearse(&steps).err());
        if steps.is_empty() {
            steps.push(Step::remark("# Nothing to change."));
        }
        plan.problems.extend(problems);
        plan.groups.push(Group { target: None, steps });
    }

    /// The state that the configuration asks for.
    fn wanted(
        &self,
        in_scope: &dyn Fn(&str) -> bool,
        selected: &[&TargetConf],
        forced: &Forced,
        problems: &mut Vec<String>,
    ) -> SavedState {
        let saved = &self.current.saved;
        let mut to = saved.clone();
        to.targets.retain(|t| !in_scope(&t.name) || self.conf.targets.contains_key(&t.name));
        let mut tids = Tids::new(self);
        for target in selected {
            let old = saved.target(&target.name);
            let tid = match (target.tid, old) {
                (None, Some(old)) => old.tid,
                _ => tids.next(target),
            };
            match self.desired(target, tid, forced) {
                Ok(mut new) => {
                    self.keep(target, old, &mut new);
                    match to.targets.iter_mut().find(|t| t.name == new.name) {
                        Some(slot) => *slot = new,
                        None => to.targets.push(new),
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        self.accounts_of(selected.iter().copied(), &mut to);
        self.discovery_of(&mut to);
        self.portals_of(&mut to, problems);
        to
    }

    /// Where the configuration asks for the units that the steps make, and what files they need.
    fn name_places(&self, selected: &[&TargetConf], steps: &mut [Step]) {
        for step in steps {
            let payload = step.request.as_ref().map_or("", |r| r.payload.as_str());
            let Some(path) = opened_path(payload) else { continue };
            if let Some(store) = selected.iter().flat_map(|t| &t.stores).find(|s| s.path == path) {
                step.at = Some(store.at.clone());
                step.create = store.create.map(|bytes| (store.path.clone(), bytes));
            }
        }
    }

    /// What the configuration cannot say, or does not, is as it was.
    fn keep(&self, target: &TargetConf, old: Option<&SavedTarget>, new: &mut SavedTarget) {
        let Some(old) = old else { return };
        if !target.keys.contains_key("nop_interval") {
            new.nop_interval = old.nop_interval;
        }
        if !target.keys.contains_key("nop_count") {
            new.nop_count = old.nop_count;
        }
        let controller = |t: &SavedTarget| t.luns.iter().position(|l| l.0.lun == 0);
        if let (Some(from), Some(to)) = (controller(old), controller(new))
            && let (Some(from), Some(to)) = (old.luns.get(from), new.luns.get_mut(to))
        {
            *to = from.clone();
        }
    }

    /// A stock daemon does not tell everything: a target is made anew, as tgt-admin does it.
    fn update_stock(&self, in_scope: &dyn Fn(&str) -> bool, plan: &mut Plan) {
        let mut known: Known = self.current.saved.accounts.iter().map(|a| a.user.clone()).collect();
        let gone = |t: &&SavedTarget| in_scope(&t.name) && !self.conf.targets.contains_key(&t.name);
        for target in self.current.saved.targets.iter().filter(gone) {
            plan.groups.push(Group { target: None, steps: self.remove(target, &mut plan.problems) });
        }
        plan.groups.push(self.global(&mut known));
        let mut tids = Tids::new(self);
        let selected: Vec<_> = self.conf.targets.values().filter(|t| in_scope(&t.name)).collect();
        let own: Vec<_> = self.current.saved.targets.iter().flat_map(paths).collect();
        let mut devices = Devices::new(self, &[]);
        devices.spared = own.into_iter().collect();
        for target in selected {
            let old = self.current.saved.target(&target.name);
            let tid = match (target.tid, old) {
                (None, Some(old)) => old.tid,
                _ => tids.next(target),
            };
            plan.problems.extend(devices.check(target));
            plan.problems.extend(self.desired(target, tid, &devices.forced).err());
            let mut steps = Vec::new();
            if let Some(old) = old {
                if self.current.in_use(old.tid) && !self.force {
                    let text =
                        format!("Target with tid {} ({}) is in use, it won't be updated.", old.tid, old.name);
                    plan.problems.push(text);
                }
                steps.push(Step::remark(format!("# Removing target: {}", old.name)));
                steps.push(self.words.delete_target(old.tid, self.force));
                steps.push(Step::remark(""));
            }
            steps.extend(add(self.words, target, tid, &mut known, &devices.forced));
            plan.groups.push(Group { target: Some((tid, target.name.clone())), steps });
        }
    }

    /// System parameters, portals, discovery accounts.
    fn global(&self, known: &mut Known) -> Group {
        let mut steps = Vec::new();
        let saved = &self.current.saved;
        for (name, v) in self.conf.isns.iter().filter(|(name, v)| self.isns_differs(name, &v.text)) {
            steps.push(self.words.system(name, &v.text).at(&v.at));
        }
        for v in &self.conf.portals {
            if portal(v).is_none_or(|p| !saved.portals.iter().any(|o| o.address == p.address)) {
                steps.push(self.words.portal(true, &v.text).at(&v.at));
            }
        }
        let new = self.conf.accounts.iter().filter(|l| known.insert(l.user.clone())).collect::<Vec<_>>();
        for login in new {
            steps.push(self.words.new_account(&login.user, &Secret(login.password.clone())).at(&login.at));
        }
        for login in &self.conf.incoming_discovery {
            if !saved.discovery.incoming.contains(&login.user) {
                steps.extend(account(self.words, login, None, false, known));
            }
        }
        if let Some(login) = &self.conf.outgoing_discovery
            && saved.discovery.outgoing.as_ref() != Some(&login.user)
        {
            steps.extend(saved.discovery.outgoing.iter().map(|u| self.words.account(false, None, u, true)));
            steps.extend(account(self.words, login, None, true, known));
        }
        Group { target: None, steps }
    }

    fn isns_differs(&self, name: &str, value: &str) -> bool {
        let system = &self.current.saved.system;
        match name {
            _ if !self.current.exact => true,
            "iSNS" => value != "Off",
            "iSNSServerIP" => system.isns_server != value,
            "iSNSServerPort" => system.isns_port.to_string() != value,
            _ => system.isns_access_control != (value == "On"),
        }
    }

    fn logins(&self) -> impl Iterator<Item = &Login> {
        let conf = self.conf;
        let of_targets = conf.targets.values().flat_map(|t| t.incoming.iter().chain(&t.outgoing));
        conf.accounts.iter().chain(&conf.incoming_discovery).chain(&conf.outgoing_discovery).chain(of_targets)
    }

    fn check_passwords(&self, plan: &mut Plan) {
        let mut first: BTreeMap<&str, &Login> = BTreeMap::new();
        for login in self.logins() {
            let other = first.entry(&login.user).or_insert(login);
            if other.password != login.password {
                let text = format!("{}: {} has another password at {}", login.at, login.user, other.at);
                plan.problems.push(text);
            }
        }
    }

    /// Accounts that exist with another password than the configuration's.
    fn changed_passwords(&self) -> Vec<Step> {
        if !self.current.exact {
            return Vec::new();
        }
        let mut to = self.current.saved.clone();
        for account in &mut to.accounts {
            if let Some(login) = self.logins().find(|l| l.user == account.user) {
                account.password = Secret(login.password.clone());
            }
        }
        diff(self.words, &self.current.saved, &to).steps
    }

    fn accounts_of<'b>(&self, targets: impl Iterator<Item = &'b TargetConf>, to: &mut SavedState) {
        let conf = self.conf;
        let of_targets = targets.flat_map(|t| t.incoming.iter().chain(&t.outgoing));
        let all = conf.accounts.iter().chain(&conf.incoming_discovery).chain(&conf.outgoing_discovery);
        let mut wanted: Vec<(&str, &str)> = all.map(|l| (l.user.as_str(), l.password.as_str())).collect();
        wanted.extend(of_targets.map(|l| (l.user.as_str(), l.password.as_str())));
        for (user, password) in wanted {
            let password = Secret(password.to_owned());
            match to.accounts.iter_mut().find(|a| a.user == user) {
                Some(account) => account.password = password,
                None => to.accounts.insert(0, Account { user: user.to_owned(), password }),
            }
        }
    }

    /// What the configuration names replaces what there is; where it names nothing, what there is stays.
    fn discovery_of(&self, to: &mut SavedState) {
        if !self.conf.incoming_discovery.is_empty() {
            to.discovery.incoming = self.conf.incoming_discovery.iter().map(|l| l.user.clone()).collect();
        }
        if let Some(login) = &self.conf.outgoing_discovery {
            to.discovery.outgoing = Some(login.user.clone());
        }
    }

    fn portals_of(&self, to: &mut SavedState, problems: &mut Vec<String>) {
        for v in &self.conf.portals {
            match portal(v) {
                Some(p) if to.portals.iter().any(|o| o.address == p.address) => {}
                Some(p) => to.portals.insert(0, p),
                None => problems
                    .push(format!("{}: portal {}: an address, or address:port, is right", v.at, v.text)),
            }
        }
    }

    /// The target as a daemon would have it.
    fn desired(&self, target: &TargetConf, tid: i32, forced: &Forced) -> Result<SavedTarget, String> {
        let mut control = Control::new([0; 16]);
        let steps = add(self.words, target, tid, &mut Known::new(), forced);
        apply(&mut control, &steps)?;
        let made = control.saved().targets.into_iter().next();
        made.ok_or_else(|| format!("{}: {} was not made", target.at, target.name))
    }

    /// Does the steps on a copy of the daemon's state.
    fn rehearse(&self, steps: &[Step]) -> Result<(), String> {
        let mut control = Control::new([0; 16]);
        control
            .restore(&self.current.saved, &mut DryBackend::default())
            .map_err(|e| format!("the daemon's state: {e}"))?;
        apply(&mut control, steps)
    }

    /// Units of these targets that the steps make.
    fn opened<'b>(&self, targets: &[&'b TargetConf], to: &SavedState, steps: &[Step]) -> Vec<Unit<'b>> {
        let made: BTreeSet<(i32, u64)> = steps
            .iter()
            .filter_map(|s| s.request.as_ref())
            .filter(|r| opened_path(&r.payload).is_some())
            .map(|r| (r.tid, r.lun))
            .collect();
        let is_made = |name: &str, lun: u64| to.target(name).is_some_and(|t| made.contains(&(t.tid, lun)));
        let units = targets.iter().flat_map(|t| t.stores.iter().map(|s| (t.name.as_str(), s.lun)));
        units.filter(|(name, lun)| is_made(name, *lun)).collect()
    }
}

/// A unit of a target: its name and number.
type Unit<'a> = (&'a str, u64);

/// The path in the options of a new unit.
fn opened_path(payload: &str) -> Option<&str> {
    payload.strip_prefix("path=")?.split(',').next()
}

/// The steps that remove a target; a problem where it is in use and `force` is not set.
pub(super) fn removal(
    words: &Words,
    current: &Current,
    target: &SavedTarget,
    force: bool,
    problems: &mut Vec<String>,
) -> Vec<Step> {
    if current.in_use(target.tid) && !force {
        let text =
            format!("Target with tid {} ({}) is in use, it won't be deleted.", target.tid, target.name);
        problems.push(text.clone());
        return vec![Step::remark(format!("# {text}"))];
    }
    vec![
        Step::remark(format!("# Removing target: {}", target.name)),
        words.delete_target(target.tid, force && current.in_use(target.tid)),
        Step::remark(""),
    ]
}

fn apply(control: &mut Control, steps: &[Step]) -> Result<(), String> {
    let mut backend = DryBackend::default();
    for step in steps {
        let Some(request) = &step.request else { continue };
        if let Err(refusal) = control.apply(request, &mut backend).response {
            let place = step.at.as_ref().map_or(String::new(), |at| format!("{at}: "));
            return Err(format!("{place}{refusal}\n\t{}", step.line));
        }
    }
    Ok(())
}

fn portal(v: &Value) -> Option<Portal> {
    let text = &v.text;
    let address = text.parse::<SocketAddr>().ok().or_else(|| {
        let ip: IpAddr = text.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(SocketAddr::new(ip, 3260))
    })?;
    Some(Portal { address, tag: 1 })
}

/// Paths that several units have.
fn shared(state: &SavedState) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    state.targets.iter().flat_map(paths).filter(|p| !seen.insert(p.clone())).collect()
}

fn paths(target: &SavedTarget) -> impl Iterator<Item = String> {
    target.luns.iter().filter_map(|l| l.0.path.clone())
}

/// Target ids that are free.
struct Tids {
    used: BTreeSet<i32>,
    last: i32,
}

impl Tids {
    fn new(planner: &Planner<'_>) -> Self {
        let there = planner.current.saved.targets.iter().map(|t| t.tid);
        let last = there.clone().max().unwrap_or(0);
        let reserved = planner.conf.targets.values().filter_map(|t| t.tid);
        Tids { used: there.chain(reserved).collect(), last }
    }

    /// The target's own, or the one after the last, as tgt-admin counts.
    fn next(&mut self, target: &TargetConf) -> i32 {
        if let Some(tid) = target.tid {
            self.last = tid;
            return tid;
        }
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.used.insert(self.last) {
                return self.last;
            }
        }
    }
}

/// What is known of backing devices while a plan is made.
struct Devices<'a> {
    force: bool,
    /// Only these are looked at; empty: all.
    only: &'a [Unit<'a>],
    /// In use by the daemon itself, which will let go of them.
    spared: BTreeSet<String>,
    taken: BTreeMap<String, String>,
    /// What more than one unit will have.
    shared: BTreeSet<String>,
    /// In use, and taken all the same.
    forced: Forced,
}

impl<'a> Devices<'a> {
    fn new(planner: &Planner<'_>, only: &'a [Unit<'a>]) -> Self {
        let spared = match planner.current.exact && !only.is_empty() {
            true => planner.current.saved.targets.iter().flat_map(paths).collect(),
            false => BTreeSet::new(),
        };
        Devices {
            force: planner.force,
            only,
            spared,
            taken: BTreeMap::new(),
            shared: BTreeSet::new(),
            forced: Forced::new(),
        }
    }

    /// Why units of the target cannot be made.
    fn check(&mut self, target: &TargetConf) -> Vec<String> {
        let stores = target.stores.iter().filter(|s| !s.path.is_empty() && !is_null(s));
        let name = target.name.as_str();
        let looked_at = |s: &&StoreConf| self.only.is_empty() || self.only.contains(&(name, s.lun));
        let stores: Vec<_> = stores.filter(looked_at).collect();
        stores.into_iter().filter_map(|s| self.check_store(s)).collect()
    }

    fn check_store(&mut self, store: &StoreConf) -> Option<String> {
        let will_be_made = store.create.is_some() && !std::path::Path::new(&store.path).exists();
        if let Some(why) = devices::obstacle(&store.path).filter(|_| !will_be_made) {
            return Some(format!("{}: {why}", store.at));
        }
        if store.allow_in_use {
            return None;
        }
        let other = self.taken.insert(store.path.clone(), format!("the unit at {}", store.at));
        let another = || self.shared.contains(&store.path).then(|| "another unit".to_owned());
        let spared = self.spared.contains(&store.path);
        let stranger = || if spared { None } else { devices::user(&store.path) };
        let user = other.or_else(another).or_else(stranger)?;
        if self.force {
            self.forced.insert(store.path.clone());
            return None;
        }
        Some(format!(
            "{}: {} is used by {user}. 'allow-in-use yes' or --force takes it all the same, which can damage its data.",
            store.at, store.path
        ))
    }
}

fn is_null(store: &StoreConf) -> bool {
    store.bs_type.as_ref().is_some_and(|v| v.text == "null")
}
