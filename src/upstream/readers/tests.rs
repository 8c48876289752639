use std::time::Duration;

use super::{Candidate, Lag, choose, fitness};
use crate::config::ReadFrom;

fn one(id: u16, is_replica: bool, is_near: bool, latency_us: u64) -> Candidate {
    Candidate {
        id,
        is_replica,
        is_near,
        latency_us,
    }
}

fn ids(from: ReadFrom, candidates: &[Candidate]) -> Vec<u16> {
    choose(from, candidates).iter().map(|one| one.id).collect()
}

#[test]
fn replicas_are_preferred_and_those_of_the_zone_among_them() {
    let all = [
        one(0, false, true, 10),
        one(1, true, false, 10),
        one(2, true, false, 900),
    ];
    assert_eq!(ids(ReadFrom::PreferReplica, &all), [1, 2]);
    assert_eq!(ids(ReadFrom::Primary, &all), [0; 0]);
    let zoned = [
        one(1, true, false, 10),
        one(2, true, true, 9000),
        one(3, true, true, 10),
    ];
    assert_eq!(ids(ReadFrom::PreferReplica, &zoned), [2, 3]);
    assert_eq!(ids(ReadFrom::PreferReplica, &all[..1]), [0; 0]);
}

#[test]
fn the_nearest_are_those_that_answer_as_soon_as_the_soonest() {
    let all = [
        one(0, false, false, 5_000),
        one(1, true, false, 1_000),
        one(2, true, false, 1_300),
        one(3, true, false, 1_500),
        one(4, true, false, 0),
    ];
    assert_eq!(ids(ReadFrom::Nearest, &all), [1, 2]);
    assert_eq!(ids(ReadFrom::Nearest, &all[..1]), [0]);
    // One of the own zone, however slow it is now.
    let zoned = [one(1, true, false, 1_000), one(2, false, true, 4_000)];
    assert_eq!(ids(ReadFrom::Nearest, &zoned), [2]);
}

#[test]
fn only_a_replica_that_is_one_and_has_its_data_will_do() {
    let well = "# Replication\r\nrole:slave\r\nmaster_link_status:up\r\nmaster_sync_in_progress:0\r\n";
    assert_eq!(fitness(well), Ok(()));
    for (from, to) in [
        ("role:slave", "role:master"),
        ("link_status:up", "link_status:down"),
        ("progress:0", "progress:1"),
    ] {
        assert!(fitness(&well.replace(from, to)).is_err(), "{to}");
    }
    assert!(fitness("").is_err());
}

fn primary(id: &str, length: u64) -> String {
    format!("role:master\r\nmaster_replid:{id}\r\nmaster_repl_offset:{length}\r\n")
}

fn replica(id: &str, has: u64, silent_s: u64) -> String {
    format!(
        "role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_last_io_seconds_ago:{silent_s}\r\n\
         slave_repl_offset:{has}\r\nmaster_replid:{id}\r\n"
    )
}

#[test]
fn a_replica_is_behind_by_the_age_of_the_length_that_it_has_reached() {
    const SECOND: u64 = 1_000_000;
    let mut lag = Lag::up_to(Duration::from_secs(3));
    for second in 0..10 {
        lag.heard(second * SECOND, Ok(&primary("one", second * 100)));
    }
    let now = 9 * SECOND + 1;
    assert_eq!(lag.of(&replica("one", 950, 0), now), Ok(Some(1)));
    assert_eq!(lag.of(&replica("one", 700, 60), now), Ok(Some(2 * SECOND + 1)));
    assert!(lag.of(&replica("one", 599, 0), now).is_err());
    assert!(
        lag.of(&replica("two", 900, 0), now)
            .is_err_and(|why| why.contains("follows 10.0.0.1:6379"))
    );
    // The primary is away: what it had said last grows old.
    lag.heard(10 * SECOND, Err("gone".to_owned()));
    assert!(lag.of(&replica("one", 900, 0), 12 * SECOND).is_ok());
    assert!(
        lag.of(&replica("one", 900, 0), 12 * SECOND + 1)
            .is_err_and(|why| why.contains("the primary: gone"))
    );
    // Another one, with a history of its own.
    lag.heard(20 * SECOND, Ok(&primary("two", 5)));
    assert!(lag.of(&replica("one", 900, 0), 20 * SECOND).is_err());
    assert_eq!(lag.of(&replica("two", 5, 0), 20 * SECOND), Ok(Some(0)));
}

#[test]
fn lengths_are_kept_as_far_apart_as_is_needed() {
    let mut lag = Lag::up_to(Duration::from_secs(3));
    for nth in 0..100_000 {
        lag.heard(nth * 1000, Ok(&primary("one", nth)));
    }
    let now = 100_000 * 1000;
    assert_eq!(lag.of(&replica("one", 99_999, 0), now), Ok(Some(1000)));
    let behind_us = lag.of(&replica("one", 98_000, 0), now).expect("two seconds");
    assert!((2_000_000..2_030_000).contains(&behind_us.expect("a time")));
    assert!(lag.of(&replica("one", 96_999, 0), now).is_err());
}

#[test]
fn a_primary_that_tells_nothing_leaves_what_the_replica_has_heard() {
    let mut lag = Lag::up_to(Duration::from_secs(3));
    lag.heard(1, Err("INFO replication is refused: NOPERM".to_owned()));
    assert_eq!(lag.of(&replica("one", 0, 3), 2), Ok(None));
    assert!(lag.of(&replica("one", 0, 4), 2).is_err());
    assert!(lag.of("role:slave", 2).is_err());
}
