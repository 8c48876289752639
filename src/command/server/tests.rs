use proptest::prelude::*;

use super::{CommandReplyError, ServerCommand, decode_command_reply};

const OLDER: &[u8] = b"*2\r\n*7\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n*1\r\n+@read\r\n\
    *6\r\n$7\r\nflushdb\r\n:-1\r\n*1\r\n+write\r\n:0\r\n:0\r\n:0\r\n";
const NEWER: &[u8] = b"*3\r\n*7\r\n$3\r\nget\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n~1\r\n+@read\r\n\
    _\r\n*6\r\n$7\r\nflushdb\r\n:-1\r\n~1\r\n+write\r\n:0\r\n:0\r\n:0\r\n";

#[test]
fn both_versions_say_the_same() {
    let commands = decode_command_reply(OLDER).expect("a reply of COMMAND");
    assert_eq!(commands, decode_command_reply(NEWER).expect("a reply of COMMAND"));
    assert_eq!(
        commands[0],
        ServerCommand {
            name: "get".to_owned(),
            arity: 2,
            flags: vec!["readonly".to_owned(), "fast".to_owned()],
            first_key: 1,
            last_key: 1,
            key_step: 1,
            subcommands: Vec::new(),
        }
    );
    assert_eq!(commands[1].name, "flushdb");
}

#[test]
fn subcommands_are_known_by_their_own_names() {
    let reply = b"*1\r\n*10\r\n$3\r\nacl\r\n:-2\r\n~1\r\n+noscript\r\n:0\r\n:0\r\n:0\r\n~0\r\n*0\r\n*0\r\n\
        *2\r\n*3\r\n$10\r\nacl|WHOAMI\r\n:2\r\n~0\r\n*3\r\n$11\r\nacl|getuser\r\n:3\r\n~0\r\n";
    let commands = decode_command_reply(reply).expect("a reply of COMMAND");
    let expected = [("whoami".to_owned(), 2), ("getuser".to_owned(), 3)];
    assert_eq!(commands[0].subcommands, expected);
}

#[test]
fn what_is_no_reply_of_command_is_named() {
    let refused = decode_command_reply(b"-NOPERM no permissions\r\n").expect_err("an error");
    assert_eq!(refused, CommandReplyError::Refused("NOPERM no permissions".to_owned()));
    assert_eq!(decode_command_reply(b"+OK\r\n"), Err(CommandReplyError::NotAnArray));
    assert_eq!(decode_command_reply(b""), Err(CommandReplyError::NotAnArray));
    assert_eq!(
        decode_command_reply(b"*1\r\n*2\r\n$3\r\nget\r\n:2\r\n"),
        Err(CommandReplyError::Element(0))
    );
    assert_eq!(
        decode_command_reply(b"*1\r\n:2\r\n"),
        Err(CommandReplyError::Element(0))
    );
    assert_eq!(decode_command_reply(b"*0\r\n"), Ok(Vec::new()));
}

proptest! {
    #[test]
    fn damage_is_an_error_and_no_panic(at in 0_usize..200, byte in any::<u8>(), len in 0_usize..200) {
        for reply in [OLDER, NEWER] {
            let mut damaged = reply.to_vec();
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = decode_command_reply(&damaged);
            damaged.truncate(len);
            let _ = decode_command_reply(&damaged);
        }
    }
}
