//! The one binary: every command under its own name (by `argv[0]`, see `plinth links`) or as the first argument.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod demo;
mod links;
mod tgtd;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

/// A command: its name, what it does in a line, and how it is run with its name and the arguments that follow it.
struct Command {
    name: &'static str,
    about: &'static str,
    /// Has a link of its own, as the tool that it stands for.
    linked: bool,
    run: fn(&[OsString]) -> i32,
}

/// Every command that there is.
static COMMANDS: [Command; 6] = [
    Command { name: "tgtd", about: "the iSCSI target daemon", linked: true, run: tgtd::main },
    Command { name: "tgtadm", about: "administers a running tgtd", linked: true, run: target_ctl::tgtadm },
    Command {
        name: "tgt-admin",
        about: "brings tgtd to what targets.conf says",
        linked: true,
        run: target_ctl::tgt_admin,
    },
    Command { name: "tgtimg", about: "makes and shows image files", linked: true, run: target_ctl::tgtimg },
    Command {
        name: "demo",
        about: "a target with a disk, in a folder of its own",
        linked: false,
        run: demo::main,
    },
    Command {
        name: "links",
        about: "makes a link for each command in a directory",
        linked: false,
        run: links::main,
    },
];

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let own = arguments.first().map(|a| file_name(a)).unwrap_or_default();
    let name = match find(&own).filter(|c| c.linked) {
        Some(_) => own,
        None if arguments.len() > 1 => {
            arguments.remove(0);
            arguments.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default()
        }
        None => "--help".into(),
    };
    let status = match (find(&name), name.as_str()) {
        (Some(command), _) => (command.run)(&arguments),
        (None, "--help" | "-h" | "help") => {
            print!("{}", help());
            0
        }
        (None, "--version" | "-V") => {
            println!("plinth {}", env!("CARGO_PKG_VERSION"));
            0
        }
        (None, unknown) => {
            eprintln!("plinth: there is no command '{unknown}'\n\n{}", help());
            2
        }
    };
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|c| c.name == name)
}

fn file_name(path: &OsStr) -> String {
    Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn help() -> String {
    let mut text = String::from("Usage: plinth COMMAND [ARGUMENT...]\n\nCommands:\n");
    for c in &COMMANDS {
        text.push_str(&format!("  {:<10} {}\n", c.name, c.about));
    }
    text.push_str("\nEach takes --help. PLINTH_ROOT=DIR puts DIR before every /etc, /var and /run path.\n");
    text
}

/// The root that the environment names.
fn root() -> base::Root {
    std::env::var_os(base::root::ROOT_VARIABLE).map_or_else(base::Root::default, base::Root::new)
}
