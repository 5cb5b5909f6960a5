//! What an archive or an image may cost before it is refused.

/// Upper bounds on untrusted input. The defaults let every image through that a real builder makes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Bytes of the extension records (PAX header, GNU long name, sparse map) of one entry.
    pub header_bytes: u64,
    /// Apparent bytes of one sparse file: its holes cost nothing here, but they do to whoever copies it.
    pub sparse_bytes: u64,
    /// Bytes a compressed stream may expand to whatever its size; above it `expansion_ratio` counts.
    pub expansion_floor: u64,
    /// How many times its own size a compressed stream may expand to. A tar of ordinary files stays below 20.
    pub expansion_ratio: u64,
    /// Uncompressed bytes of one layer; unlimited by default: the disk decides.
    pub layer_bytes: Option<u64>,
    /// Binary logarithm of the largest zstd window or xz dictionary; 27 (128 MiB) is what zstd itself accepts unasked.
    pub window_log: u32,
    /// Bytes of one manifest.
    pub manifest_bytes: u64,
    /// Bytes of one index or image configuration.
    pub config_bytes: u64,
    /// Layers of one image; overlayfs stacks 500 and a container needs one of its own.
    pub image_layers: usize,
    /// Members of an image archive.
    pub archive_members: u64,
    /// Images in one archive, platforms in one index.
    pub archive_images: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_entries: 1_000_000,
            header_bytes: 1 << 20,
            sparse_bytes: 1 << 40,
            expansion_floor: 1 << 30,
            expansion_ratio: 200,
            layer_bytes: None,
            window_log: 27,
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            image_layers: 499,
            archive_members: 100_000,
            archive_images: 1_000,
        }
    }
}
