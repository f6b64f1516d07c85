//! A guest: Debian's kernel in qemu, running one script, talked to over its serial console.
//!
//! The script says `peer-mark: TEXT` where the host is to do something, and `await WORD` where it waits for the host. The
//! guest's 10.0.2.2 is the host's 127.0.0.1.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::image::Image;
use crate::command::Guard;
use crate::target::tail;

const LIBRARY: &str = include_str!("../../guest/lib.sh");

/// A running guest.
pub struct Guest {
    qemu: Guard,
    lines: Receiver<String>,
    console: PathBuf,
    ends: Instant,
    status: Option<i32>,
}

impl Guest {
    /// Boots `image` and runs `script` after the library and the definitions in `values`. Its files go to `dir`; the guest
    /// is ended after `limit`.
    pub fn boot(
        image: &Image,
        dir: &Path,
        values: &[(&str, String)],
        script: &str,
        limit: Duration,
    ) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        let initramfs = dir.join("initramfs");
        write_initramfs(image, &initramfs, values, script)?;
        let console = dir.join("console.log");
        let mut command = Command::new("qemu-system-x86_64");
        // Emulation everywhere: nested virtualization is offered on machines where it does not work.
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            "640",
            "-display",
            "none",
            "-serial",
            "stdio",
        ]);
        command.args(["-monitor", "none", "-no-reboot", "-nodefaults"]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&initramfs);
        command.args([
            "-object",
            "rng-random,id=rng,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng",
        ]);
        command.args(["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0"]);
        command.args(["-append", "console=ttyS0 quiet panic=-1 net.ifnames=0 random.trust_cpu=on"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut qemu = Guard(command.spawn().context("cannot start qemu-system-x86_64")?);
        let (send, lines) = channel();
        let log = std::fs::File::create(&console)?;
        if let Some(out) = qemu.0.stdout.take() {
            read_lines(out, log.try_clone()?, send.clone());
        }
        if let Some(err) = qemu.0.stderr.take() {
            read_lines(err, log, send);
        }
        Ok(Self { qemu, lines, console, ends: Instant::now() + limit, status: None })
    }

    /// The next line of the console. None at its end.
    fn next(&mut self, until: Instant) -> Result<Option<String>> {
        let until = until.min(self.ends);
        match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some((_, why)) = line.split_once("peer-failed: ") {
                    bail!("in the guest: {why}\n{}", self.tail());
                }
                if let Some((_, status)) = line.split_once("peer-status: ") {
                    self.status = Some(status.trim().parse().context("the guest's status")?);
                }
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the guest said nothing more in time\n{}", self.tail()),
        }
    }

    fn tail(&self) -> String {
        format!("the end of its console:\n{}", tail(&self.console, 25))
    }

    /// Waits until the script says `peer-mark: mark`.
    pub fn mark(&mut self, mark: &str, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while let Some(line) = self.next(until).with_context(|| format!("waiting for mark {mark:?}"))? {
            if line.split_once("peer-mark: ").is_some_and(|(_, said)| said.trim() == mark) {
                return Ok(());
            }
        }
        bail!("the guest ended before mark {mark:?}\n{}", self.tail())
    }

    /// Tells the script `word`.
    pub fn say(&mut self, word: &str) -> Result<()> {
        let input = self.qemu.0.stdin.as_mut().context("the guest has no input")?;
        writeln!(input, "{word}")?;
        input.flush()?;
        Ok(())
    }

    /// Waits for the script's end and demands status 0.
    pub fn finish(mut self) -> Result<()> {
        let until = self.ends;
        while self.status.is_none() && self.next(until)?.is_some() {}
        match self.status {
            Some(0) => Ok(()),
            Some(status) => bail!("the guest's script ended with status {status}\n{}", self.tail()),
            None => bail!("the guest ended without a status\n{}", self.tail()),
        }
    }
}

fn read_lines(pipe: impl Read + Send + 'static, mut log: std::fs::File, send: Sender<String>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            line.retain(|b| *b != b'\r');
            // The log is for people; if it cannot be written, the lines still are judged.
            let _ = log.write_all(&line);
            if send.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
}

fn write_initramfs(image: &Image, to: &Path, values: &[(&str, String)], script: &str) -> Result<()> {
    std::fs::copy(&image.initramfs, to)
        .with_context(|| format!("cannot copy {}", image.initramfs.display()))?;
    let values: String = values.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
    let job = format!("{LIBRARY}\n{values}\n{script}");
    let mut archive = Archive::new(std::fs::File::options().append(true).open(to)?);
    archive.file(Path::new("job/script"), 0o755, job.as_bytes())?;
    archive.finish()?;
    Ok(())
}
