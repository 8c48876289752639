//! Entries for which nobody vouches, shown to those who take them while the upstream is away.

use super::*;

const MOST: u64 = 5 * T;

fn stale_rig() -> Rig {
    rig_with(Config {
        max_stale_us: Some(MOST),
        ..config()
    })
}

fn taking(link: LinkId, now_us: u64) -> Asker {
    Asker {
        takes_stale: true,
        ..on(link, now_us)
    }
}

#[test]
fn what_a_lost_link_filled_is_shown_for_so_long_after_it_last_vouched() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.links.answered(r.a, 2000);
    let is_stale = |a| r.l1.peek(&get("k"), &a, |view| view.is_stale);
    assert_eq!(is_stale(taking(r.a, 3000)), Some(false), "it is live");
    r.links.lost(r.a);
    for link in [r.a, r.b] {
        assert_eq!(is_stale(on(link, 3000)), None, "for those who take it only");
        assert_eq!(is_stale(taking(link, 3000)), Some(true));
        assert_eq!(is_stale(taking(link, 2000 + MOST - 1)), Some(true));
    }
    assert_eq!(r.l1.sweep(2000 + MOST - 1, 10_000), 0, "it is kept");
    assert_eq!(r.many(&[get("k")], taking(r.b, 3000)), Some(vec!["v".into()]));
    assert_eq!(r.l1.peek_any(&read("k", "other"), &taking(r.b, 3000), text), some("v"));
    assert_eq!(is_stale(taking(r.a, 2000 + MOST)), None, "no longer");
    assert_eq!(r.l1.stats().entries, 0, "and it is dropped");
}

#[test]
fn a_link_that_is_back_shows_nothing_of_its_earlier_life() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.links.lost(r.a);
    assert_eq!(r.peek(get("k"), taking(r.b, 2000)), some("v"));
    r.links.regained(r.a);
    assert_eq!(r.peek(get("k"), taking(r.b, 2000)), None);
    r.links.answered(r.a, 2500);
    r.links.lost(r.a);
    assert_eq!(r.peek(get("k"), taking(r.b, 3000)), None, "nor when it is lost again");
}

#[test]
fn what_was_voided_is_not_stale_but_gone() {
    let r = stale_rig();
    let voids: [(&str, &dyn Fn()); 5] = [
        ("a write", &|| r.l1.acked(r.b, name_hash(b"k"))),
        ("a newer reply", &|| r.l1.passed_by(r.b, name_hash(b"k"))),
        ("an operator", &|| assert!(r.l1.purge(name_hash(b"k")) == 1)),
        ("a flush", &|| r.links.void_everything()),
        ("all", &|| assert!(r.l1.purge_all() == 1)),
    ];
    for (what, void) in voids {
        for is_lost_first in [true, false] {
            r.links.regained(r.a);
            r.fill(get("k"), on(r.a, 1000), value("v"));
            if is_lost_first {
                r.links.lost(r.a);
                assert_eq!(r.peek(get("k"), taking(r.a, 2000)), some("v"));
                void();
            } else {
                void();
                r.links.lost(r.a);
            }
            assert_eq!(
                r.peek(get("k"), taking(r.a, 2000)),
                None,
                "{what}, lost first: {is_lost_first}"
            );
        }
    }
}

#[test]
fn a_null_push_before_the_loss_leaves_nothing_to_show() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.links.void_all(r.a);
    r.links.lost(r.a);
    assert_eq!(r.peek(get("k"), taking(r.a, 2000)), None);
}

#[test]
fn a_key_that_has_expired_is_not_shown() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), expiring("v", 100));
    r.links.lost(r.a);
    assert_eq!(r.peek(get("k"), taking(r.a, 100_999)), some("v"));
    assert_eq!(r.peek(get("k"), taking(r.a, 101_000)), None);
}

#[test]
fn a_silent_link_is_stale_from_its_last_answer() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    assert_eq!(r.peek(get("k"), on(r.a, 1000 + T)), None);
    assert_eq!(r.peek(get("k"), taking(r.b, 1000 + T)), some("v"));
    assert_eq!(r.peek(get("k"), taking(r.b, 1000 + MOST)), None);
    r.links.answered(r.a, 900 + MOST);
    assert_eq!(r.peek(get("k"), on(r.a, 1000 + MOST)), some("v"), "it was not dropped");
}

#[test]
fn nobody_goes_back_behind_what_he_has_seen() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.links.lost(r.a);
    let seen_at = |floor_us| Asker {
        floor_us,
        ..taking(r.a, 3000)
    };
    assert_eq!(r.peek(get("k"), seen_at(1000)), None);
    assert_eq!(r.peek(get("k"), seen_at(999)), some("v"), "others are shown it");
    let blocked = Asker {
        own: Own::Blocked,
        ..taking(r.a, 3000)
    };
    assert_eq!(r.peek(get("k"), blocked), None);
}

#[test]
fn a_stale_entry_gives_way_to_a_fill() {
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.links.lost(r.a);
    r.fill(get("k"), on(r.b, 2000), value("w"));
    assert_eq!(r.peek(get("k"), taking(r.a, 3000)), some("w"));
    assert_eq!(r.l1.stats().entries, 1);
}

#[test]
fn what_several_lost_links_filled_is_shown_together_only_if_it_stood_together() {
    let r = stale_rig();
    let both = [get("k"), get("j")];
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.fill(get("j"), on(r.b, 5000), value("w"));
    r.links.lost(r.a);
    r.links.lost(r.b);
    assert_eq!(
        r.many(&both, taking(r.a, 6000)),
        None,
        "the first was not vouched for since"
    );
    let r = stale_rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.fill(get("j"), on(r.b, 5000), value("w"));
    r.links.answered(r.a, 5001);
    r.links.answered(r.b, 5001);
    r.links.lost(r.a);
    r.links.lost(r.b);
    assert_eq!(r.many(&both, taking(r.a, 6000)), Some(vec!["v".into(), "w".into()]));
}

#[test]
fn without_the_option_nothing_is_kept() {
    let r = rig();
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.links.lost(r.a);
    assert_eq!(r.l1.sweep(2000, 10_000), 1);
    assert_eq!(r.peek(get("k"), taking(r.a, 2000)), None);
}
