//! An initramfs: a cpio archive of the "newc" kind (linux Documentation/driver-api/early-userspace/buffer-format.rst).
//! The kernel unpacks archives that follow one another into one tree, so a job's files are a second archive.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    at: u64,
    made: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(out: W) -> Self {
        Self { out, inode: 0, at: 0, made: BTreeSet::new() }
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        let padding = (4 - self.at % 4) % 4;
        self.out.write_all(&[0; 3][..usize::try_from(padding)?])?;
        self.at += padding;
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size =
            u32::try_from(content.len()).with_context(|| format!("{name} is too large for an initramfs"))?;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, u32::try_from(name.len() + 1)?, 0];
        let mut head = b"070701".to_vec();
        for field in fields {
            write!(head, "{field:08x}")?;
        }
        head.extend_from_slice(name.as_bytes());
        head.push(0);
        self.bytes(&head)?;
        self.bytes(content)
    }

    /// A folder and those above it, each once.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.made.insert(path.to_owned());
        self.entry(text(path)?, DIRECTORY | 0o755, &[])
    }

    /// A file with that content; one that is there already is left alone.
    pub fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.leaf(path, FILE | mode, content)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &Path, to: &str) -> Result<()> {
        self.leaf(path, SYMLINK | 0o777, to.as_bytes())
    }

    fn leaf(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        if !self.made.insert(path.to_owned()) {
            return Ok(());
        }
        self.entry(text(path)?, mode, content)
    }

    /// A copy of the file at `from`, with its permissions.
    pub fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let metadata = std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        if !metadata.is_file() {
            bail!("{} is no file (mode {:o})", from.display(), metadata.mode());
        }
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(to, metadata.permissions().mode() & 0o777, &content)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        // The next archive begins at a multiple of four; 512 is what cpio does.
        let padding = (512 - self.at % 512) % 512;
        self.out.write_all(&vec![0; usize::try_from(padding)?])?;
        Ok(self.out)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_files_and_everything_is_aligned() {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/a/b/c"), 0o755, b"hello").expect("written");
        archive.file(Path::new("a/b/c"), 0o755, b"again").expect("left alone");
        archive.symlink(Path::new("/a/l"), "b/c").expect("written");
        let bytes = archive.finish().expect("finished");
        assert_eq!(bytes.len() % 512, 0);
        let names: Vec<usize> = ["a\0", "a/b\0", "a/b/c\0", "a/l\0", "TRAILER!!!\0"]
            .iter()
            .map(|name| {
                bytes.windows(name.len()).position(|w| w == name.as_bytes()).expect("the name is there")
            })
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(bytes.windows(6).filter(|w| w == b"070701").count(), 5);
        assert!(!bytes.windows(5).any(|w| w == b"again"));
    }
}
