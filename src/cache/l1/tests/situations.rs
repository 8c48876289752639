//! When a reader hits, joins, leases or is sent upstream, and how long an entry lives.

use super::*;

// ---------------------------------------------------------------- hits

#[test]
fn what_was_filled_is_a_hit_for_every_worker() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    assert_eq!(r.decide(get("k"), on(r.a, 11)), Decision::Hit("v".into()));
    assert_eq!(r.decide(get("k"), on(r.b, 11)), Decision::Hit("v".into()));
}

#[test]
fn absence_is_a_hit_too() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), absent());
    assert_eq!(r.peek(get("k"), on(r.b, 11)), some("absent _"));
}

#[test]
fn an_entry_is_of_one_name_one_database_and_one_variant() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    assert_eq!(r.peek(read("k", "HGETALL"), on(r.a, 11)), None);
    assert_eq!(r.peek(Query { db: 1, ..get("k") }, on(r.a, 11)), None);
    assert_eq!(
        r.peek(
            Query {
                name: b"other",
                ..get("k")
            },
            on(r.a, 11)
        ),
        None,
        "another name with the same hash"
    );
}

#[test]
fn a_silent_link_suspends_its_entries_and_an_answer_brings_them_back() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    assert_eq!(r.peek(get("k"), on(r.a, 10 + T - 1)), some("v"));
    assert_eq!(r.peek(get("k"), on(r.a, 10 + T)), None);
    r.links.answered(r.a, 20);
    assert_eq!(r.peek(get("k"), on(r.a, 10 + T)), some("v"));
}

#[test]
fn freshness_is_that_of_the_filler_not_of_the_asker() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.links.answered(r.b, 10 + T);
    assert_eq!(r.peek(get("k"), on(r.b, 10 + T)), None);
}

#[test]
fn a_link_that_has_answered_nothing_vouches_for_nothing() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    r.l1.complete(lease, value("v"), 10);
    assert_eq!(
        r.peek(get("k"), on(r.a, 10)),
        None,
        "although the clock is younger than the bound"
    );
    r.links.answered(r.a, 10);
    assert_eq!(r.peek(get("k"), on(r.a, 10)), some("v"));
}

#[test]
fn what_a_lost_link_filled_is_dropped_on_sight() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.links.lost(r.a);
    r.links.answered(r.a, 20);
    assert_eq!(r.peek(get("k"), on(r.b, 21)), None);
    assert_eq!(r.l1.stats().entries, 0);
}

#[test]
fn after_a_null_push_nothing_that_link_filled_is_a_hit() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.fill(get("other"), on(r.b, 10), value("w"));
    r.links.void_all(r.a);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), None);
    assert_eq!(r.peek(get("other"), on(r.a, 11)), some("w"));
}

#[test]
fn after_a_flush_nothing_is_a_hit_and_nothing_in_flight_is_inserted() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let lease = r.lease(get("other"), on(r.b, 10));
    r.links.void_everything();
    r.l1.complete(lease, value("w"), 11);
    r.links.answered(r.b, 11);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), None);
    assert_eq!(r.peek(get("other"), on(r.b, 11)), None);
}

#[test]
fn what_the_old_primary_answers_after_a_switch_is_not_kept() {
    let r = rig();
    r.links.begin_generation(1, 10);
    r.links.reached(r.a, 1);
    r.fill(get("k"), on(r.a, 10), value("v"));
    assert_eq!(r.peek(get("k"), on(r.a, 11)), some("v"));
    r.links.begin_generation(2, 0);
    r.links.void_everything();
    // Its worker has not heard of the switch, and the old node is still confirmed for a while.
    assert!(r.links.fresh_until_us(r.a) > 12);
    r.fill(get("k"), on(r.a, 12), value("old"));
    assert_eq!(r.peek(get("k"), on(r.a, 13)), None);
    assert_eq!(r.l1.stats().entries, 0);
}

#[test]
fn a_client_with_an_unanswered_request_on_the_key_gets_no_hit() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let blocked = Asker {
        own: Own::Blocked,
        ..on(r.a, 11)
    };
    assert_eq!(r.peek(get("k"), blocked), None);
    assert_eq!(r.l1.peek_any(&get("k"), &blocked, text), None);
    assert_eq!(r.many(&[get("k")], blocked), None);
    assert!(
        matches!(r.decide(get("k"), blocked), Decision::Leased(_)),
        "it may fill it anew, though"
    );
}

#[test]
fn a_floor_asks_for_an_answer_to_a_later_command() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let floor = Asker {
        floor_us: 10,
        ..on(r.a, 11)
    };
    assert_eq!(r.peek(get("k"), floor), None);
    r.links.answered(r.a, 11);
    assert_eq!(r.peek(get("k"), floor), some("v"));
}

// ---------------------------------------------------------------- expiry

#[test]
fn a_deadline_counts_from_the_sending_of_the_fill() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 1_000_000));
    r.l1.complete(lease, expiring("v", 100), 1_050_000);
    r.links.answered(r.a, 1_050_000);
    assert_eq!(r.peek(get("k"), on(r.a, 1_099_999)), some("v"));
    assert_eq!(r.peek(get("k"), on(r.a, 1_100_000)), None);
    assert_eq!(r.l1.stats().expirations, 1, "and it is gone");
}

#[test]
fn a_value_whose_ttl_ran_out_on_the_way_is_not_inserted() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 1_000_000));
    r.l1.complete(lease, expiring("v", 100), 1_100_000);
    assert_eq!(r.l1.stats().entries, 0);
}

#[test]
fn value_and_pttl_of_two_moments_are_not_inserted() {
    let r = rig();
    let pairs = [
        (value("v"), -2),
        (value("v"), -3),
        (absent(), -1),
        (absent(), 0),
        (absent(), 500),
    ];
    for (fill, pttl_ms) in pairs {
        r.fill(get("k"), on(r.a, 10), fill.map(|f| Fill { pttl_ms, ..f }));
        assert_eq!(r.l1.stats().entries, 0);
    }
}

#[test]
fn the_keys_own_end_is_told_as_far_as_it_is_known() {
    let expiry = |config: Config, fill| {
        let r = rig_with(config);
        r.fill(get("k"), on(r.a, 2_000_000), fill);
        r.l1.peek(&get("k"), &on(r.a, 2_000_001), |view| view.expiry)
    };
    let capped = Config {
        max_age_us: Some(500_000),
        ..config()
    };
    assert_eq!(expiry(config(), value("v")), Some(Expiry::Never));
    assert_eq!(expiry(config(), expiring("v", 800)), Some(Expiry::At(2_800_000)));
    assert_eq!(expiry(capped.clone(), value("v")), Some(Expiry::Never));
    assert_eq!(expiry(capped.clone(), expiring("v", 400)), Some(Expiry::At(2_400_000)));
    assert_eq!(expiry(capped, expiring("v", 800)), Some(Expiry::Unknown));
}

#[test]
fn absence_is_believed_for_its_own_time() {
    let r = rig_with(Config {
        negative_ttl_us: Some(50_000),
        ..config()
    });
    r.fill(get("gone"), on(r.a, 1_000_000), absent());
    r.fill(get("here"), on(r.a, 1_000_000), value("v"));
    assert_eq!(r.peek(get("gone"), on(r.a, 1_049_999)), some("absent _"));
    assert_eq!(r.peek(get("gone"), on(r.a, 1_050_000)), None);
    assert_eq!(r.peek(get("here"), on(r.a, 1_050_000)), some("v"));
}

#[test]
fn a_sweep_drops_what_expired_and_what_lost_its_epoch() {
    let r = rig();
    for i in 0..100 {
        r.fill(get(&format!("short {i}")), on(r.a, 10_000), expiring("v", 10));
        r.fill(get(&format!("lost {i}")), on(r.b, 10_000), value("v"));
        r.fill(get(&format!("kept {i}")), on(r.a, 10_000), value("v"));
    }
    assert_eq!(r.l1.sweep(11_000, 10_000), 0);
    r.links.lost(r.b);
    let mut dropped = 0;
    for _ in 0..100 {
        dropped += r.l1.sweep(30_000, 50);
    }
    assert_eq!((dropped, r.l1.stats().entries), (200, 100));
    assert_eq!(r.l1.sweep(30_000, 0), 0);
}

#[test]
fn eventual_entries_live_until_their_deadline_whatever_their_link_does() {
    let r = rig_with(Config {
        consistency: Consistency::Eventual,
        max_age_us: Some(3 * T),
        ..config()
    });
    r.fill(get("k"), on(r.a, 1000), value("v"));
    r.fill(get("j"), on(r.b, 1000), value("w"));
    r.links.lost(r.a);
    assert_eq!(r.peek(get("k"), on(r.b, 2 * T)), some("v"));
    assert_eq!(
        r.many(&[get("k"), get("j")], on(r.b, 2 * T)),
        Some(vec!["v".into(), "w".into()])
    );
    assert_eq!(
        r.peek(
            get("k"),
            Asker {
                own: Own::Blocked,
                ..on(r.b, 2 * T)
            }
        ),
        None
    );
    assert_eq!(r.l1.sweep(2 * T, 10_000), 0);
    assert_eq!(r.peek(get("k"), on(r.b, 1000 + 3 * T)), None);
}

// ---------------------------------------------------------------- leases and flights

#[test]
fn one_lease_stands_and_others_follow_it() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    assert_eq!(
        r.decide(get("k"), on(r.b, 11)),
        Decision::Joined {
            flight: lease.flight(),
            link: r.a
        }
    );
    assert_eq!(r.l1.complete(lease, value("v"), 12), vec![7]);
}

#[test]
fn each_command_and_each_database_has_a_lease_of_its_own() {
    let r = rig();
    r.lease(get("k"), on(r.a, 10));
    r.lease(read("k", "HGETALL"), on(r.a, 10));
    r.lease(Query { db: 1, ..get("k") }, on(r.a, 10));
    assert_eq!(r.l1.stats().leases, 3);
}

#[test]
fn a_hanging_flight_is_not_joined_and_nobody_else_may_fill() {
    let r = rig();
    r.lease(get("k"), on(r.a, 10));
    assert!(matches!(
        r.decide(get("k"), on(r.b, 10 + T - 1)),
        Decision::Joined { .. }
    ));
    assert_eq!(r.decide(get("k"), on(r.b, 10 + T)), Decision::Forward);
}

#[test]
fn a_client_with_an_unanswered_request_joins_only_the_flight_it_is_in() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    let other = r.lease(get("j"), on(r.a, 10));
    let own = |own| Asker { own, ..on(r.b, 11) };
    assert_eq!(r.decide(get("k"), own(Own::Blocked)), Decision::Forward);
    assert_eq!(
        r.decide(get("k"), own(Own::InFlight(other.flight()))),
        Decision::Forward
    );
    let joined = r.decide(get("k"), own(Own::InFlight(lease.flight())));
    assert_eq!(
        joined,
        Decision::Joined {
            flight: lease.flight(),
            link: r.a
        }
    );
}

#[test]
fn a_flight_sent_before_the_floor_is_not_joined() {
    let r = rig();
    r.lease(get("k"), on(r.a, 10));
    assert_eq!(
        r.decide(
            get("k"),
            Asker {
                floor_us: 10,
                ..on(r.b, 11)
            }
        ),
        Decision::Forward
    );
    assert!(matches!(
        r.decide(
            get("k"),
            Asker {
                floor_us: 9,
                ..on(r.b, 11)
            }
        ),
        Decision::Joined { .. }
    ));
}

#[test]
fn who_may_not_lease_may_hit_and_join() {
    let r = rig();
    let denied = |now| r.l1.decide(&get("k"), &on(r.a, now), Leasing::Denied, || 3, text);
    assert_eq!(denied(10), Decision::Forward);
    let lease = r.lease(get("k"), on(r.b, 11));
    assert!(matches!(denied(12), Decision::Joined { .. }));
    assert_eq!(r.l1.complete(lease, value("v"), 13), vec![3]);
    r.links.answered(r.b, 13);
    assert_eq!(denied(14), Decision::Hit("v".into()));
}

#[test]
fn a_pinned_connection_takes_no_lease() {
    let r = rig();
    assert_eq!(r.decide(get("k"), on(LinkId::PINNED, 10)), Decision::Forward);
    assert_eq!(r.l1.lease_only(&get("k"), &on(LinkId::PINNED, 10)), None);
}

#[test]
fn a_voided_lease_is_not_joined_never_inserts_and_still_answers_its_followers() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    assert!(matches!(r.decide(get("k"), on(r.b, 11)), Decision::Joined { .. }));
    r.l1.acked(r.b, get("k").hash);
    let second = r.lease(get("k"), on(r.b, 12));
    assert_eq!(r.l1.complete(lease, value("old"), 13), vec![7]);
    r.links.answered(r.a, 13);
    r.links.answered(r.b, 13);
    assert_eq!(r.peek(get("k"), on(r.a, 14)), None);
    assert_eq!(r.l1.complete(second, value("new"), 14), Vec::<u32>::new());
    assert_eq!(
        r.peek(get("k"), on(r.a, 14)),
        None,
        "the old reply was shown on another link before: the second lease fell too"
    );
}

#[test]
fn a_lease_of_an_epoch_that_is_over_makes_room_and_never_inserts() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    r.links.lost(r.a);
    let second = r.lease(get("k"), on(r.b, 11));
    assert_eq!(r.l1.stats().leases, 2);
    r.l1.abandon(lease);
    r.l1.complete(second, value("v"), 12);
    r.links.answered(r.b, 12);
    assert_eq!(r.peek(get("k"), on(r.a, 12)), some("v"));
}

#[test]
fn an_abandoned_lease_wakes_its_followers_and_inserts_nothing() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    assert!(matches!(r.decide(get("k"), on(r.b, 11)), Decision::Joined { .. }));
    assert_eq!(r.l1.abandon(lease), vec![7]);
    r.lease(get("k"), on(r.b, 12));
}

#[test]
fn a_lease_ends_once_in_whatever_order_it_is_used() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    r.l1.complete(lease, value("v"), 11);
    let next = r.lease(get("j"), on(r.a, 12));
    r.l1.got(lease);
    assert_eq!(r.l1.complete(lease, value("twice"), 12), Vec::<u32>::new());
    assert_eq!(r.l1.abandon(lease), Vec::<u32>::new());
    assert_eq!(r.l1.stats().leases, 1);
    r.l1.abandon(next);
    r.l1.got(next);
    assert_eq!(r.l1.complete(next, value("late"), 13), Vec::<u32>::new());
    r.links.answered(r.a, 13);
    assert_eq!(r.peek(get("k"), on(r.a, 14)), some("v"));
    assert_eq!(r.peek(get("j"), on(r.a, 14)), None);
}

#[test]
fn what_does_not_fit_into_a_slot_is_forwarded() {
    let r = rig();
    let long = vec![b'x'; 65_536];
    let q = Query {
        name: &long,
        hash: name_hash(&long),
        ..get("k")
    };
    assert_eq!(r.decide(q, on(r.a, 10)), Decision::Forward);
    assert_eq!(
        r.decide(
            Query {
                variant: &long,
                ..get("k")
            },
            on(r.a, 10)
        ),
        Decision::Forward
    );
    assert_eq!(
        r.decide(Query { db: 65_536, ..get("k") }, on(r.a, 10)),
        Decision::Forward
    );
    assert_eq!(r.peek(q, on(r.a, 10)), None);
    assert_eq!(r.many(&[q], on(r.a, 10)), None);
    assert_eq!(r.l1.lease_only(&q, &on(r.a, 10)), None);
}

#[test]
fn a_forwarded_read_leases_what_its_reply_would_drop_or_bring() {
    let r = rig();
    r.fill(get("own"), on(r.a, 10), value("v"));
    r.fill(get("foreign"), on(r.b, 10), value("v"));
    r.lease(get("flying"), on(r.b, 10));
    let only = |name| r.l1.lease_only(&get(name), &on(r.a, 11));
    assert_eq!(only("own"), None);
    assert_eq!(only("flying"), None);
    assert!(only("missing").is_some());
    let lease = only("foreign").unwrap();
    r.l1.passed_by(r.a, get("foreign").hash);
    r.l1.got(lease);
    r.l1.complete(lease, value("new"), 12);
    assert_eq!(r.peek(get("foreign"), on(r.a, 12)), some("new"));
    r.links.lost(r.a);
    assert!(only("own").is_some(), "an entry of an earlier epoch is none");
}
