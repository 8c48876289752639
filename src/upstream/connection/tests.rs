use super::*;
use crate::config::Endpoint;
use crate::upstream::breaker;
use crate::upstream::dial::{Access, Protocol, Tracking};
use std::cell::RefCell;

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
    fn probe(&self, _: u64) -> u32 {
        0
    }
}

#[test]
fn what_waits_for_a_connection_goes_elsewhere_as_soon_as_it_is_known_where() {
    let second = Duration::from_secs(1);
    let node = Endpoint::Tcp {
        host: "n".into(),
        port: 1,
    };
    let settings = breaker::Settings {
        failures: 5,
        window: second,
        pause: (second, second),
    };
    let target = Rc::new(Target::fixed(node, Access::default(), second, settings));
    let greeting = Greeting {
        protocol: Protocol::Best,
        db: 0,
        tracking: Tracking::Off,
        is_readonly: false,
        answer_within: second,
    };
    let timeouts = Timeouts {
        read: second,
        write: second,
        request: second,
        greet: second,
        back_off: (second, second),
        tick: second,
    };
    let connection = Connection::new(target, greeting, timeouts, Told::default());
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
