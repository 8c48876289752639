//! What the control runtime concludes from what the upstream says.

use super::*;

#[test]
fn a_swapdb_is_suspected_whenever_the_count_is_not_what_it_was() {
    assert!(!is_missed(None, 0), "a node that has never executed any");
    assert!(is_missed(None, 1), "one before the first look");
    assert!(!is_missed(Some(3), 3));
    assert!(is_missed(Some(3), 4));
    assert!(is_missed(Some(3), 0), "the count began anew, at a restart say");
    assert!(is_missed(Some(3), 1));
}
