//! Command lines as the C library's `getopt_long` reads them: clusters of short options, arguments joined or apart,
//! unique prefixes of long options, options after operands, `--` as the end; with its messages.

/// Whether an option takes an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// It takes none.
    Nothing,
    /// It takes one.
    Argument,
}

/// A long option and the character it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Long {
    /// Without the dashes.
    pub name: &'static str,
    /// Whether it takes an argument.
    pub takes: Takes,
    /// What it stands for.
    pub code: char,
}

/// What a command takes.
#[derive(Clone, Copy, Debug)]
pub struct Grammar {
    /// Short options; one that takes an argument is followed by a colon.
    pub short: &'static str,
    /// Long options.
    pub long: &'static [Long],
}

/// One thing on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An option, with its argument where it takes one.
    Option(char, Option<String>),
    /// Not an option of the grammar: the message that the C library prints.
    Bad(String),
}

/// Options in their order, then operands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Options.
    pub items: Vec<Item>,
    /// Everything else.
    pub operands: Vec<String>,
}

/// Reads `args`, of which the first is the program's name (it begins the messages).
pub fn parse(args: &[String], grammar: &Grammar) -> Parsed {
    let program = args.first().map_or("", String::as_str);
    let mut parsed = Parsed::default();
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        if arg == "--" {
            parsed.operands.extend(rest.by_ref().cloned());
        } else if let Some(long) = arg.strip_prefix("--") {
            parsed.items.push(long_option(program, long, &mut || rest.next().cloned(), grammar));
        } else if let Some(cluster) = arg.strip_prefix('-').filter(|c| !c.is_empty()) {
            cluster_options(program, cluster, &mut || rest.next().cloned(), grammar, &mut parsed.items);
        } else {
            parsed.operands.push(arg.clone());
        }
    }
    parsed
}

fn long_option(
    program: &str,
    text: &str,
    next: &mut dyn FnMut() -> Option<String>,
    grammar: &Grammar,
) -> Item {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let candidates: Vec<_> = grammar.long.iter().filter(|l| l.name.starts_with(name)).collect();
    let found = match candidates.iter().find(|l| l.name == name) {
        Some(exact) => exact,
        None => match candidates.as_slice() {
            [one] => one,
            [] => return Item::Bad(format!("{program}: unrecognized option '--{text}'")),
            several => {
                let names: String = several.iter().map(|l| format!(" '--{}'", l.name)).collect();
                return Item::Bad(format!(
                    "{program}: option '--{text}' is ambiguous; possibilities:{names}"
                ));
            }
        },
    };
    match (found.takes, value) {
        (Takes::Nothing, None) => Item::Option(found.code, None),
        (Takes::Nothing, Some(_)) => {
            Item::Bad(format!("{program}: option '--{}' doesn't allow an argument", found.name))
        }
        (Takes::Argument, Some(value)) => Item::Option(found.code, Some(value)),
        (Takes::Argument, None) => match next() {
            Some(value) => Item::Option(found.code, Some(value)),
            None => Item::Bad(format!("{program}: option '--{}' requires an argument", found.name)),
        },
    }
}

fn cluster_options(
    program: &str,
    cluster: &str,
    next: &mut dyn FnMut() -> Option<String>,
    grammar: &Grammar,
    items: &mut Vec<Item>,
) {
    let mut chars = cluster.chars();
    while let Some(c) = chars.next() {
        let Some(at) = grammar.short.find(c).filter(|_| c != ':') else {
            items.push(Item::Bad(format!("{program}: invalid option -- '{c}'")));
            continue;
        };
        let after = grammar.short.get(at + c.len_utf8()..).unwrap_or_default();
        if !after.starts_with(':') {
            items.push(Item::Option(c, None));
            continue;
        }
        let joined = chars.as_str();
        let value = if joined.is_empty() { next() } else { Some(joined.to_owned()) };
        items.push(match value {
            Some(value) => Item::Option(c, Some(value)),
            None => Item::Bad(format!("{program}: option requires an argument -- '{c}'")),
        });
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAMMAR: Grammar = Grammar {
        short: "dt:F:",
        long: &[
            Long { name: "debug", takes: Takes::Nothing, code: 'd' },
            Long { name: "device-type", takes: Takes::Argument, code: 'Y' },
            Long { name: "tid", takes: Takes::Argument, code: 't' },
            Long { name: "params", takes: Takes::Argument, code: 'P' },
        ],
    };

    fn read(line: &str) -> Parsed {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(&args, &GRAMMAR)
    }

    fn option(c: char, value: &str) -> Item {
        Item::Option(c, (!value.is_empty()).then(|| value.to_owned()))
    }

    #[test]
    fn forms() {
        assert_eq!(
            read("p -dt5 -t 6 --tid=7 --ti 8").items,
            [option('d', ""), option('t', "5"), option('t', "6"), option('t', "7"), option('t', "8"),]
        );
        assert_eq!(read("p --param portal=x").items, [option('P', "portal=x")]);
        let mixed = read("p a -d b -- -t");
        assert_eq!(mixed.items, [option('d', "")]);
        assert_eq!(mixed.operands, ["a", "b", "-t"]);
        assert_eq!(read("p -").operands, ["-"]);
    }

    #[test]
    fn messages() {
        for (line, message) in [
            ("p --zork=1", "p: unrecognized option '--zork=1'"),
            ("p --d", "p: option '--d' is ambiguous; possibilities: '--debug' '--device-type'"),
            ("p --tid", "p: option '--tid' requires an argument"),
            ("p --debug=1", "p: option '--debug' doesn't allow an argument"),
            ("p -z", "p: invalid option -- 'z'"),
            ("p -:", "p: invalid option -- ':'"),
            ("p -F", "p: option requires an argument -- 'F'"),
        ] {
            assert_eq!(read(line).items, [Item::Bad(message.to_owned())], "{line}");
        }
    }
}
