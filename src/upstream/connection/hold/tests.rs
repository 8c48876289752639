use super::*;

/// A link on which an answer took so long.
fn link(took_us: u64) -> Hold {
    let mut hold = Hold::default();
    hold.answered(1000, 1000 + took_us);
    hold
}

#[test]
fn requests_wait_for_the_reply_to_those_under_way_and_for_nothing_else() {
    let mut hold = link(NEAR_US - 1);
    assert!(!hold.is_on(0));
    hold.sent(FROM_REQUESTS - 1);
    assert!(!hold.is_on(0), "the server may have nothing else to do");
    hold.sent(FROM_REQUESTS);
    assert!(hold.is_on(0) && hold.is_on(MOST_BYTES - 1));
    assert!(!hold.is_on(MOST_BYTES), "it would read no more at once");
    hold.answered(2000, 2050);
    assert!(!hold.is_on(0), "the first reply lets them go");
}

#[test]
fn nothing_is_held_on_a_link_that_is_far_or_not_known() {
    let mut unknown = Hold::default();
    unknown.sent(FROM_REQUESTS);
    assert!(!unknown.is_on(0));
    let mut far = link(NEAR_US);
    far.sent(FROM_REQUESTS);
    assert!(!far.is_on(0));
}

#[test]
fn the_fastest_answer_counts_for_two_windows_at_most() {
    let is_near_at = |now_us: &[u64]| {
        let mut hold = link(NEAR_US / 2);
        now_us
            .iter()
            .for_each(|&now_us| hold.answered(now_us - 2 * NEAR_US, now_us));
        hold.sent(FROM_REQUESTS);
        hold.is_on(0)
    };
    assert!(is_near_at(&[2000]), "one that was slower tells nothing of the link");
    assert!(is_near_at(&[WINDOW_US + 3000]));
    assert!(!is_near_at(&[WINDOW_US + 3000, 2 * WINDOW_US + 4000]));
    assert!(
        !is_near_at(&[3 * WINDOW_US]),
        "what was long before the silence is over"
    );
}
