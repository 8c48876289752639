//! Files that are encrypted and compressed, from outside: what a disk shows, what a missing key says, and that keys are exchanged
//! under load.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::*;

/// A directory for the files, and a file of keys.
struct Place {
    dir: tempfile::TempDir,
    keys: Vec<String>,
}

impl Place {
    fn new() -> Place {
        let mut place = Place {
            dir: tempfile::tempdir().unwrap(),
            keys: Vec::new(),
        };
        place.add_key();
        place
    }

    fn key_file(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    fn add_key(&mut self) {
        self.keys
            .push((0..32).map(|_| format!("{:02x}", fastrand::u8(..))).collect());
        self.write_keys(&self.keys.join("\n"));
    }

    fn write_keys(&self, text: &str) {
        fs::write(self.key_file(), text).unwrap();
        fs::set_permissions(self.key_file(), PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("l3")
    }

    /// What earlier lives left is shown, so that it can be looked at.
    fn toml(&self, l3: &str) -> String {
        format!(
            "[cache]\nl1 = \"1MiB\"\nmax_value = \"64KiB\"\nshards = 1\nconsistency = \"eventual\"\nmax_age = \"1h\"\n\
             [l3]\npath = \"{}\"\nsize = \"64MiB\"\nadmission = \"all\"\nencryption_key_file = \"{}\"\n{l3}\n",
            self.files().display(),
            self.key_file().display()
        )
    }

    fn start(&self, server: &Server, l3: &str) -> Proxy {
        Proxy::with_config(&server.url(), &self.toml(l3), &["--workers", "2"])
    }

    fn refusal(&self, server: &Server) -> String {
        Proxy::try_start(&server.url(), &self.toml(""), &[]).err().unwrap()
    }

    fn check(&self, args: &[&str], env: Option<(&str, &str)>) -> Output {
        Command::new(env!("CARGO_BIN_EXE_nearcache"))
            .arg("l3-check")
            .arg(self.files())
            .args(args)
            .envs(env)
            .output()
            .unwrap()
    }

    /// Entries that the next process would find.
    fn alive(&self) -> f64 {
        let checked = self.check(&["--encryption-key-file", self.key_file().to_str().unwrap()], None);
        let report = text(&checked.stdout);
        assert_eq!(checked.status.code(), Some(0), "{report}");
        let before = report.split(" alive").next().unwrap_or_default();
        before.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap()
    }

    /// Whether any file has these bytes.
    fn shows(&self, bytes: &[u8]) -> bool {
        fs::read_dir(self.files()).unwrap().any(|file| {
            let content = fs::read(file.unwrap().path()).unwrap();
            content.windows(bytes.len()).any(|window| window == bytes)
        })
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The id of the key that new segments have.
fn writing(proxy: &Proxy) -> String {
    let info = proxy.client().text(&["INFO", "nearcache"]);
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("nearcache_l3_encrypted_with:"));
    line.unwrap_or_default().trim().to_owned()
}

fn segments_of(proxy: &Proxy, key: &str) -> Option<f64> {
    proxy.metric("nearcache_l3_key_segments", &[&format!("key=\"{key}\"")])
}

#[test]
fn keys_are_exchanged_under_load_and_kill_9_between_loses_nothing() {
    let server = Server::start();
    let mut place = Place::new();
    set_all(&server, 1);
    let mut ids: Vec<String> = Vec::new();
    let mut alive = 0.0;
    for round in 0..5 {
        let proxy = place.start(&server, "compression = \"zstd\"");
        if round > 0 {
            eventually("the files are read", STEP, || {
                proxy.metric("nearcache_l3_state", &["state=\"recovering\""]) == Some(0.0)
            });
            assert_eq!(l3(&proxy, "entries"), alive);
            let repairs = proxy.metric("nearcache_l3_faults_total", &["reason=\"repair\""]);
            assert_eq!(repairs, Some(0.0), "{}", proxy.log());
        }
        let (is_over, read) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for reader in 0..2 {
                let (proxy, is_over, read) = (&proxy, &is_over, &read);
                scope.spawn(move || {
                    let mut client = proxy.client();
                    let mut random = fastrand::Rng::with_seed(round * 2 + reader);
                    while !is_over.load(Relaxed) {
                        let i = random.usize(..KEYS);
                        let seen = client.bulk(&["GET", &format!("k{i}")]);
                        assert_eq!(seen, Some(value(i, 1).into_bytes()), "k{i}");
                        read.fetch_add(1, Relaxed);
                    }
                });
            }
            eventually("there is load", STEP, || read.load(Relaxed) > 2000);
            ids.push(writing(&proxy));
            place.add_key();
            proxy.hang_up();
            eventually("new segments have the new key", STEP, || {
                !ids.contains(&writing(&proxy))
            });
            let before = read.load(Relaxed);
            // Something new is evicted, so that there is something to write.
            let mut client = proxy.client();
            for i in 0..1500 {
                let key = format!("round{round}.{i}");
                client.expect(&["SET", &key, &value(i, 1)], "+OK");
                client.cmd(&["GET", &key]);
            }
            let key = writing(&proxy);
            eventually("it is written with it", STEP, || {
                segments_of(&proxy, &key).is_some_and(|n| n > 0.0)
            });
            eventually("and the load goes on", STEP, || read.load(Relaxed) > before + 500);
            is_over.store(true, Relaxed);
        });
        settled(&proxy);
        let faults = ["damaged_record", "read", "write", "segment"];
        for fault in faults {
            let label = format!("reason=\"{fault}\"");
            assert_eq!(
                proxy.metric("nearcache_l3_faults_total", &[&label]),
                Some(0.0),
                "{fault}"
            );
        }
        let entries = l3(&proxy, "entries");
        assert!(entries > 1000.0 * (round + 1) as f64, "round {round}: {entries}");
        let log = proxy.log();
        let printed = proxy.client().text(&["INFO"]) + &proxy.http("/metrics").1 + &log;
        assert!(place.keys.iter().all(|key| !printed.contains(&key[..16])), "{log}");
        proxy.kill();
        alive = place.alive();
        // The tombstone of a copy that was overtaken may stand behind the newer one that was written at the same moment.
        assert!(alive > entries * 0.9, "{alive} of {entries} entries");
    }
    assert!(!place.shows(b"xxxxxxxx") && !place.shows(b"round1.1"));
    let file = place.key_file();
    let checked = place.check(&["--encryption-key-file", file.to_str().unwrap(), "--export"], None);
    let (lines, report) = (text(&checked.stdout), text(&checked.stderr));
    assert_eq!(checked.status.code(), Some(0), "{report}");
    assert!(
        ids.iter().all(|id| report.contains(&format!("encrypted with {id}"))),
        "{report}"
    );
    assert!(
        lines.contains(&value(7, 1)) && lines.contains("\"key\":\"round4."),
        "{report}"
    );
    assert!(place.keys.iter().all(|key| !report.contains(key)));
}

#[test]
fn what_is_found_on_the_disk_is_plain_without_a_key_and_not_with_one() {
    let server = Server::start();
    let place = Place::new();
    set_all(&server, 1);
    for (l3, is_shown) in [
        ("write_plain = true", true),
        ("", false),
        ("compression = \"lz4\"", false),
    ] {
        let mut proxy = place.start(&server, l3);
        let mut client = proxy.client();
        read_all(&mut client, 1);
        settled(&proxy);
        proxy.terminate();
        assert!(proxy.wait(STEP).unwrap().success());
        assert_eq!(place.shows(b"xxxxxxxx"), is_shown, "{l3}");
        fs::remove_dir_all(place.files()).unwrap();
    }
}

#[test]
fn a_missing_key_is_refused_with_its_id_and_the_remedy_and_nothing_is_deleted() {
    let server = Server::start();
    let place = Place::new();
    set_all(&server, 1);
    let id = {
        let mut proxy = place.start(&server, "");
        read_all(&mut proxy.client(), 1);
        settled(&proxy);
        let id = writing(&proxy);
        // A reload without the key leaves everything as it is.
        place.write_keys(&"12".repeat(32));
        proxy.hang_up();
        eventually("it is told", STEP, || {
            proxy.log().contains("the keys of L3 stay as they were")
        });
        assert!(proxy.log().contains(&id));
        assert_eq!(writing(&proxy), id);
        proxy.terminate();
        assert!(proxy.wait(STEP).unwrap().success());
        id
    };
    let names = || {
        let mut names: Vec<_> = fs::read_dir(place.files())
            .unwrap()
            .map(|file| file.unwrap())
            .map(|file| (file.file_name(), file.metadata().unwrap().len()))
            .collect();
        names.sort();
        names
    };
    let before = names();
    assert!(before.len() > 1);
    let error = place.refusal(&server);
    for part in [&id, "encryption_key_file", "0000000000000001.seg", "move the file away"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!error.contains(&"12".repeat(8)), "{error}");
    assert_eq!(names(), before);
    for (args, env) in [
        (&[][..], None),
        (&["--encryption-key-file", place.key_file().to_str().unwrap()][..], None),
    ] {
        let checked = place.check(args, env);
        let said = text(&checked.stderr);
        assert!(checked.status.code() == Some(2) && said.contains(&id), "{said}");
    }
    let checked = place.check(&[], Some(("NEARCACHE_L3_ENCRYPTION_KEY", &place.keys[0])));
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    // With the key it goes on where it was.
    place.write_keys(&place.keys[0]);
    let proxy = place.start(&server, "");
    eventually("it is read again", STEP, || l3(&proxy, "entries") > KEYS as f64 * 0.6);
}

#[test]
fn a_file_of_keys_that_is_wrong_or_open_to_all_is_refused_before_anything_is_done() {
    let server = Server::start();
    let place = Place::new();
    fs::set_permissions(place.key_file(), PermissionsExt::from_mode(0o644)).unwrap();
    let error = place.refusal(&server);
    assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
    place.write_keys("not a key");
    let error = place.refusal(&server);
    assert!(error.contains("line 1") && !error.contains("not a key"), "{error}");
    fs::remove_file(place.key_file()).unwrap();
    let error = place.refusal(&server);
    assert!(error.contains("cannot be read"), "{error}");
    assert!(!place.files().exists());
}
