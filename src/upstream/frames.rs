//! Frames of a connection that is asked one thing at a time: the handshake, the pool, the control plane. The shared
//! connections have a loop of their own, for speed.

use bytes::BytesMut;

use super::dial::DialError;
use crate::net::Stream;
use crate::resp::reply::FrameScanner;

/// What has arrived and was not taken yet.
pub struct FrameReader {
    most_bytes: usize,
    input: BytesMut,
    /// Where in the frame at the start of `input` the search for its end goes on.
    scanner: FrameScanner,
    scanned: usize,
}

/// Far more than anything that is asked here is answered with.
const MOST_FRAME_BYTES: usize = 8 << 20;

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader::up_to(MOST_FRAME_BYTES)
    }
}

impl FrameReader {
    /// For frames of so many bytes at most.
    pub fn up_to(most_bytes: usize) -> FrameReader {
        FrameReader {
            most_bytes,
            input: BytesMut::new(),
            scanner: FrameScanner::default(),
            scanned: 0,
        }
    }

    /// The next frame, a push or not. May be given up at any time.
    ///
    /// # Errors
    /// The connection is gone, or what came is no RESP or too large.
    pub async fn next(&mut self, stream: &mut Stream) -> Result<BytesMut, DialError> {
        loop {
            let (bytes, is_complete) = self
                .scanner
                .advance(&self.input[self.scanned..])
                .map_err(|e| DialError::Protocol(e.to_string()))?;
            self.scanned += bytes;
            if is_complete {
                return Ok(self.input.split_to(std::mem::take(&mut self.scanned)));
            }
            if self.input.len() > self.most_bytes {
                return Err(DialError::TooLarge(self.most_bytes));
            }
            if self.read(stream).await? == 0 {
                return Err(DialError::Io("the server closed the connection".into()));
            }
        }
    }

    /// Reads what is there, at least a byte; 0 is the end of the stream.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn read(&mut self, stream: &mut Stream) -> Result<usize, DialError> {
        Ok(stream.read_append(&mut self.input).await?)
    }
}
