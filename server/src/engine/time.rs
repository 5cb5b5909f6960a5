//! Times as the Engine API reads and writes them.

use std::fmt::Write as _;

use berth_runtime::{Error, Result};
use jiff::{
    SignedDuration, Timestamp,
    civil::{Date, DateTime},
    fmt::temporal::DateTimeParser,
    tz::TimeZone,
};

/// How the API writes "never".
pub const NEVER: &str = "0001-01-01T00:00:00Z";

const NANOS: i128 = 1_000_000_000;

/// RFC 3339 in UTC with as many digits of the second as there are, as Docker writes most times.
pub fn rfc3339(at: Timestamp) -> String {
    at.to_string()
}

/// [`rfc3339`], or [`NEVER`].
pub fn rfc3339_or_never(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), rfc3339)
}

/// A moment as queries give it (`since`, `until`): `seconds[.fraction]` since 1970, RFC 3339, one of its
/// shortened forms (no zone, no seconds, date only; without a zone it is in `zone`), or a Go duration, which
/// counts back from `now`.
///
/// # Errors
/// [`Kind::Invalid`](berth_runtime::Kind::Invalid) for everything else.
pub fn parse_moment(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp> {
    if let Some(at) = parse_seconds(text) {
        return Ok(at);
    }
    if let Some(ago) = parse_duration(text) {
        return now.checked_sub(ago).map_err(|_| invalid(text));
    }
    parse_date(text, zone).ok_or_else(|| invalid(text))
}

/// [`parse_moment`] with the present and the host's zone.
///
/// # Errors
/// As [`parse_moment`].
pub fn parse_moment_now(text: &str) -> Result<Timestamp> {
    parse_moment(text, Timestamp::now(), &TimeZone::system())
}

fn invalid(text: &str) -> Error {
    Error::invalid(format!(
        "failed to parse value as time or duration: {text:?} (use seconds since 1970, RFC 3339, or a \
         duration such as 10m)"
    ))
}

/// `seconds[.fraction]`; digits beyond nanoseconds are cut.
fn parse_seconds(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(seconds.strip_prefix('-').unwrap_or(seconds)) || !digits(fraction) {
        return None;
    }
    let mut nanos = String::with_capacity(9);
    nanos.extend(fraction.chars().take(9));
    while nanos.len() < 9 {
        nanos.push('0');
    }
    let seconds: i128 = seconds.parse().ok()?;
    let nanos: i128 = nanos.parse().ok()?;
    Timestamp::from_nanosecond(seconds.checked_mul(NANOS)?.checked_add(nanos)?).ok()
}

/// A duration as Go writes it: `1h30m`, `1.5s`, `300ms`, with an optional sign.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        total = total.checked_add(scaled(number, unit_nanos(unit)?)?)?;
        rest = tail;
    }
    if total > i128::from(i64::MAX) {
        return None;
    }
    SignedDuration::try_from_nanos_i128(total * sign)
}

fn unit_nanos(unit: &str) -> Option<i128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS,
        "m" => 60 * NANOS,
        "h" => 3_600 * NANOS,
        _ => return None,
    })
}

/// `number`, which may have a fraction, times `unit` nanoseconds.
fn scaled(number: &str, unit: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 19 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(18)];
    let part = match fraction {
        "" => 0,
        digits => digits.parse::<i128>().ok()? * unit / 10_i128.pow(u32::try_from(digits.len()).ok()?),
    };
    whole.checked_mul(unit)?.checked_add(part)
}

/// RFC 3339 and its shortened forms.
fn parse_date(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    let date = text.get(..10)?;
    let shape = |(i, b): (usize, u8)| {
        if matches!(i, 4 | 7) {
            b == b'-'
        } else {
            b.is_ascii_digit()
        }
    };
    if !date.bytes().enumerate().all(shape) {
        return None;
    }
    let date: Date = DateTimeParser::new().parse_date(date).ok()?;
    let (clock, offset) = split_offset(text.get(10..)?);
    let zone = match offset {
        "" => zone.clone(),
        "Z" | "z" => TimeZone::UTC,
        offset => TimeZone::fixed(jiff::tz::Offset::from_seconds(offset_seconds(offset)?).ok()?),
    };
    let time = match clock {
        "" => DateTime::from_parts(date, jiff::civil::Time::midnight()),
        clock => DateTime::from_parts(date, clock_time(clock.strip_prefix(['T', 't'])?)?),
    };
    zone.to_ambiguous_timestamp(time).compatible().ok()
}

/// Splits a zone off what follows the date.
fn split_offset(rest: &str) -> (&str, &str) {
    rest.find(['Z', 'z', '+', '-'])
        .map_or((rest, ""), |at| rest.split_at(at))
}

/// `+hh:mm` in seconds.
fn offset_seconds(offset: &str) -> Option<i32> {
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let two = |s: &str| (s.len() == 2).then(|| s.parse::<u8>().ok()).flatten();
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours < 24 && minutes < 60).then(|| sign * (i32::from(hours) * 3600 + i32::from(minutes) * 60))
}

/// `hh[:mm[:ss[.fraction]]]`.
fn clock_time(clock: &str) -> Option<jiff::civil::Time> {
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.split(':').map(|part| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<i8>().ok()).flatten()
    });
    let hour = parts.next()??;
    let minute = parts.next().map_or(Some(0), |p| p)?;
    let second = parts.next().map_or(Some(0), |p| p)?;
    let nanos = scaled(&format!("0.{fraction}"), NANOS).filter(|_| !fraction.contains('.'))?;
    if parts.next().is_some() {
        return None;
    }
    jiff::civil::Time::new(hour, minute, second, i32::try_from(nanos).ok()?).ok()
}

/// How long ago, in the words of container and image lists: `5 minutes`, `About an hour`, `3 weeks`.
pub fn age(of: SignedDuration) -> String {
    let seconds = of.as_secs().max(0);
    let minutes = seconds / 60;
    // Hours are rounded, everything else is cut.
    let hours = (seconds + 1800) / 3600;
    let (count, unit) = match () {
        () if seconds < 1 => return "Less than a second".into(),
        () if seconds == 1 => return "1 second".into(),
        () if seconds < 60 => (seconds, "seconds"),
        () if minutes == 1 => return "About a minute".into(),
        () if minutes < 60 => (minutes, "minutes"),
        () if hours == 1 => return "About an hour".into(),
        () if hours < 48 => (hours, "hours"),
        () if hours < 24 * 7 * 2 => (hours / 24, "days"),
        () if hours < 24 * 30 * 2 => (hours / 24 / 7, "weeks"),
        () if hours < 24 * 365 * 2 => (hours / 24 / 30, "months"),
        () => (seconds / 3600 / 24 / 365, "years"),
    };
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = write!(text, "{count} {unit}");
    text
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `20ms`.
pub fn go_duration(duration: std::time::Duration) -> String {
    let fraction = |whole: u128, unit: u128, name: &str| {
        let (number, rest) = (whole / unit, whole % unit);
        let digits = unit.ilog10() as usize;
        let decimals = format!("{rest:0digits$}");
        match decimals.trim_end_matches('0') {
            "" => format!("{number}{name}"),
            decimals => format!("{number}.{decimals}{name}"),
        }
    };
    let nanos = duration.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn moment(text: &str) -> Option<String> {
        let now = Timestamp::from_second(NOW).unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        parse_moment(text, now, &zone).ok().map(rfc3339)
    }

    #[test]
    fn writes_as_many_digits_as_there_are() {
        let at = |nanos| rfc3339(Timestamp::from_nanosecond(nanos).unwrap());
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(at(1_700_000_000_123_456_789), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(rfc3339_or_never(None), NEVER);
    }

    #[test]
    fn reads_seconds_with_fractions() {
        for (text, at) in [
            ("0", "1970-01-01T00:00:00Z"),
            ("1700000000", "2023-11-14T22:13:20Z"),
            ("1700000000.5", "2023-11-14T22:13:20.5Z"),
            ("1700000000.000000001", "2023-11-14T22:13:20.000000001Z"),
            ("1700000000.0000000019", "2023-11-14T22:13:20.000000001Z"),
            ("-1", "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Some(at), "{text}");
        }
    }

    #[test]
    fn reads_rfc3339_and_shortened_forms() {
        for (text, at) in [
            ("2023-11-14T22:13:20Z", "2023-11-14T22:13:20Z"),
            ("2023-11-14T22:13:20.25+01:00", "2023-11-14T21:13:20.25Z"),
            ("2023-11-14T22:13:20-01:30", "2023-11-14T23:43:20Z"),
            ("2023-11-14T22:13:20.123456789", "2023-11-14T20:13:20.123456789Z"),
            ("2023-11-14T22:13", "2023-11-14T20:13:00Z"),
            ("2023-11-14T22", "2023-11-14T20:00:00Z"),
            ("2023-11-14T22Z", "2023-11-14T22:00:00Z"),
            ("2023-11-14", "2023-11-13T22:00:00Z"),
            ("2023-11-14Z", "2023-11-14T00:00:00Z"),
            ("2023-11-14-02:00", "2023-11-14T02:00:00Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Some(at), "{text}");
        }
    }

    #[test]
    fn reads_durations_back_from_now() {
        for (text, at) in [
            ("10m", "2023-11-14T22:03:20Z"),
            ("1h30m", "2023-11-14T20:43:20Z"),
            ("1.5h", "2023-11-14T20:43:20Z"),
            ("-1s", "2023-11-14T22:13:21Z"),
            ("250ms", "2023-11-14T22:13:19.75Z"),
            (".5s", "2023-11-14T22:13:19.5Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Some(at), "{text}");
        }
    }

    #[test]
    fn refuses_garbage() {
        for text in [
            "",
            "x",
            "-",
            ".",
            "1.2.3",
            "1.",
            "1e9",
            "10 m",
            "10d",
            "h",
            "1h2",
            "99999999999999999999",
            "9999999999999h",
            "2023-13-01",
            "2023-1-1",
            "2023-11-14T25:00",
            "2023-11-14T22:13:20+1",
            "2023-11-14T22:13:20Zx",
            "2023-11-14T1:2",
            "2023-11-14 22:13:20",
            "٣",
            "2023-11-1é",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (nanos, text) in [
            (0, "0s"),
            (5, "5ns"),
            (1_500, "1.5µs"),
            (20_000_000, "20ms"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(std::time::Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn ages_in_words() {
        let (minute, hour, day) = (60, 3600, 86_400);
        for (seconds, words) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (minute, "About a minute"),
            (119, "About a minute"),
            (2 * minute, "2 minutes"),
            (59 * minute + 59, "59 minutes"),
            (hour, "About an hour"),
            (89 * minute, "About an hour"),
            (90 * minute, "2 hours"),
            (47 * hour, "47 hours"),
            (2 * day, "2 days"),
            (13 * day, "13 days"),
            (14 * day, "2 weeks"),
            (59 * day, "8 weeks"),
            (60 * day, "2 months"),
            (729 * day, "24 months"),
            (730 * day, "2 years"),
        ] {
            assert_eq!(age(SignedDuration::from_secs(seconds)), words, "{seconds}");
        }
    }
}
