use super::*;

fn message(kind: &str, pattern: &str, channel: &str, event: &str) -> Vec<u8> {
    let mut frame = b">4\r\n".to_vec();
    for part in [kind, pattern, channel, event] {
        frame.extend_from_slice(format!("${}\r\n{part}\r\n", part.len()).as_bytes());
    }
    frame
}

#[test]
fn a_message_names_one_key_whatever_is_in_its_name() {
    let pattern = "__keyspace@*__:*";
    for (channel, key) in [
        ("__keyspace@0__:k", Some("k")),
        ("__keyspace@15__:__keyspace@3__:odd", Some("__keyspace@3__:odd")),
        ("__keyspace@0__:", Some("")),
        ("__keyevent@0__:set", None),
        ("news", None),
    ] {
        let frame = message("pmessage", pattern, channel, "set");
        assert_eq!(changed_key(&frame), key.map(str::as_bytes), "{channel}");
    }
    for frame in [
        message("pmessage", pattern, "__keyspace@0__:k", "keymiss"),
        message("pmessage", "other", "__keyspace@0__:k", "set"),
        message("message", pattern, "__keyspace@0__:k", "set"),
        b"+PONG\r\n".to_vec(),
        b">0\r\n".to_vec(),
    ] {
        assert_eq!(changed_key(&frame), None, "{}", String::from_utf8_lossy(&frame));
    }
}

#[test]
fn flags_are_enough_if_no_change_of_a_key_is_left_out() {
    for flags in ["KA", "AK", "AKE", "g$lshztxeK", "KEg$lshztdxem"] {
        assert!(are_enough(flags), "{flags}");
    }
    for flags in ["", "A", "EA", "K", "Kg$", "Kg$lshztx", "Kxe"] {
        assert!(!are_enough(flags), "{flags}");
    }
}
