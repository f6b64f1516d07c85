//! The answers that a login gets: one target, open to everybody.

use std::collections::BTreeMap;

use target_session::{
    AuthPolicy, Directory, LoginRefusal, SessionKey, SessionPlace, SessionSlot, TargetListing, TargetLogin,
    Who,
};

use super::{TARGET, TargetConfig};

/// The answer to every login.
pub(super) struct SimDirectory {
    pub config: TargetConfig,
    pub sessions: BTreeMap<SessionKey, SessionPlace>,
    pub last_tsih: u16,
}

impl Directory for SimDirectory {
    fn discovery_auth(&self) -> AuthPolicy {
        AuthPolicy::default()
    }

    fn visible_targets(&self, _: &Who) -> Vec<TargetListing> {
        Vec::new()
    }

    fn login(&self, _: &Who, target: &str) -> Result<TargetLogin, LoginRefusal> {
        if target != TARGET {
            return Err(LoginRefusal::NotFound);
        }
        Ok(TargetLogin {
            tid: 1,
            name: TARGET.to_owned(),
            alias: String::new(),
            auth: AuthPolicy::default(),
            params: self.config.params.clone(),
            nop_interval: self.config.nop_interval,
            nop_count: 3,
            max_queue_cmd: base::limits::COMMANDS_PER_SESSION_MAX,
        })
    }

    fn register_session(&mut self, key: &SessionKey, thread: u32) -> SessionSlot {
        if let Some(place) = self.sessions.get(key) {
            return SessionSlot::OnThread(place.thread);
        }
        self.last_tsih = self.last_tsih.checked_add(1).unwrap_or(1);
        let tsih = self.last_tsih;
        self.sessions.insert(key.clone(), SessionPlace { thread, tsih });
        SessionSlot::Registered { tsih }
    }

    fn find_session(&self, key: &SessionKey) -> Option<SessionPlace> {
        self.sessions.get(key).copied()
    }

    fn unregister_session(&mut self, key: &SessionKey, tsih: u16) {
        if self.sessions.get(key).is_some_and(|p| p.tsih == tsih) {
            self.sessions.remove(key);
        }
    }
}
