//! The text of a Dockerfile as logical lines: directives read, comments gone, continuations joined, heredocs taken off.

use berth_runtime::{Error, Result};

/// Instructions that heredocs can follow.
const WITH_HEREDOCS: [&str; 3] = ["RUN", "COPY", "ADD"];

/// What the comments at the very top of a Dockerfile say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// The character that continues lines and takes the meaning off others.
    pub escape: char,
    /// The frontend that was asked for. It is understood and not needed.
    pub syntax: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            escape: '\\',
            syntax: None,
        }
    }
}

/// One instruction as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Number of its first line, from 1.
    pub number: usize,
    /// Its name in capitals.
    pub name: String,
    /// What follows the name, continuations joined.
    pub rest: String,
    /// The texts that follow it.
    pub heredocs: Vec<Heredoc>,
    /// Whether an empty line stands where it goes on.
    pub gaps: bool,
}

/// A text in the Dockerfile itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Whether variables in it are expanded: its word had no quotes.
    pub expand: bool,
    /// Whether tabs in front of its lines are taken away.
    pub chomp: bool,
    /// Its lines.
    pub content: String,
}

impl Line {
    /// The line as it is shown: name and rest.
    pub fn text(&self) -> String {
        match self.rest.as_str() {
            "" => self.name.clone(),
            rest => format!("{} {rest}", self.name),
        }
    }
}

/// Reads directives and logical lines.
///
/// # Errors
/// Invalid for a directive that is wrong or given twice, for a heredoc that never ends, and for a text without any
/// instruction.
pub fn read(text: &str) -> Result<(Directives, Vec<Line>)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical = physical(text);
    let directives = directives(&physical)?;
    logical(&physical, directives)
}

/// [`read`] for a text without directives.
///
/// # Errors
/// As [`read`].
pub fn read_with(text: &str, escape: char) -> Result<(Directives, Vec<Line>)> {
    let physical = physical(text);
    logical(&physical, Directives { escape, syntax: None })
}

/// The lines as they are written, with a carriage return at their ends if they have one.
fn physical(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.split('\n').collect();
    if lines.last() == Some(&"") {
        lines.pop();
    }
    lines
}

fn logical(physical: &[&str], directives: Directives) -> Result<(Directives, Vec<Line>)> {
    let mut reader = Reader {
        physical,
        next: 0,
        escape: directives.escape,
    };
    let mut lines = Vec::new();
    while let Some(line) = reader.line()? {
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(Error::invalid("file with no instructions"));
    }
    Ok((directives, lines))
}

fn directives(physical: &[&str]) -> Result<Directives> {
    let mut directives = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    for line in physical {
        let Some(comment) = line.trim_start().strip_prefix('#') else {
            break;
        };
        let Some((name, value)) = comment.split_once('=') else {
            break;
        };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if !matches!(name.as_str(), "escape" | "syntax" | "check") {
            break;
        }
        if seen.contains(&name) {
            return Err(Error::invalid(format!(
                "only one {name} parser directive can be used"
            )));
        }
        match name.as_str() {
            "escape" => {
                directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    other => {
                        return Err(Error::invalid(format!(
                            "invalid escape token '{other}' does not match ` or \\"
                        )));
                    }
                };
            }
            "syntax" => directives.syntax = Some(value.to_owned()),
            _ => {}
        }
        seen.push(name);
    }
    Ok(directives)
}

struct Reader<'a> {
    physical: &'a [&'a str],
    next: usize,
    escape: char,
}

impl<'a> Reader<'a> {
    fn take(&mut self) -> Option<&'a str> {
        let line = self.physical.get(self.next)?;
        self.next += 1;
        Some(line)
    }

    fn line(&mut self) -> Result<Option<Line>> {
        let first = loop {
            match self.take() {
                None => return Ok(None),
                Some(line) if is_nothing(line) => {}
                Some(line) => break line,
            }
        };
        let number = self.next;
        let mut joined = String::new();
        let mut gaps = false;
        let mut part = first.trim_start();
        loop {
            match continued(part, self.escape) {
                None => {
                    joined.push_str(part);
                    break;
                }
                Some(begin) => joined.push_str(begin),
            }
            // Comments and empty lines inside do not end it.
            let next = loop {
                match self.take() {
                    Some(line) if is_nothing(line) => gaps |= line.trim().is_empty(),
                    other => break other,
                }
            };
            match next {
                Some(next) => part = next,
                None => break,
            }
        }
        let joined = joined.trim_end();
        let (name, rest) = joined.split_once(char::is_whitespace).unwrap_or((joined, ""));
        let mut line = Line {
            number,
            name: name.to_ascii_uppercase(),
            rest: rest.trim().to_owned(),
            heredocs: Vec::new(),
            gaps,
        };
        self.heredocs(&mut line)?;
        Ok(Some(line))
    }

    fn heredocs(&mut self, line: &mut Line) -> Result<()> {
        if !line.rest.contains("<<") {
            return Ok(());
        }
        let mut name = line.name.as_str();
        let mut rest = line.rest.as_str();
        while name == "ONBUILD" {
            let (inner, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            (name, rest) = (inner, after);
        }
        if !WITH_HEREDOCS.contains(&name.to_ascii_uppercase().as_str()) || rest.trim_start().starts_with('[')
        {
            return Ok(());
        }
        for word in raw_words(rest, self.escape) {
            let Some(mut heredoc) = heredoc(&word) else {
                continue;
            };
            loop {
                let Some(text) = self.take() else {
                    return Err(Error::invalid(format!(
                        "dockerfile parse error on line {}: unterminated heredoc {:?}",
                        line.number, heredoc.name
                    )));
                };
                let text = if heredoc.chomp {
                    text.trim_start_matches('\t')
                } else {
                    text
                };
                if text.trim_end_matches('\r') == heredoc.name {
                    break;
                }
                heredoc.content.push_str(text);
                heredoc.content.push('\n');
            }
            line.heredocs.push(heredoc);
        }
        Ok(())
    }
}

fn is_nothing(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

/// The part before the character that continues the line, if one does.
fn continued(line: &str, escape: char) -> Option<&str> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let begin = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!begin.ends_with(escape)).then_some(begin)
}

/// What a word that begins a heredoc says: `<<EOF`, `<<-EOF`, `3<<"EOF"`.
pub fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    let sound = !name.is_empty() && !name.contains(['<', '>', ' ', '(', ')']);
    sound.then(|| Heredoc {
        expand: name == rest,
        name,
        chomp,
        content: String::new(),
    })
}

/// Splits at blanks outside quotes and leaves quotes and escapes as they are.
pub fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(characters.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, String)> {
        let (_, lines) = read(text).unwrap();
        lines.iter().map(|line| (line.number, line.text())).collect()
    }

    #[test]
    fn continuations_and_comments() {
        let text = "\u{feff}# a comment\n\nfrom x\nRUN a \\\n  # inside\n\n  b \\  \n c\nRUN d\\\\\nRUN e";
        let expected = [
            (3, "FROM x".to_owned()),
            (4, "RUN a   b  c".to_owned()),
            (9, r"RUN d\\".to_owned()),
            (10, "RUN e".to_owned()),
        ];
        assert_eq!(lines(text), expected);
        assert_eq!(lines("FROM x\r\nRUN a \\\r\n b\r\n")[1].1, "RUN a  b");
        assert_eq!(lines("FROM x \\")[0].1, "FROM x");
    }

    #[test]
    fn directives_only_at_the_top() {
        let (directives, lines) =
            read("# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN a `\n b\\").unwrap();
        assert_eq!(directives.escape, '`');
        assert_eq!(directives.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(lines[1].rest, "a  b\\");
        assert_eq!(read("# hello\n# escape=`\nFROM x").unwrap().0.escape, '\\');
        for text in [
            "# escape=x\nFROM x",
            "# escape=\\\n# escape=`\nFROM x",
            "",
            "# only\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn several_heredocs_in_one_instruction() {
        let text = "RUN <<A cat <<-'B' > /x\none $V\nA\n\t\ttwo\n# kept\n\tB\nCOPY <<\"F\" /f\nx\nF\nRUN echo <<< y\nRUN z";
        let (_, lines) = read(text).unwrap();
        assert_eq!(lines.len(), 4);
        let [a, b] = &lines[0].heredocs[..] else {
            panic!("two heredocs")
        };
        assert_eq!(
            (a.name.as_str(), a.content.as_str(), a.expand),
            ("A", "one $V\n", true)
        );
        assert_eq!(
            (b.name.as_str(), b.content.as_str(), b.expand),
            ("B", "two\n# kept\n", false)
        );
        assert!(!lines[1].heredocs[0].expand);
        assert!(lines[2].heredocs.is_empty());
        assert!(read("RUN <<EOF\nx").is_err());
    }
}
