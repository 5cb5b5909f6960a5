//! Sparse files: which stretches of a file are in the archive. Old GNU headers and the three PAX versions.

use crate::{Error, Result};

/// A stretch of a sparse file that has data; what lies between is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file, bytes.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
}

impl Segment {
    /// Takes numbers as offset, length, offset, length …
    pub fn pairs(numbers: &[u64]) -> Result<Vec<Self>> {
        if !numbers.len().is_multiple_of(2) {
            return Err(malformed("an odd number of values"));
        }
        Ok(numbers
            .chunks_exact(2)
            .filter_map(|pair| match pair {
                [offset, length] => Some(Self {
                    offset: *offset,
                    length: *length,
                }),
                _ => None,
            })
            .collect())
    }
}

/// A checked map: in order, without overlap, inside the file, and exactly as long as what the archive stores.
///
/// # Errors
/// [`crate::Kind::Invalid`] if one of these does not hold.
pub fn check(mut map: Vec<Segment>, file_size: u64, stored: u64) -> Result<Vec<Segment>> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for segment in &map {
        if segment.offset < end {
            return Err(malformed("segments overlap or are out of order"));
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .filter(|end| *end <= file_size)
            .ok_or_else(|| malformed("a segment ends beyond the file"))?;
        sum += segment.length;
    }
    if sum != stored {
        return Err(malformed("the segments are not as long as the data"));
    }
    map.retain(|segment| segment.length != 0);
    Ok(map)
}

/// The map that PAX 1.0 puts before the data: a count, then pairs, one decimal a line. Returns it with the number of
/// bytes it takes up, or `None` if `data` ends before the map does.
///
/// # Errors
/// [`crate::Kind::Invalid`] if it is malformed.
pub fn parse_inline(data: &[u8]) -> Result<Option<(Vec<Segment>, usize)>> {
    let mut used = 0;
    let mut next = || -> Result<Option<u64>> {
        let rest = data.get(used..).unwrap_or_default();
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            // A number has 20 digits at most.
            return if rest.len() > 20 {
                Err(malformed("a number"))
            } else {
                Ok(None)
            };
        };
        let digits = rest.get(..end).unwrap_or_default();
        used += end + 1;
        std::str::from_utf8(digits)
            .ok()
            .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|t| t.parse().ok())
            .map(Some)
            .ok_or_else(|| malformed("a number"))
    };
    let Some(count) = next()? else { return Ok(None) };
    let mut map = Vec::new();
    for _ in 0..count {
        let (Some(offset), Some(length)) = (next()?, next()?) else {
            return Ok(None);
        };
        map.push(Segment { offset, length });
    }
    Ok(Some((map, used)))
}

pub fn malformed(what: &str) -> Error {
    Error::invalid(format!("invalid tar header: malformed sparse map: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, length: u64) -> Segment {
        Segment { offset, length }
    }

    #[test]
    fn maps_are_checked() {
        assert_eq!(
            check(vec![segment(0, 2), segment(4, 1), segment(9, 0)], 9, 3)
                .unwrap()
                .len(),
            2
        );
        assert!(check(vec![segment(4, 1), segment(0, 2)], 9, 3).is_err());
        assert!(check(vec![segment(0, 2), segment(1, 1)], 9, 3).is_err());
        assert!(check(vec![segment(0, 2)], 1, 2).is_err());
        assert!(check(vec![segment(0, 2)], 9, 3).is_err());
        assert!(check(vec![segment(u64::MAX, 2)], u64::MAX, 2).is_err());
    }

    #[test]
    fn inline_maps() {
        let (map, used) = parse_inline(b"2\n0\n4\n9\n1\ndata").unwrap().unwrap();
        assert_eq!((map, used), (vec![segment(0, 4), segment(9, 1)], 10));
        assert_eq!(parse_inline(b"2\n0\n4\n9").unwrap(), None);
        assert!(parse_inline(b"x\n").is_err());
        assert!(parse_inline(b"-1\n").is_err());
        assert!(parse_inline(&[b'1'; 40]).is_err());
    }
}
