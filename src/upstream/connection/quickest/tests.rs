use super::*;

#[test]
fn a_server_is_near_while_one_of_its_answers_of_the_last_windows_was_quick() {
    let mut quickest = Quickest::UNKNOWN;
    assert!(!quickest.is_near());
    let mut now_us = 2 * WINDOW_US;
    quickest.answered(now_us - NEAR_US - 1, now_us);
    assert!(!quickest.is_near());
    quickest.answered(now_us - NEAR_US, now_us);
    assert!(quickest.is_near());
    for is_near in [true, false] {
        now_us += WINDOW_US;
        quickest.answered(now_us - 200, now_us);
        assert_eq!(quickest.is_near(), is_near);
    }
}
