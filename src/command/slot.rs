//! The hash slot of a key: CRC16 of the key, or of its hash tag, modulo the number of slots. The tag is what stands
//! between the first `{` and the next `}` if that is not empty (the Redis Cluster specification, "Hash tags").

use std::sync::OnceLock;

#[cfg(test)]
mod tests;

/// The number of slots of a cluster; fixed by the specification.
pub const SLOTS: u16 = 16_384;

/// From 0 to [`SLOTS`] - 1.
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) & (SLOTS - 1)
}

/// The name of a key in this slot.
pub fn name_in(slot: u16) -> String {
    static NUMBERS: OnceLock<Box<[u32]>> = OnceLock::new();
    let name = |number: u32| format!("nearcache:{number}");
    let numbers = NUMBERS.get_or_init(|| {
        let mut found = vec![None; usize::from(SLOTS)];
        let mut missing = found.len();
        let mut number = 0;
        while missing > 0 {
            let place = &mut found[usize::from(self::slot(name(number).as_bytes()))];
            missing -= usize::from(place.is_none());
            place.get_or_insert(number);
            number += 1;
        }
        found.into_iter().flatten().collect()
    });
    name(numbers.get(usize::from(slot)).copied().unwrap_or(0))
}

/// The part of the key that decides its slot: the whole key when it has no tag.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let inside = key.get(open + 1..).unwrap_or_default();
    match memchr::memchr(b'}', inside) {
        None | Some(0) => key,
        Some(close) => inside.get(..close).unwrap_or(key),
    }
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        let [high, low] = crc.to_be_bytes();
        (u16::from(low) << 8) ^ CRC16[usize::from(high ^ byte)]
    })
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};
