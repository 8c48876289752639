//! A network between a client and a server on one machine: a relay that passes on what it reads only after a delay, in
//! both directions. It adds twice the one-way delay to a round trip, and some 20 µs of its own.
//!
//! One thread, for as long as the process runs. What it holds is bounded by what the bench has under way.

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Starts a relay to `target`; returns where it listens.
pub fn start(target: SocketAddr, one_way: Duration) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    std::thread::Builder::new().name("relay".into()).spawn(move || {
        if let Err(error) = relay(&listener, target, one_way) {
            // Who waits for it gives up by himself, and ends the processes.
            eprintln!("the relay has failed: {error}");
        }
    })?;
    Ok(address)
}

/// One end of a relayed connection.
struct End {
    stream: TcpStream,
    /// What the other end has sent, and when it is passed on to this one.
    held: VecDeque<(Instant, Vec<u8>)>,
}

fn relay(listener: &TcpListener, target: SocketAddr, one_way: Duration) -> Result<()> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(
        &epoll,
        listener,
        epoll::EventData::new_u64(LISTENER),
        epoll::EventFlags::IN,
    )?;
    // Neighbours belong together: the end at `i` relays to that at `i ^ 1`.
    let mut ends: Vec<Option<End>> = Vec::new();
    let mut buf = vec![0; 256 * 1024];
    let mut events = Vec::with_capacity(256);
    loop {
        let mut next: Option<Instant> = None;
        for i in 0..ends.len() {
            match ends[i].as_mut().map(End::pass_on) {
                Some(Ok(Some(due))) => next = Some(next.map_or(due, |next| next.min(due))),
                Some(Err(_)) => close(&mut ends, i),
                Some(Ok(None)) | None => {}
            }
        }
        let wait = next.map_or(Duration::from_secs(1), |next| {
            next.saturating_duration_since(Instant::now())
        });
        let timeout = Timespec::try_from(wait).map_err(Error::other)?;
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if event.data.u64() == LISTENER {
                let pair = [listener.accept()?.0, TcpStream::connect(target)?];
                for stream in pair {
                    add(&epoll, &mut ends, stream)?;
                }
                continue;
            }
            let i = event.data.u64() as usize;
            let Some(end) = &ends[i] else { continue };
            match (&end.stream).read(&mut buf) {
                Ok(len) if len > 0 => {
                    if let Some(other) = &mut ends[i ^ 1] {
                        other.held.push_back((Instant::now() + one_way, buf[..len].to_vec()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => close(&mut ends, i),
            }
        }
    }
}

fn add(epoll: &OwnedFd, ends: &mut Vec<Option<End>>, stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    epoll::add(
        epoll,
        &stream,
        epoll::EventData::new_u64(ends.len() as u64),
        epoll::EventFlags::IN,
    )?;
    ends.push(Some(End {
        stream,
        held: VecDeque::new(),
    }));
    Ok(())
}

/// Both ends; what they hold is lost, as in a network that breaks.
fn close(ends: &mut [Option<End>], i: usize) {
    ends[i] = None;
    ends[i ^ 1] = None;
}

impl End {
    /// Writes what is due. Returns when to come again.
    fn pass_on(&mut self) -> Result<Option<Instant>> {
        let now = Instant::now();
        while let Some((due, bytes)) = self.held.front_mut() {
            if *due > now {
                return Ok(Some(*due));
            }
            match (&self.stream).write(bytes) {
                Ok(written) if written == bytes.len() => {
                    self.held.pop_front();
                }
                Ok(written) => {
                    bytes.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Some(now + Duration::from_millis(1)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

const LISTENER: u64 = u64::MAX;
