//! Lists of CPUs and memory nodes: cpuset(7), "List format".

use std::fmt;

/// The largest number accepted; the kernel's own limit on CPUs is 8192.
const MAX: usize = 8191;

/// A set of numbers written as `0-3,7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuList {
    words: Vec<u64>,
}

impl CpuList {
    /// Reads a list; an empty text is the empty list. None if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut list = Self::default();
        if text.is_empty() {
            return Some(list);
        }
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            (first..=last).for_each(|member| list.insert(member));
        }
        Some(list)
    }

    /// Whether every member is also one of `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.words
            .iter()
            .enumerate()
            .all(|(index, word)| word & !other.words.get(index).copied().unwrap_or(0) == 0)
    }

    fn insert(&mut self, member: usize) {
        let index = member / 64;
        if self.words.len() <= index {
            self.words.resize(index + 1, 0);
        }
        if let Some(word) = self.words.get_mut(index) {
            *word |= 1 << (member % 64);
        }
    }

    fn contains(&self, member: usize) -> bool {
        self.words
            .get(member / 64)
            .is_some_and(|word| word & (1 << (member % 64)) != 0)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut member = 0;
        let mut comma = "";
        while member < self.words.len() * 64 {
            if !self.contains(member) {
                member += 1;
                continue;
            }
            let first = member;
            while self.contains(member + 1) {
                member += 1;
            }
            match first == member {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{member}")?,
            }
            comma = ",";
            member += 1;
        }
        Ok(())
    }
}

fn number(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number| *number <= MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, normal) in [
            ("", ""),
            ("0", "0"),
            ("0-2,4", "0-2,4"),
            ("7,0,1", "0-1,7"),
            ("64-65", "64-65"),
            ("1,1", "1"),
        ] {
            assert_eq!(CpuList::parse(text).unwrap().to_string(), normal, "{text}");
        }
        for text in [
            ",",
            "0,",
            "-1",
            "1-",
            "2-1",
            "a",
            "0-0-0",
            " 1",
            "+1",
            "8192",
            "99999999999999999999",
        ] {
            assert_eq!(CpuList::parse(text), None, "{text}");
        }
    }

    #[test]
    fn subsets() {
        let host = CpuList::parse("0-1").unwrap();
        for (text, fits) in [
            ("", true),
            ("0", true),
            ("0,1", true),
            ("2", false),
            ("0-2", false),
            ("100", false),
        ] {
            assert_eq!(CpuList::parse(text).unwrap().is_subset(&host), fits, "{text}");
        }
    }
}
