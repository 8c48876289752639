//! What a sentinel's replies are taken for, refusals above all.

use super::super::remedy;
use super::*;

#[test]
fn a_refusal_of_the_details_is_no_sign_of_life_of_the_primary() {
    let refused = answer(1, &frames(&[ADDRESS, NO_PERMISSION])).unwrap_err();
    assert!(
        refused.to_string().starts_with("SENTINEL MASTER was refused: NOPERM"),
        "{refused}"
    );
    assert!(remedy(&refused).contains("must be allowed SENTINEL MYID"));
    // One that does not know the name answers the second question with an error too.
    let unknown = answer(1, &frames(&["_\r\n", "-ERR No such master with that name\r\n"])).unwrap();
    assert_eq!(unknown.vote.primary, None);
}

#[test]
fn a_refusal_to_tell_of_others_does_not_say_that_there_are_none() {
    let answer = answer(1, &frames(&[ADDRESS, DETAILS, NO_PERMISSION, NO_PERMISSION])).unwrap();
    let surroundings = answer.surroundings.unwrap();
    assert!(surroundings.others.unwrap_err().starts_with("NOPERM"));
    assert_eq!(surroundings.replicas, None);
}

#[test]
fn of_what_a_liar_invents_no_more_is_kept_than_is_asked() {
    let row = "*6\r\n$5\r\nrunid\r\n$1\r\nx\r\n$2\r\nip\r\n$1\r\nh\r\n$4\r\nport\r\n$1\r\n7\r\n";
    let many = format!("*1000\r\n{}", row.repeat(1000));
    let answer = answer(1, &frames(&[ADDRESS, DETAILS, &many, &many])).unwrap();
    let surroundings = answer.surroundings.unwrap();
    assert_eq!(surroundings.others.unwrap().len(), MOST_SEATS);
    assert_eq!(surroundings.replicas.unwrap().len(), MOST_REPLICAS);
}

const ADDRESS: &str = "*2\r\n$1\r\nh\r\n$1\r\n7\r\n";
const DETAILS: &str = "*4\r\n$2\r\nip\r\n$1\r\nh\r\n$4\r\nport\r\n$1\r\n7\r\n";
const NO_PERMISSION: &str = "-NOPERM this user has no permissions\r\n";

fn frames(texts: &[&str]) -> Vec<BytesMut> {
    texts.iter().map(|text| BytesMut::from(text.as_bytes())).collect()
}
