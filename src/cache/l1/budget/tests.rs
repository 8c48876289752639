use super::super::{Consistency, Objective};
use super::*;

fn config(budget_bytes: usize, max_value_bytes: usize, shards: Option<usize>) -> Config {
    Config {
        budget_bytes,
        shards,
        max_value_bytes,
        negative_ttl_us: None,
        max_age_us: None,
        bound_us: 1,
        consistency: Consistency::Coherent,
        objective: Objective::Requests,
    }
}

#[test]
fn the_allocator_rounds_in_sixteens_and_from_128_kib_on_in_pages() {
    assert_eq!([0, 1, 24, 25, 40, 41].map(malloc_bytes), [0, 32, 32, 48, 48, 64]);
    assert_eq!(malloc_bytes(128 * 1024), 132 * 1024);
}

#[test]
fn there_are_as_many_shards_as_leave_each_a_useful_share() {
    let counts = [
        (256 << 20, 1 << 20),
        (1 << 30, 1 << 20),
        (8 << 20, 1 << 20),
        (1 << 20, 1 << 10),
        (1000, 1 << 20),
        (0, 0),
    ];
    assert_eq!(
        counts.map(|(budget, largest)| shard_count(&config(budget, largest, None))),
        [32, 64, 1, 8, 1, 1]
    );
}

#[test]
fn a_configured_number_of_shards_is_rounded_to_a_power_of_two() {
    assert_eq!(
        [0, 1, 3, 64, 1000].map(|n| shard_count(&config(1 << 20, 1 << 20, Some(n)))),
        [1, 1, 4, 64, 64]
    );
}

#[test]
fn the_largest_value_fits_into_every_shard() {
    for budget in [8 << 20, 64 << 20, 256 << 20, 4 << 30] {
        let config = config(budget, 1 << 20, None);
        let limits = Limits::new(&config, config.budget_bytes, shard_count(&config));
        assert!(
            budget < 5 << 20 || limits.max_entry_bytes > malloc_bytes(1 << 20) + 500,
            "{budget}: {limits:?}"
        );
    }
}
