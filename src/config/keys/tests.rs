use std::os::unix::fs::PermissionsExt;

use super::*;

const ONE: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const TWO: &str = "FF112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";

#[test]
fn keys_are_read_in_their_order() {
    for text in [
        format!("{ONE}\n{TWO}\n"),
        format!("{ONE},{TWO}"),
        format!("# old\n{ONE} # until spring\r\n\n  {TWO}"),
    ] {
        let keys = Keys::parse(&text).unwrap();
        let first: Vec<u8> = keys.expose().map(|key| key[0]).collect();
        assert_eq!(first, [0x00, 0xff], "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_without_telling_what_it_is() {
    let half = &ONE[..63];
    for (text, why) in [
        (String::new(), "there is no key"),
        ("# nothing\n".to_owned(), "there is no key"),
        (format!("{ONE}\n{half}"), "line 2 has something else"),
        (format!("{half}g"), "line 1 has something else"),
        (format!("{ONE}{TWO}"), "line 1 has something else"),
        (format!("{ONE}\n\n{ONE}"), "line 3 repeats a key"),
        (format!("{TWO} {}", TWO.to_lowercase()), "line 1 repeats a key"),
        ("é".repeat(32), "line 1 has something else"),
    ] {
        let said = Keys::parse(&text).unwrap_err();
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("22334455"), "{said}");
    }
    assert_eq!(format!("{:?}", Keys::parse(ONE).unwrap()), "1 keys");
}

#[test]
fn a_file_that_others_can_use_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ONE).unwrap();
    let read = |mode| {
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
        Keys::from_file(file.path())
    };
    for mode in [0o600, 0o400, 0o640, 0o440] {
        assert!(read(mode).is_ok(), "{mode:o}");
    }
    for mode in [0o644, 0o604, 0o602, 0o601, 0o660, 0o777] {
        let why = read(mode).unwrap_err();
        assert!(
            why.contains("chmod 600") && why.contains(&format!("{mode:04o}")),
            "{why}"
        );
    }
    std::fs::write(file.path(), "#".repeat(70_000)).unwrap();
    assert!(read(0o600).unwrap_err().contains("no file of keys"));
    assert!(
        Keys::from_file(Path::new("/nowhere/at/all"))
            .unwrap_err()
            .contains("cannot be read")
    );
}
