//! `berthd` as a program. That this file exists also makes `cargo test` build the binary, which the black-box tests
//! of the crate `berth-tests` start.

use std::process::Command;

#[test]
fn it_tells_its_version() {
    let output = Command::new(env!("CARGO_BIN_EXE_berthd"))
        .arg("--version")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
}

#[test]
fn it_refuses_flags_it_does_not_know() {
    let output = Command::new(env!("CARGO_BIN_EXE_berthd"))
        .arg("--no-such-flag")
        .output()
        .expect("it runs");
    assert!(!output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--no-such-flag"),
        "{output:?}"
    );
}
