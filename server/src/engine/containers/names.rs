//! Container ids and names: drawing new ones, and what a name may look like.

use berth_runtime::{Error, Result};
use rand::{Rng, RngExt, seq::IndexedRandom};

/// Length of the short form of an id, in digits.
pub const SHORT_ID: usize = 12;

/// How many drawn names are tried before the short id is taken.
const TRIES: usize = 6;

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "ample", "arctic", "azure", "balmy", "bold", "brave", "breezy", "bright",
    "brisk", "calm", "candid", "cheerful", "civil", "clear", "clever", "coastal", "cosy", "crisp", "daring",
    "deft", "earnest", "easy", "fair", "faithful", "fleet", "fond", "frank", "fresh", "gallant", "gentle",
    "gleaming", "golden", "hale", "handy", "hardy", "hearty", "honest", "humble", "jolly", "jovial", "keen",
    "kind", "lively", "loyal", "lucid", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble",
    "open", "patient", "plucky", "polite", "prompt", "proud", "quick", "quiet", "ready", "robust", "salty",
    "serene", "sharp", "silver", "sincere", "smooth", "snug", "solid", "sound", "spry", "steady", "stout",
    "sturdy", "sunny", "swift", "tidal", "tidy", "trim", "true", "upbeat", "valiant", "vivid", "warm",
    "wise", "witty", "zesty",
];

/// Seafarers, explorers, shipwrights, and those who measured sea and sky.
const SURNAMES: &[&str] = &[
    "amundsen",
    "anson",
    "aubry",
    "barentsz",
    "beaufort",
    "bering",
    "bligh",
    "bowditch",
    "brunel",
    "cabot",
    "cartier",
    "champlain",
    "cook",
    "cousteau",
    "dampier",
    "davis",
    "dias",
    "drake",
    "earle",
    "ericson",
    "fitzroy",
    "flinders",
    "franklin",
    "frobisher",
    "gama",
    "halley",
    "harrison",
    "heyerdahl",
    "hudson",
    "humboldt",
    "ibnmajid",
    "joyon",
    "kepler",
    "knoxjohnston",
    "kotzebue",
    "laperouse",
    "lutke",
    "mackenzie",
    "magellan",
    "maury",
    "mercator",
    "moitessier",
    "nansen",
    "nares",
    "nobile",
    "ortelius",
    "parry",
    "peral",
    "piccard",
    "polo",
    "pytheas",
    "quiros",
    "ross",
    "sacagawea",
    "scoresby",
    "shackleton",
    "slocum",
    "soto",
    "stevin",
    "tabarly",
    "tasman",
    "tereshkova",
    "torres",
    "tupaia",
    "vancouver",
    "vespucci",
    "wallis",
    "weddell",
    "wilkes",
    "zhenghe",
];

/// A new id: 64 lower-case hexadecimal digits, of which the first twelve are not all decimal (a host name of digits
/// only could be taken for an address).
pub fn new_id() -> String {
    let mut rng = rand::rng();
    loop {
        let id = hex_id(&mut rng);
        if id.bytes().take(SHORT_ID).any(|digit| !digit.is_ascii_digit()) {
            return id;
        }
    }
}

fn hex_id(rng: &mut impl Rng) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [0u8; 32];
    rng.fill(&mut bytes);
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// The first twelve digits of an id.
pub fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// Names to try for a container without one, in order: drawn ones, from the second on with a digit behind, and at last
/// its short id.
pub fn candidates(id: &str) -> impl Iterator<Item = String> {
    (0..TRIES)
        .map(drawn)
        .chain(std::iter::once(short_id(id).to_owned()))
}

fn drawn(attempt: usize) -> String {
    let mut rng = rand::rng();
    let adjective = ADJECTIVES.choose(&mut rng).copied().unwrap_or("steady");
    let surname = SURNAMES.choose(&mut rng).copied().unwrap_or("slocum");
    let digit = match attempt {
        0 => String::new(),
        _ => rng.random_range(0..10u8).to_string(),
    };
    format!("{adjective}_{surname}{digit}")
}

/// The name asked for without its one leading slash.
///
/// # Errors
/// Invalid, if it is not a letter or digit followed by at least one of letters, digits, `_`, `.` and `-`.
pub fn check(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bare.len() > 1 && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest {
        Ok(bare)
    } else {
        Err(Error::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_no_host_number() {
        for _ in 0..100 {
            let id = new_id();
            assert_eq!(id.len(), 64);
            assert!(
                id.bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            );
            assert!(short_id(&id).bytes().any(|b| b.is_ascii_alphabetic()));
        }
    }

    #[test]
    fn drawn_names_are_valid_and_end_with_the_short_id() {
        let id = "ab".repeat(32);
        let names: Vec<_> = candidates(&id).collect();
        assert_eq!(names.len(), TRIES + 1);
        assert_eq!(names.last().map(String::as_str), Some("abababababab"));
        assert!(!names[0].ends_with(|c: char| c.is_ascii_digit()));
        assert!(
            names[1..]
                .iter()
                .take(TRIES - 1)
                .all(|n| n.ends_with(|c: char| c.is_ascii_digit()))
        );
    }

    #[test]
    fn every_word_makes_a_valid_name() {
        for word in ADJECTIVES.iter().chain(SURNAMES) {
            assert!(check(word).is_ok(), "{word}");
        }
    }

    #[test]
    fn names_follow_the_rule() {
        for (good, bare) in [
            ("web", "web"),
            ("/web", "web"),
            ("a1", "a1"),
            ("0-a.b_c", "0-a.b_c"),
        ] {
            assert_eq!(check(good).unwrap(), bare);
        }
        for bad in [
            "", "/", "a", "//web", "-web", ".web", "_web", "we b", "wéb", "web/a", "web\n",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
