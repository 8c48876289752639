use super::*;

#[test]
fn one_in_so_many_is_due_on_average() {
    let sampler = Sampler::new(10);
    let mut due = 0;
    for _ in 0..100_000 {
        if sampler.due() == 0 {
            due += 1;
            sampler.draw();
        } else {
            sampler.passed(1);
        }
    }
    assert!((9_000..=11_000).contains(&due), "{due}");
}

#[test]
fn without_a_number_none_is_ever_due_and_with_1_each_is() {
    assert_eq!(Sampler::new(0).due(), u32::MAX);
    let each = Sampler::new(1);
    each.draw();
    assert_eq!(each.due(), 0);
}

#[test]
fn what_is_full_drops_new_keys_and_counts_them() {
    let touches = Touches::default();
    for i in 0..MOST_KEYS {
        touches.add(0, format!("k{i}").as_bytes());
        touches.add(0, format!("k{i}").as_bytes());
    }
    touches.add(0, b"k1");
    assert_eq!(touches.dropped_total.load(Relaxed), 0, "it is there already");
    touches.add(1, b"k1");
    touches.add(0, b"another");
    assert_eq!(touches.dropped_total.load(Relaxed), 2);
    assert_eq!(touches.take().len(), MOST_KEYS);
    assert!(touches.take().is_empty());
}
