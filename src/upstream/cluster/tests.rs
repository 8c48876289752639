use std::time::Duration;

use super::*;
use crate::upstream::breaker;
use crate::upstream::dial::Access;

const SECOND: Duration = Duration::from_secs(1);

fn at(port: u16) -> Endpoint {
    Endpoint::Tcp { host: "n".into(), port }
}

fn cluster() -> Cluster {
    let settings = breaker::Settings {
        failures: 1,
        window: SECOND,
        pause: (SECOND, SECOND),
    };
    Cluster::new(Target::fixed(at(1), Access::default(), SECOND, settings))
}

/// The topology that this word of a node makes of the one before.
fn publish(cluster: &Cluster, seen: &str) {
    let seen = nodes::parse(seen, &at(1), Preferred::Address);
    let after = cluster.topology().after(&seen, |node| cluster.node_at(node), false);
    cluster.publish(after.expect("it is news").0);
}

const PRIMARY: &str = "a n:1@2 myself,master - 0 0 1 connected 0-16383\n";

#[test]
fn a_node_for_which_there_is_no_number_left_is_nobody_and_the_others_stay() {
    let cluster = cluster();
    publish(&cluster, PRIMARY);
    for port in 2..=MOST_NODES as u16 {
        assert_eq!(cluster.node_at(&at(port)), Some(port - 1));
    }
    assert_eq!(cluster.node_at(&at(50_000)), None);
    assert_eq!(cluster.node_at(&at(7)), Some(6));
    // It takes no slots, and nobody is sent to somebody else for them.
    let seen = nodes::parse(
        "b n:50000@2 myself,master - 0 0 2 connected 0-16383\n",
        &at(50_000),
        Preferred::Address,
    );
    assert!(
        cluster
            .topology()
            .after(&seen, |node| cluster.node_at(node), false)
            .is_none()
    );
    assert_eq!(cluster.topology().owner(5), 0);
}

#[tokio::test]
async fn who_is_no_node_any_more_is_not_probed_and_a_replica_that_is_read_from_is() {
    let replica = "b n:3@4 slave a 0 0 1 connected\n";
    for (from, stays) in [(ReadFrom::Primary, false), (ReadFrom::PreferReplica, true)] {
        let cluster = cluster().reading_from(from);
        publish(&cluster, &format!("{PRIMARY}{replica}"));
        // Some node has named both, the one by a word that was stale.
        for (port, is_kept) in [(9, false), (3, stays)] {
            let id = cluster.node_at(&at(port)).expect("there is room");
            let node = cluster.node(id).expect("it is known");
            let generation = node.target.generation();
            node.target.failed(generation, 1, "it is dead");
            assert!(node.target.breaker().is_cut());
            cluster.leave_others(&cluster.topology());
            assert_eq!(node.target.endpoint().is_some(), is_kept, "{port}");
            assert_eq!(node.target.generation() == generation, is_kept, "{port}");
        }
    }
}
