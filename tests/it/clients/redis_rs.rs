//! redis-rs, the Rust client: one connection used by one thread, and one shared by many tasks.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, Connection, ErrorKind, FromRedisValue, PushKind, RedisResult, ServerErrorKind,
    Value, cmd, pipe,
};

use super::before_each;
use crate::support::STEP;

const ADD: &str = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
const LIBRARY: &str = "#!lua name=rslib\nredis.register_function('rsadd', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)";

#[test]
fn redis_rs() {
    before_each(|_, proxy, name| {
        for version in ["resp2", "resp3"] {
            let url = format!("redis://127.0.0.1:{}/2?protocol={version}", proxy.port());
            let client = Client::open(url).expect("a valid address");
            let mut c = client.get_connection().expect("the handshake is answered");
            c.set_read_timeout(Some(STEP)).expect("a timeout can be set");
            commands(&mut c).unwrap_or_else(|e| panic!("{name} {version}: {e}"));
            states(&client, &mut c).unwrap_or_else(|e| panic!("{name} {version}: {e}"));
        }
    });
}

#[test]
fn redis_rs_shared_by_many_tasks() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    before_each(|_, proxy, name| {
        for version in ["resp2", "resp3"] {
            let url = format!("redis://127.0.0.1:{}/?protocol={version}", proxy.port());
            let client = Client::open(url).expect("a valid address");
            let all = async {
                tokio::time::timeout(3 * STEP, shared(&client, version == "resp3"))
                    .await
                    .expect("it ends")
            };
            runtime
                .block_on(all)
                .unwrap_or_else(|e| panic!("{name} {version}: {e}"));
        }
    });
}

fn ask<T: FromRedisValue>(c: &mut Connection, line: &str) -> RedisResult<T> {
    words(line).query(c)
}

async fn ask_async<T: FromRedisValue>(c: &mut MultiplexedConnection, line: &str) -> RedisResult<T> {
    words(line).query_async(c).await
}

fn words(line: &str) -> Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().expect("a name"));
    for word in words {
        command.arg(word);
    }
    command
}

fn commands(c: &mut Connection) -> RedisResult<()> {
    let () = ask(c, "FLUSHALL")?;
    let () = ask(c, "SET k v")?;
    for _ in 0..3 {
        assert_eq!(ask::<String>(c, "GET k")?, "v");
        assert_eq!(ask::<Option<String>>(c, "GET none")?, None);
        assert_eq!(
            ask::<Vec<Option<String>>>(c, "MGET k none")?,
            [Some("v".to_owned()), None]
        );
    }
    let _: i64 = ask(c, "HSET h a 1")?;
    assert_eq!(ask::<HashMap<String, i64>>(c, "HGETALL h")?["a"], 1);
    assert_eq!(ask::<i64>(c, "RPUSH l 1 2 3")?, 3);
    assert_eq!(ask::<Vec<i64>>(c, "LRANGE l 0 -1")?, [1, 2, 3]);
    assert_eq!(ask::<i64>(c, "SADD s a")?, 1);
    assert!(ask::<bool>(c, "SISMEMBER s a")?);
    assert_eq!(ask::<i64>(c, "ZADD z 1.5 m")?, 1);
    assert_eq!(
        ask::<Vec<(String, f64)>>(c, "ZRANGE z 0 -1 WITHSCORES")?,
        [("m".to_owned(), 1.5)]
    );
    // Scans.
    let many = (0..100).fold(pipe(), |mut p, i| p.cmd("SET").arg(format!("p{i}")).arg(i).clone());
    let () = many.query(c)?;
    let (mut cursor, mut seen) = ("0".to_owned(), 0);
    loop {
        let (next, keys): (String, Vec<String>) = ask(c, &format!("SCAN {cursor} MATCH p* COUNT 30"))?;
        seen += keys.len();
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, 100);
    // Scripts and functions.
    let sha: String = cmd("SCRIPT").arg("LOAD").arg(ADD).query(c)?;
    assert_eq!(ask::<i64>(c, &format!("EVALSHA {sha} 1 n 5"))?, 5);
    assert_eq!(ask::<i64>(c, "GET n")?, 5);
    let missing = ask::<Value>(c, "EVALSHA 0000000000000000000000000000000000000000 0").expect_err("no such script");
    assert_eq!(missing.kind(), ErrorKind::Server(ServerErrorKind::NoScript));
    let _: String = cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(LIBRARY).query(c)?;
    assert_eq!(ask::<i64>(c, "FCALL rsadd 1 n 5")?, 10);
    assert_eq!(ask::<i64>(c, "GET n")?, 10);
    let () = ask(c, "FUNCTION DELETE rslib")?;
    // Streams.
    assert_eq!(ask::<String>(c, "XADD x 1-1 f v")?, "1-1");
    let () = ask(c, "XGROUP CREATE x grp 0")?;
    let read: Value = ask(c, "XREADGROUP GROUP grp me COUNT 1 STREAMS x >")?;
    assert!(format!("{read:?}").contains("1-1"), "{read:?}");
    assert_eq!(ask::<i64>(c, "XACK x grp 1-1")?, 1);
    assert_eq!(ask::<Value>(c, "XREAD BLOCK 20 STREAMS x $")?, Value::Nil);
    let wrong = ask::<Value>(c, "LPUSH k 1").expect_err("a string is no list");
    assert_eq!(wrong.code(), Some("WRONGTYPE"));
    assert_eq!(ask::<String>(c, "GET k")?, "v");
    Ok(())
}

fn states(client: &Client, c: &mut Connection) -> RedisResult<()> {
    let (n, m): (i64, i64) = pipe().atomic().incr("n", 1).incr("n", 1).query(c)?;
    assert_eq!(m, n + 1);
    let many: Vec<i64> = (0..100).fold(pipe(), |mut p, _| p.incr("n", 1).clone()).query(c)?;
    assert_eq!(many.len(), 100);
    // A watched key that another connection changes.
    let mut other = client.get_connection()?;
    let () = ask(c, "WATCH n")?;
    let () = ask(&mut other, "SET n 1")?;
    let lost: Option<Vec<i64>> = pipe().atomic().incr("n", 1).query(c)?;
    assert_eq!(lost, None);
    assert_eq!(ask::<i64>(c, "GET n")?, 1);
    // A blocking pop that another connection serves.
    assert_eq!(ask::<Option<(String, String)>>(c, "BLPOP q 0.02")?, None);
    let popped = std::thread::scope(|scope| {
        let push = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            ask::<i64>(&mut other, "RPUSH q job")
        });
        let popped = ask::<(String, String)>(c, "BLPOP q 5");
        push.join().expect("no panic").map(|_| ())?;
        popped
    })?;
    assert_eq!(popped, ("q".to_owned(), "job".to_owned()));
    // Messages.
    let mut listener = client.get_connection()?;
    listener.set_read_timeout(Some(STEP))?;
    let mut pubsub = listener.as_pubsub();
    pubsub.subscribe("news")?;
    pubsub.psubscribe("w*")?;
    assert_eq!(ask::<i64>(c, "PUBLISH news hello")?, 1);
    assert_eq!(ask::<i64>(c, "PUBLISH weather rain")?, 1);
    let first = pubsub.get_message()?;
    assert_eq!(
        (first.get_channel_name(), first.get_payload::<String>()?),
        ("news", "hello".to_owned())
    );
    let second = pubsub.get_message()?;
    assert_eq!(second.get_pattern::<String>()?, "w*");
    assert_eq!(second.get_payload::<String>()?, "rain");
    drop(pubsub);
    assert_eq!(ask::<String>(&mut listener, "GET k")?, "v");
    Ok(())
}

async fn shared(client: &Client, is_resp3: bool) -> RedisResult<()> {
    let mut c = client.get_multiplexed_async_connection().await?;
    let () = ask_async(&mut c, "FLUSHALL").await?;
    if is_resp3 {
        // Messages and replies on one connection, which goes on being used.
        let (sender, mut messages) = tokio::sync::mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new().set_push_sender(sender);
        let mut both = client.get_multiplexed_async_connection_with_config(&config).await?;
        both.subscribe("news").await?;
        both.psubscribe("w*").await?;
        assert_eq!(ask_async::<i64>(&mut c, "PUBLISH news hello").await?, 1);
        assert_eq!(ask_async::<i64>(&mut both, "PUBLISH weather rain").await?, 1);
        let mut heard = Vec::new();
        while heard.len() < 2 {
            let push = messages.recv().await.expect("the connection lives");
            if matches!(push.kind, PushKind::Message | PushKind::PMessage) {
                heard.push(format!("{:?}", push.data.last()));
            }
        }
        assert!(heard[0].contains("hello") && heard[1].contains("rain"), "{heard:?}");
        both.unsubscribe("news").await?;
        both.punsubscribe("w*").await?;
        assert_eq!(ask_async::<i64>(&mut c, "PUBLISH news hello").await?, 0);
        assert_eq!(ask_async::<Option<String>>(&mut both, "GET none").await?, None);
    }
    let () = ask_async(&mut c, "SET k v").await?;
    // Many tasks on one connection: what they ask arrives together, and each must get its own answers.
    let tasks: Vec<_> = (0..50)
        .map(|i| {
            let mut c = c.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    let () = ask_async(&mut c, &format!("SET key{i} {round}")).await?;
                    assert_eq!(ask_async::<i64>(&mut c, &format!("GET key{i}")).await?, round);
                    assert_eq!(ask_async::<String>(&mut c, "GET k").await?, "v");
                    let _: i64 = ask_async(&mut c, "INCR sum").await?;
                    let _: i64 = ask_async(&mut c, &format!("HSET hash{i} f{round} {round}")).await?;
                    let all: HashMap<String, i64> = ask_async(&mut c, &format!("HGETALL hash{i}")).await?;
                    assert_eq!(all.len() as i64, round + 1);
                }
                let pair: (i64, i64) = pipe()
                    .atomic()
                    .incr(format!("t{i}"), 1)
                    .incr(format!("t{i}"), 1)
                    .query_async(&mut c)
                    .await?;
                assert_eq!(pair, (1, 2));
                RedisResult::Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic")?;
    }
    assert_eq!(ask_async::<i64>(&mut c, "GET sum").await?, 1000);
    let sha: String = cmd("SCRIPT").arg("LOAD").arg(ADD).query_async(&mut c).await?;
    assert_eq!(ask_async::<i64>(&mut c, &format!("EVALSHA {sha} 1 sum 1")).await?, 1001);
    assert_eq!(ask_async::<i64>(&mut c, "GET sum").await?, 1001);
    assert_eq!(
        ask_async::<Option<(String, String)>>(&mut c, "BLPOP q 0.02").await?,
        None
    );
    let wrong = ask_async::<Value>(&mut c, "LPUSH k 1")
        .await
        .expect_err("a string is no list");
    assert_eq!(wrong.code(), Some("WRONGTYPE"));
    Ok(())
}
