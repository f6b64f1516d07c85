//! `qemu-img` through qemu's iSCSI driver: convert to a LUN and back, compare, and see that compare can fail.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cases::Cases;
use crate::command::{Output, Run};
use crate::packages;
use crate::target::{Kind, Lun, Options, Programs, Target, sparse_file};

const IQN: &str = "iqn.2026-11.org.plinth.qemu-img:1";
const SIZE_BYTES: u64 = 64 << 20;
const BLOCK_DRIVER: &str = "/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so";

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The implementation to test
    #[arg(long, value_enum, default_value = "ours")]
    pub target: Kind,
    /// Only cases whose name contains one of these
    pub names: Vec<String>,
}

/// Runs the round; true if all is well.
pub fn main(args: &Args) -> Result<bool> {
    let driver = if cfg!(target_arch = "x86_64") { BLOCK_DRIVER } else { "qemu-img" };
    packages::require(&[("qemu-utils", "qemu-img"), ("qemu-block-extra", driver)])?;
    let scratch = tempfile::Builder::new().prefix("plinth-qemu-img-").tempdir()?;
    let round = Round::start(args.target, scratch.path())?;
    let mut cases = Cases::new(&args.names);
    for (number, name) in UNITS {
        cases.run(&format!("info: {name}"), || round.info(number));
        cases.run(&format!("convert to, compare, convert back, compare: {name}"), || {
            round.there_and_back(number)
        });
        cases.run(&format!("compare finds one changed byte: {name}"), || round.difference(number));
    }
    cases.run("convert a qcow2 image to a LUN", || round.qcow2());
    Ok(cases.finish())
}

const UNITS: [(u64, &str); 3] = [(1, "plain"), (2, "thin"), (3, "4096-byte blocks")];

struct Round {
    dir: PathBuf,
    source: PathBuf,
    target: Target,
}

impl Round {
    fn start(kind: Kind, dir: &Path) -> Result<Self> {
        let programs = Programs::locate(kind, dir)?;
        let mut target = Target::start(&programs, &dir.join("target"), Options::loopback(1)?)?;
        target.add_target(1, IQN)?;
        for (number, _) in UNITS {
            let path = dir.join(format!("lun{number}.img"));
            sparse_file(&path, SIZE_BYTES)?;
            let params = if number == 2 { "thin_provisioning=1".to_owned() } else { String::new() };
            target.add_lun(1, &Lun { number, path, block_size: (number == 3).then_some(4096), params })?;
        }
        let source = dir.join("source.raw");
        write_pattern(&source)?;
        Ok(Self { dir: dir.to_owned(), source, target })
    }

    fn unit(&self, number: u64) -> String {
        self.target.url(0, IQN, number)
    }

    fn info(&self, number: u64) -> Result<()> {
        let output = qemu_img(&["info", "-f", "raw", &self.unit(number)])?;
        let wanted = format!("({SIZE_BYTES} bytes)");
        ensure!(output.ok() && output.stdout.contains(&wanted), "no {wanted}: {}", output.text());
        Ok(())
    }

    fn there_and_back(&self, number: u64) -> Result<()> {
        let unit = self.unit(number);
        let source = self.source.display().to_string();
        let back = self.dir.join(format!("back{number}.raw")).display().to_string();
        good(&qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", &source, &unit])?)?;
        good(&qemu_img(&["compare", "-f", "raw", "-F", "raw", &source, &unit])?)?;
        good(&qemu_img(&["convert", "-f", "raw", "-O", "raw", &unit, &back])?)?;
        ensure!(std::fs::read(&source)? == std::fs::read(&back)?, "what came back is not what was written");
        let file = std::fs::read(self.dir.join(format!("lun{number}.img")))?;
        ensure!(std::fs::read(&source)? == file, "the file behind the unit is not what was written");
        Ok(())
    }

    fn difference(&self, number: u64) -> Result<()> {
        let other = self.dir.join(format!("other{number}.raw"));
        std::fs::copy(&self.source, &other)?;
        let mut file = std::fs::File::options().write(true).open(&other)?;
        file.seek(SeekFrom::Start(SIZE_BYTES / 2 + 12345))?;
        file.write_all(b"!")?;
        let source = self.source.display().to_string();
        let unit = self.unit(number);
        good(&qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", &source, &unit])?)?;
        let output = qemu_img(&["compare", "-f", "raw", "-F", "raw", &other.display().to_string(), &unit])?;
        ensure!(output.code == Some(1), "compare ended with {:?}, not 1: {}", output.code, output.text());
        ensure!(output.stdout.contains("Content mismatch"), "{}", output.text());
        Ok(())
    }

    fn qcow2(&self) -> Result<()> {
        let image = self.dir.join("source.qcow2").display().to_string();
        let (source, unit) = (self.source.display().to_string(), self.unit(2));
        good(&qemu_img(&["convert", "-f", "raw", "-O", "qcow2", &source, &image])?)?;
        good(&qemu_img(&["convert", "-n", "-f", "qcow2", "-O", "raw", &image, &unit])?)?;
        good(&qemu_img(&["compare", "-f", "qcow2", "-F", "raw", &image, &unit])?)
    }
}

fn qemu_img(args: &[&str]) -> Result<Output> {
    Run::new("qemu-img").args(args).limit(Duration::from_secs(60)).output()
}

fn good(output: &Output) -> Result<()> {
    ensure!(output.ok(), "exit code {:?}: {}", output.code, output.text());
    Ok(())
}

/// Data that differs from block to block, with holes between, so that both writing and zeroing are seen.
fn write_pattern(path: &Path) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.set_len(SIZE_BYTES)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in (0..SIZE_BYTES >> 20).filter(|c| c % 3 != 1) {
        let mut bytes = Vec::with_capacity(1 << 20);
        while bytes.len() < 1 << 20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend_from_slice(&(state >> 13).to_le_bytes());
        }
        file.seek(SeekFrom::Start(chunk << 20))?;
        file.write_all(&bytes)?;
    }
    Ok(())
}
