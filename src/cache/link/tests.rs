use std::sync::Arc;
use std::thread;

use super::*;

#[test]
fn a_new_link_has_answered_nothing() {
    let links = Links::new(T);
    let a = links.add().unwrap();
    assert_eq!((links.answered_us(a), links.epoch(a)), (0, 1));
    assert_eq!((links.len(), links.is_empty()), (1, false));
}

#[test]
fn an_older_answer_does_not_take_back_a_newer_one() {
    let links = Links::new(T);
    let a = links.add().unwrap();
    links.answered(a, 20);
    links.answered(a, 10);
    assert_eq!(links.answered_us(a), 20);
}

#[test]
fn by_turn_an_answer_vouches_for_the_one_before_it() {
    let links = Links::new(T).by_turn();
    let a = links.add().unwrap();
    links.answered_at(a, 10, 20);
    assert_eq!(links.answered_us(a), 0, "a push of its turn may still be on its way");
    links.answered_at(a, 15, 30);
    links.answered_at(a, 20, 30);
    assert_eq!(
        links.answered_us(a),
        0,
        "sent before the first answer had come: perhaps of the same turn"
    );
    links.answered_at(a, 21, 40);
    assert_eq!(links.answered_us(a), 10);
    links.answered_at(a, 50, 60);
    assert_eq!((links.answered_us(a), links.fresh_until_us(a)), (21, 21 + T));
    links.lost(a);
    links.answered_at(a, 70, 80);
    assert_eq!(
        links.answered_us(a),
        0,
        "what was answered in another life vouches for nothing"
    );
    let in_order = Links::new(T);
    let b = in_order.add().unwrap();
    in_order.answered_at(b, 10, 20);
    assert_eq!(in_order.answered_us(b), 10);
}

#[test]
fn a_loss_ends_the_epoch_and_forgets_the_answers() {
    let links = Links::new(T);
    let (a, b) = (links.add().unwrap(), links.add().unwrap());
    links.answered(a, 20);
    links.answered(b, 30);
    links.lost(a);
    assert_eq!((links.answered_us(a), links.epoch(a)), (0, 2));
    assert_eq!((links.answered_us(b), links.epoch(b)), (30, 1));
    links.answered(a, 5);
    assert_eq!(vouched(&links, a), (5, 2));
}

#[test]
fn a_null_push_ends_the_epoch_of_one_link_and_keeps_its_answers() {
    let links = Links::new(T);
    let (a, b) = (links.add().unwrap(), links.add().unwrap());
    links.answered(a, 20);
    links.void_all(a);
    assert_eq!(vouched(&links, a), (20, 2));
    assert_eq!(links.epoch(b), 1);
}

#[test]
fn a_flush_ends_the_epoch_of_every_link() {
    let links = Links::new(T);
    let all: Vec<_> = (0..200).map(|_| links.add().unwrap()).collect();
    links.void_everything();
    assert!(all.iter().all(|&l| links.epoch(l) == 2));
}

#[test]
fn a_pinned_connection_is_no_link() {
    let links = Links::new(T);
    while let Some(link) = links.add() {
        assert_ne!(link, LinkId::PINNED);
    }
    assert_eq!(links.len(), 65_534);
    links.answered(LinkId::PINNED, 7);
    links.lost(LinkId::PINNED);
    assert_eq!(links.vouched(LinkId::PINNED), Vouched::default());
}

#[test]
fn links_added_by_many_threads_differ() {
    let links = Arc::new(Links::new(T));
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
    let links = Arc::new(Links::new(T));
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
        let Vouched {
            answered_us,
            fresh_until_us,
            epoch,
        } = links.vouched(a);
        assert!(
            answered_us / 1000 <= u64::from(epoch) && fresh_until_us.saturating_sub(T) / 1000 <= u64::from(epoch),
            "answer {answered_us}, fresh until {fresh_until_us} in epoch {epoch}"
        );
    }
    owner.join().unwrap();
}

#[test]
fn a_link_is_fresh_for_the_bound_after_its_newest_answer() {
    let (links, a) = bound();
    assert_eq!(links.fresh_until_us(a), 0);
    links.answered(a, 20);
    links.answered(a, 10);
    assert_eq!(links.fresh_until_us(a), 20 + T);
    links.lost(a);
    assert_eq!(links.fresh_until_us(a), 0);
    links.renew(a);
    assert_eq!(links.fresh_until_us(a), 0, "nothing was answered in this life");
}

#[test]
fn where_the_node_is_confirmed_a_link_is_fresh_no_longer_than_that() {
    let (links, a) = bound();
    links.begin_generation(1, 0);
    links.reached(a, 1);
    links.answered(a, 50);
    assert_eq!(links.fresh_until_us(a), 0, "nobody has confirmed it");
    links.confirm(30);
    assert_eq!(links.fresh_until_us(a), 0, "the owner has not looked");
    links.renew(a);
    assert_eq!(links.fresh_until_us(a), 30 + T);
    links.answered(a, 90);
    assert_eq!(links.fresh_until_us(a), 30 + T);
    links.confirm(100);
    links.renew(a);
    assert_eq!(links.fresh_until_us(a), 90 + T);
}

#[test]
fn a_link_to_an_earlier_node_becomes_no_fresher() {
    let (links, a) = bound();
    links.begin_generation(1, 10);
    links.reached(a, 1);
    links.answered(a, 20);
    links.begin_generation(2, 40);
    links.answered(a, 50);
    links.renew(a);
    assert_eq!(links.fresh_until_us(a), 10 + T);
    links.lost(a);
    links.reached(a, 2);
    links.answered(a, 60);
    assert_eq!(links.fresh_until_us(a), 40 + T);
}

#[test]
fn a_link_is_current_from_when_it_reaches_the_node_until_another_one_takes_over() {
    let (links, a) = bound();
    assert!(links.is_current(a), "one node for good");
    links.begin_generation(1, 10);
    assert!(!links.is_current(a));
    links.reached(a, 1);
    assert!(links.is_current(a));
    assert!(!links.is_current(LinkId::PINNED));
}

const T: u64 = 1000;

fn bound() -> (Links, LinkId) {
    let links = Links::new(T);
    let a = links.add().unwrap();
    (links, a)
}

fn vouched(links: &Links, link: LinkId) -> (u64, u32) {
    let vouched = links.vouched(link);
    (vouched.answered_us, vouched.epoch)
}

#[test]
fn a_connection_over_which_nothing_came_leaves_stale_what_was_stale_before_it() {
    let links = Links::new(T);
    let a = links.add().unwrap();
    links.answered(a, 20);
    links.lost(a);
    let before = links.past(a);
    assert_eq!((before.epoch, before.vouched_us), (1, 20));
    links.lost(a);
    assert_eq!((links.past(a), links.epoch(a)), (before, 3));
    // One that has answered does not.
    links.regained(a);
    links.answered(a, 40);
    links.lost(a);
    assert_eq!((links.past(a).epoch, links.past(a).vouched_us), (3, 40));
}
