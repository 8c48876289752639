//! redis-cli (and with it hiredis), typed, piped and with its own tools.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{before_each, run};
use crate::support::{Proxy, STEP};

#[test]
fn redis_cli() {
    before_each(|_, proxy, name| {
        let cli = |args: &[&str], input: &str| cli(proxy, args, input);
        assert_eq!(cli(&["SET", "k", "v"], ""), "OK\n", "{name}");
        assert_eq!(cli(&["GET", "k"], ""), "v\n");
        assert_eq!(cli(&["-3", "HSET", "h", "f", "v"], ""), "1\n");
        assert_eq!(cli(&["-3", "--no-raw", "HGETALL", "h"], ""), "1# \"f\" => \"v\"\n");
        assert_eq!(cli(&["-n", "4", "GET", "k"], ""), "\n");
        assert_eq!(cli(&["-x", "SET", "piped"], "from standard input"), "OK\n");
        assert_eq!(cli(&["GET", "piped"], ""), "from standard input\n");
        assert_eq!(cli(&["--raw", "EVAL", "return ARGV[1]", "0", "x"], ""), "x\n");
        assert_eq!(cli(&["-r", "3", "INCR", "n"], ""), "1\n2\n3\n");
        assert_eq!(cli(&["-r", "2", "-i", "0.01", "INCR", "n"], ""), "4\n5\n");
        assert_eq!(cli(&["--csv", "RPUSH", "l", "a", "b"], ""), "2\n");
        assert_eq!(cli(&["--csv", "LRANGE", "l", "0", "-1"], ""), "\"a\",\"b\"\n");
        assert_eq!(cli(&["--json", "-3", "HGETALL", "h"], "").trim(), "{\"f\":\"v\"}");
        assert_eq!(
            cli(&["--user", "default", "--pass", "any", "--no-auth-warning", "PING"], ""),
            "PONG\n"
        );
        // As somebody types, with the table of commands fetched for the hints.
        let typed = cli(
            &[],
            "SET typed 1\nGET typed\nMULTI\nINCR typed\nEXEC\nHELLO 3\nHGETALL h\nCOMMAND DOCS get\nGET nokey\n",
        );
        for expected in ["OK", "QUEUED", "2", "summary"] {
            assert!(typed.contains(expected), "{expected} in {typed}");
        }
        let piped: String = (0..5000).map(|i| format!("SET pipe:{i} {i}\r\n")).collect();
        let report = cli(&["--pipe"], &piped);
        assert!(report.contains("errors: 0, replies: 5000"), "{report}");
        assert_eq!(cli(&["GET", "pipe:4999"], ""), "4999\n");
        let mixed = "*3\r\n$3\r\nSET\r\n$4\r\nresp\r\n$1\r\n1\r\n*2\r\n$4\r\nLPOP\r\n$4\r\nresp\r\n";
        let report = run(command(proxy, &["--pipe"]), mixed);
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains("errors: 1, replies: 2"), "{report}");
        for (tool, expected) in [("--bigkeys", "Biggest string found"), ("--memkeys", "Biggest")] {
            let report = cli(&[tool], "");
            assert!(report.contains(expected), "{tool}: {report}");
        }
        let scanned = cli(&["--scan", "--pattern", "pipe:1*"], "");
        assert_eq!(scanned.lines().count(), 1111);
        let info = cli(&["INFO", "server"], "");
        assert!(info.contains("redis_version:"), "{info}");
    });
}

#[test]
fn redis_cli_with_transactions_scripts_and_streams_on_standard_input() {
    before_each(|_, proxy, name| {
        for version in ["-2", "-3"] {
            let lines = "DEL t x\nMULTI\nSET t 1\nINCR t\nGET t\nEXEC\nMULTI\nINCR\nEXEC\nMULTI\nSET t 9\nDISCARD\nGET t\n\
                WATCH t\nMULTI\nGET t\nEXEC\nEXEC\nEVALSHA 0000000000000000000000000000000000000000 0\n\
                FCALL nope 0\nXADD x 1-1 f v\nXGROUP CREATE x g 0\nXREADGROUP GROUP g me STREAMS x >\nXACK x g 1-1\n\
                BLPOP nolist 0.01\nSELECT 1\nGET t\nSELECT 0\nGET t\nLPUSH t 1\nSPUBLISH c m\nPUBLISH c m\n";
            let said = cli(proxy, &[version], lines);
            let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
            let expected = [
                "OK",
                "QUEUED",
                "QUEUED",
                "QUEUED",
                "OK",
                "2",
                "2",
                "OK",
                "ERR wrong number of arguments for 'incr' command",
                "EXECABORT Transaction discarded because of previous errors.",
                "OK",
                "QUEUED",
                "OK",
                "2",
                "OK",
                "OK",
                "QUEUED",
                "2",
                "ERR EXEC without MULTI",
                "NOSCRIPT No matching script.",
                "ERR Function not found",
                "1-1",
                "OK",
                "x",
                "1-1",
                "f",
                "v",
                "1",
                "OK",
                "OK",
                "2",
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                "0",
                "0",
            ];
            // The first line is how many keys DEL found.
            let found: Vec<String> = said[1..]
                .iter()
                .map(|line| line.replace("x: ", "x").replace(" 1-1: ", "1-1"))
                .collect();
            let all = found.join("\n");
            let mut rest = all.as_str();
            for word in expected {
                let at = rest.find(word);
                let at = at.unwrap_or_else(|| {
                    panic!("{name} {version}: {word:?} is missing behind what is before it in {all}")
                });
                rest = &rest[at + word.len()..];
            }
        }
    });
}

/// It listens until it is ended, and prints what it hears.
#[test]
fn redis_cli_that_is_subscribed() {
    before_each(|_, proxy, name| {
        for (version, verb, publish) in [
            ("-2", "SUBSCRIBE", "PUBLISH"),
            ("-3", "PSUBSCRIBE", "PUBLISH"),
            ("-3", "SSUBSCRIBE", "SPUBLISH"),
        ] {
            let mut child = command(proxy, &["--csv", version, verb, "news"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-cli is installed");
            let end = Instant::now() + STEP;
            let mut client = proxy.client();
            while client.int(&[publish, "news", "hello"]) != 1 {
                assert!(Instant::now() < end, "{name}: {verb} {version} never subscribes");
                std::thread::sleep(Duration::from_millis(1));
            }
            let mut heard = String::new();
            let mut stdout = child.stdout.take().expect("it is piped");
            let mut chunk = [0; 1024];
            while !heard.contains("\"hello\"") {
                let n = stdout.read(&mut chunk).expect("it prints");
                assert!(n > 0, "{name}: {verb} {version} ended after {heard}");
                heard.push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
            child.kill().expect("it still listens");
            child.wait().expect("a child can be waited for");
            let gone = Instant::now() + STEP;
            while client.int(&[publish, "news", "hello"]) != 0 {
                assert!(Instant::now() < gone, "{name}: its subscription stays");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

fn cli(proxy: &Proxy, args: &[&str], input: &str) -> String {
    let output = run(command(proxy, args), input);
    assert!(output.status.success(), "redis-cli {args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn command(proxy: &Proxy, args: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-p", &proxy.port().to_string()]).args(args);
    command
}
