//! Compiles the program of the embedded image (`hello/main.rs`) to a static binary and hands it to the crate as
//! `$OUT_DIR/hello.gz`.
//!
//! The compiler is called directly: the program is one file that needs nothing but the standard library, and as a
//! crate of its own it could not be built for another kind of linking than `berthd` in the same `cargo build`.

use std::{env, error::Error, fs, path::PathBuf, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    let source = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("hello/main.rs");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=hello/main.rs");

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let binary = out.join("hello");
    let mut rustc = Command::new(env::var("RUSTC")?);
    rustc.arg(&source).args([
        "--crate-name",
        "hello",
        "--crate-type",
        "bin",
        "--edition",
        "2024",
    ]);
    rustc
        .args(["--target", &env::var("TARGET")?])
        .arg("-o")
        .arg(&binary);
    for option in [
        "target-feature=+crt-static",
        "opt-level=s",
        "panic=abort",
        "lto=fat",
        "strip=symbols",
    ] {
        rustc.args(["-C", option]);
    }
    // Paths of the machine that builds it would make the image differ from machine to machine.
    let manifest = env::var("CARGO_MANIFEST_DIR")?;
    rustc.args(["--remap-path-prefix", &format!("{manifest}=server")]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc
        .status()
        .map_err(|error| format!("cannot run {rustc:?}: {error}"))?;
    if !status.success() {
        return Err(format!("{rustc:?} failed: {status}; a static C library (libc.a) is needed").into());
    }

    let mut gzip = flate2::write::GzEncoder::new(
        fs::File::create(out.join("hello.gz"))?,
        flate2::Compression::best(),
    );
    std::io::copy(&mut fs::File::open(&binary)?, &mut gzip)?;
    gzip.finish()?;
    Ok(())
}
