use super::super::Expiry;
use super::*;

fn lifetime(deadline_ms: u64, inserted_ms: u64) -> Lifetime {
    Lifetime {
        deadline_ms,
        inserted_ms,
        expiry: Expiry::Never,
    }
}

const OF: Identity<'_> = Identity {
    hash: 1,
    db: 0,
    name: &[b'n'; 16],
    variant: b"",
};

fn payload(value: &[u8], lifetime: &Lifetime, is_chained: bool) -> Payload {
    let reply = Reply {
        body: Body::Small(value),
        is_plain: true,
        lifetime,
    };
    Payload::new(OF, reply, is_chained)
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
    for inserted in times {
        for link in [0, 1, u16::MAX] {
            let of = lifetime(END_OF_TIME_MS, inserted);
            let mut stamp = Stamp::new(&of, LinkId::from_index(link), Queue::Main, 3);
            assert_eq!((stamp.frequency(), stamp.queue()), (3, Queue::Main));
            stamp.set_frequency(1);
            stamp.set_queue(Queue::Small);
            assert_eq!((stamp.frequency(), stamp.queue()), (1, Queue::Small));
            assert_eq!((stamp.inserted_ms(), stamp.link().index()), (inserted, link));
            assert!(!stamp.is_timed() && !stamp.is_chained());
        }
    }
}

#[test]
fn a_slot_shows_the_deadline_and_the_chain_that_its_payload_has() {
    for deadline in [
        0,
        1,
        1 << 32,
        (1 << 32) + 12_345,
        END_OF_TIME_MS - 1,
        END_OF_TIME_MS,
        u64::MAX,
    ] {
        for is_chained in [false, true] {
            let of = lifetime(deadline, 1);
            let mut slot = Slot::new(
                payload(b"value", &of, is_chained),
                1,
                2,
                Stamp::new(&of, LinkId::PINNED, Queue::Main, 3),
            );
            let shown = deadline.min(END_OF_TIME_MS);
            assert_eq!((slot.deadline_ms(), slot.chain()), (shown, NIL));
            slot.set_chain(if is_chained { 7 } else { NIL });
            assert_eq!(
                (slot.deadline_ms(), slot.chain()),
                (shown, if is_chained { 7 } else { NIL })
            );
            assert_eq!(slot.deadline_us(), (shown < END_OF_TIME_MS).then_some(shown * 1000));
            assert_eq!(slot.payload.value_bytes(), 5);

            let (later, body) = (lifetime(deadline, 9), Body::Small(b"other"));
            let reply = Reply {
                body,
                is_plain: false,
                lifetime: &later,
            };
            assert!(slot.rewrite(&reply, LinkId::from_index(4), 5));
            assert_eq!(
                (slot.deadline_ms(), slot.chain()),
                (shown, if is_chained { 7 } else { NIL })
            );
            assert_eq!(
                (slot.epoch, slot.stamp.link().index(), slot.stamp.inserted_ms()),
                (5, 4, 9)
            );
            assert_eq!((slot.stamp.queue(), slot.stamp.frequency()), (Queue::Main, 3));

            // Its block has no room for a deadline, or room that would be left over.
            let other = lifetime(if shown == END_OF_TIME_MS { 5 } else { END_OF_TIME_MS }, 9);
            let (body, is_plain) = (Body::Small(b"third"), false);
            let reply = Reply {
                body,
                is_plain,
                lifetime: &other,
            };
            assert!(!slot.rewrite(&reply, LinkId::from_index(6), 7));
            assert_eq!((slot.epoch, slot.deadline_ms()), (5, shown));
        }
    }
}

#[test]
fn a_typical_entry_costs_little_besides_key_and_value() {
    let payload = payload(&[b'v'; 64], &lifetime(END_OF_TIME_MS, 1), false);
    assert_eq!(
        payload.weight() + size_of::<Slot>() - 80,
        56,
        "the index takes another 7"
    );
}
