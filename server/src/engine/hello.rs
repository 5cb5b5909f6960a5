//! The image every engine has from the start, `berth/hello`: the program of `hello/main.rs`, compiled by `build.rs`.
//!
//! It is put into a store when that store is made, never later: whoever removes the image has removed it.

use std::{
    fs,
    io::{self, Read},
};

use berth_runtime::{Result, error::Context, image::ImageStore};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::roots::{Roots, write_file};

/// The reference under which the image is stored.
pub const REFERENCE: &str = "berth/hello:latest";

/// The commands that can be run by their own name, out of `/bin`.
const COMMANDS: [&str; 11] = [
    "cat", "echo", "env", "exit", "false", "hello", "id", "ls", "ps", "sleep", "true",
];

/// Creation time in the image's configuration. Fixed, as the same program must be the same image everywhere.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// The program, compressed with gzip.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello.gz"));

/// The file in the data root that remembers that the image has been put into the store once.
const MARKER: &str = "hello-loaded";

/// Puts the image into `store`, once in the life of a data root. Blocks.
///
/// # Errors
/// Internal, if the data root cannot be written.
pub fn install(store: &ImageStore, roots: &Roots) -> Result<()> {
    let marker = roots.data().join(MARKER);
    if fs::exists(&marker).context(|| format!("cannot look for {}", marker.display()))? {
        return Ok(());
    }
    let archive = archive().context(|| format!("the embedded image {REFERENCE} is damaged"))?;
    store.load(archive.as_slice(), &())?;
    // Last: an engine that dies before loads the same image again.
    write_file(&marker, b"")
}

/// The image as an archive of the form `docker save` writes, to be loaded into the store.
///
/// # Errors
/// Only if the embedded program is damaged.
pub fn archive() -> io::Result<Vec<u8>> {
    let layer = layer()?;
    let layer_digest = hex(&Sha256::digest(&layer));
    let config = json!({
        "architecture": architecture(),
        "config": {
            "Cmd": null,
            "Entrypoint": ["/hello"],
            "Env": ["PATH=/bin"],
            "Labels": {
                "org.opencontainers.image.description": "Shows what a container sees",
                "org.opencontainers.image.licenses": "Apache-2.0",
                "org.opencontainers.image.title": "hello",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            },
            "WorkingDir": "/",
        },
        "created": CREATED,
        "history": [{
            "comment": "comes with the engine",
            "created": CREATED,
            "created_by": "berthd",
        }],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
    });
    let config = config.to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
    let layer_name = format!("{layer_digest}/layer.tar");
    let manifest = json!([{"Config": config_name, "RepoTags": [REFERENCE], "Layers": [layer_name]}]);

    let mut tar = Tar::default();
    tar.file(&config_name, 0o644, config.as_bytes())?;
    tar.directory(&format!("{layer_digest}/"), 0o755)?;
    tar.file(&layer_name, 0o644, &layer)?;
    tar.file("manifest.json", 0o644, manifest.to_string().as_bytes())?;
    tar.finish()
}

/// The only layer: the program, its names in `/bin`, and what makes user names and temporary files work.
fn layer() -> io::Result<Vec<u8>> {
    let mut program = Vec::new();
    flate2::read::GzDecoder::new(PROGRAM).read_to_end(&mut program)?;

    let mut tar = Tar::default();
    tar.directory("bin/", 0o755)?;
    for command in COMMANDS {
        tar.link(&format!("bin/{command}"), "../hello")?;
    }
    tar.directory("etc/", 0o755)?;
    tar.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    tar.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/:/bin/hello\nnobody:x:65534:65534:nobody:/:/bin/hello\n",
    )?;
    tar.file("hello", 0o755, &program)?;
    tar.directory("tmp/", 0o1777)?;
    tar.finish()
}

/// The architecture's name in the OCI image specification (the values of Go's GOARCH).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        same => same,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar whose entries differ in nothing but what is given: owner root, time 0.
struct Tar(tar::Builder<Vec<u8>>);

impl Default for Tar {
    fn default() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
}

impl Tar {
    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let mut header = Self::header(tar::EntryType::Regular, mode, content.len() as u64);
        self.0.append_data(&mut header, path, content)
    }

    fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, path, io::empty())
    }

    fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target)
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        self.0.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(tar: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(tar);
        archive
            .entries()
            .expect("a tar")
            .map(|entry| {
                let mut entry = entry.expect("an entry");
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("its content");
                let path = entry.path().expect("a path").display().to_string();
                (path, entry.header().mode().expect("a mode"), content)
            })
            .collect()
    }

    #[test]
    fn two_archives_are_the_same() {
        assert_eq!(archive().expect("an archive"), archive().expect("an archive"));
    }

    #[test]
    fn the_names_in_the_manifest_are_digests_of_what_they_name() {
        let all = entries(&archive().expect("an archive"));
        let content = |name: &str| {
            &all.iter()
                .find(|(path, ..)| path == name)
                .unwrap_or_else(|| panic!("no {name}"))
                .2
        };
        let manifest: serde_json::Value = serde_json::from_slice(content("manifest.json")).expect("JSON");
        let config_name = manifest[0]["Config"].as_str().expect("a name");
        assert_eq!(
            config_name,
            format!("{}.json", hex(&Sha256::digest(content(config_name))))
        );
        let config: serde_json::Value = serde_json::from_slice(content(config_name)).expect("JSON");
        let layer = content(manifest[0]["Layers"][0].as_str().expect("a name"));
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            format!("sha256:{}", hex(&Sha256::digest(layer)))
        );
    }

    #[test]
    fn the_store_takes_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let store =
            ImageStore::open(directory.path(), berth_runtime::image::Limits::default()).expect("a store");
        let loaded = store
            .load(archive().expect("an archive").as_slice(), &())
            .expect("it loads");
        assert_eq!(loaded.len(), 1);
        assert_eq!(
            store.resolve("berth/hello").expect("it is there").repo_tags(),
            [REFERENCE]
        );
    }

    #[test]
    fn the_program_is_a_static_executable() {
        let layer = entries(&layer().expect("a layer"));
        let (_, mode, program) = layer
            .iter()
            .find(|(path, ..)| path == "hello")
            .expect("the program");
        assert_eq!(mode & 0o7777, 0o755);
        assert!(program.starts_with(b"\x7fELF"));
        // The path of a dynamic loader would stand in the file as text (PT_INTERP).
        assert!(!program.windows(11).any(|bytes| bytes == b"/lib64/ld-l"));
    }
}
