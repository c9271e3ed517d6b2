//! Any bytes as a stream: they are read or refused, never more (docs: reference/stream).
#![no_main]

use libfuzzer_sys::fuzz_target;
use ulna_stream::{Kind, Reader, Writer};

fuzz_target!(|data: &[u8]| {
    if let Ok(mut r) = Reader::new(data) {
        while let Ok(Some(_)) = r.next_section() {}
    }
    // The same as the content of a section, past the checksum.
    let Some((kind, payload)) = data.split_first() else { return };
    let Ok(mut w) = Writer::new(Vec::new()) else { return };
    if w.droppable(Kind((*kind).into()), 1, payload).is_ok() {
        let bytes = w.into_inner();
        if let Ok(mut r) = Reader::new(&bytes[..]) {
            while let Ok(Some(_)) = r.next_section() {}
        }
    }
});
