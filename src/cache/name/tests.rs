use super::*;

#[test]
fn the_first_hash_draws_the_seed_and_a_seed_gives_the_same_hashes_everywhere() {
    let first = name_hash(b"whatever comes first draws the seed");
    assert!(!seed_names(7), "too late");
    assert_eq!(name_hash(b"whatever comes first draws the seed"), first);
    for name in [&b"a"[..], b"a name that is longer than any block of sixteen bytes"] {
        assert_eq!(name_hash_by(7, name), name_hash_by(7, name));
        assert_ne!(name_hash_by(7, name), name_hash_by(8, name));
    }
}

#[test]
fn names_of_one_letter_repeated_are_told_apart() {
    let mut hashes: Vec<u64> = (1..64).map(|len| name_hash_by(7, &vec![b'2'; len])).collect();
    hashes.extend((1..16).map(|len| name_hash_by(7, format!("k{}", "2".repeat(len)).as_bytes())));
    let all = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), all);
}
