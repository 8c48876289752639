//! A budget that changes while L1 is in use.

use super::*;

fn filled(budget_bytes: usize, names: u32) -> Rig {
    let r = rig_with(Config {
        budget_bytes,
        ..config()
    });
    (0..names).for_each(|i| r.fill(get(&i.to_string()), on(r.a, 1000), value("a value of some length")));
    r
}

/// Names that are hit.
fn held(r: &Rig, names: u32) -> usize {
    (0..names)
        .filter(|i| r.peek(get(&i.to_string()), on(r.a, 1000)).is_some())
        .count()
}

#[test]
fn a_lower_budget_is_reached_in_bounded_steps_and_what_stays_is_hit() {
    let r = filled(4 << 20, 20_000);
    let before = r.l1.stats();
    r.l1.set_budget(1 << 20);
    assert_eq!(r.l1.stats().entries, before.entries, "nothing goes at once");
    let mut last = before.entries;
    for _ in 0..200 {
        r.l1.sweep(1000, 1000);
        let entries = r.l1.stats().entries;
        assert!(last - entries <= 1000, "{last} to {entries}");
        last = entries;
    }
    let stats = r.l1.stats();
    assert!(
        stats.used_bytes <= 1 << 20 && stats.budget_bytes == 1 << 20,
        "{stats:?}"
    );
    assert!(
        stats.entries > before.entries / 6,
        "{stats:?}: slab and index are given back too"
    );
    assert_eq!(held(&r, 20_000), stats.entries, "all that stayed can be found");
}

#[test]
fn l1_makes_up_for_what_the_allocator_cannot_use_and_takes_it_back() {
    let r = filled(64 << 20, 600_000);
    let sweep = || (0..100).for_each(|_| _ = r.l1.sweep(1000, 10_000));
    r.l1.make_up_for(12 << 20);
    sweep();
    let stats = r.l1.stats();
    assert_eq!((stats.budget_bytes, stats.withheld_bytes), (64 << 20, 4 << 20));
    assert!(stats.used_bytes <= 60 << 20, "{stats:?}");
    assert_eq!(held(&r, 600_000), stats.entries);
    // Another budget does not undo it.
    let largest = r.l1.set_budget(48 << 20);
    sweep();
    assert!(r.l1.stats().used_bytes <= 44 << 20, "{:?}", r.l1.stats());
    r.l1.make_up_for(0);
    assert_eq!(r.l1.stats().withheld_bytes, 0);
    assert_eq!(
        r.l1.set_budget(48 << 20),
        largest,
        "the largest entry is one of the whole budget"
    );
    (600_000..800_000).for_each(|i| r.fill(get(&i.to_string()), on(r.a, 1000), value("a value of some length")));
    assert!(r.l1.stats().used_bytes > 47 << 20, "{:?}", r.l1.stats());
}

#[test]
fn inserts_into_a_lowered_budget_evict_a_bounded_number_and_go_on() {
    let r = filled(4 << 20, 20_000);
    r.l1.set_budget(1 << 20);
    let mut last = r.l1.stats();
    for i in 100_000..101_000 {
        r.fill(get(&i.to_string()), on(r.a, 1000), value("v"));
        let stats = r.l1.stats();
        assert!(
            last.entries - stats.entries.min(last.entries) <= 64,
            "{last:?} {stats:?}"
        );
        last = stats;
    }
    assert!(last.entries > 0);
}

#[test]
fn a_higher_budget_holds_at_once() {
    let r = filled(1 << 20, 20_000);
    let before = r.l1.stats().entries;
    r.l1.set_budget(4 << 20);
    (20_000..60_000).for_each(|i| r.fill(get(&i.to_string()), on(r.a, 1000), value("a value of some length")));
    assert!(r.l1.stats().entries > before * 3);
}

#[test]
fn voids_and_purges_reach_what_has_changed_its_place() {
    let r = filled(4 << 20, 20_000);
    for i in 0..20_000 {
        r.fill(read(&i.to_string(), "STRLEN"), on(r.a, 1000), value("22"));
    }
    r.l1.set_budget(1 << 20);
    (0..200).for_each(|_| {
        r.l1.sweep(1000, 1000);
    });
    // The last ones to come are those that are left: replies to STRLEN.
    let is_there = |i: u32| r.peek(read(&i.to_string(), "STRLEN"), on(r.a, 1000)).is_some();
    let left: Vec<u32> = (0..20_000).filter(|&i| is_there(i)).collect();
    assert!(
        left.len() > 1000 && left.len() == r.l1.stats().entries,
        "{}",
        left.len()
    );
    let (voided, purged) = left.split_at(left.len() / 2);
    for &i in voided {
        r.l1.acked(r.b, name_hash(i.to_string().as_bytes()));
        assert!(!is_there(i));
    }
    assert!(purged.iter().all(|&i| is_there(i)));
    assert_eq!(r.l1.purge_all(), purged.len());
    assert_eq!((r.l1.stats().entries, r.l1.stats().data_bytes), (0, 0));
}
