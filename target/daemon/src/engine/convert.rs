//! Between the words of tgtadm and those of the SCSI and session machines.

use iscsi::params::{DigestKind, Settings};
use scsi::{LuChange, LuConfig, LuKind};
use target_session::SessionInfo;

use crate::control::backend::{
    ConnectionStats, ConnectionView, DeviceType, LunChange, LunSpec, ModePage, SessionView,
};
use crate::control::params::{DIGEST_CRC32C, DIGEST_NONE, Key, TargetParams};

/// What a target negotiates: what the administrator gave, and where nothing was given the best that this target does,
/// which is more than tgt's defaults.
pub(super) fn negotiation(params: &TargetParams) -> Settings {
    let mut settings = Settings::default();
    settings.session.error_recovery_level = 2;
    let given = |key| params.is_given(key).then(|| params.get(key));
    let small = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    let s = &mut settings.session;
    set(&mut settings.max_recv_len, given(Key::MaxRecvDataSegmentLength));
    set(&mut s.max_burst_len, given(Key::MaxBurstLength));
    set(&mut s.first_burst_len, given(Key::FirstBurstLength));
    set(&mut s.max_outstanding_r2t, given(Key::MaxOutstandingR2T).map(small));
    set(&mut s.max_connections, given(Key::MaxConnections).map(small));
    set(&mut s.initial_r2t, given(Key::InitialR2T).map(|n| n != 0));
    set(&mut s.immediate_data, given(Key::ImmediateData).map(|n| n != 0));
    set(&mut s.error_recovery_level, given(Key::ErrorRecoveryLevel).map(|n| n.min(2) as u8));
    set(&mut s.time2wait, given(Key::DefaultTime2Wait).map(small));
    set(&mut s.time2retain, given(Key::DefaultTime2Retain).map(small));
    set(&mut settings.header_digest, given(Key::HeaderDigest).map(digests));
    set(&mut settings.data_digest, given(Key::DataDigest).map(digests));
    settings
}

fn set<T>(to: &mut T, given: Option<T>) {
    if let Some(value) = given {
        *to = value;
    }
}

fn digests(bits: u32) -> Vec<DigestKind> {
    let named = [(DIGEST_NONE, DigestKind::None), (DIGEST_CRC32C, DigestKind::Crc32c)];
    named.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, kind)| kind).collect()
}

/// Commands in flight of one session.
pub(super) fn max_queue_cmd(params: &TargetParams) -> u32 {
    let most = base::limits::COMMANDS_PER_SESSION_MAX;
    if params.is_given(Key::MaxQueueCmd) { params.get(Key::MaxQueueCmd).clamp(1, most) } else { most }
}

/// A unit's configuration.
pub(super) fn lu_config(spec: &LunSpec) -> LuConfig {
    LuConfig {
        kind: match spec.device_type {
            DeviceType::Disk => LuKind::Disk,
            DeviceType::Controller => LuKind::Controller,
        },
        vendor: spec.vendor_id.clone(),
        product: spec.product_id.clone(),
        revision: spec.product_rev.clone(),
        serial: spec.scsi_sn.clone(),
        scsi_id: spec.scsi_id.clone(),
        naa: naa(spec.identity),
        eui64: None,
        block_bytes: spec.block_size,
        lbppbe: spec.lbppbe,
        la_lba: spec.la_lba,
        optimal_transfer_granularity: spec.optimal_xfer_gran,
        optimal_transfer_len: spec.optimal_xfer_len,
        rotation_rate: (spec.rotation_rate != 0).then_some(spec.rotation_rate),
        thin: spec.thin_provisioning,
        removable: spec.removable,
        online: spec.online,
        read_only: spec.readonly,
        swp: false,
        descriptor_sense: spec.sense_format,
        write_cache: write_cache(spec),
        mode_pages: spec.mode_pages.iter().map(mode_page).collect(),
    }
}

/// An NAA designator of the extended IEEE form without a company's number, as tgt makes it, from all the bits of the
/// identity that fit (SPC-4 7.8.6.6.5).
pub(super) fn naa(identity: [u8; 16]) -> [u8; 16] {
    let mut naa = identity;
    naa[0] = 0x60;
    naa[1] = 0;
    naa[2] = 0;
    naa[3] &= 0x0f;
    naa
}

/// WCE of the caching page that the administrator gave; on without one.
pub(super) fn write_cache(spec: &LunSpec) -> bool {
    let given = spec.mode_pages.iter().rev().find(|p| p.page == 8 && p.subpage == 0);
    given.and_then(|p| p.data.first()).is_none_or(|b| b & 0x04 != 0)
}

fn mode_page(page: &ModePage) -> scsi::ModePage {
    scsi::ModePage { page: page.page, subpage: page.subpage, data: page.data.clone() }
}

/// One change of tgtadm as the unit takes it; none for what does not concern the SCSI side.
pub(super) fn lu_change(change: &LunChange, spec: &LunSpec) -> Option<LuChange> {
    let none = LuChange::default();
    Some(match change {
        LunChange::ScsiId(v) => LuChange { scsi_id: Some(v.clone()), naa: Some(naa(spec.identity)), ..none },
        LunChange::ScsiSn(v) => LuChange { serial: Some(v.clone()), naa: Some(naa(spec.identity)), ..none },
        LunChange::VendorId(v) => LuChange { vendor: Some(v.clone()), ..none },
        LunChange::ProductId(v) => LuChange { product: Some(v.clone()), ..none },
        LunChange::ProductRev(v) => LuChange { revision: Some(v.clone()), ..none },
        LunChange::SenseFormat(v) => LuChange { descriptor_sense: Some(*v), ..none },
        LunChange::Lbppbe(v) => LuChange { lbppbe: Some(*v), ..none },
        LunChange::LaLba(v) => LuChange { la_lba: Some(*v), ..none },
        LunChange::OptimalXferGran(v) => LuChange { optimal_transfer_granularity: Some(*v), ..none },
        LunChange::OptimalXferLen(v) => LuChange { optimal_transfer_len: Some(*v), ..none },
        LunChange::Removable(v) => LuChange { removable: Some(*v), ..none },
        LunChange::Readonly(v) => LuChange { read_only: Some(*v), ..none },
        LunChange::Online(v) => LuChange { online: Some(*v), ..none },
        LunChange::ThinProvisioning(v) => LuChange { thin: Some(*v), ..none },
        LunChange::RotationRate(v) => LuChange { rotation_rate: Some(*v), ..none },
        LunChange::ModePage(p) => {
            let write_cache = (p.page == 8 && p.subpage == 0).then(|| write_cache(spec));
            LuChange { mode_page: Some(mode_page(p)), write_cache, ..none }
        }
        LunChange::Path(_) => LuChange { online: Some(true), ..none },
        LunChange::IopsLimit(_) | LunChange::BpsLimit(_) => {
            return None;
        }
    })
}

/// A session as tgtadm shows it.
pub(super) fn session_view(info: &SessionInfo) -> SessionView {
    let stats = ConnectionStats {
        rx_bytes: info.stats.bytes_in,
        tx_bytes: info.stats.bytes_out,
        command_pdus: info.stats.commands as u32,
        response_pdus: info.stats.responses as u32,
        ..ConnectionStats::default()
    };
    let mut connections: Vec<ConnectionView> = info
        .connections
        .iter()
        .enumerate()
        .map(|(i, c)| ConnectionView {
            cid: u32::from(c.cid),
            address: c.peer.peer.ip().to_canonical(),
            // Counters are kept a session: the first connection shows them.
            stats: if i == 0 { stats } else { ConnectionStats::default() },
        })
        .collect();
    connections.sort_by_key(|c| c.cid);
    SessionView {
        sid: u64::from(info.tsih),
        initiator: info.key.initiator.clone(),
        alias: info.initiator_alias.clone(),
        connections,
        negotiated: negotiated(info),
    }
}

fn negotiated(info: &SessionInfo) -> Vec<(&'static str, String)> {
    let yes = |b: bool| if b { "Yes" } else { "No" }.to_owned();
    let digest = |kind: Option<DigestKind>| {
        if kind == Some(DigestKind::Crc32c) { "CRC32C" } else { "None" }.to_owned()
    };
    let p = &info.params;
    let first = info.connections.first().map(|c| &c.params);
    vec![
        ("MaxRecvDataSegmentLength", first.map_or(8192, |c| c.max_recv_len).to_string()),
        ("HeaderDigest", digest(first.map(|c| c.header_digest))),
        ("DataDigest", digest(first.map(|c| c.data_digest))),
        ("InitialR2T", yes(p.initial_r2t)),
        ("MaxOutstandingR2T", p.max_outstanding_r2t.to_string()),
        ("ImmediateData", yes(p.immediate_data)),
        ("FirstBurstLength", p.first_burst_len.to_string()),
        ("MaxBurstLength", p.max_burst_len.to_string()),
        ("DataPDUInOrder", yes(p.data_pdu_in_order)),
        ("DataSequenceInOrder", yes(p.data_sequence_in_order)),
        ("ErrorRecoveryLevel", p.error_recovery_level.to_string()),
        ("DefaultTime2Wait", p.time2wait.to_string()),
        ("DefaultTime2Retain", p.time2retain.to_string()),
        ("MaxConnections", p.max_connections.to_string()),
        ("MaxXmitDataSegmentLength", first.map_or(8192, |c| c.max_send_len).to_string()),
    ]
}
