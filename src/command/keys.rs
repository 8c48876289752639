//! Which arguments of a request are keys. A row names one of the shapes below; the walk over the options follows the
//! server's own parser (it decides by position, so a key or a member that reads like an option does no harm).
//!
//! What is malformed makes the answer wider, never narrower: where a count is not a number or announces more keys than
//! there are arguments, the server answers with an error and touches nothing, yet the answer here is [`Keys::All`].

use crate::resp::request::Args;

#[cfg(test)]
mod tests;

/// How much of what a request touches its arguments tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Keys {
    /// All of it: every key was given.
    Known,
    /// It touches, or may touch, any key: read or written as the row's access says.
    All,
    /// It has nothing to do with keys.
    None,
}

/// Where the keys of a command are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    None,
    All,
    /// The first argument.
    One,
    /// From `first` to `last`, every `step`-th; a negative `last` counts from the end (-1: the last argument).
    Range {
        first: u16,
        last: i16,
        step: u16,
    },
    /// A count at `at`, the keys behind it, every `step`-th.
    Counted {
        at: u16,
        step: u16,
    },
    /// A destination in the first argument, a count in the second, the keys behind it.
    Stored,
    /// `EVAL`, `FCALL` and their kin: a count in the second argument; without declared keys it may touch any.
    Script,
    /// `XREAD`, `XREADGROUP`: the first half of what follows `STREAMS`.
    Streams,
    /// `SORT`, `SORT_RO`: the first argument and the destination after `STORE`. A `BY` or `GET` with a pattern reads keys
    /// that are known only to the server.
    Sort,
    /// `GEORADIUS` (options from 6), `GEORADIUSBYMEMBER` (from 5): the first argument and the destination after `STORE`
    /// or `STOREDIST`.
    Radius {
        options: u16,
    },
    /// The third argument, or, when that is empty, what follows `KEYS`.
    Migrate,
    /// A container all whose subcommands name one key, in the second argument.
    Sub,
    /// A container of which only `USAGE` names a key.
    Memory,
    /// A container whose subcommands have nothing to do with keys if they are among these, and may do anything if not.
    AllBut(&'static [&'static [u8]]),
}

/// The first argument and all that follow.
pub(super) const EVERY: Shape = range(1, -1, 1);
/// Keys and values in turn.
pub(super) const PAIRS: Shape = range(1, -1, 2);
/// The first two arguments.
pub(super) const TWO: Shape = range(1, 2, 1);
/// All but the last argument, which is a timeout.
pub(super) const TIMED: Shape = range(1, -2, 1);

pub(super) const fn range(first: u16, last: i16, step: u16) -> Shape {
    Shape::Range { first, last, step }
}

/// One key after another, behind their count.
pub(super) const fn counted_at(at: u16) -> Shape {
    Shape::Counted { at, step: 1 }
}

impl Shape {
    pub(super) fn keys<'a>(self, args: Args<'a>, each: &mut dyn FnMut(&'a [u8])) -> Keys {
        match self {
            Shape::One => {
                if args.len() > 1 {
                    each(args.arg(1));
                }
                Keys::Known
            }
            Shape::None => Keys::None,
            Shape::All => Keys::All,
            Shape::Range { first, last, step } => {
                let (first, last) = (usize::from(first), isize::from(last));
                let end = if last < 0 {
                    args.len().checked_add_signed(last + 1)
                } else {
                    Some(last.unsigned_abs() + 1)
                };
                give(args, first, end.unwrap_or(0).min(args.len()), usize::from(step), each);
                Keys::Known
            }
            Shape::Counted { at, step } => counted(args, usize::from(at), usize::from(step), each),
            Shape::Stored => {
                give(args, 1, 2.min(args.len()), 1, each);
                counted(args, 2, 1, each)
            }
            Shape::Script => match counted(args, 2, 1, each) {
                Keys::Known if number(args.arg(2)) == Some(0) => Keys::All,
                answer => answer,
            },
            Shape::Streams => streams(args, each),
            Shape::Sort => sort(args, each),
            Shape::Radius { options } => radius(args, usize::from(options), each),
            Shape::Migrate => migrate(args, each),
            Shape::Sub => {
                give(args, 2, 3.min(args.len()), 1, each);
                Keys::Known
            }
            Shape::Memory if args.arg(1).eq_ignore_ascii_case(b"usage") => Shape::Sub.keys(args, each),
            Shape::Memory => Keys::None,
            Shape::AllBut(harmless) if super::spec::is_one_of(args.arg(1), harmless) => Keys::None,
            Shape::AllBut(_) => Keys::All,
        }
    }
}

impl Shape {
    /// The index of the only key, where the reply is a function of that key and of the arguments.
    #[inline]
    pub(super) fn only(self, args: Args<'_>) -> Option<usize> {
        match self {
            Shape::One => Some(1),
            Shape::Sub | Shape::Memory => Some(2),
            Shape::Streams => {
                let first = stream_options(args).streams?;
                (is_plain_stream(args, first) && first + 2 == args.len()).then_some(first)
            }
            Shape::Range { first, last: -1, .. } => {
                let first = usize::from(first);
                (first + 1 == args.len()).then_some(first)
            }
            Shape::Sort => (sort(args, &mut |_| ()) == Keys::Known).then_some(1),
            _ => None,
        }
        .filter(|at| *at < args.len())
    }
}

impl Shape {
    /// Whether the reply of a read is a function of the keys that [`Shape::keys`] gives, and of the arguments.
    pub(super) fn is_whole(self, args: Args<'_>) -> bool {
        match self {
            Shape::One | Shape::Range { .. } | Shape::Counted { .. } => true,
            Shape::Streams => stream_options(args)
                .streams
                .is_some_and(|first| is_plain_stream(args, first)),
            Shape::Sort => sort(args, &mut |_| ()) == Keys::Known,
            _ => false,
        }
    }
}

/// An option that is not known here may make the reply depend on more.
fn is_plain_stream(args: Args<'_>, first: usize) -> bool {
    first == 2 || first == 4 && args.arg(1).eq_ignore_ascii_case(b"count")
}

/// What stands before `STREAMS`.
pub(super) struct StreamOptions {
    pub(super) is_blocking: bool,
    /// The index of the first argument after `STREAMS`, if it is there.
    pub(super) streams: Option<usize>,
}

/// Reads the options of `XREAD` and `XREADGROUP`, in any order. An option of a newer server that takes a value is stepped
/// over one word at a time.
pub(super) fn stream_options(args: Args<'_>) -> StreamOptions {
    let mut is_blocking = false;
    let mut i = 1;
    while i < args.len() {
        let word = args.arg(i);
        if word.eq_ignore_ascii_case(b"streams") {
            return StreamOptions {
                is_blocking,
                streams: Some(i + 1),
            };
        }
        if word.eq_ignore_ascii_case(b"block") {
            is_blocking = true;
            i += 2;
        } else if word.eq_ignore_ascii_case(b"count") {
            i += 2;
        } else if word.eq_ignore_ascii_case(b"group") {
            i += 3;
        } else {
            i += 1;
        }
    }
    StreamOptions {
        is_blocking,
        streams: None,
    }
}

/// The count at `at` if it is a number by the server's own rules (no sign, no leading zero) and small enough for any
/// request.
pub(super) fn count_at(args: Args<'_>, at: usize) -> Option<usize> {
    number(args.arg(at))
}

fn streams<'a>(args: Args<'a>, each: &mut dyn FnMut(&'a [u8])) -> Keys {
    let Some(first) = stream_options(args).streams else {
        return Keys::All;
    };
    let count = (args.len() - first) / 2;
    if count == 0 {
        return Keys::All;
    }
    give(args, first, first + count, 1, each);
    Keys::Known
}

fn sort<'a>(args: Args<'a>, each: &mut dyn FnMut(&'a [u8])) -> Keys {
    let mut answer = Keys::Known;
    let mut destination = None;
    let mut i = 2;
    while i < args.len() {
        let word = args.arg(i);
        if word.eq_ignore_ascii_case(b"limit") {
            i += 3;
        } else if word.eq_ignore_ascii_case(b"store") {
            destination = Some(i + 1);
            i += 2;
        } else if word.eq_ignore_ascii_case(b"by") || word.eq_ignore_ascii_case(b"get") {
            // Without an asterisk `BY` means "do not sort" and `GET` gives the element itself or nil.
            if args.arg(i + 1).contains(&b'*') {
                answer = Keys::All;
            }
            i += 2;
        } else {
            i += 1;
        }
    }
    with_destination(args, destination, each);
    answer
}

fn radius<'a>(args: Args<'a>, options: usize, each: &mut dyn FnMut(&'a [u8])) -> Keys {
    let mut destination = None;
    let mut i = options;
    while i < args.len() {
        let word = args.arg(i);
        if word.eq_ignore_ascii_case(b"store") || word.eq_ignore_ascii_case(b"storedist") {
            destination = Some(i + 1);
            i += 2;
        } else if word.eq_ignore_ascii_case(b"count") {
            i += 2;
        } else {
            i += 1;
        }
    }
    with_destination(args, destination, each);
    Keys::Known
}

/// Of several destinations the last one counts, as on the server.
fn with_destination<'a>(args: Args<'a>, destination: Option<usize>, each: &mut dyn FnMut(&'a [u8])) {
    give(args, 1, 2.min(args.len()), 1, each);
    if let Some(at) = destination.filter(|at| *at < args.len()) {
        each(args.arg(at));
    }
}

fn migrate<'a>(args: Args<'a>, each: &mut dyn FnMut(&'a [u8])) -> Keys {
    if !args.arg(3).is_empty() {
        give(args, 3, 4.min(args.len()), 1, each);
        return Keys::Known;
    }
    let mut i = 6;
    while i < args.len() {
        let word = args.arg(i);
        if word.eq_ignore_ascii_case(b"keys") {
            give(args, i + 1, args.len(), 1, each);
            return Keys::Known;
        }
        i += if word.eq_ignore_ascii_case(b"auth") {
            2
        } else if word.eq_ignore_ascii_case(b"auth2") {
            3
        } else {
            1
        };
    }
    Keys::All
}

fn counted<'a>(args: Args<'a>, at: usize, step: usize, each: &mut dyn FnMut(&'a [u8])) -> Keys {
    let Some(count) = number(args.arg(at)) else {
        return Keys::All;
    };
    let first = at + 1;
    let end = first.saturating_add(count.saturating_mul(step));
    if end > args.len() {
        return Keys::All;
    }
    give(args, first, end, step, each);
    Keys::Known
}

fn give<'a>(args: Args<'a>, first: usize, end: usize, step: usize, each: &mut dyn FnMut(&'a [u8])) {
    for i in (first..end).step_by(step.max(1)) {
        each(args.arg(i));
    }
}

fn number(digits: &[u8]) -> Option<usize> {
    match digits {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 10 => digits.iter().try_fold(0_usize, |sum, digit| match digit {
            b'0'..=b'9' => Some(sum * 10 + usize::from(digit - b'0')),
            _ => None,
        }),
        _ => None,
    }
}
