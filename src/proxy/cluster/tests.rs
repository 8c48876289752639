use super::*;
use crate::upstream::breaker;
use crate::upstream::cluster::nodes::{self, Preferred};
use crate::upstream::dial::{Access, Target};
use std::time::Duration;

/// After this word of a node.
fn publish(cluster: &Cluster, seen: &str) {
    let asked = Endpoint::Tcp {
        host: "n".into(),
        port: 1,
    };
    let seen = nodes::parse(seen, &asked, Preferred::Address);
    let after = cluster.topology().after(&seen, |node| cluster.node_at(node), false);
    cluster.publish(after.expect("it is news").0);
}

#[test]
fn a_replica_that_comes_later_is_known_though_no_slot_has_another_node() {
    let settings = breaker::Settings {
        failures: 5,
        window: Duration::from_secs(1),
        pause: (Duration::from_secs(1), Duration::from_secs(1)),
    };
    let any = Endpoint::Tcp {
        host: "n".into(),
        port: 1,
    };
    let any = Target::fixed(any, Access::default(), Duration::from_secs(1), settings);
    let cluster = Arc::new(Cluster::new(any));
    let primary = "a n:1@2 myself,master - 0 0 1 connected 0-16383\n";
    publish(&cluster, primary);
    let view = View::new(Arc::clone(&cluster));
    let id = |port| {
        let endpoint = Endpoint::Tcp { host: "n".into(), port };
        cluster.node_at(&endpoint).expect("there is room")
    };
    assert!(view.may_keep(id(1), 5) && !view.may_keep(id(3), 5));
    publish(&cluster, &format!("{primary}b n:3@4 slave a 0 0 1 connected\n"));
    assert!(view.may_keep(id(3), 5));
    // The requests of clients are under way under the same topology.
    assert_eq!(view.topology().version, cluster.version());
    // It follows nobody who has slots.
    publish(&cluster, &format!("{primary}b n:3@4 slave - 0 0 1 connected\n"));
    assert!(!view.may_keep(id(3), 5));
}
