use super::super::{Config, Consistency};
use super::*;

const SENT: u64 = 5_000_700;

fn config(max_age_us: Option<u64>, negative_ttl_us: Option<u64>) -> Config {
    Config {
        budget_bytes: 1 << 20,
        shards: None,
        max_value_bytes: 1 << 10,
        negative_ttl_us,
        max_age_us,
        max_stale_us: None,
        consistency: Consistency::Coherent,
        objective: crate::cache::Objective::Requests,
        compression: None,
    }
}

fn deadline(config: &Config, body: Body<'_>, pttl_ms: i64) -> Option<(u64, Expiry)> {
    lifetime(config, SENT, SENT + 10, &body, pttl_ms, None).map(|l| (l.deadline_ms, l.expiry))
}

const SMALL: Body<'_> = Body::Small(b"v");
const ABSENT: Body<'_> = Body::Absent(b"_\r\n");

#[test]
fn without_ttl_and_caps_there_is_no_deadline() {
    let config = config(None, None);
    assert_eq!(deadline(&config, SMALL, -1), Some((END_OF_TIME_MS, Expiry::Never)));
    assert_eq!(deadline(&config, ABSENT, -2), Some((END_OF_TIME_MS, Expiry::Never)));
}

#[test]
fn a_deadline_is_rounded_down_and_the_insert_up() {
    let l = lifetime(&config(None, None), SENT, SENT + 10, &SMALL, 20, None).unwrap();
    assert_eq!((l.deadline_ms, l.inserted_ms), (5020, 5001));
    assert!(matches!(l.expiry, Expiry::At(_)));
    assert!(is_over(l.deadline_ms, 5_020_000) && !is_over(l.deadline_ms, 5_019_999));
}

#[test]
fn the_nearest_cap_counts() {
    let both = config(Some(1_000_000), Some(30_000));
    assert_eq!(deadline(&both, ABSENT, -2), Some((5030, Expiry::Never)));
    assert_eq!(deadline(&both, SMALL, -1), Some((6000, Expiry::Never)));
    assert_eq!(deadline(&both, SMALL, 5_000), Some((6000, Expiry::Unknown)));
    let short = config(Some(10_000), Some(30_000));
    assert_eq!(deadline(&short, ABSENT, -2), Some((5010, Expiry::Never)));
}

#[test]
fn a_reply_may_have_a_cap_of_its_own() {
    let both = config(Some(1_000_000), Some(30_000));
    let capped = |body, pttl_ms, most_us| {
        lifetime(&both, SENT, SENT + 10, &body, pttl_ms, Some(most_us)).map(|l| (l.deadline_ms, l.expiry))
    };
    assert_eq!(capped(SMALL, -1, 10_000), Some((5010, Expiry::Never)));
    assert_eq!(capped(SMALL, 5_000, 10_000), Some((5010, Expiry::Unknown)));
    assert_eq!(capped(SMALL, -1, 2_000_000), Some((6000, Expiry::Never)));
    assert_eq!(capped(ABSENT, -2, 10_000), Some((5010, Expiry::Never)));
}

#[test]
fn a_ttl_of_centuries_is_cut_and_not_told() {
    for pttl_ms in [i64::MAX, 1 << 40] {
        assert_eq!(
            deadline(&config(None, None), SMALL, pttl_ms),
            Some((END_OF_TIME_MS, Expiry::Unknown))
        );
    }
}

#[test]
fn what_is_over_on_arrival_has_no_lifetime() {
    assert!(lifetime(&config(None, None), SENT, SENT, &SMALL, 0, None).is_none());
    assert!(lifetime(&config(None, None), SENT, SENT + 20_000, &SMALL, 20, None).is_none());
    assert!(
        lifetime(&config(None, None), u64::MAX - 5, u64::MAX - 5, &SMALL, -1, None).is_none(),
        "the clock ran out of bits"
    );
}
