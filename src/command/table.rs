//! All rows of the command table and the way from a name to its row. The rows are in the files below, by the kind of
//! data; the most frequent commands come first, since the first row that hashes to a place gets it.

use super::kept::Cache;
use super::server::ServerCommand;
use super::spec::{Access, CONTAINERS, Spec, is_one_of};

mod collections;
mod generic;
mod server;
mod sorted;
mod strings;
#[cfg(test)]
mod tests;
mod vectors;

/// Immutable; shared by all workers.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Spec>,
    /// Open addressing with linear probing; a power of two, at most half full, so a probe always ends.
    places: Vec<Place>,
    /// The row of `GET`, if it is what one expects.
    get: Option<u16>,
}

impl Table {
    /// The static rows only: what Redis 7.0 has, and what is known for certain of newer servers.
    pub fn builtin() -> Table {
        Table::of(builtin_rows())
    }

    /// The static rows, corrected and completed by what a server says of itself. A row that the server lacks stays: the
    /// server itself says so to whoever asks. Its arity wins, since options are added over time; a command that it says
    /// writes is taken to write.
    pub fn join(server: &[ServerCommand]) -> Table {
        let builtin = Table::builtin();
        let mut rows = builtin.rows.clone();
        for command in server {
            match builtin.id(command.name.as_bytes()).and_then(|id| rows.get_mut(id)) {
                Some(row) => correct(row, command),
                None if command.name.is_empty() => {}
                None => rows.push(command.row()),
            }
        }
        Table::of(rows)
    }

    /// Whatever the case of the letters.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<&Spec> {
        self.rows.get(self.id(name)?)
    }

    /// The row of a `GET` of one key that L1 may answer; `None` if the server has another notion of it.
    #[inline]
    pub fn plain_get(&self) -> Option<u16> {
        self.get
    }

    pub fn row(&self, id: u16) -> Option<&Spec> {
        self.rows.get(usize::from(id))
    }

    /// In the order of their ids.
    pub fn rows(&self) -> impl Iterator<Item = &Spec> {
        self.rows.iter()
    }

    /// Of rows with the same name the first wins.
    fn of(mut rows: Vec<Spec>) -> Table {
        rows.truncate(usize::from(NO_ROW));
        let mask = (rows.len() * 2).next_power_of_two() - 1;
        let mut places = vec![Place::EMPTY; mask + 1];
        for (id, row) in (0..NO_ROW).zip(&mut rows) {
            row.id = id;
            row.has_subcommands = is_one_of(row.name.as_bytes(), &CONTAINERS);
            let Some(word) = first_word(row.name.as_bytes()) else {
                continue;
            };
            let mut at = spread(word, row.name.len());
            while let Some(place) = places.get_mut(at & mask) {
                if place.id == NO_ROW {
                    *place = Place {
                        word,
                        len: row.name.len(),
                        id,
                    };
                    break;
                }
                at += 1;
            }
        }
        let mut table = Table {
            rows,
            places,
            get: None,
        };
        table.get = table.find(b"get").filter(|row| row.is_plain_get()).map(|row| row.id);
        table
    }

    #[inline]
    fn id(&self, name: &[u8]) -> Option<usize> {
        let word = first_word(name)?;
        let mut at = spread(word, name.len());
        loop {
            let place = self.places.get(at & (self.places.len() - 1))?;
            if place.word == word && place.len == name.len() {
                let id = usize::from(place.id);
                if name.len() <= WORD || self.rows.get(id)?.name.as_bytes().eq_ignore_ascii_case(name) {
                    return Some(id);
                }
            } else if place.id == NO_ROW {
                return None;
            }
            at += 1;
        }
    }
}

/// Where the row of a name is. Names of at most eight bytes are equal when word and length are.
#[derive(Clone, Copy, Debug)]
struct Place {
    word: u64,
    len: usize,
    id: u16,
}

impl Place {
    /// No name has the length 0.
    const EMPTY: Place = Place {
        word: 0,
        len: 0,
        id: NO_ROW,
    };
}

/// The first bytes of a name in lower case: all of it (together with the length) when it has at most eight.
#[inline]
fn first_word(name: &[u8]) -> Option<u64> {
    let word = if let Some(first) = name.first_chunk::<8>() {
        u64::from_le_bytes(*first)
    } else if let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
    } else if let (Some(first), Some(last)) = (name.first_chunk::<2>(), name.last_chunk::<2>()) {
        u64::from(u16::from_le_bytes(*first)) | u64::from(u16::from_le_bytes(*last)) << 16
    } else {
        u64::from(*name.first()?)
    };
    Some(lower_case(word))
}

/// Eight ASCII bytes at once: the top bit of a byte of `upper` is set where the byte is one of `A` to `Z`; a quarter of
/// it is the difference to the small letter.
#[inline]
const fn lower_case(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let low = word & (0x7f * EACH);
    let from_a = low + (0x80 - b'A' as u64) * EACH;
    let past_z = low + (0x7f - b'Z' as u64) * EACH;
    let upper = (from_a ^ past_z) & !word & (0x80 * EACH);
    word | upper >> 2
}

#[inline]
const fn spread(word: u64, len: usize) -> usize {
    let mixed = (word ^ len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize
}

fn correct(row: &mut Spec, command: &ServerCommand) {
    row.arity = command.arity();
    row.subcommands = command.subcommands();
    if command.has("write") && row.access != Access::Write {
        row.access = Access::Write;
        row.cache = Cache::No;
    }
}

fn builtin_rows() -> Vec<Spec> {
    [
        strings::ROWS,
        collections::ROWS,
        sorted::ROWS,
        generic::ROWS,
        server::ROWS,
        vectors::ROWS,
    ]
    .concat()
}

const WORD: usize = 8;
const NO_ROW: u16 = u16::MAX;
