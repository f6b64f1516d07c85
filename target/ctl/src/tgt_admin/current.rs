//! What a daemon has now: of ours everything, of a stock tgtd what its texts say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use target_daemon::control::backend::{
    Account, DeviceType, LunLimits, LunSpec, OpenFlags, Portal, Redirect, Secret, StoreType,
};
use target_daemon::control::{SavedAcl, SavedBindings, SavedLun, SavedState, SavedTarget};
use target_daemon::mgmt::socket::{Answer, ClientError, call};
use target_daemon::mgmt::{Mode, Op, Request, verb};

/// The way to a daemon.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub socket: PathBuf,
}

/// Why there is no answer: what to print, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub text: String,
    pub code: i32,
}

impl Link {
    /// The daemon's answer.
    pub fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        call(&self.socket, request).map_err(|e| match e {
            ClientError::Send(_) => {
                let why = "Transport endpoint is not connected";
                let text = format!("tgtadm: failed to send request hdr to tgt daemon, {why}");
                Failure { text, code: rustix::io::Errno::NOTCONN.raw_os_error() }
            }
            ClientError::Closed => {
                Failure { text: "tgtadm: tgtd closed the socket".to_owned(), code: crate::tgtadm::EINVAL }
            }
            ClientError::Receive(e) => {
                Failure { text: format!("tgtadm: can't get the response, {e}"), code: crate::tgtadm::EINVAL }
            }
        })
    }

    fn text(&self, mode: Mode, op: Op, payload: &str) -> Result<String, Failure> {
        let request = Request { payload: payload.to_owned(), ..Request::new(mode, op) };
        match self.ask(&request)? {
            Answer::Text(text) => Ok(text),
            Answer::Refused { code, detail } => {
                Err(Failure { text: format!("tgtadm: error {code} {detail}"), code: crate::tgtadm::EINVAL })
            }
        }
    }
}

/// The state of a daemon.
#[derive(Clone, Debug)]
pub(super) struct Current {
    pub saved: SavedState,
    /// Everything is known, secrets as well: the daemon is one of ours.
    pub exact: bool,
    /// Sessions by target id.
    pub sessions: BTreeMap<i32, usize>,
}

impl Current {
    pub fn get(link: &Link) -> Result<Current, Failure> {
        let shown = link.text(Mode::Target, Op::Show, "")?;
        let request = Request { payload: verb::STATE.to_owned(), ..Request::new(Mode::Plinth, Op::Plinth) };
        let (saved, exact) = match link.ask(&request)? {
            Answer::Text(text) => match SavedState::from_json(&text) {
                Ok(saved) => (saved, true),
                Err(e) => {
                    let text = format!("tgt-admin: the daemon's state: {e}");
                    return Err(Failure { text, code: crate::tgtadm::EINVAL });
                }
            },
            Answer::Refused { .. } => (Self::from_stock(link, &shown)?, false),
        };
        Ok(Current { saved, exact, sessions: sessions(&shown) })
    }

    fn from_stock(link: &Link, shown: &str) -> Result<SavedState, Failure> {
        let mut saved = SavedState::empty();
        let accounts = link.text(Mode::Account, Op::Show, "")?;
        let users = accounts.lines().filter_map(|l| l.strip_prefix("    "));
        saved.accounts =
            users.map(|u| Account { user: u.to_owned(), password: Secret(String::new()) }).collect();
        let system = link.text(Mode::System, Op::Show, "")?;
        let discovery = system.split("Account information:\n").nth(1).unwrap_or_default();
        let users = discovery.lines().take_while(|l| l.starts_with("    ") || l.is_empty());
        saved.discovery = bindings(users);
        let portals = link.text(Mode::Portal, Op::Show, "")?;
        saved.portals = portals.lines().filter_map(portal).collect();
        saved.targets = blocks(shown).into_iter().filter_map(|(head, lines)| target(head, &lines)).collect();
        Ok(saved)
    }

    pub fn in_use(&self, tid: i32) -> bool {
        self.sessions.get(&tid).is_some_and(|n| *n > 0)
    }
}

/// `Target N: name` and the lines below it.
fn blocks(shown: &str) -> Vec<(&str, Vec<&str>)> {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in shown.lines() {
        match line.strip_prefix("Target ") {
            Some(head) => blocks.push((head, Vec::new())),
            None => blocks.iter_mut().last().map_or((), |(_, lines)| lines.push(line)),
        }
    }
    blocks
}

fn head(text: &str) -> Option<(i32, &str)> {
    let (tid, name) = text.split_once(": ")?;
    Some((tid.parse().ok()?, name))
}

fn sessions(shown: &str) -> BTreeMap<i32, usize> {
    let count = |lines: &[&str]| lines.iter().filter(|l| l.trim_start().starts_with("I_T nexus: ")).count();
    let of = |(text, lines): (&str, Vec<&str>)| Some((head(text)?.0, count(&lines)));
    blocks(shown).into_iter().filter_map(of).collect()
}

fn portal(line: &str) -> Option<Portal> {
    let (address, tag) = line.strip_prefix("Portal: ")?.rsplit_once(',')?;
    Some(Portal { address: address.parse().ok()?, tag: tag.parse().ok()? })
}

fn bindings<'a>(lines: impl Iterator<Item = &'a str>) -> SavedBindings {
    let mut bindings = SavedBindings::default();
    for user in lines.map(str::trim).filter(|u| !u.is_empty()) {
        match user.strip_suffix(" (outgoing)") {
            Some(user) => bindings.outgoing = Some(user.to_owned()),
            None => bindings.incoming.push(user.to_owned()),
        }
    }
    bindings
}

/// The lines of a section, up to the next one of its depth.
fn section<'a>(lines: &[&'a str], title: &str) -> Vec<&'a str> {
    let begin = lines.iter().position(|l| l.trim() == title).map_or(lines.len(), |n| n + 1);
    let inner = lines.iter().skip(begin).take_while(|l| l.starts_with("        "));
    inner.copied().collect()
}

fn target(text: &str, lines: &[&str]) -> Option<SavedTarget> {
    let (tid, name) = head(text)?;
    let mut acl = SavedAcl::default();
    for rule in section(lines, "ACL information:").into_iter().map(str::trim) {
        let address = rule == "ALL"
            || rule.trim_start_matches('[').split([']', '/']).next()?.parse::<std::net::IpAddr>().is_ok();
        if address { acl.addresses.push(rule.to_owned()) } else { acl.names.push(rule.to_owned()) }
    }
    let ready = section(lines, "System information:").iter().any(|l| l.trim() == "State: ready");
    Some(SavedTarget {
        tid,
        name: name.to_owned(),
        ready,
        params: BTreeMap::new(),
        nop_interval: 0,
        nop_count: 0,
        bindings: bindings(section(lines, "Account information:").into_iter()),
        acl,
        redirect: Redirect { address: String::new(), port: String::new(), permanent: None },
        luns: luns(&section(lines, "LUN information:")),
    })
}

fn luns(lines: &[&str]) -> Vec<SavedLun> {
    let mut luns: Vec<SavedLun> = Vec::new();
    for line in lines.iter().map(|l| l.trim_start()) {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if key == "LUN" {
            luns.extend(value.parse().ok().map(unknown_unit));
            continue;
        }
        let Some(SavedLun(spec)) = luns.last_mut() else { continue };
        match key {
            "Type" if value == "controller" => spec.device_type = DeviceType::Controller,
            "SCSI ID" => value.clone_into(&mut spec.scsi_id),
            "SCSI SN" => value.clone_into(&mut spec.scsi_sn),
            "Size" => {
                let block = value.rsplit_once("Block size: ").and_then(|(_, b)| b.parse().ok());
                spec.block_size = block.unwrap_or(spec.block_size);
            }
            "Online" => spec.online = value == "Yes",
            "Removable media" => spec.removable = value == "Yes",
            "Readonly" => spec.readonly = value == "Yes",
            "Thin-provisioning" => spec.thin_provisioning = value == "Yes",
            "Backing store type" => match value {
                "aio" => spec.store = StoreType::Aio,
                "null" => spec.store = StoreType::Null,
                _ => {}
            },
            "Backing store path" if value != "None" => spec.path = Some(value.to_owned()),
            "Backing store flags" => {
                spec.flags = OpenFlags { sync: value.contains("sync"), direct: value.contains("direct") };
            }
            _ => {}
        }
    }
    luns
}

fn unknown_unit(lun: u64) -> SavedLun {
    SavedLun(LunSpec {
        lun,
        device_type: DeviceType::Disk,
        path: None,
        store: StoreType::Rdwr,
        flags: OpenFlags::default(),
        bsopts: None,
        block_size: 512,
        scsi_id: String::new(),
        scsi_sn: String::new(),
        identity: [0; 16],
        scsi_id_given: true,
        scsi_sn_given: true,
        vendor_id: "IET".to_owned(),
        product_id: "VIRTUAL-DISK".to_owned(),
        product_rev: "0001".to_owned(),
        removable: false,
        online: true,
        readonly: false,
        sense_format: false,
        lbppbe: None,
        la_lba: 0,
        optimal_xfer_gran: 0,
        optimal_xfer_len: 0,
        thin_provisioning: false,
        rotation_rate: 0,
        mode_pages: Vec::new(),
        limits: LunLimits::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stock_daemons_text_is_understood() {
        let shown = "Target 3: iqn.a
    System information:
        Driver: iscsi
        State: offline
    I_T nexus information:
        I_T nexus: 4
            Initiator: iqn.i alias: none
            Connection: 0
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
        LUN: 5
            Type: disk
            SCSI ID: IET     00010005
            Size: 105 MB, Block size: 4096
            Online: Yes
            Backing store type: aio
            Backing store path: /a b
            Backing store flags: sync:direct
    Account information:
        bob
        carol (outgoing)
    ACL information:
        10.0.0.0/8
        [::1]
        iqn.n
Target 4: iqn.b
    System information:
        State: ready
";
        assert_eq!(sessions(shown), BTreeMap::from([(3, 1), (4, 0)]));
        let blocks = blocks(shown);
        let t = target(blocks[0].0, &blocks[0].1).unwrap();
        assert_eq!((t.tid, t.name.as_str(), t.ready), (3, "iqn.a", false));
        assert_eq!(
            t.bindings,
            SavedBindings { incoming: vec!["bob".into()], outgoing: Some("carol".into()) }
        );
        assert_eq!(t.acl.addresses, ["10.0.0.0/8", "[::1]"]);
        assert_eq!(t.acl.names, ["iqn.n"]);
        let spec = &t.luns[1].0;
        assert_eq!((spec.lun, spec.block_size, spec.store), (5, 4096, StoreType::Aio));
        assert_eq!(spec.path.as_deref(), Some("/a b"));
        assert_eq!(spec.flags, OpenFlags { sync: true, direct: true });
        assert!(target(blocks[1].0, &blocks[1].1).unwrap().ready);
    }
}
