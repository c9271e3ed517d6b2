//! Development tasks: cargo xtask NAME.
fn main() {}
