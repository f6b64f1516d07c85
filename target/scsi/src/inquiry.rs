//! INQUIRY: standard data and vital product data (SPC-4 6.6, 7.8; SBC-3 6.6).

use base::limits::TRANSFER_BYTES_MAX;

use crate::cdb::{Builder, be16, flag, u8_at};
use crate::limits::{
    ATOMIC_BLOCKS_MAX, COMPARE_AND_WRITE_BLOCKS_MAX, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX,
    WRITE_SAME_BLOCKS_MAX,
};
use crate::opcodes::{Access, Entry, INFORM};
use crate::sense::{Asc, Refusal, Sense};
use crate::task::{Call, Outcome};
use crate::unit::State;
use crate::{LogicalUnit, LuKind, TargetPort};

/// This module's commands.
pub(crate) const COMMANDS: &[Entry] = &[Entry {
    opcode: 0x12,
    service_action: None,
    name: "INQUIRY",
    usage: &[0x12, 0x01, 0xff, 0xff, 0xff, 0x04],
    access: Access::Always,
    needs: INFORM,
    seconds: 10,
    handler: inquiry,
}];

/// SPC-4 6.6.
fn inquiry(call: &mut Call<'_>) -> Result<Outcome, Refusal> {
    let cdb = call.cdb();
    let (evpd, page) = (flag(cdb, 1, 0), u8_at(cdb, 2));
    if !evpd && page != 0 {
        return Err(Sense::field(2).into());
    }
    let allocation_len = u32::from(be16(cdb, 3));
    let unit = call.unit();
    let mut state = unit.lock();
    let bytes = if evpd {
        vital(unit, &state, &call.at.nexus.target, page).ok_or(Sense::field(2))?
    } else {
        // What a changed INQUIRY would say is said here (SPC-4 6.6.1).
        if let Some(entry) = state.nexuses.get_mut(&call.at.nexus.id) {
            entry.attentions.withdraw(Asc::INQUIRY_DATA_CHANGED);
        }
        standard(unit.kind, &state)
    };
    Ok(Outcome::Data { bytes, allocation_len })
}

fn device_type(kind: LuKind) -> u8 {
    match kind {
        LuKind::Disk => 0x00,
        LuKind::Controller => 0x0c,
    }
}

/// SAM-5, iSCSI, SPC-4 and for disks SBC-3, no version claimed (SPC-4 table 144).
fn versions(kind: LuKind) -> &'static [u16] {
    match kind {
        LuKind::Disk => &[0x00a0, 0x0960, 0x0460, 0x04c0],
        LuKind::Controller => &[0x00a0, 0x0960, 0x0460],
    }
}

/// Standard INQUIRY data, 96 bytes (SPC-4 6.6.2).
fn standard(kind: LuKind, state: &State) -> Vec<u8> {
    let c = &state.config;
    let mut b = Builder::default();
    b.u8(device_type(kind));
    b.u8(if c.removable { 0x80 } else { 0 });
    b.u8(0x06); // VERSION: SPC-4
    b.u8(0x02); // RESPONSE DATA FORMAT
    b.u8(91); // ADDITIONAL LENGTH
    b.u8(capabilities(kind, state));
    b.u8(0x10); // MULTIP
    b.u8(0x02); // CMDQUE
    b.ascii(&c.vendor, 8);
    b.ascii(&c.product, 16);
    b.ascii(&c.revision, 4);
    b.zeroes(58 - 36);
    for v in versions(kind) {
        b.u16(*v);
    }
    b.zeroes(96 - b.0.len());
    b.0
}

/// Byte 5: TPGS and 3PC.
fn capabilities(kind: LuKind, state: &State) -> u8 {
    const THIRD_PARTY_COPY: u8 = 0x08;
    state.alua.tpgs() | if kind == LuKind::Disk { THIRD_PARTY_COPY } else { 0 }
}

/// The standard data of a LUN without a unit behind it: qualifier 011b, type 1Fh (SPC-4 6.6.2).
pub(crate) fn nothing_there() -> Vec<u8> {
    let mut b = vec![0x7f, 0, 0x06, 0x02, 31, 0, 0, 0x02];
    b.resize(36, b' ');
    b
}

/// Pages in ascending order (SPC-4 7.8.15).
fn pages(kind: LuKind) -> &'static [u8] {
    match kind {
        LuKind::Disk => &[0x00, 0x80, 0x83, 0x86, 0x87, 0x8f, 0xb0, 0xb1, 0xb2],
        LuKind::Controller => &[0x00, 0x80, 0x83, 0x86, 0x87],
    }
}

/// A page of vital product data, or None where there is no such page.
fn vital(unit: &LogicalUnit, state: &State, port: &TargetPort, page: u8) -> Option<Vec<u8>> {
    if !pages(unit.kind).contains(&page) {
        return None;
    }
    let mut b = Builder::default();
    b.u8(device_type(unit.kind));
    b.u8(page);
    b.u16(0);
    match page {
        0x00 => b.bytes(pages(unit.kind)),
        0x80 => b.ascii(&state.config.serial, state.config.serial.len().max(4)),
        0x83 => designators(state, port, &mut b),
        0x86 => extended(unit, &mut b),
        // One policy for all mode pages: shared by all I_T nexuses (SPC-4 7.8.9).
        0x87 => b.bytes(&[0x3f, 0xff, 0x00, 0x00]),
        0x8f => crate::copy::vital_product_data(&mut b),
        0xb0 => block_limits(unit, state, &mut b),
        0xb1 => characteristics(unit, state, &mut b),
        _ => provisioning(state, &mut b),
    }
    b.patch_len16(2);
    Some(b.0)
}

const ASSOCIATION_PORT: u8 = 0x10;
const ASSOCIATION_DEVICE: u8 = 0x20;
/// PROTOCOL IDENTIFIER iSCSI in the high nibble, and PIV.
const ISCSI: u8 = 0x50;
const PIV: u8 = 0x80;

fn designator(b: &mut Builder, protocol_and_code_set: u8, kind: u8, value: &[u8]) {
    b.u8(protocol_and_code_set);
    b.u8(kind);
    b.u8(0);
    b.u8(value.len() as u8);
    b.bytes(value);
}

/// A SCSI name string: NUL-terminated, padded to a multiple of four (SPC-4 7.8.6.11).
fn name_string(name: &str) -> Vec<u8> {
    let mut v: Vec<u8> = name.bytes().take(243).collect();
    v.resize((v.len() + 1).next_multiple_of(4), 0);
    v
}

/// The NAA designator's bytes: 16 for NAA 6, else 8 (SPC-4 7.8.6.6).
pub(crate) fn naa(state: &State) -> &[u8] {
    let all = &state.config.naa;
    if all[0] >> 4 == 6 { all } else { &all[..8] }
}

/// Device identification (SPC-4 7.8.6).
fn designators(state: &State, port: &TargetPort, b: &mut Builder) {
    let mut t10 = Builder::default();
    t10.ascii(&state.config.vendor, 8);
    t10.bytes(state.config.scsi_id.as_bytes());
    designator(b, 0x02, 0x01, &t10.0);
    let naa = naa(state);
    if naa.iter().any(|&x| x != 0) {
        designator(b, 0x01, 0x03, naa);
        let hex: String = naa.iter().map(|x| format!("{x:02X}")).collect();
        designator(b, 0x03, 0x08, &name_string(&format!("naa.{hex}")));
    }
    if let Some(eui) = state.config.eui64 {
        designator(b, 0x01, 0x02, &eui);
    }
    let group = port.portal_group.to_be_bytes();
    let numbered = [0, 0, group[0], group[1]];
    designator(b, ISCSI | 0x01, PIV | ASSOCIATION_PORT | 0x04, &numbered);
    designator(b, ISCSI | 0x01, PIV | ASSOCIATION_PORT | 0x05, &numbered);
    let port_name = format!("{},t,0x{:04x}", port.name, port.portal_group);
    designator(b, ISCSI | 0x03, PIV | ASSOCIATION_PORT | 0x08, &name_string(&port_name));
    designator(b, ISCSI | 0x03, PIV | ASSOCIATION_DEVICE | 0x08, &name_string(&port.name));
}

/// Extended INQUIRY data (SPC-4 7.8.7).
fn extended(unit: &LogicalUnit, b: &mut Builder) {
    b.u8(0);
    b.u8(0x07); // HEADSUP, ORDSUP, SIMPSUP
    b.u8(if unit.features.volatile_cache { 0x01 } else { 0 }); // V_SUP
    b.u8(0x01); // LUICLR
    b.zeroes(64 - 8);
}

/// Block limits (SBC-3 6.6.4), with the atomic write fields of SBC-4.
fn block_limits(unit: &LogicalUnit, state: &State, b: &mut Builder) {
    let c = &state.config;
    let block = 1u32 << unit.shift;
    let transfer_max = TRANSFER_BYTES_MAX >> unit.shift;
    let optimal = match c.optimal_transfer_len {
        0 => state.geometry.optimal_io_bytes >> unit.shift,
        n => n,
    };
    let granularity = match c.optimal_transfer_granularity {
        0 => 1u16.checked_shl(u32::from(physical_exponent(unit, state))).unwrap_or(0),
        n => n,
    };
    b.u8(u8::from(c.thin)); // WSNZ
    b.u8(COMPARE_AND_WRITE_BLOCKS_MAX);
    b.u16(granularity);
    b.u32(transfer_max);
    b.u32(optimal.min(transfer_max));
    b.u32(0); // MAXIMUM PREFETCH LENGTH: no limit
    if c.thin {
        b.u32(UNMAP_BLOCKS_MAX);
        b.u32(UNMAP_DESCRIPTORS_MAX);
        b.u32(state.geometry.discard_granularity_bytes / block);
        b.u32(0x8000_0000); // UGAVALID, alignment 0
    } else {
        b.zeroes(16);
    }
    b.u64(WRITE_SAME_BLOCKS_MAX);
    b.u32(ATOMIC_BLOCKS_MAX);
    b.u32(atomic_unit(unit, state)); // ATOMIC ALIGNMENT
    b.u32(atomic_unit(unit, state)); // ATOMIC TRANSFER LENGTH GRANULARITY
    b.u32(0); // no atomic boundaries
    b.u32(0);
}

/// Logical blocks per physical block exponent.
pub(crate) fn physical_exponent(unit: &LogicalUnit, state: &State) -> u8 {
    state.config.lbppbe.unwrap_or_else(|| {
        let physical = state.geometry.physical_block_bytes.checked_ilog2().unwrap_or(0);
        physical.saturating_sub(unit.shift).min(15) as u8
    })
}

/// Blocks that atomic writes are multiples of, and aligned to: the physical block. 0 where any will do.
pub(crate) fn atomic_unit(unit: &LogicalUnit, state: &State) -> u32 {
    match physical_exponent(unit, state) {
        // A physical block larger than an atomic write's limit could not be written at all.
        n @ 1..=8 => 1 << n,
        _ => 0,
    }
}

/// Block device characteristics (SBC-3 6.6.2).
fn characteristics(unit: &LogicalUnit, state: &State, b: &mut Builder) {
    // Of a spinning medium nothing more is known than that it spins: not reported.
    let rate = state.config.rotation_rate.unwrap_or(if unit.features.rotational { 0 } else { 1 });
    b.u16(rate);
    b.u8(0);
    // WABEREQ and WACEREQ: after SANITIZE BLOCK ERASE and CRYPTOGRAPHIC ERASE, which thin units have, blocks that were not
    // written since read as zeroes.
    b.u8(if state.config.thin { 0x50 } else { 0 });
    b.zeroes(64 - 8);
}

/// Logical block provisioning (SBC-3 6.6.6).
fn provisioning(state: &State, b: &mut Builder) {
    b.u8(0); // THRESHOLD EXPONENT
    if state.config.thin {
        b.u8(0xe0 | 0x04); // LBPU, LBPWS, LBPWS10; LBPRZ: what is unmapped reads as zeroes
        b.u8(0x02); // PROVISIONING TYPE: thin
    } else {
        b.u8(0);
        b.u8(0);
    }
    b.u8(0);
}
