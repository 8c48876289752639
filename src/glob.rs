//! Patterns of keys and channels as Redis has them: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, and `\` before a character that
//! means itself. On bytes; time at most the product of both lengths.

#[cfg(test)]
mod tests;

/// Whether the pattern fits the whole text.
pub fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last asterisk, and how much of the text it takes so far.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        match text.get(t) {
            None if p == pattern.len() => return true,
            None => return false,
            Some(&byte) => {
                if let Some(next) = one(pattern, p, byte) {
                    (p, t) = (next, t + 1);
                    continue;
                }
            }
        }
        let Some((behind, taken)) = &mut retry else {
            return false;
        };
        *taken += 1;
        (p, t) = (*behind, *taken);
    }
}

/// Whether the element of the pattern at `p` takes this byte; if so, where the next element is.
fn one(pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
    match *pattern.get(p)? {
        b'?' => Some(p + 1),
        b'[' => {
            let (is_in, next) = class(pattern, p + 1, byte);
            is_in.then_some(next)
        }
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte).then_some(p + 2),
        plain => (plain == byte).then_some(p + 1),
    }
}

/// A class that starts at `p`, behind its bracket; one that is never closed ends with the pattern.
fn class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let is_inverted = pattern.get(p) == Some(&b'^');
    if is_inverted {
        p += 1;
    }
    let mut is_in = false;
    loop {
        match pattern.get(p..).unwrap_or_default() {
            [] => break,
            [b']', ..] => {
                p += 1;
                break;
            }
            [b'\\', escaped, ..] => {
                is_in |= *escaped == byte;
                p += 2;
            }
            [from, b'-', to, ..] => {
                is_in |= (*from.min(to)..=*from.max(to)).contains(&byte);
                p += 3;
            }
            [plain, ..] => {
                is_in |= *plain == byte;
                p += 1;
            }
        }
    }
    (is_in != is_inverted, p)
}
