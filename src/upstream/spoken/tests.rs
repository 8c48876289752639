use std::sync::Arc;
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
    assert!(!spoken.begin() && spoken.carry(SOON).await.is_none());
    drop(client);
    assert_eq!(spoken.change(), begin(0));
    let waits = tokio::spawn({
        let spoken = Arc::clone(&spoken);
        async move { spoken.carry(Duration::from_secs(1)).await.is_some() }
    });
    assert!(spoken.begin());
    assert!(waits.await.expect("it ends"));
}

#[tokio::test]
async fn nobody_speaks_resp3_before_all_that_was_carried_in_resp2_is_gone() {
    let spoken = Arc::new(Spoken::default());
    spoken.heard(Some("no"));
    assert!(spoken.begin());
    let one = spoken.carry(SOON).await.expect("it may");
    spoken.heard(None);
    assert_eq!(spoken.change(), None);
    drop(one);
    assert_eq!(spoken.change(), Some(Change::End(1)));
    // While everything is voided another connection comes and goes.
    drop(spoken.carry(SOON).await);
    assert!(!spoken.end(1) && spoken.admit().is_none());
    assert_eq!(spoken.change(), Some(Change::End(2)));
    // The last word counts.
    spoken.heard(Some("no"));
    assert!(spoken.change().is_none() && !spoken.end(2));
    spoken.heard(None);
    assert!(spoken.end(2));
    assert_eq!((spoken.version(), spoken.why()), (Version::Resp3, None));
    assert!(spoken.admit().is_some() && spoken.carry(SOON).await.is_none());
}
