//! The phases of a move. Logs, metrics, progress, errors and the book use these names.

use std::fmt;

/// A step of a snapshot, a restore or a live move.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Finding the other side: address, TLS, versions. Or opening the files of a snapshot.
    Connect,
    /// The destination makes the machine and says what it cannot honour.
    Negotiate,
    /// Memory goes over while the guest runs.
    Precopy,
    /// The guest is stopped at the source.
    Stop,
    /// The rest of memory, the state of vCPUs, interrupt controller and devices.
    State,
    /// From the source's word to the destination's answer: who runs the guest.
    Handover,
    /// Files are made durable.
    Sync,
    /// Files get their names.
    Publish,
    /// The guest runs at its new place.
    Run,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 9] = [
        Phase::Connect,
        Phase::Negotiate,
        Phase::Precopy,
        Phase::Stop,
        Phase::State,
        Phase::Handover,
        Phase::Sync,
        Phase::Publish,
        Phase::Run,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Negotiate => "negotiate",
            Phase::Precopy => "precopy",
            Phase::Stop => "stop",
            Phase::State => "state",
            Phase::Handover => "handover",
            Phase::Sync => "sync",
            Phase::Publish => "publish",
            Phase::Run => "run",
        }
    }

    /// The phase of this name.
    pub fn of(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|p| p.name() == name)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_are_found() {
        for p in Phase::ALL {
            assert_eq!(Phase::of(p.name()), Some(p));
        }
        assert_eq!(Phase::of("flight"), None);
    }
}
