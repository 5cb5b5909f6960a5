//! One line of a log file, taken apart without building a JSON document.

use jiff::Timestamp;
use memchr::memchr2;

use super::{Stream, escape::unescape};

/// One entry of a log. It borrows from the reader's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where the output came from.
    pub stream: Stream,
    /// The text as it stands in the file: the inside of a JSON string.
    escaped: &'a [u8],
    /// Attributes as they stand in the file: a JSON object.
    attrs: Option<&'a [u8]>,
    time: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Takes a line apart; none if it is not a whole entry, for example torn by a killed writer.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(line.trim_ascii().strip_prefix(b"{")?.strip_suffix(b"}")?);
        // Docker leaves out an empty text.
        let (mut escaped, mut stream, mut attrs, mut time) = (&b""[..], None, None, None);
        while let Some((key, value)) = fields.next()? {
            match (key, value) {
                (b"log", Value::String(text)) => escaped = text,
                (b"stream", Value::String(b"stdout")) => stream = Some(Stream::Stdout),
                (b"stream", Value::String(b"stderr")) => stream = Some(Stream::Stderr),
                (b"time", Value::String(text)) => time = Some(text),
                (b"attrs", Value::Other(object)) => attrs = Some(object),
                _ => {}
            }
        }
        Some(Self {
            stream: stream?,
            escaped,
            attrs,
            time: time?,
        })
    }

    /// Appends the text, newline included if it has one, to `out`.
    pub fn text(&self, out: &mut Vec<u8>) {
        unescape(self.escaped, out);
    }

    /// When it was written; none if the file holds something else there.
    pub fn timestamp(&self) -> Option<Timestamp> {
        jiff::fmt::temporal::DateTimeParser::new()
            .parse_timestamp(self.time)
            .ok()
    }

    /// The time as it stands in the file, RFC 3339.
    pub fn time(&self) -> &'a [u8] {
        self.time
    }

    /// The attributes as a JSON object, if there are any.
    pub fn attrs(&self) -> Option<&'a [u8]> {
        self.attrs
    }
}

/// A value inside the object.
enum Value<'a> {
    /// The inside of a string, escaped.
    String(&'a [u8]),
    /// Anything else, as it stands.
    Other(&'a [u8]),
}

/// The rest of an object's inside.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next key and value; `Some(None)` at the end, none if this is not JSON.
    #[expect(clippy::option_option, reason = "private, and a Result would say no more")]
    fn next(&mut self) -> Option<Option<(&'a [u8], Value<'a>)>> {
        let rest = self.0.trim_ascii_start();
        if rest.is_empty() {
            return Some(None);
        }
        let rest = rest.strip_prefix(b",").unwrap_or(rest).trim_ascii_start();
        let (key, rest) = string(rest)?;
        let rest = rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let (value, rest) = match string(rest) {
            Some((text, rest)) => (Value::String(text), rest),
            None => {
                let (value, rest) = rest.split_at(other(rest)?);
                (Value::Other(value), rest)
            }
        };
        self.0 = rest;
        Some(Some((key, value)))
    }
}

/// The inside of the string that `bytes` starts with, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = bytes.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', inside.get(at..)?)?;
        if inside.get(at) == Some(&b'"') {
            return Some((inside.get(..at)?, inside.get(at + 1..)?));
        }
        at += 2;
    }
}

/// Length of the value, not a string, that `bytes` starts with.
fn other(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0usize);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let (text, _) = string(bytes.get(at..)?)?;
                at += text.len() + 1;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    (depth == 0 && at > 0).then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(line: &str) -> Option<String> {
        let mut out = Vec::new();
        Entry::parse(line.as_bytes())?.text(&mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn reads_our_own_and_other_writers() {
        let line = r#"{"log":"a \"b\"\\\n","stream":"stderr","attrs":{"k":"}\"","n":"1"},"time":"2026-01-02T03:04:05.6Z"}"#;
        let entry = Entry::parse(line.as_bytes()).unwrap();
        assert_eq!(entry.stream, Stream::Stderr);
        assert_eq!(entry.attrs(), Some(&br#"{"k":"}\"","n":"1"}"#[..]));
        assert_eq!(entry.timestamp(), Some("2026-01-02T03:04:05.6Z".parse().unwrap()));
        assert_eq!(text(line).unwrap(), "a \"b\"\\\n");

        let spaced = " { \"time\" : \"2026-01-02T03:04:05+01:00\" , \"x\": [1, {}], \"stream\":\"stdout\" } ";
        assert_eq!(text(spaced).unwrap(), "");
    }

    #[test]
    fn refuses_torn_lines() {
        let line = r#"{"log":"a\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}"#;
        assert!(text(line).is_some());
        for end in 0..line.len() {
            assert_eq!(text(&line[..end]), None, "{}", &line[..end]);
        }
        assert_eq!(
            text("{\"log\":\"to{\"log\":\"a\",\"stream\":\"stdout\",\"time\":\"t\"}"),
            None
        );
    }

    proptest! {
        #[test]
        fn takes_anything(line in "\\{[\"\\\\a:,{}\\[\\]lg ]{0,60}\\}") {
            Entry::parse(line.as_bytes());
        }
    }
}
