//! The text of a log line as a JSON string, byte for byte as Docker writes it, and back.

use memchr::memchr;

/// Bytes that cannot stand for themselves: control characters, the two that JSON reserves, three that are dangerous in
/// HTML, and everything that is not ASCII (which has to be checked first).
static SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || byte >= 0x80 || matches!(byte as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    table
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` to `out` as the inside of a JSON string. Each byte that is not UTF-8 becomes U+FFFD, as in Go.
pub(super) fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&b| SPECIAL[usize::from(b)]) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let length = match tail.first() {
            Some(&byte) if byte < 0x80 => {
                escape_ascii(byte, out);
                1
            }
            _ => {
                // No multi-byte sequence contains an ASCII byte, so a run of other bytes can be judged on its own.
                let length = tail.iter().position(|&b| b < 0x80).unwrap_or(tail.len());
                escape_run(&tail[..length], out);
                length
            }
        };
        rest = &tail[length..];
    }
    out.extend_from_slice(rest);
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => out.extend_from_slice(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            HEX[usize::from(byte >> 4)],
            HEX[usize::from(byte & 15)],
        ]),
    }
}

/// Bytes above 0x7f: UTF-8 passes, but for the two separators that end a line in JavaScript.
fn escape_run(run: &[u8], out: &mut Vec<u8>) {
    for chunk in run.utf8_chunks() {
        let mut valid = chunk.valid();
        while let Some(at) = valid.find(['\u{2028}', '\u{2029}']) {
            let (plain, tail) = valid.split_at(at);
            out.extend_from_slice(plain.as_bytes());
            let line_separator = tail.starts_with('\u{2028}');
            out.extend_from_slice(if line_separator { b"\\u2028" } else { b"\\u2029" });
            valid = &tail['\u{2028}'.len_utf8()..];
        }
        out.extend_from_slice(valid.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Appends the text of `escaped`, the inside of a JSON string, to `out`. Escapes that are not JSON read as U+FFFD.
pub(super) fn unescape(escaped: &[u8], out: &mut Vec<u8>) {
    let mut rest = escaped;
    while let Some(at) = memchr(b'\\', rest) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let length = match tail.get(1) {
            Some(b'n') => short(b'\n', out),
            Some(b'r') => short(b'\r', out),
            Some(b't') => short(b'\t', out),
            Some(b'b') => short(8, out),
            Some(b'f') => short(12, out),
            Some(&byte @ (b'"' | b'\\' | b'/')) => short(byte, out),
            Some(b'u') => unescape_unicode(tail, out),
            _ => {
                out.extend_from_slice("\u{fffd}".as_bytes());
                tail.len().min(2)
            }
        };
        rest = &tail[length..];
    }
    out.extend_from_slice(rest);
}

fn short(byte: u8, out: &mut Vec<u8>) -> usize {
    out.push(byte);
    2
}

/// `tail` starts with `\u`; gives the number of bytes consumed.
fn unescape_unicode(tail: &[u8], out: &mut Vec<u8>) -> usize {
    let (character, length) = match unit(tail) {
        Some(high @ 0xd800..0xdc00) => match unit(tail.get(6..).unwrap_or_default()) {
            Some(low @ 0xdc00..0xe000) => (
                char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00)),
                12,
            ),
            _ => (None, 6),
        },
        Some(code) => (char::from_u32(code), 6),
        None => (None, tail.len().min(2)),
    };
    let mut utf8 = [0; 4];
    let text = character
        .unwrap_or(char::REPLACEMENT_CHARACTER)
        .encode_utf8(&mut utf8);
    out.extend_from_slice(text.as_bytes());
    length
}

/// The code unit of the `\uXXXX` that `bytes` starts with.
fn unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |value, &digit| {
        char::from(digit).to_digit(16).map(|d| value * 16 + d)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn unescaped(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        unescape(text.as_bytes(), &mut out);
        out
    }

    #[test]
    fn escapes_as_docker_does() {
        assert_eq!(escaped(b"plain\n"), "plain\\n");
        assert_eq!(
            escaped(b"\"q\" \\ \t\r<a>&\x1b[0m\x7f"),
            "\\\"q\\\" \\\\ \\u0009\\r\\u003ca\\u003e\\u0026\\u001b[0m\x7f"
        );
        assert_eq!(escaped("grüße 🦀\u{2028}x".as_bytes()), "grüße 🦀\\u2028x");
        // One replacement for each byte, not for each sequence.
        assert_eq!(escaped(b"a\xf0\x9f\xa6b\xff"), "a\\ufffd\\ufffd\\ufffdb\\ufffd");
    }

    #[test]
    fn unescapes_what_others_write() {
        assert_eq!(unescaped("a\\tb\\/\\ud83e\\udd80\\u00e9"), "a\tb/🦀é".as_bytes());
        assert_eq!(
            unescaped("\\ud83e!\\x\\u12\\"),
            "\u{fffd}!\u{fffd}\u{fffd}12\u{fffd}".as_bytes()
        );
    }

    proptest! {
        #[test]
        fn is_json_and_reads_back(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let json: String = serde_json::from_str(&format!("\"{}\"", escaped(&text))).unwrap();
            prop_assert_eq!(json.as_bytes(), unescaped(&escaped(&text)));
            if let Ok(valid) = std::str::from_utf8(&text) {
                prop_assert_eq!(&json, valid);
            }
        }

        #[test]
        fn unescape_takes_anything(text in "[\\\\u0-9a-fx\"d8]{0,40}") {
            unescaped(&text);
        }
    }
}
