use super::Place;
use crate::upstream::cluster::Topology;

fn topology(version: u64, primaries: &[u16]) -> Topology {
    let mut topology = Topology::default();
    topology.version = version;
    topology.primaries = primaries.to_vec();
    topology
}

/// The client's next cursor after the node has returned this one.
fn step(cursor: u64, returned: u64, topology: &Topology) -> (u16, u64) {
    let place = Place::decode(cursor.to_string().as_bytes(), topology).unwrap();
    let next = place
        .after(returned, topology)
        .map_or(0, |place| place.encode().unwrap());
    (place.node, next)
}

#[test]
fn all_nodes_are_scanned_one_after_the_other() {
    let topology = topology(5, &[0, 3, 7]);
    let (node, cursor) = step(0, 99, &topology);
    assert_eq!(node, 0);
    let (node, cursor) = step(cursor, 0, &topology);
    assert_eq!(node, 0);
    let (node, cursor) = step(cursor, 0, &topology);
    assert_eq!(node, 3);
    let (node, cursor) = step(cursor, 0, &topology);
    assert_eq!((node, cursor), (7, 0));
}

#[test]
fn a_slot_that_goes_meanwhile_makes_another_round() {
    let (_, cursor) = step(0, 0, &topology(5, &[0, 3]));
    let newer = topology(6, &[0, 3]);
    let (node, cursor) = step(cursor, 0, &newer);
    assert_eq!(node, 3);
    assert_ne!(cursor, 0);
    let (node, cursor) = step(cursor, 0, &newer);
    assert_eq!(node, 0);
    assert_eq!(step(cursor, 0, &newer), (3, 0));
}

#[test]
fn a_node_that_has_gone_is_passed_over() {
    let (_, cursor) = step(0, 0, &topology(5, &[0, 3, 7]));
    assert_eq!(step(cursor, 1, &topology(6, &[0, 7])).0, 7);
    let (_, last) = step(cursor, 0, &topology(5, &[0, 3, 7]));
    assert_eq!(step(last, 1, &topology(6, &[0, 3])).0, 0);
}

#[test]
fn what_is_no_cursor_is_refused() {
    let topology = topology(5, &[0]);
    for text in ["x", "", "-1", "5", "18446744073709551616"] {
        assert_eq!(Place::decode(text.as_bytes(), &topology), None, "{text}");
    }
    let largest = Place::decode(b"0", &topology)
        .unwrap()
        .after((1 << 40) - 1, &topology)
        .unwrap();
    assert!(largest.encode().unwrap() < 1 << 63);
    let too_large = Place::decode(b"0", &topology)
        .unwrap()
        .after(1 << 40, &topology)
        .unwrap();
    assert_eq!(too_large.encode(), None);
    assert_eq!(Place::decode(b"0", &super::Topology::default()), None);
}
