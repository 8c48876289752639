//! The primary is named by sentinels, and another node becomes it: by command, because it died, because it hung, because
//! the network says so. Clients keep their connections, errors are told and end soon, and nothing is shown from copies
//! of a primary that no majority stands by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::coherence_live::{BOUND, SLACK};
use crate::support::sentinel::{FAILOVER, NAME, Scripted, Watched};
use crate::support::{Client, Proxy, STEP, Server, eventually, show};

/// From the moment at which most sentinels know the new primary until clients can write again, at most.
const WINDOW: Duration = Duration::from_secs(1);

#[test]
fn a_failover_by_command_is_followed() {
    let watched = Watched::start();
    let proxy = Proxy::before(&watched.url(), &[]);
    let load = Load::start(&proxy);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "old"], "+OK");
    client.expect(&["GET", "k"], "$3\r\nold");
    eventually("the primary has passed it on", STEP, || {
        watched.nodes[1..]
            .iter()
            .all(|node| node.client().bulk(&["GET", "k"]) == Some(b"old".to_vec()))
    });
    watched.fail_over(0);
    check_followed(&watched, &proxy, load, &mut client, None);
    // A second one finds everything in place again.
    let first = watched.named().expect("the sentinels agree");
    client.expect(&["SET", "k", "again"], "+OK");
    watched.fail_over(first);
    eventually("it is followed too", WINDOW + SLACK, || {
        client.cmd(&["SET", "k", "third"]) == b"+OK\r\n"
            && watched.nodes[watched.named().unwrap_or(first)]
                .client()
                .bulk(&["GET", "k"])
                == Some(b"third".to_vec())
    });
}

#[test]
fn a_primary_that_is_killed_is_replaced() {
    let mut watched = Watched::start();
    let proxy = Proxy::before(&watched.url(), &[]);
    let load = Load::start(&proxy);
    let mut client = proxy.client3();
    client.expect(&["SET", "k", "old"], "+OK");
    client.expect(&["GET", "k"], "$3\r\nold");
    load.run_for(Duration::from_millis(300));
    watched.nodes[0].kill();
    check_followed(&watched, &proxy, load, &mut client, Some(0));
}

#[test]
fn a_primary_that_hangs_is_replaced() {
    let watched = Watched::start();
    let proxy = Proxy::before(&watched.url(), &[]);
    let load = Load::start(&proxy);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "old"], "+OK");
    client.expect(&["GET", "k"], "$3\r\nold");
    load.run_for(Duration::from_millis(300));
    watched.nodes[0].freeze();
    check_followed(&watched, &proxy, load, &mut client, Some(0));
    watched.nodes[0].thaw();
    // It comes back believing that it is the primary, until the sentinels tell it otherwise.
    let new = watched.named().expect("the sentinels agree");
    for i in 0..50 {
        let value = i.to_string();
        client.expect(&["SET", "back", &value], "+OK");
        assert_eq!(
            watched.nodes[new].client().bulk(&["GET", "back"]),
            Some(value.into_bytes())
        );
    }
}

/// What must hold after the sentinels have promoted another node. `dead`: the node that cannot be asked.
fn check_followed(watched: &Watched, proxy: &Proxy, load: Load, client: &mut Client, dead: Option<usize>) {
    let gone = dead.unwrap_or(usize::MAX);
    let mut new = 0;
    eventually("another node is promoted", FAILOVER, || {
        (1..watched.nodes.len()).filter(|&i| i != gone).any(|i| {
            new = i;
            watched.is_primary(i)
        })
    });
    let promoted = Instant::now();
    // The sentinel that promoted it looks once a second whether it is done, and tells the others.
    eventually("most sentinels know it", 2 * WINDOW + SLACK, || {
        watched.named() == Some(new)
    });
    let named = Instant::now();
    eventually("clients can write again", WINDOW + SLACK, || {
        client.cmd(&["SET", "probe", "x"]) == b"+OK\r\n" && watched.nodes[new].client().int(&["EXISTS", "probe"]) == 1
    });
    let writable = promoted.elapsed();
    // Straight to the new primary: whoever still shows a copy of the old one shows it for the bound at most.
    watched.nodes[new].client().expect(&["SET", "k", "new"], "+OK");
    let written = Instant::now();
    let mut readers = [proxy.client(), proxy.client3(), proxy.client()];
    while written.elapsed() < BOUND + SLACK {
        let asked = written.elapsed();
        for reader in &mut readers {
            let reply = reader.cmd(&["GET", "k"]);
            let is_error = reply.starts_with(b"-ERR nearcache: ");
            assert!(
                asked < BOUND || is_error || reply == b"$3\r\nnew\r\n",
                "{} when {asked:?} had passed since another was written",
                show(&reply)
            );
        }
    }
    let report = load.end();
    let errors_end = report
        .last_error
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(named));
    let since = report
        .first_error
        .map_or(Duration::ZERO, |at| promoted.saturating_duration_since(at));
    eprintln!(
        "{} errors, from {since:?} before the promotion to {errors_end:?} after most sentinels knew of it, {:?} after it; \
         writable {writable:?} after the promotion; {} requests done",
        report.errors,
        named - promoted,
        report.done
    );
    assert!(
        errors_end < WINDOW + SLACK,
        "errors until {errors_end:?} after most sentinels knew"
    );
    assert!(report.done > 100, "there was a load: {}", report.done);
    // What the new primary has is what clients read.
    let mut truth = watched.nodes[new].client();
    for key in &report.keys {
        assert_eq!(client.bulk(&["GET", key]), truth.bulk(&["GET", key]), "{key}");
    }
    // Sentinels that are late give a failover up and begin another.
    assert!(proxy.metric("nearcache_upstream_switches_total", &[]) >= Some(1.0));
    let info = client.text(&["INFO", "nearcache"]);
    assert!(
        info.contains(&format!(
            "nearcache_upstream_node:127.0.0.1:{}",
            watched.nodes[new].port()
        )),
        "{info}"
    );
}

#[test]
fn copies_are_not_shown_while_most_sentinels_are_silent() {
    let watched = Watched::start();
    let proxy = Proxy::before(&watched.url(), &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    let is_hit = |client: &mut Client| {
        let before = watched.nodes[0].calls("get");
        client.expect(&["GET", "k"], "$1\r\nv");
        watched.nodes[0].calls("get") == before
    };
    eventually("it is shown from a copy", STEP, || is_hit(&mut client));
    watched.sentinels[1].freeze();
    let begun = Instant::now();
    while begun.elapsed() < 2 * BOUND {
        assert!(is_hit(&mut client), "two of three are a majority");
    }
    watched.sentinels[2].freeze();
    let begun = Instant::now();
    while begun.elapsed() < 3 * BOUND {
        let asked = begun.elapsed();
        let is_hit = is_hit(&mut client);
        assert!(
            !is_hit || asked < BOUND,
            "a copy is shown {asked:?} after the majority went"
        );
    }
    eventually("health tells why", STEP, || {
        proxy.http("/health").1.contains("sentinels")
    });
    client.expect(&["SET", "other", "written"], "+OK");
    watched.sentinels[1].thaw();
    eventually("the copy is good again", STEP, || is_hit(&mut client));
    watched.sentinels[2].thaw();
}

#[test]
fn a_primary_cut_off_from_its_sentinels_is_left() {
    let watched = Watched::that_can_be_cut();
    let proxy = Proxy::with_config(&watched.url(), "[auth]\nmode = \"none\"\n", &[]);
    let mut clients = [proxy.client(), proxy.client3()];
    for client in &mut clients {
        client.expect(&["SET", "k", "old"], "+OK");
        client.expect(&["GET", "k"], "$3\r\nold");
    }
    // It stays up and reachable for the proxy, and nobody can tell it that it is replaced.
    (0..3).for_each(|sentinel| watched.cut(sentinel, 0));
    eventually("another is promoted", FAILOVER, || {
        watched.primary_other_than(0).is_some()
    });
    // Whoever is promoted knows it before the sentinels do, who find out by asking; until then they name the old one, and on
    // a busy machine for long.
    eventually("most sentinels name it", FAILOVER, || {
        watched.named().is_some_and(|named| named != 0)
    });
    let new = watched.named().expect("they have just named it");
    watched.nodes[new].client().expect(&["SET", "k", "new"], "+OK");
    let written = Instant::now();
    while written.elapsed() < 2 * BOUND {
        for client in &mut clients {
            let asked = written.elapsed();
            let reply = client.cmd(&["GET", "k"]);
            assert!(
                asked < BOUND || reply == b"$3\r\nnew\r\n",
                "{} when {asked:?} had passed",
                show(&reply)
            );
        }
    }
    assert!(watched.is_primary(0), "it still believes in itself");
    for client in &mut clients {
        client.expect(&["SET", "k", "newer"], "+OK");
    }
    // On a busy machine the sentinels may have replaced that one, too.
    let newer = Some(b"newer".to_vec());
    assert!(
        watched.nodes[1..]
            .iter()
            .any(|node| node.client().bulk(&["GET", "k"]) == newer)
    );
    assert_eq!(watched.nodes[0].client().bulk(&["GET", "k"]), Some(b"old".to_vec()));
}

/// The proxy, the old primary and one sentinel on one side of the cut; the others, who promote, on the other.
#[test]
fn on_the_smaller_side_of_a_split_nothing_is_shown_from_copies() {
    let watched = Watched::that_can_be_cut();
    for sentinel in &watched.sentinels {
        let rule = ["ACL", "SETUSER", "proxy", "on", ">pw", "~*", "&*", "+@all"];
        sentinel.client().expect(&rule, "+OK");
    }
    let toml = "[upstream]\nsentinel_user = \"proxy\"\nsentinel_password = \"pw\"\n[auth]\nmode = \"none\"\n";
    let proxy = Proxy::with_config(&watched.url(), toml, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "old"], "+OK");
    eventually("it is shown from a copy", STEP, || {
        let before = watched.nodes[0].calls("get");
        client.expect(&["GET", "k"], "$3\r\nold");
        watched.nodes[0].calls("get") == before
    });
    for far in 1..3 {
        watched.cut(far, 0);
        let mut sentinel = watched.sentinels[far].client();
        sentinel.expect(&["ACL", "SETUSER", "proxy", "off"], "+OK");
        sentinel.cmd(&["CLIENT", "KILL", "USER", "proxy"]);
    }
    (1..3).for_each(|node| watched.cut(0, node));
    // Nor do the sentinels hear of one another.
    let mut near = watched.sentinels[0].client();
    near.expect(
        &["ACL", "SETUSER", "default", "resetpass", ">unknown to the others"],
        "+OK",
    );
    near.cmd(&["CLIENT", "KILL", "USER", "default"]);
    let cut = Instant::now();
    eventually("the larger side promotes", FAILOVER, || {
        watched.primary_other_than(0).is_some()
    });
    eventually("the bound has passed", FAILOVER, || cut.elapsed() > BOUND);
    for _ in 0..50 {
        let before = watched.nodes[0].calls("get");
        client.expect(&["GET", "k"], "$3\r\nold");
        assert_eq!(watched.nodes[0].calls("get"), before + 1, "shown from a copy");
    }
    let info = client.text(&["INFO", "nearcache"]);
    assert!(
        info.contains(&format!(
            "nearcache_upstream_node:127.0.0.1:{}\r",
            watched.nodes[0].port()
        )),
        "{info}"
    );
}

#[test]
fn one_sentinel_that_lies_is_not_believed() {
    let (truth, false_one) = (Server::start(), Server::start());
    false_one.client().expect(&["SET", "k", "false"], "+OK");
    truth.client().expect(&["SET", "k", "true"], "+OK");
    let liar = Scripted::naming(Some(false_one.port()));
    let honest = [
        Scripted::naming(Some(truth.port())),
        Scripted::naming(Some(truth.port())),
    ];
    let proxy = Proxy::before(&url(&[&liar, &honest[0], &honest[1]]), &[]);
    let mut client = proxy.client();
    let check = |client: &mut Client| {
        for _ in 0..20 {
            client.expect(&["GET", "k"], "$4\r\ntrue");
        }
        let before = truth.calls("get");
        client.expect(&["GET", "k"], "$4\r\ntrue");
        assert_eq!(truth.calls("get"), before, "the majority vouches for the copy");
    };
    check(&mut client);
    // Nor about sentinels that there are not, nor when it announces a switch.
    liar.tell_of(&(0..50).map(|i| (format!("{i:040}"), 1)).collect::<Vec<_>>());
    for _ in 0..5 {
        liar.switch(false_one.port());
    }
    let begun = Instant::now();
    while begun.elapsed() < 2 * BOUND + SLACK {
        check(&mut client);
    }
    assert_eq!(proxy.metric("nearcache_upstream_switches_total", &[]), Some(0.0));
}

#[test]
fn a_sentinel_that_has_moved_is_asked_at_its_new_address() {
    let server = Server::start();
    server.client().expect(&["SET", "k", "v"], "+OK");
    let sentinels = [(); 3].map(|()| Scripted::naming(Some(server.port())));
    let proxy = Proxy::before(&url(&[&sentinels[0], &sentinels[1], &sentinels[2]]), &[]);
    let answering = || proxy.metric("nearcache_sentinels", &["state=\"answering\""]);
    let known = || proxy.metric("nearcache_sentinels", &["state=\"known\""]);
    eventually("all answer", STEP, || answering() == Some(3.0));
    let moved = sentinels[2].moved();
    sentinels[2].silence();
    eventually("it is gone", STEP, || answering() == Some(2.0));
    sentinels[0].tell_of(&[sentinels[1].row(), moved.row()]);
    sentinels[1].tell_of(&[sentinels[0].row(), moved.row()]);
    moved.tell_of(&[sentinels[0].row(), sentinels[1].row()]);
    eventually("it answers where it is now", STEP, || answering() == Some(3.0));
    // It is needed for a majority.
    sentinels[1].silence();
    eventually("one is silent", STEP, || answering() == Some(2.0));
    assert_eq!(known(), Some(3.0));
    let begun = Instant::now();
    let mut client = proxy.client();
    while begun.elapsed() < 2 * BOUND + SLACK {
        client.expect(&["GET", "k"], "$1\r\nv");
    }
    let before = server.calls("get");
    client.expect(&["GET", "k"], "$1\r\nv");
    assert_eq!(server.calls("get"), before, "the majority vouches for the copy");
}

#[test]
fn a_sentinel_that_is_not_needed_any_more_is_not_asked_any_more() {
    let server = Server::start();
    let sentinels = [(); 3].map(|()| Scripted::naming(Some(server.port())));
    let proxy = Proxy::before(&url(&[&sentinels[0], &sentinels[1], &sentinels[2]]), &[]);
    let answering = || proxy.metric("nearcache_sentinels", &["state=\"answering\""]);
    let known = || proxy.metric("nearcache_sentinels", &["state=\"known\""]);
    let all_tell_of = |fourth: &[(String, u16)]| {
        for own in &sentinels {
            let others = sentinels.iter().map(Scripted::row).filter(|row| *row != own.row());
            own.tell_of(&others.chain(fourth.iter().cloned()).collect::<Vec<_>>());
        }
    };
    // One of which the others tell no more, and which is gone.
    let fourth = Scripted::naming(Some(server.port()));
    all_tell_of(&[fourth.row()]);
    eventually("it is found", STEP, || answering() == Some(4.0));
    all_tell_of(&[]);
    eventually("it has no say", STEP, || known() == Some(3.0));
    fourth.silence();
    let gone = fourth.address();
    eventually("it is given up", STEP, || {
        let log = proxy.log();
        log.lines()
            .any(|line| line.contains("nobody tells of a sentinel there") && line.contains(&gone))
    });
    // If it is told of again it is asked again.
    fourth.speak();
    all_tell_of(&[fourth.row()]);
    eventually("it is found again", STEP, || answering() == Some(4.0));
    all_tell_of(&[]);
    fourth.silence();
    eventually("it is given up again", STEP, || {
        answering() == Some(3.0) && known() == Some(3.0)
    });
    // One that answers at its old address again is asked only there.
    let moved = sentinels[2].moved();
    sentinels[2].silence();
    eventually("it is gone", STEP, || answering() == Some(2.0));
    for own in &sentinels[..2] {
        own.tell_of(&[sentinels[0].row(), sentinels[1].row(), moved.row()]);
    }
    eventually("it answers where it is now", STEP, || answering() == Some(3.0));
    sentinels[2].speak();
    let spare = moved.address();
    eventually("it is asked only at its own address", STEP, || {
        let log = proxy.log();
        log.lines()
            .any(|line| line.contains("it is asked only there") && line.contains(&spare))
    });
    moved.silence();
    proxy.client().expect(&["SET", "k", "v"], "+OK");
    eventually("it answers still", STEP, || {
        answering() == Some(3.0) && known() == Some(3.0)
    });
}

#[test]
fn a_minority_is_followed_only_if_nobody_speaks_against_it_and_copies_are_not_shown_then() {
    let (old, new) = (Server::start(), Server::start());
    new.client().expect(&["SET", "k", "new"], "+OK");
    old.client().expect(&["SET", "k", "old"], "+OK");
    let sentinels = [(); 3].map(|()| Scripted::naming(Some(old.port())).refuse_to_announce());
    let proxy = Proxy::before(&url(&[&sentinels[0], &sentinels[1], &sentinels[2]]), &[]);
    let mut client = proxy.client();
    client.expect(&["GET", "k"], "$3\r\nold");
    sentinels[0].silence();
    sentinels[2].switch(new.port());
    let begun = Instant::now();
    while begun.elapsed() < 2 * BOUND {
        client.expect(&["GET", "k"], "$3\r\nold");
    }
    sentinels[1].silence();
    eventually("it is followed", 2 * BOUND, || {
        client.cmd(&["GET", "k"]) == b"$3\r\nnew\r\n"
    });
    let before = new.calls("get");
    for _ in 0..20 {
        client.expect(&["GET", "k"], "$3\r\nnew");
    }
    assert_eq!(new.calls("get"), before + 20);
}

#[test]
fn nothing_of_the_old_primary_survives_a_switch() {
    let (old, new) = (Server::start(), Server::start());
    for (server, value) in [(&old, "old"), (&new, "new")] {
        let mut direct = server.client();
        for i in 0..200 {
            direct.expect(&["SET", &format!("k{i}"), value], "+OK");
        }
        direct.expect(&["HSET", "h", "f", value], ":1");
    }
    let sentinel = Scripted::naming(Some(old.port()));
    let proxy = Proxy::before(&url(&[&sentinel]), &[]);
    let mut clients = [proxy.client(), proxy.client3(), proxy.client()];
    let mut server = (&old, &new);
    for round in 0..6 {
        let value = if round % 2 == 0 { "old" } else { "new" };
        for (i, client) in (0..200).flat_map(|i| [(i, 0), (i, 1), (i, 2)]) {
            clients[client].expect(&["GET", &format!("k{i}")], &format!("$3\r\n{value}"));
        }
        for client in &mut clients {
            client.expect(&["HGET", "h", "f"], &format!("$3\r\n{value}"));
        }
        // States of its own, which end with the node, and one that blocks there.
        let mut queueing = proxy.client();
        queueing.expect(&["MULTI"], "+OK");
        queueing.expect(&["SET", "k1", "never"], "+QUEUED");
        let mut blocked = proxy.client();
        blocked.send(&["BLPOP", "nothing", "0"]);
        let mut listening = proxy.client();
        listening.cmd(&["SUBSCRIBE", "c"]);
        eventually("it is blocked", STEP, || {
            server
                .0
                .client()
                .text(&["INFO", "clients"])
                .contains("blocked_clients:1")
        });
        sentinel.switch(server.1.port());
        let other = if round % 2 == 0 { "new" } else { "old" };
        eventually("it is followed", WINDOW + SLACK, || {
            proxy.metric("nearcache_upstream_switches_total", &[]) == Some(f64::from(round + 1))
        });
        for client in &mut clients {
            eventually("the first answer of the new one", STEP, || {
                let reply = client.cmd(&["GET", "k0"]);
                assert_ne!(reply, format!("$3\r\n{value}\r\n").into_bytes());
                reply == format!("$3\r\n{other}\r\n").into_bytes()
            });
        }
        for i in 0..200 {
            clients[i % 3].expect(&["GET", &format!("k{i}")], &format!("$3\r\n{other}"));
        }
        clients[1].expect(&["HGET", "h", "f"], &format!("$3\r\n{other}"));
        assert!(queueing.until_closed().is_empty());
        blocked.until_closed();
        listening.until_closed();
        eventually("nobody is left at the old one", STEP, || {
            // This connection, and none else.
            server
                .0
                .client()
                .text(&["CLIENT", "LIST"])
                .lines()
                .filter(|line| line.contains("id="))
                .count()
                == 1
        });
        server = (server.1, server.0);
    }
    assert_eq!(old.client().bulk(&["GET", "k1"]), Some(b"old".to_vec()));
}

#[test]
fn at_a_switch_writes_under_way_are_answered_with_an_error_and_reads_by_the_new_primary() {
    let (old, new) = (Server::start(), Server::start());
    let sentinel = Scripted::naming(Some(old.port()));
    let proxy = Proxy::before(&url(&[&sentinel]), &[]);
    let (mut writer, mut reader) = (proxy.client(), proxy.client3());
    new.client().expect(&["SET", "uncached", "of the new one"], "+OK");
    writer.expect(&["SET", "k", "v"], "+OK");
    reader.expect(&["SET", "other", "v"], "+OK");
    old.freeze();
    writer.send(&["SET", "k", "w"]);
    reader.send(&["GET", "uncached"]);
    assert!(writer.is_silent(Duration::from_millis(100)));
    sentinel.switch(new.port());
    let told = String::from_utf8_lossy(&writer.frame()).into_owned();
    assert!(
        told.starts_with("-ERR nearcache: ") && told.contains("a write may or may not have been executed"),
        "{told}"
    );
    assert!(
        told.contains(&format!("the primary is now 127.0.0.1:{}", new.port())),
        "{told}"
    );
    assert_eq!(show(&reader.frame()), "$14\\r\\nof the new one\\r\\n");
    writer.expect(&["SET", "k", "x"], "+OK");
    assert_eq!(new.client().bulk(&["GET", "k"]), Some(b"x".to_vec()));
    old.thaw();
}

#[test]
fn a_node_that_is_no_primary_is_refused_until_the_sentinels_know_better() {
    let primary = Server::start();
    let of = format!("127.0.0.1 {}", primary.port());
    let replica = Server::with(&["--replicaof", &of]);
    let sentinel = Scripted::naming(Some(replica.port()));
    let proxy = Proxy::before(&url(&[&sentinel]), &[]);
    for mut client in [proxy.client(), proxy.client3()] {
        let refused = client.text(&["GET", "k"]);
        assert!(
            refused.contains("it says that it is a replica, no primary")
                && refused.contains(&replica.port().to_string()),
            "{refused}"
        );
        // A connection of its own is refused in the same way.
        let refused = client.text(&["WATCH", "k"]);
        assert!(
            refused.contains("it says that it is a replica, no primary"),
            "{refused}"
        );
    }
    let mut client = proxy.client();
    sentinel.switch(primary.port());
    eventually("the right one is found", WINDOW + SLACK, || {
        client.cmd(&["SET", "k", "v"]) == b"+OK\r\n"
    });
    client.expect(&["WATCH", "k"], "+OK");
}

#[test]
fn a_wrong_name_is_told() {
    let server = Server::start();
    let sentinel = Scripted::naming(Some(server.port()));
    let url = url(&[&sentinel]).replace(NAME, "nobody");
    let proxy = Proxy::with_config(&url, "[upstream]\nconnect_timeout = \"300ms\"\n", &[]);
    let mut client = proxy.client();
    client.expect(&["PING"], "+PONG");
    let refused = client.text(&["GET", "k"]);
    let told = "no sentinel knows a primary named \"nobody\": check the name at the end of upstream.url";
    assert!(
        refused.starts_with("-ERR nearcache: upstream nobody") && refused.contains(told),
        "{refused}"
    );
    assert!(proxy.log().contains(told.split('"').next().unwrap()), "{}", proxy.log());
}

#[test]
fn sentinels_that_cannot_be_reached_are_told() {
    let absent = Server::absent();
    let url = format!("redis+sentinel://127.0.0.1:{}/{NAME}", absent.port());
    let proxy = Proxy::with_config(&url, "[upstream]\nconnect_timeout = \"300ms\"\n", &[]);
    let refused = proxy.client().text(&["GET", "k"]);
    assert!(
        refused.contains("no sentinel answers: ") && refused.contains(&absent.port().to_string()),
        "{refused}"
    );
}

#[test]
fn sentinels_with_a_password() {
    let watched = Watched::with("requirepass hush\nsentinel sentinel-pass hush");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "hush\n").unwrap();
    let toml = format!("[upstream]\nsentinel_password_file = {file:?}\n");
    let proxy = Proxy::with_config(&watched.url(), &toml, &[]);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK");
    client.expect(&["GET", "k"], "$1\r\nv");
    drop(proxy);

    let toml = "[upstream]\nsentinel_password = \"wrong\"\nconnect_timeout = \"300ms\"\n";
    let proxy = Proxy::with_config(&watched.url(), toml, &[]);
    let refused = proxy.client().text(&["GET", "k"]);
    assert!(
        refused.contains("WRONGPASS") && refused.contains("upstream.sentinel_password"),
        "{refused}"
    );
    assert!(!proxy.log().contains("hush"), "{}", proxy.log());
    drop(proxy);

    let proxy = Proxy::with_config(&watched.url(), "[upstream]\nconnect_timeout = \"300ms\"\n", &[]);
    let refused = proxy.client().text(&["GET", "k"]);
    assert!(
        refused.contains("NOAUTH") && refused.contains("upstream.sentinel_password"),
        "{refused}"
    );
}

#[test]
fn replicas_and_sentinels_are_shown() {
    let watched = Watched::start();
    // One is enough to find the others.
    let url = format!("redis+sentinel://{}/{NAME}/3", watched.sentinels[0].address());
    let proxy = Proxy::before(&url, &[]);
    let mut client = proxy.client();
    eventually("all are found", STEP, || {
        let info = client.text(&["INFO", "nearcache"]);
        let replicas = watched.nodes[1..]
            .iter()
            .all(|node| info.contains(&format!("127.0.0.1:{}", node.port())));
        replicas && info.contains("nearcache_sentinels:known=3,answering=3,agreeing=3")
    });
    client.expect(&["SET", "k", "v"], "+OK");
    let mut direct = watched.nodes[0].client();
    direct.expect(&["SELECT", "3"], "+OK");
    direct.expect(&["GET", "k"], "$1\r\nv");
    assert_eq!(proxy.metric("nearcache_sentinels", &["state=\"agreeing\""]), Some(3.0));
    assert_eq!(proxy.metric("nearcache_replicas", &[]), Some(2.0));
}

fn url(sentinels: &[&Scripted]) -> String {
    let list: Vec<String> = sentinels.iter().map(|sentinel| sentinel.address()).collect();
    format!("redis+sentinel://{}/{NAME}", list.join(","))
}

/// Clients that write and read all the time, and fail the test when one is disconnected.
struct Load {
    threads: Vec<thread::JoinHandle<Report>>,
    is_over: std::sync::Arc<AtomicBool>,
}

#[derive(Default)]
struct Report {
    keys: Vec<String>,
    done: u64,
    errors: u64,
    first_error: Option<Instant>,
    last_error: Option<Instant>,
}

impl Load {
    fn start(proxy: &Proxy) -> Load {
        let is_over = std::sync::Arc::new(AtomicBool::new(false));
        let threads = (0..4).map(|i| {
            let (mut client, is_over) = (proxy.client(), is_over.clone());
            thread::spawn(move || {
                let mut report = Report::default();
                let mut n = 0u64;
                while !is_over.load(Ordering::Relaxed) {
                    n += 1;
                    let (key, value) = (format!("load:{i}:{}", n % 8), n.to_string());
                    for request in [vec!["SET", &key, &value], vec!["GET", &key], vec!["INCR", "load:count"]] {
                        client.send(&request);
                        let reply = client.try_frame(STEP).expect("no client is disconnected");
                        if reply.starts_with(b"-") {
                            let text = String::from_utf8_lossy(&reply);
                            assert!(
                                text.starts_with("-ERR nearcache: ") || text.starts_with("-READONLY"),
                                "{request:?}: {text}"
                            );
                            report.errors += 1;
                            report.last_error = Some(Instant::now());
                            report.first_error = report.first_error.or(report.last_error);
                        } else {
                            report.done += 1;
                        }
                    }
                    if n <= 8 {
                        report.keys.push(key);
                    }
                    thread::sleep(Duration::from_millis(1));
                }
                report
            })
        });
        Load {
            threads: threads.collect(),
            is_over,
        }
    }

    /// The load is all that happens meanwhile.
    fn run_for(&self, length: Duration) {
        let begun = Instant::now();
        eventually("the time is over", STEP, || begun.elapsed() >= length);
    }

    fn end(self) -> Report {
        self.is_over.store(true, Ordering::Relaxed);
        let mut whole = Report::default();
        for thread in self.threads {
            let report = thread.join().expect("no client is disconnected");
            whole.keys.extend(report.keys);
            whole.done += report.done;
            whole.errors += report.errors;
            whole.first_error = [whole.first_error, report.first_error].into_iter().flatten().min();
            whole.last_error = whole.last_error.max(report.last_error);
        }
        whole
    }
}
