//! Forges archives for tests: well-formed and otherwise.

use std::collections::BTreeMap;

use super::digest::Digest;

/// A tar archive under construction.
#[derive(Clone, Default)]
pub struct Tar(Vec<u8>);

/// One entry, written byte by byte, so that nothing keeps it from being malformed.
#[derive(Clone)]
pub struct Item {
    pub flag: u8,
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub data: Vec<u8>,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    /// What the header says; the data's length unless set.
    pub size: Option<u64>,
    pub device: (u32, u32),
    pub pax: Vec<u8>,
}

impl Item {
    pub fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            flag,
            name: name.as_ref().to_vec(),
            link: Vec::new(),
            data: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 1_700_000_000,
            size: None,
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub fn file(name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        let mut item = Self::new(b'0', name);
        item.data = data.as_ref().to_vec();
        item
    }

    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', name).mode(0o755)
    }

    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'2', name).mode(0o777).link(target)
    }

    pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(b'1', name).link(target)
    }

    pub fn link(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    pub fn device(flag: u8, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        let mut item = Self::new(flag, name);
        item.device = (major, minor);
        item
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    pub fn mtime(mut self, mtime: i64) -> Self {
        self.mtime = mtime;
        self
    }

    /// Adds a PAX record.
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.extend(pax_record(key, value.as_ref()));
        self
    }

    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }
}

/// One PAX record.
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

impl Tar {
    pub fn new(items: impl IntoIterator<Item = Item>) -> Self {
        items.into_iter().fold(Self::default(), Self::with)
    }

    pub fn with(mut self, item: Item) -> Self {
        if !item.pax.is_empty() {
            let mut extension = Item::new(b'x', "PaxHeaders/x");
            extension.data.clone_from(&item.pax);
            self.push(&extension);
        }
        if item.name.len() > 100 {
            let mut long = Item::new(b'L', "././@LongLink");
            long.data = [&item.name[..], b"\0"].concat();
            self.push(&long);
        }
        if item.link.len() > 100 {
            let mut long = Item::new(b'K', "././@LongLink");
            long.data = [&item.link[..], b"\0"].concat();
            self.push(&long);
        }
        self.push(&item);
        self
    }

    fn push(&mut self, item: &Item) {
        let mut block = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &item.name[..item.name.len().min(100)]);
        put(100, format!("{:07o}\0", item.mode).as_bytes());
        put(108, &numeric::<8>(i128::from(item.uid)));
        put(116, &numeric::<8>(i128::from(item.gid)));
        put(
            124,
            &numeric::<12>(i128::from(item.size.unwrap_or(item.data.len() as u64))),
        );
        put(136, &numeric::<12>(i128::from(item.mtime)));
        put(156, &[item.flag]);
        put(157, &item.link[..item.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", item.device.0).as_bytes());
        put(337, format!("{:07o}\0", item.device.1).as_bytes());
        self.raw_header(block);
        self.0.extend_from_slice(&item.data);
        self.pad();
    }

    /// A header block as it is, but for its checksum.
    pub fn raw_header(&mut self, mut block: [u8; 512]) {
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The archive with its end mark.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// The archive without one.
    pub fn cut(self) -> Vec<u8> {
        self.0
    }
}

fn numeric<const N: usize>(value: i128) -> [u8; N] {
    let mut out = [0_u8; N];
    let octal = format!("{value:0width$o}", width = N - 1);
    if value >= 0 && octal.len() < N {
        out[..N - 1].copy_from_slice(octal.as_bytes());
    } else {
        for (slot, byte) in out.iter_mut().rev().zip(value.to_le_bytes()) {
            *slot = byte;
        }
        out[0] |= 0x80;
    }
    out
}

/// An image to write into an archive.
pub struct TestImage {
    pub tags: Vec<&'static str>,
    /// Uncompressed layers.
    pub layers: Vec<Vec<u8>>,
    pub config: serde_json::Value,
}

impl TestImage {
    pub fn new(tag: &'static str, layers: Vec<Vec<u8>>) -> Self {
        let arch = super::manifest::Platform::host().architecture;
        Self {
            tags: vec![tag],
            layers,
            config: serde_json::json!({"architecture": arch, "os": "linux", "created": "2023-11-14T22:13:20Z",
                "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]}}),
        }
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        let mut config = self.config.clone();
        let ids: Vec<_> = self.layers.iter().map(|layer| Digest::of(layer)).collect();
        config["rootfs"] = serde_json::json!({"type": "layers", "diff_ids": ids});
        serde_json::to_vec(&config).unwrap()
    }
}

/// `docker save` as it was before OCI layouts.
pub fn docker_archive(images: &[TestImage]) -> Vec<u8> {
    let mut files = BTreeMap::new();
    let mut manifest = Vec::new();
    for image in images {
        let config = image.config_bytes();
        let config_name = format!("{}.json", Digest::of(&config).hex());
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|l| format!("{}/layer.tar", Digest::of(l).hex()))
            .collect();
        files.extend(layers.iter().cloned().zip(image.layers.iter().cloned()));
        files.insert(config_name.clone(), config);
        manifest.push(serde_json::json!({"Config": config_name, "RepoTags": image.tags, "Layers": layers}));
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let items = files.into_iter().map(|(name, data)| Item::file(name, data));
    Tar::new(items)
        .with(Item::file("manifest.json", manifest))
        .finish()
}

/// An OCI image layout from blobs and the descriptors of its `index.json`.
pub fn oci_archive(blobs: &[Vec<u8>], manifests: &[serde_json::Value]) -> Vec<u8> {
    let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
    let items = blobs
        .iter()
        .map(|data| Item::file(format!("blobs/sha256/{}", Digest::of(data).hex()), data));
    Tar::new([Item::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)])
        .with(Item::file("index.json", serde_json::to_vec(&index).unwrap()))
        .extend(items)
        .finish()
}

impl Tar {
    pub fn extend(self, items: impl IntoIterator<Item = Item>) -> Self {
        items.into_iter().fold(self, Self::with)
    }
}

/// A descriptor of `bytes`.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}
