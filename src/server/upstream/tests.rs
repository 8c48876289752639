//! What of the upstream may change while the process runs.

use super::*;
use crate::config::{Origin, Settings as Options};

#[test]
fn passwords_and_certificates_may_change() {
    for (old, new) in [
        ("redis://u:a@h:1/2", "redis://u:b@h:1/2"),
        ("rediss://u:a@h", "rediss://u:b@h"),
        ("redis+sentinel://:a@s:1,t:2/m", "redis+sentinel://:b@s:1,t:2/m"),
        ("", ""),
    ] {
        assert_eq!(
            what_needs_a_restart(&upstream(old), &upstream(new)),
            [""; 0],
            "{old} {new}"
        );
    }
}

#[test]
fn what_cannot_change_is_named() {
    let (place, user, database) = ("the place", "the user", "the database");
    for (old, new, fixed) in [
        ("redis://h", "redis://g", &[place][..]),
        ("redis://h", "rediss://h", &[place]),
        ("redis://h", "redis+sentinel://h/m", &[place]),
        ("redis+sentinel://h/m", "redis+sentinel://h/n", &[place]),
        ("redis+sentinel://h/m", "redis+sentinel://h,g/m", &[place]),
        ("redis://h", "", &[place]),
        ("redis://u:p@h", "redis://v:p@h", &[user]),
        ("redis://h/1", "redis://h/2", &[database]),
        ("redis://u:p@h/1", "redis://:p@g", &[place, user, database]),
    ] {
        assert_eq!(
            what_needs_a_restart(&upstream(old), &upstream(new)),
            fixed,
            "{old} {new}"
        );
    }
}

fn upstream(url: &str) -> Upstream {
    let mut options = Options::default();
    if !url.is_empty() {
        options.set("upstream.url", url, Origin::Flag("--upstream"));
    }
    Config::from_settings(options).expect("the URL is one").upstream
}
