use super::*;

const SHARE_PERCENT: usize = 10;
const SHARE: u64 = SHARE_PERCENT as u64;

/// A worker that has nothing else to do, seen from its transfers: they move in turns of 10 µs, and a rest ends at the next whole
/// millisecond, as timers do. How much of a second they move, in µs.
fn moved_in_a_second(is_anybody_served: impl Fn(u64) -> bool) -> u64 {
    let (transfers, mut now_us, mut moved_us) = (Transfers::new(SHARE_PERCENT), 10_000_000, 0);
    let end_us = now_us + 1_000_000;
    while now_us < end_us {
        transfers.moved(now_us, now_us + 10);
        now_us += 10;
        moved_us += 10;
        let rest_us = transfers.rest_us(now_us, is_anybody_served(now_us));
        if rest_us > 0 {
            now_us = (now_us + rest_us).next_multiple_of(1000);
        }
    }
    moved_us
}

#[test]
fn alone_they_move_all_the_time() {
    assert_eq!(moved_in_a_second(|_| false), 1_000_000);
}

#[test]
fn while_others_are_served_they_keep_their_share_and_no_more() {
    let share_us = 1_000_000 * SHARE / 100;
    let moved_us = moved_in_a_second(|_| true);
    assert!(
        (share_us * 9 / 10..=share_us * 11 / 10).contains(&moved_us),
        "{moved_us} of {share_us}"
    );
}

#[test]
fn what_they_owed_is_forgotten_once_nobody_else_is_there() {
    let transfers = Transfers::new(SHARE_PERCENT);
    transfers.moved(10_000_000, 10_004_000);
    assert!(transfers.rest_us(10_004_000, true) > 30_000);
    assert_eq!(transfers.rest_us(10_004_000, false), 0);
    transfers.moved(10_004_000, 10_004_010);
    assert!(transfers.rest_us(10_004_010, true) <= 10 * 100 / SHARE);
}

#[test]
fn a_long_pause_is_not_saved_up() {
    let transfers = Transfers::new(SHARE_PERCENT);
    transfers.moved(10_000_000, 10_000_010);
    let later_us = 20_000_000;
    transfers.moved(later_us, later_us + CREDIT_US);
    assert!(transfers.rest_us(later_us + CREDIT_US, true) >= CREDIT_US * (100 / SHARE - 2));
}

#[test]
fn with_the_whole_of_the_time_they_never_rest() {
    let transfers = Transfers::new(100);
    transfers.moved(10_000_000, 10_000_010);
    assert_eq!(transfers.rest_us(10_000_010, true), 0);
}

#[test]
fn a_process_that_was_stopped_in_a_turn_does_not_rest_for_many_times_as_long() {
    let transfers = Transfers::new(SHARE_PERCENT);
    transfers.moved(10_000_000, 70_000_000);
    assert_eq!(transfers.rest_us(70_000_000, true), 0);
    transfers.moved(70_000_000, 70_000_000 + MOST_TURN_US + 1);
    assert!(transfers.rest_us(70_000_000 + MOST_TURN_US + 1, true) <= MOST_TURN_US * 100 / SHARE);
}
