//! Which conversion rule the reply of a request takes. The general rules are right for nearly all; the forms below are
//! those for which a server's RESP2 reply is not what they would make of its RESP3 reply. The form belongs to the command
//! and its options: the reply alone does not tell.

use super::keys;
use crate::resp::convert::Rule;
use crate::resp::request::Args;

#[cfg(test)]
mod tests;

/// How a command's replies differ from the general rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replies {
    General,
    /// Nothing found or popped is a null array.
    NullArray,
    /// The same, but only when a count is given, in the second argument (`LPOP`, `RPOP`).
    NullArrayIfCounted,
    Streams,
    NullElements,
    /// Pairs of member and score when a count is given, in the second argument (`ZPOPMIN`, `ZPOPMAX`).
    PairsIfCounted,
    /// Pairs when the third argument is this word (`ZRANDMEMBER`, `HRANDFIELD`).
    PairsIfThird(&'static [u8]),
    /// Pairs with `WITHSCORES` among the options of a range, which stand from the fourth argument on; `LIMIT` takes two
    /// values.
    PairsInRange,
    /// Pairs with `WITHSCORES` behind counted keys; `WEIGHTS` takes a value for each key, `AGGREGATE` one.
    PairsOfMany,
    /// `ZRANK`, `ZREVRANK`: with `WITHSCORE` a missing member is a null array (Redis 7.2 and later).
    NullArrayIfScored,
}

impl Replies {
    pub(super) fn rule(self, args: Args<'_>) -> Rule {
        match self {
            Replies::General => Rule::General,
            Replies::NullArray => Rule::NullArray,
            Replies::NullArrayIfCounted if args.len() > 2 => Rule::NullArray,
            Replies::Streams => Rule::Streams,
            Replies::NullElements => Rule::NullElements,
            Replies::PairsIfCounted if args.len() > 2 => Rule::Flatten,
            Replies::PairsIfThird(word) if args.arg(3).eq_ignore_ascii_case(word) => Rule::Flatten,
            Replies::PairsInRange if range_has_scores(args) => Rule::Flatten,
            Replies::PairsOfMany if many_have_scores(args) => Rule::Flatten,
            Replies::NullArrayIfScored if args.arg(3).eq_ignore_ascii_case(b"withscore") => Rule::NullArray,
            Replies::NullArrayIfCounted
            | Replies::PairsIfCounted
            | Replies::PairsIfThird(_)
            | Replies::PairsInRange
            | Replies::PairsOfMany
            | Replies::NullArrayIfScored => Rule::General,
        }
    }
}

fn range_has_scores(args: Args<'_>) -> bool {
    let mut i = 4;
    while i < args.len() {
        let word = args.arg(i);
        if word.eq_ignore_ascii_case(b"withscores") {
            return true;
        }
        i += if word.eq_ignore_ascii_case(b"limit") { 3 } else { 1 };
    }
    false
}

fn many_have_scores(args: Args<'_>) -> bool {
    let Some(count) = keys::count_at(args, 1) else {
        return false;
    };
    let mut i = count.saturating_add(2);
    while i < args.len() {
        let word = args.arg(i);
        if word.eq_ignore_ascii_case(b"withscores") {
            return true;
        }
        i = i.saturating_add(if word.eq_ignore_ascii_case(b"weights") {
            count.saturating_add(1)
        } else if word.eq_ignore_ascii_case(b"aggregate") {
            2
        } else {
            1
        });
    }
    false
}
