//! Logical units: made, deleted, updated.

use base::limits::LUNS_PER_TARGET_MAX;

use super::backend::{Backend, DeviceType, LunChange, LunLimits, LunSpec, ModePage, OpenFlags, StoreType};
use super::error::{Refusal, TgtError};
use super::number::{atoi, radix, strtol};
use super::{Control, Lun, Target, identity};
use crate::mgmt::{Op, Request, Response, device_type};

/// tgt's default block, bytes.
const BLOCK_DEFAULT: u32 = 512;
/// Bytes of a SCSI id or serial number.
const ID_MAX: usize = 36;
/// Pages that the administrator may set on one unit.
const MODE_PAGES_MAX: usize = 64;
/// Bytes of a mode page.
const MODE_PAGE_BYTES_MAX: usize = 1024;
const CACHING_PAGE: u8 = 8;
/// tgt's caching page: write cache on, multiplication factor off, no limits of prefetching.
const CACHING: [u8; 18] = [0x14, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x80, 0x14, 0, 0, 0, 0, 0, 0];
const WCE: u8 = 0x04;

impl Control {
    pub(super) fn lun_request(&mut self, op: Op, request: &Request, backend: &mut dyn Backend) -> Response {
        match op {
            Op::New => self.new_lun(request, backend)?,
            Op::Delete => self.delete_lun(request.tid, request.lun, backend)?,
            Op::Update => self.update_lun(request, backend)?,
            Op::Stats if request.sid != 0 => return self.stat_session(request.sid, backend),
            Op::Stats => return self.stat_lun(request.tid, request.lun, backend),
            _ => return Err(TgtError::Unsupported.into()),
        }
        Ok(String::new())
    }

    fn new_lun(&mut self, request: &Request, backend: &mut dyn Backend) -> Result<(), Refusal> {
        let number = request.lun;
        let instance = self.instance;
        let target = self.target_mut(request.tid)?;
        if target.luns.contains_key(&number) {
            return Err(TgtError::LunExists.into());
        }
        if request.device_type != device_type::DISK {
            let name = device_type::name(request.device_type);
            let why = format!("device type {name} does not exist here; a logical unit is a disk");
            return Err(Refusal::new(TgtError::Unsupported, why));
        }
        if number >= LUNS_PER_TARGET_MAX as u64 {
            return Err(Refusal::invalid(format!("lun {number}; a number is below {LUNS_PER_TARGET_MAX}")));
        }
        let mut spec = parse_new(number, &request.payload)?;
        identity::complete(&mut spec, &instance, &target.name);
        let handle = backend.open_lun(target.tid, &target.name, &spec)?;
        target.luns.insert(number, Lun { spec, handle, missing: false });
        Ok(())
    }

    pub(super) fn add_controller(
        &mut self,
        target: &mut Target,
        backend: &mut dyn Backend,
    ) -> Result<(), Refusal> {
        let mut spec = empty_spec(0, DeviceType::Controller);
        identity::complete(&mut spec, &self.instance, &target.name);
        let handle = backend.open_lun(target.tid, &target.name, &spec)?;
        target.luns.insert(0, Lun { spec, handle, missing: false });
        Ok(())
    }

    fn delete_lun(&mut self, tid: i32, number: u64, backend: &mut dyn Backend) -> Result<(), Refusal> {
        if number == 0 {
            return Err(Refusal::invalid("LUN 0 is the controller; it goes with its target"));
        }
        // A target that does not exist has no units: tgt says so too.
        let no_lun = || Refusal::new(TgtError::NoLun, format!("target {tid} has no LUN {number}"));
        let target = self.targets.get_mut(&tid).ok_or_else(no_lun)?;
        let lun = target.luns.get(&number).ok_or_else(no_lun)?;
        backend.close_lun(lun.handle, false)?;
        target.luns.remove(&number);
        Ok(())
    }

    fn update_lun(&mut self, request: &Request, backend: &mut dyn Backend) -> Result<(), Refusal> {
        let instance = self.instance;
        let number = request.lun;
        let target = self.target_mut(request.tid)?;
        let name = target.name.clone();
        let lun = target
            .luns
            .get_mut(&number)
            .ok_or_else(|| Refusal::new(TgtError::NoLun, format!("no LUN {number}")))?;
        // First everything is read and checked, then it is done; what was done is taken back where a later one fails.
        let mut steps = Vec::new();
        let mut spec = lun.spec.clone();
        let mut missing = lun.missing;
        let info = backend.lun_info(lun.handle);
        spec.online = info.online;
        for word in parameters(&request.payload) {
            let mut change = parse_change(word, &spec)?;
            if missing && change == LunChange::Online(true) {
                change = LunChange::Path(spec.path.clone().unwrap_or_default());
            }
            check_change(&change, &spec)?;
            missing &= !matches!(change, LunChange::Path(_));
            let before = spec.clone();
            apply(&mut spec, &change);
            identity::complete(&mut spec, &instance, &name);
            steps.push((change, before, spec.clone()));
        }
        for (done, (change, _, after)) in steps.iter().enumerate() {
            if let Err(refusal) = backend.update_lun(lun.handle, change, after) {
                for (change, before, _) in steps.get(..done).unwrap_or_default().iter().rev() {
                    for undo in inverse(change, before) {
                        backend.update_lun(lun.handle, &undo, before)?;
                    }
                }
                return Err(refusal);
            }
        }
        lun.spec = spec;
        lun.missing = missing;
        Ok(())
    }
}

/// A unit with everything as tgt has it before options say otherwise.
pub(super) fn empty_spec(lun: u64, device_type: DeviceType) -> LunSpec {
    let controller = device_type == DeviceType::Controller;
    LunSpec {
        lun,
        device_type,
        path: None,
        store: if controller { StoreType::Null } else { StoreType::Rdwr },
        flags: OpenFlags::default(),
        bsopts: None,
        block_size: if controller { 1 } else { BLOCK_DEFAULT },
        scsi_id: String::new(),
        scsi_sn: String::new(),
        identity: [0; 16],
        scsi_id_given: false,
        scsi_sn_given: false,
        vendor_id: "IET".to_owned(),
        product_id: if controller { "Controller" } else { "VIRTUAL-DISK" }.to_owned(),
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
    }
}

/// Whether a unit would be made with these options (`path=...,bstype=...`), as far as can be said without its device.
pub fn check_lun_options(options: &str) -> Result<(), Refusal> {
    parse_new(1, options).map(|_| ())
}

/// Whether a unit would take this parameter (`key=value`).
pub fn check_lun_parameter(word: &str) -> Result<(), Refusal> {
    let mut spec = empty_spec(1, DeviceType::Disk);
    // Offline with a medium: neither path= nor online= contradicts that.
    spec.path = Some(String::new());
    spec.online = false;
    check_change(&parse_change(word, &spec)?, &spec)
}

/// What a request could never have led to, but a state file may say.
pub(super) fn check_spec(spec: &LunSpec) -> Result<(), Refusal> {
    let controller = spec.device_type == DeviceType::Controller;
    let block = spec.block_size;
    let block_is_right = block.is_power_of_two() && (512..=65536).contains(&block);
    if !controller && !block_is_right {
        return Err(Refusal::invalid(format!("block size {block}")));
    }
    if spec.lun >= LUNS_PER_TARGET_MAX as u64 {
        return Err(Refusal::invalid("its number is too high"));
    }
    if spec.scsi_id.len() > ID_MAX || spec.scsi_sn.len() > ID_MAX {
        return Err(Refusal::invalid(format!("at most {ID_MAX} characters identify a unit")));
    }
    let long = spec.vendor_id.len() > 8 || spec.product_id.len() > 16 || spec.product_rev.len() > 4;
    if long || spec.lbppbe.is_some_and(|e| e > 15) || spec.la_lba > 0x3fff {
        return Err(Refusal::invalid(
            "vendor_id, product_id, product_rev, lbppbe or la_lba is out of its range",
        ));
    }
    let pages = &spec.mode_pages;
    if pages.len() > MODE_PAGES_MAX
        || pages.iter().any(|p| p.page > 0x3f || p.data.len() > MODE_PAGE_BYTES_MAX)
    {
        return Err(Refusal::invalid("a mode page is out of its range"));
    }
    Ok(())
}

/// `path=...,bstype=...,bsopts=...,bsoflags=...,blocksize=...`
fn parse_new(lun: u64, payload: &str) -> Result<LunSpec, Refusal> {
    let mut spec = empty_spec(lun, DeviceType::Disk);
    let mut flags = None;
    for word in payload.split(',').filter(|w| !w.is_empty()) {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "path" | "bstype" | "bsopts" | "bsoflags" | "blocksize" if value.is_empty() => {}
            "path" => spec.path = Some(value.to_owned()),
            "bstype" => spec.store = parse_store(value)?,
            "bsopts" => spec.bsopts = Some(value.to_owned()),
            "bsoflags" => flags = Some(value),
            "blocksize" => spec.block_size = parse_block_size(value)?,
            _ => {
                return Err(Refusal::invalid(format!(
                    "{word}: not an option of a new unit (a path has no comma)"
                )));
            }
        }
    }
    if let Some(text) = flags {
        spec.flags = parse_flags(text)?;
        if spec.flags != OpenFlags::default() && spec.store != StoreType::Rdwr {
            let why = format!("bstype {} takes no bsoflags; rdwr does", spec.store.name());
            return Err(Refusal::invalid(why));
        }
    }
    if spec.path.is_none() {
        spec.removable = true;
        spec.online = false;
    }
    Ok(spec)
}

fn parse_store(name: &str) -> Result<StoreType, Refusal> {
    match name {
        "rdwr" => Ok(StoreType::Rdwr),
        "aio" => Ok(StoreType::Aio),
        "null" => Ok(StoreType::Null),
        "sheepdog" | "bsg" | "sg" | "ssc" | "smc" | "mmc" | "rbd" | "glfs" => {
            let why = format!("bstype {name} does not exist here; there are rdwr, aio and null");
            Err(Refusal::new(TgtError::Unsupported, why))
        }
        _ => Err(Refusal::invalid(format!("bstype {name}; there are rdwr, aio and null"))),
    }
}

fn parse_flags(text: &str) -> Result<OpenFlags, Refusal> {
    let mut flags = OpenFlags::default();
    for word in text.split(':').filter(|w| !w.is_empty()) {
        let word = word.trim_start_matches(' ');
        if word.starts_with("sync") {
            flags.sync = true;
        } else if word.starts_with("direct") {
            flags.direct = true;
        } else {
            return Err(Refusal::invalid(format!(
                "bsoflags {word}; there are sync and direct, joined by ':'"
            )));
        }
    }
    Ok(flags)
}

fn parse_block_size(text: &str) -> Result<u32, Refusal> {
    let (base, digits) = radix(text);
    let size = u32::from_str_radix(digits, base).ok();
    size.filter(|s| s.is_power_of_two() && (512..=65536).contains(s)).ok_or_else(|| {
        Refusal::invalid(format!("block size {text}; a power of two from 512 to 65536 is right"))
    })
}

/// The words of `targetOps k=v,k=v,`.
fn parameters(payload: &str) -> impl Iterator<Item = &str> {
    payload.strip_prefix("targetOps ").unwrap_or(payload).split(',').filter(|w| !w.is_empty())
}

fn parse_change(word: &str, spec: &LunSpec) -> Result<LunChange, Refusal> {
    let unknown = || Refusal::invalid(format!("{word}: no such parameter of a unit"));
    let (key, value) = word.split_once('=').filter(|(_, v)| !v.is_empty()).ok_or_else(unknown)?;
    let range = |max: i64| {
        let n = i64::from(atoi(value));
        (0..=max)
            .contains(&n)
            .then_some(n as u64)
            .ok_or_else(|| Refusal::invalid(format!("{word}: a number from 0 to {max} is right")))
    };
    let flag = || atoi(value) != 0;
    Ok(match key {
        "scsi_id" => LunChange::ScsiId(value.to_owned()),
        "scsi_sn" => LunChange::ScsiSn(value.to_owned()),
        "vendor_id" => LunChange::VendorId(cut(value, 8)),
        "product_id" => LunChange::ProductId(cut(value, 16)),
        "product_rev" => LunChange::ProductRev(cut(value, 4)),
        "sense_format" => LunChange::SenseFormat(flag()),
        "lbppbe" => LunChange::Lbppbe(range(15)? as u8),
        "la_lba" => LunChange::LaLba(range(0x3fff)? as u16),
        "optimal_xfer_gran" => LunChange::OptimalXferGran(range(0xffff)? as u16),
        "optimal_xfer_len" => LunChange::OptimalXferLen(range(i64::from(i32::MAX))? as u32),
        "removable" => LunChange::Removable(flag()),
        "readonly" => LunChange::Readonly(flag()),
        "online" => LunChange::Online(flag()),
        "thin_provisioning" => LunChange::ThinProvisioning(flag()),
        "rotation_rate" => LunChange::RotationRate(range(0xffff)? as u16),
        "mode_page" => LunChange::ModePage(parse_mode_page(value)?),
        "path" => LunChange::Path(value.to_owned()),
        "write-cache" => LunChange::ModePage(write_cache(value, spec)?),
        "iops_limit" => LunChange::IopsLimit(limit(word, value)?),
        "bps_limit" => LunChange::BpsLimit(limit(word, value)?),
        _ => return Err(unknown()),
    })
}

fn limit(word: &str, value: &str) -> Result<u64, Refusal> {
    value.parse().map_err(|_| Refusal::invalid(format!("{word}: a number is right, 0 for no limit")))
}

fn cut(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// `page:subpage:length:byte:byte...`; bytes that are not given are 0.
fn parse_mode_page(text: &str) -> Result<ModePage, Refusal> {
    let wrong = |why: &str| Refusal::invalid(format!("mode_page={text}: {why}"));
    let mut numbers = text.split(':').map(strtol);
    let mut next = |max: i64, what: &str| {
        let n = numbers.next().ok_or_else(|| wrong("page:subpage:length:bytes is right"))?;
        (0..=max).contains(&n).then_some(n).ok_or_else(|| wrong(what))
    };
    let page = next(0x3f, "a page is below 0x40")? as u8;
    let subpage = next(0xff, "a subpage is a byte")? as u8;
    let length = next(MODE_PAGE_BYTES_MAX as i64, "the page is too long")? as usize;
    let mut data = Vec::with_capacity(length);
    for n in numbers {
        data.push(u8::try_from(n).map_err(|_| wrong("a byte is from 0 to 255"))?);
    }
    if data.len() > length {
        return Err(wrong("more bytes than the length says"));
    }
    data.resize(length, 0);
    Ok(ModePage { page, subpage, data })
}

fn write_cache(value: &str, spec: &LunSpec) -> Result<ModePage, Refusal> {
    let on = match value {
        "on" => true,
        "off" => false,
        _ => return Err(Refusal::invalid("write-cache is on or off")),
    };
    let given = spec.mode_pages.iter().find(|p| p.page == CACHING_PAGE && p.subpage == 0);
    let mut data = given.map_or_else(|| CACHING.to_vec(), |p| p.data.clone());
    if let Some(first) = data.first_mut() {
        *first = if on { *first | WCE } else { *first & !WCE };
    }
    Ok(ModePage { page: CACHING_PAGE, subpage: 0, data })
}

fn check_change(change: &LunChange, spec: &LunSpec) -> Result<(), Refusal> {
    let disk = spec.device_type == DeviceType::Disk;
    match change {
        LunChange::ScsiId(id) | LunChange::ScsiSn(id) if id.len() > ID_MAX => {
            Err(Refusal::invalid(format!("{id}: at most {ID_MAX} characters identify a unit")))
        }
        LunChange::Path(_) if spec.path.is_some() && spec.online => {
            Err(Refusal::invalid("the unit is online; say online=0 before path="))
        }
        LunChange::Online(true) if disk && spec.path.is_none() => {
            Err(Refusal::invalid("the unit has no medium; path= gives it one and puts it online"))
        }
        LunChange::Path(_) | LunChange::Online(_) | LunChange::Removable(_) if !disk => {
            Err(Refusal::invalid("a controller has no medium"))
        }
        LunChange::ModePage(_) if spec.mode_pages.len() >= MODE_PAGES_MAX => {
            Err(Refusal::invalid(format!("{MODE_PAGES_MAX} mode pages are set already")))
        }
        _ => Ok(()),
    }
}

fn apply(spec: &mut LunSpec, change: &LunChange) {
    match change {
        LunChange::ScsiId(v) => {
            spec.scsi_id.clone_from(v);
            spec.scsi_id_given = true;
        }
        LunChange::ScsiSn(v) => {
            spec.scsi_sn.clone_from(v);
            spec.scsi_sn_given = true;
        }
        LunChange::VendorId(v) => spec.vendor_id.clone_from(v),
        LunChange::ProductId(v) => spec.product_id.clone_from(v),
        LunChange::ProductRev(v) => spec.product_rev.clone_from(v),
        LunChange::SenseFormat(v) => spec.sense_format = *v,
        LunChange::Lbppbe(v) => spec.lbppbe = Some(*v),
        LunChange::LaLba(v) => spec.la_lba = *v,
        LunChange::OptimalXferGran(v) => spec.optimal_xfer_gran = *v,
        LunChange::OptimalXferLen(v) => spec.optimal_xfer_len = *v,
        LunChange::Removable(v) => spec.removable = *v,
        LunChange::Readonly(v) => spec.readonly = *v,
        LunChange::Online(v) => spec.online = *v,
        LunChange::ThinProvisioning(v) => spec.thin_provisioning = *v,
        LunChange::RotationRate(v) => spec.rotation_rate = *v,
        LunChange::ModePage(v) => {
            spec.mode_pages.retain(|p| (p.page, p.subpage) != (v.page, v.subpage));
            spec.mode_pages.push(v.clone());
        }
        LunChange::Path(v) => {
            spec.path = Some(v.clone());
            spec.online = true;
        }
        LunChange::IopsLimit(v) => spec.limits.iops = *v,
        LunChange::BpsLimit(v) => spec.limits.bytes_per_second = *v,
    }
}

/// What takes `change` back, in order.
fn inverse(change: &LunChange, before: &LunSpec) -> Vec<LunChange> {
    vec![match change {
        LunChange::ScsiId(_) => LunChange::ScsiId(before.scsi_id.clone()),
        LunChange::ScsiSn(_) => LunChange::ScsiSn(before.scsi_sn.clone()),
        LunChange::VendorId(_) => LunChange::VendorId(before.vendor_id.clone()),
        LunChange::ProductId(_) => LunChange::ProductId(before.product_id.clone()),
        LunChange::ProductRev(_) => LunChange::ProductRev(before.product_rev.clone()),
        LunChange::SenseFormat(_) => LunChange::SenseFormat(before.sense_format),
        LunChange::Lbppbe(_) => LunChange::Lbppbe(before.lbppbe.unwrap_or_default()),
        LunChange::LaLba(_) => LunChange::LaLba(before.la_lba),
        LunChange::OptimalXferGran(_) => LunChange::OptimalXferGran(before.optimal_xfer_gran),
        LunChange::OptimalXferLen(_) => LunChange::OptimalXferLen(before.optimal_xfer_len),
        LunChange::Removable(_) => LunChange::Removable(before.removable),
        LunChange::Readonly(_) => LunChange::Readonly(before.readonly),
        LunChange::Online(_) => LunChange::Online(before.online),
        LunChange::ThinProvisioning(_) => LunChange::ThinProvisioning(before.thin_provisioning),
        LunChange::RotationRate(_) => LunChange::RotationRate(before.rotation_rate),
        LunChange::IopsLimit(_) => LunChange::IopsLimit(before.limits.iops),
        LunChange::BpsLimit(_) => LunChange::BpsLimit(before.limits.bytes_per_second),
        LunChange::ModePage(page) => {
            let old = before.mode_pages.iter().find(|p| (p.page, p.subpage) == (page.page, page.subpage));
            let default = ModePage { page: page.page, subpage: page.subpage, data: CACHING.to_vec() };
            match old {
                Some(old) => LunChange::ModePage(old.clone()),
                None if page.page == CACHING_PAGE => LunChange::ModePage(default),
                None => return Vec::new(),
            }
        }
        LunChange::Path(_) => {
            let offline = LunChange::Online(false);
            return match &before.path {
                Some(path) => vec![offline.clone(), LunChange::Path(path.clone()), offline],
                None => vec![offline],
            };
        }
    }]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_unit() {
        let spec = parse_new(3, "path=/a,bstype=rdwr,bsoflags=sync:direct,blocksize=4096,bsopts=x").unwrap();
        assert_eq!((spec.path.as_deref(), spec.block_size), (Some("/a"), 4096));
        assert_eq!(spec.flags, OpenFlags { sync: true, direct: true });
        assert!(spec.online && !spec.removable);
        let none = parse_new(3, "").unwrap();
        assert!(!none.online && none.removable);
        for wrong in
            ["path=/a,b", "bstype=zork", "bstype=aio,bsoflags=sync", "bsoflags=fast", "blocksize=1000"]
        {
            assert_eq!(parse_new(1, wrong).unwrap_err().error, TgtError::InvalidRequest, "{wrong}");
        }
        assert_eq!(parse_new(1, "bstype=sheepdog").unwrap_err().error, TgtError::Unsupported);
    }

    #[test]
    fn mode_pages() {
        let page = parse_mode_page("8:0:3:0x10:1").unwrap();
        assert_eq!(page, ModePage { page: 8, subpage: 0, data: vec![0x10, 1, 0] });
        for wrong in ["8:0", "8:0:1:1:1", "8:0:1:256", "64:0:0", "8:0:70000"] {
            assert!(parse_mode_page(wrong).is_err(), "{wrong}");
        }
        let spec = empty_spec(1, DeviceType::Disk);
        assert_eq!(write_cache("off", &spec).unwrap().data.first(), Some(&0x10));
        assert_eq!(write_cache("on", &spec).unwrap().data, CACHING);
    }

    #[test]
    fn every_change_can_be_taken_back() {
        let mut spec = empty_spec(1, DeviceType::Disk);
        spec.path = Some("/a".to_owned());
        spec.lbppbe = Some(3);
        for word in [
            "scsi_id=a",
            "scsi_sn=b",
            "vendor_id=c",
            "product_id=d",
            "product_rev=e",
            "sense_format=1",
            "lbppbe=1",
            "la_lba=1",
            "optimal_xfer_gran=8",
            "optimal_xfer_len=9",
            "removable=1",
            "readonly=1",
            "online=0",
            "thin_provisioning=1",
            "rotation_rate=7200",
            "iops_limit=5",
            "bps_limit=6",
        ] {
            let change = parse_change(word, &spec).unwrap();
            let mut changed = spec.clone();
            apply(&mut changed, &change);
            assert_ne!(changed, spec, "{word}");
            inverse(&change, &spec).iter().for_each(|c| apply(&mut changed, c));
            (changed.scsi_id_given, changed.scsi_sn_given) = (false, false);
            assert_eq!(changed, spec, "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let spec = empty_spec(1, DeviceType::Disk);
            let _ = parse_new(1, &text);
            for word in parameters(&text) {
                if let Ok(change) = parse_change(word, &spec) {
                    let _ = check_change(&change, &spec);
                }
            }
            let _ = parse_mode_page(&text);
        }
    }
}
