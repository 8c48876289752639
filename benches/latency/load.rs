//! A load generator of one thread: GETs over a number of connections, either closed loop (each connection asks again as soon
//! as it is answered), which finds the rate that a server can do, or open loop, at a rate that does not depend on the
//! answers.
//!
//! In the open loop a request's latency counts from the moment at which it was *scheduled* to be sent. So a server that
//! stalls is charged for all requests that should have been sent meanwhile (coordinated omission), and so is the generator
//! itself: how late it sends is recorded too, because latencies of that order say more about it than about the server.
//!
//! What waits to be sent is bounded by the requests of one run; nothing here is meant for traffic of others.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Nanoseconds, in steps of at most 0.1 %.
pub type Latencies = Histogram<u64>;

pub struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    keys: Keys,
    /// The start of each reply: values all have the same size.
    head: Vec<u8>,
    reply_len: usize,
    outstanding: usize,
    buf: Vec<u8>,
}

/// Which keys are asked for.
pub enum Keys {
    /// Any of the first `count`, at random: these are hits.
    Hot { count: u64, rng: fastrand::Rng },
    /// `first` to `first + count`, in order and over again: misses, where the cache has room for much fewer than `count`.
    Walk { first: u64, count: u64, next: u64 },
}

/// When a request is sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As soon as the connection's last one is answered.
    Closed,
    /// At this many a second, evenly, over the connections in turn.
    Open { rate: f64 },
}

pub struct Outcome {
    pub latency: Latencies,
    /// How long after its time a request was sent.
    pub lag: Latencies,
    /// Replies a second, from the first request to the last reply.
    pub rate: f64,
}

struct Connection {
    stream: TcpStream,
    /// When the requests that are not answered were due, in nanoseconds of the run.
    due: VecDeque<u64>,
    /// How much of the next reply has arrived.
    arrived: usize,
    /// Bytes that the socket did not take.
    unsent: Vec<u8>,
}

impl Load {
    pub fn connect(address: SocketAddr, connections: usize, keys: Keys, value_size: usize) -> Result<Load> {
        // The kernel may otherwise be 50 µs late with each time to send.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let connections = (0..connections as u64)
            .map(|number| {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                epoll::add(
                    &epoll,
                    &stream,
                    epoll::EventData::new_u64(number),
                    epoll::EventFlags::IN,
                )?;
                Ok(Connection {
                    stream,
                    due: VecDeque::new(),
                    arrived: 0,
                    unsent: Vec::new(),
                })
            })
            .collect::<Result<_>>()?;
        let head = format!("${value_size}\r\n").into_bytes();
        Ok(Load {
            epoll,
            connections,
            keys,
            reply_len: head.len() + value_size + 2,
            head,
            outstanding: 0,
            buf: vec![0; 256 * 1024],
        })
    }

    /// Sends for `length`, and waits for what is not answered by then. The first tenth is not recorded.
    pub fn run(&mut self, pace: Pace, length: Duration) -> Result<Outcome> {
        let (length, warm_up) = (length.as_nanos() as u64, length.as_nanos() as u64 / 10);
        let mut latency = histogram();
        let mut lag = histogram();
        let (mut sent, mut answered) = (0_u64, 0_u64);
        let begun = Instant::now();
        let now = || begun.elapsed().as_nanos() as u64;
        if let Pace::Closed = pace {
            for number in 0..self.connections.len() {
                self.send(number, 0)?;
            }
        }
        let mut events = Vec::with_capacity(self.connections.len());
        loop {
            let mut wait = Duration::from_millis(100);
            let mut is_sending = now() < length;
            if let Pace::Open { rate } = pace {
                let due_of = |request: u64| (request as f64 * 1e9 / rate) as u64;
                // Replies are looked at in between, however late the sending is.
                for _ in 0..BURST {
                    let (due, now) = (due_of(sent), now());
                    if due > now || due >= length {
                        break;
                    }
                    self.send((sent % self.connections.len() as u64) as usize, due)?;
                    sent += 1;
                    if due >= warm_up {
                        lag.saturating_record(now - due);
                    }
                }
                is_sending = due_of(sent) < length;
                if is_sending {
                    wait = Duration::from_nanos(due_of(sent).saturating_sub(now()));
                }
            }
            if !is_sending && self.outstanding == 0 {
                break;
            }
            if now() > length + PATIENCE {
                let missing = self.outstanding;
                return Err(Error::other(format!(
                    "{missing} replies did not come within {PATIENCE} ns"
                )));
            }
            if self.flush()? {
                wait = wait.min(Duration::from_millis(1));
            }
            events.clear();
            let timeout = Timespec::try_from(wait).map_err(Error::other)?;
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let number = event.data.u64() as usize;
                let replies = self.read(number)?;
                let now = now();
                for _ in 0..replies {
                    let due = self.connections[number].due.pop_front().ok_or_else(unexpected)?;
                    answered += 1;
                    if due >= warm_up {
                        latency.saturating_record(now.saturating_sub(due));
                    }
                    if matches!(pace, Pace::Closed) && now < length {
                        self.send(number, now)?;
                    }
                }
            }
        }
        Ok(Outcome {
            latency,
            lag,
            rate: answered as f64 / begun.elapsed().as_secs_f64(),
        })
    }

    fn send(&mut self, number: usize, due: u64) -> Result<()> {
        let request = get(self.keys.next());
        let connection = &mut self.connections[number];
        connection.due.push_back(due);
        self.outstanding += 1;
        let mut written = 0;
        if connection.unsent.is_empty() {
            written = write(&connection.stream, &request)?;
        }
        connection.unsent.extend_from_slice(&request[written..]);
        Ok(())
    }

    /// Returns whether anything is still unsent.
    fn flush(&mut self) -> Result<bool> {
        let mut is_left = false;
        for connection in self.connections.iter_mut().filter(|c| !c.unsent.is_empty()) {
            let written = write(&connection.stream, &connection.unsent)?;
            connection.unsent.drain(..written);
            is_left |= !connection.unsent.is_empty();
        }
        Ok(is_left)
    }

    /// Reads once, and returns how many replies that completed.
    fn read(&mut self, number: usize) -> Result<usize> {
        let connection = &mut self.connections[number];
        let len = match (&connection.stream).read(&mut self.buf) {
            Ok(0) => return Err(Error::new(ErrorKind::UnexpectedEof, "the server closed a connection")),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let (mut at, mut replies) = (0, 0);
        while at < len {
            let taken = (self.reply_len - connection.arrived).min(len - at);
            // What is neither a value nor of the size expected would be counted wrongly from here on.
            for (have, expected) in self.buf[at..at + taken]
                .iter()
                .zip(self.head.iter().skip(connection.arrived))
            {
                if have != expected {
                    let text = String::from_utf8_lossy(&self.buf[at..(at + 80).min(len)]).into_owned();
                    return Err(Error::other(format!("not the value expected: {text:?}")));
                }
            }
            at += taken;
            connection.arrived += taken;
            if connection.arrived == self.reply_len {
                connection.arrived = 0;
                replies += 1;
            }
        }
        self.outstanding = self.outstanding.checked_sub(replies).ok_or_else(unexpected)?;
        Ok(replies)
    }
}

impl Keys {
    pub fn hot(count: u64) -> Keys {
        Keys::Hot {
            count,
            rng: fastrand::Rng::with_seed(7),
        }
    }

    pub fn next(&mut self) -> u64 {
        match self {
            Keys::Hot { count, rng } => rng.u64(..*count),
            Keys::Walk { first, count, next } => {
                let key = *first + *next;
                *next = (*next + 1) % *count;
                key
            }
        }
    }
}

/// Microseconds at a quantile.
pub fn micros(latencies: &Latencies, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}

pub fn histogram() -> Latencies {
    // A minute is longer than anything waits here.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are valid")
}

/// The name of a key.
pub fn key(number: u64) -> String {
    format!("key:{number:012}")
}

/// `GET` of a key.
pub fn get(number: u64) -> [u8; GET.len()] {
    let mut request = *GET;
    let mut rest = number;
    for digit in request[DIGITS].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    request
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

fn unexpected() -> Error {
    Error::other("a reply that nobody asked for")
}

const GET: &[u8; 36] = b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n";
const DIGITS: std::ops::Range<usize> = 22..34;
/// Requests sent before replies are looked at.
const BURST: usize = 32;
/// Nanoseconds for the last replies to come.
const PATIENCE: u64 = 10_000_000_000;
