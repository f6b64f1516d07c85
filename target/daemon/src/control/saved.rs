//! The configuration as data: what `--persist` writes, what `tgt-admin` reads, what a restart begins with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backend::{Account, Backend, DeviceType, LunSpec, Portal, Redirect};
use super::error::{Refusal, TgtError};
use super::{Bindings, Control, Lun, Tid, identity, luns, targets};

/// The version that is written. Another one is not read.
const VERSION: u32 = 1;

/// Everything that was configured, with secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedState {
    version: u32,
    /// The daemon's own parameters.
    pub system: SavedSystem,
    /// Accounts, newest first.
    pub accounts: Vec<Account>,
    /// Discovery accounts.
    pub discovery: SavedBindings,
    /// Portals, newest first.
    pub portals: Vec<Portal>,
    /// Targets, oldest first.
    pub targets: Vec<SavedTarget>,
}

/// Parameters of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSystem {
    /// State is ready.
    pub online: bool,
    /// iSNSServerIP
    pub isns_server: String,
    /// iSNSServerPort
    pub isns_port: i32,
    /// iSNSAccessControl
    pub isns_access_control: bool,
}

/// Who is bound, by user name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBindings {
    /// Incoming accounts.
    pub incoming: Vec<String>,
    /// The outgoing account.
    pub outgoing: Option<String>,
}

/// Access rules as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedAcl {
    /// Address rules.
    pub addresses: Vec<String>,
    /// Name rules.
    pub names: Vec<String>,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SavedLun(pub LunSpec);

/// A target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedTarget {
    /// Its id.
    pub tid: Tid,
    /// Its name.
    pub name: String,
    /// State is ready.
    pub ready: bool,
    /// iSCSI keys that were given.
    pub params: BTreeMap<String, String>,
    /// Seconds between NOP-Ins.
    pub nop_interval: i32,
    /// Unanswered NOP-Ins that end a connection.
    pub nop_count: i32,
    /// Accounts.
    pub bindings: SavedBindings,
    /// Access rules.
    pub acl: SavedAcl,
    /// Redirect; an empty address: none.
    pub redirect: Redirect,
    /// Units, LUN 0 with them.
    pub luns: Vec<SavedLun>,
}

/// Why a saved state was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Not JSON, or not of this shape.
    #[error("not a saved state of this program: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Written by another version.
    #[error("version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// Contradicts itself.
    #[error("{0}")]
    Content(String),
    /// The engine refused something that needs no device.
    #[error("{what}: {refusal}")]
    Engine {
        /// What was restored.
        what: String,
        /// What the engine said.
        refusal: Refusal,
    },
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl SavedState {
    /// A daemon without anything.
    pub fn empty() -> Self {
        SavedState {
            version: VERSION,
            system: SavedSystem {
                online: true,
                isns_server: String::new(),
                isns_port: 3205,
                isns_access_control: false,
            },
            accounts: Vec::new(),
            discovery: SavedBindings::default(),
            portals: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// The target of a name.
    pub fn target(&self, name: &str) -> Option<&SavedTarget> {
        self.targets.iter().find(|t| t.name == name)
    }

    /// As text.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// From text.
    pub fn from_json(text: &str) -> Result<Self, RestoreError> {
        let VersionOnly { version } = serde_json::from_str(text)?;
        if version != VERSION {
            return Err(RestoreError::Version(version));
        }
        Ok(serde_json::from_str(text)?)
    }
}

impl Control {
    /// What is configured now.
    pub fn saved(&self) -> SavedState {
        let mut targets: Vec<_> = self.targets.values().collect();
        targets.sort_by_key(|t| t.created);
        let portals = self.portals.iter().chain(&self.stopped_portals).chain(&self.absent_portals);
        SavedState {
            version: VERSION,
            system: SavedSystem {
                online: self.system.online,
                isns_server: self.system.isns_server.clone(),
                isns_port: self.system.isns_port,
                isns_access_control: self.system.isns_access_control,
            },
            accounts: self.accounts.clone(),
            discovery: save_bindings(&self.discovery),
            portals: portals.copied().collect(),
            targets: targets
                .into_iter()
                .map(|t| SavedTarget {
                    tid: t.tid,
                    name: t.name.clone(),
                    ready: t.ready,
                    params: t.params.given().map(|(k, v)| (k.to_owned(), v)).collect(),
                    nop_interval: t.params.nop_interval,
                    nop_count: t.params.nop_count,
                    bindings: save_bindings(&t.bindings),
                    acl: SavedAcl {
                        addresses: t.acl.addresses().map(str::to_owned).collect(),
                        names: t.acl.names().map(str::to_owned).collect(),
                    },
                    redirect: t.redirect.clone(),
                    luns: t.luns.values().map(|l| SavedLun(l.spec.clone())).collect(),
                })
                .collect(),
        }
    }

    /// Brings `saved` back into a state that has no targets yet. A unit whose device cannot be opened, and a portal whose
    /// address is not there, stay configured without it (the unit offline); the texts that come back say so. Anything
    /// else that is wrong is an error, and the state must not be used then.
    pub fn restore(
        &mut self,
        saved: &SavedState,
        backend: &mut dyn Backend,
    ) -> Result<Vec<String>, RestoreError> {
        let mut warnings = Vec::new();
        self.system.online = saved.system.online;
        self.system.isns_server.clone_from(&saved.system.isns_server);
        self.system.isns_port = saved.system.isns_port;
        self.system.isns_access_control = saved.system.isns_access_control;
        for account in &saved.accounts {
            if self.accounts.iter().any(|a| a.user == account.user) {
                return Err(RestoreError::Content(format!("account {} is there twice", account.user)));
            }
            self.accounts.push(account.clone());
        }
        self.discovery = self.load_bindings("discovery", &saved.discovery)?;
        for portal in saved.portals.iter().rev() {
            if self.portals.iter().any(|p| p.address == portal.address) {
                continue;
            }
            let host = portal.address.ip().to_string();
            match backend.open_portal(Some(&host), portal.address.port(), portal.tag) {
                Ok(_) => self.portals.insert(0, *portal),
                Err(refusal) => {
                    warnings.push(format!("portal {}: {refusal}", portal.address));
                    self.absent_portals.push(*portal);
                }
            }
        }
        for target in &saved.targets {
            self.restore_target(target, backend, &mut warnings)?;
        }
        self.publish(backend);
        Ok(warnings)
    }

    fn restore_target(
        &mut self,
        saved: &SavedTarget,
        backend: &mut dyn Backend,
        warnings: &mut Vec<String>,
    ) -> Result<(), RestoreError> {
        let wrong =
            |why: &str| RestoreError::Content(format!("target {} ({}): {why}", saved.tid, saved.name));
        targets::check_target_name(&saved.name).map_err(|e| wrong(&e.detail))?;
        if saved.tid <= 0 || self.targets.contains_key(&saved.tid) {
            return Err(wrong("its tid is there twice, or not above 0"));
        }
        if self.targets.values().any(|t| t.name == saved.name) {
            return Err(wrong("its name is there twice"));
        }
        let mut target = self.empty_target(saved.tid, &saved.name);
        target.ready = saved.ready;
        target.params.nop_interval = saved.nop_interval;
        target.params.nop_count = saved.nop_count;
        for (key, value) in &saved.params {
            if !target.params.set(key, value) {
                return Err(wrong(&format!("{key}={value} is no parameter")));
            }
        }
        target.bindings = self.load_bindings(&saved.name, &saved.bindings)?;
        let rules = saved.acl.addresses.iter().try_for_each(|a| target.acl.add_address(a));
        let rules = rules.and_then(|()| saved.acl.names.iter().try_for_each(|n| target.acl.add_name(n)));
        rules.map_err(|_| wrong("an access rule is there twice"))?;
        target.redirect = saved.redirect.clone();
        for SavedLun(spec) in &saved.luns {
            let controller = spec.device_type == DeviceType::Controller;
            if controller != (spec.lun == 0) || target.luns.contains_key(&spec.lun) {
                return Err(wrong(&format!("LUN {} is there twice, or of the wrong type", spec.lun)));
            }
            luns::check_spec(spec).map_err(|e| wrong(&format!("LUN {}: {}", spec.lun, e.detail)))?;
            let lun = self.restore_lun(&target.name, target.tid, spec, backend, warnings)?;
            target.luns.insert(spec.lun, lun);
        }
        if !target.luns.contains_key(&0) {
            let made = self.add_controller(&mut target, backend);
            made.map_err(|refusal| RestoreError::Engine { what: format!("{} LUN 0", saved.name), refusal })?;
        }
        self.targets.insert(saved.tid, target);
        Ok(())
    }

    fn restore_lun(
        &self,
        target: &str,
        tid: Tid,
        saved: &LunSpec,
        backend: &mut dyn Backend,
        warnings: &mut Vec<String>,
    ) -> Result<Lun, RestoreError> {
        let mut spec = saved.clone();
        identity::complete(&mut spec, &self.instance, target);
        let refusal = match backend.open_lun(tid, target, &spec) {
            Ok(handle) => return Ok(Lun { spec, handle, missing: false }),
            Err(refusal) => refusal,
        };
        let path = spec.path.as_deref().unwrap_or("no path");
        warnings.push(format!("{target} LUN {} ({path}): {refusal}; it stays offline", spec.lun));
        let without = LunSpec { path: None, online: false, ..spec.clone() };
        let handle = backend.open_lun(tid, target, &without).map_err(|refusal| RestoreError::Engine {
            what: format!("{target} LUN {}", spec.lun),
            refusal,
        })?;
        Ok(Lun { spec, handle, missing: true })
    }

    fn load_bindings(&self, what: &str, saved: &SavedBindings) -> Result<Bindings, RestoreError> {
        let users = saved.incoming.iter().chain(&saved.outgoing);
        for user in users {
            if !self.accounts.iter().any(|a| a.user == *user) {
                let why = TgtError::NoUser;
                return Err(RestoreError::Content(format!("{what}: {why} {user}")));
            }
        }
        Ok(Bindings { incoming: saved.incoming.clone(), outgoing: saved.outgoing.clone() })
    }
}

fn save_bindings(bindings: &Bindings) -> SavedBindings {
    SavedBindings { incoming: bindings.incoming.clone(), outgoing: bindings.outgoing.clone() }
}
