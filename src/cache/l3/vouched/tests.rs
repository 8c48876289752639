use super::*;

fn noted(notes: &[(u64, Option<u64>, u64)]) -> Vouched {
    let mut vouched = Vouched::default();
    notes
        .iter()
        .for_each(|&(losses, vouched_ms, now_ms)| vouched.note_at(losses, vouched_ms, now_ms));
    vouched
}

#[test]
fn what_was_filled_before_a_loss_was_true_until_the_last_look_before_it() {
    let vouched = noted(&[
        (0, None, 100_000),
        (0, Some(199_000), 200_000),
        // Lost between these two looks; what is said behind it is of others.
        (1, Some(299_000), 300_000),
        (1, Some(399_000), 400_000),
    ]);
    assert_eq!(vouched.of(150_000), 199_000);
    assert_eq!(vouched.of(310_000), 399_000);
    // Behind the last look nobody has vouched for it, and before the first one neither.
    assert_eq!(vouched.of(250_000), 250_000 - FILL_MS);
    assert_eq!(vouched.of(420_000), 420_000 - FILL_MS);
    assert_eq!(vouched.of(90_000), 90_000 - FILL_MS);
    // Rounded up in the moment of the loss, it is still of those before.
    assert_eq!(vouched.of(300_001), 300_001 - FILL_MS);
}

#[test]
fn nothing_that_is_not_known_makes_an_entry_younger() {
    let mut notes = vec![(0, None, 1000), (0, Some(50_000), 51_000)];
    notes.extend((1..=MOST_INTERVALS as u64).map(|loss| (loss, None, 60_000 + loss * 1000)));
    let vouched = noted(&notes);
    assert_eq!(vouched.of(40_000), 30_000, "the list is too short for it");
    assert_eq!(noted(&[]).of(40_000), 30_000);
    let vouched = noted(&[(3, Some(70_000), 20_000), (3, None, 80_000)]);
    assert_eq!(vouched.of(40_000), 30_000, "no link was up");
}

#[test]
fn the_file_brings_back_what_was_said_or_nothing() {
    let vouched = noted(&[(0, None, 1000), (0, Some(2000), 3000), (1, None, 4000)]);
    let clocks = Clocks {
        boot: 7,
        age_ms: 8,
        unix_ms: 9,
    };
    let bytes = vouched.encode(clocks);
    let (read, at) = Vouched::decode(&bytes).unwrap();
    assert_eq!((&read.intervals, at), (&vouched.intervals, clocks));
    // What an earlier, longer one has left behind it is not looked at.
    assert!(Vouched::decode(&[&bytes[..], b"rest"].concat()).is_some());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Vouched::decode(&bad).is_none(), "byte {at}");
        assert!(Vouched::decode(&bytes[..at]).is_none(), "{at} bytes");
    }
}

#[test]
fn a_clock_that_is_set_back_does_not_take_the_stores_with_it() {
    let then = Clocks {
        boot: 7,
        age_ms: 10_000,
        unix_ms: 500_000,
    };
    let now = |boot, age_ms| Clocks {
        boot,
        age_ms,
        unix_ms: 400_000,
    };
    assert_eq!(
        then.least_ms(now(7, 70_000)),
        560_000,
        "a minute later, whatever the clock says"
    );
    assert_eq!(
        then.least_ms(now(8, 70_000)),
        500_000,
        "after a restart of the machine not earlier, at least"
    );
    assert_eq!(Clocks { boot: 0, ..then }.least_ms(now(0, 70_000)), 500_000);
}
