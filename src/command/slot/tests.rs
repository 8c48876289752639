use super::{SLOTS, crc16, hash_tag, name_in, slot};

#[test]
fn the_checksum_is_that_of_the_specification() {
    assert_eq!(crc16(b"123456789"), 0x31C3);
    assert_eq!(crc16(b""), 0);
}

#[test]
fn a_tag_is_what_stands_between_the_first_braces() {
    for (key, tag) in [
        ("plain", "plain"),
        ("{user1000}.following", "user1000"),
        ("foo{}{bar}", "foo{}{bar}"),
        ("foo{{bar}}zap", "{bar"),
        ("foo{bar}{zap}", "bar"),
        ("foo{bar", "foo{bar"),
        ("}{", "}{"),
        ("{", "{"),
        ("", ""),
    ] {
        assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
    }
}

#[test]
fn slots_are_in_range_and_follow_the_tag() {
    assert_eq!(slot(b"foo"), 12182);
    assert_eq!(slot(b"{user}:a"), slot(b"user"));
    for byte in 0..=255_u8 {
        assert!(slot(&[byte; 5]) < SLOTS);
    }
}

#[test]
fn every_slot_has_a_name() {
    for wanted in 0..SLOTS {
        assert_eq!(slot(name_in(wanted).as_bytes()), wanted);
    }
}
