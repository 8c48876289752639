//! What a request means: which command it is, which keys it names, what it does to them, whether its reply is kept, which
//! way it travels, and how its reply looks to a client of the older protocol. Nothing here does I/O or holds state: a [`Table`] is built once
//! from the static rows (and again when an upstream has told its own table) and is then only read, by every worker.
//!
//! The commonest question, [`Table::find`] for `GET` or `SET`, is asked for every request, so it neither allocates nor
//! walks; all other questions cost in proportion to the arguments they look at.
//!
//! Promises: no function here panics, whatever the arguments are. [`Spec::keys`] says [`Keys::Known`] only when every key
//! that the server can touch through the arguments was given; in doubt it says [`Keys::All`]. It does not know what
//! scripts do to keys that they did not declare.

pub mod kept;
pub mod keys;
pub mod own;
pub mod rule;
pub mod server;
pub mod slot;
pub mod spec;
pub mod table;

#[cfg(test)]
mod sample;

pub use kept::{Absent, Cache, NotCached};
pub use keys::Keys;
pub use server::{CommandReplyError, ServerCommand, decode_command_reply};
pub use spec::{Access, Local, Path, Pin, Spec, WrongSubcommand};
pub use table::Table;
