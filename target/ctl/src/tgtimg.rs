//! `tgtimg`: image files for disks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, fallocate};

use crate::getopt::{Grammar, Item, Long, Takes, parse};
use crate::tgtadm::EINVAL;
use crate::{Terminal, version_text};

const fn long(name: &'static str, code: char) -> Long {
    Long { name, takes: Takes::Argument, code }
}

const GRAMMAR: Grammar = Grammar {
    short: "ho:Y:b:s:t:f:",
    long: &[
        Long { name: "help", takes: Takes::Nothing, code: 'h' },
        long("op", 'o'),
        long("device-type", 'Y'),
        long("barcode", 'b'),
        long("size", 's'),
        long("type", 't'),
        long("file", 'f'),
        Long { name: "thin-provisioning", takes: Takes::Nothing, code: 'T' },
    ],
};

const MEGABYTE: u64 = 1 << 20;

/// Why the command ends early: what to print, whether to point at --help, exit code. tgtimg prints what is wrong with a
/// size (exit code 3) to standard output.
struct Stop(String, bool, i32);

const SIZE: i32 = 3;

impl Stop {
    fn misuse(text: impl AsRef<str>) -> Self {
        Stop(format!("tgtimg: {}", text.as_ref()), true, EINVAL)
    }

    fn failure(what: &str, error: &io::Error, code: i32) -> Self {
        let text = std::io::Error::from_raw_os_error(error.raw_os_error().unwrap_or_default()).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        Stop(format!("{what}: {text}"), false, code)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    New,
    Show,
    Resize,
}

#[derive(Default)]
struct Options {
    op: Option<Op>,
    device_type: String,
    size: Option<String>,
    medium: Option<String>,
    file: Option<String>,
    thin: bool,
    help: bool,
}

/// Runs the command line `args`.
pub fn run(args: &[String], terminal: &mut Terminal<'_>) -> i32 {
    let done = read(args).and_then(|options| if options.help { Ok(help()) } else { execute(&options) });
    match done {
        Ok(text) => {
            terminal.print(&text);
            0
        }
        Err(Stop(text, _, SIZE)) => {
            terminal.print(&format!("{text}\n"));
            SIZE
        }
        Err(Stop(text, hint, code)) => {
            terminal.complain(&format!("{text}\n"));
            if hint {
                terminal.complain("Try `tgtimg --help' for more information.\n");
            }
            code
        }
    }
}

fn read(args: &[String]) -> Result<Options, Stop> {
    let parsed = parse(args, &GRAMMAR);
    let mut options = Options { device_type: "tape".to_owned(), ..Options::default() };
    for item in parsed.items {
        match item {
            Item::Bad(message) => return Err(Stop(message, true, EINVAL)),
            Item::Option(c, argument) => {
                let argument = argument.unwrap_or_default();
                match c {
                    'o' => options.op = Some(parse_op(&argument)?),
                    'Y' => match argument.as_str() {
                        "tape" | "cd" | "disk" => options.device_type = argument,
                        _ => {
                            return Err(Stop(
                                format!("tgtimg: unknown target type: {argument}"),
                                false,
                                EINVAL,
                            ));
                        }
                    },
                    's' => options.size = Some(argument),
                    't' => options.medium = Some(argument),
                    'f' => options.file = Some(argument),
                    'T' => options.thin = true,
                    'h' => {
                        options.help = true;
                        return Ok(options);
                    }
                    _ => {}
                }
            }
        }
    }
    match parsed.operands.first() {
        Some(operand) => Err(Stop::misuse(format!("unrecognized option '{operand}'"))),
        None => Ok(options),
    }
}

fn parse_op(text: &str) -> Result<Op, Stop> {
    match text {
        "new" => Ok(Op::New),
        "show" => Ok(Op::Show),
        "resize" => Ok(Op::Resize),
        _ => Err(Stop(format!("tgtimg: unknown operation: {text}"), false, 1)),
    }
}

fn execute(options: &Options) -> Result<String, Stop> {
    let op = options.op.ok_or_else(|| Stop::misuse("specify the operation type"))?;
    let file = options.file.as_deref().ok_or_else(|| Stop::misuse("specify a newly created file"))?;
    if options.device_type != "disk" {
        let text = format!("there are no {} images here; say --device-type disk", options.device_type);
        return Err(Stop::misuse(text));
    }
    if op == Op::Show {
        return show(file);
    }
    if op == Op::New {
        let medium = options.medium.as_deref().ok_or_else(|| Stop::misuse("Missing media type: DISK"))?;
        if !medium.get(..4).is_some_and(|m| m.eq_ignore_ascii_case("disk")) {
            return Err(Stop::misuse("Media type must be DISK for disk devices"));
        }
    }
    let size = options.size.as_deref().ok_or_else(|| Stop::misuse("Missing the capacity param"))?;
    let bytes = match size.parse::<u64>().ok().map(|m| m.checked_mul(MEGABYTE)) {
        Some(Some(0)) => return Err(Stop("Capacity must be > 0".to_owned(), false, SIZE)),
        Some(Some(bytes)) if bytes <= i64::MAX as u64 => bytes,
        _ => return Err(Stop::misuse(format!("size {size}: a number of megabytes is right"))),
    };
    if op == Op::New { create(file, bytes, options.thin) } else { resize(file, bytes, options.thin) }
}

fn create(path: &str, bytes: u64, thin: bool) -> Result<String, Stop> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o660)
        .open(path)
        .map_err(|e| Stop::failure("Failed creating file", &e, 2))?;
    if let Err(stop) = grow(&file, 0, bytes, thin) {
        // Nothing but this command has seen the file yet.
        let _ = std::fs::remove_file(path);
        return Err(stop);
    }
    Ok(format!("Created blank DISK image file : {path}\n"))
}

fn resize(path: &str, bytes: u64, thin: bool) -> Result<String, Stop> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| Stop::failure(&format!("{path}: Failed to open"), &e, 2))?;
    let old = file.metadata().map_err(|e| Stop::failure("Failed to get file size", &e, 6))?.len();
    if bytes < old {
        let text = format!("{path} has {} megabytes; a disk only grows", old.div_ceil(MEGABYTE));
        return Err(Stop::misuse(text));
    }
    grow(&file, old, bytes, thin)?;
    Ok(format!("Resized DISK image file : {path}\n"))
}

fn grow(file: &File, from: u64, to: u64, thin: bool) -> Result<(), Stop> {
    if thin {
        file.set_len(to).map_err(|e| Stop::failure("Failed to set file size", &e, 6))?;
    } else if to > from {
        fallocate(file, FallocateFlags::empty(), from, to - from)
            .map_err(|e| Stop::failure("posix_fallocate failed.", &e.into(), 6))?;
    }
    file.sync_all().map_err(|e| Stop::failure("Failed to sync file", &e, 6))
}

fn show(path: &str) -> Result<String, Stop> {
    let meta = std::fs::metadata(path).map_err(|e| Stop::failure(&format!("can't open {path}"), &e, 1))?;
    if !meta.is_file() {
        return Err(Stop::misuse(format!("{path} is no file")));
    }
    Ok(format!(
        "Media     : DISK\n size     : {} MB ({} bytes)\n allocated: {} bytes\n",
        meta.len() / MEGABYTE,
        meta.len(),
        meta.blocks() * 512
    ))
}

fn help() -> String {
    format!(
        "Usage: tgtimg [OPTION]
Disk image file utility, version {}

  --op new --device-type disk --type disk --size=[size] --file=[path] [--thin-provisioning]
			create a new image file; an existing file is not touched.
			[size] is the size in megabytes (2^20 bytes).
  --op resize --device-type disk --size=[size] --file=[path] [--thin-provisioning]
			make an image file larger. Its unit notices.
  --op show --device-type disk --file=[path]
			show its size and the space that it takes.
  --thin-provisioning   create a sparse file for the media
  --help                display this help and exit
",
        version_text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tgtimg(line: &str) -> (i32, String, String) {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let root = base::Root::default();
        let code = run(&args, &mut Terminal { out: &mut out, err: &mut err, root, socket_variable: None });
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_disk_is_made_shown_and_grown_but_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let f = dir.path().join("d").display().to_string();
        let new = format!("tgtimg --op new -Y disk -t disk -s 3 -f {f} --thin");
        assert_eq!(tgtimg(&new), (0, format!("Created blank DISK image file : {f}\n"), String::new()));
        assert_eq!(std::fs::metadata(&f).unwrap().len(), 3 << 20);
        let (code, _, err) = tgtimg(&new);
        assert_eq!((code, err.as_str()), (2, "Failed creating file: File exists\n"));
        assert_eq!(tgtimg(&format!("tgtimg --op resize -Y disk -s 5 -f {f}")).0, 0);
        assert!(tgtimg(&format!("tgtimg --op show -Y disk -f {f}")).1.contains("5 MB (5242880 bytes)"));
        assert_eq!(tgtimg(&format!("tgtimg --op resize -Y disk -s 4 -f {f}")).0, 22);
        assert_eq!(std::fs::metadata(&f).unwrap().len(), 5 << 20);
    }

    #[test]
    fn misuse() {
        for (line, code, text) in [
            ("tgtimg", 22, "specify the operation type"),
            ("tgtimg --op zork", 1, "unknown operation: zork"),
            ("tgtimg --op new", 22, "specify a newly created file"),
            ("tgtimg --op new -f x", 22, "no tape images"),
            ("tgtimg --op new -f x -Y disk", 22, "Missing media type: DISK"),
            ("tgtimg --op new -f x -Y disk -t zork", 22, "Media type must be DISK"),
            ("tgtimg --op new -f x -Y disk -t disk", 22, "Missing the capacity param"),
            ("tgtimg --op new -f x -Y disk -t disk -s 0", 3, "Capacity must be > 0"),
            ("tgtimg --op new -f x -Y disk -t disk -s 5G", 22, "megabytes is right"),
            ("tgtimg foo", 22, "unrecognized option 'foo'"),
        ] {
            let (got, out, err) = tgtimg(line);
            assert!(got == code && (err + &out).contains(text), "{line}: {got} {out}");
        }
    }
}
