use super::*;

#[test]
fn the_sketch_forgets() {
    let sketch = Sketch::new(Admission::SecondSight, 1);
    let mut random = fastrand::Rng::with_seed(1);
    let (hot, old) = (random.u64(..), random.u64(..));
    for _ in 0..3 {
        sketch.count(old);
    }
    assert!(sketch.admits(old));
    let mut strangers = 0;
    for i in 0..3_000_000 {
        let stranger = random.u64(..);
        sketch.count(stranger);
        strangers += u32::from(i % 100 == 0 && sketch.admits(stranger));
        if i % 1000 == 0 {
            sketch.count(hot);
        }
    }
    assert!(sketch.admits(hot));
    assert!(!sketch.admits(old), "it was not asked for since");
    assert!(
        strangers < 9000,
        "{strangers} of 30,000 that were seen once pass for seen twice"
    );
}

#[test]
fn the_sketch_of_a_store_with_few_entries_forgets_sooner() {
    // Words enough for 8192 entries either way.
    for (entries, is_remembered) in [(3000, false), (30_000, true)] {
        let sketch = Sketch::new(Admission::SecondSight, 1);
        let mut random = fastrand::Rng::with_seed(1);
        let old = random.u64(..);
        sketch.full_with(Some(entries));
        sketch.count(old);
        sketch.count(old);
        for _ in 0..40_000 {
            sketch.count(random.u64(..));
        }
        assert_eq!(sketch.admits(old), is_remembered, "{entries} entries");
    }
}

/// A flush leaves files that are full of what is dead.
#[test]
fn the_sketch_of_an_empty_store_remembers_for_a_while() {
    let sketch = Sketch::new(Admission::SecondSight, 1);
    sketch.full_with(Some(0));
    let mut random = fastrand::Rng::with_seed(1);
    let old = random.u64(..);
    sketch.count(old);
    sketch.count(old);
    for _ in 0..10_000 {
        sketch.count(random.u64(..));
    }
    assert!(sketch.admits(old));
}

#[test]
fn the_sketch_of_a_store_that_has_room_again_remembers_as_long_as_it_can() {
    for (is_full, is_remembered) in [(true, false), (false, true)] {
        let sketch = Sketch::new(Admission::SecondSight, 1);
        let mut random = fastrand::Rng::with_seed(1);
        let old = random.u64(..);
        sketch.full_with(Some(0));
        if !is_full {
            sketch.full_with(None);
        }
        sketch.count(old);
        sketch.count(old);
        for _ in 0..40_000 {
            sketch.count(random.u64(..));
        }
        assert_eq!(sketch.admits(old), is_remembered);
    }
}

#[test]
fn a_store_that_takes_everything_has_no_sketch_to_be_told() {
    let sketch = Sketch::new(Admission::All, 1 << 20);
    for entries in [None, Some(0), Some(usize::MAX)] {
        sketch.full_with(entries);
        sketch.count(1);
        assert!(sketch.admits(2) && sketch.bytes() == 0);
    }
}
