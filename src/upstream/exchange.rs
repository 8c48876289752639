//! A connection of the control plane: one question at a time, each with its own time limit, and the messages that the server
//! sends by itself in between. For what is asked rarely; nothing here is fast.

use std::time::Duration;

use bytes::BytesMut;

use super::dial::{DialError, Greeting, Protocol, Target, Tracking};
use super::frames::FrameReader;
use crate::net::Stream;
use crate::resp::reply;
use crate::resp::{Version, encode};

pub struct Exchange {
    stream: Stream,
    frames: FrameReader,
    /// Of the node to which it leads.
    pub generation: u32,
    pub version: Version,
    has_messages: bool,
}

impl Exchange {
    /// To the upstream node, in database 0.
    pub async fn open(target: &Target) -> Result<Exchange, DialError> {
        let (stream, greeted) = target.open(Exchange::greeting(target.connect_timeout)).await?;
        Ok(Exchange {
            generation: greeted.generation,
            version: greeted.version,
            ..Exchange::over(stream)
        })
    }

    /// Over a connection that has been greeted in this way.
    pub fn over(stream: Stream) -> Exchange {
        Exchange {
            stream,
            frames: FrameReader::default(),
            generation: 0,
            version: Version::Resp3,
            has_messages: false,
        }
    }

    pub fn greeting(answer_within: Duration) -> Greeting {
        Greeting {
            protocol: Protocol::Best,
            db: 0,
            tracking: Tracking::Off,
            is_readonly: false,
            answer_within,
        }
    }

    /// The reply to one request, errors included.
    pub async fn ask(&mut self, words: &[&[u8]], within: Duration) -> Result<BytesMut, DialError> {
        let mut replies = self.ask_all(&[words], within).await?;
        replies.pop().ok_or_else(|| DialError::Protocol("no reply".into()))
    }

    /// The replies to several requests, sent together.
    pub async fn ask_all(&mut self, requests: &[&[&[u8]]], within: Duration) -> Result<Vec<BytesMut>, DialError> {
        let exchange = async {
            self.send(requests).await?;
            let mut replies = Vec::with_capacity(requests.len());
            while replies.len() < requests.len() {
                let frame = self.frame().await?;
                if frame.first() == Some(&b'>') {
                    self.has_messages = true;
                } else {
                    replies.push(frame);
                }
            }
            Ok(replies)
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout(within)),
        }
    }

    /// Sends a request that is answered by messages, unless it is refused, and behind it a question that is known to be
    /// answered (in RESP2 that can only be a `PING`); the refusal, if there is one.
    pub async fn subscribe(
        &mut self,
        words: &[&[u8]],
        barrier: &[&[u8]],
        within: Duration,
    ) -> Result<Option<BytesMut>, DialError> {
        let exchange = async {
            self.send(&[words, barrier]).await?;
            let mut refusal = None;
            loop {
                let frame = self.frame().await?;
                match frame.first() {
                    Some(b'>') => self.has_messages = true,
                    Some(b'*') if self.version == Version::Resp2 && is_message(&frame) => self.has_messages = true,
                    _ if reply::is_error(&frame) => refusal = Some(frame),
                    _ => return Ok(refusal),
                }
            }
        };
        match tokio::time::timeout(within, exchange).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout(within)),
        }
    }

    /// The next frame, whatever it is: for one whose questions are not asked by `ask`. May be given up at any time.
    pub async fn next(&mut self) -> Result<BytesMut, DialError> {
        self.frame().await
    }

    /// Sends requests whose replies come by [`Exchange::next`].
    pub async fn send(&mut self, requests: &[&[&[u8]]]) -> Result<(), DialError> {
        let mut out = Vec::new();
        for words in requests {
            encode::command(&mut out, words.iter().copied());
        }
        Ok(self.stream.write_all(&out).await?)
    }

    /// Waits until the server has said something by itself. May be given up at any time.
    pub async fn message(&mut self) -> Result<(), DialError> {
        if !std::mem::take(&mut self.has_messages) {
            drop(self.frame().await?);
        }
        Ok(())
    }

    async fn frame(&mut self) -> Result<BytesMut, DialError> {
        self.frames.next(&mut self.stream).await
    }
}

/// Whether a frame of a connection that subscribes is a message or a confirmation, by its first word: over RESP2 these are arrays
/// as the answer to a `PING` is.
pub fn is_message(frame: &[u8]) -> bool {
    let word = reply::elements(frame).and_then(|mut parts| parts.next().and_then(reply::text));
    word.is_some_and(|word| [&b"message"[..], b"subscribe"].iter().any(|end| word.ends_with(end)))
}
