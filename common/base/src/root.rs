//! The configuration root: one directory put before every /etc, /var and /run path, so that several nodes live on
//! one machine.

use std::path::{Path, PathBuf};

/// The directory that stands for `/` in every path of configuration and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root(PathBuf);

/// The variable that names the root; `--root` overrides it.
pub const ROOT_VARIABLE: &str = "PLINTH_ROOT";

impl Default for Root {
    fn default() -> Self {
        Root(PathBuf::from("/"))
    }
}

impl Root {
    /// A root at `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Root(dir.into())
    }

    /// `path` (absolute, as the documentation names it) under this root.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether this is the machine's own root.
    pub fn is_system(&self) -> bool {
        self.0 == Path::new("/")
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_absolute_paths_below_the_root() {
        assert_eq!(
            Root::new("/tmp/n1").join("/etc/tgt/targets.conf"),
            Path::new("/tmp/n1/etc/tgt/targets.conf")
        );
        assert_eq!(Root::default().join("/etc/tgt"), Path::new("/etc/tgt"));
    }
}
