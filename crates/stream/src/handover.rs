//! Who runs the guest. Two state machines and what they say to each other; transport, time and the guest are elsewhere.
//!
//! ```text
//!   source                                   destination
//!   Owner   ---- Hello, header, board ---->  Empty
//!           <--- Accept / Refuse ----------
//!           ---- memory, state, End ------>
//!           <--- Loaded -------------------  Ready
//!   Doubt   ---- Go ---------------------->
//!           <--- Running ------------------  Owner     (said before the first instruction)
//!   Released --- Released ---------------->
//! ```
//!
//! The source never runs the guest between Go and an answer. If the connection ends in between it asks at the
//! destination's address (Ask): a destination that is Ready then gives up for good before it answers Abandoned, one that is
//! Owner answers Running. Where nobody listens any more the destination's process is gone; as it says Running before it
//! runs, a source that has read to the end of the connection and found no Running knows that it never ran. Where the
//! destination cannot be reached the source stays in Doubt, stopped, and says so.

use crate::Malformed;
use crate::bytes::{Put, Take};

/// What the sides say.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Message {
    /// Source: a move begins, with so many connections, this one included.
    Hello(u16),
    /// Source: this connection carries memory of the move with this token; its number among so many.
    Lane([u8; 16], u16, u16),
    /// Destination: the machine is made, and honours everything so far.
    Accept,
    /// Destination: it is not; the phase, and all reasons.
    Refuse(String, Vec<String>),
    /// Source: the destination is not wanted any more.
    Cancel(String),
    /// Destination: all state is there.
    Loaded,
    /// Source: run it.
    Go,
    /// Destination: it is mine.
    Running,
    /// Source: and no longer mine.
    Released,
    /// Source, on a new connection: who has the machine of this token?
    Ask([u8; 16]),
    /// Destination: nobody here, and nobody will.
    Abandoned,
}

impl Message {
    pub(crate) fn put(&self, p: &mut Put) {
        match self {
            Message::Hello(lanes) => {
                p.u8(1).u16(*lanes);
            }
            Message::Lane(token, n, of) => {
                p.u8(2).0.extend(token);
                p.u16(*n).u16(*of);
            }
            Message::Accept => {
                p.u8(3);
            }
            Message::Refuse(phase, why) => {
                p.u8(4).text(phase).list(why, |p, w| {
                    p.text(w);
                });
            }
            Message::Cancel(why) => {
                p.u8(5).text(why);
            }
            Message::Loaded => {
                p.u8(6);
            }
            Message::Go => {
                p.u8(7);
            }
            Message::Running => {
                p.u8(8);
            }
            Message::Released => {
                p.u8(9);
            }
            Message::Ask(token) => {
                p.u8(10).0.extend(token);
            }
            Message::Abandoned => {
                p.u8(11);
            }
        }
    }

    pub(crate) fn take(t: &mut Take<'_>) -> Result<Message, Malformed> {
        Ok(match t.u8()? {
            1 => Message::Hello(t.u16()?),
            2 => Message::Lane(t.array()?, t.u16()?, t.u16()?),
            3 => Message::Accept,
            4 => Message::Refuse(t.text()?, t.list(Take::text)?),
            5 => Message::Cancel(t.text()?),
            6 => Message::Loaded,
            7 => Message::Go,
            8 => Message::Running,
            9 => Message::Released,
            10 => Message::Ask(t.array()?),
            11 => Message::Abandoned,
            n => return Err(Malformed::Value("message", n.into())),
        })
    }
}

/// The source's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The guest is its own: it runs, or may be let go on.
    Owner,
    /// It said Go and heard nothing.
    Doubt,
    /// The guest is the destination's.
    Released,
}

/// What the source finds out in doubt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// Running, on the old connection or a new one.
    Running,
    /// Abandoned.
    Abandoned,
    /// The old connection was read to its end without Running, and nobody listens at the destination's address.
    Gone,
    /// Nothing: no answer in time.
    Silence,
}

impl Source {
    /// Before the word Go leaves.
    pub fn go(&mut self) {
        if *self == Source::Owner {
            *self = Source::Doubt;
        }
    }

    /// Something was found out.
    pub fn found(&mut self, f: Finding) {
        *self = match (*self, f) {
            (Source::Doubt, Finding::Running) => Source::Released,
            (Source::Doubt, Finding::Abandoned | Finding::Gone) => Source::Owner,
            (now, _) => now,
        };
    }

    /// May the guest run here?
    pub fn may_run(self) -> bool {
        self == Source::Owner
    }
}

/// The destination's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// State is missing.
    Empty,
    /// All is there, the word is not.
    Ready,
    /// The guest is its own.
    Owner,
    /// It will never run this guest.
    Abandoned,
}

impl Destination {
    /// The last of the state is there.
    pub fn loaded(&mut self) {
        if *self == Destination::Empty {
            *self = Destination::Ready;
        }
    }

    /// Go came. If the answer is Running it must leave before the guest's first instruction.
    pub fn go(&mut self) -> Message {
        if *self == Destination::Ready {
            *self = Destination::Owner;
        }
        self.answer()
    }

    /// Ask came: whatever is answered stays true.
    pub fn ask(&mut self) -> Message {
        if *self != Destination::Owner {
            *self = Destination::Abandoned;
        }
        self.answer()
    }

    /// The word did not come in time, or the move was cancelled.
    pub fn give_up(&mut self) {
        if *self != Destination::Owner {
            *self = Destination::Abandoned;
        }
    }

    fn answer(self) -> Message {
        if self == Destination::Owner { Message::Running } else { Message::Abandoned }
    }

    /// May the guest run here?
    pub fn may_run(self) -> bool {
        self == Destination::Owner
    }
}

#[cfg(test)]
mod tests;
