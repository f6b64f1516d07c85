//! Backing devices as the machine sees them: whether they are there, who uses them, and what a SCSI disk says of itself.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Why a device cannot back a unit. None: it can, or only the daemon can tell.
pub(super) fn obstacle(path: &str) -> Option<String> {
    // The daemon has devices of its own below /dev that the machine does not know.
    match fs::metadata(path) {
        Err(_) if path.starts_with("/dev/") => None,
        Err(e) => Some(format!("{path}: {}", plain(&e))),
        Ok(meta) if meta.is_dir() => Some(format!("{path} is a directory")),
        Ok(meta) if !(meta.is_file() || meta.file_type().is_block_device()) => {
            Some(format!("{path} is neither a file nor a block device"))
        }
        Ok(_) => None,
    }
}

/// Makes a sparse file, unless there is something of that name already.
pub(super) fn create(path: &str, bytes: u64) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{path} cannot be made: {}", plain(&e));
    if let Some(dir) = Path::new(path).parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => {
            let sized = file.set_len(bytes).and_then(|()| file.sync_all());
            sized.inspect_err(|_| drop(fs::remove_file(path))).map_err(failed)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

fn plain(e: &std::io::Error) -> String {
    e.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// Who uses the device: the system (mounted, swap, part of another device), or a process that has it open.
pub(super) fn user(path: &str) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    if meta.file_type().is_block_device() {
        let exclusive = OFlags::EXCL.bits().cast_signed();
        let opened = fs::OpenOptions::new().read(true).custom_flags(exclusive).open(path);
        if let Err(e) = opened
            && e.raw_os_error() == Some(Errno::BUSY.raw_os_error())
        {
            return Some("the system (mounted, used by swap?)".to_owned());
        }
    }
    let mine = std::process::id().to_string();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|n| n.bytes().all(|b| b.is_ascii_digit()) && *n != mine) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files.flatten().any(|f| fs::metadata(f.path()).is_ok_and(|other| same(&meta, &other))) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", command.trim()));
        }
    }
    None
}

fn same(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    if a.file_type().is_block_device() {
        b.file_type().is_block_device() && a.rdev() == b.rdev()
    } else {
        a.dev() == b.dev() && a.ino() == b.ino()
    }
}

/// What `direct-store` passes on from the disk to the unit.
#[derive(Debug, Default)]
pub(super) struct DirectStore {
    pub block_size: Option<String>,
    pub parameters: Vec<(&'static str, String)>,
}

impl DirectStore {
    /// Reads what the kernel knows of a disk. A file has nothing to say.
    pub fn ask(path: &str) -> DirectStore {
        let device = fs::canonicalize(path).ok();
        let name = device.as_deref().filter(|p| p.starts_with("/dev")).and_then(Path::file_name);
        name.map_or_else(DirectStore::default, |name| {
            Self::from_sysfs(&Path::new("/sys/class/block").join(name))
        })
    }

    fn from_sysfs(dir: &Path) -> DirectStore {
        let read = |file: &str| {
            let text = fs::read_to_string(dir.join(file)).ok()?.trim().to_owned();
            (!text.is_empty() && !text.contains([',', '"'])).then_some(text)
        };
        let number = |file: &str| read(file)?.parse::<u64>().ok();
        let mut parameters = Vec::new();
        for (name, file) in [("vendor_id", "vendor"), ("product_id", "model"), ("product_rev", "rev")] {
            parameters.extend(read(&format!("device/{file}")).map(|text| (name, text)));
        }
        parameters.extend(serial(dir).map(|text| ("scsi_sn", text)));
        let block = number("queue/logical_block_size").filter(|b| b.is_power_of_two());
        if let Some(block) = block {
            if let Some(physical) =
                number("queue/physical_block_size").filter(|p| p.is_power_of_two() && *p > block)
            {
                parameters.push(("lbppbe", (physical / block).trailing_zeros().to_string()));
            }
            if let Some(best) = number("queue/optimal_io_size").filter(|n| *n > 0) {
                parameters.push(("optimal_xfer_len", (best / block).to_string()));
            }
        }
        DirectStore { block_size: block.map(|b| b.to_string()), parameters }
    }
}

/// The text of the unit serial number page (SPC-4 7.8.17).
fn serial(dir: &Path) -> Option<String> {
    let page = fs::read(dir.join("device/vpd_pg80")).ok()?;
    let text = String::from_utf8(page.get(4..)?.to_vec()).ok()?;
    let text = text.trim_matches([' ', '\0']);
    (!text.is_empty() && !text.contains([',', '"'])).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_directories_and_who_has_them_open() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let name = file.display().to_string();
        assert!(obstacle(&name).unwrap().ends_with("No such file or directory"));
        let made = dir.path().join("deep/d");
        create(&made.display().to_string(), 1 << 20).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().len(), 1 << 20);
        create(&made.display().to_string(), 1).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().len(), 1 << 20, "what is there is not touched");
        fs::write(&file, "x").unwrap();
        assert_eq!(obstacle(&name), None);
        assert!(obstacle(&dir.path().display().to_string()).unwrap().ends_with("is a directory"));
        assert!(obstacle("/dev/null").unwrap().ends_with("neither a file nor a block device"));
        assert_eq!(user(&name), None);
        let holder = fs::File::open(&file).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::from(holder))
            .spawn()
            .unwrap();
        let seen = user(&name);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.unwrap(), format!("process {} (sleep)", child.id()));
    }

    #[test]
    fn a_disk_describes_itself() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("device")).unwrap();
        fs::create_dir_all(dir.path().join("queue")).unwrap();
        for (file, text) in [
            ("device/vendor", "ATA     \n"),
            ("device/model", "DISK 1\n"),
            ("device/vpd_pg80", "\0\u{80}\0\u{4} S1 "),
            ("queue/logical_block_size", "512\n"),
            ("queue/physical_block_size", "4096\n"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        fs::write(dir.path().join("device/vpd_pg80"), b"\x00\x80\x00\x04 S1 ").unwrap();
        let d = DirectStore::from_sysfs(dir.path());
        assert_eq!(d.block_size.as_deref(), Some("512"));
        let wanted = [("vendor_id", "ATA"), ("product_id", "DISK 1"), ("scsi_sn", "S1"), ("lbppbe", "3")];
        assert_eq!(d.parameters, wanted.map(|(n, v)| (n, v.to_owned())));
        assert!(DirectStore::ask("/dev/null").parameters.is_empty());
    }
}
