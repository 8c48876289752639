use super::super::nodes::Seen;
use super::{NOBODY, NodeId, Topology};
use crate::config::Endpoint;

fn node(port: u16, epoch: u64, slots: &[(u16, u16)]) -> Seen {
    Seen {
        endpoint: Some(Endpoint::Tcp { host: "n".into(), port }),
        is_primary: true,
        id: format!("{port}"),
        follows: "-".to_owned(),
        is_failed: false,
        epoch,
        slots: slots.to_vec(),
        moving: Vec::new(),
    }
}

/// The number of a node is its port.
fn after(topology: &Topology, seen: &[Seen]) -> Option<(Topology, Vec<NodeId>)> {
    topology.after(seen, number, false)
}

fn number(endpoint: &Endpoint) -> Option<NodeId> {
    match endpoint {
        Endpoint::Tcp { port, .. } => Some(*port),
        Endpoint::Unix(_) => None,
    }
}

#[test]
fn a_slot_goes_to_whoever_has_won_it_last_and_both_nodes_are_named() {
    let (first, changed) = after(
        &Topology::default(),
        &[node(1, 1, &[(0, 9)]), node(2, 2, &[(10, 16383)])],
    )
    .unwrap();
    assert_eq!((first.version, changed), (1, vec![1, 2]));
    assert_eq!((first.owner(9), first.owner(10), first.assigned()), (1, 2, 16384));
    assert_eq!(first.a_slot_of(2), Some(10));
    assert!(after(&first, &[node(1, 1, &[(0, 9)]), node(2, 2, &[(10, 16383)])]).is_none());

    let (second, changed) = after(&first, &[node(1, 1, &[(0, 8)]), node(2, 3, &[(9, 16383)])]).unwrap();
    assert_eq!((second.version, changed), (2, vec![1, 2]));
    // Somebody has not heard of it yet.
    assert!(after(&second, &[node(1, 1, &[(0, 9)]), node(2, 2, &[(10, 16383)])]).is_none());
    assert_eq!(second.owner(9), 2);
    // Unless it is said again and again.
    let (third, _) = second
        .after(&[node(1, 1, &[(0, 9)]), node(2, 2, &[(10, 16383)])], number, true)
        .unwrap();
    assert_eq!(third.owner(9), 1);
}

#[test]
fn a_slot_that_went_and_came_back_unseen_is_seen_by_its_epoch() {
    let (first, _) = after(
        &Topology::default(),
        &[node(1, 1, &[(0, 9)]), node(2, 2, &[(10, 16383)])],
    )
    .unwrap();
    let (_, changed) = after(&first, &[node(1, 3, &[(0, 9)]), node(2, 2, &[(10, 16383)])]).unwrap();
    assert_eq!(changed, [1]);
}

#[test]
fn the_slots_of_a_dead_node_go_to_whoever_claims_them() {
    let (first, _) = after(
        &Topology::default(),
        &[node(1, 7, &[(0, 9)]), node(2, 2, &[(10, 16383)])],
    )
    .unwrap();
    let dead = Seen {
        is_failed: true,
        ..node(1, 7, &[(0, 9)])
    };
    let (failed, changed) = after(&first, &[dead, node(2, 2, &[(10, 16383)])]).unwrap();
    assert_eq!((failed.failed.clone(), failed.version, changed), (vec![1], 1, vec![]));
    let (second, changed) = after(&failed, &[node(3, 6, &[(0, 9)]), node(2, 2, &[(10, 16383)])]).unwrap();
    assert_eq!(
        (second.owner(0), second.primaries.clone(), changed),
        (3, vec![2, 3], vec![1, 3])
    );
    assert_eq!(Topology::default().owner(3), NOBODY);
}

#[test]
fn replicas_are_known_with_whose_slots_they_have() {
    let replica = |port, follows: &str| Seen {
        is_primary: false,
        follows: follows.to_owned(),
        ..node(port, 1, &[])
    };
    let seen = [
        node(1, 1, &[(0, 9)]),
        node(2, 2, &[(10, 16383)]),
        replica(3, "2"),
        replica(4, "nobody"),
        Seen {
            is_failed: true,
            ..replica(5, "1")
        },
    ];
    let (topology, _) = after(&Topology::default(), &seen).unwrap();
    let replicas: Vec<_> = topology
        .replicas
        .iter()
        .map(|replica| (replica.endpoint.to_string(), replica.primary))
        .collect();
    assert_eq!(replicas, [("n:3".to_owned(), Some(2)), ("n:4".to_owned(), None)]);
}
