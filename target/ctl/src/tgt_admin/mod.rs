//! `tgt-admin`: brings a daemon to what targets.conf says, and back.
//!
//! The daemon may be one of ours or a stock tgtd. Nothing is asked of it before the whole configuration was read and
//! checked, the devices were looked at, and (where the daemon tells its state) all steps were tried on a copy. An update
//! of a daemon of ours is a difference: what is equal is not touched. What fails is taken back: of `--execute` the
//! target that failed, of `--update` everything.

mod add;
mod current;
mod devices;
mod diff;
mod dump;
mod options;
mod plan;
mod step;
#[cfg(test)]
mod tests;

use std::io::IsTerminal;
use std::path::PathBuf;

use target_daemon::config::{Loaded, SystemFiles, load};
use target_daemon::control::error::TgtError;
use target_daemon::mgmt::socket::Answer;
use target_daemon::mgmt::{Mode, Op, Request};

use crate::Terminal;
use crate::tgtadm::{EINVAL, socket_path};
use current::{Current, Failure, Link};
use options::{Action, Options, help_of, usage};
use plan::{Group, Plan, Planner, Scope, removal};
use step::{Step, Words};

const CONF: &str = "/etc/tgt/targets.conf";

/// Runs the command line `args`.
pub fn run(args: &[String], terminal: &mut Terminal<'_>) -> i32 {
    let conf = terminal.root.join(CONF);
    let options = match Options::read(args.get(1..).unwrap_or_default()) {
        Ok(options) => options,
        Err(text) => {
            terminal.complain(&format!("{text}\n"));
            return 1;
        }
    };
    let quick = match &options.action {
        Action::Help => Some(usage(&conf.display().to_string())),
        Action::None => Some("No action specified.\n".to_owned()),
        Action::Delete(what) if what == "help" => Some(help_of("delete")),
        Action::Offline(what) if what == "help" => Some(help_of("offline")),
        Action::Ready(what) if what == "help" => Some(help_of("ready")),
        Action::Update(what) if what == "help" => Some(help_of("update")),
        _ => None,
    };
    if let Some(text) = quick {
        terminal.print(&text);
        return 0;
    }
    match Run::prepare(options, conf, terminal).and_then(|mut run| run.act()) {
        Ok(code) => code,
        Err(stop) => stop.print(terminal),
    }
}

/// The command ends: what to print where, and the exit code.
#[derive(Debug)]
struct Stop {
    out: String,
    err: String,
    code: i32,
}

impl Stop {
    fn err(text: impl Into<String>, code: i32) -> Self {
        Stop { out: String::new(), err: text.into(), code }
    }

    /// tgt-admin prints its own errors to standard output.
    fn out(text: impl Into<String>, code: i32) -> Self {
        Stop { out: text.into(), err: String::new(), code }
    }

    fn print(self, terminal: &mut Terminal<'_>) -> i32 {
        terminal.print(&self.out);
        if !self.err.is_empty() {
            terminal.complain(&format!("{}\n", self.err));
        }
        self.code
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::err(failure.text, failure.code)
    }
}

struct Run<'a, 'b> {
    options: Options,
    words: Words,
    link: Link,
    loaded: Option<Loaded>,
    ignore_errors: bool,
    terminal: &'a mut Terminal<'b>,
}

impl<'a, 'b> Run<'a, 'b> {
    /// Reads the configuration where it is needed; it may name the control port.
    fn prepare(options: Options, conf: PathBuf, terminal: &'a mut Terminal<'b>) -> Result<Self, Stop> {
        let needs_conf = matches!(options.action, Action::Execute | Action::Update(_));
        let loaded = needs_conf.then(|| Self::load(&options, conf, terminal)).transpose()?;
        let in_conf = loaded.as_ref().and_then(|l| l.conf.control_port);
        let given = options.control_port.as_deref().filter(|p| *p != "0");
        let control_port = match (given, in_conf) {
            (Some(_), Some(_)) => {
                let text = "Multiple control-port definitions are not allowed!\n\
                            Check your config file for errors.\n";
                return Err(Stop::out(text, 1));
            }
            (Some(port), None) => {
                port.parse().map_err(|_| Stop::err(format!("-C {port}: a number is right"), EINVAL))?
            }
            (None, port) => port.unwrap_or(0),
        };
        let socket = socket_path(terminal, control_port);
        let ignore_errors = options.ignore_errors || loaded.as_ref().is_some_and(|l| l.conf.ignore_errors);
        let words = Words { control_port: control_port.to_string() };
        Ok(Run { options, words, link: Link { socket }, loaded, ignore_errors, terminal })
    }

    fn load(options: &Options, default: PathBuf, terminal: &mut Terminal<'_>) -> Result<Loaded, Stop> {
        let path = match &options.conf {
            Some(path) => PathBuf::from(path),
            None => default,
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        if !path.exists() {
            let shown = options.conf.clone().unwrap_or_else(|| path.display().to_string());
            return Err(Stop::err(format!("Config file {shown} not found. Exiting..."), 2));
        }
        if let Some(shown) = options.conf.as_ref().filter(|_| options.verbose || options.pretend) {
            terminal.print(&format!("# Using {shown} as configuration file\n\n"));
        }
        let loaded =
            load(&path, &SystemFiles(terminal.root.clone())).map_err(|e| Stop::err(e.to_string(), EINVAL))?;
        for warning in &loaded.warnings {
            terminal.complain(&format!("{warning}\n"));
        }
        Ok(loaded)
    }

    fn act(&mut self) -> Result<i32, Stop> {
        match self.options.action.clone() {
            Action::Show => self.show(),
            Action::Dump => self.dump(),
            Action::Execute => self.execute(),
            Action::Update(what) => self.update(&what),
            Action::Delete(what) => self.delete(&what),
            Action::Offline(what) => self.state("offline", &what),
            Action::Ready(what) => self.state("ready", &what),
            Action::Help | Action::None => Ok(0),
        }
    }

    fn show(&mut self) -> Result<i32, Stop> {
        let line = format!("tgtadm -C {} --op show --mode target", self.words.control_port);
        if self.options.pretend {
            self.terminal.print(&format!("{line}\n"));
            return Ok(0);
        }
        match self.link.ask(&Request::new(Mode::Target, Op::Show)) {
            Ok(Answer::Text(text)) => {
                self.terminal.print(&text);
                Ok(0)
            }
            Ok(Answer::Refused { code, .. }) => Err(self.failed(&line, &error_text(code), EINVAL)),
            Err(failure) => Err(self.failed(&line, &failure.text, failure.code)),
        }
    }

    fn failed(&self, line: &str, why: &str, code: i32) -> Stop {
        Stop { out: format!("Command:\n\t{line}\nexited with code: {code}.\n"), err: why.to_owned(), code }
    }

    fn dump(&mut self) -> Result<i32, Stop> {
        let current = Current::get(&self.link)?;
        let stdout = std::io::stdout();
        if !stdout.is_terminal()
            && let Ok(stat) = rustix::fs::fstat(&stdout)
            && rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file()
        {
            // There are passwords in it.
            rustix::fs::fchmod(&stdout, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
                .map_err(|e| Stop::err(format!("tgt-admin: cannot make the dump private: {e}"), 1))?;
        }
        self.terminal.print(&dump::dump(&current));
        Ok(0)
    }

    fn plan(&self, current: &Current, make: impl FnOnce(&Planner<'_>) -> Plan) -> Plan {
        let Some(loaded) = &self.loaded else { return Plan::default() };
        make(&Planner { words: &self.words, conf: &loaded.conf, current, force: self.options.force })
    }

    /// Targets that have problems are not made, the others are; the exit code tells.
    fn execute(&mut self) -> Result<i32, Stop> {
        let current = Current::get(&self.link)?;
        let plan = self.plan(&current, |planner| planner.execute());
        let mut code = self.report(&plan.problems);
        for group in &plan.groups {
            let Err(stop) = self.run_group(group) else { continue };
            code = if code > 1 { code } else { stop.code };
            stop.print(self.terminal);
            let Some((tid, name)) = &group.target else { return Ok(code) };
            self.take_back_target(*tid, name);
        }
        Ok(code)
    }

    fn report(&mut self, problems: &[String]) -> i32 {
        for problem in problems {
            self.terminal.complain(&format!("{problem}\n"));
        }
        i32::from(!problems.is_empty())
    }

    fn run_group(&mut self, group: &Group) -> Result<(), Stop> {
        group.steps.iter().try_for_each(|step| self.run_step(step))
    }

    fn run_step(&mut self, step: &Step) -> Result<(), Stop> {
        if self.options.pretend || self.options.verbose {
            self.terminal.print(&format!("{}\n", step.line));
        }
        let Some(request) = step.request.as_ref().filter(|_| !self.options.pretend) else { return Ok(()) };
        if let Some((path, bytes)) = &step.create {
            devices::create(path, *bytes).map_err(|why| {
                let place = step.at.as_ref().map_or(String::new(), |at| format!("{at}: "));
                Stop::err(format!("{place}{why}"), 1)
            })?;
        }
        let (why, code) = match self.link.ask(request) {
            Ok(Answer::Text(text)) => {
                self.terminal.print(&text);
                return Ok(());
            }
            Ok(Answer::Refused { code, detail }) => {
                let detail = if detail.is_empty() { String::new() } else { format!("\ntgtadm: {detail}") };
                (format!("{}{detail}", error_text(code)), EINVAL)
            }
            Err(failure) => (failure.text, failure.code),
        };
        let place = step.at.as_ref().map_or(String::new(), |at| format!("\n{at} asks for this"));
        let stop = self.failed(&step.line, &format!("{why}{place}"), code);
        if self.ignore_errors {
            self.terminal.complain(&format!("{}\n", stop.err));
            return Ok(());
        }
        Err(stop)
    }

    fn take_back_target(&mut self, tid: i32, name: &str) {
        let step = self.words.delete_target(tid, true);
        let taken_back = match step.request.as_ref().map(|r| self.link.ask(r)) {
            Some(Ok(Answer::Text(_))) => format!("{name} was taken back"),
            Some(Ok(Answer::Refused { code, .. })) if code == TgtError::NoTarget.code() => {
                format!("{name} was not made")
            }
            _ => format!("{name} could not be taken back; it may be there in part"),
        };
        self.terminal.complain(&format!("tgt-admin: {taken_back}\n"));
    }

    /// All or nothing.
    fn update(&mut self, what: &str) -> Result<i32, Stop> {
        let current = Current::get(&self.link)?;
        let scope = self.scope(what, &current)?;
        let plan = self.plan(&current, |planner| planner.update(&scope));
        let go_on = self.ignore_errors && !current.exact;
        if !plan.problems.is_empty() && !go_on {
            let code = self.report(&plan.problems);
            if self.options.pretend {
                plan.groups.iter().try_for_each(|group| self.run_group(group))?;
            } else {
                self.terminal.complain("tgt-admin: nothing was changed\n");
            }
            return Ok(code);
        }
        for group in &plan.groups {
            if let Err(stop) = self.run_group(group) {
                let code = stop.print(self.terminal);
                if current.exact {
                    self.take_back(&current);
                } else if let Some((tid, name)) = &group.target {
                    self.take_back_target(*tid, name);
                }
                return Ok(code);
            }
        }
        Ok(0)
    }

    fn scope(&self, what: &str, current: &Current) -> Result<Scope, Stop> {
        if what == "ALL" {
            return Ok(Scope::All);
        }
        if let Some(tid) = what.strip_prefix("tid=") {
            let found = current.saved.targets.iter().find(|t| t.tid.to_string() == tid);
            let none = || Stop::out(format!("There is no target with tid {tid}, can't continue!\n"), 1);
            return found.map(|t| Scope::Name(t.name.clone())).ok_or_else(none);
        }
        let in_conf = self.loaded.as_ref().is_some_and(|l| l.conf.targets.contains_key(what));
        if !in_conf && current.saved.target(what).is_none() {
            let text = format!(
                "Target {what} is currently not configured\nand does not exist in the config file - can't continue!\n"
            );
            return Err(Stop::out(text, 1));
        }
        Ok(Scope::Name(what.to_owned()))
    }

    /// Back to `before`, from wherever the daemon is now.
    fn take_back(&mut self, before: &Current) {
        let result = Current::get(&self.link).and_then(|now| {
            let back = diff::diff(&self.words, &now.saved, &before.saved);
            for request in back.steps.iter().filter_map(|s| s.request.as_ref()) {
                if let Answer::Refused { code, detail } = self.link.ask(request)? {
                    return Err(Failure { text: format!("{} {detail}", error_text(code)), code: EINVAL });
                }
            }
            Ok(())
        });
        let text = match result {
            Ok(()) => "everything is as it was before".to_owned(),
            Err(failure) => format!("not everything could be taken back: {}", failure.text),
        };
        self.terminal.complain(&format!("tgt-admin: {text}\n"));
    }

    fn delete(&mut self, what: &str) -> Result<i32, Stop> {
        let current = Current::get(&self.link)?;
        let chosen: Vec<_> = match what.strip_prefix("tid=") {
            _ if what == "ALL" => current.saved.targets.iter().collect(),
            Some(tid) => current.saved.targets.iter().filter(|t| t.tid.to_string() == tid).collect(),
            None => current.saved.target(what).into_iter().collect(),
        };
        if chosen.is_empty() && what != "ALL" {
            let whom = what.strip_prefix("tid=").map_or(format!("name {what}"), |tid| format!("tid {tid}"));
            self.run_step(&Step::remark(format!("# Target with {whom} does not exist!")))?;
            return Ok(0);
        }
        let mut problems = Vec::new();
        for target in chosen {
            let steps = removal(&self.words, &current, target, self.options.force, &mut problems);
            steps.iter().try_for_each(|step| self.run_step(step))?;
        }
        Ok(self.report(&problems))
    }

    fn state(&mut self, state: &str, what: &str) -> Result<i32, Stop> {
        let current = Current::get(&self.link)?;
        let steps: Vec<_> = match what.strip_prefix("tid=") {
            _ if what == "ALL" => {
                current.saved.targets.iter().map(|t| self.words.target_state(t.tid, None, state)).collect()
            }
            Some(tid) => {
                let number =
                    tid.parse().map_err(|_| Stop::err(format!("tid={tid}: a number is right"), EINVAL))?;
                vec![self.words.target_state(number, None, state)]
            }
            None => match current.saved.target(what) {
                Some(t) => vec![self.words.target_state(t.tid, Some(what), state)],
                None => {
                    let text = format!("There is no target with name \"{what}\", can't {state} it!\n");
                    return Err(Stop::out(text, 1));
                }
            },
        };
        steps.iter().try_for_each(|step| self.run_step(step))?;
        Ok(0)
    }
}

fn error_text(code: u32) -> String {
    let text =
        TgtError::from_code(code).map_or_else(|| "(unknown tgtadm_errno)".to_owned(), |e| e.to_string());
    format!("tgtadm: {text}")
}
