//! What an upstream says about its own commands: the reply of `COMMAND`, and the rows made of the commands that only the
//! server knows (newer versions, modules). Runs once for each connection to a new server; speed does not matter.

use std::borrow::Cow;
use std::fmt;

use super::kept::{Cache, NotCached};
use super::keys::Shape;
use super::spec::{self, Access, Path, Pin, Spec, Subcommands};
use crate::resp::reply;

#[cfg(test)]
mod tests;

/// One element of the reply of `COMMAND`. A container is one row; of its subcommands only names and arities are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCommand {
    pub name: String,
    pub arity: i64,
    pub flags: Vec<String>,
    /// 0: no key at a fixed place.
    pub first_key: i64,
    /// Negative: counted from the end.
    pub last_key: i64,
    pub key_step: i64,
    /// In lower case, without the container's name.
    pub subcommands: Vec<(String, i64)>,
}

/// Why a reply is not the reply of `COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandReplyError {
    /// The server answered with this error.
    Refused(String),
    NotAnArray,
    /// The element with this index is not a command.
    Element(usize),
}

impl fmt::Display for CommandReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandReplyError::Refused(text) => write!(f, "the server refused COMMAND: {text}"),
            CommandReplyError::NotAnArray => f.write_str("the reply of COMMAND is not an array"),
            CommandReplyError::Element(index) => write!(f, "element {index} of the reply of COMMAND is not a command"),
        }
    }
}

impl std::error::Error for CommandReplyError {}

/// Reads the complete reply of `COMMAND` (or `COMMAND INFO …`, whose nulls are left out), RESP2 or RESP3.
pub fn decode_command_reply(frame: &[u8]) -> Result<Vec<ServerCommand>, CommandReplyError> {
    if reply::is_error(frame) {
        return Err(CommandReplyError::Refused(reply::error_text(frame)));
    }
    let rows = reply::elements(frame).ok_or(CommandReplyError::NotAnArray)?;
    let mut commands = Vec::new();
    for (index, row) in rows.enumerate() {
        if !is_null(row) {
            commands.push(command(row).ok_or(CommandReplyError::Element(index))?);
        }
    }
    Ok(commands)
}

fn is_null(frame: &[u8]) -> bool {
    frame.starts_with(b"_") || frame.starts_with(b"$-1") || frame.starts_with(b"*-1")
}

/// Name, arity, flags, first key, last key, step; since Redis 7.0, behind three columns that are not needed, subcommands.
fn command(row: &[u8]) -> Option<ServerCommand> {
    let mut columns = reply::elements(row)?;
    let name = string(columns.next()?)?;
    let arity = reply::integer(columns.next()?)?;
    let flags = reply::elements(columns.next()?)?
        .map(string)
        .collect::<Option<Vec<_>>>()?;
    let first_key = reply::integer(columns.next()?)?;
    let last_key = reply::integer(columns.next()?)?;
    let key_step = reply::integer(columns.next()?)?;
    let subcommands = match columns.nth(3).and_then(reply::elements) {
        Some(rows) => rows.filter_map(subcommand).collect(),
        None => Vec::new(),
    };
    Some(ServerCommand {
        name,
        arity,
        flags,
        first_key,
        last_key,
        key_step,
        subcommands,
    })
}

fn subcommand(row: &[u8]) -> Option<(String, i64)> {
    let mut columns = reply::elements(row)?;
    let name = string(columns.next()?)?.to_ascii_lowercase();
    let (_, name) = name.split_once('|')?;
    Some((name.to_owned(), reply::integer(columns.next()?)?))
}

fn string(frame: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(reply::text(frame)?).into_owned())
}

impl ServerCommand {
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own.eq_ignore_ascii_case(flag))
    }

    /// The row of a command that the static table does not have: never on the shared connection, since nobody knows how
    /// its replies differ between the protocol versions.
    pub(super) fn row(&self) -> Spec {
        // Neither flag says what it may do: scripting commands have neither, and write.
        let access = if self.has("readonly") && !self.has("write") {
            Access::Read
        } else {
            Access::Write
        };
        let mut row = spec::plain("", self.arity())
            .naming(access, self.shape())
            .by(self.path());
        if access == Access::Read {
            row.cache = Cache::Never(NotCached::Unknown);
        }
        row.name = Cow::Owned(self.name.to_ascii_lowercase());
        row.subcommands = self.subcommands();
        row
    }

    pub(super) fn arity(&self) -> i32 {
        i32::try_from(self.arity).unwrap_or(-1)
    }

    pub(super) fn subcommands(&self) -> Subcommands {
        let all = self.subcommands.iter();
        all.map(|(name, arity)| (name.as_str().into(), i32::try_from(*arity).unwrap_or(-1)))
            .collect()
    }

    fn shape(&self) -> Shape {
        if self.has("movablekeys") {
            return Shape::All;
        }
        match (
            u16::try_from(self.first_key),
            i16::try_from(self.last_key),
            u16::try_from(self.key_step),
        ) {
            (Ok(first @ 1..), Ok(last), Ok(step @ 1..)) => Shape::Range { first, last, step },
            _ => Shape::All,
        }
    }

    fn path(&self) -> Path {
        let is_about_data = self.has("write") || self.has("readonly") || self.first_key > 0;
        if self.has("blocking") {
            Path::Pin(Pin::Blocking)
        } else if self.has("pubsub") || (self.has("noscript") && !self.has("admin") && !is_about_data) {
            // What scripts may not call, though it is neither about data nor for administrators, is about the connection.
            Path::Pin(Pin::Stateful)
        } else {
            Path::Side
        }
    }
}
