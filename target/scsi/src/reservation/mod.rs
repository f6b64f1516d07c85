//! Reservations of one logical unit: SCSI-2 RESERVE and RELEASE (SPC-2 5.5) and persistent reservations (SPC-4 5.12).
//!
//! A pure machine. It knows which nexuses are present, who is registered and who holds what; a command changes it at once
//! and says in an [`Effect`] whom to tell, whose tasks to abort and whether the change must become durable before GOOD.
//!
//! ```text
//!            REGISTER                  RESERVE, PREEMPT of the holder
//!  unknown ───────────▶ registered ────────────────────────────────▶ holder
//!     ▲                  │   ▲  ▲                                     │  │
//!     │ REGISTER key 0,  │   │  └──────── RELEASE, REGISTER AND MOVE ─┘  │
//!     └─ PREEMPT, CLEAR ─┘   └── all registrants type: everyone holds    │
//!     ▲                                                                  │
//!     └──────────── REGISTER key 0, PREEMPT, CLEAR: reservation ends ────┘
//! ```
//!
//! Invariants ([`Reservations::check`] states them, tests hold them after every command):
//! * a holder is registered; a reservation without a registrant does not exist;
//! * no two registrations have the same initiator port and target port; no key is 0;
//! * registrations are never more than the capacity;
//! * a SCSI-2 reservation and a registration never exist together (SPC-2 5.5.1).
//!
//! A registration belongs to an initiator port (name and ISID) and a target port (portal group), not to a session: it
//! outlives the session and applies again when the same port comes back (SPC-4 5.12.4).

mod commands;
mod image;
mod out;
mod report;
mod table;
mod transport_id;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{InitiatorPort, Nexus, NexusId};

pub(crate) use commands::COMMANDS;
pub use image::{Image, ImageError};
pub use table::{RULES, Rule, Selector, conflicts};
pub use transport_id::{TransportId, TransportIdError};

/// Persistent reservation type (SPC-4 6.15.3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Others may not write.
    WriteExclusive = 1,
    /// Others may not read or write.
    ExclusiveAccess = 3,
    /// Those who are not registered may not write.
    WriteExclusiveRegistrantsOnly = 5,
    /// Those who are not registered may not read or write.
    ExclusiveAccessRegistrantsOnly = 6,
    /// As registrants only, and every registrant is a holder.
    WriteExclusiveAllRegistrants = 7,
    /// As registrants only, and every registrant is a holder.
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    /// Every type.
    pub const ALL: [Kind; 6] = [
        Kind::WriteExclusive,
        Kind::ExclusiveAccess,
        Kind::WriteExclusiveRegistrantsOnly,
        Kind::ExclusiveAccessRegistrantsOnly,
        Kind::WriteExclusiveAllRegistrants,
        Kind::ExclusiveAccessAllRegistrants,
    ];

    /// The type with this code.
    pub fn from_code(code: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&k| k as u8 == code)
    }

    /// Every registrant holds it.
    pub fn all_registrants(self) -> bool {
        matches!(self, Kind::WriteExclusiveAllRegistrants | Kind::ExclusiveAccessAllRegistrants)
    }

    /// Every registrant may do what the holder may (registrants only and all registrants types).
    pub fn registrants_pass(self) -> bool {
        !matches!(self, Kind::WriteExclusive | Kind::ExclusiveAccess)
    }

    /// Reads are excluded too.
    pub fn excludes_reads(self) -> bool {
        matches!(
            self,
            Kind::ExclusiveAccess
                | Kind::ExclusiveAccessRegistrantsOnly
                | Kind::ExclusiveAccessAllRegistrants
        )
    }
}

/// A unit attention that a reservation command raises for another nexus (SPC-4 5.12.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attention {
    /// RESERVATIONS PREEMPTED, 2A/03.
    ReservationsPreempted,
    /// RESERVATIONS RELEASED, 2A/04.
    ReservationsReleased,
    /// REGISTRATIONS PREEMPTED, 2A/05.
    RegistrationsPreempted,
}

impl Attention {
    /// Additional sense code and qualifier.
    pub fn code(self) -> (u8, u8) {
        match self {
            Attention::ReservationsPreempted => (0x2a, 0x03),
            Attention::ReservationsReleased => (0x2a, 0x04),
            Attention::RegistrationsPreempted => (0x2a, 0x05),
        }
    }
}

/// Why a reservation command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Status RESERVATION CONFLICT.
    Conflict,
    /// INVALID FIELD IN CDB, at this byte (and bit).
    InvalidFieldInCdb(u16, Option<u8>),
    /// INVALID FIELD IN PARAMETER LIST, at this byte (and bit).
    InvalidFieldInParameters(u16, Option<u8>),
    /// PARAMETER LIST LENGTH ERROR.
    ParameterListLength,
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    InvalidRelease,
    /// INSUFFICIENT REGISTRATION RESOURCES.
    NoRegistrationResources,
}

/// What a successful command brings with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// Unit attentions to raise.
    pub attentions: Vec<(NexusId, Attention)>,
    /// Nexuses whose tasks are aborted before the status goes out (PREEMPT AND ABORT); never the one that asked.
    pub abort: Vec<NexusId>,
    /// The state must be durable before the status goes out; the number goes to [`Reservations::persisted`] then.
    pub persist: Option<u64>,
}

/// What one nexus may do at present: the column of the command table that applies to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum View {
    /// Everything.
    #[default]
    Free = 0,
    /// Another nexus has a SCSI-2 reservation.
    Legacy = 1,
    /// A write exclusive reservation excludes this nexus.
    WriteExclusive = 2,
    /// An exclusive access reservation excludes this nexus.
    ExclusiveAccess = 3,
}

impl View {
    /// Whether the command must end with RESERVATION CONFLICT. RESERVE, RELEASE and the PERSISTENT RESERVE commands never do
    /// here; the machine judges them itself.
    pub fn conflicts(self, cdb: &[u8]) -> bool {
        self != View::Free && conflicts(self, cdb)
    }

    /// The view with this number (to keep it in an atomic); an unknown number is the strictest view.
    pub fn from_number(n: u8) -> View {
        match n {
            0 => View::Free,
            1 => View::Legacy,
            2 => View::WriteExclusive,
            _ => View::ExclusiveAccess,
        }
    }
}

/// A registration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registrant {
    initiator: Arc<InitiatorPort>,
    portal_group: u16,
    key: u64,
}

impl Registrant {
    fn is(&self, initiator: &InitiatorPort, portal_group: u16) -> bool {
        self.portal_group == portal_group && same_port(&self.initiator, initiator)
    }
}

/// iSCSI names are compared without case: they are normalised to lower case (RFC 3722).
fn same_port(a: &InitiatorPort, b: &InitiatorPort) -> bool {
    a.isid == b.isid && a.name.eq_ignore_ascii_case(&b.name)
}

/// The persistent reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    kind: Kind,
    /// Initiator port and portal group of the holder. For the all registrants types the one who reserved; it has no meaning
    /// there.
    initiator: Arc<InitiatorPort>,
    portal_group: u16,
}

/// See the module.
#[derive(Debug)]
pub struct Reservations {
    registrants: Vec<Registrant>,
    held: Option<Held>,
    generation: u32,
    aptpl: bool,
    legacy: Option<NexusId>,
    present: Vec<Nexus>,
    ports: Vec<u16>,
    capacity: usize,
    epoch: u64,
    /// Counts changes of what is durable.
    change: u64,
    durable: u64,
    /// The medium holds registrations (so that the end of APTPL must be written too).
    medium_holds: bool,
}

impl Default for Reservations {
    fn default() -> Self {
        Reservations::new(base::limits::REGISTRATIONS_MAX)
    }
}

impl Reservations {
    /// No reservation; at most `capacity` registrations.
    pub fn new(capacity: usize) -> Self {
        Reservations {
            registrants: Vec::new(),
            held: None,
            generation: 0,
            aptpl: false,
            legacy: None,
            present: Vec::new(),
            ports: Vec::new(),
            capacity,
            epoch: 1,
            change: 0,
            durable: 0,
            medium_holds: false,
        }
    }

    /// The target ports (portal groups) through which the unit can be reached, for ALL_TG_PT and REGISTER AND MOVE. Those of
    /// present nexuses and of registrations always count too.
    pub fn set_ports(&mut self, mut groups: Vec<u16>) {
        groups.sort_unstable();
        groups.dedup();
        self.ports = groups;
    }

    /// A nexus came. Its registration, if its ports have one, applies from now on.
    pub fn attach(&mut self, nexus: &Nexus) {
        self.detach(nexus.id);
        self.present.push(nexus.clone());
    }

    /// A nexus is lost: its SCSI-2 reservation ends (SPC-2 5.5.1), its registration stays.
    pub fn detach(&mut self, id: NexusId) {
        self.present.retain(|n| n.id != id);
        if self.legacy == Some(id) {
            self.legacy = None;
            self.epoch += 1;
        }
    }

    /// The logical unit was reset: SCSI-2 reservations end, persistent ones stay (SPC-4 5.12.1).
    pub fn reset(&mut self) {
        if self.legacy.take().is_some() {
            self.epoch += 1;
        }
    }

    /// Changes whenever a [`View`] may have changed.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What `who` may do.
    pub fn view(&self, who: &Nexus) -> View {
        if let Some(holder) = self.legacy {
            return if holder == who.id { View::Free } else { View::Legacy };
        }
        let Some(held) = &self.held else { return View::Free };
        if self.holds(who) || (held.kind.registrants_pass() && self.find(who).is_some()) {
            View::Free
        } else if held.kind.excludes_reads() {
            View::ExclusiveAccess
        } else {
            View::WriteExclusive
        }
    }

    /// Whether a SCSI-2 or persistent reservation exists.
    pub fn reserved(&self) -> bool {
        self.legacy.is_some() || self.held.is_some()
    }

    /// RESERVE(6), RESERVE(10) (SPC-2 7.21, 7.22, with the exceptions of SPC-3 5.6.3).
    pub fn reserve(&mut self, who: &Nexus, cdb: &[u8]) -> Result<(), Refusal> {
        check_legacy_cdb(cdb)?;
        if !self.registrants.is_empty() {
            return if self.legacy_is_void_for(who) { Ok(()) } else { Err(Refusal::Conflict) };
        }
        match self.legacy {
            Some(holder) if holder != who.id => Err(Refusal::Conflict),
            Some(_) => Ok(()),
            None => {
                self.legacy = Some(who.id);
                self.epoch += 1;
                Ok(())
            }
        }
    }

    /// RELEASE(6), RELEASE(10): of somebody else's reservation, or of none, it does nothing (SPC-2 7.16, 7.17).
    pub fn release(&mut self, who: &Nexus, cdb: &[u8]) -> Result<(), Refusal> {
        check_legacy_cdb(cdb)?;
        if !self.registrants.is_empty() {
            return if self.legacy_is_void_for(who) { Ok(()) } else { Err(Refusal::Conflict) };
        }
        if self.legacy == Some(who.id) {
            self.legacy = None;
            self.epoch += 1;
        }
        Ok(())
    }

    /// RESERVE and RELEASE of those who have access by a persistent reservation end with GOOD and do nothing
    /// (SPC-3 5.6.3, what CRH=1 declares).
    fn legacy_is_void_for(&self, who: &Nexus) -> bool {
        self.held
            .as_ref()
            .is_some_and(|h| self.holds(who) || (h.kind.registrants_pass() && self.find(who).is_some()))
    }

    /// The write of the state that an [`Effect::persist`] asked for succeeded.
    pub fn persisted(&mut self, ticket: u64) {
        self.durable = self.durable.max(ticket);
        // Where more changed meanwhile, another write follows and settles it.
        self.medium_holds = self.aptpl || ticket != self.change;
    }

    /// Registrations, for management.
    pub fn registrations(&self) -> impl Iterator<Item = (&InitiatorPort, u16, u64)> {
        self.registrants.iter().map(|r| (&*r.initiator, r.portal_group, r.key))
    }

    /// The persistent reservation's type and, except for all registrants types, its holder.
    pub fn reservation(&self) -> Option<(Kind, Option<(&InitiatorPort, u16)>)> {
        self.held
            .as_ref()
            .map(|h| (h.kind, (!h.kind.all_registrants()).then_some((&*h.initiator, h.portal_group))))
    }

    /// States the invariants of the module; the text says which is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        let r = &self.registrants;
        if r.len() > self.capacity {
            return Err("more registrations than the capacity");
        }
        if r.iter().any(|x| x.key == 0) {
            return Err("a registration has the key 0");
        }
        if r.iter().enumerate().any(|(i, x)| r[..i].iter().any(|y| y.is(&x.initiator, x.portal_group))) {
            return Err("a nexus is registered twice");
        }
        if let Some(h) = &self.held {
            if r.is_empty() {
                return Err("a reservation without registrants");
            }
            if !h.kind.all_registrants() && self.position(&h.initiator, h.portal_group).is_none() {
                return Err("the holder is not registered");
            }
        }
        if self.legacy.is_some() && !r.is_empty() {
            return Err("a SCSI-2 reservation beside registrations");
        }
        Ok(())
    }

    fn position(&self, initiator: &InitiatorPort, portal_group: u16) -> Option<usize> {
        self.registrants.iter().position(|r| r.is(initiator, portal_group))
    }

    fn find(&self, who: &Nexus) -> Option<&Registrant> {
        self.position(&who.initiator, who.target.portal_group).map(|i| &self.registrants[i])
    }

    fn holds(&self, who: &Nexus) -> bool {
        self.find(who).is_some_and(|r| self.is_holder(r))
    }

    fn is_holder(&self, r: &Registrant) -> bool {
        self.held.as_ref().is_some_and(|h| h.kind.all_registrants() || r.is(&h.initiator, h.portal_group))
    }

    /// Every target port that is known.
    fn known_groups(&self) -> Vec<u16> {
        let mut all = self.ports.clone();
        all.extend(self.present.iter().map(|n| n.target.portal_group));
        all.extend(self.registrants.iter().map(|r| r.portal_group));
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Every initiator port of this name that is known.
    fn known_ports(&self, name: &str) -> Vec<Arc<InitiatorPort>> {
        let mut found: Vec<Arc<InitiatorPort>> = Vec::new();
        let all =
            self.present.iter().map(|n| &n.initiator).chain(self.registrants.iter().map(|r| &r.initiator));
        for port in all.filter(|p| p.name.eq_ignore_ascii_case(name)) {
            if !found.iter().any(|f| same_port(f, port)) {
                found.push(Arc::clone(port));
            }
        }
        found
    }

    /// The session, if there is one at present, of this registration.
    fn session_of<'a>(&'a self, r: &'a Registrant) -> impl Iterator<Item = NexusId> + 'a {
        self.present.iter().filter(|n| r.is(&n.initiator, n.target.portal_group)).map(|n| n.id)
    }
}

/// Third-party reservations and extents are not supported (SPC-2 7.21: 3RDPTY, LONGID, EXTENT).
fn check_legacy_cdb(cdb: &[u8]) -> Result<(), Refusal> {
    let flags = cdb.get(1).copied().unwrap_or(0);
    // LONGID exists in the 10-byte commands alone.
    let long = if matches!(cdb.first(), Some(0x56 | 0x57)) { 0x02 } else { 0 };
    match flags & (0x10 | 0x01 | long) {
        0 => Ok(()),
        bad => Err(Refusal::InvalidFieldInCdb(1, Some((7 - bad.leading_zeros()) as u8))),
    }
}
