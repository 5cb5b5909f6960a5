//! Images made in code: a tree of entries becomes a layer, layers become an image, an image becomes an archive of
//! either form.

use std::{collections::BTreeMap, fs, io::Write, path::Path, process::Command, sync::LazyLock};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A tar under construction.
#[derive(Clone, Debug, Default)]
pub struct Tar(Vec<u8>);

/// What an entry is, with what only such an entry has.
#[derive(Clone, Debug)]
pub enum Node<'a> {
    /// A file with its content.
    File(&'a [u8]),
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(&'a str),
    /// A further name of an entry.
    Hardlink(&'a str),
    /// A character device, major and minor number.
    Character(u32, u32),
    /// A block device, major and minor number.
    Block(u32, u32),
    /// A pipe with a name.
    Fifo,
}

impl Tar {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry owned by root. The path is written as it is given, `..` and all.
    ///
    /// # Panics
    /// If the path does not fit into a header and is no plain long path.
    #[must_use]
    pub fn add(self, path: &str, mode: u32, node: Node<'_>) -> Self {
        self.owned(path, mode, 0, 0, node)
    }

    /// Adds an entry with owner and group.
    ///
    /// # Panics
    /// As [`Tar::add`].
    #[must_use]
    pub fn owned(mut self, path: &str, mode: u32, uid: u64, gid: u64, node: Node<'_>) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(1_700_000_000);
        header.set_size(0);
        let mut content: &[u8] = &[];
        let (kind, target) = match node {
            Node::File(bytes) => {
                content = bytes;
                (tar::EntryType::Regular, None)
            }
            Node::Directory => (tar::EntryType::Directory, None),
            Node::Symlink(target) => (tar::EntryType::Symlink, Some(target)),
            Node::Hardlink(target) => (tar::EntryType::Link, Some(target)),
            Node::Character(major, minor) => (device(&mut header, major, minor, tar::EntryType::Char), None),
            Node::Block(major, minor) => (device(&mut header, major, minor, tar::EntryType::Block), None),
            Node::Fifo => (tar::EntryType::Fifo, None),
        };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        self.long(b'L', path);
        self.long(b'K', target.unwrap_or_default());
        // The fields are filled by hand: the builder of the crate refuses what an attacker would write.
        let raw = header.as_gnu_mut().expect("a GNU header");
        fill(&mut raw.name, path);
        fill(&mut raw.linkname, target.unwrap_or_default());
        header.set_cksum();
        self.raw(header.as_bytes());
        self.raw(content);
        self.pad(content.len());
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Self {
        self.add(path, mode, Node::File(content.as_ref()))
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.add(path, mode, Node::Directory)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, 0o777, Node::Symlink(target))
    }

    /// Adds a PAX header with these records for the entry that follows (pax(1), extended header).
    #[must_use]
    pub fn pax(mut self, records: &[(&str, &str)]) -> Self {
        let mut text = Vec::new();
        for (name, value) in records {
            let rest = format!(" {name}={value}\n");
            let mut length = rest.len() + 1;
            while length != rest.len() + length.to_string().len() {
                length = rest.len() + length.to_string().len();
            }
            text.extend(format!("{length}{rest}").bytes());
        }
        self.special(b'x', "pax", &text);
        self
    }

    /// Adds bytes that no entry describes.
    #[must_use]
    pub fn garbage(mut self, bytes: &[u8]) -> Self {
        self.raw(bytes);
        self
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.raw(&[0; 1024]);
        self.0
    }

    /// The archive without its end.
    pub fn unfinished(self) -> Vec<u8> {
        self.0
    }

    fn long(&mut self, kind: u8, text: &str) {
        if text.len() > 100 {
            let mut content = text.as_bytes().to_vec();
            content.push(0);
            self.special(kind, "././@LongLink", &content);
        }
    }

    fn special(&mut self, kind: u8, name: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        fill(&mut header.as_gnu_mut().expect("a GNU header").name, name);
        header.set_cksum();
        self.raw(header.as_bytes());
        self.raw(content);
        self.pad(content.len());
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn pad(&mut self, length: usize) {
        self.0
            .resize(self.0.len() + length.next_multiple_of(512) - length, 0);
    }
}

fn device(header: &mut tar::Header, major: u32, minor: u32, kind: tar::EntryType) -> tar::EntryType {
    header.set_device_major(major).expect("a device number");
    header.set_device_minor(minor).expect("a device number");
    kind
}

fn fill(field: &mut [u8; 100], text: &str) {
    for (to, from) in field.iter_mut().zip(text.as_bytes()) {
        *to = *from;
    }
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Layers as plain tars, lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The `config` object of its configuration.
    pub config: Value,
    /// References.
    pub tags: Vec<String>,
}

impl Image {
    /// An image of `layers` without any configuration.
    pub fn new(tag: &str, layers: impl IntoIterator<Item = Tar>) -> Self {
        Self {
            layers: layers.into_iter().map(Tar::finish).collect(),
            config: json!({"Env": ["PATH=/bin:/usr/bin"]}),
            tags: vec![tag.to_owned()],
        }
    }

    /// An image with busybox(1), a shell and its tools, and users. Its tag is `busybox:latest`, its command `sh`.
    ///
    /// # Panics
    /// If no statically linked busybox is installed.
    pub fn busybox() -> Self {
        static BUSYBOX: LazyLock<Image> = LazyLock::new(|| {
            let mut image = Image::new("busybox:latest", [busybox_layer()]);
            image.config["Cmd"] = json!(["sh"]);
            image
        });
        BUSYBOX.clone()
    }

    /// A small image that differs from others by its text, and whose command is the file with it.
    pub fn small(tag: &str, text: &str) -> Self {
        let layer = Tar::new().directory("etc/", 0o755).file("etc/text", 0o644, text);
        Self::new(tag, [layer]).with("Cmd", json!(["/etc/text"]))
    }

    /// The same image with another tag.
    #[must_use]
    pub fn tagged(mut self, tag: &str) -> Self {
        self.tags = vec![tag.to_owned()];
        self
    }

    /// The same image with one more layer on top.
    #[must_use]
    pub fn with_layer(mut self, layer: Tar) -> Self {
        self.layers.push(layer.finish());
        self
    }

    /// The same image with a field of its `config` set.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// The configuration as it is stored (OCI image specification, config.md).
    pub fn configuration(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<Value> = self
            .layers
            .iter()
            .map(|_| json!({"created": "2024-01-01T00:00:00Z", "created_by": "a test"}))
            .collect();
        json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "config": self.config,
            "created": "2024-01-01T00:00:00Z",
            "history": history,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string()
        .into_bytes()
    }

    /// The image's id: the digest of its configuration.
    pub fn id(&self) -> String {
        digest(&self.configuration())
    }

    /// The archive that `docker save` of classic engines writes.
    pub fn docker_archive(&self) -> Vec<u8> {
        let config = self.configuration();
        let config_name = format!("{}.json", hex(&config));
        let mut tar = Tar::new().file(&config_name, 0o644, &config);
        let mut names = Vec::new();
        for layer in &self.layers {
            let name = format!("{}/layer.tar", hex(layer));
            if !names.contains(&name) {
                tar = tar.file(&name, 0o644, layer);
            }
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": self.tags, "Layers": names}]);
        tar.file("manifest.json", 0o644, manifest.to_string()).finish()
    }

    /// An OCI image layout in a tar, with layers compressed in this way.
    pub fn oci_archive(&self, compression: Compression) -> Vec<u8> {
        let mut blobs = BTreeMap::new();
        let mut store = |bytes: Vec<u8>, media_type: String| {
            let descriptor = json!({"mediaType": media_type, "digest": digest(&bytes), "size": bytes.len()});
            blobs.insert(hex(&bytes), bytes);
            descriptor
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let media_type = format!("application/vnd.oci.image.layer.v1.tar{}", compression.suffix());
                store(compression.apply(layer), media_type)
            })
            .collect();
        let config = store(
            self.configuration(),
            "application/vnd.oci.image.config.v1+json".into(),
        );
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        let manifest = store(manifest.to_string().into_bytes(), media_type.into());
        let entries: Vec<Value> = self
            .tags
            .iter()
            .map(|tag| {
                let mut entry = manifest.clone();
                entry["annotations"] = json!({
                    "io.containerd.image.name": tag,
                    "org.opencontainers.image.ref.name": tag.rsplit(':').next(),
                });
                entry
            })
            .collect();
        let index = json!({"schemaVersion": 2, "manifests": entries});
        let mut tar = Tar::new()
            .file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", 0o644, index.to_string())
            .directory("blobs/", 0o755)
            .directory("blobs/sha256/", 0o755);
        for (name, bytes) in &blobs {
            tar = tar.file(&format!("blobs/sha256/{name}"), 0o644, bytes);
        }
        tar.finish()
    }
}

/// How bytes are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip(1).
    Gzip,
    /// zstd(1).
    Zstd,
}

impl Compression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Gzip, Self::Zstd];

    /// What a layer's media type ends in.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }

    /// `bytes`, compressed.
    ///
    /// # Panics
    /// Never in practice: it works in memory.
    pub fn apply(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                to.write_all(bytes)
                    .and_then(|()| to.finish())
                    .expect("compression in memory")
            }
            Self::Zstd => zstd::encode_all(bytes, 1).expect("compression in memory"),
        }
    }
}

/// `sha256:` and the digest of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn busybox_layer() -> Tar {
    let path = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let path =
        path.unwrap_or_else(|| panic!("busybox is not installed; on Debian: apt-get install busybox-static"));
    let program = fs::read(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    assert!(
        is_static(&program),
        "{path} is not linked statically; on Debian: apt-get install busybox-static"
    );
    let list = Command::new(path)
        .arg("--list")
        .output()
        .unwrap_or_else(|error| panic!("cannot run {path}: {error}"));
    let mut tar = Tar::new()
        .directory("bin/", 0o755)
        .file("bin/busybox", 0o755, program);
    for name in String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        tar = tar.add(&format!("bin/{name}"), 0o755, Node::Hardlink("bin/busybox"));
    }
    tar.directory("etc/", 0o755)
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
        .file("etc/group", 0o644, "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
        .directory("root/", 0o700)
        .directory("home/", 0o755)
        .owned("home/user/", 0o755, 1000, 1000, Node::Directory)
        .directory("tmp/", 0o1777)
        .directory("usr/", 0o755)
        .directory("var/", 0o755)
}

/// Whether a 64-bit program needs no dynamic loader: it has no program header of type PT_INTERP (elf(5)).
fn is_static(program: &[u8]) -> bool {
    let number = |at: usize, length: usize| -> Option<usize> {
        let bytes = program.get(at..at.checked_add(length)?)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | usize::from(*byte)),
        )
    };
    let Some((first, size, count)) = number(32, 8)
        .zip(number(54, 2))
        .zip(number(56, 2))
        .map(|((a, b), c)| (a, b, c))
    else {
        return false;
    };
    const PT_INTERP: usize = 3;
    program.starts_with(b"\x7fELF\x02\x01")
        && (0..count).all(|index| number(first + index * size, 4) != Some(PT_INTERP))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_tar_reads_back_as_it_was_made() {
        let long = "d/".repeat(80) + "file";
        let tar = Tar::new()
            .directory("d/", 0o755)
            .file(&long, 0o600, "text")
            .symlink("../out", &"t".repeat(120))
            .pax(&[("SCHILY.xattr.user.name", "value")])
            .file("last", 0o644, "")
            .finish();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut seen = Vec::new();
        for entry in archive.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("content");
            let xattrs = entry
                .pax_extensions()
                .expect("records")
                .map_or(0, Iterator::count);
            let path = entry.path().expect("a path").display().to_string();
            let target = entry
                .link_name()
                .expect("a link")
                .map(|link| link.display().to_string());
            seen.push((path, text, target, xattrs));
        }
        let expected = [
            ("d/".to_owned(), String::new(), None, 0),
            (long, "text".to_owned(), None, 0),
            ("../out".to_owned(), String::new(), Some("t".repeat(120)), 0),
            ("last".to_owned(), String::new(), None, 1),
        ];
        assert_eq!(seen, expected);
    }
}
