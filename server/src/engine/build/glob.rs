//! Patterns of file names.

/// Whether `pattern` fits all of `text`; `*` and `?` fit every character.
pub fn text(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    fits(&pattern, &text)
}

/// Whether `pattern` fits the name `name`, one component: `*`, `?`, `[a-z]`, `[^a-z]`, and a backslash that takes the
/// meaning off what follows (Go's path/filepath.Match).
pub fn name(pattern: &str, name: &str) -> bool {
    text(pattern, name)
}

/// Whether `pattern` has a meaning beyond itself.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Whether the components `pattern` fit the components `path`; `**` fits any number of them, but at the end it stands for
/// what is inside a directory, not for the directory itself.
pub fn path(pattern: &[&str], path: &[&str]) -> bool {
    // Positions to come back to after a `**`.
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < path.len() {
        match pattern.get(p) {
            Some(&"**") => {
                back = Some((p, n));
                p += 1;
                continue;
            }
            Some(part) if path.get(n).is_some_and(|at| name(part, at)) => {
                p += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((star, begin)) = back else { return false };
        back = Some((star, begin + 1));
        (p, n) = (star + 1, begin + 1);
    }
    p == pattern.len()
}

fn fits(pattern: &[char], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        let here = text.get(t).copied();
        if pattern.get(p) == Some(&'*') {
            back = Some((p, t));
            p += 1;
            continue;
        }
        let hit = match here {
            None if p >= pattern.len() => return true,
            None => None,
            Some(c) => one(pattern.get(p..).unwrap_or_default(), c),
        };
        if let Some(width) = hit {
            p += width;
            t += 1;
            continue;
        }
        match back {
            Some((star, begin)) if begin < text.len() => {
                back = Some((star, begin + 1));
                (p, t) = (star + 1, begin + 1);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern fits the one character `c`.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match *pattern.first()? {
        '?' => Some(1),
        '[' => class(pattern, c),
        '\\' if pattern.len() > 1 => (pattern.get(1) == Some(&c)).then_some(2),
        literal => (literal == c).then_some(1),
    }
}

fn class(pattern: &[char], c: char) -> Option<usize> {
    let mut at = 1;
    let negated = matches!(pattern.get(at), Some('^' | '!'));
    if negated {
        at += 1;
    }
    let mut hit = false;
    let first = at;
    loop {
        let mut low = *pattern.get(at)?;
        if low == ']' && at > first {
            break;
        }
        if low == '\\' {
            at += 1;
            low = *pattern.get(at)?;
        }
        at += 1;
        let mut high = low;
        if pattern.get(at) == Some(&'-') && pattern.get(at + 1).is_some_and(|c| *c != ']') {
            high = *pattern.get(at + 1)?;
            at += 2;
        }
        hit |= (low..=high).contains(&c);
    }
    (hit != negated).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, yes, no) in [
            ("*.go", "a.go", "a.gox"),
            ("a?c", "abc", "ac"),
            ("[a-c]x", "bx", "dx"),
            ("[^a-c]x", "dx", "bx"),
            ("a\\*b", "a*b", "axb"),
            ("*a*b", "xaxxab", "xax"),
        ] {
            assert!(name(pattern, yes), "{pattern} {yes}");
            assert!(!name(pattern, no), "{pattern} {no}");
        }
        assert!(name("*", ""));
        assert!(!name("[a", "a"));
    }

    #[test]
    fn paths() {
        let path = |pattern: &str, of: &str| {
            let pattern: Vec<_> = pattern.split('/').collect();
            let of: Vec<_> = of.split('/').collect();
            super::path(&pattern, &of)
        };
        assert!(path("**/*.md", "a/b/c.md"));
        assert!(path("**/*.md", "c.md"));
        assert!(path("a/**", "a/b/c"));
        assert!(path("a/**/d", "a/d"));
        assert!(!path("a/*", "a/b/c"));
        assert!(!path("a", "b"));
    }
}
