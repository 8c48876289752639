use std::collections::HashMap;

use super::*;

/// Tags are what the hash of a name leaves; slots are numbers, each of another tag.
fn tags(count: usize, seed: u64) -> Vec<u32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut tags: Vec<u32> = (0..count).map(|_| rng.u32(..)).collect();
    tags.sort_unstable();
    tags.dedup();
    rng.shuffle(&mut tags);
    tags
}

/// The index beside a map.
struct Rig {
    index: Index,
    tag_of: Vec<u32>,
    expected: HashMap<u32, u32>,
}

impl Rig {
    fn new(share_bytes: usize) -> Rig {
        Rig {
            index: Index::new(share_bytes),
            tag_of: Vec::new(),
            expected: HashMap::new(),
        }
    }

    fn find(&self, tag: u32) -> Option<(Place, u32)> {
        self.index.find(tag, |at| self.tag_of[at as usize] == tag)
    }

    fn put(&mut self, tag: u32) {
        let at = self.tag_of.len() as u32;
        self.tag_of.push(tag);
        self.expected.insert(tag, at);
        match self.find(tag) {
            Some((place, _)) => self.index.set(place, at),
            None => self.index.put(tag, at, |at| self.tag_of[at as usize]),
        }
    }

    fn remove(&mut self, tag: u32) {
        let found = self.find(tag);
        assert_eq!(found.map(|(_, at)| at), self.expected.remove(&tag));
        if let Some((place, _)) = found {
            self.index.remove(tag, place);
        }
    }

    fn check(&self) {
        for (&tag, &at) in &self.expected {
            assert_eq!(self.find(tag).map(|(_, at)| at), Some(at));
        }
        assert_eq!(self.index.iter().count(), self.expected.len());
        let of_tables: usize = self.index.tables.iter().map(Table::bytes).sum();
        assert_eq!(
            self.index.bytes(),
            of_tables + malloc_bytes(size_of_val(&*self.index.tables))
        );
        // Nothing is left of those who went by and are gone, and who goes by knows how far.
        for table in &self.index.tables {
            let mut passed = vec![0usize; table.lines.len()];
            for (number, line) in table.lines.iter().enumerate() {
                for way in (0..WAYS).filter(|&way| line.head[way] != FREE) {
                    let (mut by, mut distance) = (table.home(self.tag_of[line.slots[way] as usize]), 0);
                    while by != number {
                        passed[by] += 1;
                        distance += 1;
                        by = table.after(by);
                    }
                    assert_eq!(line.distance(way), distance.min(FAR));
                }
            }
            for (line, passed) in table.lines.iter().zip(passed) {
                let counted = usize::from(line.passed());
                assert!(counted == passed || line.passed() == MANY, "{counted} {passed}");
            }
        }
    }

    /// Lines that a search does not end in.
    fn passed(&self) -> (usize, usize) {
        let mut lines = self.index.tables.iter().flat_map(|table| &table.lines);
        (
            lines.clone().filter(|line| line.passed() > 0).count(),
            lines.by_ref().count(),
        )
    }
}

#[test]
fn what_was_put_is_found_whatever_comes_and_goes() {
    for share_bytes in [0, 1 << 20] {
        let mut rig = Rig::new(share_bytes);
        let tags = tags(3000, 1);
        let mut rng = fastrand::Rng::with_seed(2);
        for round in 0..60_000 {
            let tag = tags[rng.usize(..tags.len())];
            // Waves, so that tables grow and shrink.
            match rng.usize(0..12_000) > round % 12_000 {
                true => rig.put(tag),
                false => rig.remove(tag),
            }
            if round % 7 == 0 {
                rig.index.shrink(|at| rig.tag_of[at as usize]);
            }
            if round % 1000 == 0 {
                rig.check();
            }
        }
        rig.check();
        assert_eq!(
            rig.find(tags[0] ^ 1).map(|(_, at)| at),
            rig.expected.get(&(tags[0] ^ 1)).copied()
        );
    }
}

/// All begin in one line, and all have one mark.
#[test]
fn tags_that_want_the_same_line_are_all_found() {
    let mut rig = Rig::new(0);
    let alike: Vec<u32> = (0..u32::MAX)
        .step_by(256)
        .filter(|&tag| spread(tag) >> 48 < 256)
        .take(300)
        .collect();
    assert_eq!(alike.len(), 300);
    for &tag in &alike {
        rig.put(tag);
    }
    rig.check();
    for &tag in alike.iter().step_by(2) {
        rig.remove(tag);
    }
    rig.check();
}

#[test]
fn coming_and_going_does_not_make_it_grow() {
    let mut rig = Rig::new(0);
    let tags = tags(200_000, 3);
    tags[..1000].iter().for_each(|&tag| rig.put(tag));
    // As many come before as many go.
    tags[1000..1010].iter().for_each(|&tag| rig.put(tag));
    let bytes = rig.index.bytes();
    for (&coming, &going) in tags[1010..].iter().zip(&tags) {
        rig.remove(going);
        rig.put(coming);
    }
    assert_eq!(rig.index.bytes(), bytes);
    rig.check();
    assert!(bytes < 1010 * 15 / 2, "{bytes} bytes for 1,010");
    let (passed, lines) = rig.passed();
    assert!(passed * 3 < lines, "{passed} of {lines} lines do not end a search");
}

#[test]
fn an_empty_one_finds_nothing_and_shrinks_to_nothing() {
    let mut rig = Rig::new(1 << 20);
    assert!(rig.find(7).is_none());
    let empty = rig.index.bytes();
    let tags = tags(5000, 4);
    tags.iter().for_each(|&tag| rig.put(tag));
    tags.iter().for_each(|&tag| rig.remove(tag));
    for _ in 0..8 {
        rig.index.shrink(|at| rig.tag_of[at as usize]);
    }
    assert_eq!(rig.index.bytes(), empty);
}
