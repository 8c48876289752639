//! The command table against what real servers say of themselves: their commands, arities and flags, the keys they find
//! in a request, and the replies they give in both protocol versions.

use nearcache::command::{Access, Keys, Path, ServerCommand, Spec, Table, decode_command_reply, slot};
use nearcache::resp::convert;
use nearcache::resp::request::{Args, Span};

use crate::support::client::children;
use crate::support::server::NEWER;
use crate::support::{Client, Server, show};

use forms::{
    ABSENT_FORMS, DATA, KEY_FORMS, NEWER_ABSENT_FORMS, NEWER_KEY_FORMS, NEWER_REPLY_FORMS, REPLY_FORMS, VECTORS,
};

mod forms;
pub mod readonly;

/// `write` in the table, though the server does not flag the command so.
const WRITES_UNFLAGGED: &[(&str, &str)] = &[
    ("pfcount", "rewrites its estimate"),
    ("eval", "a script may write"),
    ("evalsha", "a script may write"),
    ("fcall", "a function may write"),
    ("function", "a container: the flags are on its subcommands"),
    ("xgroup", "a container: the flags are on its subcommands"),
    ("module", "a module may do anything when it is loaded"),
    ("cluster", "some subcommands drop keys or give slots away"),
    ("debug", "some subcommands replace the data set"),
    ("replicaof", "replaces the data set"),
    ("slaveof", "replaces the data set"),
    ("failover", "the server becomes a replica"),
];

#[test]
fn every_command_of_redis_7_has_a_row_that_agrees_with_it() {
    let server = Server::start();
    let table = Table::builtin();
    let commands = commands_of(&mut server.client());
    assert!(commands.len() >= 240, "{} commands", commands.len());
    let mut problems = Vec::new();
    for command in &commands {
        match table.find(command.name.as_bytes()) {
            None => problems.push(format!("{}: no row", command.name)),
            Some(row) => problems.extend(disagreement(row, command)),
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn the_reply_of_command_reads_the_same_in_both_versions() {
    let server = Server::start();
    assert_eq!(
        sorted(commands_of(&mut server.client())),
        sorted(commands_of(&mut server.client().hello3()))
    );
}

#[test]
fn a_table_joined_with_valkey_knows_all_its_commands() {
    let Some(server) = Server::valkey(&[]) else { return };
    let commands = commands_of(&mut server.client());
    let table = Table::join(&commands);
    let mut problems = Vec::new();
    for command in &commands {
        match table.find(command.name.as_bytes()) {
            None => problems.push(format!("{}: no row", command.name)),
            Some(row) => problems.extend(disagreement(row, command)),
        }
    }
    assert_eq!(problems, Vec::<String>::new());
    let newer = [
        "HEXPIRE h 10 FIELDS 2 a b",
        "HTTL h FIELDS 1 a",
        "HGETEX h EX 10 FIELDS 1 a",
        "HSETEX h EX 10 FIELDS 1 a 1",
        "HGETDEL h FIELDS 1 a",
        "HPERSIST h FIELDS 1 a",
        "DELIFEQ a b",
        "MSETEX 2 a 1 b 2 EX 10",
        "MSETEX 1 a 1",
    ];
    agree_on_keys(&mut server.client(), &table, &newer);
    agree_on_keys(&mut server.client(), &table, &KEY_FORMS.concat());
}

#[test]
fn a_table_joined_with_newer_servers_knows_all_their_commands() {
    for server in NEWER.into_iter().filter_map(|newer| Server::newer(newer, &[])) {
        let commands = commands_of(&mut server.client());
        let table = Table::join(&commands);
        let problems: Vec<_> = commands
            .iter()
            .filter_map(|command| match table.find(command.name.as_bytes()) {
                None => Some(format!("{}: no row", command.name)),
                Some(row) => disagreement(row, command),
            })
            .collect();
        assert_eq!(problems, Vec::<String>::new(), "{}", server.kind());
        let all = [KEY_FORMS.concat(), NEWER_KEY_FORMS.to_vec()].concat();
        let known = known_forms(&mut server.client(), &all);
        agree_on_keys(&mut server.client(), &table, &known);
    }
}

#[test]
fn replies_of_newer_servers_converted_by_the_rule_are_what_the_older_protocol_gives() {
    for server in NEWER.into_iter().filter_map(|newer| Server::newer(newer, &[])) {
        let table = Table::join(&commands_of(&mut server.client()));
        let all = [
            KEY_FORMS.concat(),
            REPLY_FORMS.to_vec(),
            NEWER_KEY_FORMS.to_vec(),
            NEWER_REPLY_FORMS.to_vec(),
        ]
        .concat();
        let known = known_forms(&mut server.client(), &all);
        agree_on_replies(&server, &table, &known);
    }
}

/// Those of commands that the server has, with an option of Redis 8.4 only where it has that: patched builds of 8.0 refuse to
/// look for keys behind it.
fn known_forms<'a>(client: &mut Client, forms: &[&'a str]) -> Vec<&'a str> {
    let mut is_known = |form: &&str| {
        let words = words(form);
        let info = client.cmd(&["COMMAND", "INFO", words[0]]);
        let mut has_option = |option| show(&client.cmd(&["COMMAND", "DOCS", words[0]])).contains(option);
        !children(&children(&info)[0]).is_empty() && (!words.contains(&"CLAIM") || has_option("CLAIM"))
    };
    forms.iter().copied().filter(|form| is_known(form)).collect()
}

/// It says less of its commands: neither where their keys are, nor which subcommands there are.
#[test]
fn a_table_joined_with_redis_6_keeps_what_that_does_not_say() {
    let Some(server) = Server::redis_6(&[]) else { return };
    let commands = commands_of(&mut server.client());
    assert!(commands.len() >= 200, "{} commands", commands.len());
    let (table, own) = (Table::join(&commands), Table::builtin());
    let mut problems = Vec::new();
    for command in &commands {
        match (table.find(command.name.as_bytes()), own.find(command.name.as_bytes())) {
            (Some(row), Some(own)) if row.cache != own.cache || row.access != own.access => {
                problems.push(format!("{}: {row:?}, built in is {own:?}", command.name));
            }
            (Some(_), _) => {}
            (None, _) => problems.push(format!("{}: no row", command.name)),
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

#[test]
fn keys_are_those_that_the_server_finds() {
    let server = Server::start();
    let forms = KEY_FORMS.concat();
    assert!(forms.len() >= 150, "{} forms", forms.len());
    agree_on_keys(&mut server.client(), &Table::builtin(), &forms);
}

#[test]
fn the_reply_for_an_absent_key_is_the_one_in_the_table() {
    for (name, _) in readonly::caches(&Table::builtin())
        .iter()
        .filter(|(_, cache)| cache.is_kept())
    {
        let mut forms = ABSENT_FORMS.iter().chain(NEWER_ABSENT_FORMS);
        // An error, which is not kept.
        let is_refused = name == "VDIM";
        assert!(is_refused || forms.any(|form| is_of(form, name)), "{name}: no form");
    }
    agree_on_absent(&Server::start(), ABSENT_FORMS);
    if let Some(server) = Server::redis_8(&[]) {
        agree_on_absent(&server, &[ABSENT_FORMS, NEWER_ABSENT_FORMS].concat());
    }
}

#[track_caller]
fn agree_on_absent(server: &Server, forms: &[&str]) {
    let mut client = server.client().hello3();
    let table = Table::builtin();
    let mut problems = Vec::new();
    for form in forms {
        let mut storage = Vec::new();
        let request = words(form);
        let row = table.find(request[0].as_bytes()).expect("a row");
        let reply = client.cmd(&request);
        let absent = row.absent.of(args(&request, &mut storage));
        if !absent.is(&reply) {
            problems.push(format!("{form}: {}, not {absent:?}", show(&reply)));
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

/// Whether a form is of a command, or of a subcommand as `CONTAINER SUB`.
pub fn is_of(form: &str, command: &str) -> bool {
    let rest = form
        .get(..command.len())
        .filter(|start| start.eq_ignore_ascii_case(command));
    rest.is_some()
        && form
            .get(command.len()..)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

#[test]
fn replies_converted_by_the_rule_are_what_the_older_protocol_gives() {
    let server = Server::start();
    agree_on_replies(
        &server,
        &Table::builtin(),
        &[KEY_FORMS.concat(), REPLY_FORMS.to_vec()].concat(),
    );
}

#[test]
fn replies_of_valkey_converted_by_the_rule_are_what_the_older_protocol_gives() {
    let Some(server) = Server::valkey(&[]) else { return };
    let table = Table::join(&commands_of(&mut server.client()));
    let newer = [
        "HEXPIRE h 100 FIELDS 2 f1 nope",
        "HPEXPIRE nokey 100 FIELDS 1 f",
        "HTTL h FIELDS 2 f1 nope",
        "HTTL nokey FIELDS 1 f",
        "HPERSIST h FIELDS 1 f1",
        "HPERSIST nokey FIELDS 1 f1",
        "HEXPIRETIME nokey FIELDS 1 f",
        "HGETEX h EX 100 FIELDS 2 f1 nope",
        "HGETEX nokey EX 100 FIELDS 1 f",
        "HSETEX h EX 100 FIELDS 1 f1 v",
        "HGETDEL h FIELDS 2 f1 nope",
        "HGETDEL nokey FIELDS 1 f",
        "DELIFEQ s other",
        "DELIFEQ nokey other",
        "MSETEX 2 a 1 b 2 EX 10",
        "ZRANK z a WITHSCORE",
        "ZRANK z nope WITHSCORE",
        "ZRANK nokey a WITHSCORE",
        "ZREVRANK z a withscore",
        "ZREVRANK z nope withscore",
        "SCRIPT SHOW 0123456789012345678901234567890123456789",
    ];
    agree_on_replies(
        &server,
        &table,
        &[KEY_FORMS.concat(), REPLY_FORMS.to_vec(), newer.to_vec()].concat(),
    );
}

#[test]
fn slots_are_those_of_a_cluster() {
    let server = Server::with(&["--cluster-enabled", "yes"]);
    let mut client = server.client();
    for key in [
        "",
        "a",
        "foo",
        "{user}:1",
        "x{user}y",
        "{}x",
        "{",
        "}{",
        "a{b",
        "{{a}}",
        "{a}{b}",
        "foo{}{bar}",
        "ключ",
    ] {
        let expected = client.int(&["CLUSTER", "KEYSLOT", key]);
        assert_eq!(i64::from(slot::slot(key.as_bytes())), expected, "{key}");
    }
    for n in 0..300 {
        let key = format!("key:{n}:{{{}}}", n % 7).repeat(1 + n % 3);
        let expected = client.int(&["CLUSTER", "KEYSLOT", &key]);
        assert_eq!(i64::from(slot::slot(key.as_bytes())), expected, "{key}");
    }
}

fn commands_of(client: &mut Client) -> Vec<ServerCommand> {
    decode_command_reply(&client.cmd(&["COMMAND"])).expect("the reply of COMMAND can be read")
}

fn sorted(mut commands: Vec<ServerCommand>) -> Vec<ServerCommand> {
    for command in &mut commands {
        command.flags.sort();
    }
    commands.sort_by(|a, b| a.name.cmp(&b.name));
    commands
}

fn disagreement(row: &Spec, command: &ServerCommand) -> Option<String> {
    let is_flagged = |flag: &str| command.flags.iter().any(|own| own == flag);
    let name = &command.name;
    if i64::from(row.arity) != command.arity {
        return Some(format!("{name}: arity {} here, {} there", row.arity, command.arity));
    }
    let writes = row.access == Access::Write;
    if writes != is_flagged("write") && !(writes && WRITES_UNFLAGGED.iter().any(|(other, _)| other == name)) {
        return Some(format!(
            "{name}: {:?} here, flags {:?} there",
            row.access, command.flags
        ));
    }
    // LOLWUT draws a picture.
    if is_flagged("readonly") && row.access == Access::None && name != "lolwut" {
        return Some(format!("{name}: read-only there, and nothing to do with keys here"));
    }
    None
}

/// What `COMMAND GETKEYS` finds must be what the table finds, in any order; where the table says "all", it may give less.
#[track_caller]
fn agree_on_keys(client: &mut Client, table: &Table, forms: &[&str]) {
    let mut problems = Vec::new();
    for form in forms {
        let request = words(form);
        let reply = client.cmd(&[&["COMMAND", "GETKEYS"], &request[..]].concat());
        let mut expected: Vec<String> = match nearcache::resp::reply::elements(&reply) {
            Some(keys) => keys
                .filter_map(|key| Some(String::from_utf8_lossy(text(key)?).into_owned()))
                .collect(),
            None if show(&reply).contains("no key arguments") => Vec::new(),
            None => {
                problems.push(format!("{form}: {}", show(&reply)));
                continue;
            }
        };
        let mut found = Vec::new();
        let row = table.find(request[0].as_bytes()).expect("a row");
        let mut storage = Vec::new();
        let request = args(&request, &mut storage);
        let answer = row.keys(request, &mut |key| {
            found.push(String::from_utf8_lossy(key).into_owned())
        });
        expected.sort();
        found.sort();
        let is_equal = found == expected || (answer == Keys::All && found.is_empty());
        if !is_equal || (answer == Keys::None && !expected.is_empty()) {
            problems.push(format!("{form}: {found:?} ({answer:?}) here, {expected:?} there"));
        }
    }
    assert_eq!(problems, Vec::<String>::new());
}

/// Each form on the same data in both versions; a form that is not for the shared connection is left out.
#[track_caller]
fn agree_on_replies(server: &Server, table: &Table, forms: &[&str]) {
    let mut older = server.client();
    let mut newer = server.client().hello3();
    let has_vectors = !known_forms(&mut older, VECTORS).is_empty();
    let mut problems = Vec::new();
    let mut compared = 0;
    for form in forms {
        let request = words(form);
        let row = table.find(request[0].as_bytes()).expect("a row");
        let mut storage = Vec::new();
        let parsed = args(&request, &mut storage);
        if row.path(parsed) != Path::Shared {
            continue;
        }
        compared += 1;
        let rule = row.rule(parsed);
        // Some replies tell an age in milliseconds: a wrong shape stays wrong when they are asked for again.
        let mut problem = None;
        for _ in 0..50 {
            fill(&mut older, has_vectors);
            let expected = older.cmd(&request);
            if row.access == Access::Write {
                fill(&mut older, has_vectors);
            }
            let reply = newer.cmd(&request);
            let mut converted = Vec::new();
            problem = match convert::to_resp2(&rule, &reply, &mut converted) {
                Err(error) => Some(format!("{form}: {error:?} in {}", show(&reply))),
                Ok(()) if converted == expected => None,
                Ok(()) => Some(format!(
                    "{form}: {rule:?} made {}, not {}",
                    show(&converted),
                    show(&expected)
                )),
            };
            if problem.is_none() {
                break;
            }
        }
        problems.extend(problem);
    }
    assert!(compared > 200, "only {compared} forms compared");
    assert_eq!(problems, Vec::<String>::new());
}

fn fill(client: &mut Client, has_vectors: bool) {
    let vectors = if has_vectors { VECTORS } else { &[] };
    let lines = [DATA, vectors].concat();
    for line in &lines {
        client.send(&words(line));
    }
    for (line, reply) in lines.iter().zip(client.frames(lines.len())) {
        assert_ne!(reply.first(), Some(&b'-'), "{line}: {}", show(&reply));
    }
}

/// `''` is an empty argument.
fn words(form: &str) -> Vec<&str> {
    form.split(' ')
        .map(|word| if word == "''" { "" } else { word })
        .collect()
}

fn args<'a>(words: &[&str], storage: &'a mut Vec<(Vec<u8>, Vec<Span>)>) -> Args<'a> {
    let mut buf = Vec::new();
    let mut spans = Vec::new();
    for word in words {
        let start = buf.len() as u32;
        buf.extend_from_slice(word.as_bytes());
        spans.push(Span {
            start,
            end: buf.len() as u32,
        });
    }
    storage.push((buf, spans));
    let (buf, spans) = storage.last().expect("just pushed");
    Args { buf, spans }
}

fn text(frame: &[u8]) -> Option<&[u8]> {
    nearcache::resp::reply::text(frame)
}
