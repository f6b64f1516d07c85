//! What a logical unit is configured to be, and how that may change while it runs.

use crate::mode_pages::{self, PAGES_BY_HAND_MAX};

/// The kind of logical unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LuKind {
    /// A direct-access block device (SBC-3).
    #[default]
    Disk,
    /// The storage array controller that tgt puts on LUN 0: no medium.
    Controller,
}

/// A mode page given by hand (tgt's `mode_page`): code, subpage and the bytes after the page header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModePage {
    /// PAGE CODE.
    pub page: u8,
    /// SUBPAGE CODE; 0 is the page without the subpage format.
    pub subpage: u8,
    /// The mode parameters.
    pub data: Vec<u8>,
}

/// Identity and behaviour of a logical unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuConfig {
    /// Kind.
    pub kind: LuKind,
    /// T10 VENDOR IDENTIFICATION, at most 8 characters.
    pub vendor: String,
    /// PRODUCT IDENTIFICATION, at most 16 characters.
    pub product: String,
    /// PRODUCT REVISION LEVEL, at most 4 characters.
    pub revision: String,
    /// Unit serial number (VPD page 80h), at most 36 characters.
    pub serial: String,
    /// Vendor-specific part of the T10 vendor id designator, at most 24 characters.
    pub scsi_id: String,
    /// NAA designator, 16 bytes beginning with 3 or 6 (SPC-4 7.8.6.6); unique in the world.
    pub naa: [u8; 16],
    /// EUI-64 designator.
    pub eui64: Option<[u8; 8]>,
    /// Bytes of a logical block, a power of two from 512 to 65536. A controller has none.
    pub block_bytes: u32,
    /// Logical blocks per physical block exponent; None takes it from the device.
    pub lbppbe: Option<u8>,
    /// Lowest aligned logical block address.
    pub la_lba: u16,
    /// Optimal transfer length granularity, blocks; 0 where none is reported.
    pub optimal_transfer_granularity: u16,
    /// Optimal transfer length, blocks; 0 takes it from the device.
    pub optimal_transfer_len: u32,
    /// Nominal rotation rate (VPD page B1h): 0 unknown, 1 non-rotating; None takes it from the device.
    pub rotation_rate: Option<u16>,
    /// Thin-provisioned: UNMAP frees space and what is unmapped reads as zeroes.
    pub thin: bool,
    /// The medium can be ejected.
    pub removable: bool,
    /// The unit takes commands.
    pub online: bool,
    /// Writes are refused.
    pub read_only: bool,
    /// Software write protect (Control mode page SWP).
    pub swp: bool,
    /// Sense data in the descriptor format (Control mode page D_SENSE).
    pub descriptor_sense: bool,
    /// The volatile write cache is used (Caching mode page WCE).
    pub write_cache: bool,
    /// Mode pages given by hand.
    pub mode_pages: Vec<ModePage>,
}

impl Default for LuConfig {
    fn default() -> Self {
        LuConfig {
            kind: LuKind::Disk,
            vendor: "IET".into(),
            product: "VIRTUAL-DISK".into(),
            revision: "0001".into(),
            serial: String::new(),
            scsi_id: String::new(),
            naa: [0; 16],
            eui64: None,
            block_bytes: 512,
            lbppbe: None,
            la_lba: 0,
            optimal_transfer_granularity: 0,
            optimal_transfer_len: 0,
            rotation_rate: None,
            thin: false,
            removable: false,
            online: true,
            read_only: false,
            swp: false,
            descriptor_sense: false,
            write_cache: true,
            mode_pages: Vec::new(),
        }
    }
}

/// What changes of a unit that runs; None leaves a parameter as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LuChange {
    /// T10 VENDOR IDENTIFICATION.
    pub vendor: Option<String>,
    /// PRODUCT IDENTIFICATION.
    pub product: Option<String>,
    /// PRODUCT REVISION LEVEL.
    pub revision: Option<String>,
    /// Unit serial number.
    pub serial: Option<String>,
    /// Vendor-specific part of the T10 vendor id designator.
    pub scsi_id: Option<String>,
    /// NAA designator.
    pub naa: Option<[u8; 16]>,
    /// Logical blocks per physical block exponent.
    pub lbppbe: Option<u8>,
    /// Lowest aligned logical block address.
    pub la_lba: Option<u16>,
    /// Optimal transfer length granularity, blocks.
    pub optimal_transfer_granularity: Option<u16>,
    /// Optimal transfer length, blocks.
    pub optimal_transfer_len: Option<u32>,
    /// Nominal rotation rate.
    pub rotation_rate: Option<u16>,
    /// Thin-provisioned.
    pub thin: Option<bool>,
    /// Removable medium.
    pub removable: Option<bool>,
    /// Online.
    pub online: Option<bool>,
    /// Read-only.
    pub read_only: Option<bool>,
    /// Software write protect.
    pub swp: Option<bool>,
    /// Descriptor format sense data.
    pub descriptor_sense: Option<bool>,
    /// Write cache.
    pub write_cache: Option<bool>,
    /// Adds or replaces a mode page.
    pub mode_page: Option<ModePage>,
}

/// Why a configuration or a change of it is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A text does not fit its field.
    #[error("{field} has at most {max} characters of printable ASCII, not {got:?}")]
    Text {
        /// Which.
        field: &'static str,
        /// Characters that fit.
        max: usize,
        /// What was given.
        got: String,
    },
    /// A number is out of its range.
    #[error("{field} must be {expected}, not {got}")]
    Number {
        /// Which.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What was given.
        got: u64,
    },
    /// The device cannot do it.
    #[error("{0}")]
    Device(&'static str),
    /// A mode page that cannot be set.
    #[error("mode page {page:#04x}/{subpage:#04x}: {why}")]
    ModePage {
        /// PAGE CODE.
        page: u8,
        /// SUBPAGE CODE.
        subpage: u8,
        /// Why.
        why: &'static str,
    },
    /// State that was kept cannot be read.
    #[error("the unit's persistent state cannot be read: {0}")]
    State(String),
}

fn text(field: &'static str, value: &str, max: usize) -> Result<(), ConfigError> {
    if value.len() <= max && value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Ok(());
    }
    Err(ConfigError::Text { field, max, got: value.to_owned() })
}

impl LuConfig {
    /// Whether all values fit their fields.
    pub fn check(&self) -> Result<(), ConfigError> {
        text("vendor_id", &self.vendor, 8)?;
        text("product_id", &self.product, 16)?;
        text("product_rev", &self.revision, 4)?;
        text("scsi_sn", &self.serial, 36)?;
        text("scsi_id", &self.scsi_id, 24)?;
        if self.mode_pages.len() > PAGES_BY_HAND_MAX {
            let got = self.mode_pages.len() as u64;
            return Err(ConfigError::Number {
                field: "the number of mode pages",
                expected: "at most 32",
                got,
            });
        }
        self.mode_pages.iter().try_for_each(mode_pages::check)?;
        let number = |field, expected, got: u64, ok: bool| {
            if ok { Ok(()) } else { Err(ConfigError::Number { field, expected, got }) }
        };
        if self.kind == LuKind::Disk {
            let b = self.block_bytes;
            let ok = b.is_power_of_two() && (512..=65536).contains(&b);
            number("block-size", "a power of two from 512 to 65536", u64::from(b), ok)?;
        }
        let exponent = self.lbppbe.unwrap_or(0);
        number("lbppbe", "0 to 15", u64::from(exponent), exponent <= 15)?;
        number("la_lba", "0 to 16383", u64::from(self.la_lba), self.la_lba < 1 << 14)
    }

    /// Takes over what `change` gives. Nothing is changed where the outcome would not be valid.
    pub fn apply(&mut self, change: &LuChange) -> Result<(), ConfigError> {
        let mut new = self.clone();
        macro_rules! take {
            ($($field:ident),*) => { $(if let Some(v) = &change.$field { new.$field = v.clone(); })* };
        }
        take!(vendor, product, revision, serial, scsi_id, naa, la_lba, optimal_transfer_granularity);
        take!(optimal_transfer_len, thin, removable, online, read_only, swp, descriptor_sense, write_cache);
        if change.lbppbe.is_some() {
            new.lbppbe = change.lbppbe;
        }
        if change.rotation_rate.is_some() {
            new.rotation_rate = change.rotation_rate;
        }
        if let Some(page) = &change.mode_page {
            mode_pages::adopt(&mut new, page);
            new.mode_pages.retain(|p| (p.page, p.subpage) != (page.page, page.subpage));
            new.mode_pages.push(page.clone());
        }
        new.check()?;
        *self = new;
        Ok(())
    }
}
