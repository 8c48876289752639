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

/// Has a server that answers at once be told of a batch of four.
async fn under_way(connection: &Connection<Told>, server: &UnixStream) {
    // Queued in the future, so that however slow this machine is the answer is there at once.
    let later_us = clock::now_us() + 1_000_000_000;
    for round in 0..2 {
        (1..=4).for_each(|one| connection.send(b"asked ", later_us, one));
        assert_eq!(found(server).await, "asked ".repeat(4));
        if round == 0 {
            assert_eq!(server.try_write(&b"+OK\r\n".repeat(4)).unwrap(), 20);
            while connection.unanswered() > 0 {
                tokio::task::yield_now().await;
            }
        }
    }
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
fn requests_that_wait_for_a_reply_go_with_the_first_one() {
    with_server(100 * SECOND, async |connection, server| {
        under_way(connection, &server).await;
        let now_us = clock::now_us();
        (5..8).for_each(|one| connection.send(b"held ", now_us, one));
        assert_eq!(found(&server).await, "");
        // The server is slow, which is not to say that it takes nothing.
        connection.tick(now_us + 10_000_000, SECOND);
        assert_eq!(found(&server).await, "");
        assert!(connection.is_up());
        assert_eq!(server.try_write(b"+OK\r\n").unwrap(), 5);
        assert_eq!(found(&server).await, "held ".repeat(3));
        assert_eq!(connection.unanswered(), 6);
    });
}

#[test]
fn requests_that_wait_for_a_reply_are_not_lost_with_the_connection() {
    with_server(100 * SECOND, async |connection, server| {
        under_way(connection, &server).await;
        (5..8).for_each(|one| connection.send(b"held ", clock::now_us(), one));
        drop(server);
        while connection.is_up() {
            tokio::task::yield_now().await;
        }
        // The others may have been executed.
        assert_eq!(*connection.sink.failed.borrow(), [1, 2, 3, 4]);
        assert_eq!(connection.take_unsent(), b"held ".repeat(3));
    });
}

#[test]
fn a_reply_too_many_is_none_to_requests_that_wait() {
    with_server(100 * SECOND, async |connection, server| {
        under_way(connection, &server).await;
        (5..8).for_each(|one| connection.send(b"held ", clock::now_us(), one));
        assert_eq!(server.try_write(&b"+OK\r\n".repeat(5)).unwrap(), 25);
        while connection.is_up() {
            tokio::task::yield_now().await;
        }
        assert_eq!(connection.take_unsent(), b"held ".repeat(3));
        assert_eq!((connection.unanswered(), connection.sink.failed.borrow().len()), (3, 0));
    });
}

#[test]
fn a_batch_as_large_as_a_server_reads_at_once_goes_without_a_reply() {
    with_server(100 * SECOND, async |connection, server| {
        under_way(connection, &server).await;
        connection.send(&[b'x'; 16 << 10], clock::now_us(), 5);
        assert_eq!(found(&server).await, "x".repeat(64));
    });
}
