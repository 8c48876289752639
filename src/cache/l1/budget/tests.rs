use super::super::{Consistency, Objective};
use super::*;

fn config(budget_bytes: usize, max_value_bytes: usize, shards: Option<usize>) -> Config {
    Config {
        budget_bytes,
        shards,
        max_value_bytes,
        negative_ttl_us: None,
        max_age_us: None,
        max_stale_us: None,
        consistency: Consistency::Coherent,
        objective: Objective::Requests,
        compression: None,
    }
}

#[test]
fn the_allocator_rounds_to_its_classes() {
    // From the table in jemalloc.3.
    let classes = [
        8, 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280,
    ];
    for pair in classes.windows(2) {
        assert_eq!([pair[0] + 1, pair[1]].map(malloc_bytes), [pair[1]; 2]);
    }
    assert_eq!([0, 1, 8].map(malloc_bytes), [0, 8, 8]);
    assert_eq!(
        [14 << 10, (14 << 10) + 1, (1 << 20) + 1].map(size_class),
        [14 << 10, 16 << 10, 1280 << 10]
    );
    assert_eq!(
        [
            14 << 10,
            (14 << 10) + 1,
            32 << 10,
            (32 << 10) + 1,
            1 << 20,
            (1 << 20) + 1
        ]
        .map(malloc_bytes),
        [14 << 10, 16 << 10, 32 << 10, 36 << 10, 1 << 20, (1 << 20) + 4096]
    );
}

#[test]
fn what_the_allocator_leaves_unused_beyond_the_ordinary_is_withheld() {
    let withheld_mib = |budget: usize, unused: usize| withheld_bytes(budget << 20, unused << 20) >> 20;
    assert_eq!(
        [0, 20, 30, 84, 1000].map(|unused| withheld_mib(256, unused)),
        [0, 0, 10, 64, 64]
    );
    assert_eq!(withheld_mib(4, 4), 0);
    assert_eq!(withheld_bytes(0, usize::MAX), 0);
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
