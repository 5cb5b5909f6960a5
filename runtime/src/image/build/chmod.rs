//! `--chmod`: modes as chmod(1) takes them.

use crate::{Error, Result};

/// How a mode is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chmod {
    /// To this one.
    Octal(u32),
    /// Step by step.
    Symbolic(Vec<Change>),
}

/// One change: for whom, how, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    who: String,
    operator: char,
    permissions: String,
}

impl Chmod {
    /// Reads `755`, `u=rwX,go=rX`, `g=u`.
    ///
    /// # Errors
    /// Invalid for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = || {
            Error::invalid(format!(
                "invalid chmod parameter: '{text}'. it should be octal string or a symbolic mode"
            ))
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| refused())?;
            return if mode <= 0o7777 {
                Ok(Self::Octal(mode))
            } else {
                Err(refused())
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            changes.extend(clause_of(clause).ok_or_else(refused)?);
        }
        Ok(Self::Symbolic(changes))
    }

    /// The mode of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Octal(mode) => *mode,
            Self::Symbolic(changes) => changes
                .iter()
                .fold(mode & 0o7777, |mode, change| change.apply(mode, is_dir)),
        }
    }
}

/// The changes of one clause: `u+x-w` is two.
fn clause_of(clause: &str) -> Option<Vec<Change>> {
    let (who, mut rest) = clause.split_at(clause.find(['+', '-', '='])?);
    let mut changes = Vec::new();
    while let Some(operator) = rest.chars().next() {
        let after = rest.get(1..)?;
        let end = after.find(['+', '-', '=']).unwrap_or(after.len());
        let (permissions, next) = after.split_at(end);
        // Permissions of a class stand alone.
        let of_class = matches!(permissions, "u" | "g" | "o");
        if !of_class && !permissions.chars().all(|c| "rwxXst".contains(c)) {
            return None;
        }
        changes.push(Change {
            who: who.to_owned(),
            operator,
            permissions: permissions.to_owned(),
        });
        rest = next;
    }
    who.chars().all(|c| "ugoa".contains(c)).then_some(changes)
}

impl Change {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let all = self.who.is_empty() || self.who.contains('a');
        let mut mask = 0;
        for (letter, bits) in [('u', 0o4700), ('g', 0o2070), ('o', 0o1007)] {
            if all || self.who.contains(letter) {
                mask |= bits;
            }
        }
        let of_class = |shift: u32| (mode >> shift & 0o7) * 0o111;
        let mut bits = 0;
        for permission in self.permissions.chars() {
            bits |= match permission {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if is_dir || mode & 0o111 != 0 => 0o111,
                's' => 0o6000,
                't' => 0o1000,
                'u' => of_class(6),
                'g' => of_class(3),
                'o' => of_class(0),
                _ => 0,
            };
        }
        let sticky = if self.permissions.contains('t') { 0o1000 } else { 0 };
        bits &= mask | sticky;
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => (mode & !(mask & 0o777)) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, mode, is_dir, expected) in [
            ("755", 0o644, false, 0o755),
            ("4755", 0o644, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("a+t,u+s", 0o755, true, 0o5755),
            ("g=u", 0o640, false, 0o660),
            ("go=u-w", 0o600, false, 0o644),
            ("o=", 0o755, false, 0o750),
        ] {
            assert_eq!(
                Chmod::parse(text).unwrap().apply(mode, is_dir),
                expected,
                "{text}"
            );
        }
        for text in ["", "999", "77777", "u", "z=r", "u=q", "g=ux", "u=rw,"] {
            assert!(Chmod::parse(text).is_err(), "{text}");
        }
    }
}
