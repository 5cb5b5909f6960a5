//! A supervisor's output without its frames.

use std::io;

use berth_api::frames::HEADER_LEN;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads what was written, whether it comes framed or not.
#[derive(Debug)]
pub(super) struct Payload<R> {
    from: R,
    framed: bool,
    /// What is left of the frame at hand.
    left: u64,
}

impl<R: AsyncRead + Unpin> Payload<R> {
    /// Of `from`, which is made of frames or plain.
    pub fn new(from: R, framed: bool) -> Self {
        Self {
            from,
            framed,
            left: 0,
        }
    }

    /// Reads into `buffer`; 0 at the end. What has been read of a frame's header is lost if the future is dropped.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.framed {
            return self.from.read(buffer).await;
        }
        while self.left == 0 {
            let mut header = [0u8; HEADER_LEN];
            match self.from.read_exact(&mut header).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => other?,
            };
            let [.., a, b, c, d] = header;
            self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
        }
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let length = self.from.read(buffer.get_mut(..most).unwrap_or_default()).await?;
        self.left -= length as u64;
        Ok(length)
    }

    /// Passes on everything.
    pub async fn copy(mut self, to: &mut (impl AsyncWrite + Unpin), buffer: usize) -> io::Result<()> {
        let mut buffer = vec![0u8; buffer];
        loop {
            let length = self.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            to.write_all(buffer.get(..length).unwrap_or_default()).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_api::frames::{Source, frame};

    use super::*;

    #[tokio::test]
    async fn frames_are_taken_away() {
        let mut framed = frame(Source::Stdout, b"one").to_vec();
        framed.extend_from_slice(&frame(Source::Stdout, b""));
        framed.extend_from_slice(&frame(Source::Stderr, b", two"));
        // The last one is cut.
        framed.extend_from_slice(&frame(Source::Stdout, b"three")[..5]);
        for size in [1, 4, 100] {
            let mut plain = Vec::new();
            Payload::new(&framed[..], true)
                .copy(&mut plain, size)
                .await
                .unwrap();
            assert_eq!(plain, b"one, two");
        }
        let mut plain = Vec::new();
        Payload::new(&b"as it is"[..], false)
            .copy(&mut plain, 3)
            .await
            .unwrap();
        assert_eq!(plain, b"as it is");
    }
}
