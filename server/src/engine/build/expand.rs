//! Variables and quotes in the words of instructions, as a shell would expand them.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use berth_runtime::{Error, Result};

use super::glob;

/// How deep `${A:-${B:-…}}` may go.
const DEPTH_MAX: usize = 32;
/// How long an expanded word may get, in bytes.
const LENGTH_MAX: usize = 1 << 20;

/// The variables there are.
pub type Variables = BTreeMap<String, String>;

/// Expands `text` as one word: quotes go, blanks stay.
///
/// # Errors
/// Invalid for what is never closed, an unknown modifier, and `${NAME:?message}` of an unset variable.
pub fn word(text: &str, escape: char, variables: &Variables) -> Result<String> {
    Ok(Scanner::new(text, escape, variables).text(None)?.0)
}

/// Expands `text` and splits it at blanks outside quotes; variables are split too.
///
/// # Errors
/// As [`word`].
pub fn words(text: &str, escape: char, variables: &Variables) -> Result<Vec<String>> {
    Ok(Scanner::new(text, escape, variables).text(None)?.1)
}

/// Expands variables alone, in a text whose quotes have no meaning (a heredoc).
///
/// # Errors
/// As [`word`].
pub fn variables_only(text: &str, escape: char, variables: &Variables) -> Result<String> {
    let mut scanner = Scanner::new(text, escape, variables);
    scanner.raw_quotes = true;
    Ok(scanner.text(None)?.0)
}

struct Scanner<'a> {
    rest: Peekable<Chars<'a>>,
    source: &'a str,
    escape: char,
    variables: &'a Variables,
    raw_quotes: bool,
    in_pattern: bool,
    depth: usize,
}

/// The beginning of a text, for messages.
fn shown(text: &str) -> &str {
    text.char_indices()
        .nth(100)
        .and_then(|(end, _)| text.get(..end))
        .unwrap_or(text)
}

/// A text and the words it consists of.
#[derive(Default)]
struct Words {
    text: String,
    words: Vec<String>,
    current: Option<String>,
}

impl Words {
    /// Adds what does not split.
    fn raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.current.get_or_insert_default().push_str(text);
    }

    /// Adds what splits at blanks.
    fn splitting(&mut self, text: &str) {
        self.text.push_str(text);
        for c in text.chars() {
            match c.is_whitespace() {
                true => self.words.extend(self.current.take()),
                false => self.current.get_or_insert_default().push(c),
            }
        }
    }

    fn finish(mut self) -> (String, Vec<String>) {
        self.words.extend(self.current.take());
        (self.text, self.words)
    }
}

impl<'a> Scanner<'a> {
    fn new(source: &'a str, escape: char, variables: &'a Variables) -> Self {
        Self {
            rest: source.chars().peekable(),
            source: shown(source),
            escape,
            variables,
            raw_quotes: false,
            in_pattern: false,
            depth: 0,
        }
    }

    /// Reads up to the unquoted character `end`, which is taken, or to the end of everything.
    fn text(&mut self, end: Option<char>) -> Result<(String, Vec<String>)> {
        let mut out = Words::default();
        let mut buffer = [0; 4];
        loop {
            let Some(c) = self.rest.next() else {
                return match end {
                    Some(end) => Err(self.unclosed(end)),
                    None => Ok(out.finish()),
                };
            };
            if out.text.len() > LENGTH_MAX {
                return Err(Error::invalid(format!(
                    "a word expands to more than {LENGTH_MAX} bytes"
                )));
            }
            match c {
                c if Some(c) == end => return Ok(out.finish()),
                '\'' if !self.raw_quotes => out.raw(&self.single_quoted()?),
                '"' if !self.raw_quotes => out.raw(&self.double_quoted()?),
                '$' => {
                    let value = self.variable()?;
                    out.splitting(&value);
                }
                c if c == self.escape => match self.rest.next() {
                    // In a pattern these keep the meaning that the escape has taken off them.
                    Some(next @ ('*' | '?')) if self.in_pattern => {
                        out.raw("\\");
                        out.raw(next.encode_utf8(&mut buffer));
                    }
                    Some(next) if self.raw_quotes && next != '$' && next != self.escape => {
                        out.raw(c.encode_utf8(&mut buffer));
                        out.raw(next.encode_utf8(&mut buffer));
                    }
                    Some(next) => out.raw(next.encode_utf8(&mut buffer)),
                    None => out.raw(c.encode_utf8(&mut buffer)),
                },
                c => out.splitting(c.encode_utf8(&mut buffer)),
            }
        }
    }

    fn single_quoted(&mut self) -> Result<String> {
        let mut out = String::new();
        loop {
            match self.rest.next() {
                Some('\'') => return Ok(out),
                Some(c) => out.push(c),
                None => {
                    return Err(Error::invalid(
                        "unexpected end of statement while looking for matching single-quote",
                    ));
                }
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String> {
        let mut out = String::new();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(out),
                Some('$') => out.push_str(&self.variable()?),
                Some(c) if c == self.escape => {
                    match self.rest.next_if(|&next| next == '"' || next == '$' || next == c) {
                        Some(next) => out.push(next),
                        None => out.push(c),
                    }
                }
                Some(c) => out.push(c),
                None => {
                    return Err(Error::invalid(
                        "unexpected end of statement while looking for matching double-quote",
                    ));
                }
            }
        }
    }

    fn variable(&mut self) -> Result<String> {
        if self.rest.next_if_eq(&'{').is_some() {
            self.depth += 1;
            if self.depth > DEPTH_MAX {
                return Err(Error::invalid(format!(
                    "variables are nested too deeply in {:?}",
                    self.source
                )));
            }
            let value = self.braced()?;
            self.depth -= 1;
            return Ok(value);
        }
        let name = self.name();
        Ok(match name.as_str() {
            "" => "$".to_owned(),
            name => self.value(name).unwrap_or_default().to_owned(),
        })
    }

    fn braced(&mut self) -> Result<String> {
        let name = self.name();
        if name.is_empty() {
            return Err(Error::invalid(format!(
                "syntax error: bad substitution in {:?}",
                self.source
            )));
        }
        let value = self.value(&name).map(str::to_owned);
        match self.rest.next() {
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => match self.rest.next() {
                Some(modifier @ ('-' | '+' | '?')) => {
                    let set = value.filter(|value| !value.is_empty());
                    self.defaulted(&name, modifier, set, "is not allowed to be empty")
                }
                other => Err(self.unsupported(&format!(":{}", other.unwrap_or_default()))),
            },
            Some(modifier @ ('-' | '+' | '?')) => {
                self.defaulted(&name, modifier, value, "is not allowed to be unset")
            }
            Some(end @ ('#' | '%')) => {
                let greedy = self.rest.next_if_eq(&end).is_some();
                let pattern = self.pattern('}')?;
                Ok(trimmed(&value.unwrap_or_default(), &pattern, end, greedy))
            }
            Some('/') => {
                let all = self.rest.next_if_eq(&'/').is_some();
                let pattern = self.pattern('/')?;
                let replacement = self.text(Some('}'))?.0;
                Ok(replaced(&value.unwrap_or_default(), &pattern, &replacement, all))
            }
            Some(other) => Err(self.unsupported(&other.to_string())),
            None => Err(self.unclosed('}')),
        }
    }

    /// `-`, `+` and `?`; `set` is the value if it counts as set.
    fn defaulted(
        &mut self,
        name: &str,
        modifier: char,
        set: Option<String>,
        complaint: &str,
    ) -> Result<String> {
        let word = self.text(Some('}'))?.0;
        Ok(match (modifier, set) {
            ('-', set) => set.unwrap_or(word),
            ('+', Some(_)) => word,
            ('+', None) => String::new(),
            (_, Some(set)) => set,
            (_, None) => {
                let message = if word.is_empty() { complaint } else { &word };
                return Err(Error::invalid(format!("{name}: {message}")));
            }
        })
    }

    /// A pattern up to `end`: only `*` and `?` mean more than themselves.
    fn pattern(&mut self, end: char) -> Result<String> {
        let outer = std::mem::replace(&mut self.in_pattern, true);
        let pattern = self.text(Some(end))?.0;
        self.in_pattern = outer;
        Ok(pattern.replace('[', "\\["))
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        // Special parameters are one character and never set.
        if let Some(c) = self.rest.next_if(|c| "@*#?-!0123456789".contains(*c)) {
            return c.to_string();
        }
        while let Some(c) = self.rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.variables.get(name).map(String::as_str)
    }

    fn unsupported(&self, modifier: &str) -> Error {
        Error::invalid(format!(
            "unsupported modifier ({modifier}) in substitution: {:?}",
            self.source
        ))
    }

    fn unclosed(&self, end: char) -> Error {
        Error::invalid(format!("syntax error: missing '{end}' in {:?}", self.source))
    }
}

/// `value` without the shortest or longest beginning (`#`) or end (`%`) that fits `pattern`.
fn trimmed(value: &str, pattern: &str, end: char, greedy: bool) -> String {
    let mut cuts: Vec<usize> = value
        .char_indices()
        .map(|(at, _)| at)
        .chain([value.len()])
        .collect();
    if (end == '#') == greedy {
        cuts.reverse();
    }
    for cut in cuts {
        let (head, tail) = value.split_at(cut);
        let (part, rest) = if end == '#' { (head, tail) } else { (tail, head) };
        if glob::text(pattern, part) {
            return rest.to_owned();
        }
    }
    value.to_owned()
}

/// `value` with the first part, or all parts, that fit `pattern` replaced; longest parts first.
fn replaced(value: &str, pattern: &str, replacement: &str, all: bool) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(first) = rest.chars().next() {
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8()).rev();
        let hit = ends
            .into_iter()
            .find(|&end| glob::text(pattern, rest.get(..end).unwrap_or_default()));
        match hit {
            Some(end) => {
                out.push_str(replacement);
                rest = rest.get(end..).unwrap_or_default();
                if !all {
                    break;
                }
            }
            None => {
                out.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or_default();
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        [
            ("A", "one"),
            ("B", "two words"),
            ("E", ""),
            ("P", "a/b/c.tar.gz"),
            ("S", "foobarbaz"),
            ("W", "*[x]?"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
    }

    #[test]
    fn all_modifiers() {
        for (text, expected) in [
            ("$A ${A}x $N.", "one onex ."),
            ("${N:-d} ${E:-d} ${E-d} ${N-d}", "d d  d"),
            ("${A:+y} ${E:+y}|${E+y} ${N+y}|", "y |y |"),
            ("${A:?bad} ${A?bad}", "one one"),
            ("${P#*/} ${P##*/}", "b/c.tar.gz c.tar.gz"),
            ("${P%.*} ${P%%.*}", "a/b/c.tar a/b/c"),
            ("${P/b/X} ${P//a/-}", "a/X/c.tar.gz -/b/c.t-r.gz"),
            ("${S#f*b} ${S##f*b} ${S%b*} ${S%%b*}", "arbaz az foobar foo"),
            ("${S/ba/fo} ${S//ba/fo} ${S/o?/-}", "fooforbaz fooforfoz f-barbaz"),
            ("${W#\\*} ${W%\\?} ${W/[x]/y}", "[x]? *[x] *y?"),
            ("${S/$A/} ${S/bar/}", "foobarbaz foobaz"),
            ("${N:-${A:-z}}", "one"),
            ("\\$A '$A' \"$A\" \"\\$A\" a\\ b", "$A $A one $A a b"),
            ("$ $$ ${A}", "$ $$ one"),
            ("\"a\\nb\"", "a\\nb"),
        ] {
            assert_eq!(word(text, '\\', &variables()).unwrap(), expected, "{text}");
        }
        assert_eq!(word("a`$b \\x", '`', &variables()).unwrap(), "a$b \\x");
    }

    #[test]
    fn words_of_variables_split_and_quotes_do_not() {
        assert_eq!(
            words("a $B \"$B\" '' x", '\\', &variables()).unwrap(),
            ["a", "two", "words", "two words", "", "x"]
        );
    }

    #[test]
    fn heredocs_keep_their_quotes() {
        let text = "say \"$A\" 'it' \\n \\$A\n";
        assert_eq!(
            variables_only(text, '\\', &variables()).unwrap(),
            "say \"one\" 'it' \\n $A\n"
        );
    }

    #[test]
    fn refusals() {
        for text in [
            "${A", "${A:x}", "${A!x}", "'a", "\"a", "${N:?}", "${E:?m}", "${N?}", "${}", "${A/b}",
        ] {
            assert!(word(text, '\\', &variables()).is_err(), "{text}");
        }
        assert!(word(&"${N:-".repeat(5000), '\\', &variables()).is_err());
    }
}
