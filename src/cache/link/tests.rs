use std::sync::Arc;
use std::thread;

use super::*;

#[test]
fn a_new_link_has_answered_nothing() {
    let links = Links::new();
    let a = links.add().unwrap();
    assert_eq!((links.answered_us(a), links.epoch(a)), (0, 1));
    assert_eq!((links.len(), links.is_empty()), (1, false));
}

#[test]
fn an_older_answer_does_not_take_back_a_newer_one() {
    let links = Links::new();
    let a = links.add().unwrap();
    links.answered(a, 20);
    links.answered(a, 10);
    assert_eq!(links.answered_us(a), 20);
}

#[test]
fn a_loss_ends_the_epoch_and_forgets_the_answers() {
    let links = Links::new();
    let (a, b) = (links.add().unwrap(), links.add().unwrap());
    links.answered(a, 20);
    links.answered(b, 30);
    links.lost(a);
    assert_eq!((links.answered_us(a), links.epoch(a)), (0, 2));
    assert_eq!((links.answered_us(b), links.epoch(b)), (30, 1));
    links.answered(a, 5);
    assert_eq!(links.vouched(a), (5, 2));
}

#[test]
fn a_null_push_ends_the_epoch_of_one_link_and_keeps_its_answers() {
    let links = Links::new();
    let (a, b) = (links.add().unwrap(), links.add().unwrap());
    links.answered(a, 20);
    links.void_all(a);
    assert_eq!(links.vouched(a), (20, 2));
    assert_eq!(links.epoch(b), 1);
}

#[test]
fn a_flush_ends_the_epoch_of_every_link() {
    let links = Links::new();
    let all: Vec<_> = (0..200).map(|_| links.add().unwrap()).collect();
    links.void_everything();
    assert!(all.iter().all(|&l| links.epoch(l) == 2));
}

#[test]
fn a_pinned_connection_is_no_link() {
    let links = Links::new();
    while let Some(link) = links.add() {
        assert_ne!(link, LinkId::PINNED);
    }
    assert_eq!(links.len(), 65_534);
    links.answered(LinkId::PINNED, 7);
    links.lost(LinkId::PINNED);
    assert_eq!(links.vouched(LinkId::PINNED), (0, 0));
}

#[test]
fn links_added_by_many_threads_differ() {
    let links = Arc::new(Links::new());
    let add = || {
        let links = links.clone();
        thread::spawn(move || (0..500).map(|_| links.add().unwrap()).collect::<Vec<_>>())
    };
    let threads: Vec<_> = (0..4).map(|_| add()).collect();
    let mut all: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 2000);
}

/// What `lost` promises to a reader that takes no lock.
#[test]
fn an_answer_of_a_new_life_is_never_seen_beside_the_epoch_of_the_old_one() {
    let links = Arc::new(Links::new());
    let a = links.add().unwrap();
    // In epoch e every answer lies in e * 1000 .. (e + 1) * 1000.
    let owner = {
        let links = links.clone();
        thread::spawn(move || {
            for life in 1..20_000u64 {
                links.answered(a, life * 1000 + 1);
                links.answered(a, life * 1000 + 2);
                links.lost(a);
            }
        })
    };
    while !owner.is_finished() {
        let (answered_us, epoch) = links.vouched(a);
        assert!(
            answered_us / 1000 <= u64::from(epoch),
            "answer {answered_us} in epoch {epoch}"
        );
    }
    owner.join().unwrap();
}
