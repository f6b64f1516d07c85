//! Files to lines: includes, comments, continued lines.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::Root;

use super::{At, ConfigError, glob};

const INCLUDE_DEPTH_MAX: usize = 16;
const FILES_MAX: usize = 4096;
const BYTES_MAX: usize = 16 << 20;
const LINES_MAX: usize = 1 << 20;

/// Where configuration files come from.
pub trait Files {
    /// The bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Whether there is a directory.
    fn is_dir(&self, path: &Path) -> bool;
    /// Names in a directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Where an absolute path of an include lies.
    fn absolute(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

/// The machine's files. Absolute paths of includes are taken from the configuration root.
#[derive(Clone, Debug)]
pub struct SystemFiles(pub Root);

impl Files for SystemFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let size = std::fs::metadata(path)?.len();
        if size > BYTES_MAX as u64 {
            return Err(io::Error::other(format!("{size} bytes, at most {BYTES_MAX} are read")));
        }
        std::fs::read(path)
    }

    fn is_dir(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(dir)?
            .filter_map(|e| e.map(|e| e.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        self.0.join(path)
    }
}

/// A line without comments, trimmed and not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub at: At,
    pub text: String,
}

/// All lines of `path` and of what it includes, in their order, and remarks.
pub(super) fn read(path: &Path, files: &dyn Files) -> Result<(Vec<Line>, Vec<String>), ConfigError> {
    let mut reader =
        Reader { files, lines: Vec::new(), warnings: Vec::new(), seen: BTreeSet::new(), bytes: 0 };
    let top = At { file: Arc::from(path), line: 0 };
    reader.file(path, &top, 0)?;
    Ok((reader.lines, reader.warnings))
}

struct Reader<'a> {
    files: &'a dyn Files,
    lines: Vec<Line>,
    warnings: Vec<String>,
    seen: BTreeSet<PathBuf>,
    bytes: usize,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, by: &At, depth: usize) -> Result<(), ConfigError> {
        let failed = |why: String| {
            let at = if by.line == 0 { At { file: Arc::from(path), line: 1 } } else { by.clone() };
            let what = if by.line == 0 { String::new() } else { format!("include {}: ", path.display()) };
            ConfigError { at, message: format!("{what}{why}") }
        };
        if depth > INCLUDE_DEPTH_MAX {
            return Err(failed(format!("includes are nested more than {INCLUDE_DEPTH_MAX} deep")));
        }
        if !self.seen.insert(path.to_owned()) {
            self.warnings.push(format!(
                "{by}: {} was included before; its second time does not count",
                path.display()
            ));
            return Ok(());
        }
        let bytes = self.files.read(path).map_err(|e| failed(e.to_string()))?;
        self.bytes += bytes.len();
        if self.seen.len() > FILES_MAX || self.bytes > BYTES_MAX {
            return Err(failed(format!("more than {FILES_MAX} files or {BYTES_MAX} bytes in all")));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        let text = String::from_utf8(bytes.to_vec()).map_err(|e| {
            let good = e.utf8_error().valid_up_to();
            let line = 1 + bytes.get(..good).unwrap_or_default().iter().filter(|b| **b == b'\n').count();
            ConfigError { at: At { file: Arc::from(path), line }, message: "is not UTF-8 text".to_owned() }
        })?;
        self.text(&Arc::from(path), &text, depth)
    }

    fn text(&mut self, file: &Arc<Path>, text: &str, depth: usize) -> Result<(), ConfigError> {
        let mut comment_from: Option<usize> = None;
        let mut joined: Option<(usize, String)> = None;
        for (index, raw) in text.lines().enumerate() {
            let number = index + 1;
            let at = At { file: file.clone(), line: number };
            let Some(line) = without_c_comment(raw, number, &mut comment_from, &at)? else { continue };
            let line = without_comment(&line);
            if line.trim().is_empty() && joined.is_none() {
                continue;
            }
            let (more, line) = continued(line);
            let (begin, whole) = match joined.take() {
                Some((begin, before)) => (begin, before + line.trim_start()),
                None => (number, line.trim_start().to_owned()),
            };
            if more {
                joined = Some((begin, whole));
                continue;
            }
            self.line(
                Line { at: At { file: file.clone(), line: begin }, text: whole.trim().to_owned() },
                depth,
            )?;
        }
        if let Some(line) = comment_from {
            let at = At { file: file.clone(), line };
            return Err(ConfigError::new(&at, "this comment has no end; */ ends it"));
        }
        match joined {
            Some((line, text)) => {
                self.line(Line { at: At { file: file.clone(), line }, text: text.trim().to_owned() }, depth)
            }
            None => Ok(()),
        }
    }

    fn line(&mut self, line: Line, depth: usize) -> Result<(), ConfigError> {
        if line.text.is_empty() {
            return Ok(());
        }
        if let Some(what) = included(&line.text) {
            return self.include(what, &line.at, depth);
        }
        if self.lines.len() >= LINES_MAX {
            return Err(ConfigError::new(&line.at, format!("more than {LINES_MAX} lines in all")));
        }
        self.lines.push(line);
        Ok(())
    }

    /// A file, the files of a directory in ASCII order, or what a pattern finds (which may be nothing). Relative paths
    /// begin at the including file's directory.
    fn include(&mut self, what: &str, at: &At, depth: usize) -> Result<(), ConfigError> {
        let base = at.file.parent().unwrap_or(Path::new(""));
        let path = if Path::new(what).is_absolute() {
            self.files.absolute(Path::new(what))
        } else {
            base.join(what)
        };
        let failed = |e: io::Error| ConfigError::new(at, format!("include {what}: {e}"));
        if glob::is_pattern(what) {
            let found = glob::expand(&path, self.files)
                .map_err(|why| ConfigError::new(at, format!("include {what}: {why}")))?;
            for file in found {
                self.file(&file, at, depth + 1)?;
            }
            return Ok(());
        }
        if self.files.is_dir(&path) {
            let mut names = self.files.list(&path).map_err(failed)?;
            names.sort_unstable();
            for name in names {
                let file = path.join(name);
                if !self.files.is_dir(&file) {
                    self.file(&file, at, depth + 1)?;
                }
            }
            return Ok(());
        }
        self.file(&path, at, depth + 1)
    }
}

/// None: the line is inside a comment.
fn without_c_comment(
    raw: &str,
    number: usize,
    open: &mut Option<usize>,
    at: &At,
) -> Result<Option<String>, ConfigError> {
    if open.is_some() {
        return Ok(raw.find("*/").map(|end| {
            *open = None;
            raw.get(end + 2..).unwrap_or_default().to_owned()
        }));
    }
    if let Some(begin) = raw.find("/*")
        && let Some(end) = raw.get(begin + 2..).and_then(|rest| rest.rfind("*/"))
    {
        let after = raw.get(begin + 2 + end + 2..).unwrap_or_default();
        return Ok(Some(format!(
            "{}{}",
            raw.get(..begin).unwrap_or_default().trim_end(),
            after.trim_start()
        )));
    }
    if raw.trim_start().starts_with("/*") {
        *open = Some(number);
        return Ok(None);
    }
    if raw.trim_start().starts_with("*/") {
        return Err(ConfigError::new(at, "*/ without /* before it"));
    }
    Ok(Some(raw.to_owned()))
}

/// Up to the first `#` that has no backslash before it.
fn without_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    let is_comment = |&(i, b): &(usize, &u8)| *b == b'#' && (i == 0 || bytes.get(i - 1) != Some(&b'\\'));
    let end = bytes.iter().enumerate().find(is_comment).map_or(line.len(), |(i, _)| i);
    line.get(..end).unwrap_or(line)
}

/// Whether the next line belongs to this one, and this one without the backslash.
fn continued(line: &str) -> (bool, &str) {
    match line.strip_suffix('\\') {
        Some(rest) if !rest.ends_with('\\') => (true, rest),
        _ => (false, line),
    }
}

fn included(line: &str) -> Option<&str> {
    let (word, rest) = line.split_once(char::is_whitespace)?;
    if !word.eq_ignore_ascii_case("include") {
        return None;
    }
    let rest = rest.trim();
    let quoted = |q: char| rest.strip_prefix(q)?.strip_suffix(q);
    quoted('"').or_else(|| quoted('\'')).or(Some(rest))
}
