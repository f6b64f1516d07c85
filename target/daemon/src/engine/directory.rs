//! What logins ask, answered from the shared snapshot.

use std::net::SocketAddr;
use std::sync::Arc;

use iscsi::chap::Account;
use target_session::{
    AuthPolicy, Directory, LoginRefusal, PortalAddress, SessionKey, SessionPlace, SessionSlot, TargetListing,
    TargetLogin, Who,
};

use super::convert;
use super::shared::Shared;
use crate::control::backend::{AuthSnapshot, Redirect, Snapshot};

/// See the module.
pub(crate) struct SharedDirectory(pub Arc<Shared>);

impl Directory for SharedDirectory {
    fn discovery_auth(&self) -> AuthPolicy {
        policy(&self.0.snapshot().discovery)
    }

    fn visible_targets(&self, who: &Who) -> Vec<TargetListing> {
        let snapshot = self.0.snapshot();
        let visible = snapshot.targets.iter().filter(|t| t.acl.admits(&who.initiator, who.peer.ip()));
        visible.map(|t| TargetListing { name: t.name.clone(), portals: portals(&snapshot, who) }).collect()
    }

    fn login(&self, who: &Who, target: &str) -> Result<TargetLogin, LoginRefusal> {
        let snapshot = self.0.snapshot();
        let found = snapshot.target_by_name(target).ok_or(LoginRefusal::NotFound)?;
        if !found.acl.admits(&who.initiator, who.peer.ip()) {
            tracing::warn!(
                "{}: {} at {} is not in the access list",
                found.name,
                who.initiator,
                who.peer.ip()
            );
            return Err(LoginRefusal::NotAuthorized);
        }
        if !snapshot.online || !found.ready {
            return Err(LoginRefusal::Unavailable);
        }
        if let Some(refusal) = found.redirect.as_ref().and_then(redirect) {
            return Err(refusal);
        }
        Ok(TargetLogin {
            tid: found.tid,
            name: found.name.clone(),
            alias: String::new(),
            auth: policy(&found.auth),
            params: convert::negotiation(&found.params),
            nop_interval: u32::try_from(found.params.nop_interval).unwrap_or(0),
            nop_count: u32::try_from(found.params.nop_count).unwrap_or(0),
            max_queue_cmd: convert::max_queue_cmd(&found.params),
        })
    }

    fn register_session(&mut self, key: &SessionKey, thread: u32) -> SessionSlot {
        self.0.sessions().register(key, thread)
    }

    fn find_session(&self, key: &SessionKey) -> Option<SessionPlace> {
        self.0.sessions().find(key)
    }

    fn unregister_session(&mut self, key: &SessionKey, tsih: u16) {
        self.0.sessions().unregister(key, tsih);
    }
}

fn policy(auth: &AuthSnapshot) -> AuthPolicy {
    let account = |a: &crate::control::backend::Account| Account {
        user: a.user.clone(),
        secret: a.password.0.as_bytes().to_vec(),
    };
    AuthPolicy {
        incoming: auth.incoming.iter().map(account).collect(),
        outgoing: auth.outgoing.as_ref().map(account),
        algorithms: Vec::new(),
    }
}

/// The portals that `who` can use: a wildcard portal is reached at the address that the connection came to.
fn portals(snapshot: &Snapshot, who: &Who) -> Vec<(PortalAddress, u16)> {
    let mut found: Vec<(PortalAddress, u16)> = Vec::new();
    for portal in &snapshot.portals {
        let at = portal.address;
        let address = if at.ip().is_unspecified() {
            if at.is_ipv4() != who.local.ip().to_canonical().is_ipv4() {
                continue;
            }
            SocketAddr::new(who.local.ip().to_canonical(), at.port())
        } else {
            at
        };
        let entry = (PortalAddress::Socket(address), portal.tag);
        if !found.contains(&entry) {
            found.push(entry);
        }
    }
    found
}

fn redirect(redirect: &Redirect) -> Option<LoginRefusal> {
    let permanent = redirect.permanent?;
    if redirect.address.is_empty() {
        return None;
    }
    let port = redirect.port.parse().unwrap_or(3260);
    let bare = redirect.address.trim_start_matches('[').trim_end_matches(']');
    let to = match bare.parse() {
        Ok(ip) => PortalAddress::Socket(SocketAddr::new(ip, port)),
        Err(_) => PortalAddress::Host(redirect.address.clone(), port),
    };
    Some(LoginRefusal::Redirect { to, permanent })
}
