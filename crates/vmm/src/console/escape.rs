//! The escape key of an interactive console: Ctrl-A, then a letter.

/// Ctrl-A.
pub const KEY: u8 = 0x01;
/// Told at the start of an interactive run.
pub const HELP: &str = "Ctrl-A x quits, Ctrl-A b sends a break, Ctrl-A Ctrl-A sends Ctrl-A";

/// What the user wants besides typing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// End the machine.
    Quit,
    /// A break on the line: Linux takes it for SysRq.
    Break,
}

/// Finds escape sequences in what is typed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    /// Passes `typed` on to `out` up to the first command, which is returned with how many bytes it and all before took.
    pub fn feed(&mut self, typed: &[u8], out: &mut Vec<u8>) -> (usize, Option<Command>) {
        for (i, &byte) in typed.iter().enumerate() {
            let escaped = std::mem::take(&mut self.pending);
            match (escaped, byte) {
                (true, b'x' | b'X') => return (i + 1, Some(Command::Quit)),
                (true, b'b' | b'B') => return (i + 1, Some(Command::Break)),
                (true, KEY) => out.push(KEY),
                // Not ours: the guest gets both.
                (true, other) => out.extend([KEY, other]),
                (false, KEY) => self.pending = true,
                (false, other) => out.push(other),
            }
        }
        (typed.len(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_and_the_rest_passes() {
        let mut e = Escape::default();
        let mut out = Vec::new();
        assert_eq!(e.feed(b"ab\x01\x01c\x01z", &mut out), (7, None));
        assert_eq!(out, b"ab\x01c\x01z");
        out.clear();
        assert_eq!(e.feed(b"hi\x01", &mut out), (3, None));
        assert_eq!(e.feed(b"xrest", &mut out), (1, Some(Command::Quit)));
        assert_eq!(out, b"hi");
        assert_eq!(e.feed(b"\x01bq", &mut out), (2, Some(Command::Break)));
    }
}
