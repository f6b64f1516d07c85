//! File name patterns: `*`, `?`, `[a-z]`, `{a,b}`, and a backslash before a character that is meant.

use std::path::{Component, Path, PathBuf};

use super::Files;

const ALTERNATIVES_MAX: usize = 256;
const MATCHES_MAX: usize = 4096;

/// Whether a path is a pattern.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '{', '\\'])
}

/// The files that a pattern finds, sorted within each alternative of its braces. Names that begin with a dot are found
/// only by a pattern that begins with one.
pub(super) fn expand(pattern: &Path, files: &dyn Files) -> Result<Vec<PathBuf>, String> {
    let text = pattern.to_str().ok_or("the pattern is not UTF-8 text")?;
    let mut found = Vec::new();
    for alternative in braces(text)? {
        let mut places = vec![PathBuf::new()];
        for component in Path::new(&alternative).components() {
            let Component::Normal(name) = component else {
                places.iter_mut().for_each(|p| p.push(component));
                continue;
            };
            let name = name.to_str().unwrap_or_default();
            places = step(places, name, files);
            if places.len() > MATCHES_MAX {
                return Err(format!("it finds more than {MATCHES_MAX} files"));
            }
        }
        places.retain(|p| !files.is_dir(p));
        places.sort_unstable();
        for place in places {
            if !found.contains(&place) {
                found.push(place);
            }
        }
    }
    Ok(found)
}

fn step(places: Vec<PathBuf>, name: &str, files: &dyn Files) -> Vec<PathBuf> {
    if !is_pattern(name) {
        let joined = places.into_iter().map(|p| p.join(name));
        // What is there: a later pattern lists it, or a read says that it is not.
        return joined.collect();
    }
    let pattern: Vec<char> = name.chars().collect();
    let mut next = Vec::new();
    for place in places {
        let dir = if place.as_os_str().is_empty() { Path::new(".") } else { place.as_path() };
        let Ok(names) = files.list(dir) else { continue };
        for entry in names {
            let hidden = entry.starts_with('.') && !name.starts_with('.');
            let text: Vec<char> = entry.chars().collect();
            if !hidden && matches(&pattern, &text) {
                next.push(place.join(&entry));
            }
        }
    }
    next
}

/// The text without braces, once for each way to choose in them.
fn braces(text: &str) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut left = vec![text.to_owned()];
    while let Some(text) = left.pop() {
        if done.len() + left.len() > ALTERNATIVES_MAX {
            return Err(format!("its braces mean more than {ALTERNATIVES_MAX} names"));
        }
        let Some((before, choices, after)) = first_brace(&text) else {
            done.push(text);
            continue;
        };
        left.extend(choices.iter().rev().map(|c| format!("{before}{c}{after}")));
    }
    Ok(done)
}

fn first_brace(text: &str) -> Option<(&str, Vec<&str>, &str)> {
    let open = text.find('{')?;
    let mut depth = 0usize;
    let mut begin = open + 1;
    let mut choices = Vec::new();
    for (i, c) in text.char_indices().skip_while(|(i, _)| *i < open) {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => {
                choices.push(text.get(begin..i)?);
                return Some((text.get(..open)?, choices, text.get(i + 1..)?));
            }
            '}' => depth -= 1,
            ',' if depth == 1 => {
                choices.push(text.get(begin..i)?);
                begin = i + 1;
            }
            _ => {}
        }
    }
    None
}

/// Whether the whole of `text` is what `pattern` means. Takes time in the product of their lengths at most: of several
/// stars only the last has to be tried again.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let one = text.get(t).and_then(|c| match_one(pattern.get(p..)?, *c));
        if pattern.get(p) == Some(&'*') {
            star = Some((p, t));
            p += 1;
        } else if let Some(used) = one {
            p += used;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|c| *c == '*'))
}

/// How much of `pattern` one character uses up.
fn match_one(pattern: &[char], c: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '\\' => (pattern.get(1) == Some(&c)).then_some(2),
        '[' => set(pattern, c).or_else(|| (c == '[' && !pattern.contains(&']')).then_some(1)),
        first => (*first == c).then_some(1),
    }
}

fn set(pattern: &[char], c: char) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let begin = if negated { 2 } else { 1 };
    // A ] that comes first is one of the set.
    let end = begin + 1 + pattern.get(begin + 1..)?.iter().position(|c| *c == ']')?;
    let mut members = pattern.get(begin..end)?;
    let mut found = false;
    while let Some(first) = members.first() {
        match (members.get(1), members.get(2)) {
            (Some('-'), Some(last)) => {
                found |= (*first..=*last).contains(&c);
                members = members.get(3..)?;
            }
            _ => {
                found |= *first == c;
                members = members.get(1..)?;
            }
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is(pattern: &str, text: &str) -> bool {
        matches(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
    }

    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("*.conf", "a.conf"),
            ("*", ""),
            ("a?c", "abc"),
            ("[a-c]x", "bx"),
            ("[!a]x", "bx"),
            ("\\*", "*"),
            ("*a*b*", "xaybz"),
            ("[]]", "]"),
            ("[-a]", "-"),
            ("a[", "a["),
        ] {
            assert!(is(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("*.conf", "a.con"), ("?", ""), ("[a-c]", "d"), ("a", "ab"), ("[^a]", "a")] {
            assert!(!is(pattern, text), "{pattern} {text}");
        }
        assert_eq!(braces("a{b,c{d,e}}f").unwrap(), ["abf", "acdf", "acef"]);
        assert_eq!(braces("a{b").unwrap(), ["a{b"]);
        assert!(braces(&"{a,b}".repeat(30)).is_err());
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[a\\[\\]*?\\\\{},-]{0,20}", text in "[a\\[\\]-]{0,20}") {
            let _ = is(&pattern, &text);
            let _ = braces(&pattern);
        }

        #[test]
        fn a_text_matches_itself_and_stars(text in "[a-z]{0,20}") {
            prop_assert!(is(&text, &text));
            let stars = format!("*{text}*");
            prop_assert!(is(&stars, &text));
        }
    }
}
