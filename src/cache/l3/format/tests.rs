use super::*;

fn plain() -> Envelope {
    Envelope::plain(7)
}

fn decode(bytes: &[u8], nonce: u64) -> Result<bool, Damage> {
    Record::decode(&mut bytes.to_vec(), &Envelope::plain(nonce), 64).map(|read| read == record())
}

fn header() -> Header {
    Header {
        sequence: 1,
        created_ms: 2,
        nonce: 3,
        salt: [0; SALT_BYTES],
        key: None,
        seed: 4,
        probe: 5,
    }
}

fn record() -> Record<'static> {
    Record {
        kind: Kind::Entry,
        is_absent: false,
        is_plain: true,
        key_end: KeyEnd::WithRecord,
        class: 0,
        hash: 0x1234_5678_9abc_def0,
        filled_ms: 1_700_000_000_000,
        expires_ms: 1_700_000_060_001,
        db: 3,
        name: b"a name",
        variant: b"a variant",
        codec: Codec::Plain,
        value: b"the value, which is somewhat longer than a line of this is",
    }
}

#[test]
fn what_is_written_is_read() {
    let mut bytes = Vec::new();
    record().encode(&plain(), 64, &mut bytes).unwrap();
    assert_eq!(bytes.len() % ALIGN, 0);
    bytes.extend_from_slice(b"more");
    assert_eq!(decode(&bytes, 7), Ok(true));
    assert_eq!(decode(&bytes, 8), Err(Damage::Checksum));
    for codec in Codec::ALL {
        let mut bytes = Vec::new();
        let compressed = Record { codec, ..record() };
        compressed.encode(&plain(), 64, &mut bytes).unwrap();
        assert_eq!(Record::decode(&mut bytes, &plain(), 64), Ok(compressed));
    }
    let (read, envelope) = Header::decode(&header().encode(&plain()), &KeyRing::default()).unwrap();
    assert_eq!((read, envelope.nonce(), envelope.key_id()), (header(), 3, None));
    let rows = [
        record().row(&plain(), 96),
        Record::tombstone(9).row(&plain(), 256),
        Record::tombstone_of_all().row(&plain(), 304),
    ];
    let mut footer = encode_footer(&rows, 352, &plain()).unwrap();
    let bytes = 352 + footer.len() as u64;
    let at = footer.len() - TRAILER_BYTES;
    let (body, end) = footer.split_at_mut(at);
    let trailer = Trailer::decode(end, &plain(), bytes).unwrap();
    assert_eq!((trailer.rows, trailer.tombstones, trailer.rows_at), (3, 2, 352));
    assert_eq!(trailer.rows(body, &plain()).unwrap().collect::<Vec<_>>(), rows);
    assert_eq!(rows[0].expires_s, 1_700_000_061, "rounded up");
}

#[test]
fn a_footer_in_a_file_that_no_writer_makes_so_long_is_none() {
    // It says for how much memory is set aside.
    let rows_at = MAX_SEGMENT_BYTES;
    let footer = encode_footer(&[], rows_at, &plain()).unwrap();
    let decoded = Trailer::decode(&footer, &plain(), rows_at + footer.len() as u64);
    assert_eq!(decoded, Err(Damage::Field));
}

#[test]
fn the_bytes_of_a_record_are_those_of_the_specification() {
    let mut bytes = Vec::new();
    Record::tombstone(0x0102_0304_0506_0708)
        .encode(&plain(), 64, &mut bytes)
        .unwrap();
    assert_eq!(bytes.len(), 48);
    assert_eq!(bytes[8..16], [48, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(bytes[16..24], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[32..40], [255; 8]);
}

#[test]
fn any_flipped_bit_but_in_the_padding_is_seen() {
    let mut good = Vec::new();
    record().encode(&plain(), 64, &mut good).unwrap();
    for bit in 0..record().length() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad, 7).is_err(), "bit {bit}");
    }
    for bit in record().length() * 8..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&bad, 7), Ok(true));
    }
    let rows = [record().row(&plain(), 96)];
    let footer = encode_footer(&rows, 224, &plain()).unwrap();
    let bytes = 224 + footer.len() as u64;
    for bit in 0..footer.len() * 8 {
        let mut bad = footer.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let at = bad.len() - TRAILER_BYTES;
        let (body, end) = bad.split_at_mut(at);
        let is_refused = match Trailer::decode(end, &plain(), bytes) {
            Ok(trailer) => trailer.rows(body, &plain()).is_err(),
            Err(_) => true,
        };
        assert!(is_refused, "bit {bit}");
    }
}

#[test]
fn a_version_that_is_not_known_is_refused_by_its_number() {
    let decode = |bytes: &[u8]| Header::decode(bytes, &KeyRing::default()).map(|(header, _)| header);
    let mut header = header().encode(&plain());
    for bit in 0..HEADER_BYTES * 8 {
        let mut bad = header;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad).is_err(), "bit {bit}");
    }
    for version in [1, 3] {
        header[8] = version;
        assert_eq!(decode(&header), Err(Damage::Version(version.into())));
        // A header of another version may be shorter.
        assert_eq!(decode(&header[..12]), Err(Damage::Version(version.into())));
    }
}

#[test]
fn a_record_with_a_flag_that_is_not_known_is_refused() {
    let mut bytes = Vec::new();
    record().encode(&plain(), 64, &mut bytes).unwrap();
    bytes[13] |= 0x40;
    let sum = xxh3_64_with_seed(&bytes[8..record().length()], 7);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decode(&bytes, 7), Err(Damage::Field));
    bytes[13] = 0b11_0000;
    let sum = xxh3_64_with_seed(&bytes[8..record().length()], 7);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(decode(&bytes, 7), Err(Damage::Field), "a codec that there is not");
}

#[test]
fn names_are_those_of_segments_or_not() {
    assert_eq!(sequence_in(&file_name(0xabc)), Some(0xabc));
    for other in [
        "lock",
        "0.seg",
        "000000000000000g.seg",
        "0000000000000ABC.seg",
        "0000000000000abc.seg.bak",
        "",
    ] {
        assert_eq!(sequence_in(other), None, "{other}");
    }
}

#[test]
fn hardly_any_random_bytes_look_like_an_encrypted_record() {
    let key = KeyRing::new(&[[1; 32]], crate::cache::l3::keys::NewSegments::Encrypted);
    let envelope = Envelope::locked(1, 1, [0; SALT_BYTES], key.writing().unwrap());
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = vec![0; 32 << 20];
    random.fill(&mut bytes);
    const LOOKED_AT: usize = 8 << 20;
    let lengths = (0..LOOKED_AT).step_by(ALIGN).filter_map(|at| {
        let rest = &bytes[at..];
        Record::may_begin(rest, &envelope).then(|| Record::announced_length(rest).unwrap())
    });
    let (count, sum) = lengths.fold((0, 0), |(count, sum), length| (count + 1, sum + length));
    assert!(count > 50 && sum < 180 * LOOKED_AT, "{count} records of {sum} bytes");
}

#[test]
fn a_record_whose_padding_is_not_there_may_begin_all_the_same() {
    let mut bytes = Vec::new();
    record().encode(&plain(), 64, &mut bytes).unwrap();
    assert!(bytes.len() > record().length(), "there is padding");
    assert!(Record::may_begin(&bytes, &plain()));
    let mut padded = bytes.clone();
    *padded.last_mut().unwrap() = 1;
    assert!(!Record::may_begin(&padded, &plain()));
    // The file ends with the record.
    assert!(Record::may_begin(&bytes[..record().length()], &plain()));
    assert!(!Record::may_begin(&bytes[..record().length() - 1], &plain()));
}
