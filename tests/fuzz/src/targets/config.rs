//! targets.conf with its includes: whatever a file holds, it is read or refused at a place, and includes come to an end.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the file's bytes come from the input"
)]

use std::io;
use std::path::Path;

use target_daemon::config::{Files, load};

use crate::Target;

/// The text of targets.conf; after a zero byte, that of `conf.d/a.conf`, and after another one, that of `conf.d/b.conf`.
pub const TARGET: Target =
    Target { name: "config", about: "targets.conf with includes", input_bytes_max: 8192, run };

const MAIN: &str = "/etc/tgt/targets.conf";
const DIR: &str = "/etc/tgt/conf.d";

struct Three<'i>(Vec<&'i [u8]>);

impl Files for Three<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let at = [MAIN, "/etc/tgt/conf.d/a.conf", "/etc/tgt/conf.d/b.conf"]
            .iter()
            .position(|p| Path::new(p) == path);
        let text = at.and_then(|at| self.0.get(at)).ok_or(io::ErrorKind::NotFound)?;
        Ok(text.to_vec())
    }

    fn is_dir(&self, path: &Path) -> bool {
        path == Path::new(DIR)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if dir != Path::new(DIR) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(vec!["b.conf".into(), "a.conf".into()])
    }
}

fn run(input: &[u8]) {
    let files = Three(input.splitn(3, |&b| b == 0).collect());
    match load(Path::new(MAIN), &files) {
        Ok(loaded) => {
            assert!(
                format!("{:?}", loaded.conf).len() < 64 * input.len().max(64) * 64,
                "it grew without bound"
            );
        }
        Err(error) => {
            assert!(error.at.line >= 1 && !error.message.is_empty(), "{error:?}");
            assert!(error.at.file.starts_with("/etc/tgt"), "{error}");
        }
    }
}
