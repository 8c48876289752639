//! Primaries that sentinels watch: real ones, each a process of its own, and scripted ones that say what a test has them say.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::certificates::{Authority, Identity};
use super::client::{children, encode, payload};
use super::server::free_port;
use super::{Client, STEP, Server, eventually};

/// The name under which the sentinels here know the primary.
pub const NAME: &str = "mymaster";

/// The password of data nodes that have one.
const PASSWORD: &str = "data";

/// One primary, two replicas and three sentinels with a quorum of two.
pub struct Watched {
    /// The first one is the primary at the start.
    pub nodes: Vec<Server>,
    pub sentinels: Vec<Sentinel>,
    scheme: &'static str,
    has_password: bool,
}

pub struct Sentinel {
    child: Child,
    port: u16,
    password: Option<String>,
    dir: TempDir,
}

/// How long it takes at most until the sentinels have agreed that the primary is dead and promoted another.
pub const FAILOVER: Duration = Duration::from_secs(60);

impl Watched {
    pub fn start() -> Watched {
        Watched::with("")
    }

    /// With more lines for the configuration of each sentinel.
    pub fn with(lines: &str) -> Watched {
        Watched::launch(lines, &[], "redis")
    }

    /// With more arguments for the data nodes.
    pub fn of_nodes_with(extra: &[&str]) -> Watched {
        Watched::launch("", extra, "redis")
    }

    /// For [`Watched::cut`]: whoever has no password gets no answer.
    pub fn that_can_be_cut() -> Watched {
        Watched::launch("", &["--requirepass", PASSWORD, "--masterauth", PASSWORD], "redis")
    }

    /// All of them speak nothing but TLS, Unix sockets aside.
    pub fn over_tls(authority: &Authority, identity: &Identity) -> Watched {
        let paths = [&identity.cert, &identity.key, &authority.ca].map(|path| path.display().to_string());
        let [cert, key, ca] = &paths;
        let options = [
            ("tls-cert-file", &**cert),
            ("tls-key-file", key),
            ("tls-ca-cert-file", ca),
            ("tls-auth-clients", "no"),
            ("tls-replication", "yes"),
        ];
        let lines: String = options
            .iter()
            .map(|(name, value)| format!("{name} {value}\n"))
            .collect();
        let flags: Vec<String> = options
            .iter()
            .flat_map(|(name, value)| [format!("--{name}"), (*value).to_owned()])
            .collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        Watched::launch(&lines, &flags, "rediss")
    }

    fn launch(lines: &str, flags: &[&str], scheme: &'static str) -> Watched {
        let quick = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let node = |more: &[&str]| {
            let flags: Vec<&str> = quick.iter().chain(flags).chain(more).copied().collect();
            match scheme {
                "redis" => Server::with(&flags),
                _ => Server::with_tls_port(&flags),
            }
        };
        let primary = node(&[]);
        let of = format!("127.0.0.1 {}", primary.port());
        let replicas = (0..2).map(|_| node(&["--replicaof", &of])).collect::<Vec<_>>();
        let nodes: Vec<Server> = std::iter::once(primary).chain(replicas).collect();
        // One user for each sentinel, so that a test can cut one of them off from one node.
        for node in &nodes {
            for i in 0..3 {
                let user = watcher(i);
                node.client()
                    .expect(&["ACL", "SETUSER", &user, "on", ">watch", "~*", "&*", "+@all"], "+OK");
            }
        }
        let sentinels: Vec<Sentinel> = (0..3)
            .map(|i| Sentinel::start(nodes[0].port(), i, lines, scheme))
            .collect();
        let watched = Watched {
            nodes,
            sentinels,
            scheme,
            has_password: flags.contains(&PASSWORD),
        };
        eventually("the sentinels know all replicas and one another", STEP * 2, || {
            watched.sentinels.iter().all(|sentinel| {
                let mut client = sentinel.client();
                sentinel.hurry(&mut client);
                let state = client.text(&["SENTINEL", "MASTER", NAME]);
                let field = |name: &str| {
                    let words: Vec<&str> = state.split("\r\n").filter(|word| !word.starts_with('$')).collect();
                    let at = words.iter().position(|word| *word == name);
                    at.map(|at| words[at + 1].to_owned()).unwrap_or_default()
                };
                field("num-slaves") == "2" && field("num-other-sentinels") == "2" && field("flags") == "master"
            })
        });
        eventually("the replicas are in step", STEP, || {
            watched.nodes[1..].iter().all(|node| {
                node.client()
                    .text(&["INFO", "replication"])
                    .contains("master_link_status:up")
            })
        });
        watched
    }

    /// The address for `--upstream`.
    pub fn url(&self) -> String {
        let list: Vec<String> = self.sentinels.iter().map(Sentinel::address).collect();
        let user_info = match self.has_password {
            true => format!(":{PASSWORD}@"),
            false => String::new(),
        };
        format!("{}+sentinel://{user_info}{}/{NAME}", self.scheme, list.join(","))
    }

    /// The node that says of itself that it is the primary, other than this one.
    pub fn primary_other_than(&self, old: usize) -> Option<usize> {
        (0..self.nodes.len()).find(|&i| i != old && self.is_primary(i))
    }

    /// What a node says of itself. One that just becomes something else may close the connection.
    pub fn is_primary(&self, node: usize) -> bool {
        let mut client = self.nodes[node].stranger();
        let mut ask = |words: &[&str]| {
            client.try_raw(&encode(words))?;
            client.try_frame(STEP)
        };
        if self.has_password && ask(&["AUTH", PASSWORD]).is_err() {
            return false;
        }
        let role = ask(&["ROLE"]).unwrap_or_default();
        String::from_utf8_lossy(&role).contains("\nmaster\r")
    }

    /// The node that most sentinels name.
    pub fn named(&self) -> Option<usize> {
        let names: Vec<u16> = self.sentinels.iter().filter_map(Sentinel::names).collect();
        (0..self.nodes.len()).find(|&i| 2 * names.iter().filter(|&&port| port == self.nodes[i].port()).count() > 3)
    }

    /// Has the sentinels replace a primary that is well, and waits until another one is promoted. On a busy machine they may
    /// give up half way.
    pub fn fail_over(&self, old: usize) {
        let mut asked: Option<Instant> = None;
        eventually("another node is promoted", 2 * FAILOVER, || {
            let is_due = asked.is_none_or(|asked| asked.elapsed() > Duration::from_secs(8));
            if is_due && self.named() == Some(old) {
                asked = Some(Instant::now());
                self.sentinels[0].client().cmd(&["SENTINEL", "FAILOVER", NAME]);
            }
            self.primary_other_than(old).is_some()
        });
    }

    /// A sentinel can no longer speak to a node, and hears nothing from it.
    pub fn cut(&self, sentinel: usize, node: usize) {
        let mut client = self.nodes[node].client();
        client.expect(&["ACL", "SETUSER", &watcher(sentinel), "off"], "+OK");
        client.cmd(&["CLIENT", "KILL", "USER", &watcher(sentinel)]);
    }
}

fn watcher(sentinel: usize) -> String {
    format!("watcher{sentinel}")
}

impl Sentinel {
    fn start(primary: u16, nth: usize, lines: &str, scheme: &str) -> Sentinel {
        for _ in 0..20 {
            let dir = tempfile::tempdir().expect("a directory for the sentinel");
            let (port, file) = (free_port(), dir.path().join("sentinel.conf"));
            let password = lines
                .lines()
                .find_map(|line| line.strip_prefix("requirepass "))
                .map(str::to_owned);
            let ports = match scheme {
                "redis" => format!("port {port}"),
                _ => format!("port 0\ntls-port {port}"),
            };
            let config = format!(
                "{ports}\nunixsocket {dir}/s\nbind 127.0.0.1\ndir {dir}\nlogfile {dir}/log\n\
                 sentinel monitor {NAME} 127.0.0.1 {primary} 2\n\
                 sentinel down-after-milliseconds {NAME} 700\nsentinel failover-timeout {NAME} 4000\n\
                 sentinel auth-user {NAME} {user}\nsentinel auth-pass {NAME} watch\n{lines}\n",
                dir = dir.path().display(),
                user = watcher(nth),
            );
            fs::write(&file, config).expect("the configuration can be written");
            let child = Command::new("redis-server")
                .arg(&file)
                .arg("--sentinel")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server can be started");
            let mut sentinel = Sentinel {
                child,
                port,
                password,
                dir,
            };
            let mut is_up = false;
            eventually("the sentinel answers or has ended", STEP, || {
                is_up = TcpStream::connect(("127.0.0.1", port)).is_ok();
                is_up || sentinel.child.try_wait().is_ok_and(|status| status.is_some())
            });
            if is_up && sentinel.child.try_wait().is_ok_and(|status| status.is_none()) {
                return sentinel;
            }
        }
        panic!("no sentinel starts");
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Over its socket, as it may speak TLS at its port.
    pub fn client(&self) -> Client {
        let mut client = Client::unix(&self.dir.path().join("s")).expect("the sentinel answers on its socket");
        if let Some(password) = &self.password {
            client.expect(&["AUTH", password], "+OK");
        }
        client
    }

    /// The port of the primary that it names.
    pub fn names(&self) -> Option<u16> {
        let mut client = self.client();
        client
            .try_raw(&encode(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]))
            .ok()?;
        let reply = client.try_frame(Duration::from_millis(500)).ok()?;
        let port = payload(children(&reply).get(1)?)??;
        String::from_utf8_lossy(&port).parse().ok()
    }

    /// Things that take seconds by default, and that no test needs to wait for.
    fn hurry(&self, client: &mut Client) {
        let periods = [
            "SENTINEL",
            "DEBUG",
            "INFO-PERIOD",
            "300",
            "PUBLISH-PERIOD",
            "200",
            "ASK-PERIOD",
            "200",
        ];
        client.cmd(&periods);
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id is not zero");
        kill_process(pid, signal).expect("the sentinel is alive");
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A sentinel that says what it is told to say.
pub struct Scripted {
    port: u16,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    id: String,
    primary: Option<u16>,
    epoch: u64,
    others: Vec<(String, u16)>,
    is_silent: bool,
    refuses_to_announce: bool,
    listeners: Vec<TcpStream>,
}

impl Scripted {
    /// Names the server on this port.
    pub fn naming(primary: Option<u16>) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let script = Arc::new(Mutex::new(Script {
            id: format!("{port:040}"),
            primary,
            epoch: 1,
            ..Script::default()
        }));
        let shared = Arc::clone(&script);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let script = Arc::clone(&shared);
                thread::spawn(move || serve(client, &script));
            }
        });
        Scripted { port, script }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The same sentinel at another address; the old one has to be silenced.
    pub fn moved(&self) -> Scripted {
        let old = self.script.lock().expect("no thread of a script panics");
        let moved = Scripted::naming(old.primary);
        moved.script.lock().expect("no thread of a script panics").id = old.id.clone();
        moved
    }

    /// As the others tell of it.
    pub fn row(&self) -> (String, u16) {
        let script = self.script.lock().expect("no thread of a script panics");
        (script.id.clone(), self.port)
    }

    /// From now on it names another one, and announces it.
    pub fn switch(&self, primary: u16) {
        let mut script = self.script.lock().expect("no thread of a script panics");
        script.primary = Some(primary);
        script.epoch += 1;
        let message = format!("{NAME} 127.0.0.1 0 127.0.0.1 {primary}");
        let push = encode(&["message", "+switch-master", &message]);
        for listener in &mut script.listeners {
            let _ = listener.write_all(b">").and_then(|()| listener.write_all(&push[1..]));
        }
    }

    /// From now on it answers nobody.
    pub fn silence(&self) {
        self.script.lock().expect("no thread of a script panics").is_silent = true;
    }

    /// From now on it answers again.
    pub fn speak(&self) {
        self.script.lock().expect("no thread of a script panics").is_silent = false;
    }

    /// It lets nobody subscribe.
    pub fn refuse_to_announce(self) -> Scripted {
        self.script
            .lock()
            .expect("no thread of a script panics")
            .refuses_to_announce = true;
        self
    }

    /// It tells of other sentinels.
    pub fn tell_of(&self, others: &[(String, u16)]) {
        self.script.lock().expect("no thread of a script panics").others = others.to_vec();
    }
}

fn serve(stream: TcpStream, script: &Mutex<Script>) {
    let mut input = BufReader::new(stream.try_clone().expect("a handle can be duplicated"));
    let mut output = stream;
    while let Some(words) = request(&mut input) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut script = script.lock().expect("no thread of a script panics");
        if script.is_silent {
            break;
        }
        let array = |items: &[&str]| String::from_utf8_lossy(&encode(items)).into_owned();
        let port = script.primary.map(|port| port.to_string());
        let reply = match (
            words[0].to_ascii_uppercase().as_str(),
            words.get(1).map(|w| w.to_ascii_uppercase()).as_deref(),
        ) {
            ("HELLO", _) => "%1\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n".to_owned(),
            ("SENTINEL", Some("MYID")) => format!("${}\r\n{}\r\n", script.id.len(), script.id),
            ("SENTINEL", Some("GET-MASTER-ADDR-BY-NAME")) => match &port {
                Some(port) if words[2] == NAME => array(&["127.0.0.1", port]),
                _ => "_\r\n".to_owned(),
            },
            ("SENTINEL", Some("MASTER")) => match &port {
                Some(port) => {
                    let epoch = script.epoch.to_string();
                    array(&[
                        "ip",
                        "127.0.0.1",
                        "port",
                        port,
                        "flags",
                        "master",
                        "config-epoch",
                        &epoch,
                    ])
                }
                None => "-ERR No such master with that name\r\n".to_owned(),
            },
            ("SENTINEL", Some("SENTINELS")) => {
                let rows = script
                    .others
                    .iter()
                    .map(|(id, port)| array(&["runid", id, "ip", "127.0.0.1", "port", &port.to_string()]));
                format!("*{}\r\n{}", script.others.len(), rows.collect::<String>())
            }
            ("SENTINEL", _) => "*0\r\n".to_owned(),
            ("SUBSCRIBE", _) if script.refuses_to_announce => "-NOPERM no permissions\r\n".to_owned(),
            ("SUBSCRIBE", _) => {
                script.listeners.extend(output.try_clone());
                continue;
            }
            _ => ":1\r\n".to_owned(),
        };
        if output.write_all(reply.as_bytes()).is_err() {
            break;
        }
    }
}

fn request(input: &mut impl BufRead) -> Option<Vec<String>> {
    let words = number(input, '*')?;
    (0..words)
        .map(|_| {
            let mut word = vec![0; number(input, '$')? + 2];
            input.read_exact(&mut word).ok()?;
            word.truncate(word.len() - 2);
            String::from_utf8(word).ok()
        })
        .collect()
}

fn number(input: &mut impl BufRead, mark: char) -> Option<usize> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    line.strip_prefix(mark)?.trim().parse().ok()
}
