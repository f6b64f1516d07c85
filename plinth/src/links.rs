//! `plinth links DIR`: a symbolic link for each command that stands for a tool.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Runs the command; gives its exit code.
pub fn main(arguments: &[OsString]) -> i32 {
    let [_, dir] = arguments else {
        eprintln!(
            "Usage: plinth links DIR\n\nMakes a link for each command in DIR, which is made if it is missing."
        );
        return 2;
    };
    if dir == "--help" || dir == "-h" {
        println!(
            "Usage: plinth links DIR\n\nMakes a link for each command in DIR, which is made if it is missing."
        );
        return 0;
    }
    match make(Path::new(dir)) {
        Ok(made) => {
            for path in made {
                println!("{}", path.display());
            }
            0
        }
        Err(e) => {
            eprintln!("plinth links: {e}");
            1
        }
    }
}

fn make(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let program = std::env::current_exe()?;
    std::fs::create_dir_all(dir)?;
    let mut made = Vec::new();
    for command in crate::COMMANDS.iter().filter(|c| c.linked) {
        let path = dir.join(command.name);
        let explain = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        match std::fs::symlink_metadata(&path) {
            // Only a link is replaced: a real program of that name is somebody else's.
            Ok(meta) if meta.is_symlink() => std::fs::remove_file(&path).map_err(explain)?,
            Ok(_) => {
                return Err(explain(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "is there and is not a link",
                )));
            }
            Err(_) => {}
        }
        symlink(&program, &path).map_err(explain)?;
        made.push(path);
    }
    Ok(made)
}
