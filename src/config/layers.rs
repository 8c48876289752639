//! Settings from all sources, one over the other, each with the place it came from.
//!
//! Values are kept as they were written: what they mean is decided once, when a section reads them, so that
//! a flag, a variable and a line of the file are held to the same rules. Runs at start, on the main thread.

use std::collections::BTreeMap;
use std::fmt;
use toml::de::{DeTable, DeValue};

/// What was set, by the dotted name of the option (`cache.bound`).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
}

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub value: Value,
    pub origin: Origin,
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Flag(bool),
    Texts(Vec<String>),
    /// A kind of value that no option takes.
    Other(&'static str),
}

/// Where a setting was written; later ones win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file, with the line, from 1.
    File {
        /// The path as given.
        path: String,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

/// Something wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: String,
    message: String,
}

impl Settings {
    /// Puts the text of a TOML file over what is set. Syntax errors become problems, all of them.
    pub fn add_file(&mut self, path: &str, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let line_at = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
        for error in errors {
            let line = error.span().map_or(1, |span| line_at(span.start));
            self.problems.push(Problem {
                place: format!("{path}:{line}"),
                message: error.message().to_owned(),
            });
        }
        self.add_table("", table.get_ref(), path, &line_at);
    }

    /// Puts a value of a flag or an environment variable over what is set.
    pub fn set(&mut self, key: &str, value: impl Into<String>, origin: Origin) {
        self.insert(key.to_owned(), Value::Text(value.into()), origin);
    }

    /// The same for an option that takes a list; added to what the same source set already.
    pub fn add_to_list(&mut self, key: &str, values: impl IntoIterator<Item = String>, origin: Origin) {
        match self.entries.get_mut(key) {
            Some(Entry {
                value: Value::Texts(list),
                origin: earlier,
            }) if earlier.rank() == origin.rank() => list.extend(values),
            _ => self.insert(key.to_owned(), Value::Texts(values.into_iter().collect()), origin),
        }
    }

    /// Notes something wrong with a source itself.
    pub fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem {
            place: place.into(),
            message: message.into(),
        });
    }

    pub(super) fn into_parts(self) -> (BTreeMap<String, Entry>, Vec<Problem>) {
        (self.entries, self.problems)
    }

    fn insert(&mut self, key: String, value: Value, origin: Origin) {
        self.entries.insert(key, Entry { value, origin });
    }

    fn add_table(&mut self, prefix: &str, table: &DeTable<'_>, path: &str, line_at: &dyn Fn(usize) -> usize) {
        for (key, value) in table {
            let name = if is_bare(key.get_ref()) {
                key.get_ref().to_string()
            } else {
                format!("{:?}", key.get_ref())
            };
            let name = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}.{name}")
            };
            let origin = Origin::File {
                path: path.to_owned(),
                line: line_at(key.span().start),
            };
            match value.get_ref() {
                DeValue::Table(inner) => self.add_table(&name, inner, path, line_at),
                value => self.insert(name, Value::from_toml(value), origin),
            }
        }
    }
}

impl Value {
    fn from_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Boolean(flag) => Self::Flag(*flag),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or(Self::Other("a number that is too large"), Self::Integer),
            DeValue::Array(items) => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map_or(Self::Other("a list of other things than texts"), Self::Texts),
            DeValue::Float(_) => Self::Other("a number with a fraction"),
            DeValue::Datetime(_) => Self::Other("a date"),
            DeValue::Table(_) => Self::Other("a table"),
        }
    }

    /// The kind of value, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Flag(_) => "true or false",
            Self::Texts(_) => "a list",
            Self::Other(kind) => kind,
        }
    }
}

impl Origin {
    /// Which of two sources wins: the higher one.
    #[must_use]
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::File { .. } => 0,
            // Names of other services give way to nearcache's own.
            Self::Environment(name) if !name.starts_with("NEARCACHE_") => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }

    /// Whether text must do for numbers and truth values too, since the source has nothing else.
    pub(super) fn is_untyped(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

impl Problem {
    /// A problem with the option `key`, which was set at `origin`, or was not set.
    pub(super) fn new(key: &str, origin: Option<&Origin>, message: impl Into<String>) -> Self {
        let place = match origin {
            Some(Origin::File { path, line }) => format!("{path}:{line}: {key}"),
            Some(Origin::Environment(name) | Origin::Flag(name)) => (*name).to_owned(),
            None => key.to_owned(),
        };
        Self {
            place,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
