//! The processes that are measured: a redis-server, and nearcaches in front of it, or those whose addresses are given.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::load::key;
use crate::relay;

pub struct Stage {
    /// The server, behind the relay if there is one.
    pub redis: SocketAddr,
    /// Has room for all hot keys.
    pub hits: SocketAddr,
    /// Has no room for the keys that are read once; the same as `hits` where the address was given.
    pub misses: SocketAddr,
    _processes: Vec<Process>,
    _dir: tempfile::TempDir,
}

impl Stage {
    /// Starts what is not given, and writes the values.
    pub fn set_up(options: &Options) -> Result<Stage> {
        let dir = tempfile::tempdir()?;
        let mut processes = Vec::new();
        let server = match options.redis {
            Some(address) => address,
            None => {
                let (process, address) = start_redis(dir.path())?;
                processes.push(process);
                address
            }
        };
        load_values(server, options.keys + options.miss_keys, options.size)?;
        let redis = match options.relay_delay_ms {
            Some(delay_ms) => relay::start(server, Duration::from_secs_f64(delay_ms / 2e3))?,
            None => server,
        };
        let (hits, misses) = match options.nearcache {
            Some(address) => (address, address),
            None => {
                let (hits, hits_address) = start_nearcache(options, redis, "256MiB")?;
                let (misses, misses_address) = start_nearcache(options, redis, "1MiB")?;
                processes.extend([hits, misses]);
                (hits_address, misses_address)
            }
        };
        // Dropped in this order: a proxy before its server.
        processes.reverse();
        Ok(Stage {
            redis,
            hits,
            misses,
            _processes: processes,
            _dir: dir,
        })
    }
}

/// A redis-server and three nearcaches that differ in what is below L1, which has room for the hot keys and for few others.
pub struct Disks {
    pub redis: SocketAddr,
    pub without: SocketAddr,
    /// Its files have no room for the keys that are read once: it writes all the time.
    pub writing: SocketAddr,
    /// Its files have room for all: it reads all the time.
    pub reading: SocketAddr,
    _processes: Vec<Process>,
    _dir: tempfile::TempDir,
}

impl Disks {
    pub fn set_up(options: &Options) -> Result<Disks> {
        let dir = tempfile::tempdir()?;
        let (server, redis) = start_redis(dir.path())?;
        load_values(redis, options.keys + options.miss_keys, options.size)?;
        let mut processes = vec![server];
        let mut start = |name: &str, l3: &str| -> Result<SocketAddr> {
            let file = dir.path().join(format!("{name}.toml"));
            let path = dir.path().join(name);
            let l3 = match l3 {
                "" => String::new(),
                size => format!(
                    "[l3]\npath = \"{}\"\nsize = \"{size}\"\nadmission = \"all\"\n",
                    path.display()
                ),
            };
            std::fs::write(&file, format!("[cache]\nmax_value = \"64KiB\"\nshards = 1\n{l3}"))?;
            let file = file.to_string_lossy().into_owned();
            let (process, address) = start_with(options, redis, "4MiB", &["--config", &file])?;
            processes.push(process);
            Ok(address)
        };
        let (without, writing, reading) = (
            start("without", "")?,
            start("writing", "16MiB")?,
            start("reading", "4GiB")?,
        );
        processes.reverse();
        Ok(Disks {
            redis,
            without,
            writing,
            reading,
            _processes: processes,
            _dir: dir,
        })
    }
}

/// Values of some facts of NEARCACHE STATS.
pub fn facts<const N: usize>(nearcache: SocketAddr, names: [&str; N]) -> Result<[u64; N]> {
    let stats = String::from_utf8_lossy(&ask(nearcache, "NEARCACHE STATS", 100)?).into_owned();
    let mut values = [0; N];
    for (value, name) in values.iter_mut().zip(names) {
        let mut lines = stats.lines().skip_while(|line| *line != name).skip(2);
        *value = lines.next().and_then(|line| line.parse().ok()).unwrap_or(0);
    }
    Ok(values)
}

/// Reads of L1 that a nearcache answered and did not answer, since its start.
#[derive(Clone, Copy)]
pub struct Reads {
    pub hits: u64,
    pub misses: u64,
}

pub fn reads(nearcache: SocketAddr) -> Result<Reads> {
    let stats = String::from_utf8_lossy(&ask(nearcache, "NEARCACHE STATS", 100)?).into_owned();
    let fact = |name: &str| -> Result<u64> {
        let mut lines = stats.lines().skip_while(|line| *line != name).skip(2);
        let value = lines.next().and_then(|line| line.parse().ok());
        value.ok_or_else(|| Error::other(format!("{nearcache} is no nearcache: no {name} in {stats:?}")))
    };
    Ok(Reads {
        hits: fact("nearcache_l1_hits")?,
        misses: fact("nearcache_l1_misses")?,
    })
}

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_redis(dir: &Path) -> Result<(Process, SocketAddr)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    drop(listener);
    let process = Command::new("redis-server")
        .args([
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .current_dir(dir)
        .stdout(Stdio::null())
        .spawn()
        .map(Process)
        .map_err(|error| {
            Error::other(format!(
                "redis-server does not start ({error}); it is needed, or --redis"
            ))
        })?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while ask(address, "PING", 1).is_err() {
        if Instant::now() > deadline {
            return Err(Error::other("redis-server does not answer"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((process, address))
}

/// Starts it and waits for the address that it prints.
fn start_nearcache(options: &Options, upstream: SocketAddr, l1: &str) -> Result<(Process, SocketAddr)> {
    start_with(options, upstream, l1, &[])
}

fn start_with(options: &Options, upstream: SocketAddr, l1: &str, args: &[&str]) -> Result<(Process, SocketAddr)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nearcache"))
        .args(["--upstream", &format!("redis://{upstream}"), "--listen", "127.0.0.1:0"])
        .args(["--admin", "off", "--log-level", "error", "--l1", l1])
        .args(["--workers", &options.workers.to_string()])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| Error::other(format!("nearcache does not start: {error}")))?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let process = Process(child);
    let address = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
    match address {
        Some(address) => Ok((process, address)),
        None => Err(Error::other(format!(
            "nearcache did not say where it listens: {line:?}"
        ))),
    }
}

fn load_values(redis: SocketAddr, keys: u64, size: usize) -> Result<()> {
    let mut stream = connect(redis)?;
    let value = "v".repeat(size);
    for first in (0..keys).step_by(1000) {
        let batch = first..(first + 1000).min(keys);
        let mut requests = Vec::new();
        for number in batch.clone() {
            write!(
                requests,
                "*3\r\n$3\r\nSET\r\n$16\r\n{}\r\n${size}\r\n{value}\r\n",
                key(number)
            )?;
        }
        stream.write_all(&requests)?;
        let mut replies = vec![0; batch.count() * b"+OK\r\n".len()];
        stream.read_exact(&mut replies)?;
        if !replies.starts_with(b"+OK") {
            let text = String::from_utf8_lossy(&replies[..replies.len().min(80)]).into_owned();
            return Err(Error::other(format!("{redis} does not take values: {text:?}")));
        }
    }
    Ok(())
}

/// An inline command whose reply has at least so many bytes, or is an error.
fn ask(address: SocketAddr, command: &str, at_least: usize) -> Result<Vec<u8>> {
    let mut stream = connect(address)?;
    // The second reply is the end of the first.
    write!(stream, "{command}\r\nECHO end-of-reply\r\n")?;
    let mut reply = Vec::new();
    let mut buf = [0; 4096];
    while !reply.ends_with(b"end-of-reply\r\n") {
        match stream.read(&mut buf)? {
            0 => break,
            len => reply.extend_from_slice(&buf[..len]),
        }
    }
    if reply.starts_with(b"-") || reply.len() < at_least {
        let text = String::from_utf8_lossy(&reply).into_owned();
        return Err(Error::other(format!("{command} at {address}: {text:?}")));
    }
    Ok(reply)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).map_err(|error| Error::other(format!("{address}: {error}")))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}
