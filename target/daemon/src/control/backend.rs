//! What the control plane asks of the engine, and what it hands to it.
//!
//! The control state is owned by one thread. It decides; the [`Backend`] does: it opens devices, listens on portals and
//! closes sessions. After every change the control state publishes a [`Snapshot`], plain data that reactor threads read
//! to answer logins. Calls may block for a short, bounded time (a mailbox round trip over the reactor threads); they
//! are never made from a reactor thread.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base::Histogram;
use serde::{Deserialize, Serialize};

use super::acl::Acl;
use super::error::Refusal;
#[allow(unused_imports)] // for the documentation
use super::error::TgtError;
use super::params::TargetParams;

/// Target id, as the administrator chose it (greater than 0).
pub type Tid = i32;

/// The engine's name for an open logical unit; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LunHandle(pub u64);

/// SCSI peripheral device types that exist here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceType {
    /// Direct access block device.
    #[default]
    Disk,
    /// Storage array controller: LUN 0 of every target, made by the control state.
    Controller,
}

/// tgt's backing store types; one engine stands behind them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreType {
    /// Through the page cache, unless flags say otherwise.
    #[default]
    Rdwr,
    /// tgt's aio: O_DIRECT.
    Aio,
    /// No medium at all: reads give zeroes, writes go nowhere, 1 TiB.
    Null,
}

impl StoreType {
    /// The name that tgtadm knows.
    pub fn name(self) -> &'static str {
        match self {
            StoreType::Rdwr => "rdwr",
            StoreType::Aio => "aio",
            StoreType::Null => "null",
        }
    }
}

/// `--bsoflags`: how the backing file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFlags {
    /// O_SYNC: every write is on the medium before it completes.
    pub sync: bool,
    /// O_DIRECT: around the page cache.
    pub direct: bool,
}

/// A MODE SENSE page that the administrator set (`mode_page=page:subpage:length:byte:byte...`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModePage {
    /// Page code.
    pub page: u8,
    /// Subpage code.
    pub subpage: u8,
    /// The page's bytes after its header.
    pub data: Vec<u8>,
}

/// Limits of one unit; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LunLimits {
    /// Reads and writes per second.
    pub iops: u64,
    /// Bytes read and written per second.
    pub bytes_per_second: u64,
}

/// All that makes up a logical unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LunSpec {
    /// Its number.
    pub lun: u64,
    /// What it is.
    pub device_type: DeviceType,
    /// Backing file, device, or name in the registry. None: no medium.
    pub path: Option<String>,
    /// How the backing store is run.
    pub store: StoreType,
    /// How it is opened.
    pub flags: OpenFlags,
    /// `--bsopts`, kept as given.
    pub bsopts: Option<String>,
    /// Logical block, bytes: a power of two.
    pub block_size: u32,
    /// T10 vendor identification designator (at most 36 bytes).
    pub scsi_id: String,
    /// Unit serial number (at most 36 bytes).
    pub scsi_sn: String,
    /// What an NAA designator is made from: a digest of `scsi_id`. Unique in the world by default; equal where the
    /// administrator gave two units the same scsi_id (or, without one, the same scsi_sn).
    pub identity: [u8; 16],
    /// The administrator gave scsi_id; otherwise it is made up.
    pub scsi_id_given: bool,
    /// The administrator gave scsi_sn; otherwise it is made up.
    pub scsi_sn_given: bool,
    /// INQUIRY vendor (at most 8 bytes).
    pub vendor_id: String,
    /// INQUIRY product (at most 16 bytes).
    pub product_id: String,
    /// INQUIRY revision (at most 4 bytes).
    pub product_rev: String,
    /// The medium can be taken out.
    pub removable: bool,
    /// The medium is there.
    pub online: bool,
    /// Writes are refused.
    pub readonly: bool,
    /// Sense data in descriptor format.
    pub sense_format: bool,
    /// Logical blocks per physical block, exponent. None: from the device.
    pub lbppbe: Option<u8>,
    /// Lowest aligned logical block address.
    pub la_lba: u16,
    /// Optimal transfer length granularity, blocks.
    pub optimal_xfer_gran: u16,
    /// Optimal transfer length, blocks.
    pub optimal_xfer_len: u32,
    /// UNMAP works and is advertised.
    pub thin_provisioning: bool,
    /// Medium rotation rate (SBC-3 6.6.2): 0 not reported, 1 not rotating.
    pub rotation_rate: u16,
    /// Pages set by the administrator, in the order given; a later one replaces an earlier one of the same code.
    /// Page 8 holds the write cache enable bit (byte 0, bit 2).
    pub mode_pages: Vec<ModePage>,
    /// Limits.
    pub limits: LunLimits,
}

/// One change of a unit, as `--mode logicalunit --op update` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LunChange {
    /// T10 vendor identification designator.
    ScsiId(String),
    /// Unit serial number.
    ScsiSn(String),
    /// INQUIRY vendor.
    VendorId(String),
    /// INQUIRY product.
    ProductId(String),
    /// INQUIRY revision.
    ProductRev(String),
    /// Descriptor format sense data.
    SenseFormat(bool),
    /// Logical blocks per physical block, exponent.
    Lbppbe(u8),
    /// Lowest aligned logical block address.
    LaLba(u16),
    /// Optimal transfer length granularity.
    OptimalXferGran(u16),
    /// Optimal transfer length.
    OptimalXferLen(u32),
    /// Removable medium.
    Removable(bool),
    /// Write protection.
    Readonly(bool),
    /// Medium present. The engine refuses `false` with [`TgtError::PreventRemoval`] while an initiator prevents it.
    Online(bool),
    /// Thin provisioning.
    ThinProvisioning(bool),
    /// Medium rotation rate.
    RotationRate(u16),
    /// A mode page.
    ModePage(ModePage),
    /// Another medium. Only while the unit is offline or has none; puts it online.
    Path(String),
    /// IOPS limit; 0: none.
    IopsLimit(u64),
    /// Bandwidth limit, bytes per second; 0: none.
    BpsLimit(u64),
}

/// What a unit is at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LunInfo {
    /// Bytes.
    pub size: u64,
    /// The medium is there (an initiator may have ejected it).
    pub online: bool,
    /// An initiator prevents removal.
    pub prevent_removal: bool,
    /// Writes are refused: by the administrator or since the device is read-only.
    pub readonly: bool,
    /// Software write protect (control mode page).
    pub swp: bool,
}

/// Sent and received by one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Data bytes from the initiator.
    pub rx_bytes: u64,
    /// Data bytes to the initiator.
    pub tx_bytes: u64,
    /// SCSI Data-Out PDUs.
    pub data_out_pdus: u32,
    /// SCSI Data-In PDUs.
    pub data_in_pdus: u32,
    /// SCSI Command PDUs.
    pub command_pdus: u32,
    /// SCSI Response PDUs.
    pub response_pdus: u32,
}

/// A connection of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// Connection id.
    pub cid: u32,
    /// Where the initiator is.
    pub address: IpAddr,
    /// Its counters.
    pub stats: ConnectionStats,
}

/// A session, for show and stat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Session id (TSIH), unique within the daemon.
    pub sid: u64,
    /// Initiator's iSCSI name.
    pub initiator: String,
    /// Its alias.
    pub alias: Option<String>,
    /// Its connections, by cid.
    pub connections: Vec<ConnectionView>,
    /// What was negotiated: key and value, as `--mode session --op show` prints them.
    pub negotiated: Vec<(&'static str, String)>,
}

/// Counters of reads or of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Bytes asked for.
    pub submitted_bytes: u64,
    /// Commands begun.
    pub submitted: u64,
    /// Bytes moved.
    pub done_bytes: u64,
    /// Commands ended.
    pub done: u64,
    /// Commands per second, over the last seconds.
    pub per_second: u64,
    /// Bytes per second, over the last seconds.
    pub bytes_per_second: u64,
    /// Time from command to status.
    pub latency: Histogram,
}

/// What one initiator did on one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NexusStats {
    /// Its session.
    pub sid: u64,
    /// Its name.
    pub initiator: String,
    /// Reads.
    pub read: IoStats,
    /// Writes.
    pub write: IoStats,
    /// Commands that ended with CHECK CONDITION for an error of the medium or of the unit.
    pub errors: u64,
}

/// A secret that does not show itself in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A CHAP account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// CHAP name.
    pub user: String,
    /// CHAP secret.
    pub password: Secret,
}

/// Who must prove what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthSnapshot {
    /// An initiator is one of these; empty: anybody.
    pub incoming: Vec<Account>,
    /// How the target proves itself, where it is asked to.
    pub outgoing: Option<Account>,
}

/// Where a login is sent instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// Address: a number or a name; IPv6 in brackets or not.
    pub address: String,
    /// Port; empty: none was given.
    pub port: String,
    /// Kind of the redirect; None until it was set (no redirect happens).
    pub permanent: Option<bool>,
}

/// A target as reactor threads see it.
#[derive(Clone, Debug)]
pub struct TargetSnapshot {
    /// Its id.
    pub tid: Tid,
    /// Its iSCSI name.
    pub name: String,
    /// State is `ready`; otherwise logins are refused (service unavailable) while running sessions go on.
    pub ready: bool,
    /// Keys for the negotiation, NOP settings.
    pub params: TargetParams,
    /// Accounts.
    pub auth: AuthSnapshot,
    /// Who may see it and log in: [`Acl::admits`].
    pub acl: Arc<Acl>,
    /// Redirect.
    pub redirect: Option<Redirect>,
    /// Units by number; LUN 0, the controller, is one of them.
    pub luns: Vec<(u64, LunHandle)>,
}

/// A listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portal {
    /// Address and port.
    pub address: SocketAddr,
    /// Target portal group tag.
    pub tag: u16,
}

/// Everything that logins depend on.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Rises with every publication.
    pub generation: u64,
    /// System state is `ready`; otherwise new connections are closed at once.
    pub online: bool,
    /// Targets by tid.
    pub targets: Vec<Arc<TargetSnapshot>>,
    /// Accounts for discovery sessions.
    pub discovery: AuthSnapshot,
    /// Portals.
    pub portals: Vec<Portal>,
}

impl Snapshot {
    /// The target called `name`.
    pub fn target_by_name(&self, name: &str) -> Option<&Arc<TargetSnapshot>> {
        self.targets.iter().find(|t| t.name == name)
    }

    /// The target `tid`.
    pub fn target(&self, tid: Tid) -> Option<&Arc<TargetSnapshot>> {
        self.targets.binary_search_by_key(&tid, |t| t.tid).ok().and_then(|i| self.targets.get(i))
    }
}

/// What the engine does for the control plane.
pub trait Backend {
    /// Opens the unit's medium and makes the unit. `target` is the name of its target. A path that cannot be opened is
    /// [`TgtError::InvalidRequest`], and the detail says which and why; so is one that the system or another unit uses,
    /// unless `bsopts` has `allow-in-use`. Without a path the unit has no medium and is offline. A
    /// [`DeviceType::Controller`] has no medium and cannot fail. Sessions of the target learn of the unit by the
    /// snapshot that follows.
    fn open_lun(&mut self, tid: Tid, target: &str, spec: &LunSpec) -> Result<LunHandle, Refusal>;

    /// Applies one change; `spec` is the unit's specification with the change in it. Where this fails the unit is as it
    /// was before.
    fn update_lun(&mut self, unit: LunHandle, change: &LunChange, spec: &LunSpec) -> Result<(), Refusal>;

    /// Closes the unit: [`TgtError::LunActive`] while commands are in flight and `force` is not set (with it, they are
    /// aborted and waited for). On success the handle is dead, its sessions have been told that LUNs changed, and
    /// the medium is free.
    fn close_lun(&mut self, unit: LunHandle, force: bool) -> Result<(), Refusal>;

    /// What the unit is now.
    fn lun_info(&self, unit: LunHandle) -> LunInfo;

    /// What every initiator did on the unit, by session.
    fn lun_stats(&self, unit: LunHandle) -> Vec<NexusStats>;

    /// Hands out the state for logins. On return every login that is decided later is decided by it.
    fn publish(&mut self, snapshot: Arc<Snapshot>);

    /// Sessions of the target, newest first.
    fn sessions(&self, tid: Tid) -> Vec<SessionView>;

    /// Drops one connection: [`TgtError::NoSession`] or [`TgtError::NoConnection`] where it is not there.
    fn drop_connection(&mut self, tid: Tid, sid: u64, cid: u32) -> Result<(), Refusal>;

    /// Drops every session of the target and returns when they and their tasks are gone.
    fn drop_sessions(&mut self, tid: Tid);

    /// Listens at `host` (None: everywhere, IPv4 and IPv6) and `port`. Gives the addresses that it listens on.
    fn open_portal(&mut self, host: Option<&str>, port: u16, tag: u16) -> Result<Vec<SocketAddr>, Refusal>;

    /// Stops listening there. Connections that were accepted go on.
    fn close_portal(&mut self, address: SocketAddr) -> Result<(), Refusal>;

    /// `--mode system --op update --name debug`: verbose logging on or off.
    fn set_debug(&mut self, on: bool);
}
