//! What is written is read; what is not what was written is refused, and never more than that.

use proptest::prelude::*;
use ulna_stream::handover::Message;
use ulna_stream::*;

fn header() -> Header {
    Header {
        token: *b"0123456789abcdef",
        creator: "0.1.0".into(),
        name: "vm".into(),
        profile: "altra".into(),
        policy: Policy::Soft,
        kernel: (6, 12),
        vcpu_features: 0x6c,
        vcpus: 2,
        counter_hz: 25_000_000,
        stopped_at: 7,
        counters: [Some(5), None],
    }
}

fn all() -> Vec<Section> {
    let reg = |id: u64, n: usize| Reg { id, bytes: vec![id as u8; n], neutral: None };
    let attr = Attr { group: 1, attr: 8, value: u64::MAX };
    vec![
        Section::Header(header()),
        Section::Board("{}".into()),
        Section::VmRegs(vec![reg(1, 8), Reg { neutral: Some(vec![0; 8]), ..reg(2, 8) }]),
        Section::Gic(Gic { version: 3, attrs: vec![attr], its: vec![vec![attr, attr], vec![]] }),
        Section::Region(Region {
            id: 0,
            name: "ram".into(),
            gpa: 0x4000_0000,
            len: 1 << 30,
            file: "m".into(),
        }),
        Section::Pages { region: 0, offset: 4096, len: 3, codec: Codec::Plain, data: vec![1, 2, 3] },
        Section::Pages { region: 0, offset: 8192, len: 4096, codec: Codec::Zstd, data: vec![1, 2, 3] },
        Section::Zero(Zero { region: 0, offset: 0, len: 4096 }),
        Section::Round(3),
        Section::Vcpu(Vcpu {
            id: 1,
            enabled: true,
            power: Power::Starting { pc: 1, x0: 2, big_endian: true },
            mp_state: 3,
            events: (true, false, true, 9),
            regs: vec![reg(3, 4), reg(4, 16), reg(5, 256)],
        }),
        Section::Device(Device {
            kind: "pl011".into(),
            version: 1,
            address: 0x900_0000,
            payload: vec![7; 40],
        }),
        Section::Message(Message::Lane([3; 16], 1, 2)),
        Section::Message(Message::Refuse("negotiate".into(), vec!["a".into(), "b".into()])),
        Section::Message(Message::Ask([3; 16])),
        Section::Sums(Sums { region: 1, chunk: 1 << 20, sums: vec![1, 2, 3] }),
    ]
}

fn written(sections: &[Section]) -> Vec<u8> {
    let mut w = Writer::new(Vec::new()).unwrap();
    sections.iter().for_each(|s| w.section(s).unwrap());
    w.end().unwrap();
    w.into_inner()
}

fn read(bytes: &[u8]) -> Result<Vec<Section>, Error> {
    let mut r = Reader::new(bytes)?;
    let mut all = Vec::new();
    while let Some(s) = r.next_section()? {
        let end = matches!(s, Section::End(_));
        all.push(s);
        if end {
            return Ok(all);
        }
    }
    Err(Error::Truncated { at: r.read(), within: "the stream: it has no end".into() })
}

#[test]
fn every_section_is_read_as_it_was_written() {
    let mut sections = all();
    let bytes = written(&sections);
    sections.push(Section::End(sections.len() as u32));
    assert_eq!(read(&bytes).unwrap(), sections);
}

#[test]
fn every_changed_and_every_missing_byte_is_noticed() {
    let bytes = written(&all());
    for at in 0..bytes.len() {
        // The minor version says nothing that a reader must obey.
        for bit in if (10..12).contains(&at) { 0..0 } else { 0..8 } {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(read(&bad).is_err(), "byte {at} bit {bit}");
        }
        let e = read(&bytes[..at]).unwrap_err().to_string();
        assert!(e.contains("ends at byte") && !e.contains('\n'), "{at}: {e}");
    }
}

#[test]
fn what_is_unknown_is_refused_unless_it_may_be_left_out() {
    let mut w = Writer::new(Vec::new()).unwrap();
    w.section(&Section::Header(header())).unwrap();
    w.droppable(Kind(900), 7, b"of the future").unwrap();
    w.end().unwrap();
    assert_eq!(read(&w.into_inner()).unwrap().len(), 2);

    let mut w = Writer::new(Vec::new()).unwrap();
    w.droppable(Kind(900), 7, b"of the future").unwrap();
    let mut bytes = w.into_inner();
    bytes[16] = 0; // no longer droppable
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[12..32]);
    crc.update(&bytes[36..]);
    bytes[32..36].copy_from_slice(&crc.finalize().to_le_bytes());
    let e = read(&bytes).unwrap_err().to_string();
    assert!(e.contains("section kind 900 version 7, which this ulna does not know"), "{e}");
}

#[test]
fn sections_that_are_lost_doubled_or_exchanged_are_noticed() {
    let lens: Vec<usize> = all().iter().map(|s| written(std::slice::from_ref(s)).len() - 12 - 28).collect();
    let bytes = written(&all());
    let mut cuts = vec![12];
    lens.iter().for_each(|n| cuts.push(cuts.last().unwrap() + n));
    let part = |n: usize| &bytes[cuts[n]..cuts[n + 1]];
    let lost = [&bytes[..cuts[3]], &bytes[cuts[4]..]].concat();
    let doubled = [&bytes[..cuts[4]], &bytes[cuts[3]..]].concat();
    let exchanged = [&bytes[..cuts[3]], part(4), part(3), &bytes[cuts[5]..]].concat();
    for (what, bad) in [("lost", lost), ("doubled", doubled), ("exchanged", exchanged)] {
        assert!(matches!(read(&bad), Err(Error::Number { .. })), "{what}");
    }
}

#[test]
fn a_neutral_register_may_be_left_out() {
    let r = Reg { id: 1, bytes: vec![0; 8], neutral: Some(vec![0; 8]) };
    assert!(r.droppable());
    assert!(!Reg { bytes: vec![1; 8], ..r.clone() }.droppable());
    assert!(!Reg { neutral: None, ..r }.droppable());
}

#[test]
fn a_later_version_is_refused() {
    let mut bytes = written(&[]);
    bytes[8] = 2;
    assert_eq!(read(&bytes).unwrap_err().to_string(), "format version 2.0; this ulna reads version 1.x");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_end_in_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut b = written(&[]);
        b.truncate(12);
        b.extend(&bytes);
        let _ = read(&b);
        let _ = read(&bytes);
    }

    /// As a section with a right checksum, which no accident makes.
    #[test]
    fn any_content_ends_in_an_error_or_is_read(kind in 0u16..16, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut w = Writer::new(Vec::new()).unwrap();
        w.droppable(Kind(kind), 1, &payload).unwrap();
        let bytes = w.into_inner();
        let mut r = Reader::new(&bytes[..]).unwrap();
        while let Ok(Some(s)) = r.next_section() {
            // What is read is written the same.
            let again = written(std::slice::from_ref(&s));
            let back = read(&again).unwrap_or_default();
            prop_assert_eq!(back.first(), Some(&s));
        }
    }
}
