//! One reply out of the replies of several nodes. Pure; frames are RESP3.

use std::collections::HashSet;

use bytes::Bytes;

use crate::resp::{encode, reply};

/// How the replies become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Of each key the part and its place in it: their values in this order.
    Values(Box<[(usize, usize)]>),
    Sum,
    Least,
    /// All the same; that of the first.
    First,
    /// The first that is no error.
    AnyGood,
    /// Elements of arrays behind one another, each once.
    Union,
    /// Arrays of numbers, the least of each place.
    LeastOfEach,
    /// Arrays of names and numbers, the sum for each name.
    Counts,
}

/// The reply of a command of this name.
pub fn merged(merge: &Merge, name: &str, frames: &[Bytes]) -> Vec<u8> {
    if *merge == Merge::AnyGood {
        let good = frames.iter().find(|frame| !reply::is_error(frame));
        return good.or(frames.first()).map_or_else(Vec::new, |frame| frame.to_vec());
    }
    let bad: Vec<&Bytes> = frames.iter().filter(|frame| reply::is_error(frame)).collect();
    if let Some(first) = bad.first() {
        let plain = without_address(first).unwrap_or_else(|| first.to_vec());
        if bad.len() == frames.len() && bad.iter().all(|frame| frame == first) {
            return plain;
        }
        return encode::error_frame(format!(
            "ERR nearcache: {} was carried out in {} of {} parts, each with keys of its own slot or node; the first error: {}",
            name.to_uppercase(),
            frames.len() - bad.len(),
            frames.len(),
            reply::error_text(&plain),
        ));
    }
    let whole = match merge {
        Merge::Values(places) => values(places, frames),
        Merge::Sum => {
            numbers(frames).map(|numbers| integer(numbers.iter().fold(0i64, |sum, n| sum.saturating_add(*n))))
        }
        Merge::Least => numbers(frames).map(|numbers| integer(numbers.into_iter().min().unwrap_or(0))),
        Merge::First | Merge::AnyGood => frames.first().map(|frame| frame.to_vec()),
        Merge::Union => union(frames),
        Merge::LeastOfEach => least_of_each(frames),
        Merge::Counts => counts(frames),
    };
    whole.unwrap_or_else(|| encode::error_frame("ERR nearcache: the replies of the nodes do not fit together"))
}

/// The error that says which node a client of a cluster should have asked, as one that means something to other clients;
/// `None`: it is another reply.
pub fn without_address(frame: &[u8]) -> Option<Vec<u8>> {
    let is_redirection = frame.starts_with(b"-MOVED ") || frame.starts_with(b"-ASK ");
    is_redirection.then(|| b"-TRYAGAIN nearcache: the slot of the keys is on its way to another node\r\n".to_vec())
}

fn numbers(frames: &[Bytes]) -> Option<Vec<i64>> {
    frames.iter().map(|frame| reply::integer(frame)).collect()
}

fn integer(n: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::integer(&mut out, n);
    out
}

fn values(places: &[(usize, usize)], frames: &[Bytes]) -> Option<Vec<u8>> {
    let parts: Vec<Vec<&[u8]>> = frames
        .iter()
        .map(|frame| reply::elements(frame).map(Iterator::collect))
        .collect::<Option<_>>()?;
    let mut out = Vec::with_capacity(frames.iter().map(Bytes::len).sum::<usize>() + 16);
    encode::array_header(&mut out, places.len());
    for &(part, place) in places {
        out.extend_from_slice(parts.get(part)?.get(place)?);
    }
    Some(out)
}

fn union(frames: &[Bytes]) -> Option<Vec<u8>> {
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let mut all: Vec<&[u8]> = Vec::new();
    for frame in frames {
        all.extend(reply::elements(frame)?.filter(|element| seen.insert(element)));
    }
    let mut out = Vec::with_capacity(frames.iter().map(Bytes::len).sum::<usize>() + 16);
    encode::array_header(&mut out, all.len());
    all.iter().for_each(|element| out.extend_from_slice(element));
    Some(out)
}

fn least_of_each(frames: &[Bytes]) -> Option<Vec<u8>> {
    let mut least: Option<Vec<i64>> = None;
    for frame in frames {
        let numbers: Vec<i64> = reply::elements(frame)?.map(reply::integer).collect::<Option<_>>()?;
        least = Some(match least {
            None => numbers,
            Some(least) => least.into_iter().zip(numbers).map(|(a, b)| a.min(b)).collect(),
        });
    }
    let least = least?;
    let mut out = Vec::new();
    encode::array_header(&mut out, least.len());
    least.iter().for_each(|n| encode::integer(&mut out, *n));
    Some(out)
}

fn counts(frames: &[Bytes]) -> Option<Vec<u8>> {
    let mut sums: Vec<(&[u8], i64)> = Vec::new();
    for (nth, frame) in frames.iter().enumerate() {
        let mut parts = reply::elements(frame)?;
        let mut at = 0;
        while let (Some(name), Some(count)) = (parts.next(), parts.next()) {
            let count = reply::integer(count)?;
            match sums.get_mut(at) {
                Some((_, sum)) if nth > 0 => *sum = sum.saturating_add(count),
                _ => sums.push((name, count)),
            }
            at += 1;
        }
    }
    let mut out = Vec::new();
    encode::array_header(&mut out, 2 * sums.len());
    for (name, sum) in sums {
        out.extend_from_slice(name);
        encode::integer(&mut out, sum);
    }
    Some(out)
}

#[cfg(test)]
mod tests;
