//! Writes tar headers: ustar, with a PAX header before them where that does not suffice.

use std::io::Write;

use crate::{
    Error, Result,
    image::tar_reader::{Time, Xattr},
};

const BLOCK: usize = 512;
/// The longest name and link target of a ustar header (its prefix field is not used).
const NAME_MAX: usize = 100;
/// The largest user and group IDs in seven octal digits.
const ID_MAX: u32 = 0o7_777_777;
/// The largest size and time in eleven octal digits.
const NUMBER_MAX: u64 = 0o77_777_777_777;

/// The description of one entry.
#[derive(Clone, Debug, Default)]
pub struct Header {
    flag: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    time: Time,
    device: (u32, u32),
    xattrs: Vec<Xattr>,
}

impl Header {
    /// An entry of type `flag`.
    pub fn new(flag: u8, name: Vec<u8>) -> Self {
        Self {
            flag,
            name,
            mode: 0o644,
            ..Self::default()
        }
    }

    pub fn attributes(self, mode: u32, uid: u32, gid: u32, time: Time) -> Self {
        Self {
            mode,
            uid,
            gid,
            time,
            ..self
        }
    }

    pub fn link(self, link: Vec<u8>) -> Self {
        Self { link, ..self }
    }

    pub fn size(self, size: u64) -> Self {
        Self { size, ..self }
    }

    pub fn device(self, major: u32, minor: u32) -> Self {
        Self {
            device: (major, minor),
            ..self
        }
    }

    pub fn xattrs(self, xattrs: Vec<Xattr>) -> Self {
        Self { xattrs, ..self }
    }

    /// The header blocks.
    ///
    /// # Errors
    /// [`crate::Kind::Internal`] if a device number does not fit, which the kernel's always do.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let records = self.records();
        let mut out = Vec::with_capacity(BLOCK);
        if !records.is_empty() {
            let mut extension = Self::new(b'x', b"PaxHeaders/entry".to_vec());
            extension.size = records.len() as u64;
            out.extend_from_slice(&extension.block()?);
            out.extend_from_slice(&records);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out.extend_from_slice(&self.block()?);
        Ok(out)
    }

    /// What does not fit the header itself.
    fn records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.name.len() > NAME_MAX {
            record(&mut out, b"path", &self.name);
        }
        if self.link.len() > NAME_MAX {
            record(&mut out, b"linkpath", &self.link);
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if id > ID_MAX {
                record(&mut out, key, id.to_string().as_bytes());
            }
        }
        if self.size > NUMBER_MAX {
            record(&mut out, b"size", self.size.to_string().as_bytes());
        }
        if self.time.nanos != 0 || u64::try_from(self.time.secs).map_or(true, |secs| secs > NUMBER_MAX) {
            record(&mut out, b"mtime", pax_time(self.time).as_bytes());
        }
        for Xattr { name, value } in &self.xattrs {
            record(&mut out, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        out
    }

    fn block(&self) -> Result<[u8; BLOCK]> {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        fill(&mut old.name, &self.name);
        fill(&mut old.linkname, &self.link);
        old.linkflag = [self.flag];
        header.set_mode(self.mode);
        header.set_uid(u64::from(if self.uid > ID_MAX { 0 } else { self.uid }));
        header.set_gid(u64::from(if self.gid > ID_MAX { 0 } else { self.gid }));
        header.set_size(if self.size > NUMBER_MAX { 0 } else { self.size });
        header.set_mtime(
            u64::try_from(self.time.secs)
                .ok()
                .filter(|secs| *secs <= NUMBER_MAX)
                .unwrap_or_default(),
        );
        let device = |e: std::io::Error| Error::internal("cannot write a device number").caused_by(e);
        header.set_device_major(self.device.0).map_err(device)?;
        header.set_device_minor(self.device.1).map_err(device)?;
        header.set_cksum();
        Ok(*header.as_bytes())
    }
}

/// Copies as much of `text` as fits.
fn fill(field: &mut [u8], text: &[u8]) {
    for (slot, byte) in field.iter_mut().zip(text) {
        *slot = *byte;
    }
}

fn record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{length} ");
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Decimal seconds; nanoseconds count forward, so -1.25 s is -2 s and 750,000,000 ns.
fn pax_time(time: Time) -> String {
    match (time.secs, time.nanos) {
        (secs, 0) => secs.to_string(),
        (secs, nanos) if secs >= 0 => format!("{secs}.{nanos:09}"),
        (secs, nanos) => format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Limits, tar_reader::TarReader};

    #[test]
    fn what_is_written_is_read_back() {
        let times = [(0, 0), (-2, 750_000_000), (-1, 5), (1, 1), (1 << 40, 0), (-9, 0)];
        for (secs, nanos) in times {
            for length in [1, 99, 100, 101, 3000] {
                let header = Header::new(b'2', vec![b'n'; 5])
                    .link(vec![b'l'; length])
                    .attributes(0o4755, 3_000_000_000, 7, Time { secs, nanos })
                    .xattrs(vec![Xattr {
                        name: b"user.x".to_vec(),
                        value: vec![b'\n'; length],
                    }]);
                let bytes = header.encode().unwrap();
                let limits = Limits::default();
                let entry = TarReader::new(&bytes[..], &limits, 10).next().unwrap().unwrap();
                assert_eq!(
                    (entry.link.len(), entry.mode, entry.uid, entry.gid),
                    (length, 0o4755, 3_000_000_000, 7)
                );
                assert_eq!(entry.mtime, Time { secs, nanos });
                assert_eq!(entry.xattrs, header.xattrs);
            }
        }
    }

    #[test]
    fn record_lengths_count_themselves() {
        for value in [0, 1, 2, 3, 4, 5, 6, 90, 91, 92, 93, 94, 95, 990, 991, 992] {
            let mut out = Vec::new();
            record(&mut out, b"k", &vec![b'v'; value]);
            let length: usize = String::from_utf8_lossy(&out)
                .split(' ')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(length, out.len());
        }
    }
}
