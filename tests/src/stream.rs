//! The two forms of streams: frames (output of processes) and sequences of JSON values.

/// Standard output in a frame's header.
pub const STDOUT: u8 = 1;
/// Standard error in a frame's header.
pub const STDERR: u8 = 2;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// 0 standard input, 1 standard output, 2 standard error, 3 an error of the engine.
    pub stream: u8,
    /// What was written.
    pub payload: Vec<u8>,
}

/// Takes bytes as they come and gives frames as they are complete.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame.
    ///
    /// # Errors
    /// If the header is none.
    pub fn frame(&mut self) -> Result<Option<Frame>, String> {
        let Some((&[stream, zero1, zero2, zero3, l1, l2, l3, l4], rest)) = self.buffer.split_first_chunk()
        else {
            return Ok(None);
        };
        if stream > 3 || [zero1, zero2, zero3] != [0; 3] {
            return Err(format!("{:?} is not the header of a frame", self.buffer.get(..8)));
        }
        let length = u32::from_be_bytes([l1, l2, l3, l4]) as usize;
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame {
            stream,
            payload: payload.to_vec(),
        };
        self.buffer.drain(..8 + length);
        Ok(Some(frame))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// All frames of a finished stream.
///
/// # Errors
/// If it is not made of whole frames.
pub fn frames(bytes: &[u8]) -> Result<Vec<Frame>, String> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = decoder.frame()? {
        frames.push(frame);
    }
    match decoder.buffer.as_slice() {
        [] => Ok(frames),
        rest => Err(format!(
            "the stream ends within a frame; {} bytes are left",
            rest.len()
        )),
    }
}

/// What a process wrote, by stream, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// The payloads of `frames`, put together.
    ///
    /// # Panics
    /// On a frame of any other stream: the engine reported an error there.
    #[track_caller]
    pub fn of(frames: &[Frame]) -> Self {
        let mut parts: [Vec<u8>; 2] = Default::default();
        for frame in frames {
            match frame.stream {
                STDOUT => parts[0].extend(&frame.payload),
                STDERR => parts[1].extend(&frame.payload),
                other => panic!("stream {other}: {}", String::from_utf8_lossy(&frame.payload)),
            }
        }
        let [out, err] = parts.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Self { out, err }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_across_pieces() {
        let bytes = b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\0";
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for byte in bytes {
            decoder.push(&[*byte]);
            found.extend(decoder.frame().expect("frames"));
        }
        assert_eq!(found, frames(bytes).expect("frames"));
        assert_eq!(found.len(), 2);
        assert_eq!(Output::of(&found).out, "hi");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(frames(b"\x01\0\0\0\0\0\0\x05hi").is_err());
        assert!(frames(b"plain text").is_err());
    }
}
