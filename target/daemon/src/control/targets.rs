//! Targets: made, deleted, bound, updated.

use std::net::IpAddr;

use base::limits::TARGETS_MAX;

use super::acl::Acl;
use super::backend::{Backend, Redirect, Tid};
use super::error::{Refusal, TgtError};
use super::number::atoi;
use super::params::TargetParams;
use super::{Bindings, Control, Target};
use crate::mgmt::{Op, Request, Response};

/// Bytes of an iSCSI name (RFC 7143 4.2.7.2).
const NAME_MAX: usize = 223;
const ADDRESS: &str = "initiator-address=";
const NAME: &str = "initiator-name=";

impl Control {
    pub(super) fn target_request(
        &mut self,
        op: Op,
        request: &Request,
        backend: &mut dyn Backend,
    ) -> Response {
        match op {
            Op::New => self.new_target(request, backend)?,
            Op::Delete => self.delete_target(request.tid, request.force, backend)?,
            Op::Bind | Op::Unbind if request.payload.is_empty() => {
                self.bind_host(op == Op::Bind, request, backend)?;
            }
            Op::Bind => self.change_acl(request, Acl::add_address, Acl::add_name)?,
            Op::Unbind => self.change_acl(request, Acl::remove_address, Acl::remove_name)?,
            Op::Update => self.update_target(request)?,
            Op::Show if request.tid < 0 => return Ok(self.show_targets(backend)),
            Op::Show => return self.show_target_params(request.tid),
            Op::Stats => return self.stat_target(request.tid, backend),
            _ => return Err(TgtError::InvalidRequest.into()),
        }
        Ok(String::new())
    }

    fn new_target(&mut self, request: &Request, backend: &mut dyn Backend) -> Result<(), Refusal> {
        let name = request
            .payload
            .split(',')
            .filter_map(|option| option.strip_prefix("targetname="))
            .next_back()
            .ok_or_else(|| Refusal::invalid("no targetname= in the request"))?;
        let tid = request.tid;
        check_target_name(name)?;
        if tid <= 0 {
            return Err(Refusal::invalid(format!("tid {tid}; a target id is greater than 0")));
        }
        if self.targets.contains_key(&tid) {
            return Err(Refusal::new(TgtError::TargetExists, format!("tid {tid} is taken")));
        }
        if let Some(other) = self.targets.values().find(|t| t.name == name) {
            return Err(Refusal::new(TgtError::TargetExists, format!("{name} is target {}", other.tid)));
        }
        if self.targets.len() >= TARGETS_MAX {
            return Err(Refusal::new(TgtError::NoMemory, format!("there are {TARGETS_MAX} targets already")));
        }
        let mut target = self.empty_target(tid, name);
        self.add_controller(&mut target, backend)?;
        self.targets.insert(tid, target);
        Ok(())
    }

    pub(super) fn empty_target(&mut self, tid: Tid, name: &str) -> Target {
        self.created += 1;
        Target::empty(
            tid,
            name,
            self.created,
            TargetParams::new(self.system.nop_interval, self.system.nop_count),
        )
    }

    fn delete_target(&mut self, tid: Tid, force: bool, backend: &mut dyn Backend) -> Result<(), Refusal> {
        self.target(tid)?;
        let sessions = backend.sessions(tid).len();
        if sessions > 0 && !force {
            return Err(Refusal::new(
                TgtError::TargetActive,
                format!("{sessions} sessions; --force drops them"),
            ));
        }
        // Out of the state first, so that nobody logs in again while the sessions go.
        let Some(mut target) = self.targets.remove(&tid) else { return Err(TgtError::NoTarget.into()) };
        self.publish(backend);
        backend.drop_sessions(tid);
        let mut failure = None;
        // The controller goes last.
        while let Some((number, lun)) = target.luns.pop_last() {
            if let Err(refusal) = backend.close_lun(lun.handle, true) {
                target.luns.insert(number, lun);
                failure = Some(refusal);
                break;
            }
        }
        if let Some(refusal) = failure {
            self.targets.insert(tid, target);
            self.publish(backend);
            return Err(refusal);
        }
        self.hosts.retain(|(_, bound)| *bound != tid);
        Ok(())
    }

    fn change_acl(
        &mut self,
        request: &Request,
        address: fn(&mut Acl, &str) -> Result<(), TgtError>,
        name: fn(&mut Acl, &str) -> Result<(), TgtError>,
    ) -> Result<(), Refusal> {
        let rules = AclRules::parse(&request.payload)?;
        let target = self.target_mut(request.tid)?;
        let mut acl = target.acl.clone();
        if let Some(rule) = rules.address {
            address(&mut acl, rule).map_err(|e| Refusal::new(e, rule))?;
        }
        if let Some(rule) = rules.name {
            name(&mut acl, rule).map_err(|e| Refusal::new(e, rule))?;
        }
        target.acl = acl;
        Ok(())
    }

    fn bind_host(&mut self, bind: bool, request: &Request, backend: &dyn Backend) -> Result<(), Refusal> {
        let host = request.host_no;
        let at = self.hosts.iter().position(|(h, _)| *h == host);
        if bind {
            self.target(request.tid)?;
            if at.is_some() || self.hosts.len() >= TARGETS_MAX {
                return Err(TgtError::BindingExists.into());
            }
            self.hosts.push((host, request.tid));
            return Ok(());
        }
        let at = at.ok_or(TgtError::NoBinding)?;
        let bound = self.hosts.get(at).map_or(0, |(_, tid)| *tid);
        if !backend.sessions(bound).is_empty() {
            return Err(TgtError::TargetActive.into());
        }
        self.hosts.remove(at);
        Ok(())
    }

    fn update_target(&mut self, request: &Request) -> Result<(), Refusal> {
        let (name, value) = request.payload.split_once('=').ok_or(TgtError::Unsupported)?;
        set_parameter(self.target_mut(request.tid)?, name, value)
    }

    pub(super) fn connection_request(
        &mut self,
        op: Op,
        request: &Request,
        backend: &mut dyn Backend,
    ) -> Response {
        match op {
            Op::Show => self.show_connections(request.tid, backend),
            Op::Stats => self.stat_connection(request.sid, request.cid, backend),
            Op::Delete => {
                self.target(request.tid)?;
                backend.drop_connection(request.tid, request.sid, request.cid)?;
                Ok(String::new())
            }
            _ => Err(TgtError::InvalidRequest.into()),
        }
    }
}

fn set_parameter(target: &mut Target, name: &str, value: &str) -> Result<(), Refusal> {
    match name {
        "state" => {
            target.ready = match value {
                "ready" => true,
                "offline" => false,
                _ => return Err(Refusal::invalid(format!("state {value}; there are ready and offline"))),
            }
        }
        "RedirectAddress" => target.redirect.address = value.to_owned(),
        "RedirectPort" => target.redirect.port = value.to_owned(),
        "RedirectReason" => {
            target.redirect.permanent = Some(match value {
                _ if value.starts_with("Temporary") => false,
                _ if value.starts_with("Permanent") => true,
                _ => return Err(Refusal::invalid("RedirectReason is Temporary or Permanent")),
            });
        }
        "RedirectCallback" => {
            let why = "RedirectCallback runs a program at every login; set RedirectAddress instead";
            return Err(Refusal::new(TgtError::Unsupported, why));
        }
        "nop_count" => target.params.nop_count = atoi(value),
        "nop_interval" => target.params.nop_interval = atoi(value),
        _ => {
            if !target.params.set(name, value) {
                return Err(Refusal::invalid(format!(
                    "{name}={value}: no such parameter, or out of its range"
                )));
            }
        }
    }
    Ok(())
}

/// Whether a target would take this parameter.
pub fn check_target_parameter(name: &str, value: &str) -> Result<(), Refusal> {
    set_parameter(&mut Target::empty(1, "", 0, TargetParams::new(0, 0)), name, value)
}

/// The characters that tgt takes in a target's name.
pub fn check_target_name(name: &str) -> Result<(), Refusal> {
    let strange = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '-'));
    if let Some(c) = name.chars().find(strange) {
        return Err(Refusal::invalid(format!(
            "{c:?} in a target name; letters, digits, ':', '.' and '-' are allowed"
        )));
    }
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Refusal::invalid(format!("a target name has 1 to {NAME_MAX} characters")));
    }
    Ok(())
}

impl Target {
    fn empty(tid: Tid, name: &str, created: u64, params: TargetParams) -> Target {
        Target {
            tid,
            name: name.to_owned(),
            created,
            ready: true,
            params,
            bindings: Bindings::default(),
            acl: Acl::default(),
            redirect: Redirect { address: String::new(), port: String::new(), permanent: None },
            luns: std::collections::BTreeMap::new(),
        }
    }
}

struct AclRules<'a> {
    address: Option<&'a str>,
    name: Option<&'a str>,
}

impl<'a> AclRules<'a> {
    /// `initiator-address=A`, `initiator-name=N`, or both in this order. tgt takes the whole rest for the address.
    fn parse(payload: &'a str) -> Result<Self, Refusal> {
        let (address, name) = match payload.find(NAME) {
            Some(at) => (payload.get(..at).unwrap_or_default(), payload.get(at + NAME.len()..)),
            None => (payload, None),
        };
        let address = address.find(ADDRESS).and_then(|at| address.get(at + ADDRESS.len()..));
        let address = match name {
            Some(_) => address.map(|a| a.strip_suffix(',').unwrap_or(a)),
            None => address,
        };
        if address.is_none() && name.is_none() {
            return Err(Refusal::invalid("neither initiator-address= nor initiator-name= in the request"));
        }
        if address == Some("") || name == Some("") {
            return Err(Refusal::invalid("an empty access rule"));
        }
        Ok(AclRules { address, name })
    }
}

/// How an address stands in tgt's texts.
pub(super) fn address_text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}
