//! tgt-admin's options, as perl's Getopt::Long reads them: one dash or two, unique prefixes, `=` or the next word.

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Execute,
    Delete(String),
    Offline(String),
    Ready(String),
    Update(String),
    Show,
    Dump,
    Help,
    None,
}

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub action: Action,
    pub control_port: Option<String>,
    pub conf: Option<String>,
    pub ignore_errors: bool,
    pub force: bool,
    pub pretend: bool,
    pub verbose: bool,
}

const FLAGS: [&str; 8] = ["execute", "show", "ignore-errors", "force", "pretend", "dump", "verbose", "help"];
const VALUES: [&str; 6] = ["delete", "offline", "ready", "update", "conf", "control-port"];
const SHORT: [(&str, &str); 8] = [
    ("e", "execute"),
    ("s", "show"),
    ("c", "conf"),
    ("f", "force"),
    ("p", "pretend"),
    ("v", "verbose"),
    ("h", "help"),
    ("C", "control-port"),
];

impl Options {
    /// Reads the arguments after the program's name. The error is what perl prints.
    pub fn read(args: &[String]) -> Result<Self, String> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        let mut args_left = args.iter();
        while let Some(arg) = args_left.next() {
            if arg == "--" {
                break;
            }
            let Some(text) =
                arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|t| !t.is_empty())
            else {
                return Err(format!("Unknown argument: {arg}"));
            };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            let name = find(name)?;
            if FLAGS.contains(&name) {
                if value.is_some() {
                    return Err(format!("Option {name} does not take an argument"));
                }
                values.push((name, String::new()));
            } else {
                let value = value.or_else(|| args_left.next().cloned());
                values.push((name, value.ok_or_else(|| format!("Option {name} requires an argument"))?));
            }
        }
        Ok(Self::from_values(args.is_empty(), &values))
    }

    fn from_values(nothing: bool, values: &[(&'static str, String)]) -> Self {
        let get = |name: &str| values.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        let has = |name: &str| get(name).is_some();
        // tgt-admin's order of precedence.
        let action = if nothing || has("help") {
            Action::Help
        } else if has("show") {
            Action::Show
        } else if has("execute") {
            Action::Execute
        } else if let Some(what) = get("delete") {
            Action::Delete(what)
        } else if let Some(what) = get("update") {
            Action::Update(what)
        } else if has("dump") {
            Action::Dump
        } else if let Some(what) = get("offline") {
            Action::Offline(what)
        } else if let Some(what) = get("ready") {
            Action::Ready(what)
        } else {
            Action::None
        };
        Options {
            action,
            control_port: get("control-port"),
            conf: get("conf"),
            ignore_errors: has("ignore-errors"),
            force: has("force"),
            pretend: has("pretend"),
            verbose: has("verbose"),
        }
    }
}

fn find(name: &str) -> Result<&'static str, String> {
    if let Some((_, long)) = SHORT.iter().find(|(s, _)| *s == name) {
        return Ok(long);
    }
    let all = FLAGS.into_iter().chain(VALUES);
    let found: Vec<_> = all.filter(|n| n.starts_with(name)).collect();
    if let Some(exact) = found.iter().find(|n| **n == name) {
        return Ok(exact);
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(format!("Unknown option: {name}")),
        several => Err(format!("Option {name} is ambiguous ({})", several.join(", "))),
    }
}

/// What --help prints. `conf` is the configuration file that is read without -c.
pub(super) fn usage(conf: &str) -> String {
    format!(
        "Usage:
tgt-admin [OPTION]...
This tool configures tgt targets.

  -e, --execute			read {conf} and execute tgtadm commands
      --delete <value>		delete all or selected targets
				(see \"--delete help\" for more info)
      --offline <value>		put all or selected targets in offline state
				(see \"--offline help\" for more info)
      --ready <value>		put all or selected targets in ready state
				(see \"--ready help\" for more info)
      --update <value>		update configuration for all or selected targets
				(see \"--update help\" for more info)
  -s, --show			show all the targets
  -C, --control-port <NNNN>	specify the control port to connect to
  -c, --conf <conf file>	specify an alternative configuration file
      --ignore-errors		continue even if tgtadm exits with non-zero code
  -f, --force			force some operations even if the target is in use
  -p, --pretend			only print tgtadm options
      --dump			dump current tgtd configuration (note: it has
				passwords in it)
  -v, --verbose			increase verbosity (show tgtadm commands)
  -h, --help			show this help

"
    )
}

/// What `--delete help` and the like print.
pub(super) fn help_of(action: &str) -> String {
    let note = match action {
        "delete" => {
            "\t\t\t\tThe target will be deleted only if it's not used
\t\t\t\t(no initiator is connected to it).
\t\t\t\tIf you want to delete targets which are in use,
\t\t\t\tyou have to add \"--force\" flag.\n"
        }
        "update" => {
            "\t\t\t\tOnly what differs is changed; sessions of other units
\t\t\t\tand targets go on. If a target is in use, and a unit
\t\t\t\tof it or the target itself has to go for the update,
\t\t\t\tyou have to add \"--force\" flag.\n"
        }
        _ => "",
    };
    format!(
        "      --{action} <value>\t\t{action} all or selected targets
{note}
Example usage:
      --{action} help\t      - display this help
      --{action} ALL\t      - {action} all targets
      --{action} tid=4\t      - {action} target 4 (target with tid 4)
      --{action} iqn.2008-08.com.example:some.target - {action} this target

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn forms() {
        let o = read("-C 5 --conf=/x -e -p --ignore -v -f").unwrap();
        assert_eq!(o.action, Action::Execute);
        assert_eq!((o.control_port.as_deref(), o.conf.as_deref()), (Some("5"), Some("/x")));
        assert!(o.pretend && o.ignore_errors && o.verbose && o.force);
        assert_eq!(read("--upd ALL").unwrap().action, Action::Update("ALL".into()));
        assert_eq!(read("-update tid=3").unwrap().action, Action::Update("tid=3".into()));
        assert_eq!(read("").unwrap().action, Action::Help);
        assert_eq!(read("-v").unwrap().action, Action::None);
        assert_eq!(read("--zork"), Err("Unknown option: zork".into()));
        assert_eq!(read("--d x"), Err("Option d is ambiguous (dump, delete)".into()));
        assert_eq!(read("--delete"), Err("Option delete requires an argument".into()));
        assert_eq!(read("zork"), Err("Unknown argument: zork".into()));
    }
}
