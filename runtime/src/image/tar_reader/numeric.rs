//! Numbers in tar headers: octal text, or base 256 as GNU and star write what does not fit.

use crate::{Error, Result};

/// A numeric header field; `None` if it is neither octal nor base 256 or does not fit 64 bits.
pub fn field(raw: &[u8]) -> Option<i64> {
    match raw.first() {
        Some(first) if first & 0x80 != 0 => base256(raw),
        _ => octal(raw),
    }
}

/// A numeric header field that must be there and must not be negative.
///
/// # Errors
/// [`crate::Kind::Invalid`] naming the field.
pub fn unsigned(raw: &[u8], what: &str) -> Result<u64> {
    field(raw)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| Error::invalid(format!("invalid tar header: malformed {what}")))
}

/// Octal digits between blanks and NULs; empty is zero.
fn octal(raw: &[u8]) -> Option<i64> {
    let start = raw
        .iter()
        .position(|b| *b != b' ' && *b != 0)
        .unwrap_or(raw.len());
    let digits = raw.get(start..)?;
    let end = digits
        .iter()
        .position(|b| *b == b' ' || *b == 0)
        .unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(|b| *b == b' ' || *b == 0) {
        return None;
    }
    digits.iter().try_fold(0_i64, |sum, digit| match digit {
        b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Big-endian two's complement; the top bit is the marker and the bit below it the sign.
fn base256(raw: &[u8]) -> Option<i64> {
    let (first, rest) = raw.split_first()?;
    let negative = first & 0x40 != 0;
    let mut value = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    for byte in rest {
        value = value * 256 + i128::from(*byte);
        // Twelve bytes at most reach this, so i128 cannot overflow; what does not fit 64 bits is refused below.
    }
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields() {
        for (raw, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644", Some(0o644)),
            (b"\0\0\0", Some(0)),
            (b"", Some(0)),
            (b"77777777777", Some(0o77_777_777_777)),
            (b"648", None),
            (b"64 4", None),
            (b"-1", None),
            (b"0x1f", None),
        ] {
            assert_eq!(field(raw), want, "{raw:?}");
        }
    }

    #[test]
    fn base256_fields() {
        assert_eq!(field(&[0x80, 0, 0, 0, 0, 0, 0, 1]), Some(1));
        assert_eq!(field(&[0xff; 12]), Some(-1));
        assert_eq!(
            field(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Some(i64::MAX)
        );
        assert_eq!(field(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(field(&[0xbf; 12]), None);
        assert!(unsigned(&[0xff; 12], "size").is_err());
    }
}
