//! Mode pages (SPC-4 7.5, SBC-3 6.5): their values, and which bits of them may change.
//!
//! Three bits follow the unit: WCE, SWP and D_SENSE. All else is fixed, or given by hand (tgt's `mode_page`).

use crate::config::{ConfigError, LuChange, ModePage};
use crate::unit::State;
use crate::{LuConfig, LuKind};

/// PAGE CODE and SUBPAGE CODE.
pub(crate) type PageId = (u8, u8);

pub(crate) const CACHING: PageId = (0x08, 0x00);
pub(crate) const CONTROL: PageId = (0x0a, 0x00);

const WCE: u8 = 0x04;
const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;

/// Read-write error recovery: nothing is reallocated here, nothing retried.
const ERROR_RECOVERY: [u8; 10] = [0; 10];
const DISCONNECT_RECONNECT: [u8; 14] = [0; 14];
/// No prefetch limits, no cache segments.
const CACHING_VALUES: [u8; 18] = [0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
/// TST 0: one task set for all nexuses. QUEUE ALGORITHM MODIFIER 1: unrestricted reordering.
const CONTROL_VALUES: [u8; 10] = [0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
/// Control extension: no timestamp, no implicit priorities; the longest sense data.
const CONTROL_EXTENSION: [u8; 28] = {
    let mut v = [0; 28];
    v[2] = 252;
    v
};
/// Informational exceptions: DEXCPT, there are none to report.
const EXCEPTIONS: [u8; 10] = [0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

const DISK_PAGES: &[(PageId, &[u8])] = &[
    ((0x01, 0x00), &ERROR_RECOVERY),
    ((0x02, 0x00), &DISCONNECT_RECONNECT),
    (CACHING, &CACHING_VALUES),
    (CONTROL, &CONTROL_VALUES),
    ((0x0a, 0x01), &CONTROL_EXTENSION),
    ((0x1c, 0x00), &EXCEPTIONS),
];
const CONTROLLER_PAGES: &[(PageId, &[u8])] = &[
    ((0x02, 0x00), &DISCONNECT_RECONNECT),
    (CONTROL, &CONTROL_VALUES),
    ((0x0a, 0x01), &CONTROL_EXTENSION),
    ((0x1c, 0x00), &EXCEPTIONS),
];

fn built_in(kind: LuKind) -> &'static [(PageId, &'static [u8])] {
    match kind {
        LuKind::Disk => DISK_PAGES,
        LuKind::Controller => CONTROLLER_PAGES,
    }
}

/// Which values of the pages to give (SPC-4 6.11.1, PC field).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    Current,
    Changeable,
    Default,
}

/// Every page of the unit, ascending.
pub(crate) fn list(state: &State) -> Vec<PageId> {
    let mut ids: Vec<PageId> = built_in(state.config.kind).iter().map(|p| p.0).collect();
    ids.extend(state.config.mode_pages.iter().map(|p| (p.page, p.subpage)));
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The parameters of a page, without its header.
pub(crate) fn parameters(state: &State, id: PageId, values: Values) -> Option<Vec<u8>> {
    let by_hand = state.config.mode_pages.iter().find(|p| (p.page, p.subpage) == id);
    let mut data = match by_hand {
        Some(page) => page.data.clone(),
        None => built_in(state.config.kind).iter().find(|p| p.0 == id)?.1.to_vec(),
    };
    let c = if values == Values::Default { &state.defaults } else { &state.config };
    if values == Values::Changeable {
        data.fill(0);
    }
    let on = |flag: bool| values == Values::Changeable || flag;
    let mut put = |at: usize, mask: u8, flag: bool| {
        if let Some(byte) = data.get_mut(at) {
            *byte = (*byte & !mask) | if flag { mask } else { 0 };
        }
    };
    match id {
        CACHING => put(0, WCE, on(c.write_cache)),
        CONTROL => {
            put(0, D_SENSE, on(c.descriptor_sense));
            put(2, SWP, on(c.swp));
        }
        _ => {}
    }
    Some(data)
}

/// A page with its header (SPC-4 7.5.7).
pub(crate) fn page(state: &State, id: PageId, values: Values) -> Option<Vec<u8>> {
    let data = parameters(state, id, values)?;
    let mut out = if id.1 == 0 {
        vec![id.0, data.len() as u8]
    } else {
        let [a, b] = (data.len() as u16).to_be_bytes();
        vec![0x40 | id.0, id.1, a, b]
    };
    out.extend_from_slice(&data);
    Some(out)
}

/// Why the parameters of a page are not taken: the byte and bit that may not change, or the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Length,
    Bit(usize, u8),
}

/// What new parameters of a page change.
pub(crate) fn change(state: &State, id: PageId, new: &[u8], into: &mut LuChange) -> Result<(), Rejected> {
    let (current, mask) =
        match (parameters(state, id, Values::Current), parameters(state, id, Values::Changeable)) {
            (Some(current), Some(mask)) if current.len() == new.len() => (current, mask),
            _ => return Err(Rejected::Length),
        };
    for (at, ((new, old), mask)) in new.iter().zip(&current).zip(&mask).enumerate() {
        let forbidden = (new ^ old) & !mask;
        if forbidden != 0 {
            return Err(Rejected::Bit(at, forbidden.ilog2() as u8));
        }
    }
    let bit = |at: usize, mask: u8| new.get(at).map(|b| b & mask != 0);
    match id {
        CACHING => into.write_cache = bit(0, WCE),
        CONTROL => {
            into.descriptor_sense = bit(0, D_SENSE);
            into.swp = bit(2, SWP);
        }
        _ => {}
    }
    Ok(())
}

/// Reads tgt's `mode_page` parameter: `page:subpage:length:byte:byte...`, numbers decimal or 0x hexadecimal.
pub fn parse_mode_page(text: &str) -> Result<ModePage, ConfigError> {
    let bad = |why| ConfigError::ModePage { page: 0, subpage: 0, why };
    let number = |part: &str| -> Result<u16, ConfigError> {
        let part = part.trim();
        match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
            Some(hex) => u16::from_str_radix(hex, 16),
            None => part.parse(),
        }
        .map_err(|_| bad("expected numbers, page:subpage:length:byte:byte..., decimal or 0x hexadecimal"))
    };
    let mut parts = text.split(':');
    let mut next = || parts.next().ok_or(bad("expected page:subpage:length:byte:byte...")).and_then(number);
    let (page, subpage, len) = (next()?, next()?, next()?);
    let (Ok(page), Ok(subpage)) = (u8::try_from(page), u8::try_from(subpage)) else {
        return Err(bad("page and subpage are bytes"));
    };
    let data = parts
        .map(|p| number(p).and_then(|n| u8::try_from(n).map_err(|_| bad("parameters are bytes"))))
        .collect::<Result<Vec<u8>, _>>()?;
    let out = ModePage { page, subpage, data };
    if out.data.len() != usize::from(len) {
        return Err(ConfigError::ModePage {
            page,
            subpage,
            why: "the length does not match the bytes given",
        });
    }
    check(&out)?;
    Ok(out)
}

/// Pages given by hand, at most.
pub(crate) const PAGES_BY_HAND_MAX: usize = 32;

/// Whether a page may be given by hand.
pub(crate) fn check(p: &ModePage) -> Result<(), ConfigError> {
    let (page, subpage) = (p.page, p.subpage);
    let refuse = |why| Err(ConfigError::ModePage { page, subpage, why });
    if page == 0 || page >= 0x3f || subpage == 0xff {
        return refuse("the page code must be 1 to 62 and the subpage code 0 to 254");
    }
    if p.data.len() > 255 {
        return refuse("at most 255 bytes");
    }
    match DISK_PAGES.iter().find(|b| b.0 == (page, subpage)) {
        Some((_, b)) if b.len() != p.data.len() => refuse("the page has another length by its standard"),
        _ => Ok(()),
    }
}

/// Takes over WCE, SWP and D_SENSE where a page given by hand has them.
pub(crate) fn adopt(config: &mut LuConfig, p: &ModePage) {
    let bit = |at: usize, mask: u8| p.data.get(at).is_some_and(|b| b & mask != 0);
    match (p.page, p.subpage) {
        CACHING => config.write_cache = bit(0, WCE),
        CONTROL => {
            config.descriptor_sense = bit(0, D_SENSE);
            config.swp = bit(2, SWP);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tgt_s_notation() {
        let p = parse_mode_page("0x1c:0:10:8:0:0:0:0:0:0:0:0:0").unwrap();
        assert_eq!((p.page, p.subpage, p.data[0], p.data.len()), (0x1c, 0, 8, 10));
        for bad in ["", "8", "8:0:2:1", "8:0:1:256", "8:0:1:x", "0:0:0", "63:0:0", "8:0:1:0", "300:0:0"] {
            assert!(parse_mode_page(bad).is_err(), "{bad}");
        }
    }
}
