//! The exit codes of the command, in one place: `--help`, the documentation and the code that ends the process read
//! this table.

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitStatus {
    /// The guest powered itself off, or the user quit.
    Done,
    /// Something inside ulna failed that should not.
    Internal,
    /// The command line makes no sense.
    Usage,
    /// A file that was named cannot be used.
    Input,
    /// The host lacks or refuses something.
    Host,
    /// Nobody reads the guest's console any more.
    ConsoleClosed,
    /// The guest crashed in a way that ends the machine.
    GuestCrash,
    /// No machine of that name runs here, or it does not answer.
    NoMachine,
    /// The machine refuses what was asked.
    Refused,
    /// Something blocks the move that was planned.
    Blocked,
    /// Nothing blocks it as far as is known, and not all is known.
    Unmeasured,
    /// A snapshot or a move failed; where the machine was it still is.
    Move,
    /// A signal asked the process to end; its number.
    Signal(u8),
}

/// Code and meaning, for people.
pub const TABLE: &[(&str, &str)] = &[
    ("0", "done; for `run`: the guest powered itself off, or you quit with Ctrl-A x"),
    ("1", "a failure inside ulna (please report it)"),
    (
        "2",
        "the command line is wrong: unknown option, value out of range, options that contradict each other",
    ),
    ("3", "a file that was named cannot be used: kernel, firmware, initrd, disk, output file"),
    ("4", "the host lacks or refuses something: memory, network, terminal, threads"),
    ("5", "the console's output is closed (broken pipe, full disk)"),
    ("6", "the guest crashed: it said so by a hypercall, or its CPU cannot go on"),
    ("7", "`ctl` and `stop`: no such machine runs here, or it does not answer"),
    ("8", "`ctl` and `stop`: the machine refuses, for instance because the vCPU is on"),
    (
        "9",
        "`plan`: something blocks the move; `baseline`: a register has no value that all hosts take; `restore`, `receive`, `migrate`: the host cannot have the machine",
    ),
    (
        "10",
        "`plan`: nothing blocks the move, as far as is known: the verdict rests on values that nobody has measured",
    ),
    (
        "11",
        "a snapshot or a move failed; the message begins with the phase, and where the machine was it still is",
    ),
    ("129, 130, 143", "ended by SIGHUP, SIGINT or SIGTERM"),
];

impl ExitStatus {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            ExitStatus::Done => 0,
            ExitStatus::Internal => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Input => 3,
            ExitStatus::Host => 4,
            ExitStatus::ConsoleClosed => 5,
            ExitStatus::GuestCrash => 6,
            ExitStatus::NoMachine => 7,
            ExitStatus::Refused => 8,
            ExitStatus::Blocked => 9,
            ExitStatus::Unmeasured => 10,
            ExitStatus::Move => 11,
            ExitStatus::Signal(n) => 128u8.wrapping_add(n),
        }
    }

    /// The table as text for `--help`.
    pub fn help() -> String {
        let mut text = String::from("Exit codes:\n");
        for (code, meaning) in TABLE {
            text.push_str(&format!("  {code:<14} {meaning}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_the_table() {
        let page = std::fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/src/reference/machine.md"
        ))
        .unwrap();
        for (code, meaning) in TABLE {
            assert!(page.contains(&format!("| {code} | {meaning} |")), "{code}");
        }
    }

    #[test]
    fn every_code_is_in_the_table() {
        let all = [
            ExitStatus::Done,
            ExitStatus::Internal,
            ExitStatus::Usage,
            ExitStatus::Input,
            ExitStatus::Host,
            ExitStatus::ConsoleClosed,
            ExitStatus::GuestCrash,
            ExitStatus::NoMachine,
            ExitStatus::Refused,
            ExitStatus::Blocked,
            ExitStatus::Unmeasured,
            ExitStatus::Move,
            ExitStatus::Signal(1),
            ExitStatus::Signal(2),
            ExitStatus::Signal(15),
        ];
        for status in all {
            let code = status.code().to_string();
            assert!(TABLE.iter().any(|(c, _)| c.split(", ").any(|c| c == code)), "{status:?}");
        }
    }
}
