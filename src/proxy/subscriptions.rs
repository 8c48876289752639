//! The subscriptions of one pinned client, counted from the server's confirmations.

use crate::resp::reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    Channel,
    Pattern,
    Shard,
}

#[derive(Debug, Default)]
pub struct Subscriptions {
    channels: i64,
    patterns: i64,
    shard_channels: i64,
}

/// One confirmation.
pub struct Confirmed {
    pub which: Subscription,
    /// Begun, not ended.
    pub is_start: bool,
    /// How many of the kind there were before it.
    pub before: usize,
}

impl Subscriptions {
    pub fn is_any(&self) -> bool {
        self.channels > 0 || self.patterns > 0 || self.shard_channels > 0
    }

    /// Counts a confirmation; `None` if the frame is none.
    pub fn confirm(&mut self, frame: &[u8]) -> Option<Confirmed> {
        if !matches!(frame.first(), Some(b'>' | b'*')) {
            return None;
        }
        let mut parts = reply::elements(frame)?;
        let (which, is_start) = match reply::text(parts.next()?)? {
            b"subscribe" => (Subscription::Channel, true),
            b"psubscribe" => (Subscription::Pattern, true),
            b"ssubscribe" => (Subscription::Shard, true),
            b"unsubscribe" => (Subscription::Channel, false),
            b"punsubscribe" => (Subscription::Pattern, false),
            b"sunsubscribe" => (Subscription::Shard, false),
            _ => return None,
        };
        let count = reply::integer(parts.nth(1)?)?;
        // The server counts channels and patterns together, and says so after each change.
        let (place, count) = match which {
            Subscription::Channel => (&mut self.channels, count - self.patterns),
            Subscription::Pattern => (&mut self.patterns, count - self.channels),
            Subscription::Shard => (&mut self.shard_channels, count),
        };
        let before = usize::try_from(std::mem::replace(place, count)).unwrap_or(0);
        Some(Confirmed {
            which,
            is_start,
            before,
        })
    }

    /// The same from the first bytes of a frame that was not held together.
    pub fn is_large_message(&self, head: &[u8]) -> bool {
        let kind = head.iter().position(|&b| b == b'\n').map(|end| &head[end + 1..]);
        self.is_any()
            && head.first() == Some(&b'*')
            && kind.is_some_and(|kind| {
                [&b"$7\r\nmessage\r\n"[..], b"$8\r\npmessage\r\n", b"$8\r\nsmessage\r\n"]
                    .iter()
                    .any(|k| kind.starts_with(k))
            })
    }

    /// RESP2 has no pushes: messages are arrays between the replies.
    pub fn is_message(&self, frame: &[u8]) -> bool {
        self.is_any()
            && frame.first() == Some(&b'*')
            && reply::elements(frame)
                .and_then(|mut parts| parts.next().and_then(reply::text))
                .is_some_and(|kind| matches!(kind, b"message" | b"pmessage" | b"smessage"))
    }
}
