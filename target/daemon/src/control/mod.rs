//! The control state: targets, logical units, accounts, access rules, portals and system parameters, with tgt's
//! semantics, error numbers and texts.
//!
//! ```text
//!   management socket ── Request ──▶ Control::apply ── open, update, close ──▶ Backend (the engine)
//!          ▲                             │                                         ▲
//!          └────────── Response ◀────────┴──────────── Snapshot after a change ────┘
//! ```
//!
//! [`Control`] is a plain struct owned by one thread; a request changes it at once or not at all. Invariants: a request
//! that is refused changed nothing; the engine holds exactly the units that the state lists; every account that a target
//! or the discovery binds is in the account list; the published snapshot is that of the last change.
//!
//! Where tgt takes a request and does something else than was asked for, the request is refused here
//! (docs/compatibility.md lists these).

mod accounts;
pub mod acl;
pub mod backend;
pub mod dry;
pub mod error;
mod identity;
mod json;
mod luns;
pub mod number;
pub mod params;
mod portals;
mod saved;
mod show;
mod stat;
mod system;
mod targets;
pub mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mgmt::{Mode, Op, Request, Response, verb};
use accounts::Bindings;
use backend::{
    Account, AuthSnapshot, Backend, LunHandle, LunSpec, Portal, Redirect, Snapshot, TargetSnapshot, Tid,
};
use error::{Refusal, TgtError};
use params::TargetParams;

pub use luns::{check_lun_options, check_lun_parameter};
pub use targets::{check_target_name, check_target_parameter};

pub use saved::{RestoreError, SavedAcl, SavedBindings, SavedLun, SavedState, SavedSystem, SavedTarget};

/// The state of one daemon.
#[derive(Debug)]
pub struct Control {
    instance: [u8; 16],
    targets: BTreeMap<Tid, Target>,
    /// Newest first, as tgt lists them.
    accounts: Vec<Account>,
    discovery: Bindings,
    /// Newest first, as tgt lists them.
    portals: Vec<Portal>,
    /// What `lld stop` closed and `lld start` opens again.
    stopped_portals: Vec<Portal>,
    /// Saved portals whose address was not there at the start.
    absent_portals: Vec<Portal>,
    system: System,
    /// SCSI hosts bound to targets: a leftover of drivers that had hosts; iSCSI has none.
    hosts: Vec<(u32, Tid)>,
    created: u64,
    generation: u64,
}

#[derive(Debug)]
struct System {
    online: bool,
    debug: bool,
    driver_ready: bool,
    isns_server: String,
    isns_port: i32,
    isns_access_control: bool,
    nop_interval: i32,
    nop_count: i32,
}

#[derive(Debug)]
struct Target {
    tid: Tid,
    name: String,
    /// Rises with every target made: the order in which `lld show` lists them.
    created: u64,
    ready: bool,
    params: TargetParams,
    bindings: Bindings,
    acl: acl::Acl,
    redirect: Redirect,
    luns: BTreeMap<u64, Lun>,
}

#[derive(Debug)]
struct Lun {
    spec: LunSpec,
    handle: LunHandle,
    /// The path could not be opened when the state was restored: the engine has a unit without a medium.
    missing: bool,
}

/// What a request led to.
#[derive(Debug)]
pub struct Outcome {
    /// The answer.
    pub response: Response,
    /// The configuration is another one now.
    pub changed: bool,
    /// The daemon ends once the answer is out.
    pub shutdown: bool,
}

impl Control {
    /// A daemon without targets. `instance` is what makes its serial numbers its own: random, kept for ever
    /// ([`crate::persist::instance_id`]).
    pub fn new(instance: [u8; 16]) -> Self {
        Control {
            instance,
            targets: BTreeMap::new(),
            accounts: Vec::new(),
            discovery: Bindings::default(),
            portals: Vec::new(),
            stopped_portals: Vec::new(),
            absent_portals: Vec::new(),
            system: System {
                online: true,
                debug: false,
                driver_ready: true,
                isns_server: String::new(),
                isns_port: 3205,
                isns_access_control: false,
                nop_interval: 0,
                nop_count: 0,
            },
            hosts: Vec::new(),
            created: 0,
            generation: 0,
        }
    }

    /// Carries out one request.
    pub fn apply(&mut self, request: &Request, backend: &mut dyn Backend) -> Outcome {
        let op = Op::from_wire(request.op);
        let mode = Mode::from_wire(request.mode);
        if let Err(refusal) = self.check_driver(request, mode) {
            return Outcome { response: Err(refusal), changed: false, shutdown: false };
        }
        let response = match (mode, op) {
            (Some(mode), Some(op)) => self.dispatch(mode, op, request, backend),
            _ => Err(Refusal::invalid(format!("no mode {} with op {}", request.mode, request.op))),
        };
        let done = response.is_ok();
        let changed = done && op.is_some_and(changes);
        if changed {
            self.publish(backend);
        }
        Outcome { response, changed, shutdown: done && mode == Some(Mode::System) && op == Some(Op::Delete) }
    }

    fn dispatch(&mut self, mode: Mode, op: Op, request: &Request, backend: &mut dyn Backend) -> Response {
        match mode {
            Mode::System => self.system_request(op, request, backend),
            Mode::Target => self.target_request(op, request, backend),
            Mode::Device => self.lun_request(op, request, backend),
            Mode::Portal => self.portal_request(op, request, backend),
            Mode::Lld => self.driver_request(op, request, backend),
            Mode::Session => match op {
                Op::Stats => self.stat_session(request.sid, backend),
                _ => Err(TgtError::InvalidRequest.into()),
            },
            Mode::Connection => self.connection_request(op, request, backend),
            Mode::Account => self.account_request(op, request),
            Mode::Plinth => self.plinth_request(request, backend),
        }
    }

    /// Only `iscsi` exists; a stopped driver takes nothing but a start. Requests that name no driver go to the first
    /// one, whatever its state, as with tgt.
    fn check_driver(&self, request: &Request, mode: Option<Mode>) -> Result<(), Refusal> {
        let named = !request.lld.is_empty();
        if named && request.lld != DRIVER {
            return Err(Refusal::new(
                TgtError::NoDriver,
                format!("no driver {}; there is {DRIVER}", request.lld),
            ));
        }
        if named && !self.system.driver_ready && mode != Some(Mode::Lld) {
            return Err(Refusal::new(TgtError::NoDriver, format!("driver {DRIVER} is stopped")));
        }
        Ok(())
    }

    fn plinth_request(&mut self, request: &Request, backend: &mut dyn Backend) -> Response {
        match request.payload.split_once(' ').unwrap_or((&request.payload, "")) {
            (verb::STATE, "") => {
                self.saved().to_json().map_err(|e| Refusal::new(TgtError::Unknown, e.to_string()))
            }
            (verb::STAT_TEXT, what) => self.stat_extended(what, request, backend),
            (verb::JSON, what) => self.json(what, request, backend),
            _ => Err(Refusal::invalid(format!("no such request: {}", request.payload))),
        }
    }

    fn target(&self, tid: Tid) -> Result<&Target, Refusal> {
        self.targets.get(&tid).ok_or_else(|| no_target(tid))
    }

    fn target_mut(&mut self, tid: Tid) -> Result<&mut Target, Refusal> {
        self.targets.get_mut(&tid).ok_or_else(|| no_target(tid))
    }

    /// Hands the state to the engine.
    pub fn publish(&mut self, backend: &mut dyn Backend) {
        self.generation += 1;
        backend.publish(Arc::new(Snapshot {
            generation: self.generation,
            online: self.system.online && self.system.driver_ready,
            targets: self.targets.values().map(|t| Arc::new(self.target_snapshot(t))).collect(),
            discovery: self.auth(&self.discovery),
            portals: self.portals.clone(),
        }));
    }

    fn target_snapshot(&self, t: &Target) -> TargetSnapshot {
        TargetSnapshot {
            tid: t.tid,
            name: t.name.clone(),
            ready: t.ready,
            params: t.params.clone(),
            auth: self.auth(&t.bindings),
            acl: Arc::new(t.acl.clone()),
            redirect: (!t.redirect.address.is_empty() && t.redirect.permanent.is_some())
                .then(|| t.redirect.clone()),
            luns: t.luns.iter().map(|(number, lun)| (*number, lun.handle)).collect(),
        }
    }

    fn auth(&self, bindings: &Bindings) -> AuthSnapshot {
        let account = |user: &String| self.accounts.iter().find(|a| a.user == *user).cloned();
        AuthSnapshot {
            incoming: bindings.incoming.iter().filter_map(account).collect(),
            outgoing: bindings.outgoing.as_ref().and_then(account),
        }
    }
}

/// The one driver.
const DRIVER: &str = "iscsi";

fn no_target(tid: Tid) -> Refusal {
    Refusal::new(TgtError::NoTarget, format!("no target with tid {tid}"))
}

/// Operations after which the configuration may be another one.
fn changes(op: Op) -> bool {
    !matches!(op, Op::Show | Op::Stats | Op::Plinth)
}
