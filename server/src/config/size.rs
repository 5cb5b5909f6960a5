//! Sizes as people write them: `67108864`, `64M`, `1.5gb`, `512 KiB`.

use berth_runtime::{Error, Result};

/// Bytes in `text`; units are powers of 1024 in any case, with or without `b` or `ib`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for anything else, and for sizes beyond `i64`.
pub fn parse(text: &str) -> Result<i64> {
    let bad = || Error::invalid(format!("invalid size: {text:?} (use bytes, or a unit as in 64M)"));
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1_i64 << shift).ok_or_else(bad);
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * f64::from(1_u32 << (shift / 2)) * f64::from(1_u32 << (shift - shift / 2));
    // Everything below 2^53 is exact, and nobody writes a fraction of more.
    if bytes.is_finite() && bytes < 9_007_199_254_740_992.0 {
        Ok(bytes as i64)
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_in_any_spelling() {
        for (text, bytes) in [
            ("0", 0),
            ("67108864", 67_108_864),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
            ("10b", 10),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "M", "-1", "1.2.3", "5 apples", "99999999999P", "inf", "1e9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
