//! A TCP relay between the proxy and its server, for what a healthy loopback never shows: delay of each connection's
//! own, silence without an end, connections that break.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Listens on a port of its own for as long as the test runs. Bytes are never changed, lost or reordered within a connection.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    control: Arc<Control>,
}

#[derive(Debug, Default)]
struct Control {
    target: PathBuf,
    /// Nothing is passed on in either direction, and new connections stay unanswered.
    is_held: AtomicBool,
    /// Replies and pushes arrive later by up to this much, by an amount drawn anew for each chunk.
    jitter_us: AtomicU64,
    /// A delay drawn once for each connection, up to this much: one link is then steadily older than another.
    skew_us: AtomicU64,
    is_staggered: AtomicBool,
    accepted: AtomicU64,
    streams: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// In front of a server's Unix socket.
    pub fn start(target: &Path) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let control = Arc::new(Control {
            target: target.to_owned(),
            ..Control::default()
        });
        let shared = control.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let control = shared.clone();
                thread::spawn(move || control.serve(client));
            }
        });
        Relay { port, control }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing passes: the peer looks alive and says nothing.
    pub fn hold(&self) {
        self.control.is_held.store(true, Ordering::SeqCst);
    }

    /// What was held is delivered now.
    pub fn release(&self) {
        self.control.is_held.store(false, Ordering::SeqCst);
    }

    /// Replies are late by a random amount up to `most`, drawn for each chunk.
    pub fn jitter(&self, most: Duration) {
        self.control.jitter_us.store(most.as_micros() as u64, Ordering::SeqCst);
    }

    /// Replies of a connection are late by an amount up to `most`, drawn when it is opened.
    pub fn skew(&self, most: Duration) {
        self.control.skew_us.store(most.as_micros() as u64, Ordering::SeqCst);
    }

    /// Each connection is late by an amount of its own, the next one by four times as much as the one before.
    pub fn stagger(&self) {
        self.control.is_staggered.store(true, Ordering::SeqCst);
    }

    /// Closes every connection; new ones are welcome.
    pub fn cut(&self) {
        for stream in self.control.streams.lock().expect("no relay thread panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections were opened so far.
    pub fn accepted(&self) -> u64 {
        self.control.accepted.load(Ordering::SeqCst)
    }
}

impl Control {
    fn serve(self: Arc<Self>, client: TcpStream) {
        let nth = self.accepted.fetch_add(1, Ordering::SeqCst);
        self.wait_while_held();
        let Ok(server) = UnixStream::connect(&self.target) else {
            return;
        };
        let _ = client.set_nodelay(true);
        let (Ok(kept), Ok(from_client), Ok(to_server)) = (client.try_clone(), client.try_clone(), server.try_clone())
        else {
            return;
        };
        self.streams.lock().expect("no relay thread panics").push(kept);
        let control = self.clone();
        thread::spawn(move || control.upwards(from_client, to_server));
        self.downwards(server, client, nth);
    }

    fn upwards(&self, mut from: TcpStream, mut to: UnixStream) {
        let mut chunk = [0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            self.wait_while_held();
            if to.write_all(&chunk[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Chunks wait in a queue until they are due, so that a late one delays those behind it but not the reading.
    fn downwards(self: Arc<Self>, mut from: UnixStream, mut to: TcpStream, nth: u64) {
        let skew = match self.skew_us.load(Ordering::SeqCst) {
            _ if self.is_staggered.load(Ordering::SeqCst) => [0, 2_000, 8_000, 32_000][(nth % 4) as usize],
            0 => 0,
            most => fastrand::u64(0..=most),
        };
        let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
        let control = self.clone();
        let writer = thread::spawn(move || {
            for (due, bytes) in receiver {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                control.wait_while_held();
                if to.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
        let mut chunk = [0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let jitter = match self.jitter_us.load(Ordering::SeqCst) {
                0 => 0,
                most => fastrand::u64(0..=most),
            };
            let due = Instant::now() + Duration::from_micros(skew + jitter);
            if sender.send((due, chunk[..n].to_vec())).is_err() {
                break;
            }
        }
        drop(sender);
        let _ = writer.join();
        let _ = from.shutdown(Shutdown::Both);
    }

    fn wait_while_held(&self) {
        while self.is_held.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
