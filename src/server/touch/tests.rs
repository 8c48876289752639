use super::*;

#[test]
fn only_a_server_that_evicts_by_use_cares() {
    let why = |maxmemory, policy| is_of_no_use(Some(maxmemory), Some(policy));
    for policy in ["allkeys-lru", "allkeys-lfu", "volatile-lru", "volatile-lfu"] {
        assert_eq!(why("1048576", policy), None);
        assert!(why("0", policy).is_some_and(|why| why.contains("maxmemory is 0")));
    }
    for policy in ["noeviction", "allkeys-random", "volatile-random", "volatile-ttl"] {
        assert!(why("1048576", policy).is_some_and(|why| why.contains(policy)));
    }
    assert_eq!(is_of_no_use(None, None), None, "who may not ask cannot know");
}
