use super::{set_by, shown};
use crate::config::Secret;
use crate::resp::encode;
use crate::resp::limits::Limits;
use crate::resp::request::{Args, Scanner, Span};
use crate::upstream::dial::Access;

fn set(line: &str) -> Option<Vec<u8>> {
    let mut buf = Vec::new();
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    encode::command(&mut buf, words.into_iter());
    let mut spans: Vec<Span> = Vec::new();
    Scanner::default()
        .scan(&buf, &Limits::AUTHENTICATED, &mut spans)
        .unwrap();
    let secret = set_by(Args {
        buf: &buf,
        spans: &spans,
    })?;
    Some(secret.expose().to_vec())
}

#[test]
fn a_password_is_set_by_its_own_name_only() {
    assert_eq!(set("CONFIG SET requirepass pw"), Some(b"pw".to_vec()));
    assert_eq!(set("config set maxmemory 0 RequirePass pw"), Some(b"pw".to_vec()));
    assert_eq!(set("CONFIG SET requirepass "), Some(Vec::new()));
    assert_eq!(set("CONFIG SET masterauth requirepass"), None);
    assert_eq!(set("CONFIG GET requirepass"), None);
    assert_eq!(set("CONFIG GET x requirepass"), None);
}

#[test]
fn what_the_default_user_shows() {
    for (input, expected) in [
        ("AUTH pw\r\n", Some("pw")),
        ("auth default pw\r\nGET k\r\n", Some("pw")),
        ("AUTH alice pw\r\n", None),
        ("AUTH a b c\r\n", None),
        ("HELLO 3 SETNAME x AUTH default pw\r\n", Some("pw")),
        ("HELLO 3\r\n", None),
        ("*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n", Some("pw")),
        ("*2\r\n$4\r\nAUTH\r\n$2\r\np", None),
        ("GET pw\r\n", None),
        ("", None),
    ] {
        let found = shown(input.as_bytes());
        assert_eq!(
            found.as_ref().map(Secret::expose),
            expected.map(str::as_bytes),
            "{input:?}"
        );
    }
}

#[test]
fn another_users_password_is_left_alone() {
    let of = |user: Option<&str>| Access {
        user: user.map(Into::into),
        password: Some(Secret::new("old")),
        tls: None,
    };
    for user in [None, Some("default")] {
        let access = of(user).with_password(&Secret::new("new")).unwrap();
        assert_eq!(access.password, Some(Secret::new("new")));
        assert_eq!(of(user).with_password(&Secret::new("")).unwrap().password, None);
    }
    assert!(of(Some("alice")).with_password(&Secret::new("new")).is_none());
}
