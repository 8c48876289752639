use super::*;
use crate::config::Endpoint;
use crate::net::Stream;
use crate::upstream::breaker;
use crate::upstream::dial::{Access, Protocol, Tracking};
use std::cell::RefCell;
use tokio::net::UnixStream;

/// Sends what may go elsewhere to `elsewhere`, if there is such a place.
#[derive(Default)]
struct Told {
    elsewhere: RefCell<Option<Vec<(String, u64)>>>,
    failed: RefCell<Vec<u32>>,
}

impl Sink for Told {
    type Waiter = u32;

    fn up(&self, _: &TrackingState, _: u64) {}
    fn received(&self, _: u64) {}
    fn push(&self, _: &[u8]) {}
    fn reply(&self, _: u32, _: Frame<'_>) {}
    fn batch_done(&self, _: u64, _: u64) {}
    fn lost(&self) {}
    fn failed(&self, waiter: u32, _: &Failure) {
        self.failed.borrow_mut().push(waiter);
    }
    fn goes_elsewhere(&self, requests: &[u8], begun_us: u64, waiters: Vec<u32>) -> Result<(), Vec<u32>> {
        match &mut *self.elsewhere.borrow_mut() {
            Some(elsewhere) => elsewhere.push((String::from_utf8_lossy(requests).into_owned(), begun_us)),
            None => return Err(waiters),
        }
        Ok(())
    }
    fn may_go_again(&self, _: &[u32], was_sent: bool) -> bool {
        !was_sent
    }
    fn probe(&self, _: u64) -> u32 {
        0
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// To a node that nobody dials, with timeouts of a second but for `read`.
fn connection(read: Duration) -> Connection<Told> {
    let node = Endpoint::Tcp {
        host: "n".into(),
        port: 1,
    };
    let settings = breaker::Settings {
        failures: 5,
        window: SECOND,
        pause: (SECOND, SECOND),
    };
    let target = Rc::new(Target::fixed(node, Access::default(), SECOND, settings));
    let greeting = Greeting {
        protocol: Protocol::Best,
        db: 0,
        tracking: Tracking::Off,
        is_readonly: false,
        answer_within: SECOND,
    };
    let timeouts = Timeouts {
        read,
        write: SECOND,
        request: SECOND,
        greet: SECOND,
        back_off: (SECOND, SECOND),
        tick: SECOND,
    };
    Connection::new(target, greeting, timeouts, Told::default())
}

#[test]
fn what_waits_for_a_connection_goes_elsewhere_as_soon_as_it_is_known_where() {
    let connection = connection(SECOND);
    connection.send(b"first", 1, 1);
    connection.send(b"second", 2, 2);
    connection.hand_over();
    assert_eq!(connection.unanswered(), 2);
    *connection.sink.elsewhere.borrow_mut() = Some(Vec::new());
    connection.hand_over();
    connection.send(b"third", 3, 3);
    // There is no connection to be had.
    connection.go_down(Failure::Unavailable("it is away".to_owned()));
    let gone = [("first", 1), ("second", 2), ("third", 3)].map(|(raw, us)| (raw.to_owned(), us));
    assert_eq!(connection.sink.elsewhere.take(), Some(gone.to_vec()));
    connection.send(b"fourth", 4, 4);
    connection.go_down(Failure::Unavailable("it is away".to_owned()));
    assert_eq!(*connection.sink.failed.borrow(), [4]);
}

/// What the other end of a connection finds; nothing, if there is nothing once everybody has had his turn.
async fn found(server: &UnixStream) -> String {
    for _ in 0..100 {
        let mut bytes = [0; 64];
        if let Ok(n) = server.try_read(&mut bytes) {
            return String::from_utf8_lossy(&bytes[..n]).into_owned();
        }
        tokio::task::yield_now().await;
    }
    String::new()
}

/// Runs it with the task of a connection.
fn with_server(read: Duration, run: impl AsyncFnOnce(&Rc<Connection<Told>>, UnixStream)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let connection = Rc::new(connection(read));
        let (ours, server) = UnixStream::pair().unwrap();
        connection.begin(&TrackingState::Off, 1);
        let pumped = Rc::clone(&connection);
        tokio::task::spawn_local(async move {
            let ending = pumped.pump(Stream::Unix(ours)).await;
            pumped.end(ending.why);
        });
        run(&connection, server).await;
    });
}

#[test]
fn what_is_queued_in_one_turn_is_written_at_once_and_a_slow_server_is_not_a_stuck_socket() {
    with_server(100 * SECOND, async |connection, server| {
        let now_us = clock::now_us();
        (1..=4).for_each(|one| connection.send(b"asked ", now_us, one));
        assert_eq!(found(&server).await, "asked ".repeat(4));
        connection.tick(now_us + 10_000_000, SECOND);
        connection.send(b"more ", now_us, 5);
        assert_eq!(found(&server).await, "more ");
        assert!(connection.is_up());
        drop(server);
        while connection.is_up() {
            tokio::task::yield_now().await;
        }
        // All of them may have been executed.
        assert_eq!(*connection.sink.failed.borrow(), [1, 2, 3, 4, 5]);
    });
}

#[test]
fn what_finds_others_unanswered_by_a_server_nearby_waits_for_their_answer() {
    with_server(100 * SECOND, async |connection, server| {
        let now_us = clock::now_us();
        // It is not known how near it is.
        for request in ["first ", "second "] {
            connection.send(request.as_bytes(), now_us, 1);
            assert_eq!(found(&server).await, request);
        }
        server.try_write(b"+1\r\n+2\r\n").unwrap();
        while connection.unanswered() > 0 {
            tokio::task::yield_now().await;
        }
        let mut near = Quickest::UNKNOWN;
        near.answered(now_us, now_us);
        connection.quickest.set(near);
        // Far in the future, so that it is not held back for too long already, however long this test takes.
        let now_us = now_us + 3_600_000_000;
        connection.send(b"first ", now_us, 1);
        assert_eq!(found(&server).await, "first ");
        connection.send(b"second ", now_us, 2);
        assert_eq!(found(&server).await, "");
        connection.send(b"third ", now_us, 3);
        server.try_write(b"+1\r\n").unwrap();
        assert_eq!(found(&server).await, "second third ");
        // What is worth a write of its own waits for nothing.
        let large = "large ".repeat(4000);
        connection.send(large.as_bytes(), now_us, 4);
        let mut arrived = String::new();
        while arrived.len() < large.len() {
            arrived += &found(&server).await;
        }
        assert_eq!(arrived, large);
    });
}

#[test]
fn what_is_held_back_is_written_when_the_answer_does_not_come() {
    with_server(100 * SECOND, async |connection, server| {
        let mut near = Quickest::UNKNOWN;
        near.answered(1, 1);
        connection.quickest.set(near);
        connection.send(b"first ", clock::now_us(), 1);
        assert_eq!(found(&server).await, "first ");
        connection.send(b"second ", clock::now_us(), 2);
        let late = std::time::Instant::now() + 10 * SECOND;
        while found(&server).await != "second " {
            assert!(std::time::Instant::now() < late, "nobody writes it");
            connection.tick(clock::now_us(), SECOND);
        }
    });
}

#[test]
fn what_its_client_has_been_told_is_late_is_not_sent_later() {
    let connection = connection(SECOND);
    connection.begin(&TrackingState::Off, 1);
    connection.send(b"late", 1, 1);
    connection.tick(2_000_000, SECOND);
    connection.send(b"young", 2_000_000, 2);
    connection.end("it is gone".to_owned());
    assert_eq!(*connection.sink.failed.borrow(), [1]);
    assert_eq!(connection.take_unsent(), b"young");
}
