//! Commands by name, by link and as the first argument.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

use std::process::{Command, Output};

const PLINTH: &str = env!("CARGO_BIN_EXE_plinth");

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_command_is_the_same_by_link_and_by_argument() {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(PLINTH).args(["links"]).arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{}", text(&made));
    for name in ["tgtd", "tgtadm", "tgt-admin", "tgtimg"] {
        for args in [&["--version"][..], &["-V"], &["--no-such-option", "7"]] {
            let by_link = Command::new(dir.path().join(name)).args(args).output().unwrap();
            let by_argument = Command::new(PLINTH).arg(name).args(args).output().unwrap();
            assert_eq!(text(&by_link), text(&by_argument), "{name} {args:?}");
            assert_eq!(by_link.status.code(), by_argument.status.code(), "{name} {args:?}");
        }
    }
    let port =
        Command::new(dir.path().join("tgtadm")).args(["-C", "32001", "-m", "sys", "-o", "show"]).output();
    assert!(text(&port.unwrap()).contains("Transport endpoint is not connected"));
}

#[test]
fn an_unknown_command_is_named_and_a_file_is_not_replaced_by_a_link() {
    let output = Command::new(PLINTH).arg("frobnicate").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("there is no command 'frobnicate'"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tgtd"), "somebody's").unwrap();
    let refused = Command::new(PLINTH).arg("links").arg(dir.path()).output().unwrap();
    assert!(!refused.status.success() && text(&refused).contains("is not a link"), "{}", text(&refused));
    assert_eq!(std::fs::read_to_string(dir.path().join("tgtd")).unwrap(), "somebody's");
}
