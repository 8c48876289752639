//! Requests and replies as they are on the wire, for the benches that measure the reading of them.

/// `GET` of one of many keys of the same length.
pub fn get(number: usize) -> Vec<u8> {
    format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{number:012}\r\n").into_bytes()
}

/// So many `GET`s in one piece.
pub fn pipeline(count: usize) -> Vec<u8> {
    (0..count).flat_map(get).collect()
}

/// A value of 64 bytes.
pub fn value() -> Vec<u8> {
    format!("$64\r\n{}\r\n", "v".repeat(64)).into_bytes()
}

/// The RESP3 reply to `HGETALL`.
pub fn map(fields: usize) -> Vec<u8> {
    let mut frame = format!("%{fields}\r\n").into_bytes();
    for field in 0..fields {
        frame.extend(format!("$7\r\nfield:{}\r\n", field % 10).into_bytes());
        frame.extend(value());
    }
    frame
}
