//! Several keys at once, several replies under one name, sizes and the budget.

use super::*;

// ---------------------------------------------------------------- several keys

#[test]
fn several_keys_of_one_filler_are_a_snapshot() {
    let r = rig();
    let names: Vec<_> = (0..100).map(|i| format!("key {i}")).collect();
    names
        .iter()
        .for_each(|name| r.fill(get(name), on(r.a, 10), value(name)));
    let queries: Vec<_> = names.iter().map(|name| get(name)).collect();
    assert_eq!(r.many(&queries, on(r.b, 11)), Some(names.clone()));
    assert_eq!(r.many(&queries[..64], on(r.b, 11)), Some(names[..64].to_vec()));
    assert_eq!(r.many(&[], on(r.b, 11)), Some(vec![]));
    r.l1.push(r.a, queries[99].hash);
    assert_eq!(r.many(&queries, on(r.b, 11)), None);
}

#[test]
fn a_key_may_be_asked_for_twice() {
    let r = rig();
    r.fill(get("k"), on(r.a, 10), value("v"));
    assert_eq!(
        r.many(&[get("k"), get("k")], on(r.a, 11)),
        Some(vec!["v".into(), "v".into()])
    );
}

#[test]
fn several_fillers_need_an_answer_to_what_was_sent_after_the_youngest_insert() {
    let r = rig();
    let both = [get("older"), get("younger")];
    r.fill(both[0], on(r.a, 10_000), value("v"));
    r.fill(both[1], on(r.b, 20_000), value("w"));
    assert_eq!(r.many(&both, on(r.a, 20_001)), None);
    r.links.answered(r.a, 20_001);
    assert_eq!(
        r.many(&both, on(r.a, 20_002)),
        None,
        "the filler of the younger one has not answered since"
    );
    r.links.answered(r.b, 20_000);
    assert_eq!(
        r.many(&both, on(r.a, 20_002)),
        None,
        "what was sent at the time of the insert may have been sent before"
    );
    r.links.answered(r.b, 20_001);
    assert_eq!(r.many(&both, on(r.a, 20_002)), Some(vec!["v".into(), "w".into()]));
}

#[test]
fn the_time_of_an_insert_is_rounded_against_the_snapshot() {
    let r = rig();
    let both = [get("older"), get("younger")];
    r.fill(both[0], on(r.a, 10_000), value("v"));
    r.fill(both[1], on(r.b, 20_300), value("w"));
    for us in [20_301, 21_000] {
        r.links.answered(r.a, us);
        r.links.answered(r.b, us);
        assert_eq!(r.many(&both, on(r.a, us)), None);
    }
    r.links.answered(r.a, 21_001);
    r.links.answered(r.b, 21_001);
    assert!(r.many(&both, on(r.a, 21_001)).is_some());
}

#[test]
fn existence_is_told_by_any_reply_about_the_key_best_by_the_string() {
    let r = rig();
    let any = |db| {
        r.l1.peek_any(
            &Query {
                db,
                ..read("k", "whatever")
            },
            &on(r.a, 20),
            text,
        )
    };
    assert_eq!(any(0), None);
    r.fill(read("k", "HLEN"), on(r.a, 10), value(":3"));
    r.fill(read("k", "HGETALL"), on(r.a, 10), expiring("%3", 1));
    assert_eq!(any(0), some("%3"));
    assert_eq!(any(1), None);
    r.fill(get("k"), on(r.a, 10), value("v"));
    r.fill(read("k", "TYPE"), on(r.a, 10), value("string"));
    assert_eq!(any(0), some("v"));
    let late = r.l1.peek_any(
        &Query {
            variant: b"HGETALL",
            ..get("k")
        },
        &on(r.a, 1020),
        text,
    );
    assert_eq!(late, some("v"));
    let other = Query {
        name: b"stranger",
        ..get("k")
    };
    assert_eq!(r.l1.peek_any(&other, &on(r.a, 20), text), None);
}

#[test]
fn several_keys_may_be_looked_up_by_any_reply_about_each() {
    let r = rig();
    let names = [get("a"), get("b"), get("a"), get("gone")];
    r.fill(read("a", "HLEN"), on(r.a, 10), value(":3"));
    r.fill(get("b"), on(r.a, 10), value("v"));
    r.fill(read("gone", "HLEN"), on(r.a, 10), absent());
    assert_eq!(r.many(&names, on(r.a, 11)), None);
    let all = [":3", "v", ":3", "absent _"].map(String::from).to_vec();
    assert_eq!(r.many_of(&names, on(r.b, 11), Which::Any), Some(all));
    let blocked = Asker {
        own: Own::Blocked,
        ..on(r.a, 11)
    };
    assert_eq!(r.many_of(&names, blocked, Which::Any), None);
    let elsewhere = Query { db: 1, ..get("a") };
    assert_eq!(r.many_of(&[elsewhere], on(r.a, 11), Which::Any), None);
    r.l1.push(r.a, get("a").hash);
    assert_eq!(r.many_of(&names, on(r.a, 11), Which::Any), None);
}

#[test]
fn replies_about_several_keys_of_several_fillers_are_vouched_for_like_values() {
    let r = rig();
    let both = [get("older"), get("younger")];
    r.fill(read("older", "HLEN"), on(r.a, 10_000), value(":3"));
    r.fill(read("younger", "TYPE"), on(r.b, 20_000), value("+set"));
    let any = |now_us| r.many_of(&both, on(r.a, now_us), Which::Any);
    assert_eq!(any(20_001), None);
    r.links.answered(r.a, 20_001);
    assert_eq!(
        any(20_002),
        None,
        "the filler of the younger one has not answered since"
    );
    r.links.answered(r.b, 20_001);
    assert_eq!(any(20_002), Some(vec![":3".into(), "+set".into()]));
    r.links.lost(r.b);
    assert_eq!(any(20_003), None);
}

#[test]
fn a_reply_may_be_believed_for_less_than_the_others() {
    let r = rig();
    let brief = Fill {
        most_us: Some(T / 2),
        ..value("int").unwrap()
    };
    r.fill(read("k", "ENCODING"), on(r.a, 10_000), Some(brief));
    r.fill(get("k"), on(r.a, 10_000), value("v"));
    let at = |now_us| r.peek(read("k", "ENCODING"), on(r.a, now_us));
    assert_eq!((at(11_000), at(10_000 + T / 2)), (some("int"), None));
    assert_eq!(r.peek(get("k"), on(r.a, 10_000 + T / 2)), some("v"));
}

// ---------------------------------------------------------------- chains and sizes

#[test]
fn names_with_one_hash_are_told_apart_and_voided_together() {
    let r = rig();
    let (q, twin) = (
        get("k"),
        Query {
            name: b"twin",
            ..get("k")
        },
    );
    r.fill(q, on(r.a, 10), value("v"));
    r.fill(twin, on(r.a, 10), value("w"));
    assert_eq!(
        (r.peek(q, on(r.a, 11)), r.peek(twin, on(r.a, 11))),
        (some("v"), some("w"))
    );
    r.l1.push(r.a, q.hash);
    assert_eq!((r.peek(q, on(r.a, 11)), r.peek(twin, on(r.a, 11))), (None, None));
}

#[test]
fn a_name_keeps_its_latest_replies() {
    let r = rig();
    let variants: Vec<_> = (0..MAX_REPLIES_A_KEY + 6).map(|i| format!("HGET {i}")).collect();
    variants
        .iter()
        .for_each(|variant| r.fill(read("k", variant), on(r.a, 10), value("v")));
    let kept: Vec<_> = variants
        .iter()
        .map(|variant| r.peek(read("k", variant), on(r.a, 11)).is_some())
        .collect();
    assert_eq!(kept.iter().filter(|&&is_kept| is_kept).count(), MAX_REPLIES_A_KEY);
    assert_eq!(kept[..6], [false; 6]);
    assert_eq!(r.l1.purge(get("k").hash), MAX_REPLIES_A_KEY);
}

/// Thousands of fields of one hash, against a budget that other keys have spent to the last byte.
#[test]
fn a_name_that_is_read_in_thousands_of_ways_leaves_the_others_where_they_are() {
    let r = rig_with(Config {
        budget_bytes: 1 << 20,
        ..config()
    });
    let others: Vec<_> = (0..2_000).map(|i| format!("other {i}")).collect();
    let text = "x".repeat(600);
    for round in 0..3 {
        for name in &others {
            if r.peek(get(name), on(r.a, 10)).is_none() {
                r.fill(get(name), on(r.a, 10), value(&text));
            }
        }
        assert!(round > 0 || r.l1.stats().evictions > 0, "the budget is spent");
    }
    let kept = || {
        others
            .iter()
            .filter(|name| r.peek(get(name), on(r.a, 10)).is_some())
            .count()
    };
    let before = kept();
    for i in 0..10_000 {
        let variant = format!("HGET {i}");
        r.fill(read("hash", &variant), on(r.a, 10), value(&"x".repeat(i % 600)));
        assert!(r.l1.stats().used_bytes <= 1 << 20);
    }
    let lost = before - kept();
    assert!(
        lost <= 2 * MAX_REPLIES_A_KEY,
        "{lost} of {before} entries were lost to one name"
    );
    assert!(r.l1.purge(get("hash").hash) <= MAX_REPLIES_A_KEY);
}

#[test]
fn large_values_are_handed_out_by_reference() {
    let r = rig();
    let bytes = Bytes::from(vec![b'x'; 3000]);
    let fill = Fill {
        value: Value::Shared(bytes.clone()),
        pttl_ms: -1,
        is_plain: true,
        most_us: None,
    };
    r.fill(get("k"), on(r.a, 10), Some(fill));
    let shown = r.l1.peek(&get("k"), &on(r.a, 11), |view| match view.value {
        ViewValue::Large(shown) => (shown.clone(), view.is_plain),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        shown.as_ref().map(|(b, is_plain)| (b.as_ptr(), *is_plain)),
        Some((bytes.as_ptr(), true))
    );
    r.fill(
        get("j"),
        on(r.a, 10),
        Some(Fill {
            value: Value::Bytes(&bytes),
            pttl_ms: -1,
            is_plain: false,
            most_us: None,
        }),
    );
    assert!(
        r.l1.peek(&get("j"), &on(r.a, 11), |view| matches!(
            view.value,
            ViewValue::Large(_)
        ))
        .unwrap()
    );
    let small = Fill {
        value: Value::Shared(Bytes::from_static(b"small")),
        pttl_ms: -1,
        is_plain: false,
        most_us: None,
    };
    r.fill(get("i"), on(r.a, 10), Some(small));
    assert!(
        r.l1.peek(&get("i"), &on(r.a, 11), |view| matches!(
            view.value,
            ViewValue::Small(b"small")
        ))
        .unwrap()
    );
}

#[test]
fn a_budget_is_kept_and_its_reach_is_used() {
    let r = rig_with(Config {
        budget_bytes: 1 << 20,
        ..config()
    });
    for i in 0..20_000u64 {
        let name = format!("some name {i}");
        r.fill(get(&name), on(r.a, 10), value(&"x".repeat((i % 300) as usize)));
        let stats = r.l1.stats();
        // What the ghost grows by is made up for by the inserts that follow.
        assert!(stats.used_bytes <= (1 << 20) + (1 << 20) / 100, "{stats:?}");
    }
    let stats = r.l1.stats();
    assert!(stats.used_bytes > 1_000_000, "{stats:?}");
    assert_eq!(stats.inserts, stats.evictions + stats.entries as u64);
}

#[test]
fn an_entry_that_would_displace_too_much_is_refused() {
    let r = rig_with(Config {
        budget_bytes: 40_000,
        max_value_bytes: 1 << 20,
        shards: None,
        ..config()
    });
    assert_eq!(r.l1.stats().shards, 1);
    r.fill(get("k"), on(r.a, 10), value(&"x".repeat(8_000)));
    r.fill(get("large"), on(r.a, 10), value(&"x".repeat(10_000)));
    assert_eq!((r.l1.stats().entries, r.l1.stats().refused_too_large), (1, 1));
    let tiny = rig_with(Config {
        budget_bytes: 10,
        ..config()
    });
    tiny.fill(get("k"), on(tiny.a, 10), value("v"));
    assert_eq!(tiny.l1.stats().entries, 0);
}
