//! What survives a loss of power when APTPL is set (SPC-4 5.12.4): registrations and the reservation. The generation does
//! not (6.15.2).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Held, Kind, Registrant, Reservations};
use crate::InitiatorPort;

const VERSION: u32 = 1;
/// Longest iSCSI name, bytes (RFC 7143 4.2.7.1).
const NAME_BYTES_MAX: usize = 223;

/// The durable form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    version: u32,
    registrations: Vec<RegistrationImage>,
    reservation: Option<ReservationImage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistrationImage {
    initiator: String,
    /// Six bytes, as 12 hexadecimal digits.
    isid: String,
    portal_group: u16,
    /// Hexadecimal.
    key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReservationImage {
    #[serde(rename = "type")]
    kind: u8,
    /// Index of the holder (of the one who reserved, for the all registrants types) among the registrations.
    holder: usize,
}

/// Why an image is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Written by another version.
    #[error("persistent reservations: version {0} is not known (this one writes {VERSION})")]
    Version(u32),
    /// More registrations than fit.
    #[error("persistent reservations: {0} registrations, at most {1} are possible")]
    TooMany(usize, usize),
    /// A field of a registration.
    #[error("persistent reservations: registration {0}: {1}")]
    Registration(usize, &'static str),
    /// The reservation.
    #[error("persistent reservations: reservation: {0}")]
    Reservation(&'static str),
    /// There are reservations already.
    #[error("persistent reservations: the unit is in use, an image can only be restored before that")]
    InUse,
}

impl Reservations {
    /// The state to make durable; `None` while APTPL is not set, when nothing is to survive.
    pub fn image(&self) -> Option<Image> {
        if !self.aptpl {
            return None;
        }
        let registrations = self
            .registrants
            .iter()
            .map(|r| RegistrationImage {
                initiator: r.initiator.name.clone(),
                isid: r.initiator.isid.iter().map(|b| format!("{b:02x}")).collect(),
                portal_group: r.portal_group,
                key: format!("{:016x}", r.key),
            })
            .collect();
        let reservation = self.held.as_ref().map(|h| ReservationImage {
            kind: h.kind as u8,
            // The one who reserved may have left an all registrants reservation; then any registrant names it.
            holder: self.position(&h.initiator, h.portal_group).unwrap_or(0),
        });
        Some(Image { version: VERSION, registrations, reservation })
    }

    /// Takes a durable image over, before the first command.
    pub fn restore(&mut self, image: &Image) -> Result<(), ImageError> {
        if !self.registrants.is_empty() || self.legacy.is_some() {
            return Err(ImageError::InUse);
        }
        if image.version != VERSION {
            return Err(ImageError::Version(image.version));
        }
        if image.registrations.len() > self.capacity {
            return Err(ImageError::TooMany(image.registrations.len(), self.capacity));
        }
        let mut registrants: Vec<Registrant> = Vec::with_capacity(image.registrations.len());
        for (i, r) in image.registrations.iter().enumerate() {
            let r = r.check().map_err(|what| ImageError::Registration(i, what))?;
            if registrants.iter().any(|other| other.is(&r.initiator, r.portal_group)) {
                return Err(ImageError::Registration(i, "the same nexus is registered before"));
            }
            registrants.push(r);
        }
        let held = match &image.reservation {
            None => None,
            Some(h) => {
                let kind = Kind::from_code(h.kind).ok_or(ImageError::Reservation("unknown type"))?;
                let r = registrants
                    .get(h.holder)
                    .ok_or(ImageError::Reservation("its holder is not registered"))?;
                Some(Held { kind, initiator: Arc::clone(&r.initiator), portal_group: r.portal_group })
            }
        };
        self.registrants = registrants;
        self.held = held;
        self.aptpl = true;
        self.medium_holds = true;
        self.epoch += 1;
        Ok(())
    }
}

impl RegistrationImage {
    fn check(&self) -> Result<Registrant, &'static str> {
        let name = &self.initiator;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err("the initiator's name is not an iSCSI name");
        }
        let hex = |s: &str, digits: usize| {
            (s.len() == digits && s.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u64::from_str_radix(s, 16).ok())
                .flatten()
        };
        let [_, _, isid @ ..] = hex(&self.isid, 12).ok_or("isid is not 12 hexadecimal digits")?.to_be_bytes();
        let key = hex(&self.key, 16).ok_or("key is not 16 hexadecimal digits")?;
        if key == 0 {
            return Err("the key is 0");
        }
        let initiator = Arc::new(InitiatorPort { name: name.clone(), isid });
        Ok(Registrant { initiator, portal_group: self.portal_group, key })
    }
}
