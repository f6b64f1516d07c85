//! Options and blocks to targets, with every value checked where it stands.

use std::collections::BTreeMap;
use std::path::Path;

use super::tree::{Block, Entry};
use super::{At, ConfigError};
use crate::control::{check_lun_options, check_lun_parameter, check_target_name, check_target_parameter};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub text: String,
    /// Its place.
    pub at: At,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// CHAP name.
    pub user: String,
    /// CHAP secret.
    pub password: String,
    /// Its place.
    pub at: At,
}

/// Everything that the files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetsConf {
    /// `ignore-errors yes`
    pub ignore_errors: bool,
    /// `control-port`
    pub control_port: Option<i16>,
    /// iSNS parameters in the order in which they are set.
    pub isns: Vec<(String, Value)>,
    /// `incomingdiscoveryuser`
    pub incoming_discovery: Vec<Login>,
    /// `outgoingdiscoveryuser`
    pub outgoing_discovery: Option<Login>,
    /// `portal` (Plinth's): as `--params portal=` takes it.
    pub portals: Vec<Value>,
    /// `account` (Plinth's): accounts that need not be bound.
    pub accounts: Vec<Login>,
    /// Targets by name: the order in which tgt-admin makes them.
    pub targets: BTreeMap<String, TargetConf>,
    /// `default-driver` was given.
    pub default_driver_given: bool,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConf {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub at: At,
    /// `controller_tid`
    pub tid: Option<i32>,
    /// Units in the order in which they are made, numbers resolved.
    pub stores: Vec<StoreConf>,
    /// `initiator-address`; [`Self::closed`] where it is `none`.
    pub addresses: Vec<Value>,
    /// `initiator-name`
    pub names: Vec<Value>,
    /// `initiator-address none` (Plinth's): no rule at all, nobody may log in.
    pub closed: bool,
    /// `incominguser`
    pub incoming: Vec<Login>,
    /// `outgoinguser`
    pub outgoing: Option<Login>,
    /// Parameters and state, by name, as `--name` and `--value` take them.
    pub keys: BTreeMap<String, Value>,
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreConf {
    /// Backing file or device; empty: none. A relative path begins at the configuration file's directory.
    pub path: String,
    /// Where it stands.
    pub at: At,
    /// `direct-store`: what is not said is asked of the device.
    pub direct: bool,
    /// Its number.
    pub lun: u64,
    /// `allow-in-use yes`
    pub allow_in_use: bool,
    /// `create` (Plinth's): make the backing file, sparse and of this many bytes, where there is none.
    pub create: Option<u64>,
    /// `device-type`
    pub device_type: Option<Value>,
    /// `bs-type`
    pub bs_type: Option<Value>,
    /// `bsopts`
    pub bsopts: Option<Value>,
    /// `bsoflags`
    pub bsoflags: Option<Value>,
    /// `block-size`
    pub block_size: Option<Value>,
    /// `write-cache`
    pub write_cache: Option<Value>,
    /// `mode_page`
    pub mode_pages: Vec<Value>,
    /// Parameters as `--params` takes them, in the order in which they are set.
    pub parameters: Vec<(&'static str, Value)>,
    /// `params`: several at once, as given.
    pub raw: Vec<Value>,
}

/// Parameters of units that are directives, in the order in which they are set.
pub const LUN_PARAMETERS: [&str; 18] = [
    "scsi_id",
    "sense_format",
    "removable",
    "online",
    "path",
    "readonly",
    "vendor_id",
    "product_id",
    "product_rev",
    "scsi_sn",
    "lbppbe",
    "la_lba",
    "optimal_xfer_gran",
    "optimal_xfer_len",
    "thin_provisioning",
    "rotation_rate",
    "iops_limit",
    "bps_limit",
];

const LUN_OPTIONS: [&str; 11] = [
    "lun",
    "allow-in-use",
    "create",
    "device-type",
    "bs-type",
    "bsopts",
    "bsoflags",
    "block-size",
    "write-cache",
    "mode_page",
    "params",
];

const GLOBAL_OPTIONS: [&str; 12] = [
    "default-driver",
    "ignore-errors",
    "control-port",
    "iSNS",
    "iSNSServerIP",
    "iSNSServerPort",
    "iSNSAccessControl",
    "incomingdiscoveryuser",
    "outgoingdiscoveryuser",
    "portal",
    "account",
    "include",
];

const TARGET_OPTIONS: [&str; 8] = [
    "driver",
    "initiator-address",
    "initiator-name",
    "incominguser",
    "outgoinguser",
    "controller_tid",
    "backing-store",
    "direct-store",
];

/// Parameters of targets; the first ones are tgt-admin's, the rest tgtadm's.
const TARGET_KEYS: [&str; 26] = [
    "MaxRecvDataSegmentLength",
    "MaxXmitDataSegmentLength",
    "HeaderDigest",
    "DataDigest",
    "InitialR2T",
    "MaxOutstandingR2T",
    "ImmediateData",
    "FirstBurstLength",
    "MaxBurstLength",
    "DataPDUInOrder",
    "DataSequenceInOrder",
    "ErrorRecoveryLevel",
    "IFMarker",
    "OFMarker",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "OFMarkInt",
    "IFMarkInt",
    "MaxConnections",
    "state",
    "MaxQueueCmd",
    "nop_interval",
    "nop_count",
    "RedirectAddress",
    "RedirectPort",
    "RedirectReason",
];

const DRIVER: &str = "iscsi";
/// The backing store's option that lets a device be opened that somebody else uses.
pub const ALLOW_IN_USE: &str = "allow-in-use";

pub(super) fn build(entries: &[Entry]) -> Result<TargetsConf, ConfigError> {
    let mut conf = TargetsConf::default();
    let mut blocks: BTreeMap<&str, Vec<&Block>> = BTreeMap::new();
    let mut once = Once::default();
    for entry in entries {
        match entry {
            Entry::Block(block) if block.kind == "target" => {
                check_target_name(&block.name).map_err(|r| {
                    ConfigError::new(&block.at, format!("target \"{}\": {}", block.name, r.detail))
                })?;
                blocks.entry(&block.name).or_default().push(block);
            }
            Entry::Block(block) => {
                let text = format!("<{}> does not stand here; <target NAME> does", block.kind);
                return Err(ConfigError::new(&block.at, text));
            }
            Entry::Option { name, value, at } => global(&mut conf, &mut once, name, value, at)?,
        }
    }
    // tgt-admin sets the server before it switches iSNS on.
    conf.isns.sort_by_key(|(name, _)| (name == "iSNS", name.clone()));
    for (name, parts) in blocks {
        conf.targets.insert(name.to_owned(), target(name, &parts)?);
    }
    check_tids(&conf)?;
    find_passwords(&mut conf)?;
    Ok(conf)
}

fn check_tids(conf: &TargetsConf) -> Result<(), ConfigError> {
    let mut tids = BTreeMap::new();
    for target in conf.targets.values() {
        if let Some(other) = target.tid.and_then(|tid| tids.insert(tid, target)) {
            let text = format!("controller_tid is that of {} ({})", other.name, other.at);
            return Err(ConfigError::new(&target.at, text));
        }
    }
    Ok(())
}

/// Options that may stand once.
#[derive(Default)]
struct Once(BTreeMap<String, At>);

impl Once {
    fn check(&mut self, name: &str, at: &At) -> Result<(), ConfigError> {
        match self.0.insert(name.to_owned(), at.clone()) {
            Some(first) => Err(ConfigError::new(at, format!("{name} stands at {first} already"))),
            None => Ok(()),
        }
    }
}

fn value(name: &str, text: &str, at: &At) -> Result<Value, ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::new(at, format!("{name} has no value")));
    }
    Ok(Value { text: text.to_owned(), at: at.clone() })
}

fn yes_no(name: &str, text: &str, at: &At) -> Result<bool, ConfigError> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(ConfigError::new(at, format!("{name} is yes or no"))),
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str, at: &At, right: &str) -> Result<T, ConfigError> {
    text.parse().map_err(|_| ConfigError::new(at, format!("{name} {text}: {right} is right")))
}

/// `user password`. A user alone is one that an `account` has the password of; an `account` takes the whole rest of
/// its line for the password.
fn login(name: &str, text: &str, at: &At) -> Result<Login, ConfigError> {
    let (user, password) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let password = password.trim_start();
    let blank = password.contains(char::is_whitespace) && name != "account";
    if user.contains(',') || blank || (password.is_empty() && name == "account") {
        let text =
            format!("{name} takes a user and a password (with blanks in it, it needs an account line)");
        return Err(ConfigError::new(at, text));
    }
    Ok(Login { user: user.to_owned(), password: password.to_owned(), at: at.clone() })
}

/// Gives passwords to the users that stand alone.
fn find_passwords(conf: &mut TargetsConf) -> Result<(), ConfigError> {
    let accounts = conf.accounts.clone();
    let of_targets = conf.targets.values_mut().flat_map(|t| t.incoming.iter_mut().chain(&mut t.outgoing));
    let of_discovery = conf.incoming_discovery.iter_mut().chain(&mut conf.outgoing_discovery);
    for login in of_discovery.chain(of_targets).filter(|l| l.password.is_empty()) {
        let account = accounts.iter().find(|a| a.user == login.user);
        let account = account.ok_or_else(|| {
            ConfigError::new(&login.at, format!("{} has no password; 'user password' is right", login.user))
        })?;
        login.password.clone_from(&account.password);
    }
    Ok(())
}

fn unknown(name: &str, at: &At, known: &[&[&str]]) -> ConfigError {
    let all = known.iter().flat_map(|k| k.iter());
    let near = all.map(|k| (distance(name, k), *k)).min().filter(|(d, _)| *d <= 3);
    let hint = near.map_or(String::new(), |(_, k)| format!("; is it {k}?"));
    ConfigError::new(at, format!("{name} is no option here{hint}"))
}

/// How many letters to add, take away or change, regardless of case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.to_lowercase().chars().take(64).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, cb) in row.iter_mut().skip(1).zip(&b) {
            let here = (diagonal + usize::from(ca != *cb)).min(left + 1).min(*slot + 1);
            diagonal = std::mem::replace(slot, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

fn global(
    conf: &mut TargetsConf,
    once: &mut Once,
    name: &str,
    text: &str,
    at: &At,
) -> Result<(), ConfigError> {
    let v = value(name, text, at)?;
    if !matches!(name, "incomingdiscoveryuser" | "portal" | "account") {
        once.check(name, at)?;
    }
    match name {
        "default-driver" => {
            driver(name, text, at)?;
            conf.default_driver_given = true;
        }
        "ignore-errors" => conf.ignore_errors = yes_no(name, text, at)?,
        "control-port" => conf.control_port = Some(number(name, text, at, "a number from 0 to 32767")?),
        "iSNSServerPort" => {
            number::<u16>(name, text, at, "a port number")?;
            conf.isns.push((name.to_owned(), v));
        }
        "iSNS" | "iSNSAccessControl" if !matches!(text, "On" | "Off") => {
            return Err(ConfigError::new(at, format!("{name} is On or Off")));
        }
        "iSNS" | "iSNSServerIP" | "iSNSAccessControl" => conf.isns.push((name.to_owned(), v)),
        "incomingdiscoveryuser" => conf.incoming_discovery.push(login(name, text, at)?),
        "outgoingdiscoveryuser" => conf.outgoing_discovery = Some(login(name, text, at)?),
        "account" => conf.accounts.push(login(name, text, at)?),
        "portal" => conf.portals.push(v),
        _ => return Err(unknown(name, at, &[&GLOBAL_OPTIONS])),
    }
    Ok(())
}

fn driver(name: &str, text: &str, at: &At) -> Result<(), ConfigError> {
    if text == DRIVER {
        return Ok(());
    }
    Err(ConfigError::new(at, format!("{name} {text}: the only driver is {DRIVER}")))
}

/// A unit before what stands for all units of the target is added to it.
struct Draft<'a> {
    direct: bool,
    path: String,
    at: &'a At,
    entries: &'a [Entry],
}

fn target(name: &str, parts: &[&Block]) -> Result<TargetConf, ConfigError> {
    let at = parts.first().map(|b| b.at.clone());
    let at = at.unwrap_or(At { file: std::sync::Arc::from(Path::new("")), line: 0 });
    let mut conf = TargetConf {
        name: name.to_owned(),
        at,
        tid: None,
        stores: Vec::new(),
        addresses: Vec::new(),
        names: Vec::new(),
        closed: false,
        incoming: Vec::new(),
        outgoing: None,
        keys: BTreeMap::new(),
    };
    let mut once = Once::default();
    let mut shared = UnitOptions::default();
    let mut drafts = Vec::new();
    for entry in parts.iter().flat_map(|b| &b.entries) {
        match entry {
            Entry::Block(Block { kind, name: path, at, entries })
                if kind == "backing-store" || kind == "direct-store" =>
            {
                drafts.push(Draft { direct: kind == "direct-store", path: path.clone(), at, entries });
            }
            Entry::Block(block) => {
                let text = format!("<{}> does not stand in a target; <backing-store PATH> does", block.kind);
                return Err(ConfigError::new(&block.at, text));
            }
            Entry::Option { name, value: text, at } if name == "backing-store" || name == "direct-store" => {
                let path = value(name, text, at)?.text;
                drafts.push(Draft { direct: name == "direct-store", path, at, entries: &[] });
            }
            Entry::Option { name, value, at } => {
                if !shared.take(name, value, at)? {
                    target_option(&mut conf, &mut once, name, value, at)?;
                }
            }
        }
    }
    if conf.closed && !(conf.addresses.is_empty() && conf.names.is_empty()) {
        let text = "initiator-address none goes with no other initiator-address or initiator-name";
        return Err(ConfigError::new(&conf.at, text));
    }
    conf.stores = stores(drafts, &shared)?;
    Ok(conf)
}

fn target_option(
    conf: &mut TargetConf,
    once: &mut Once,
    name: &str,
    text: &str,
    at: &At,
) -> Result<(), ConfigError> {
    let v = value(name, text, at)?;
    if !matches!(name, "initiator-address" | "initiator-name" | "incominguser") {
        once.check(name, at)?;
    }
    let twice = |list: &[Value]| list.iter().any(|o| o.text == text);
    match name {
        "driver" => driver(name, text, at)?,
        "controller_tid" => {
            let tid: i32 = number(name, text, at, "a number above 0")?;
            if tid <= 0 {
                return Err(ConfigError::new(at, "controller_tid is above 0"));
            }
            conf.tid = Some(tid);
        }
        "initiator-address" if text == "none" => conf.closed = true,
        "initiator-address" if twice(&conf.addresses) => return Err(there(name, text, at)),
        "initiator-name" if twice(&conf.names) => return Err(there(name, text, at)),
        "initiator-address" => conf.addresses.push(v),
        "initiator-name" => conf.names.push(v),
        "incominguser" => {
            let login = login(name, text, at)?;
            if conf.incoming.iter().any(|l| l.user == login.user) {
                return Err(there(name, &login.user, at));
            }
            conf.incoming.push(login);
        }
        "outgoinguser" => conf.outgoing = Some(login(name, text, at)?),
        _ if TARGET_KEYS.contains(&name) => {
            check_target_parameter(name, text).map_err(|r| ConfigError::new(at, r.detail))?;
            conf.keys.insert(name.to_owned(), v);
        }
        _ => {
            let known = [&TARGET_OPTIONS[..], &TARGET_KEYS, &LUN_OPTIONS, &LUN_PARAMETERS];
            return Err(unknown(name, at, &known));
        }
    }
    Ok(())
}

fn there(name: &str, text: &str, at: &At) -> ConfigError {
    ConfigError::new(at, format!("{name} {text} is there twice"))
}

/// Options that stand for one unit or for all units of a target.
#[derive(Clone, Default)]
struct UnitOptions {
    single: BTreeMap<&'static str, Value>,
    mode_pages: Vec<Value>,
    raw: Vec<Value>,
}

impl UnitOptions {
    /// False: it is none of these.
    fn take(&mut self, name: &str, text: &str, at: &At) -> Result<bool, ConfigError> {
        let known = LUN_OPTIONS.iter().chain(&LUN_PARAMETERS);
        let Some(name) = known.copied().find(|k| *k == name) else { return Ok(false) };
        let v = value(name, text, at)?;
        let wrong =
            |r: crate::control::error::Refusal| ConfigError::new(at, format!("{name} {text}: {}", r.detail));
        let option = |key: &str| check_lun_options(&format!("{key}={text}")).map_err(wrong);
        match name {
            "lun" => {
                let lun: u64 = number(name, text, at, "a number from 1 to 16383")?;
                if !(1..16384).contains(&lun) {
                    return Err(ConfigError::new(at, "lun is from 1 to 16383 (0 is the controller)"));
                }
            }
            "allow-in-use" => {
                yes_no(name, text, at)?;
            }
            "create" => {
                size(text).ok_or_else(|| {
                    ConfigError::new(at, format!("create {text}: a size as in 512M, 10G or 1T is right"))
                })?;
            }
            "device-type" if text != "disk" => {
                return Err(ConfigError::new(
                    at,
                    format!("device-type {text} does not exist here; disk does"),
                ));
            }
            "device-type" => {}
            "bs-type" => option("bstype")?,
            "bsopts" => option("bsopts")?,
            "bsoflags" => option("bsoflags")?,
            "block-size" => option("blocksize")?,
            "params" => {
                text.split(',').filter(|w| !w.is_empty()).try_for_each(check_lun_parameter).map_err(wrong)?;
            }
            _ => check_lun_parameter(&format!("{name}={text}")).map_err(wrong)?,
        }
        match name {
            "mode_page" => self.mode_pages.push(v),
            "params" => self.raw.push(v),
            _ => {
                if let Some(first) = self.single.insert(name, v) {
                    return Err(ConfigError::new(at, format!("{name} stands at {} already", first.at)));
                }
            }
        }
        Ok(true)
    }

    /// What stands here, and otherwise what stands for all.
    fn over(mut self, shared: &UnitOptions) -> Self {
        for (name, value) in &shared.single {
            self.single.entry(name).or_insert_with(|| value.clone());
        }
        self.mode_pages.extend(shared.mode_pages.iter().cloned());
        self.raw.extend(shared.raw.iter().cloned());
        self
    }
}

/// Units in tgt-admin's order (backing stores, then direct stores, each by path) with tgt-admin's numbers: its own, or
/// the lowest that no unit has or is given.
fn stores(mut drafts: Vec<Draft<'_>>, shared: &UnitOptions) -> Result<Vec<StoreConf>, ConfigError> {
    drafts.sort_by(|a, b| (a.direct, &a.path).cmp(&(b.direct, &b.path)));
    for pair in drafts.windows(2) {
        if let [a, b] = pair
            && a.path == b.path
            && a.direct == b.direct
            && !a.path.is_empty()
        {
            return Err(ConfigError::new(b.at, format!("{} stands at {} already", b.path, a.at)));
        }
    }
    let mut options = Vec::new();
    for draft in &drafts {
        let mut own = UnitOptions::default();
        for entry in draft.entries {
            match entry {
                Entry::Option { name, value, at } => {
                    if !own.take(name, value, at)? {
                        return Err(unknown(name, at, &[&LUN_OPTIONS, &LUN_PARAMETERS]));
                    }
                }
                Entry::Block(b) => {
                    return Err(ConfigError::new(&b.at, format!("<{}> does not stand in a unit", b.kind)));
                }
            }
        }
        options.push(own.over(shared));
    }
    let mut taken: BTreeMap<u64, &At> = BTreeMap::new();
    for (draft, options) in drafts.iter().zip(&options) {
        if let Some((lun, v)) = options.single.get("lun").and_then(|v| Some((v.text.parse().ok()?, v)))
            && let Some(other) = taken.insert(lun, draft.at)
        {
            return Err(ConfigError::new(&v.at, format!("LUN {lun} is that of the unit at {other}")));
        }
    }
    let mut result = Vec::new();
    for (draft, options) in drafts.iter().zip(options) {
        let lun = match options.single.get("lun").and_then(|v| v.text.parse().ok()) {
            Some(lun) => lun,
            None => {
                let free = (1..16384).find(|n| !taken.contains_key(n));
                let free = free.ok_or_else(|| ConfigError::new(draft.at, "the target has no free LUN"))?;
                taken.insert(free, draft.at);
                free
            }
        };
        result.push(store(draft, lun, options)?);
    }
    Ok(result)
}

/// Bytes; K, M, G and T are powers of 1024.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.char_indices().next_back()? {
        (at, 'K') => (text.get(..at)?, 10),
        (at, 'M') => (text.get(..at)?, 20),
        (at, 'G') => (text.get(..at)?, 30),
        (at, 'T') => (text.get(..at)?, 40),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (512..=i64::MAX as u64).contains(&bytes).then_some(bytes)
}

/// A relative path begins at the directory of the file that names it. A null store has no file.
fn resolve(draft: &Draft<'_>, null: bool) -> Result<String, ConfigError> {
    if null || draft.path.is_empty() || draft.path.starts_with('/') {
        return Ok(draft.path.clone());
    }
    let base = draft.at.file.parent().unwrap_or(Path::new(""));
    match base.join(&draft.path).to_str() {
        Some(path) if !path.contains([',', '"']) => Ok(path.to_owned()),
        _ => Err(ConfigError::new(draft.at, "the file's directory has a comma, a quote or no UTF-8 name")),
    }
}

fn store(draft: &Draft<'_>, lun: u64, mut options: UnitOptions) -> Result<StoreConf, ConfigError> {
    if draft.path.contains([',', '"']) {
        return Err(ConfigError::new(
            draft.at,
            "a path with a comma or a quote cannot be passed to the daemon",
        ));
    }
    let yes = |v: &Value| v.text == "yes";
    let null = options.single.get("bs-type").is_some_and(|v| v.text == "null");
    let parameters =
        LUN_PARAMETERS.iter().filter_map(|name| Some((*name, options.single.remove(name)?))).collect();
    let store = StoreConf {
        path: resolve(draft, null)?,
        at: draft.at.clone(),
        direct: draft.direct,
        lun,
        allow_in_use: options.single.get("allow-in-use").is_some_and(yes),
        create: options.single.get("create").and_then(|v| size(&v.text)),
        device_type: options.single.remove("device-type"),
        bs_type: options.single.remove("bs-type"),
        bsopts: options.single.remove("bsopts"),
        bsoflags: options.single.remove("bsoflags"),
        block_size: options.single.remove("block-size"),
        write_cache: options.single.remove("write-cache"),
        mode_pages: options.mode_pages,
        parameters,
        raw: options.raw,
    };
    check_lun_options(&store.options(false)).map_err(|r| ConfigError::new(draft.at, r.detail))?;
    Ok(store)
}

impl StoreConf {
    /// The backing store's options. Where the device may be in use (said here, or `forced`), the daemon is told.
    pub fn backing_options(&self, forced: bool) -> Option<String> {
        let own = self.bsopts.as_ref().map(|v| v.text.clone());
        match (own, self.allow_in_use || forced) {
            (own, false) => own,
            (None, true) => Some(ALLOW_IN_USE.to_owned()),
            (Some(own), true) if own.contains(ALLOW_IN_USE) => Some(own),
            (Some(own), true) => Some(format!("{own}:{ALLOW_IN_USE}")),
        }
    }

    /// The options of the request that makes the unit.
    pub fn options(&self, forced: bool) -> String {
        let path = (!self.path.is_empty()).then(|| format!("path={}", self.path));
        let option = |key: &str, v: &Option<Value>| v.as_ref().map(|v| format!("{key}={}", v.text));
        let words = [
            path,
            option("bstype", &self.bs_type),
            self.backing_options(forced).map(|o| format!("bsopts={o}")),
            option("bsoflags", &self.bsoflags),
            option("blocksize", &self.block_size),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(",")
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| *n == name).map(|(_, v)| v.text.as_str())
    }
}
