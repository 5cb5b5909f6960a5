//! Signals as clients write them.

use berth_runtime::{Error, Result};

/// The number of SIGKILL.
pub const KILL: i32 = 9;
/// The number of SIGTERM.
pub const TERM: i32 = 15;

/// The first real-time signal that is free for programs; the C library keeps 32 and 33 to itself.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

const NAMES: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("RTMIN", RT_MIN),
    ("RTMAX", RT_MAX),
];

/// The number of a signal given by number (1 to 64), by name with or without `SIG` in any case, or as `RTMIN+n` and
/// `RTMAX-n`.
///
/// # Errors
/// Invalid, if there is no such signal.
pub fn parse(text: &str) -> Result<i32> {
    find(text).ok_or_else(|| Error::invalid(format!("invalid signal: {text}")))
}

fn find(text: &str) -> Option<i32> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RT_MAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let number = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
        (Some(above), _) => RT_MIN.checked_add(above.parse().ok()?)?,
        (_, Some(below)) => RT_MAX.checked_sub(below.parse().ok()?)?,
        _ => return None,
    };
    (RT_MIN..=RT_MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_read() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGKILL", 9),
            ("sigkill", 9),
            ("term", 15),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
            ("RTMAX", 64),
            ("SIGCHLD", 17),
            ("winch", 28),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "65",
            "SIG",
            "FOO",
            "RTMIN+31",
            "RTMIN+",
            "RTMAX-31",
            "RTMIN+-1",
            "99999999999",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
