//! What takes entries and leases away: pushes, replies that pass by L1, writes, operators.

use super::*;

// ---------------------------------------------------------------- pushes

#[test]
fn a_push_drops_what_its_link_filled_in_all_databases_and_commands() {
    let r = rig();
    let queries = [get("k"), read("k", "HGETALL"), Query { db: 3, ..get("k") }];
    for q in queries {
        r.fill(q, on(r.a, 10), value("v"));
    }
    r.fill(get("j"), on(r.a, 10), value("v"));
    r.l1.push(r.a, get("k").hash);
    for q in queries {
        assert_eq!(r.peek(q, on(r.a, 11)), None);
    }
    assert_eq!(r.peek(get("j"), on(r.a, 11)), some("v"));
}

#[test]
fn a_push_says_nothing_about_what_other_links_filled_or_fill() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let lease = r.lease(read("k", "TYPE"), on(r.a, 10));
    r.l1.got(lease);
    r.l1.push(r.b, get("k").hash);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), some("v"));
    r.l1.complete(lease, value("string"), 11);
    assert_eq!(r.peek(read("k", "TYPE"), on(r.a, 11)), some("string"));
}

#[test]
fn a_push_between_the_replies_of_a_fill_voids_it() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    r.l1.got(lease);
    r.l1.push(r.a, get("k").hash);
    r.l1.complete(lease, value("old"), 11);
    r.links.answered(r.a, 11);
    assert_eq!(r.peek(get("k"), on(r.a, 12)), None);
    assert_eq!(r.l1.stats().refused_voided, 1);
}

#[test]
fn a_push_before_the_read_is_answered_leaves_the_lease_standing() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    r.l1.push(r.a, get("k").hash);
    r.l1.got(lease);
    r.l1.complete(lease, value("new"), 11);
    r.links.answered(r.a, 11);
    assert_eq!(r.peek(get("k"), on(r.a, 12)), some("new"));
}

// ---------------------------------------------------------------- replies that pass by

#[test]
fn a_reply_that_passes_by_drops_what_other_links_filled_and_fill() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let lease = r.lease(read("k", "TYPE"), on(r.a, 10));
    r.l1.passed_by(r.b, get("k").hash);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), None);
    r.l1.complete(lease, value("string"), 11);
    assert_eq!(r.peek(read("k", "TYPE"), on(r.a, 11)), None);
}

#[test]
fn a_reply_that_passes_by_leaves_what_its_own_link_filled_and_fills() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let lease = r.lease(read("k", "TYPE"), on(r.a, 10));
    r.l1.passed_by(r.a, get("k").hash);
    r.l1.complete(lease, value("string"), 11);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), some("v"));
    assert_eq!(r.peek(read("k", "TYPE"), on(r.a, 11)), some("string"));
}

#[test]
fn a_pinned_reply_drops_everything_of_the_name() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    let lease = r.lease(
        get("k"),
        Asker {
            own: Own::Blocked,
            ..on(r.b, 10)
        },
    );
    r.l1.passed_by(LinkId::PINNED, get("k").hash);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), None);
    r.l1.complete(lease, value("w"), 11);
    assert_eq!(r.l1.stats().entries, 0);
}

#[test]
fn a_fill_drops_what_other_links_know_through_other_commands() {
    let r = rig();
    r.fill(read("k", "STRLEN"), on(r.a, 10), value(":1"));
    let foreign = r.lease(read("k", "TYPE"), on(r.a, 10));
    r.fill(read("k", "EXISTS"), on(r.b, 10), value(":1"));
    let own = r.lease(read("k", "DUMP"), on(r.b, 10));
    r.fill(get("k"), on(r.b, 11), value("v"));
    assert_eq!(r.peek(read("k", "STRLEN"), on(r.a, 12)), None);
    assert_eq!(r.peek(read("k", "EXISTS"), on(r.a, 12)), some(":1"));
    r.l1.complete(own, value("dump"), 12);
    assert_eq!(r.peek(read("k", "DUMP"), on(r.a, 12)), some("dump"));
    r.l1.complete(foreign, value("string"), 12);
    assert_eq!(r.peek(read("k", "TYPE"), on(r.a, 12)), None);
    assert_eq!(
        r.peek(read("k", "DUMP"), on(r.a, 12)),
        None,
        "the voided fill was shown too"
    );
}

#[test]
fn a_fill_that_is_not_kept_passes_by() {
    let r = rig();
    for fill in [
        None,
        Some(Fill {
            value: Value::Bytes(&[b'x'; 17 << 10]),
            pttl_ms: -1,
            is_plain: false,
            most_us: None,
        }),
    ] {
        r.fill(read("k", "STRLEN"), on(r.a, 10), value(":1"));
        let lease = r.lease(get("k"), on(r.b, 11));
        r.l1.complete(lease, fill, 12);
        assert_eq!(r.peek(read("k", "STRLEN"), on(r.a, 12)), None);
        r.l1.purge(get("k").hash);
    }
    assert_eq!(r.l1.stats().refused_too_large, 1);
}

#[test]
fn a_fill_takes_the_place_of_an_older_entry_of_any_link() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.fill(get("k"), on(r.b, 11 + T), value("w"));
    assert_eq!(r.peek(get("k"), on(r.a, 11 + T)), some("w"));
    assert_eq!(r.l1.stats().entries, 1);
}

// ---------------------------------------------------------------- writes

#[test]
fn an_acknowledged_write_drops_all_entries_its_own_links_too() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.fill(read("k", "TYPE"), on(r.a, 10), value("string"));
    r.l1.acked(r.a, get("k").hash);
    assert_eq!(r.peek(get("k"), on(r.a, 11)), None);
    assert_eq!(r.peek(read("k", "TYPE"), on(r.b, 11)), None);
}

#[test]
fn an_acknowledged_write_voids_leases_of_other_links_only() {
    let r = rig();
    let own = r.lease(get("k"), on(r.a, 10));
    let foreign = r.lease(read("k", "TYPE"), on(r.b, 10));
    r.l1.acked(r.a, get("k").hash);
    r.l1.complete(own, value("v"), 11);
    r.links.answered(r.a, 11);
    assert_eq!(r.peek(get("k"), on(r.a, 12)), some("v"));
    r.l1.complete(foreign, value("string"), 12);
    assert_eq!(r.peek(read("k", "TYPE"), on(r.a, 12)), None);
}

#[test]
fn an_acknowledged_pinned_write_voids_all_leases() {
    let r = rig();
    let lease = r.lease(get("k"), on(r.a, 10));
    r.l1.acked(LinkId::PINNED, get("k").hash);
    r.l1.complete(lease, value("v"), 11);
    assert_eq!(r.l1.stats().entries, 0);
}

// ---------------------------------------------------------------- operators

#[test]
fn a_purge_takes_entries_and_leases_of_one_name() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.fill(get("j"), on(r.a, 10), value("w"));
    let lease = r.lease(read("k", "TYPE"), on(r.b, 10));
    assert_eq!(r.l1.purge(get("k").hash), 1);
    r.l1.complete(lease, value("string"), 11);
    assert_eq!(r.peek(get("j"), on(r.a, 11)), some("w"));
    assert_eq!(r.l1.stats().entries, 1);
}

#[test]
fn a_purge_of_everything_leaves_nothing() {
    let r = rig();
    let names: Vec<_> = (0..2000).map(|i| format!("key {i}")).collect();
    names.iter().for_each(|name| r.fill(get(name), on(r.a, 10), value("v")));
    let lease = r.lease(get("k"), on(r.b, 10));
    assert_eq!(r.l1.purge_all(), 2000);
    r.l1.complete(lease, value("v"), 11);
    assert_eq!(r.l1.stats().entries, 0);
    r.fill(get("k"), on(r.a, 12), value("v"));
    assert_eq!(r.peek(get("k"), on(r.a, 12)), some("v"));
}

#[test]
fn what_is_known_of_a_name_can_be_told() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10_000), expiring("v", 30));
    r.fill(
        Query {
            db: 2,
            ..read("k", "TYPE")
        },
        on(r.a, 10_000),
        absent(),
    );
    r.lease(read("k", "DUMP"), on(r.b, 12_000));
    r.peek(get("k"), on(r.a, 12_000));
    let mut all = r.l1.explain(get("k").hash, 15_000);
    all.sort_by_key(|e| e.variant.clone());
    let [value, dump, absent] = &all[..] else {
        panic!("{all:?}")
    };
    assert_eq!(
        (value.bytes, value.age_us, value.ttl_us, value.frequency),
        (1, 5000, Some(25_000), 1)
    );
    assert_eq!((dump.is_lease, dump.link, dump.age_us), (true, r.b, 3000));
    assert_eq!((absent.is_absent, absent.db, absent.ttl_us), (true, 2, None));
    assert!(all.iter().all(|e| e.is_epoch_current));
    r.links.void_everything();
    assert!(r.l1.explain(get("k").hash, 15_000).iter().all(|e| !e.is_epoch_current));
}
