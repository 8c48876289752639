//! A client that is never satisfied: it sends a pipeline of thousands of GETs, reads their replies, and sends it again.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::setpriority_process;

use crate::load::{Keys, get};

const LEAST_PRIORITY: i32 = 19;

pub struct Greedy {
    is_ended: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Greedy {
    /// Starts it in a thread of its own, which gives way to all others: a client on another machine takes no time of the
    /// few cores that polite clients and servers share here. All `keys` must have values of `value_size` bytes.
    pub fn start(address: SocketAddr, pipeline: usize, keys: u64, value_size: usize) -> Result<Greedy> {
        let is_ended = Arc::new(AtomicBool::new(false));
        let mut keys = Keys::hot(keys);
        let requests: Vec<u8> = (0..pipeline).flat_map(|_| get(keys.next())).collect();
        let replies_len = pipeline * (format!("${value_size}\r\n").len() + value_size + 2);
        let stream = TcpStream::connect(address)?;
        stream.set_nonblocking(true)?;
        let ended = is_ended.clone();
        let thread = std::thread::Builder::new().name("greedy".into()).spawn(move || {
            // Of this thread alone, whatever the name says: <https://man7.org/linux/man-pages/man2/setpriority.2.html>, "BUGS".
            setpriority_process(None, LEAST_PRIORITY)?;
            let begun = Instant::now();
            let mut pipelines = 0;
            while !ended.load(Ordering::Relaxed) {
                round_trip(&stream, &requests, replies_len)?;
                pipelines += 1;
            }
            Ok((pipelines * pipeline) as f64 / begun.elapsed().as_secs_f64())
        })?;
        Ok(Greedy { is_ended, thread })
    }

    /// Lets it finish its pipeline; replies a second.
    pub fn end(self) -> Result<f64> {
        self.is_ended.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| Error::other("the greedy client panicked"))?
    }
}

/// Reads while it writes: neither side may have to buffer a whole pipeline.
fn round_trip(mut stream: &TcpStream, mut requests: &[u8], replies_len: usize) -> Result<()> {
    let mut buf = vec![0; 256 * 1024];
    let mut left = replies_len;
    while left > 0 {
        let mut events = PollFlags::IN;
        if !requests.is_empty() {
            events |= PollFlags::OUT;
        }
        let mut fds = [PollFd::new(stream, events)];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready = fds[0].revents();
        if ready.contains(PollFlags::OUT) {
            match stream.write(requests) {
                Ok(written) => requests = &requests[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let len = match stream.read(&mut buf) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            if left == replies_len && buf[0] != b'$' {
                let text = String::from_utf8_lossy(&buf[..len.min(80)]).into_owned();
                return Err(Error::other(format!("not the value expected: {text:?}")));
            }
            left = left
                .checked_sub(len)
                .ok_or_else(|| Error::other("more replies than requests"))?;
        }
    }
    Ok(())
}
