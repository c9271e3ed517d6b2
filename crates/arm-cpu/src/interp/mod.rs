//! Semantics of the instructions, a module for each file of the decode table.

pub mod system;
