//! The wire format, RESP2 and RESP3, and nothing else: no I/O, no clock, no decision about a request.
//!
//! Sessions use [`request`], [`stream`] and [`encode`]; upstream connections use [`reply`]; whoever answers a RESP2
//! client from a RESP3 reply uses [`convert`]. Everything here is a pure step over bytes and is called from worker
//! threads.
//!
//! Units: all lengths and offsets are bytes. Promises: no function panics on any input, none allocates by an announced
//! size (only by bytes that have arrived), and no scanner looks twice at a byte it has consumed.
//! Not promised: that a frame means anything; that is for `command` to say.

pub mod convert;
pub mod encode;
pub mod first;
pub mod inline;
pub mod limits;
pub mod reply;
pub mod request;
pub mod stream;

mod number;
#[cfg(test)]
mod samples;

/// The protocol version that one side of a link speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}
