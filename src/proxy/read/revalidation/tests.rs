use super::Told;

/// As Redis 8.6.3 told it.
const OF_2000_V: &[u8] = b"$16\r\n95e58481da6f1b63\r\n";

#[test]
fn a_digest_is_that_of_the_server() {
    let value = "v".repeat(2000);
    assert_eq!(Told::of(OF_2000_V, value.as_bytes()), Told::Same);
    assert_eq!(Told::of(OF_2000_V, &value.as_bytes()[1..]), Told::Changed);
    assert_eq!(Told::of(b"$16\r\nf34099ede96b5581\r\n", b"12345"), Told::Same);
    // Of a value whose digest begins with zeros.
    assert_eq!(Told::of(b"$16\r\n00000e4d5a0b2cd9\r\n", b"1"), Told::Changed);
}

#[test]
fn what_is_no_digest_is_told_apart() {
    for (frame, told) in [
        (&b"_\r\n"[..], Told::Changed),
        (b"$-1\r\n", Told::Changed),
        (
            b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            Told::Changed,
        ),
        (
            b"-ERR unknown command 'DIGESt', with args beginning with: 'k' \r\n",
            Told::Refused,
        ),
        (
            b"-NOPERM User u has no permissions to run the 'digest' command\r\n",
            Told::Refused,
        ),
        (b"$3\r\nabc\r\n", Told::Refused),
        (b"+OK\r\n", Told::Refused),
        (b":7\r\n", Told::Refused),
        (b"-LOADING Redis is loading the dataset in memory\r\n", Told::Nothing),
        (b"-MASTERDOWN Link with MASTER is down\r\n", Told::Nothing),
    ] {
        assert_eq!(Told::of(frame, b"v"), told, "{}", String::from_utf8_lossy(frame));
    }
}
