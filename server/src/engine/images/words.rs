//! Splitting and expanding the arguments of Dockerfile instructions.

use std::collections::BTreeMap;

use berth_runtime::{Error, Result};

/// The variables that `$NAME` and `${NAME}` stand for.
pub(super) type Variables = BTreeMap<String, String>;

/// Splits `text` at blanks outside quotes, taking quotes away and expanding variables, as a shell would split words.
///
/// Single quotes keep everything as it is; in double quotes a backslash takes the meaning off `"`, `$` and itself.
///
/// # Errors
/// Invalid if a quote or a `${` is never closed, or a modifier is unknown.
pub(super) fn split(text: &str, variables: &Variables) -> Result<Vec<String>> {
    let mut scanner = Scanner::new(text, variables);
    let mut words = Vec::new();
    while let Some(word) = scanner.word()? {
        words.push(word);
    }
    Ok(words)
}

/// Expands variables and takes quotes away in `text` as one word, blanks included.
///
/// # Errors
/// As [`split`].
pub(super) fn expand(text: &str, variables: &Variables) -> Result<String> {
    let mut scanner = Scanner::new(text, variables);
    scanner.text(|_| false)
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    source: &'a str,
    variables: &'a Variables,
}

impl<'a> Scanner<'a> {
    fn new(source: &'a str, variables: &'a Variables) -> Self {
        Self {
            rest: source.chars().peekable(),
            source,
            variables,
        }
    }

    fn word(&mut self) -> Result<Option<String>> {
        while self.rest.next_if(|c| c.is_whitespace()).is_some() {}
        if self.rest.peek().is_none() {
            return Ok(None);
        }
        self.text(char::is_whitespace).map(Some)
    }

    /// Reads up to an unquoted character for which `ends` holds, or to the end.
    fn text(&mut self, ends: impl Fn(char) -> bool) -> Result<String> {
        let mut out = String::new();
        while let Some(c) = self.rest.next_if(|&c| !ends(c)) {
            match c {
                '\'' => self.single_quoted(&mut out)?,
                '"' => self.double_quoted(&mut out)?,
                '\\' => out.extend(self.rest.next()),
                '$' => self.variable(&mut out)?,
                c => out.push(c),
            }
        }
        Ok(out)
    }

    fn single_quoted(&mut self, out: &mut String) -> Result<()> {
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(()),
                Some(c) => out.push(c),
                None => return Err(self.unclosed('\'')),
            }
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<()> {
        loop {
            match self.rest.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.rest.next_if(|c| matches!(c, '"' | '$' | '\\')) {
                    Some(c) => out.push(c),
                    None => out.push('\\'),
                },
                Some('$') => self.variable(out)?,
                Some(c) => out.push(c),
                None => return Err(self.unclosed('"')),
            }
        }
    }

    fn variable(&mut self, out: &mut String) -> Result<()> {
        if self.rest.next_if_eq(&'{').is_some() {
            return self.braced(out);
        }
        let name = self.name();
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(self.value(&name).unwrap_or_default());
        }
        Ok(())
    }

    /// `${NAME}`, `${NAME:-default}`, `${NAME:+alternative}`, and both without the colon.
    fn braced(&mut self, out: &mut String) -> Result<()> {
        let name = self.name();
        let colon = self.rest.next_if_eq(&':').is_some();
        let modifier = self.rest.next();
        if modifier == Some('}') && !colon {
            out.push_str(self.value(&name).unwrap_or_default());
            return Ok(());
        }
        let word = self.text(|c| c == '}')?;
        if self.rest.next().is_none() {
            return Err(self.unclosed('{'));
        }
        let set = self.value(&name).filter(|v| !colon || !v.is_empty());
        match (modifier, set) {
            (Some('-'), Some(value)) => out.push_str(value),
            (Some('-'), None) | (Some('+'), Some(_)) => out.push_str(&word),
            (Some('+'), None) => {}
            _ => {
                return Err(Error::invalid(format!(
                    "unsupported modifier in the variable {name:?} of {:?}: use ${{NAME}}, ${{NAME:-x}} or ${{NAME:+x}}",
                    self.source
                )));
            }
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.variables.get(name).map(String::as_str)
    }

    fn unclosed(&self, what: char) -> Error {
        Error::invalid(format!("unterminated {what} in {:?}: close it", self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        [("A", "one"), ("B", "two words"), ("E", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    #[test]
    fn splits_like_a_shell() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  a  b ", &["a", "b"]),
            (r#"k="a b" c"#, &["k=a b", "c"]),
            (r"k='a $A' d", &["k=a $A", "d"]),
            (r"a\ b c", &["a b", "c"]),
            (
                "$A ${A}x ${N:-d} ${A:+y} ${E:-e} ${E-e} ${N+z}",
                &["one", "onex", "d", "y", "e", "", ""],
            ),
            (r#""$B" $"#, &["two words", "$"]),
            (r#""a\"b\\c\d""#, &[r#"a"b\c\d"#]),
        ];
        for (text, words) in cases {
            assert_eq!(split(text, &variables()).unwrap(), *words, "{text}");
        }
    }

    #[test]
    fn refuses_what_never_ends() {
        for text in ["'a", "\"a", "${A", "${A:?x}", "${A:-x"] {
            assert!(split(text, &variables()).is_err(), "{text}");
        }
    }

    #[test]
    fn expands_a_whole_text() {
        assert_eq!(expand("/x/$A b", &variables()).unwrap(), "/x/one b");
    }
}
