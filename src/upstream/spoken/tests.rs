use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{Change, Spoken};
use crate::resp::Version;

const SOON: Duration = Duration::from_millis(1);

fn begin(clients: usize) -> Option<Change> {
    Some(Change::Begin {
        clients,
        why: "no".to_owned(),
    })
}

#[tokio::test]
async fn nothing_is_carried_in_resp2_while_a_client_speaks_resp3() {
    let spoken = Arc::new(Spoken::default());
    let client = spoken.admit().expect("RESP3 is spoken");
    assert_eq!((spoken.version(), spoken.change()), (Version::Resp3, None));
    spoken.heard(Some("no"));
    assert_eq!(spoken.version(), Version::Resp2);
    assert_eq!(spoken.why().as_deref(), Some("no"));
    assert!(spoken.admit().is_none());
    assert_eq!(spoken.change(), begin(1));
    assert!(!spoken.begin() && spoken.carry("no", SOON).await.is_none());
    drop(client);
    assert_eq!(spoken.change(), begin(0));
    let waits = tokio::spawn({
        let spoken = Arc::clone(&spoken);
        async move { spoken.carry("no", Duration::from_secs(1)).await.is_some() }
    });
    assert!(spoken.begin());
    assert!(waits.await.expect("it ends"));
}

#[tokio::test]
async fn nobody_speaks_resp3_before_all_that_was_carried_in_resp2_is_gone() {
    let spoken = Arc::new(Spoken::default());
    spoken.heard(Some("no"));
    assert!(spoken.begin());
    let one = spoken.carry("no", SOON).await.expect("it may");
    spoken.heard(None);
    assert_eq!(spoken.change(), None);
    drop(one);
    assert_eq!(spoken.change(), Some(Change::End(1)));
    // While everything is voided another connection comes and goes.
    drop(spoken.carry("no", SOON).await);
    assert!(!spoken.end(1) && spoken.admit().is_none());
    assert_eq!(spoken.change(), Some(Change::End(2)));
    // The last word counts.
    spoken.heard(Some("no"));
    assert!(spoken.change().is_none() && !spoken.end(2));
    spoken.heard(None);
    assert!(spoken.end(2));
    assert_eq!((spoken.version(), spoken.why()), (Version::Resp3, None));
    let client = spoken.admit().expect("RESP3 is spoken");
    // Of one that was refused before that, and comes only now.
    assert!(spoken.carry("no", SOON).await.is_none());
    assert_eq!(spoken.change(), begin(1));
    drop(client);
    assert!(spoken.begin());
}

/// A node of a cluster that has RESP3 is greeted whenever it likes.
#[tokio::test]
async fn what_has_begun_for_a_node_does_not_end_before_that_node_carries_anything() {
    let spoken = Arc::new(Spoken::default());
    spoken.heard(Some("no"));
    let mut waits = pin!(spoken.carry("no", Duration::from_secs(1)));
    assert!(poll_immediately(waits.as_mut()).await.is_none());
    assert!(spoken.begin());
    spoken.heard(None);
    assert_eq!(spoken.change(), None);
    assert!(!spoken.end(0));
    let carrier = waits.await.expect("it may");
    assert_eq!(spoken.change(), None);
    drop(carrier);
    assert_eq!(spoken.change(), Some(Change::End(1)));
}

async fn poll_immediately<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
