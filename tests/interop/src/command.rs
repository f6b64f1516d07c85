//! One external command: bounded in time, its output kept, never reading our standard input.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code, or None if a signal (or our time limit) ended it.
    pub code: Option<i32>,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended by itself with status 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Both outputs, for messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A command to run.
pub struct Run {
    command: Command,
    shown: String,
    limit: Duration,
}

impl Run {
    /// `program` with a limit of 30 seconds.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let shown = program.as_ref().to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command, shown, limit: Duration::from_secs(30) }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// More arguments.
    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, |run, arg| run.arg(arg))
    }

    /// One environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Where it runs.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// How long it may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end. An error means that it could not be started, not that it failed.
    pub fn output(mut self) -> Result<Output> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guard(self.command.spawn().with_context(|| format!("cannot start: {}", self.shown))?);
        let stdout = child.0.stdout.take().map(drain);
        let stderr = child.0.stderr.take().map(drain);
        let (status, timed_out) = child.wait(self.limit)?;
        let text = |reader: Option<std::thread::JoinHandle<Vec<u8>>>| {
            let bytes = reader.map(|r| r.join().unwrap_or_default()).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Ok(Output { code: status.code(), timed_out, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs it to its end and demands status 0.
    pub fn success(self) -> Result<Output> {
        let (shown, limit) = (self.shown.clone(), self.limit);
        let output = self.output()?;
        if output.timed_out {
            bail!("{shown}: not done after {} s\n{}", limit.as_secs(), output.text());
        }
        if !output.ok() {
            bail!("{shown}: exit code {:?}\n{}", output.code, output.text());
        }
        Ok(output)
    }

    /// Runs it with both outputs going to the file at `log`; true in the second place if the time limit ended it.
    pub fn to_log(mut self, log: &Path) -> Result<(Option<i32>, bool)> {
        let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        self.command.stdout(file.try_clone()?).stderr(file);
        let mut child = Guard(self.command.spawn().with_context(|| format!("cannot start: {}", self.shown))?);
        let (status, timed_out) = child.wait(self.limit)?;
        Ok((status.code(), timed_out))
    }

    /// Starts it in the background, with both outputs appended to the file at `log`.
    pub fn background(mut self, log: &Path) -> Result<Guard> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        self.command.stdout(file.try_clone()?).stderr(file);
        Ok(Guard(self.command.spawn().with_context(|| format!("cannot start: {}", self.shown))?))
    }
}

/// Reads a pipe to its end on a thread of its own, so that the child never waits for us.
fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if pipe.read_to_end(&mut bytes).is_err() {
            bytes.extend_from_slice(b"\n(the output could not be read to its end)\n");
        }
        bytes
    })
}

/// A running child; dropped, it is killed and waited for.
pub struct Guard(pub Child);

impl Guard {
    /// Waits for its end, and kills it when `limit` is over.
    pub fn wait(&mut self, limit: Duration) -> Result<(ExitStatus, bool)> {
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok((status, false));
            }
            if Instant::now() >= until {
                self.0.kill()?;
                return Ok((self.0.wait()?, true));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.runs() {
            // Nothing to do about an error: the process is gone already, or not ours to end.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// The program of that name in the usual folders, also those that only root has in its path.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
    std::env::split_paths(&path)
        .chain(system.iter().map(Into::into))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Calls `check` every 20 ms until it gives something, for at most `limit`.
pub fn until<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = check()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what}: not so after {:.1} s", limit.as_secs_f32());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_kept() {
        let output =
            Run::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]).output().expect("sh starts");
        assert_eq!(
            (output.code, output.stdout.as_str(), output.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
        assert!(!output.ok() && !output.timed_out);
    }

    #[test]
    fn the_limit_ends_a_command() {
        let before = Instant::now();
        let output =
            Run::new("sleep").arg("20").limit(Duration::from_millis(100)).output().expect("sleep starts");
        assert!(output.timed_out && output.code.is_none());
        assert!(before.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = Run::new("/nonexistent/program").output().expect_err("must not start");
        assert!(format!("{error:#}").contains("/nonexistent/program"));
    }
}
