//! Reads a trace: lines of `timestamp_s,key,key_size,value_size,op,ttl_s`, plain or compressed with zstd.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// A trace in memory, its keys numbered in the order in which they appear.
pub struct Trace {
    pub requests: Vec<Request>,
    /// The names under which L1 gets the keys: their text, filled up to the length that the trace gives.
    pub keys: Vec<Vec<u8>>,
    /// Whether any line has a size. If not, all entries are equal and count 1.
    pub has_sizes: bool,
    /// Of all keys: bytes, or their number.
    pub footprint: u64,
    /// Of all reads.
    pub read_bytes: u64,
    pub largest_value: u64,
}

#[derive(Clone, Copy)]
pub struct Request {
    pub key: u32,
    /// Bytes of key and value; 1 where the trace has no sizes.
    pub size: u64,
    /// Of the value that L1 gets.
    pub value_bytes: u64,
    /// From 1 ms on, never going back; where the trace has no times, a microsecond for each request.
    pub now_us: u64,
    /// How long the copy that this request fills may be shown.
    pub ttl_us: Option<u64>,
    pub is_read: bool,
}

impl Request {
    pub fn deadline_us(&self) -> u64 {
        self.ttl_us
            .map_or(u64::MAX, |ttl_us| self.now_us.saturating_add(ttl_us))
    }
}

const READS: [&str; 2] = ["GET", "GETS"];
const WRITES: [&str; 10] = [
    "SET", "ADD", "REPLACE", "CAS", "APPEND", "PREPEND", "INCR", "DECR", "DEL", "DELETE",
];
/// Of a value in a trace without sizes.
const EQUAL_VALUE_BYTES: u64 = 64;
/// When a trace begins: L1 knows no time 0.
const BEGIN_US: u64 = 1000;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

impl Trace {
    /// Reads a file, or standard input for "-".
    ///
    /// # Errors
    /// Names the file, and the line where one is wrong.
    pub fn open(name: &str) -> Result<Trace, String> {
        let told = |error: std::io::Error| format!("{name}: {error}");
        let input: Box<dyn Read> = match name {
            "-" => Box::new(std::io::stdin()),
            path => Box::new(File::open(path).map_err(told)?),
        };
        let mut input = BufReader::new(input);
        // A pipe may hand out the first bytes one at a time; a file of fewer than four is no trace in either form.
        let is_compressed = input.fill_buf().map_err(told)?.starts_with(&ZSTD_MAGIC);
        if is_compressed {
            let plain = zstd::Decoder::with_buffer(input).map_err(told)?;
            Trace::read(name, BufReader::new(plain))
        } else {
            Trace::read(name, input)
        }
    }

    fn read(name: &str, mut lines: impl BufRead) -> Result<Trace, String> {
        let mut reading = Reading::default();
        let mut line = String::new();
        for number in 1u64.. {
            line.clear();
            if lines.read_line(&mut line).map_err(|error| format!("{name}: {error}"))? == 0 {
                break;
            }
            let text = line.trim_end();
            if !text.is_empty() {
                reading
                    .line(text)
                    .map_err(|why| format!("{name}: line {number}: {why}"))?;
            }
        }
        if reading.requests.is_empty() {
            return Err(format!("{name}: no requests"));
        }
        Ok(reading.finish())
    }
}

#[derive(Default)]
struct Reading {
    requests: Vec<Request>,
    numbers: HashMap<String, u32>,
    keys: Vec<Vec<u8>>,
    has_sizes: bool,
    first_us: Option<u64>,
    now_us: u64,
}

impl Reading {
    fn line(&mut self, text: &str) -> Result<(), String> {
        let fields: Vec<&str> = text.split(',').collect();
        let [time, key, key_size, value_size, op, ttl] = fields[..] else {
            return Err(format!("6 fields are needed, found {}", fields.len()));
        };
        let is_read = match op.trim() {
            "" => true,
            op if READS.iter().any(|read| read.eq_ignore_ascii_case(op)) => true,
            op if WRITES.iter().any(|write| write.eq_ignore_ascii_case(op)) => false,
            op => return Err(format!("unknown operation \"{op}\"")),
        };
        let (key_bytes, value_bytes) = (size(key_size)?, size(value_size)?);
        self.has_sizes |= key_bytes.is_some() || value_bytes.is_some();
        self.now_us = match micros(time)? {
            Some(us) => {
                let first_us = *self.first_us.get_or_insert(us);
                self.now_us.max(BEGIN_US + us.saturating_sub(first_us))
            }
            None => self.now_us.max(BEGIN_US) + 1,
        };
        let number = match self.numbers.get(key) {
            Some(&number) => number,
            None => {
                let number = u32::try_from(self.keys.len()).map_err(|_| "more than 2^32 keys")?;
                let mut bytes = key.as_bytes().to_vec();
                bytes.resize(bytes.len().max(key_bytes.unwrap_or(0) as usize), b'.');
                self.keys.push(bytes);
                self.numbers.insert(key.to_owned(), number);
                number
            }
        };
        self.requests.push(Request {
            key: number,
            size: self.keys[number as usize].len() as u64 + value_bytes.unwrap_or(0),
            value_bytes: value_bytes.unwrap_or(0),
            now_us: self.now_us,
            ttl_us: micros(ttl)?.filter(|&us| us > 0),
            is_read,
        });
        Ok(())
    }

    fn finish(mut self) -> Trace {
        if !self.has_sizes {
            for request in &mut self.requests {
                (request.size, request.value_bytes) = (1, EQUAL_VALUE_BYTES);
            }
        }
        let mut last_sizes = vec![0; self.keys.len()];
        for request in &self.requests {
            last_sizes[request.key as usize] = request.size;
        }
        Trace {
            footprint: last_sizes.iter().sum(),
            read_bytes: self.requests.iter().filter(|r| r.is_read).map(|r| r.size).sum(),
            largest_value: self.requests.iter().map(|r| r.value_bytes).max().unwrap_or(0),
            requests: self.requests,
            keys: self.keys,
            has_sizes: self.has_sizes,
        }
    }
}

/// `None`: the field is empty.
fn size(field: &str) -> Result<Option<u64>, String> {
    match field.trim() {
        "" => Ok(None),
        text => match text.parse() {
            Ok(size) if size <= MOST_BYTES => Ok(Some(size)),
            _ => Err(format!("\"{text}\" is not a size in bytes up to 1 GiB")),
        },
    }
}

const MOST_BYTES: u64 = 1 << 30;

/// `None`: the field is empty.
fn micros(field: &str) -> Result<Option<u64>, String> {
    match field.trim() {
        "" => Ok(None),
        text => match text.parse::<f64>() {
            Ok(seconds) if (0.0..1e12).contains(&seconds) => Ok(Some((seconds * 1e6) as u64)),
            _ => Err(format!("\"{text}\" is not a time in seconds")),
        },
    }
}
