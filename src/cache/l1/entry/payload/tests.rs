use super::*;

fn lifetime(deadline_ms: u64) -> Lifetime {
    Lifetime {
        deadline_ms,
        inserted_ms: 1,
        expiry: Expiry::Never,
    }
}

fn new(of: Identity<'_>, body: Body<'_>, deadline_ms: u64, is_chained: bool) -> Payload {
    let reply = Reply {
        body,
        is_plain: true,
        lifetime: &lifetime(deadline_ms),
    };
    Payload::new(of, reply, is_chained)
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
            for (deadline_ms, is_chained) in [(5, false), (5, true), (END_OF_TIME_MS, false), (END_OF_TIME_MS, true)] {
                let mut payload = new(of, Body::Small(b"value"), deadline_ms, is_chained);
                let kind = payload.kind();
                assert_eq!(
                    (kind.is_timed(), kind.is_chained()),
                    (deadline_ms != END_OF_TIME_MS, is_chained)
                );
                if is_chained {
                    assert_eq!(payload.chain(), NIL);
                    payload.set_chain(0x0102_0304);
                    assert_eq!(payload.chain(), 0x0102_0304);
                }
                if kind.is_timed() {
                    assert_eq!(payload.deadline_ms(is_chained), deadline_ms);
                }
                let head = payload.head();
                assert_eq!(
                    (head.db, head.name, head.variant, head.rest),
                    (db, &name[..], &variant[..], &b"value"[..])
                );
                assert!(payload.matches(of) && !head.is_absent());
                assert_eq!(
                    (payload.value_bytes(), payload.data_bytes()),
                    (5, name_len + variant_len + 5)
                );
                let (block, parts, value) = payload.into_parts();
                assert_eq!(block[parts], [&name[..], &variant, b"value"].concat());
                assert!(value.is_none());
            }
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
    let payload = new(of, Body::Small(b"cd"), END_OF_TIME_MS, false);
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
    let payload = new(of, Body::Large(value.clone()), 5, true);
    assert!(payload.matches(of));
    assert_eq!((payload.value_bytes(), payload.data_bytes()), (5000, 5004));
    assert!((5000..5250).contains(&payload.weight()));
    assert_eq!((payload.deadline_ms(true), payload.chain()), (5, NIL));
    let (block, parts, large) = payload.into_parts();
    assert_eq!((&block[parts], large), (&b"name"[..], Some(value)));
}

#[test]
fn a_damaged_block_is_read_as_nothing_worse_than_empty() {
    for block in [
        &[][..],
        &[0],
        &[0, 0x80],
        &[0, 0xff, 0xff],
        &[0, 5, 5, 0, b'x'],
        &[0xc0],
        &[0xc0, 0, 0, 0, b'x'],
    ] {
        let head = Head::of(block);
        assert!(head.bytes() <= block.len());
        let mut payload = Payload::Small(block.into());
        for is_chained in [false, true] {
            payload.deadline_ms(is_chained);
        }
        payload.set_chain(1);
        assert!([1, NIL].contains(&payload.chain()));
        assert!(payload.data_bytes() <= block.len() && payload.value_bytes() <= block.len());
    }
}
