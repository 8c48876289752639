//! Writes frames: each function appends one value, or the header of one, to a buffer of bytes.
//!
//! For the replies which the proxy makes itself and the requests it sends on its own account. A function that takes a
//! [`Version`] writes what a Redis of that version would: the RESP2 forms are those that `convert` gives for the
//! RESP3 ones.

use super::Version;

/// `$n` and the bytes.
pub fn bulk(out: &mut Vec<u8>, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    header(out, b'$', bytes.len() as u64);
    out.extend_from_slice(bytes);
    line_end(out);
}

/// `+text`. Line ends in the text become blanks.
pub fn simple(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'+');
    one_line(out, text.as_ref());
}

/// `-text`; the text starts with the error's code, as in `ERR syntax error`. Line ends in it become blanks.
pub fn error(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.push(b'-');
    one_line(out, text.as_ref());
}

/// The same as a frame of its own.
pub fn error_frame(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    error(&mut out, text);
    out
}

/// `:value`.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    out.push(b':');
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    line_end(out);
}

/// No value: `$-1` or `_`.
pub fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"$-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// No array, where RESP2 tells the two nulls apart: `*-1` or `_`.
pub fn null_array(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"*-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// `*len`; that many values follow.
pub fn array_header(out: &mut Vec<u8>, len: usize) {
    header(out, b'*', len as u64);
}

/// The header of a map; `pairs` keys, each with its value, follow.
pub fn map_header(out: &mut Vec<u8>, version: Version, pairs: usize) {
    match version {
        Version::Resp2 => header(out, b'*', (pairs * 2) as u64),
        Version::Resp3 => header(out, b'%', pairs as u64),
    }
}

/// The header of a set; `len` values follow.
pub fn set_header(out: &mut Vec<u8>, version: Version, len: usize) {
    header(out, if version == Version::Resp3 { b'~' } else { b'*' }, len as u64);
}

/// The header of an out-of-band message; `len` values follow.
pub fn push_header(out: &mut Vec<u8>, version: Version, len: usize) {
    header(out, if version == Version::Resp3 { b'>' } else { b'*' }, len as u64);
}

/// A text for people; `format` has three letters (`txt`, `mkd`).
pub fn verbatim(out: &mut Vec<u8>, version: Version, format: &str, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    match version {
        Version::Resp2 => bulk(out, bytes),
        Version::Resp3 => {
            header(out, b'=', (format.len() + 1 + bytes.len()) as u64);
            out.extend_from_slice(format.as_bytes());
            out.push(b':');
            out.extend_from_slice(bytes);
            line_end(out);
        }
    }
}

/// A floating-point number, already printed.
pub fn double(out: &mut Vec<u8>, version: Version, digits: &str) {
    match version {
        Version::Resp2 => bulk(out, digits),
        Version::Resp3 => {
            out.push(b',');
            one_line(out, digits.as_bytes());
        }
    }
}

/// `#t`, `#f`, or `:1`, `:0`.
pub fn boolean(out: &mut Vec<u8>, version: Version, value: bool) {
    out.extend_from_slice(match (version, value) {
        (Version::Resp2, false) => b":0\r\n",
        (Version::Resp2, true) => b":1\r\n",
        (Version::Resp3, false) => b"#f\r\n",
        (Version::Resp3, true) => b"#t\r\n",
    });
}

/// A request: `*n`, and each argument as a bulk, the command's name first.
pub fn command<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// A header line of a type that announces a length or a count.
#[inline]
pub(super) fn header(out: &mut Vec<u8>, kind: u8, len: u64) {
    match len {
        // Nearly all, in one piece.
        0..10 => out.extend_from_slice(&[kind, b'0' + len as u8, b'\r', b'\n']),
        10..100 => out.extend_from_slice(&[kind, b'0' + (len / 10) as u8, b'0' + (len % 10) as u8, b'\r', b'\n']),
        _ => {
            out.push(kind);
            out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
            line_end(out);
        }
    }
}

/// The text with line ends made blanks, and a line end.
pub(super) fn one_line(out: &mut Vec<u8>, text: &[u8]) {
    let start = out.len();
    out.extend_from_slice(text);
    for byte in out.iter_mut().skip(start) {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    line_end(out);
}

#[inline]
fn line_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
