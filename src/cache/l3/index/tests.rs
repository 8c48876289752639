use std::collections::HashMap;

use super::*;

fn row(hash: u64, identity: u16, unit: u64) -> Row {
    Row::new(hash, identity, Place::new(3, unit * 16, 100), Origin::EarlierLife)
}

#[test]
fn a_row_gives_back_what_it_was_given() {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..10_000 {
        let hash = random.u64(..);
        let (offset, length) = (random.u64(..1 << 22) * 16, random.usize(16..64 << 20));
        let place = Place::new(random.u16(..), offset, length);
        let origin = match random.bool() {
            true => Origin::EarlierLife,
            false => Origin::ThisLife {
                link: LinkId::from_index(random.u16(..u16::MAX)),
                epoch: random.u32(..),
            },
        };
        let identity = random.u16(..);
        let mut part = Part::default();
        assert!(part.insert(hash, Row::new(hash, identity, place, origin)).is_none());
        for _ in 0..5 {
            let found = part.find(hash, identity).unwrap();
            assert_eq!((found.place(), found.origin()), (place, origin));
        }
        assert_eq!(part.hits_at(hash, place), Some(MOST_HITS));
        assert_eq!(place.offset(), offset);
        assert!(place.bytes() >= length && place.bytes() <= length + length / 4 + 16);
    }
}

#[test]
fn a_class_is_never_shorter_than_its_length() {
    for length in (1..5000).chain((0..26).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1])) {
        let bytes = class_bytes(class_of(length));
        assert!(
            bytes >= length && bytes <= length.max(16) * 5 / 4 + 1,
            "{length} {bytes}"
        );
    }
}

#[test]
fn an_index_holds_what_a_map_holds() {
    let mut random = fastrand::Rng::with_seed(2);
    let index = Index::new();
    let mut model: HashMap<(u64, u16), Place> = HashMap::new();
    let hashes: Vec<u64> = (0..3000).map(|_| random.u64(..)).collect();
    for step in 0..60_000u64 {
        let (hash, identity) = (hashes[random.usize(..hashes.len())], random.u16(..3));
        let mut part = index.part(hash);
        match random.u8(..10) {
            0..6 => {
                let row = row(hash, identity, step % (1 << 22));
                assert_eq!(part.insert(hash, row), model.insert((hash, identity), row.place()));
            }
            6..8 => {
                let mut gone = part.remove(hash, |row| row.0[7] != 1, |_| {});
                for identity in [0, 2] {
                    gone -= usize::from(model.remove(&(hash, identity)).is_some());
                }
                assert_eq!(gone, 0);
            }
            8 => {
                let to = Place::new(4, step % (1 << 22) * 16, 100);
                if let Some(place) = model.get_mut(&(hash, identity)) {
                    assert!(part.relocate(hash, *place, to));
                    *place = to;
                } else {
                    assert!(!part.relocate(hash, to, to));
                }
            }
            _ => assert_eq!(
                part.peek(hash, identity).map(|row| row.place()),
                model.get(&(hash, identity)).copied()
            ),
        }
    }
    assert_eq!(index.len(), model.len());
    for ((hash, identity), place) in &model {
        assert_eq!(index.part(*hash).peek(*hash, *identity).unwrap().place(), *place);
    }
    let odd = model.values().filter(|place| place.slot == 4).count();
    assert_eq!(index.retain_not(|row| row.place().slot == 4), odd);
    assert_eq!(index.len(), model.len() - odd);
}

#[test]
fn rows_that_were_expected_are_found_and_what_they_left_empty_is_given_back() {
    let mut random = fastrand::Rng::with_seed(4);
    for (expected, parts_gone) in [(0, 0), (40_000, 0), (40_000, 2), (40_000, 7), (400_000, 0)] {
        let index = Index::new();
        index.expect(expected);
        let hashes: Vec<u64> = (0..40_000).map(|_| random.u64(..)).collect();
        let mut order = Vec::new();
        for number in 0..PARTS {
            let mut part = index.part_numbered(number);
            let names: Vec<u64> = hashes.iter().copied().filter(|&hash| part_of(hash) == number).collect();
            part.by_page(names.iter().copied(), &mut order);
            let pages: Vec<usize> = order
                .iter()
                .map(|&at| part.page_of(names[at as usize] as u32))
                .collect();
            assert!(pages.is_sorted());
            for (i, &at) in order.iter().enumerate() {
                // Those of one page as they came.
                assert!(i == 0 || pages[i - 1] < pages[i] || order[i - 1] < at);
                let hash = names[at as usize];
                assert!(part.insert(hash, row(hash, 1, u64::from(at))).is_none());
            }
        }
        let is_gone = |hash: u64| hash % 8 < parts_gone;
        for &hash in hashes.iter().filter(|&&hash| is_gone(hash)) {
            assert_eq!(index.part(hash).remove(hash, |_| true, |_| ()), 1);
        }
        let before = index.bytes();
        index.trim(|| {});
        let taken = index.bytes() as f64 / index.len() as f64;
        if parts_gone > 0 {
            assert!(index.bytes() < before);
        }
        let pages_bytes = (expected * size_of::<Vec<Row>>() / ROWS_A_PAGE) as f64 / index.len() as f64;
        let most = if parts_gone > 2 { 32.0 } else { 24.0 };
        assert!(
            taken <= most + pages_bytes,
            "{expected} {parts_gone}: {taken} bytes an entry"
        );
        for &hash in &hashes {
            assert_eq!(index.part(hash).peek(hash, 1).is_some(), !is_gone(hash));
        }
    }
}

#[test]
fn an_entry_takes_at_most_24_bytes_however_many_there_are() {
    let mut random = fastrand::Rng::with_seed(3);
    let index = Index::new();
    let mut count = 0usize;
    let mut worst = 0.0f64;
    for goal in [50_000usize, 70_000, 100_000, 140_000, 200_000, 280_000, 400_000] {
        while count < goal {
            let hash = random.u64(..);
            index.part(hash).insert(hash, row(hash, 0, 1));
            count += 1;
        }
        worst = worst.max(index.bytes() as f64 / count as f64);
    }
    assert!(worst <= 24.0, "{worst} bytes an entry");
    // A bound that nothing could miss would prove nothing.
    assert!(worst >= ROW_BYTES as f64);
}
