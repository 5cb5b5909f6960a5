//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"), read strictly: a malformed record is an error, for
//! a reader that skips it sees other entries than one that does not.

use super::{Time, Xattr, sparse::Segment};
use crate::{Error, Result};

/// What a PAX header changes about the entry after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<Time>,
    pub xattrs: Vec<Xattr>,
    pub sparse: PaxSparse,
}

/// The `GNU.sparse.*` records, versions 0.0, 0.1 and 1.0.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PaxSparse {
    pub major: Option<u64>,
    pub minor: Option<u64>,
    pub name: Option<Vec<u8>>,
    /// The apparent size, `GNU.sparse.size` or `.realsize`.
    pub size: Option<u64>,
    /// The map of 0.0 and 0.1.
    pub map: Option<Vec<Segment>>,
    /// 0.0: the offset whose length has not come yet.
    offset: Option<u64>,
}

impl PaxSparse {
    /// Whether the records make the entry a sparse file.
    pub fn is_sparse(&self) -> bool {
        self.major.is_some() || self.map.is_some()
    }
}

/// Reads the records of a local extended header (`x`).
///
/// # Errors
/// [`crate::Kind::Invalid`] if a record is malformed.
pub fn parse(data: &[u8]) -> Result<Pax> {
    let mut pax = Pax::default();
    for_each_record(data, |key, value| pax.take(key, value))?;
    if pax.sparse.offset.is_some() {
        return Err(malformed("a sparse offset without a length"));
    }
    Ok(pax)
}

/// Checks a global extended header (`g`): what only describes is ignored, as Docker does; what would change the shape
/// of later entries is refused, because readers disagree about it.
///
/// # Errors
/// [`crate::Kind::Invalid`] if a record is malformed or refused.
pub fn check_global(data: &[u8]) -> Result<()> {
    for_each_record(data, |key, _| {
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            return Err(malformed("a global header that changes names or sizes"));
        }
        Ok(())
    })
}

impl Pax {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.len() > 255 || name.contains(&0) {
                return Err(malformed("an extended attribute's name"));
            }
            self.xattrs.retain(|x| x.name != name);
            self.xattrs.push(Xattr {
                name: name.to_vec(),
                value: value.to_vec(),
            });
            return Ok(());
        }
        // An empty value takes an earlier one back.
        match key {
            b"path" => self.path = text(value)?,
            b"linkpath" => self.link = text(value)?,
            b"size" => self.size = number(value, "size")?,
            b"uid" => self.uid = number(value, "uid")?,
            b"gid" => self.gid = number(value, "gid")?,
            b"mtime" => self.mtime = time(value)?,
            key if key.starts_with(b"GNU.sparse.") => self.take_sparse(key, value)?,
            _ => {}
        }
        Ok(())
    }

    fn take_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let sparse = &mut self.sparse;
        match key {
            b"GNU.sparse.major" => sparse.major = number(value, "sparse version")?,
            b"GNU.sparse.minor" => sparse.minor = number(value, "sparse version")?,
            b"GNU.sparse.name" => sparse.name = text(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.size = number(value, "sparse size")?,
            b"GNU.sparse.numblocks" => {}
            b"GNU.sparse.offset" => {
                if sparse.offset.is_some() {
                    return Err(malformed("two sparse offsets in a row"));
                }
                sparse.offset = number(value, "sparse offset")?;
            }
            b"GNU.sparse.numbytes" => {
                let (Some(offset), Some(length)) = (sparse.offset.take(), number(value, "sparse length")?)
                else {
                    return Err(malformed("a sparse length without an offset"));
                };
                sparse
                    .map
                    .get_or_insert_default()
                    .push(Segment { offset, length });
            }
            b"GNU.sparse.map" => {
                let numbers = value
                    .split(|b| *b == b',')
                    .filter(|n| !n.is_empty())
                    .map(|n| number(n, "sparse map").map(Option::unwrap_or_default))
                    .collect::<Result<Vec<_>>>()?;
                sparse.map = Some(Segment::pairs(&numbers)?);
            }
            _ => return Err(malformed("an unknown sparse record")),
        }
        Ok(())
    }
}

/// Calls `take` with key and value of each `<length> <key>=<value>\n`.
fn for_each_record(mut data: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    while !data.is_empty() {
        let space = data
            .iter()
            .take(20)
            .position(|b| *b == b' ')
            .ok_or_else(|| malformed("a length"))?;
        let length = data
            .get(..space)
            .and_then(decimal)
            .and_then(|n| usize::try_from(n).ok());
        let record = length
            .filter(|n| *n > space + 1)
            .and_then(|n| data.get(space + 1..n))
            .ok_or_else(|| malformed("a length"))?;
        let record = record
            .strip_suffix(b"\n")
            .ok_or_else(|| malformed("a record's end"))?;
        let equals = record
            .iter()
            .position(|b| *b == b'=')
            .ok_or_else(|| malformed("a record without ="))?;
        let (key, value) = record.split_at(equals);
        if key.is_empty() || key.contains(&0) {
            return Err(malformed("a key"));
        }
        take(key, value.get(1..).unwrap_or_default())?;
        data = length.and_then(|n| data.get(n..)).unwrap_or_default();
    }
    Ok(())
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(malformed("a name with a NUL"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number(value: &[u8], what: &str) -> Result<Option<u64>> {
    if value.is_empty() {
        return Ok(None);
    }
    match decimal(value) {
        // Sizes and offsets are signed to the kernel.
        Some(n) if i64::try_from(n).is_ok() => Ok(Some(n)),
        _ => Err(malformed(what)),
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Seconds since 1970 with an optional fraction, perhaps negative.
fn time(value: &[u8]) -> Result<Option<Time>> {
    if value.is_empty() {
        return Ok(None);
    }
    let parse = || {
        let (negative, value) = match value.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, value),
        };
        let point = value.iter().position(|b| *b == b'.').unwrap_or(value.len());
        let (whole, fraction) = value.split_at(point);
        let fraction = fraction.strip_prefix(b".").unwrap_or_default();
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut digits = fraction.get(..fraction.len().min(9))?.to_vec();
        digits.resize(9, b'0');
        let nanos = i64::try_from(decimal(&digits)?).ok()?;
        let secs = i64::try_from(decimal(whole)?).ok()?;
        Some(match (negative, nanos) {
            (false, _) => Time { secs, nanos },
            (true, 0) => Time {
                secs: -secs,
                nanos: 0,
            },
            (true, _) => Time {
                secs: -secs - 1,
                nanos: 1_000_000_000 - nanos,
            },
        })
    };
    parse().map(Some).ok_or_else(|| malformed("mtime"))
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("invalid tar header: malformed PAX record: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn binary_values_keep_their_newlines() {
        let value = b"\x01\0\0\x02\n\n5 a=b\n\0";
        let data = [
            record("SCHILY.xattr.security.capability", value),
            record("path", b"x\ny"),
        ]
        .concat();
        let pax = parse(&data).unwrap();
        assert_eq!(pax.xattrs.first().unwrap().value, value);
        assert_eq!(pax.path.as_deref(), Some(&b"x\ny"[..]));
    }

    #[test]
    fn the_last_record_counts_and_an_empty_one_takes_back() {
        let data = [
            record("path", b"a"),
            record("path", b"b"),
            record("size", b"7"),
            record("size", b""),
        ]
        .concat();
        let pax = parse(&data).unwrap();
        assert_eq!((pax.path.as_deref(), pax.size), (Some(&b"b"[..]), None));
    }

    #[test]
    fn times() {
        for (value, secs, nanos) in [
            ("1.5", 1, 500_000_000),
            ("-1.25", -2, 750_000_000),
            ("7", 7, 0),
            ("-3", -3, 0),
            ("1.0000000019", 1, 1),
        ] {
            assert_eq!(
                time(value.as_bytes()).unwrap(),
                Some(Time { secs, nanos }),
                "{value}"
            );
        }
        for value in ["x", "1.x", "--1", "1e9", ".", "99999999999999999999"] {
            assert!(time(value.as_bytes()).is_err(), "{value}");
        }
    }

    #[test]
    fn sparse_maps() {
        let old: Vec<u8> = [
            ("offset", "0"),
            ("numbytes", "4"),
            ("offset", "9"),
            ("numbytes", "1"),
        ]
        .iter()
        .flat_map(|(k, v)| record(&format!("GNU.sparse.{k}"), v.as_bytes()))
        .collect();
        let map = [Segment { offset: 0, length: 4 }, Segment { offset: 9, length: 1 }];
        assert_eq!(parse(&old).unwrap().sparse.map.as_deref(), Some(&map[..]));
        let new = parse(&record("GNU.sparse.map", b"0,4,9,1")).unwrap();
        assert_eq!(new.sparse.map.as_deref(), Some(&map[..]));
        assert!(parse(&record("GNU.sparse.map", b"0,4,9")).is_err());
        assert!(parse(&record("GNU.sparse.offset", b"1")).is_err());
        assert!(parse(&record("GNU.sparse.numbytes", b"1")).is_err());
    }

    #[test]
    fn malformed_records_are_errors() {
        for data in [
            &b"x"[..],
            b"5 a=b",
            b"7 a=bc",
            b"999999999999999999999999 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"6 a=bc\n",
            b"5 ab\n\n",
            b"4 =b\n",
            b"  6 a=b\n",
            b"6\ta=b\n",
            b"\n",
            b"6 a=b\n\n",
            b"6 a=b\n\0\0",
        ] {
            assert!(parse(data).is_err(), "{data:?}");
        }
        for (key, value) in [
            ("size", &b"-1"[..]),
            ("size", b"1.5"),
            ("size", b"18446744073709551615"),
            ("uid", b"root"),
            ("path", b"a\0b"),
            ("linkpath", b"\0"),
            ("mtime", b"yesterday"),
            ("SCHILY.xattr.", b"x"),
            ("SCHILY.xattr.a\0b", b"x"),
            ("GNU.sparse.other", b"1"),
        ] {
            assert!(parse(&record(key, value)).is_err(), "{key}={value:?}");
        }
    }

    #[test]
    fn global_headers_only_describe() {
        assert!(check_global(&record("comment", b"a commit")).is_ok());
        for key in ["path", "size", "linkpath", "GNU.sparse.map"] {
            assert!(check_global(&record(key, b"1")).is_err(), "{key}");
        }
    }
}
