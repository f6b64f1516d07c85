//! A stock kernel as a peer: its initiator, its file system on our LUN, its multipath, its reservations.
//!
//! [`image`] makes a kernel and an initramfs from Debian's packages, [`guest`] boots them in qemu (emulated if need be: this
//! shows that things are right, not how fast they are), [`scenarios`] says what happens. The guest's parts are the scripts in
//! `tests/interop/guest`.

mod cpio;
mod guest;
mod image;
mod relay;
mod scenarios;

use std::path::PathBuf;

use anyhow::Result;

use crate::cases::Cases;
use crate::target::{Kind, Programs};

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The implementation to test
    #[arg(long, value_enum, default_value = "ours")]
    pub target: Kind,
    /// Only make the guest's image
    #[arg(long)]
    pub prepare: bool,
    /// Where consoles and daemons' logs go
    #[arg(long, default_value = "build/logs/kernel")]
    pub logs: PathBuf,
    /// Only cases whose name contains one of these
    pub names: Vec<String>,
}

/// Runs the round; true if all is well.
pub fn main(args: &Args) -> Result<bool> {
    let image = image::prepare()?;
    if args.prepare {
        println!("{}\n{}", image.kernel.display(), image.initramfs.display());
        return Ok(true);
    }
    let scratch = tempfile::Builder::new().prefix("plinth-kernel-").tempdir()?;
    let programs = Programs::locate(args.target, scratch.path())?;
    let round =
        scenarios::Round { image, programs, scratch: scratch.path().to_owned(), logs: args.logs.clone() };
    let mut cases = Cases::new(&args.names);
    cases.run("recovery: mutual CHAP, both digests, ext4, the target killed and restarted", || {
        round.recovery()
    });
    cases.run("multipath: two portals, the loss of each in turn", || round.multipath());
    if args.target == Kind::Ours {
        cases.run("reservations: APTPL over a restart", || round.reservations());
    } else {
        println!("stock tgt keeps no persistent reservations over a restart: that case is ours alone");
    }
    Ok(cases.finish())
}
