//! Whether everything that the servers say they can do is drawn, and what they say about requests of a wrong shape.

use std::collections::BTreeSet;

use super::grammar::Template;
use super::server::NOT_DRAWN;
use super::{commands, documented, server, states};
use crate::support::client::{children, encode, payload};
use crate::support::server::NEWER;
use crate::support::{Client, Proxy, Server, show, show_args};

#[test]
fn every_command_and_subcommand_is_drawn() {
    let redis = Server::start();
    let newer = NEWER.into_iter().filter_map(|newer| Server::newer(newer, &[]));
    let servers = std::iter::once(redis).chain(Server::valkey(&[])).chain(newer);
    for server in servers.filter(Server::is_known) {
        let mut client = server.client();
        let templates = [
            commands::READS,
            commands::WRITES,
            commands::RARE,
            server::SERVER,
            states::STATES,
        ]
        .concat();
        let documented = documented::commands(&client.cmd(&["COMMAND", "DOCS"]));
        let drawn: BTreeSet<String> = templates
            .iter()
            .flat_map(|t| Template::parse(t).heads())
            .chain(documented.into_iter().map(|command| command.name))
            .chain(NOT_DRAWN.iter().map(|(name, _)| (*name).to_owned()))
            .collect();
        let missing: Vec<String> = forms(&mut client)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !drawn.contains(name) && !is_of_vectors(name))
            .collect();
        assert_eq!(missing, Vec::<String>::new(), "neither drawn nor listed with a reason");
    }
}

/// Each server draws the graph of a vector set by chance: `caching::walk` and `command_table` have them instead.
fn is_of_vectors(name: &str) -> bool {
    name.starts_with('V')
}

#[test]
fn wrong_numbers_of_arguments_are_refused_in_the_same_words() {
    let (direct, behind) = (Server::start(), Server::start());
    wrong_numbers(&direct, &behind, "none");
}

#[test]
fn wrong_numbers_of_arguments_are_refused_in_the_same_words_by_valkey() {
    let (Some(direct), Some(behind)) = (Server::valkey(&[]), Server::valkey(&[])) else {
        return;
    };
    wrong_numbers(&direct, &behind, "none");
}

#[test]
fn wrong_numbers_of_arguments_are_refused_in_the_same_words_by_newer_servers() {
    for newer in NEWER {
        if let (Some(direct), Some(behind)) = (Server::newer(newer, &[]), Server::newer(newer, &[])) {
            // Redis 8 compares a name with that of the connection's last command, and only up to a zero byte.
            wrong_numbers(&direct, &behind, "get\0");
        }
    }
}

/// `unlike` is a name of which even the server does not always say the same.
fn wrong_numbers(direct: &Server, behind: &Server, unlike: &str) {
    let proxy = Proxy::start(behind, &[]);
    let mut requests: Vec<Vec<String>> = Vec::new();
    for (name, arity) in forms(&mut direct.client()) {
        let (container, sub) = name
            .split_once('|')
            .map_or((name.as_str(), None), |(a, b)| (a, Some(b)));
        // Not for a replica's own handshake: the proxy refuses it whatever its arguments.
        if ["sync", "psync", "replconf"].contains(&container) {
            continue;
        }
        let words: Vec<&str> = std::iter::once(container).chain(sub).collect();
        let is_right = |n: usize| match usize::try_from(arity) {
            Ok(exact) => n == exact,
            Err(_) => n >= arity.unsigned_abs() as usize,
        };
        for n in words.len()..10 {
            if !is_right(n) {
                let mut request: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
                if n % 2 == 0 {
                    request = request.iter().map(|w| w.to_uppercase()).collect();
                }
                request.resize(n, "x".to_owned());
                requests.push(request);
            }
        }
    }
    for sub in [
        "nope",
        "",
        "x".repeat(200).as_str(),
        "with space",
        "new\nline",
        "caf\u{e9}",
    ] {
        for container in [
            "config", "acl", "client", "cluster", "command", "debug", "function", "latency", "memory", "module",
            "object", "pubsub", "script", "slowlog", "xgroup", "xinfo", "CLIENT", "Object",
        ] {
            requests.push(vec![container.to_owned(), sub.to_owned()]);
            requests.push([container, sub, "a", "b", "c", "d"].map(str::to_owned).to_vec());
        }
    }
    for name in [
        "nope",
        "",
        "x".repeat(300).as_str(),
        "with space",
        "new\nline",
        "caf\u{e9}",
        "get\0",
        "GET ",
        "config|get",
    ] {
        for n in 0..12 {
            let args = (0..n).map(|i| format!("{i}-{}", "argument\r".repeat(i % 3)));
            requests.push(std::iter::once(name.to_owned()).chain(args).collect());
        }
        requests.push(vec![name.to_owned(), "y".repeat(500), "z".to_owned()]);
    }
    requests.retain(|request| request[0] != unlike);
    assert!(requests.len() > 700, "{} requests", requests.len());
    for is_resp3 in [false, true] {
        for before in [None, Some("MULTI"), Some("SUBSCRIBE"), Some("WATCH")] {
            let clients =
                [direct.client(), proxy.client()].map(|client| if is_resp3 { client.hello3() } else { client });
            let [mut direct, mut through] = clients;
            let mut problems = Vec::new();
            for request in &requests {
                let mut batch = vec![request.clone()];
                match before {
                    None => {}
                    Some("MULTI") => {
                        batch.insert(0, vec!["MULTI".to_owned()]);
                        batch.push(vec!["DISCARD".to_owned()]);
                    }
                    Some(word) => batch.insert(0, vec![word.to_owned(), "k".to_owned()]),
                }
                let bytes: Vec<u8> = batch.iter().flat_map(|c| encode(c)).collect();
                let replies = [&mut direct, &mut through].map(|client| {
                    client.raw(&bytes);
                    client.frames(batch.len()).concat()
                });
                if replies[0] != replies[1] {
                    let [server, proxy] = replies.map(|r| show(&r));
                    problems.push(format!(
                        "{before:?} {}\nserver: {server}\nproxy:  {proxy}",
                        show_args(request)
                    ));
                }
            }
            assert!(
                problems.is_empty(),
                "{} of {}:\n{}",
                problems.len(),
                requests.len(),
                problems.join("\n")
            );
        }
    }
}

/// Every command and subcommand of the server, with its arity.
fn forms(client: &mut Client) -> Vec<(String, i64)> {
    let reply = client.cmd(&["COMMAND"]);
    let mut out = Vec::new();
    walk(&reply, &mut out);
    out.sort();
    assert!(out.len() > 300, "{} forms", out.len());
    out
}

fn walk(list: &[u8], out: &mut Vec<(String, i64)>) {
    for command in children(list) {
        let fields = children(&command);
        let name = payload(&fields[0]).flatten().expect("a name");
        let arity = String::from_utf8_lossy(&fields[1][1..])
            .trim_end()
            .parse()
            .expect("an arity");
        out.push((String::from_utf8_lossy(&name).into_owned(), arity));
        if let Some(subcommands) = fields.get(9) {
            walk(subcommands, out);
        }
    }
}
