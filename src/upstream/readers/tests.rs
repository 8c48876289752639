use super::{Candidate, choose, fitness};
use crate::config::{Endpoint, ReadFrom};

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
fn only_a_replica_that_keeps_up_with_the_right_primary_will_do() {
    let well = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:up\r\n\
                master_sync_in_progress:0\r\n";
    let at = |port| Endpoint::Tcp {
        host: "10.0.0.1".into(),
        port,
    };
    assert_eq!(fitness(well, None), Ok(()));
    assert_eq!(fitness(well, Some(&at(6379))), Ok(()));
    assert!(
        fitness(well, Some(&at(6380)))
            .unwrap_err()
            .contains("follows 10.0.0.1:6379")
    );
    for (from, to) in [
        ("role:slave", "role:master"),
        ("link_status:up", "link_status:down"),
        ("progress:0", "progress:1"),
    ] {
        assert!(fitness(&well.replace(from, to), None).is_err(), "{to}");
    }
    assert!(fitness("", None).is_err());
}
