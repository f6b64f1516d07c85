//! Where a command prints, and what it knows of its surroundings.

use std::ffi::OsString;
use std::io::Write;

use base::Root;

/// Output streams and environment of a command; tests bring their own.
pub struct Terminal<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// The configuration root.
    pub root: Root,
    /// The value of [`target_daemon::mgmt::socket::PATH_VARIABLE`].
    pub socket_variable: Option<String>,
}

/// Runs `command` on the process's own streams and environment. The first of `args` is what the command was called by: its
/// messages begin with the plain `name` all the same. Output that nobody reads any more ends the command's printing, not
/// its work.
pub(crate) fn with(name: &str, args: &[OsString], command: fn(&[String], &mut Terminal<'_>) -> i32) -> i32 {
    let rest = args.iter().skip(1).map(|a| a.to_string_lossy().into_owned());
    let args: Vec<String> = std::iter::once(name.to_owned()).chain(rest).collect();
    let root = std::env::var_os(base::root::ROOT_VARIABLE).map_or_else(Root::default, Root::new);
    let mut out = std::io::stdout().lock();
    let mut err = std::io::stderr().lock();
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        root,
        socket_variable: std::env::var(target_daemon::mgmt::socket::PATH_VARIABLE).ok(),
    };
    let code = command(&args, &mut terminal);
    let _ = terminal.out.flush();
    code
}

impl Terminal<'_> {
    /// Prints to standard output.
    pub fn print(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
    }

    /// Prints to standard error.
    pub fn complain(&mut self, text: &str) {
        let _ = self.out.flush();
        let _ = self.err.write_all(text.as_bytes());
    }
}
