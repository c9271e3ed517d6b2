//! Live moves: a machine goes to another host while its guest runs. [`source`] and [`arrival`] are the two sides,
//! [`ulna_stream::handover`] decides between them, [`link`] and [`pages`] carry.

pub mod arrival;
pub mod link;
pub mod pages;
pub mod source;

pub use arrival::{Incoming, Listening, listen};
pub use source::{Plan, Status};
