//! Any byte string is a client of the server: it is answered or closed, never hangs, and nothing panics.
//!
//! `cargo +nightly fuzz run wire`; without cargo-fuzz: `cargo xtask fuzz --wire --minutes 10`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ulna_conformance::wire::run(bytes);
});
