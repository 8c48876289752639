use super::{ALL, PING, PING_REQUEST, UNWATCH, UNWATCH_REQUEST, is_shown_by};
use crate::command::Table;
use crate::resp::encode;

#[test]
fn each_is_a_command_that_only_its_spelling_tells_from_a_clients() {
    let table = Table::builtin();
    for own in ALL {
        let own = std::str::from_utf8(own).unwrap();
        assert!(table.find(own.as_bytes()).is_some(), "{own}");
        for spelled in [own.to_ascii_uppercase(), own.to_ascii_lowercase()] {
            assert!(!is_shown_by(
                format!("+1.5 [0 127.0.0.1:5000] \"{spelled}\"\r\n").as_bytes()
            ));
        }
        for address in ["0 127.0.0.1:5000", "15 [::1]:5000", "3 unix:/run/redis.sock"] {
            assert!(is_shown_by(
                format!("+1700000000.123456 [{address}] \"{own}\" \"GET\"\r\n").as_bytes()
            ));
        }
    }
}

#[test]
fn what_clients_and_scripts_send_is_shown() {
    for line in [
        "+1.5 [0 127.0.0.1:5000] \"SET\" \"k\" \"] \\\"PTTl\\\"\"\r\n",
        "+1.5 [0 127.0.0.1:5000] \"GET\" \"PTTl\"\r\n",
        "+1.5 [0 lua] \"PTTL\" \"k\"\r\n",
        "+1.5 [0 127.0.0.1:5000] \"PTTlx\"\r\n",
        "+1.5 [0 127.0.0.1:5000] \"CONFIg\" \"SET\" \"maxmemory\" \"GET\"\r\n",
        "+OK\r\n",
        "+\r\n",
        "",
    ] {
        assert!(!is_shown_by(line.as_bytes()), "{line}");
    }
}

#[test]
fn whole_requests_are_spelled_the_same() {
    for (name, request) in [(PING, PING_REQUEST), (UNWATCH, UNWATCH_REQUEST)] {
        let mut encoded = Vec::new();
        encode::command(&mut encoded, [name].into_iter());
        assert_eq!(encoded, request);
    }
}
