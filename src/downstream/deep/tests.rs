use super::*;

fn turn(deep: &mut Deep, now_us: u64, is_polite_served: bool) -> u32 {
    deep.requests_a_turn(|| now_us, |_| is_polite_served)
}

#[test]
fn only_a_deep_pipeline_beside_others_has_short_turns() {
    let mut deep = Deep::default();
    assert_eq!(turn(&mut deep, 1000, true), REQUESTS_A_TURN);
    deep.used_up(1000);
    assert_eq!(turn(&mut deep, 1001, true), REQUESTS_BESIDE_OTHERS);
    assert_eq!(turn(&mut deep, 1002, false), REQUESTS_A_TURN);
    assert!(
        deep.is_it(),
        "a turn that is not used up is the end of a pipeline, behind which the next may come"
    );
}

#[test]
fn it_is_one_no_longer_than_it_uses_up_its_turns() {
    let mut deep = Deep::default();
    deep.used_up(1000);
    deep.used_up(1000 + DEEP_US);
    assert_eq!(turn(&mut deep, 999 + 2 * DEEP_US, true), REQUESTS_BESIDE_OTHERS);
    assert_eq!(turn(&mut deep, 1000 + 2 * DEEP_US, true), REQUESTS_A_TURN);
    assert!(!deep.is_it());
}
