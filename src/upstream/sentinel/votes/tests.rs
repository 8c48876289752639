//! Elections with sentinels that are down, late, lying, or known by two names.

use super::*;

#[test]
fn rows_that_a_liar_repeats_count_once() {
    let fake = |i| Other {
        id: format!("f{i}"),
        address: node(&format!("f{i}")),
    };
    let mut liar = says(1, "b", 10);
    liar.others = (0..9).map(|i| fake(i % 3)).collect();
    let mut seats = vec![liar, tells(says(2, "a", 10), &[1, 3]), tells(says(3, "a", 10), &[1, 2])];
    seats.extend((0..3).map(|i| Seat {
        id: Some(format!("f{i}")),
        address: node(&format!("f{i}")),
        is_configured: false,
        ..says(1, "b", 10)
    }));
    let counted = count(&seats, 0);
    assert_eq!((counted.known, counted.majority), (3, Some(node("a"))));
}

#[test]
fn a_sentinel_is_sought_where_most_say_that_it_is() {
    let mut liar = tells(says(1, "b", 10), &[2]);
    liar.others.push(Other {
        id: "3".to_owned(),
        address: node("evil"),
    });
    let mut seats = vec![liar.clone(), tells(says(2, "a", 10), &[1, 3])];
    assert!(
        Roll::of(&seats).discovered.iter().all(|other| other.id != "3"),
        "one word against another"
    );
    // Dialled when only the liar had answered: it has no say where most do not see it.
    seats.push(Seat {
        address: node("evil"),
        is_configured: false,
        ..says(3, "b", 10)
    });
    let counted = count(&seats, 0);
    assert_eq!((counted.known, counted.majority), (3, None));
    seats.push(tells(says(4, "a", 10), &[1, 2, 3]));
    let found: Vec<_> = Roll::of(&seats)
        .discovered
        .into_iter()
        .filter(|other| other.id == "3")
        .collect();
    assert_eq!(found, tells(silent(9), &[3]).others, "where two of three see it");
}

#[test]
fn one_of_whom_half_of_the_others_tell_is_counted_and_has_no_vote() {
    // The liar hides the third, and would be one of two.
    let seats = [tells(says(1, "b", 10), &[2]), tells(says(2, "a", 10), &[1, 3])];
    let roll = Roll::of(&seats);
    assert_eq!(roll.known, 3);
    assert!(roll.discovered.iter().all(|other| other.id != "3"));
}

#[test]
fn whom_the_first_to_answer_invents_cannot_vouch_for_one_another() {
    let fakes: Vec<u16> = (10..20).collect();
    // Whether they are late or cannot be reached.
    for trouble in [None, Some("connection refused".to_owned())] {
        let missing = |i| Seat {
            trouble: trouble.clone(),
            ..silent(i)
        };
        let mut seats = vec![tells(says(1, "b", 10), &fakes), missing(2), missing(3)];
        assert_eq!(Roll::of(&seats).discovered, [], "the others have not answered yet");
        seats.extend(fakes.iter().map(|&i| Seat {
            is_configured: false,
            ..tells(says(i, "b", 10), &fakes)
        }));
        assert_eq!(count(&seats, 0).majority, None, "{trouble:?}");
        seats[1] = tells(says(2, "a", 10), &[1, 3]);
        seats[2] = tells(says(3, "a", 10), &[1, 2]);
        let counted = count(&seats, 0);
        assert_eq!((counted.known, counted.majority), (3, Some(node("a"))));
    }
}

#[test]
fn one_that_answers_elsewhere_is_not_sought_where_the_others_say_that_it_is() {
    // Behind a translation of addresses the others know it by one that cannot be reached from here.
    let inner = |seat: Seat| Seat {
        others: vec![Other {
            id: "3".to_owned(),
            address: node("inner"),
        }],
        ..seat
    };
    let unreachable = Seat {
        address: node("inner"),
        is_configured: false,
        trouble: Some("no answer".to_owned()),
        ..silent(3)
    };
    let mut seats = vec![inner(says(1, "a", 10)), inner(says(2, "a", 10)), silent(3), unreachable];
    let sought =
        |seats: &[Seat]| -> Vec<Endpoint> { Roll::of(seats).sought().map(|other| other.address.clone()).collect() };
    assert_eq!(sought(&seats), [node("inner")], "it answers nowhere yet");
    seats[2] = says(3, "a", 10);
    assert_eq!(sought(&seats), []);
    seats[2].trouble = Some("no answer".to_owned());
    assert_eq!(sought(&seats), [node("inner")], "it may have moved there");
}

#[test]
fn where_it_has_moved_from_a_sentinel_does_not_contradict_itself() {
    let mut old = says(3, "a", 90);
    old.trouble = Some("no answer".to_owned());
    let mut new = says(3, "b", 90);
    new.address = node("elsewhere");
    new.is_configured = false;
    let moved = |seat: Seat| {
        let mut seat = tells(seat, &[]);
        seat.others.push(Other {
            id: "3".to_owned(),
            address: node("elsewhere"),
        });
        seat
    };
    let seats = [moved(says(1, "b", 90)), moved(says(2, "a", 90)), old, new];
    let counted = count(&seats, 0);
    assert_eq!((counted.known, counted.majority), (3, Some(node("b"))));
    assert_eq!(confirmed_us(&seats, &node("b")), 90);
    let of_old = Other {
        id: "3".to_owned(),
        address: node("s3"),
    };
    assert!(!Roll::of(&seats[..3]).is_heard(&of_old), "it is to be sought again");
}

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

fn count(seats: &[Seat], after_us: u64) -> Count {
    Roll::of(seats).count(after_us)
}

fn confirmed_us(seats: &[Seat], at: &Endpoint) -> u64 {
    Roll::of(seats).confirmed_us(at)
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
