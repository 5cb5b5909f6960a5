//! Log entries as Docker's logs operation sends them.

use std::collections::BTreeMap;

use super::Entry;

/// How entries are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// In frames (without a terminal), or as raw text.
    pub framed: bool,
    /// With the time in front: RFC 3339 with nine digits.
    pub timestamps: bool,
    /// With the attributes in front: `key=value`, sorted, joined by commas.
    pub details: bool,
}

/// Writes entries one after the other. Attributes, mostly the same in every entry, are rendered once.
#[derive(Debug)]
pub(super) struct Encoder {
    format: Format,
    attrs: Vec<u8>,
    rendered: Vec<u8>,
}

impl Encoder {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            attrs: Vec::new(),
            rendered: Vec::new(),
        }
    }

    /// Appends one entry to `out`.
    pub fn push(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        if self.format.framed {
            out.extend_from_slice(&entry.stream.header(0));
        }
        if self.format.timestamps {
            push_time(entry, out);
            out.push(b' ');
        }
        if self.format.details {
            self.render(entry.attrs().unwrap_or_default());
            out.extend_from_slice(&self.rendered);
            out.push(b' ');
        }
        entry.text(out);
        if self.format.framed {
            // An entry is at most a few hundred KiB.
            let length = u32::try_from(out.len() - start - 8).unwrap_or(u32::MAX);
            out[start..start + 8].copy_from_slice(&entry.stream.header(length));
        }
    }

    fn render(&mut self, attrs: &[u8]) {
        if attrs == self.attrs {
            return;
        }
        self.attrs.clear();
        self.attrs.extend_from_slice(attrs);
        let pairs: BTreeMap<String, String> = serde_json::from_slice(attrs).unwrap_or_default();
        self.rendered.clear();
        for (key, value) in pairs {
            if !self.rendered.is_empty() {
                self.rendered.push(b',');
            }
            query_escape(&key, &mut self.rendered);
            self.rendered.push(b'=');
            query_escape(&value, &mut self.rendered);
        }
    }
}

/// The time with exactly nine digits of fraction.
fn push_time(entry: &Entry<'_>, out: &mut Vec<u8>) {
    const SECOND: usize = "2026-01-02T03:04:05".len();
    let time = entry.time();
    if let Some((second, fraction)) = time.strip_suffix(b"Z").and_then(|t| t.split_at_checked(SECOND)) {
        let digits = fraction.strip_prefix(b".").unwrap_or(fraction);
        if digits.len() <= 9 && digits.iter().all(u8::is_ascii_digit) {
            out.extend_from_slice(second);
            out.push(b'.');
            out.extend_from_slice(digits);
            out.resize(out.len() + 9 - digits.len(), b'0');
            out.push(b'Z');
            return;
        }
    }
    match entry.timestamp() {
        Some(time) => out.extend_from_slice(format!("{time:.9}").as_bytes()),
        None => out.extend_from_slice(time),
    }
}

/// Percent-encoding as in a query's values: unreserved characters stay, a blank becomes a plus sign.
fn query_escape(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(line: &str, format: Format) -> String {
        let mut out = Vec::new();
        Encoder::new(format).push(&Entry::parse(line.as_bytes()).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn forms_as_docker_sends_them() {
        let line = r#"{"log":"a\n","stream":"stderr","attrs":{"z":"1 2","a":"b/c"},"time":"2026-01-02T03:04:05.6Z"}"#;
        let plain = Format::default();
        assert_eq!(encoded(line, plain), "a\n");
        let framed = Format {
            framed: true,
            ..plain
        };
        assert_eq!(encoded(line, framed), "\x02\0\0\0\0\0\0\x02a\n");
        let all = Format {
            framed: true,
            timestamps: true,
            details: true,
        };
        assert_eq!(
            encoded(line, all),
            "\x02\0\0\0\0\0\0\x2f2026-01-02T03:04:05.600000000Z a=b%2Fc,z=1+2 a\n"
        );
        let bare = r#"{"log":"a","stream":"stdout","time":"2026-01-02T03:04:05+01:00"}"#;
        let details = Format { framed: false, ..all };
        assert_eq!(encoded(bare, details), "2026-01-02T02:04:05.000000000Z  a");
    }
}
