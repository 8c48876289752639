use super::*;

fn lifetime(deadline_ms: u64, inserted_ms: u64, expiry: Expiry) -> Lifetime {
    Lifetime {
        deadline_ms,
        inserted_ms,
        expiry,
    }
}

#[test]
fn a_block_gives_back_what_was_put_into_it() {
    for db in [0, 1, 127, 128, 300, u16::MAX] {
        for (name_len, variant_len) in [(0, 0), (1, 0), (127, 128), (128, 5), (16_383, 16_384), (65_535, 65_535)] {
            let (name, variant) = (vec![b'n'; name_len], vec![b'v'; variant_len]);
            let of = Identity {
                hash: 1,
                db,
                name: &name,
                variant: &variant,
            };
            let payload = Payload::new(of, Body::Small(b"value"), true, &lifetime(5, 1, Expiry::At(5000)));
            let head = payload.head();
            assert_eq!(
                (head.db, head.name, head.variant, head.rest),
                (db, &name[..], &variant[..], &b"value"[..])
            );
            assert!(payload.matches(of) && !head.is_absent());
            assert_eq!(payload.value_bytes(), 5);
        }
    }
}

#[test]
fn a_block_matches_nothing_else() {
    let of = Identity {
        hash: 1,
        db: 1,
        name: b"ab",
        variant: b"c",
    };
    let payload = Payload::new(of, Body::Small(b"cd"), false, &lifetime(5, 1, Expiry::Never));
    assert!(payload.matches(of));
    for other in [
        Identity {
            name: b"a",
            variant: b"bc",
            ..of
        },
        Identity {
            name: b"abc",
            variant: b"",
            ..of
        },
        Identity { variant: b"", ..of },
        Identity { db: 2, ..of },
    ] {
        assert!(!payload.matches(other));
    }
}

#[test]
fn a_large_value_is_not_in_the_block() {
    let of = Identity {
        hash: 1,
        db: 0,
        name: b"name",
        variant: b"",
    };
    let value = Bytes::from(vec![1; 5000]);
    let payload = Payload::new(of, Body::Large(value.clone()), false, &lifetime(5, 1, Expiry::Never));
    assert!(payload.matches(of));
    assert_eq!(payload.value_bytes(), 5000);
    assert!((5000..5250).contains(&payload.weight()));
}

#[test]
fn a_damaged_block_is_read_as_nothing_worse_than_empty() {
    for block in [&[][..], &[0], &[0, 0x80], &[0, 0xff, 0xff], &[0, 5, 5, 0, b'x']] {
        let head = Head::of(block);
        assert!(head.name.len() + head.variant.len() + head.rest.len() <= block.len());
    }
}

#[test]
fn a_stamp_keeps_its_parts_apart() {
    let times = [
        0,
        1,
        (1 << 32) - 1,
        1 << 32,
        (1 << 32) + 12_345,
        END_OF_TIME_MS - 1,
        END_OF_TIME_MS,
    ];
    for deadline in times {
        for inserted in times {
            for link in [0, 1, u16::MAX] {
                let of = lifetime(deadline, inserted, Expiry::Never);
                let mut stamp = Stamp::new(&of, LinkId::from_index(link), Queue::Main, 3);
                assert_eq!((stamp.frequency(), stamp.queue()), (3, Queue::Main));
                stamp.set_frequency(1);
                stamp.set_queue(Queue::Small);
                assert_eq!((stamp.frequency(), stamp.queue()), (1, Queue::Small));
                assert_eq!((stamp.deadline_ms(), stamp.inserted_ms()), (deadline, inserted));
                assert_eq!(stamp.link().index(), link);
                assert_eq!(
                    stamp.deadline_us(),
                    (deadline < END_OF_TIME_MS).then_some(deadline * 1000)
                );
            }
        }
    }
}

#[test]
fn a_typical_entry_costs_little_besides_key_and_value() {
    let of = Identity {
        hash: 1,
        db: 0,
        name: &[b'n'; 16],
        variant: b"",
    };
    let payload = Payload::new(of, Body::Small(&[b'v'; 64]), true, &lifetime(5, 1, Expiry::Never));
    assert_eq!(
        payload.weight() + size_of::<Slot>() - 80,
        64,
        "the index takes another 6 to 12"
    );
}
