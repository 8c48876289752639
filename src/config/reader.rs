//! Typed values out of settings, with every problem collected instead of the first one returned.
//!
//! A reader method answers with the default where a value is wrong, so that reading goes on; the
//! configuration it helps to build is only handed out when no problem was noted. What no section asked
//! for is unknown.

use super::OFF;
use super::layers::{Entry, Origin, Problem, Settings, Value};
use crate::units::{Bytes, Length, UnitError, parse_bytes, parse_duration};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// Hands out settings by name and notes what is wrong.
pub(super) struct Reader {
    entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
    known: BTreeSet<&'static str>,
    absent: BTreeSet<&'static str>,
}

/// Where a value is that may be in a file of its own.
pub(super) enum HereOrInFile<T> {
    Here(T),
    InFile(PathBuf),
}

impl Reader {
    pub fn new(settings: Settings) -> Self {
        let (entries, problems) = settings.into_parts();
        Self {
            entries,
            problems,
            known: BTreeSet::new(),
            absent: BTreeSet::new(),
        }
    }

    /// All problems, those of unknown options last.
    pub fn finish(mut self) -> Vec<Problem> {
        for (key, entry) in &self.entries {
            if !self.known.contains(key.as_str()) && !self.absent.contains(key.as_str()) {
                let message = unknown(key, &self.known);
                self.problems.push(Problem::new(key, Some(&entry.origin), message));
            }
        }
        self.problems
    }

    pub fn problem(&mut self, key: &'static str, message: impl Into<String>) {
        let origin = self.entries.get(key).map(|entry| &entry.origin);
        self.problems.push(Problem::new(key, origin, message));
    }

    /// Where an option was set, if it was.
    pub fn origin(&self, key: &str) -> Option<Origin> {
        self.entries.get(key).map(|entry| entry.origin.clone())
    }

    /// Whether two options were set by sources of equal strength.
    pub fn same_rank(&self, one: &str, other: &str) -> bool {
        self.rank(one) == self.rank(other)
    }

    fn rank(&self, key: &str) -> Option<u8> {
        self.entries.get(key).map(|entry| entry.origin.rank())
    }

    /// Of a value that one option gives and the file of it that another one names: what the stronger source says. Two of
    /// equal strength are a problem.
    pub fn here_or_in_file<T>(
        &mut self,
        value: Option<T>,
        key: &'static str,
        file_key: &'static str,
    ) -> Option<HereOrInFile<T>> {
        let file = self.text(file_key).map(PathBuf::from);
        match (value, file) {
            (Some(_), Some(_)) if self.same_rank(key, file_key) => {
                self.problem(
                    file_key,
                    format!("has no effect together with {key}: remove one of them"),
                );
                None
            }
            (Some(value), Some(_)) if self.rank(key) > self.rank(file_key) => Some(HereOrInFile::Here(value)),
            (_, Some(file)) => Some(HereOrInFile::InFile(file)),
            (value, None) => value.map(HereOrInFile::Here),
        }
    }

    /// Whether an option is set that is only known in order to be refused.
    pub fn is_set_though_absent(&mut self, key: &'static str) -> bool {
        self.absent.insert(key);
        self.entries
            .get(key)
            .is_some_and(|entry| entry.value != Value::Text(OFF.to_owned()))
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.entry(key)?.value {
            Value::Text(text) => Some(text),
            value => self.wrong_kind(key, "a text", &value),
        }
    }

    /// A list of texts; one text stands for a list of one.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        match self.entry(key)?.value {
            Value::Texts(list) => Some(list),
            Value::Text(text) => Some(vec![text]),
            value => self.wrong_kind(key, "a text or a list of texts", &value),
        }
    }

    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let Some(entry) = self.entry(key) else {
            return default;
        };
        let read = match &entry.value {
            Value::Flag(flag) => Some(*flag),
            Value::Text(text) if entry.origin.is_untyped() => parse_flag(text),
            _ => None,
        };
        read.or_else(|| self.wrong_kind(key, "true or false", &entry.value))
            .unwrap_or(default)
    }

    pub fn number(&mut self, key: &'static str, default: usize, min: usize, max: usize) -> usize {
        let Some(entry) = self.entry(key) else {
            return default;
        };
        let read = match &entry.value {
            Value::Integer(number) => Some(*number),
            Value::Text(text) if entry.origin.is_untyped() => text.trim().parse().ok(),
            _ => None,
        };
        let Some(number) = read.or_else(|| self.wrong_kind(key, "a whole number", &entry.value)) else {
            return default;
        };
        match usize::try_from(number) {
            Ok(number) if (min..=max).contains(&number) => number,
            _ => {
                self.problem(key, format!("must be from {min} to {max}, found {number}"));
                default
            }
        }
    }

    pub fn bytes(&mut self, key: &'static str, default: usize, min: usize) -> usize {
        let Some(size) = self.with_unit(key, "a size such as \"64MiB\"", parse_bytes) else {
            return default;
        };
        match usize::try_from(size) {
            Ok(size) if size >= min => size,
            _ => {
                let least = Bytes(min as u64);
                self.problem(key, format!("must be at least {least}, found {}", Bytes(size)));
                default
            }
        }
    }

    /// A size that may be `off`; 0 means the same.
    pub fn bytes_or_off(&mut self, key: &'static str, default: Option<usize>, min: usize) -> Option<usize> {
        let is_off = |entry: &Entry| matches!(&entry.value, Value::Text(text) if text == OFF || text == "0");
        match self.entry(key) {
            None => default,
            Some(entry) if is_off(&entry) => None,
            Some(_) => Some(self.bytes(key, default.unwrap_or(min), min)),
        }
    }

    pub fn length(&mut self, key: &'static str, default: Duration, min: Duration) -> Duration {
        self.with_unit(key, A_DURATION, parse_duration)
            .and_then(|length| self.in_bounds(key, length, min))
            .unwrap_or(default)
    }

    /// A duration that may be `off`; 0 means the same.
    pub fn length_or_off(&mut self, key: &'static str, default: Option<Duration>, min: Duration) -> Option<Duration> {
        let parse = |text: &str| match text {
            OFF => Ok(Duration::ZERO),
            text => parse_duration(text),
        };
        match self.with_unit(key, A_DURATION, parse) {
            None => default,
            Some(length) if length.is_zero() => None,
            Some(length) => self.in_bounds(key, length, min).or(default),
        }
    }

    /// One of several names, whatever their case.
    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(key) else {
            return default;
        };
        match choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text)) {
            Some(&(_, value)) => value,
            None => {
                let names: Vec<&str> = choices.iter().map(|&(name, _)| name).collect();
                self.problem(key, format!("must be one of {}, found \"{text}\"", names.join(", ")));
                default
            }
        }
    }

    fn entry(&mut self, key: &'static str) -> Option<Entry> {
        self.known.insert(key);
        self.entries.get(key).cloned()
    }

    fn with_unit<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, UnitError>,
    ) -> Option<T> {
        let text = match self.entry(key)?.value {
            Value::Text(text) => text,
            Value::Integer(number) => number.to_string(),
            value => return self.wrong_kind(key, wanted, &value),
        };
        parse(&text)
            .map_err(|why| self.problem(key, format!("\"{text}\" {why}")))
            .ok()
    }

    fn in_bounds(&mut self, key: &'static str, length: Duration, min: Duration) -> Option<Duration> {
        if length < min {
            self.problem(
                key,
                format!("must be at least {}, found {}", Length(min), Length(length)),
            );
            return None;
        }
        if length > LONGEST {
            self.problem(
                key,
                format!("must be at most {}, found {}", Length(LONGEST), Length(length)),
            );
            return None;
        }
        Some(length)
    }

    fn wrong_kind<T>(&mut self, key: &'static str, wanted: &str, found: &Value) -> Option<T> {
        let message = match found {
            Value::Text(text) => format!("must be {wanted}, found \"{text}\""),
            found => format!("must be {wanted}, found {}", found.kind()),
        };
        self.problem(key, message);
        None
    }
}

pub(super) fn parse_flag(text: &str) -> Option<bool> {
    let is_any = |names: [&str; 4]| names.iter().any(|name| name.eq_ignore_ascii_case(text.trim()));
    if is_any(["true", "yes", "on", "1"]) {
        Some(true)
    } else if is_any(["false", "no", OFF, "0"]) {
        Some(false)
    } else {
        None
    }
}

pub(super) fn print_bytes(bytes: usize) -> toml::Value {
    Bytes(bytes as u64).to_string().into()
}

pub(super) fn print_length(length: Duration) -> toml::Value {
    Length(length).to_string().into()
}

pub(super) fn print_length_or_off(length: Option<Duration>) -> toml::Value {
    length.map_or_else(|| OFF.into(), print_length)
}

/// Says which options the section has, since the right one is probably among them.
fn unknown(key: &str, known: &BTreeSet<&'static str>) -> String {
    let section = key.rsplit_once('.').map_or("", |(section, _)| section);
    let in_section: Vec<&str> = known
        .iter()
        .filter_map(|name| match name.rsplit_once('.') {
            Some((of, option)) => (of == section).then_some(option),
            None => section.is_empty().then_some(*name),
        })
        .collect();
    if in_section.is_empty() {
        let sections: BTreeSet<&str> = known
            .iter()
            .filter_map(|name| name.rsplit_once('.').map(|(of, _)| of))
            .collect();
        let sections: Vec<&str> = sections.into_iter().collect();
        return format!("unknown section [{section}]; there are {}", sections.join(", "));
    }
    format!("unknown option; there are {}", in_section.join(", "))
}

const A_DURATION: &str = "a duration such as \"500ms\"";
/// Keeps sums with a clock of microseconds far from overflow.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);
