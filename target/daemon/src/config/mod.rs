//! targets.conf: the configuration file of tgt-admin.
//!
//! ```text
//!   source: files, includes, comments ──▶ lines with their place ──▶ tree: blocks and options ──▶ model: targets
//! ```
//!
//! The syntax is Apache's as Config::General reads it for tgt-admin: `option value` or `option = value`, `<block name>`
//! to `</block>`, `#` to the end of the line and `/* */` for comments (`\#` for a real one), a backslash at the end of a line
//! continues it, `include` takes a file, a directory or a pattern. What tgt-admin does not know it ignores; here it is an
//! error, and every error names file and line and says what would be right.

mod glob;
mod model;
mod source;
mod tree;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

pub use model::{ALLOW_IN_USE, LUN_PARAMETERS, Login, StoreConf, TargetConf, TargetsConf, Value};
pub use source::{Files, SystemFiles};

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The file.
    pub file: Arc<Path>,
    /// Its line, from 1.
    pub line: usize,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Something that is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct ConfigError {
    /// Where.
    pub at: At,
    /// What, and what would be right.
    pub message: String,
}

impl ConfigError {
    pub(crate) fn new(at: &At, message: impl Into<String>) -> Self {
        ConfigError { at: at.clone(), message: message.into() }
    }
}

/// A configuration, and remarks that are no errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the files say.
    pub conf: TargetsConf,
    /// Remarks, each with its place.
    pub warnings: Vec<String>,
}

/// Reads `path` and everything that it includes.
pub fn load(path: &Path, files: &dyn Files) -> Result<Loaded, ConfigError> {
    let (lines, warnings) = source::read(path, files)?;
    let tree = tree::parse(&lines)?;
    Ok(Loaded { conf: model::build(&tree)?, warnings })
}

#[cfg(test)]
mod tests;
