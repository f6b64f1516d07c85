//! The kernel and the initramfs of the guest, from this machine's Debian packages, made once and kept in the user's cache.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::command::{Run, find_program};
use crate::packages;

/// Raised whenever what is in the image changes.
const VERSION: u32 = 2;

const PACKAGES: &[packages::Need] = &[
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("seabios", "/usr/share/seabios/bios-256k.bin"),
    ("busybox-static", "/bin/busybox"),
    ("kmod", "modprobe"),
    ("open-iscsi", "iscsid"),
    ("multipath-tools", "multipathd"),
    ("dmsetup", "dmsetup"),
    ("e2fsprogs", "mkfs.ext4"),
    ("sg3-utils", "sg_persist"),
    ("iproute2", "ip"),
    ("util-linux", "lsblk"),
];

const PROGRAMS: &[&str] = &[
    "bash",
    "iscsid",
    "iscsiadm",
    "multipath",
    "multipathd",
    "dmsetup",
    "mkfs.ext4",
    "e2fsck",
    "sg_persist",
    "sg_inq",
    "sg_readcap",
    "sg_unmap",
    "ip",
    "lsblk",
    "blkid",
    "blockdev",
    "mount",
    "umount",
    "kmod",
];

const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "virtio_rng",
    "iscsi_tcp",
    "sd_mod",
    "sg",
    "dm_mod",
    "dm_multipath",
    "dm_round_robin",
    "dm_service_time",
    "dm_queue_length",
    "scsi_dh_alua",
    "ext4",
    "crc32c_generic",
    "libcrc32c",
    "md5",
    "sha1_generic",
    "sha256_generic",
];

const INIT: &str = include_str!("../../guest/init.sh");

/// What a guest boots from.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs without the job.
    pub initramfs: PathBuf,
}

fn cache() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME").filter(|d| !d.is_empty()) {
        return Ok(PathBuf::from(dir).join("plinth"));
    }
    let home = std::env::var_os("HOME").context("neither HOME nor XDG_CACHE_HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/plinth"))
}

/// Makes the image unless it is there.
pub fn prepare() -> Result<Image> {
    packages::require(PACKAGES)?;
    let dir = cache()?.join(format!("kernel-peer-{VERSION}"));
    let image = Image { kernel: dir.join("vmlinuz"), initramfs: dir.join("initramfs") };
    if image.kernel.is_file() && image.initramfs.is_file() {
        return Ok(image);
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    // Made beside and moved in place at the end, so that an image that is there is whole.
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(&dir)?;
    let (modules, version) = fetch_kernel(work.path())?;
    let kernel = modules.join(format!("boot/vmlinuz-{version}"));
    let made = work.path().join("initramfs");
    write_initramfs(&modules, &version, &made)?;
    std::fs::rename(&made, &image.initramfs)?;
    std::fs::rename(&kernel, &image.kernel)?;
    Ok(image)
}

/// Downloads and unpacks Debian's kernel; its root and version.
fn fetch_kernel(work: &Path) -> Result<(PathBuf, String)> {
    let depends = || -> Result<Option<String>> {
        let output = Run::new("apt-cache").args(["depends", "linux-image-amd64"]).output()?;
        let name = output
            .stdout
            .lines()
            .find_map(|l| l.trim().strip_prefix("Depends: linux-image-").map(str::to_owned));
        Ok(name.map(|n| format!("linux-image-{n}")))
    };
    let package = match depends()? {
        Some(package) => package,
        None => {
            Run::new("apt-get").args(["update", "-qq"]).limit(Duration::from_secs(300)).success()?;
            depends()?.context("apt knows no linux-image-amd64; this round needs Debian's kernel")?
        }
    };
    let download =
        || Run::new("apt-get").args(["download", "-q", &package]).dir(work).limit(Duration::from_secs(300));
    if !download().output()?.ok() {
        Run::new("apt-get").args(["update", "-qq"]).limit(Duration::from_secs(300)).success()?;
        download().success().with_context(|| format!("cannot download {package}"))?;
    }
    let deb = std::fs::read_dir(work)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    let root = work.join("kernel");
    Run::new("dpkg").arg("-x").arg(&deb).arg(&root).limit(Duration::from_secs(120)).success()?;
    let mut versions =
        std::fs::read_dir(root.join("lib/modules"))?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let version = versions.next().context("the kernel's package has no modules")?;
    run_kmod("depmod", &["-b", path(&root)?, &version])?;
    Ok((root, version))
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

fn run_kmod(name: &str, args: &[&str]) -> Result<String> {
    let program = find_program(name).with_context(|| format!("{name} is not installed"))?;
    Ok(Run::new(program).args(args).limit(Duration::from_secs(120)).success()?.stdout)
}

fn write_initramfs(kernel: &Path, version: &str, to: &Path) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(to)?));
    for dir in [
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "mnt",
        "bin",
        "sbin",
        "etc/iscsi",
        "etc/multipath",
        "var/lib/iscsi",
        "var/lock",
    ] {
        archive.directory(Path::new(dir))?;
    }
    archive.symlink(Path::new("var/run"), "../run")?;
    archive.symlink(Path::new("etc/mtab"), "/proc/mounts")?;
    archive.file(Path::new("etc/passwd"), 0o644, b"root:x:0:0:root:/tmp:/sbin/bash\n")?;
    archive.file(Path::new("init"), 0o755, INIT.as_bytes())?;
    archive.file(
        Path::new("etc/iscsi/initiatorname.iscsi"),
        0o600,
        b"InitiatorName=iqn.2026-11.org.plinth.peer:kernel\n",
    )?;
    archive.copy(Path::new("/etc/iscsi/iscsid.conf"), Path::new("etc/iscsi/iscsid.conf"))?;
    archive.copy(Path::new("/bin/busybox"), Path::new("bin/busybox"))?;
    add_programs(&mut archive)?;
    add_modules(&mut archive, kernel, version)?;
    archive.finish()?;
    Ok(())
}

fn add_programs<W: std::io::Write>(archive: &mut Archive<W>) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let program = find_program(name).with_context(|| format!("{name} is not installed"))?;
        archive.copy(&program, &Path::new("sbin").join(name))?;
        libraries.extend(libraries_of(&program)?);
    }
    for plugins in
        ["/usr/lib/x86_64-linux-gnu/multipath", "/lib/x86_64-linux-gnu/multipath", "/lib/multipath"]
    {
        let Ok(entries) = std::fs::read_dir(plugins) else { continue };
        for file in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_file()) {
            archive.copy(&file, &file)?;
            // The same folder under its other name, since /lib may be a link here and is none there.
            archive.copy(&file, Path::new(path(&file)?.trim_start_matches("/usr")))?;
            libraries.extend(libraries_of(&file)?);
        }
    }
    libraries.insert(unwinder()?);
    for library in libraries {
        archive.copy(&library, &library)?;
    }
    for name in ["modprobe", "insmod", "rmmod"] {
        archive.symlink(&Path::new("sbin").join(name), "kmod")?;
    }
    Ok(())
}

/// multipathd ends its threads with pthread_cancel, for which libc loads this by name.
fn unwinder() -> Result<PathBuf> {
    let dirs = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"];
    let files = dirs.iter().map(|dir| Path::new(dir).join("libgcc_s.so.1"));
    files.into_iter().find(|f| f.is_file()).context("libgcc_s.so.1 is not installed (package libgcc-s1)")
}

/// What ldd says; a static program has none.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Run::new("ldd").arg(program).output()?;
    let words = output.stdout.split_whitespace().filter(|w| w.starts_with('/'));
    Ok(words.map(PathBuf::from).filter(|p| p.is_file()).collect())
}

fn add_modules<W: std::io::Write>(archive: &mut Archive<W>, kernel: &Path, version: &str) -> Result<()> {
    let root = path(kernel)?;
    let mut files = BTreeSet::new();
    for module in MODULES {
        let args = ["-d", root, "-S", version, "--show-depends", module];
        // A module that this kernel has built in, or not at all, is not listed.
        let Ok(listed) = run_kmod("modprobe", &args) else { continue };
        files.extend(listed.lines().filter_map(|l| l.strip_prefix("insmod ")).map(|l| l.trim().to_owned()));
    }
    if !files.iter().any(|f| f.contains("iscsi_tcp")) {
        bail!("the kernel {version} has no iscsi_tcp module");
    }
    for file in files {
        let inside =
            file.strip_prefix(root).with_context(|| format!("{file} is not below {root}"))?.to_owned();
        archive.copy(Path::new(&file), Path::new(&inside))?;
    }
    let dir = PathBuf::from(format!("lib/modules/{version}"));
    let index = kernel.join(&dir);
    for entry in std::fs::read_dir(&index)?.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("modules.") {
            archive.copy(&entry.path(), &dir.join(entry.file_name()))?;
        }
    }
    Ok(())
}
