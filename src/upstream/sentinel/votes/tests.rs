//! Elections with sentinels that are down, late, lying, or known by two names.

use super::*;

#[test]
fn a_majority_of_all_decides_and_not_of_those_that_answer() {
    let seats = [says(1, "a", 10), silent(2), silent(3)];
    let counted = count(&seats, 0);
    assert_eq!((counted.known, counted.majority), (3, None));
    assert_eq!(counted.most, Some(candidate("a", 1, 1)));
    let seats = [says(1, "a", 10), says(2, "a", 10), silent(3)];
    assert_eq!(count(&seats, 0).majority, Some(node("a")));
}

#[test]
fn of_as_many_votes_the_later_failover_wins_and_is_no_majority() {
    let mut seats = [says(1, "a", 10), says(2, "b", 10)];
    seats[1].vote.as_mut().unwrap().epoch = 2;
    let counted = count(&seats, 0);
    assert_eq!(counted.most, Some(candidate("b", 1, 2)));
    assert_eq!(counted.majority, None);
}

#[test]
fn old_votes_do_not_elect() {
    let seats = [says(1, "a", 10), says(2, "a", 90), says(3, "b", 95)];
    assert_eq!(count(&seats, 0).majority, Some(node("a")));
    assert_eq!(count(&seats, 50).majority, None);
}

#[test]
fn it_is_confirmed_since_the_last_moment_at_which_a_majority_agreed() {
    let mut seats = vec![says(1, "a", 10), says(2, "a", 30), says(3, "a", 20)];
    assert_eq!(confirmed_us(&seats, &node("a")), 20);
    assert_eq!(confirmed_us(&seats, &node("b")), 0);
    seats[1].vote.as_mut().unwrap().is_down = true;
    assert_eq!(
        confirmed_us(&seats, &node("a")),
        10,
        "one that holds it for dead does not vouch"
    );
    seats[0] = says(1, "b", 40);
    assert_eq!(confirmed_us(&seats, &node("a")), 0);
    let one = [says(1, "a", 10)];
    assert_eq!(confirmed_us(&one, &node("a")), 10);
    let four = [says(1, "a", 10), says(2, "a", 10), silent(3), silent(4)];
    assert_eq!(confirmed_us(&four, &node("a")), 0, "two of four are none");
}

#[test]
fn sentinels_of_which_the_others_tell_are_counted() {
    let mut seats = vec![tells(says(1, "a", 10), &[2, 3])];
    assert_eq!(count(&seats, 0).known, 3);
    assert_eq!(count(&seats, 0).majority, None, "they have not been asked");
    seats.push(Seat {
        is_configured: false,
        ..tells(says(2, "a", 10), &[1, 3])
    });
    assert_eq!(count(&seats, 0).majority, Some(node("a")));
}

#[test]
fn one_that_never_answered_is_one_of_those_that_the_others_tell_of() {
    let seats = [
        tells(says(1, "a", 10), &[2, 3]),
        tells(says(2, "a", 10), &[1, 3]),
        silent(3),
    ];
    assert_eq!(count(&seats, 0).known, 3);
}

#[test]
fn sentinels_of_which_only_a_liar_tells_are_not_counted_and_have_no_vote() {
    let many: Vec<u16> = (10..60).collect();
    let mut seats = vec![
        tells(says(1, "b", 10), &many),
        tells(says(2, "a", 10), &[1, 3]),
        tells(says(3, "a", 10), &[1, 2]),
    ];
    seats.extend((10..20).map(|i| Seat {
        is_configured: false,
        ..says(i, "b", 10)
    }));
    let counted = count(&seats, 0);
    assert_eq!((counted.known, counted.majority), (3, Some(node("a"))));
}

#[test]
fn a_sentinel_under_two_names_has_one_vote() {
    let mut twin = says(1, "a", 20);
    twin.address = node("elsewhere");
    let seats = [says(1, "a", 10), twin.clone(), silent(3)];
    let counted = count(&seats, 0);
    assert_eq!((counted.known, counted.majority), (2, None));
    twin.vote.as_mut().unwrap().primary = Some(node("b"));
    let seats = [says(1, "a", 10), twin];
    assert_eq!(count(&seats, 0).most, None, "what contradicts itself says nothing");
}

#[test]
fn one_that_does_not_know_the_name_votes_for_nobody() {
    let mut seats = [says(1, "a", 10), says(2, "a", 10), says(3, "a", 10)];
    seats[0].vote.as_mut().unwrap().primary = None;
    seats[1].vote.as_mut().unwrap().primary = None;
    assert_eq!(count(&seats, 0).majority, None);
}

fn node(host: &str) -> Endpoint {
    Endpoint::Tcp {
        host: host.to_owned(),
        port: 6379,
    }
}

fn candidate(host: &str, votes: usize, epoch: u64) -> Candidate {
    Candidate {
        node: node(host),
        votes,
        epoch,
    }
}

fn silent(i: u16) -> Seat {
    Seat::new(node(&format!("s{i}")), true)
}

fn says(i: u16, primary: &str, asked_us: u64) -> Seat {
    Seat {
        id: Some(i.to_string()),
        vote: Some(Vote {
            asked_us,
            primary: Some(node(primary)),
            is_down: false,
            epoch: 1,
        }),
        ..silent(i)
    }
}

fn tells(seat: Seat, of: &[u16]) -> Seat {
    let others = of.iter().map(|i| Other {
        id: i.to_string(),
        address: node(&format!("s{i}")),
    });
    Seat {
        others: others.collect(),
        ..seat
    }
}
