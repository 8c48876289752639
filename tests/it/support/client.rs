//! A client that knows nothing but the wire: it sends arguments or raw bytes and hands back the exact bytes of each reply.
//!
//! Where a reply ends is found here, independently of the product's own scanner, so that both cannot be wrong alike.

use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{STEP, show, show_args};

/// One blocking connection. Every wait is bounded by [`STEP`] unless said otherwise.
pub struct Client {
    stream: Stream,
    /// Bytes received and not yet handed out.
    received: Vec<u8>,
}

impl Client {
    pub fn tcp(port: u16) -> Client {
        Client::tcp_to("127.0.0.1", port).expect("somebody listens on the port")
    }

    pub fn tcp_to(host: &str, port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect((host, port))?;
        stream.set_nodelay(true)?;
        Client::over(Stream::Tcp(stream))
    }

    pub fn unix(path: &Path) -> std::io::Result<Client> {
        Client::over(Stream::Unix(UnixStream::connect(path)?))
    }

    fn over(stream: Stream) -> std::io::Result<Client> {
        stream.set_read_timeout(STEP)?;
        stream.set_write_timeout(STEP)?;
        Ok(Client {
            stream,
            received: Vec::new(),
        })
    }

    /// Sends one command and returns its reply, byte for byte.
    pub fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        self.send(args);
        self.try_frame(STEP)
            .unwrap_or_else(|e| panic!("{}: {e}", show_args(args)))
    }

    /// [`Client::cmd`] as text, for replies that are text.
    pub fn text<A: AsRef<[u8]>>(&mut self, args: &[A]) -> String {
        String::from_utf8_lossy(&self.cmd(args)).into_owned()
    }

    /// Sends one command that must succeed with `expected`, given without its CRLF for one-line replies.
    #[track_caller]
    pub fn expect<A: AsRef<[u8]>>(&mut self, args: &[A], expected: &str) {
        let reply = self.cmd(args);
        let reply = reply.strip_suffix(b"\r\n").unwrap_or(&reply);
        assert_eq!(show(reply), show(expected.as_bytes()), "reply to {}", show_args(args));
    }

    /// The integer that a command answers.
    #[track_caller]
    pub fn int<A: AsRef<[u8]>>(&mut self, args: &[A]) -> i64 {
        let reply = self.text(args);
        match reply.strip_prefix(':').map(|n| n.trim_end().parse()) {
            Some(Ok(n)) => n,
            _ => panic!("{} answered no integer: {}", show_args(args), show(reply.as_bytes())),
        }
    }

    /// The payload of a bulk, simple or verbatim string; `None` for a null.
    #[track_caller]
    pub fn bulk<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Option<Vec<u8>> {
        let reply = self.cmd(args);
        payload(&reply).unwrap_or_else(|| panic!("{} answered no string: {}", show_args(args), show(&reply)))
    }

    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.raw(&encode(args));
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer takes what is sent");
    }

    /// [`Client::raw`] for a peer that may have gone.
    pub fn try_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next reply or push.
    #[track_caller]
    pub fn frame(&mut self) -> Vec<u8> {
        match self.try_frame(STEP) {
            Ok(frame) => frame,
            Err(e) => panic!("no reply: {e}; received so far: {}", show(&self.received)),
        }
    }

    pub fn frames(&mut self, n: usize) -> Vec<Vec<u8>> {
        (0..n).map(|_| self.frame()).collect()
    }

    /// The next reply or push, or the error that kept it away; `TimedOut` after `within`.
    pub fn try_frame(&mut self, within: Duration) -> std::io::Result<Vec<u8>> {
        let end = Instant::now() + within;
        let mut scan = Scan::default();
        loop {
            if let Some(len) = scan.advance(&self.received) {
                let rest = self.received.split_off(len);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            self.fill(end)?;
        }
    }

    /// The complete frames that are here already, without waiting, and whether the peer has closed behind them.
    pub fn frames_at_hand(&mut self) -> (Vec<Vec<u8>>, bool) {
        self.stream.set_nonblocking(true).expect("a socket can be non-blocking");
        let mut chunk = [0; 64 * 1024];
        let is_closed = loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => break true,
                Ok(n) => self.received.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => break is_end(&e),
            }
        };
        self.stream.set_nonblocking(false).expect("a socket can be blocking");
        let mut frames = Vec::new();
        while let Some(len) = Scan::default().advance(&self.received) {
            let rest = self.received.split_off(len);
            frames.push(std::mem::replace(&mut self.received, rest));
        }
        (frames, is_closed)
    }

    /// Exactly `n` bytes, whatever they are.
    #[track_caller]
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let end = Instant::now() + STEP;
        while self.received.len() < n {
            if let Err(e) = self.fill(end) {
                panic!("{n} bytes expected: {e}; received {}", show(&self.received));
            }
        }
        let rest = self.received.split_off(n);
        std::mem::replace(&mut self.received, rest)
    }

    /// How many bytes have come and were not handed out yet.
    pub fn bytes_at_hand(&self) -> usize {
        let unread = match &self.stream {
            Stream::Tcp(s) => rustix::io::ioctl_fionread(s),
            Stream::Unix(s) => rustix::io::ioctl_fionread(s),
        };
        self.received.len() + unread.expect("a socket knows what it holds") as usize
    }

    /// Everything up to the end of the connection. A reset counts as an end: the peer closed with input unread.
    #[track_caller]
    pub fn until_closed(&mut self) -> Vec<u8> {
        let end = Instant::now() + STEP;
        loop {
            match self.fill(end) {
                Ok(()) => {}
                Err(e) if is_end(&e) => return std::mem::take(&mut self.received),
                Err(e) => panic!("the connection stays open ({e}) after {}", show(&self.received)),
            }
        }
    }

    /// Whether nothing at all arrives for `within`: for silence that is part of the contract.
    pub fn is_silent(&mut self, within: Duration) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        matches!(self.fill(Instant::now() + within), Err(e) if e.kind() == ErrorKind::TimedOut)
    }

    pub fn close_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is open");
    }

    /// [`Client::close_write`] for a peer that may have gone.
    pub fn try_close_write(&mut self) -> std::io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Another handle of the same connection, for a thread that writes while this one reads.
    pub fn second_handle(&self) -> Client {
        let stream = match &self.stream {
            Stream::Tcp(s) => Stream::Tcp(s.try_clone().expect("a handle can be duplicated")),
            Stream::Unix(s) => Stream::Unix(s.try_clone().expect("a handle can be duplicated")),
        };
        Client {
            stream,
            received: Vec::new(),
        }
    }

    pub fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Switches to RESP3.
    pub fn hello3(mut self) -> Client {
        let reply = self.cmd(&["HELLO", "3"]);
        assert_eq!(reply.first(), Some(&b'%'), "HELLO 3 answered {}", show(&reply));
        self
    }

    fn fill(&mut self, end: Instant) -> std::io::Result<()> {
        let mut chunk = [0; 64 * 1024];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(left)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.received.extend_from_slice(&chunk[..n]);
                    return Ok(());
                }
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The payload of a string reply: `Some(None)` for a null, `None` when it is no string.
pub fn payload(frame: &[u8]) -> Option<Option<Vec<u8>>> {
    let line_end = frame.windows(2).position(|w| w == b"\r\n")?;
    match frame.first()? {
        b'+' => Some(Some(frame[1..line_end].to_vec())),
        b'_' => Some(None),
        b'$' | b'=' if frame.get(1) == Some(&b'-') => Some(None),
        b'$' => Some(Some(frame[line_end + 2..frame.len() - 2].to_vec())),
        b'=' => Some(Some(frame[line_end + 6..frame.len() - 2].to_vec())),
        _ => None,
    }
}

/// One command as RESP.
pub fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// The direct children of an aggregate, each with its own exact bytes.
pub fn children(frame: &[u8]) -> Vec<Vec<u8>> {
    let Some(line_end) = frame.windows(2).position(|w| w == b"\r\n") else {
        return Vec::new();
    };
    if !matches!(frame.first(), Some(b'*' | b'%' | b'~' | b'>')) {
        return Vec::new();
    }
    let mut rest = &frame[line_end + 2..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let Some(len) = Scan::default().advance(rest) else {
            break;
        };
        out.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    out
}

/// A reply of `HELLO` without the connection's id, which no two connections share.
pub fn without_id(bytes: &[u8]) -> Vec<u8> {
    const LABEL: &[u8] = b"$2\r\nid\r\n:";
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(LABEL.len()).position(|w| w == LABEL) {
        let digits = at + LABEL.len();
        out.extend_from_slice(&rest[..digits]);
        let end = rest[digits..]
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(rest.len() - digits);
        rest = &rest[digits + end..];
    }
    out.extend_from_slice(rest);
    out
}

fn is_end(e: &std::io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// Finds where a frame ends; keeps its place, so a long reply is walked once.
#[derive(Default)]
struct Scan {
    at: usize,
    /// Values still to come, the frame itself not counted until it was begun.
    open: u64,
    is_begun: bool,
}

impl Scan {
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.is_begun {
            self.open = 1;
            self.is_begun = true;
        }
        while self.open > 0 {
            let line = bytes.get(self.at..)?;
            let end = line.windows(2).position(|w| w == b"\r\n")?;
            let number = || -> i64 {
                let text = String::from_utf8_lossy(&line[1..end]);
                text.parse()
                    .unwrap_or_else(|_| panic!("a length was expected in {}", show(line)))
            };
            let header = end + 2;
            match line[0] {
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.at += header,
                b'$' | b'=' | b'!' => {
                    let payload = number();
                    let whole = if payload < 0 {
                        header
                    } else {
                        header + payload as usize + 2
                    };
                    if line.len() < whole {
                        return None;
                    }
                    assert!(
                        payload < 0 || line[..whole].ends_with(b"\r\n"),
                        "a bulk without CRLF: {}",
                        show(line)
                    );
                    self.at += whole;
                }
                b'*' | b'~' | b'>' => {
                    self.open += number().max(0) as u64;
                    self.at += header;
                }
                b'%' => {
                    self.open += 2 * number().max(0) as u64;
                    self.at += header;
                }
                b'|' => {
                    self.open += 2 * number().max(0) as u64 + 1;
                    self.at += header;
                }
                _ => panic!("no RESP: {}", show(line)),
            }
            self.open -= 1;
        }
        Some(self.at)
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn set_read_timeout(&self, within: Duration) -> std::io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_read_timeout(Some(within)),
            Stream::Unix(s) => s.set_read_timeout(Some(within)),
        }
    }

    fn set_write_timeout(&self, within: Duration) -> std::io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_write_timeout(Some(within)),
            Stream::Unix(s) => s.set_write_timeout(Some(within)),
        }
    }

    fn set_nonblocking(&self, is: bool) -> std::io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nonblocking(is),
            Stream::Unix(s) => s.set_nonblocking(is),
        }
    }

    fn shutdown(&self, how: Shutdown) -> std::io::Result<()> {
        match self {
            Stream::Tcp(s) => s.shutdown(how),
            Stream::Unix(s) => s.shutdown(how),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tcp(s) => s.read(buf),
            Stream::Unix(s) => s.read(buf),
        }
    }

    fn write_all(&mut self, buf: &[u8]) -> std::io::Result<()> {
        match self {
            Stream::Tcp(s) => s.write_all(buf),
            Stream::Unix(s) => s.write_all(buf),
        }
    }
}

impl Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("received", &show(&self.received))
            .finish()
    }
}
