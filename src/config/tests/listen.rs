//! The addresses to listen on.

use super::*;

#[test]
fn listen_addresses_are_read_in_every_form() {
    let tcp = |text: &str| ListenAddr::Tcp(text.parse().unwrap());
    for (text, address) in [
        ("127.0.0.1:0", tcp("127.0.0.1:0")),
        ("[::]:6390", tcp("[::]:6390")),
        ("unix:/run/n.sock", ListenAddr::Unix(PathBuf::from("/run/n.sock"))),
        ("unix:///run/n.sock", ListenAddr::Unix(PathBuf::from("/run/n.sock"))),
    ] {
        assert_eq!(ListenAddr::parse(text), Ok(address.clone()), "{text}");
        assert_eq!(ListenAddr::parse(&address.to_string()), Ok(address));
    }
    match ListenAddr::parse("localhost:6390") {
        Ok(ListenAddr::Tcp(address)) => assert!(address.ip().is_loopback() && address.port() == 6390),
        other => panic!("{other:?}"),
    }
    let too_long = format!("unix:/{}", "x".repeat(107));
    for text in [
        "",
        "6390",
        "h:",
        ":6390",
        "h:65536",
        "::1:6390",
        "[::1]",
        "unix:",
        "unix:/dir/",
        &too_long,
    ] {
        assert!(ListenAddr::parse(text).is_err(), "{text}");
    }
}

#[test]
fn several_ports_that_are_to_be_found_are_no_repetition() {
    let config = read("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]").unwrap();
    assert_eq!(config.listen.len(), 2);
}
