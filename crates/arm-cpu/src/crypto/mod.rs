//! Cryptographic primitives as pure functions.
