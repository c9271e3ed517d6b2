//! Any byte string is a run of requests on the raw entry: nothing panics, and what is refused changes nothing.
//!
//! `cargo +nightly fuzz run raw`; without cargo-fuzz: `cargo xtask fuzz --minutes 10`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ulna_conformance::raw::run(bytes, 2);
});
