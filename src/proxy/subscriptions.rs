//! The kinds of subscriptions, and those of one client on an upstream connection of its own, counted from the server's
//! confirmations.

use crate::resp::reply;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    Channel,
    Pattern,
    Shard,
}

impl Subscription {
    pub const ALL: [Subscription; 3] = [Subscription::Channel, Subscription::Pattern, Subscription::Shard];

    /// What a command begins or ends.
    pub fn of_command(name: &str) -> Option<(Subscription, bool)> {
        let kinds = Subscription::ALL.into_iter();
        kinds
            .flat_map(|kind| [(kind, true), (kind, false)])
            .find(|(kind, is_start)| kind.confirmed_as(*is_start) == name)
    }

    /// The first word of the server's confirmation; also the command in lower case.
    pub fn confirmed_as(self, is_start: bool) -> &'static str {
        match (self, is_start) {
            (Subscription::Channel, true) => "subscribe",
            (Subscription::Channel, false) => "unsubscribe",
            (Subscription::Pattern, true) => "psubscribe",
            (Subscription::Pattern, false) => "punsubscribe",
            (Subscription::Shard, true) => "ssubscribe",
            (Subscription::Shard, false) => "sunsubscribe",
        }
    }
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
        let word = std::str::from_utf8(reply::text(parts.next()?)?).ok()?;
        let (which, is_start) = Subscription::of_command(word)?;
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
