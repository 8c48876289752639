//! What is remembered of how often a key was missed, by how full the store is.

use super::*;

#[test]
fn a_store_that_was_flushed_remembers_sights_like_a_new_one() {
    let medium = Simulated::default();
    let config = Config {
        size_bytes: 32 << 10,
        admission: Admission::SecondSight,
        ..config()
    };
    let (store, next) = open(config, &medium, 1);
    let (mut writer, mut now_us) = (writer(&store, next), 1_000_000);
    let mut put_some = |count: u64| {
        for i in 0..count {
            let name = format!("name{i}");
            (0..2).for_each(|_| store.sketch.count(hash(store.seed, name.as_bytes())));
            void(&store, &name);
            put(&store, &name, &[b'v'; 200]);
            settle(&mut writer, &mut now_us);
        }
    };
    let mut random = fastrand::Rng::with_seed(1);
    let mut is_remembered = || {
        let old = random.u64(..);
        store.sketch.count(old);
        store.sketch.count(old);
        for _ in 0..40_000 {
            store.sketch.count(random.u64(..));
        }
        store.sketch.admits(old)
    };
    put_some(400);
    assert!(store.stats().counts.reclaimed_segments > 0);
    assert!(!is_remembered(), "its entry would be gone by then");
    store.void_all();
    put_some(40);
    assert!(is_remembered(), "there is room");
}
