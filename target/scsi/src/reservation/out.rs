//! PERSISTENT RESERVE OUT (SPC-4 6.16, 5.12.7 to 5.12.11).

use std::collections::HashSet;
use std::sync::Arc;

use super::{Attention, Effect, Held, Kind, Refusal, Registrant, Reservations, TransportId};
use crate::{InitiatorPort, Nexus};

/// Length of the parameter list without TransportIDs.
const BASIC: usize = 24;
const SPEC_I_PT: u8 = 0x08;
const ALL_TG_PT: u8 = 0x04;
const APTPL: u8 = 0x01;
const UNREG: u8 = 0x02;

/// A nexus as registrations know it.
type Port = (Arc<InitiatorPort>, u16);

/// The basic parameter list (SPC-4 table 207).
struct Parameters<'a> {
    key: u64,
    action_key: u64,
    flags: u8,
    transport_ids: &'a [u8],
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b))
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b))
}

impl<'a> Parameters<'a> {
    fn parse(data: &'a [u8], action: u8) -> Result<Self, Refusal> {
        let flags = *data.get(20).ok_or(Refusal::ParameterListLength)?;
        let mut transport_ids: &[u8] = &[];
        if flags & SPEC_I_PT != 0 {
            if action != 0x00 {
                return Err(Refusal::InvalidFieldInParameters(20, Some(3)));
            }
            if data.len() < BASIC + 4 || data.len() - BASIC - 4 != be32(data, BASIC) as usize {
                return Err(Refusal::ParameterListLength);
            }
            transport_ids = &data[BASIC + 4..];
        } else if data.len() != BASIC {
            return Err(Refusal::ParameterListLength);
        }
        Ok(Parameters { key: be64(data, 0), action_key: be64(data, 8), flags, transport_ids })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Reservations {
    /// PERSISTENT RESERVE OUT with its parameter list. A refused command changes nothing.
    pub fn persistent_out(&mut self, who: &Nexus, cdb: &[u8], data: &[u8]) -> Result<Effect, Refusal> {
        let Some(cdb) = cdb.first_chunk::<10>() else { return Err(Refusal::InvalidFieldInCdb(0, None)) };
        let action = cdb[1] & 0x1f;
        if action > 0x07 {
            return Err(Refusal::InvalidFieldInCdb(1, Some(4)));
        }
        let data = data.get(..be32(cdb, 5) as usize).ok_or(Refusal::ParameterListLength)?;
        if self.legacy.is_some() {
            return Err(Refusal::Conflict);
        }
        if action == 0x07 {
            return self.register_and_move(who, data);
        }
        let p = Parameters::parse(data, action)?;
        let (scope, kind) = (cdb[2] >> 4, cdb[2] & 0x0f);
        let kind = if scope == 0 { Kind::from_code(kind) } else { None };
        match action {
            0x00 => self.register(who, &p, false),
            0x06 => self.register(who, &p, true),
            0x01 => self.persistent_reserve(who, &p, kind.ok_or(bad_type(scope))?),
            0x02 => self.persistent_release(who, &p, kind),
            0x03 => self.clear(who, &p),
            _ => self.preempt(who, &p, kind.ok_or(bad_type(scope)), action == 0x05),
        }
    }

    /// REGISTER and REGISTER AND IGNORE EXISTING KEY (5.12.7, tables 61 and 62).
    fn register(&mut self, who: &Nexus, p: &Parameters<'_>, ignore: bool) -> Result<Effect, Refusal> {
        let own = self.find(who).map(|r| r.key);
        if !ignore {
            if p.key != own.unwrap_or(0) {
                return Err(Refusal::Conflict);
            }
            if own.is_some() && p.has(SPEC_I_PT) {
                return Err(Refusal::InvalidFieldInCdb(1, Some(4)));
            }
        }
        let groups = if p.has(ALL_TG_PT) { self.known_groups() } else { vec![who.target.portal_group] };
        let own_ports = groups.iter().map(|&g| (Arc::clone(&who.initiator), g));
        if p.action_key == 0 {
            let gone: Vec<usize> = own_ports.filter_map(|(i, g)| self.position(&i, g)).collect();
            self.same_key(&gone, p, ignore)?;
            if gone.is_empty() {
                return Ok(Effect::default());
            }
            return Ok(self.unregister(who, &gone, p.has(APTPL)));
        }
        let mut ports: Vec<Port> = own_ports.collect();
        let existing: Vec<usize> = ports.iter().filter_map(|(i, g)| self.position(i, *g)).collect();
        self.same_key(&existing, p, ignore)?;
        for initiator in self.named_ports(p.transport_ids, BASIC + 4)? {
            for &g in &groups {
                // Somebody who is registered keeps what is registered (table 61: "each unregistered I_T nexus").
                let known = ports.iter().any(|(i, h)| *h == g && super::same_port(i, &initiator));
                if !known && self.position(&initiator, g).is_none() {
                    ports.push((Arc::clone(&initiator), g));
                }
            }
            if ports.len() > self.capacity.saturating_add(groups.len()) {
                return Err(Refusal::NoRegistrationResources);
            }
        }
        if self.registrants.len() + ports.len() - existing.len() > self.capacity {
            return Err(Refusal::NoRegistrationResources);
        }
        for (initiator, portal_group) in ports {
            self.set_key(initiator, portal_group, p.action_key);
        }
        self.aptpl = p.has(APTPL);
        Ok(self.changed(Effect::default(), true))
    }

    /// With ALL_TG_PT, REGISTER of a key must hold for each nexus that is registered already.
    fn same_key(&self, at: &[usize], p: &Parameters<'_>, ignore: bool) -> Result<(), Refusal> {
        let same = ignore || at.iter().all(|&i| self.registrants[i].key == p.key);
        if same { Ok(()) } else { Err(Refusal::Conflict) }
    }

    fn set_key(&mut self, initiator: Arc<InitiatorPort>, portal_group: u16, key: u64) {
        match self.position(&initiator, portal_group) {
            Some(i) => self.registrants[i].key = key,
            None => self.registrants.push(Registrant { initiator, portal_group, key }),
        }
    }

    /// The initiator ports of a TransportID list that starts at byte `base` of the parameter list.
    fn named_ports(&self, list: &[u8], base: usize) -> Result<Vec<Arc<InitiatorPort>>, Refusal> {
        let bad =
            |at: usize| Refusal::InvalidFieldInParameters(u16::try_from(base + at).unwrap_or(u16::MAX), None);
        let (mut ports, mut devices) = (Vec::new(), HashSet::new());
        let mut at = 0;
        while at < list.len() {
            let (id, length) = TransportId::parse(&list[at..]).map_err(|e| bad(at + e.0))?;
            match id {
                TransportId::Port(port) => ports.push(Arc::new(port)),
                TransportId::Device(name) => {
                    // "All initiator ports known to the device server" (7.6.4.6); without any the list would do nothing.
                    // A name that comes again adds nobody, and is not searched for again.
                    if devices.contains(&name) {
                        at += length;
                        continue;
                    }
                    let known = self.known_ports(&name);
                    if known.is_empty() {
                        return Err(bad(at + 4));
                    }
                    ports.extend(known);
                    devices.insert(name);
                }
            }
            if ports.len() > self.capacity {
                return Err(Refusal::NoRegistrationResources);
            }
            at += length;
        }
        Ok(ports)
    }

    /// Removes registrations on behalf of their owner (5.12.11.3).
    fn unregister(&mut self, who: &Nexus, gone: &[usize], aptpl: bool) -> Effect {
        let mut effect = Effect::default();
        let ends = self.removal_ends(gone);
        self.remove(gone);
        if ends
            && let Some(held) = self.held.take()
            && held.kind.registrants_pass()
        {
            self.tell_registrants(&mut effect, who, Attention::ReservationsReleased);
        }
        self.aptpl = aptpl;
        self.changed(effect, true)
    }

    /// Whether the reservation ends with these registrations.
    fn removal_ends(&self, gone: &[usize]) -> bool {
        self.held.as_ref().is_some_and(|h| match h.kind.all_registrants() {
            true => gone.len() == self.registrants.len(),
            false => gone.iter().any(|&i| self.is_holder(&self.registrants[i])),
        })
    }

    /// Takes registrations out by their places.
    fn remove(&mut self, gone: &[usize]) -> Vec<Registrant> {
        let mut out = Vec::with_capacity(gone.len());
        let mut i = 0;
        self.registrants.retain(|r| {
            let goes = gone.contains(&i);
            if goes {
                out.push(r.clone());
            }
            i += 1;
            !goes
        });
        out
    }

    /// The registration of a nexus that must be there and have this key (5.12.5: any other ends with RESERVATION CONFLICT).
    fn authorize(&self, who: &Nexus, key: u64) -> Result<(), Refusal> {
        match self.find(who) {
            Some(r) if r.key == key => Ok(()),
            _ => Err(Refusal::Conflict),
        }
    }

    /// RESERVE (5.12.9).
    fn persistent_reserve(&mut self, who: &Nexus, p: &Parameters<'_>, kind: Kind) -> Result<Effect, Refusal> {
        self.authorize(who, p.key)?;
        match &self.held {
            // The holder may ask again for what it has; this writes what an earlier failure left unwritten.
            Some(held) if self.holds(who) && held.kind == kind => Ok(self.unchanged()),
            Some(_) => Err(Refusal::Conflict),
            None => {
                self.held = Some(held_by(who, kind));
                Ok(self.changed(Effect::default(), false))
            }
        }
    }

    /// RELEASE (5.12.11.2). `kind` is `None` where scope or type are not valid.
    fn persistent_release(
        &mut self,
        who: &Nexus,
        p: &Parameters<'_>,
        kind: Option<Kind>,
    ) -> Result<Effect, Refusal> {
        self.authorize(who, p.key)?;
        let Some(held) = self.held.as_ref().filter(|_| self.holds(who)) else { return Ok(self.unchanged()) };
        let held = held.kind;
        if kind != Some(held) {
            return Err(Refusal::InvalidRelease);
        }
        self.held = None;
        let mut effect = Effect::default();
        if held.registrants_pass() {
            self.tell_registrants(&mut effect, who, Attention::ReservationsReleased);
        }
        Ok(self.changed(effect, false))
    }

    /// CLEAR (5.12.11.6).
    fn clear(&mut self, who: &Nexus, p: &Parameters<'_>) -> Result<Effect, Refusal> {
        self.authorize(who, p.key)?;
        let mut effect = Effect::default();
        self.tell_registrants(&mut effect, who, Attention::ReservationsPreempted);
        self.held = None;
        self.registrants.clear();
        Ok(self.changed(effect, true))
    }

    /// PREEMPT and PREEMPT AND ABORT (5.12.11.4, 5.12.11.5). `kind` counts only where the reservation is taken over.
    fn preempt(
        &mut self,
        who: &Nexus,
        p: &Parameters<'_>,
        kind: Result<Kind, Refusal>,
        abort: bool,
    ) -> Result<Effect, Refusal> {
        self.authorize(who, p.key)?;
        let is_own = |r: &Registrant| r.is(&who.initiator, who.target.portal_group);
        let all = self.held.as_ref().is_some_and(|h| h.kind.all_registrants());
        let takes = match &self.held {
            None => false,
            Some(_) if all => p.action_key == 0,
            Some(_) => self.registrants.iter().any(|r| r.key == p.action_key && self.is_holder(r)),
        };
        if !takes && p.action_key == 0 {
            return Err(Refusal::InvalidFieldInParameters(8, None));
        }
        let takes = if takes { Some(kind?) } else { None };
        let lost: Vec<usize> = (0..self.registrants.len())
            .filter(|&i| {
                let r = &self.registrants[i];
                match takes {
                    Some(_) => (all || r.key == p.action_key) && !is_own(r),
                    None => r.key == p.action_key,
                }
            })
            .collect();
        if takes.is_none() && lost.is_empty() {
            return Err(Refusal::Conflict);
        }
        // Without a take-over the holder never has this key, or everyone holds: the reservation ends with the last.
        let ends = takes.is_none() && self.removal_ends(&lost);
        let mut effect = Effect::default();
        for r in self.remove(&lost) {
            for id in self.session_of(&r).filter(|&id| id != who.id) {
                effect.attentions.push((id, Attention::RegistrationsPreempted));
                if abort {
                    effect.abort.push(id);
                }
            }
        }
        if ends {
            self.held = None;
        }
        if let Some(kind) = takes {
            let before = self.held.replace(held_by(who, kind));
            if before.is_some_and(|b| b.kind != kind) {
                self.tell_registrants(&mut effect, who, Attention::ReservationsReleased);
            }
        }
        Ok(self.changed(effect, true))
    }

    /// REGISTER AND MOVE (5.12.8, table 63; parameter list: table 208).
    fn register_and_move(&mut self, who: &Nexus, data: &[u8]) -> Result<Effect, Refusal> {
        if data.len() < BASIC || data.len() - BASIC != be32(data, 20) as usize {
            return Err(Refusal::ParameterListLength);
        }
        let (key, action_key, flags) = (be64(data, 0), be64(data, 8), data[17]);
        let Some(own) = self.find(who) else { return Err(Refusal::Conflict) };
        let Some(held) = self.held.clone().filter(|_| self.holds(who)) else {
            return Err(Refusal::InvalidFieldInCdb(1, Some(4)));
        };
        // Nobody can move what everyone holds.
        if own.key != key || held.kind.all_registrants() {
            return Err(Refusal::Conflict);
        }
        if action_key == 0 {
            return Err(Refusal::InvalidFieldInParameters(8, None));
        }
        let group = be16(data, 18);
        if !self.known_groups().contains(&group) {
            return Err(Refusal::InvalidFieldInParameters(18, None));
        }
        let ports = self.named_ports(&data[BASIC..], BASIC)?;
        let [port] = ports.as_slice() else { return Err(Refusal::InvalidFieldInParameters(24, None)) };
        if group == who.target.portal_group && super::same_port(port, &who.initiator) {
            return Err(Refusal::InvalidFieldInParameters(24, None));
        }
        let is_new = self.position(port, group).is_none();
        let leaves = flags & UNREG != 0;
        if is_new && !leaves && self.registrants.len() >= self.capacity {
            return Err(Refusal::NoRegistrationResources);
        }
        if leaves && let Some(i) = self.position(&who.initiator, who.target.portal_group) {
            self.registrants.remove(i);
        }
        self.set_key(Arc::clone(port), group, action_key);
        self.held = Some(Held { kind: held.kind, initiator: Arc::clone(port), portal_group: group });
        self.aptpl = flags & APTPL != 0;
        Ok(self.changed(Effect::default(), true))
    }

    /// A unit attention for every present registrant but `who`.
    fn tell_registrants(&self, effect: &mut Effect, who: &Nexus, what: Attention) {
        for r in &self.registrants {
            effect.attentions.extend(self.session_of(r).filter(|&id| id != who.id).map(|id| (id, what)));
        }
    }

    /// Ends a command that changed something. RESERVE and RELEASE do not count as a generation (6.15.2).
    fn changed(&mut self, mut effect: Effect, counts: bool) -> Effect {
        if counts {
            self.generation = self.generation.wrapping_add(1);
        }
        self.epoch += 1;
        self.change += 1;
        effect.persist = self.unwritten();
        effect
    }

    /// Ends a command that changed nothing: what an earlier, failed write left behind is written now.
    fn unchanged(&self) -> Effect {
        Effect { persist: self.unwritten(), ..Effect::default() }
    }

    /// The number of the latest change, where it must become durable and is not.
    pub(super) fn unwritten(&self) -> Option<u64> {
        (self.durable != self.change && (self.aptpl || self.medium_holds)).then_some(self.change)
    }
}

fn held_by(who: &Nexus, kind: Kind) -> Held {
    Held { kind, initiator: Arc::clone(&who.initiator), portal_group: who.target.portal_group }
}

/// The refusal of a scope that is not LU_SCOPE, or of a type that does not exist.
fn bad_type(scope: u8) -> Refusal {
    Refusal::InvalidFieldInCdb(2, Some(if scope == 0 { 3 } else { 7 }))
}
