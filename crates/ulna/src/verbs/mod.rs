//! The verbs, one file each: the options, and what they mean to the rooms below.

pub mod run;
