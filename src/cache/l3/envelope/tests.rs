use super::*;
use crate::cache::l3::format::{HEADER_BYTES, Header, Kind, Row, TRAILER_BYTES, Trailer, encode_footer, identity_tag};
use crate::cache::l3::keys::{KEY_BYTES, KeyRing, NewSegments};

fn ring(key: u8) -> KeyRing {
    KeyRing::new(&[[key; KEY_BYTES]], NewSegments::Encrypted)
}

fn locked(key: u8, sequence: u64, salt: u8) -> Envelope {
    Envelope::locked(7, sequence, [salt; SALT_BYTES], ring(key).writing().unwrap())
}

fn record() -> Record<'static> {
    Record {
        kind: Kind::Entry,
        hash: 0x1234_5678_9abc_def0,
        name: b"the name of the key",
        variant: b"of which read",
        value: b"the value, which nobody may see",
        ..Record::tombstone_of_all()
    }
}

fn header(key: u8) -> Header {
    Header {
        sequence: 9,
        created_ms: 2,
        nonce: 3,
        salt: [4; SALT_BYTES],
        key: Some(ring(key).ids()[0]),
        seed: 0x5eed_5eed_5eed_5eed,
        probe: 0x0b0e_0b0e_0b0e_0b0e,
    }
}

fn shows(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

#[test]
fn a_record_opens_where_it_was_put_and_nowhere_else() {
    let envelope = locked(1, 9, 4);
    let mut sealed = Vec::new();
    record().encode(&envelope, 96, &mut sealed).unwrap();
    assert!(!shows(&sealed, b"the name") && !shows(&sealed, b"the value") && !shows(&sealed, b"of which"));
    assert!(!shows(&sealed, &record().hash.to_le_bytes()));
    let open =
        |envelope: &Envelope, offset| Record::decode(&mut sealed.clone(), envelope, offset).map(|r| r == record());
    assert_eq!(open(&envelope, 96), Ok(true));
    assert_eq!(open(&envelope, 112), Err(Damage::Tag), "another offset");
    assert_eq!(open(&locked(2, 9, 4), 96), Err(Damage::Tag), "another key");
    assert_eq!(open(&locked(1, 9, 5), 96), Err(Damage::Tag), "another segment");
    let mut other = sealed.clone();
    assert!(Record::decode(&mut other, &Envelope::plain(7), 96).is_err());
    // What cannot be opened is not touched.
    let mut kept = sealed.clone();
    assert!(Record::decode(&mut kept, &envelope, 112).is_err());
    assert_eq!(kept, sealed);
}

#[test]
fn who_computes_the_checksums_anew_is_found_out_by_the_tags() {
    let envelope = locked(1, 9, 4);
    let mut sealed = Vec::new();
    record().encode(&envelope, 96, &mut sealed).unwrap();
    let length = envelope.length(&record());
    for bit in 96..length * 8 {
        let mut forged = sealed.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&forged[8..length], 7);
        forged[..8].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(
            Record::decode(&mut forged, &envelope, 96),
            Err(Damage::Tag),
            "bit {bit}"
        );
    }
    let good = header(1).encode(&envelope);
    for bit in (12 * 8..88 * 8).filter(|bit| !(48 * 8..56 * 8).contains(bit)) {
        let mut forged = good;
        forged[bit / 8] ^= 1 << (bit % 8);
        let sum = xxhash_rust::xxh3::xxh3_64_with_seed(&forged[..88], 0);
        forged[88..].copy_from_slice(&sum.to_le_bytes());
        let refused = Header::decode(&forged, &ring(1)).map(|_| ());
        assert_eq!(refused, Err(Damage::Tag), "bit {bit}");
    }
}

#[test]
fn a_header_hides_the_seed_and_names_its_key() {
    let envelope = locked(1, 9, 4);
    let bytes: [u8; HEADER_BYTES] = header(1).encode(&envelope);
    assert!(!shows(&bytes, &header(1).seed.to_le_bytes()) && !shows(&bytes, &header(1).probe.to_le_bytes()));
    let (read, opened) = Header::decode(&bytes, &ring(1)).unwrap();
    assert_eq!((read, opened.key_id()), (header(1), header(1).key));
    for keys in [ring(2), KeyRing::default()] {
        let refused = Header::decode(&bytes, &keys).map(|_| ());
        assert_eq!(refused, Err(Damage::Key(ring(1).ids()[0])));
    }
}

#[test]
fn a_footer_is_of_its_segment_and_differs_each_time() {
    let envelope = locked(1, 9, 4);
    let rows = [record().row(&envelope, 96), Record::tombstone(9).row(&envelope, 256)];
    let footer = encode_footer(&rows, 320, &envelope).unwrap();
    assert!(!shows(&footer, &record().hash.to_le_bytes()));
    assert!(!shows(
        &footer,
        &identity_tag(0, record().variant).to_le_bytes().repeat(2)
    ));
    assert_ne!(
        footer,
        encode_footer(&rows, 320, &envelope).unwrap(),
        "a salt of its own"
    );
    let bytes = 320 + footer.len() as u64;
    let read = |footer: &[u8], envelope: &Envelope| -> Result<Vec<Row>, Damage> {
        let mut footer = footer.to_vec();
        let at = footer.len() - TRAILER_BYTES;
        let (rows, end) = footer.split_at_mut(at);
        let trailer = Trailer::decode(end, envelope, bytes)?;
        Ok(trailer.rows(rows, envelope)?.collect())
    };
    assert_eq!(read(&footer, &envelope), Ok(rows.to_vec()));
    assert_eq!(read(&footer, &locked(1, 8, 4)), Err(Damage::Tag), "another sequence");
    assert_eq!(read(&footer, &locked(1, 9, 5)), Err(Damage::Tag), "another salt");
    assert_eq!(read(&footer, &locked(2, 9, 4)), Err(Damage::Tag), "another key");
    for bit in 0..footer.len() * 8 {
        let mut bad = footer.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bad, &envelope).is_err(), "bit {bit}");
    }
}

#[test]
fn salts_differ() {
    let mut salts: Vec<Salt> = (0..100).map(|_| random_salt().unwrap()).collect();
    salts.sort_unstable();
    salts.dedup();
    assert_eq!(salts.len(), 100);
}
