//! Lines to options and blocks.

use super::source::Line;
use super::{At, ConfigError};

const DEPTH_MAX: usize = 8;

/// `option value`, or a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Option { name: String, value: String, at: At },
    Block(Block),
}

/// `<kind name>` and what is inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub kind: String,
    pub name: String,
    pub at: At,
    pub entries: Vec<Entry>,
}

/// The entries of the top.
pub(super) fn parse(lines: &[Line]) -> Result<Vec<Entry>, ConfigError> {
    let mut open: Vec<Block> = Vec::new();
    let mut top = Vec::new();
    for line in lines {
        let at = &line.at;
        let entry = if let Some(kind) = line.text.strip_prefix("</").and_then(|t| t.strip_suffix('>')) {
            let kind = kind.trim();
            let Some(block) = open.pop() else {
                return Err(ConfigError::new(at, format!("</{kind}> ends a block, but none is open")));
            };
            if block.kind != kind {
                let text = format!("</{kind}> where <{} {}> of {} is open", block.kind, block.name, block.at);
                return Err(ConfigError::new(at, text));
            }
            Entry::Block(block)
        } else if let Some(inner) = line.text.strip_prefix('<') {
            let inner = inner.strip_suffix('>').ok_or_else(|| {
                ConfigError::new(at, "a block begins as in <target iqn.2001-04.com.example:a>")
            })?;
            let (empty, inner) = match inner.strip_suffix('/') {
                Some(inner) => (true, inner),
                None => (false, inner),
            };
            let block = begin(inner, at)?;
            if !empty {
                if open.len() >= DEPTH_MAX {
                    return Err(ConfigError::new(
                        at,
                        format!("blocks are nested more than {DEPTH_MAX} deep"),
                    ));
                }
                open.push(block);
                continue;
            }
            Entry::Block(block)
        } else {
            option(&line.text, at)?
        };
        open.last_mut().map_or(&mut top, |b| &mut b.entries).push(entry);
    }
    match open.pop() {
        Some(block) => {
            let text = format!("<{} {}> has no end; </{}> ends it", block.kind, block.name, block.kind);
            Err(ConfigError::new(&block.at, text))
        }
        None => Ok(top),
    }
}

fn begin(inner: &str, at: &At) -> Result<Block, ConfigError> {
    let inner = inner.trim();
    let (kind, name) = inner.split_once(char::is_whitespace).unwrap_or((inner, ""));
    let (kind, name) = (unquote(kind), unquote(name.trim()));
    if kind.is_empty() {
        return Err(ConfigError::new(at, "a block has a kind: <target iqn.2001-04.com.example:a>"));
    }
    Ok(Block { kind: kind.to_owned(), name: unescape(name), at: at.clone(), entries: Vec::new() })
}

/// Name and value stand apart by blanks, or by an equals sign with or without blanks.
fn option(text: &str, at: &At) -> Result<Entry, ConfigError> {
    let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let value = rest.strip_prefix('=').unwrap_or(rest).trim();
    if value.starts_with("<<") {
        return Err(ConfigError::new(at, format!("{name}: values of several lines (<<) are not read here")));
    }
    Ok(Entry::Option { name: name.to_owned(), value: unescape(unquote(value)), at: at.clone() })
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)
}

/// A backslash before `$`, `\`, `"` and `#` goes away.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.peek() {
            Some(&next @ ('$' | '\\' | '"' | '#')) if c == '\\' => {
                chars.next();
                out.push(next);
            }
            _ => out.push(c),
        }
    }
    out
}
