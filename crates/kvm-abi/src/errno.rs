//! Error numbers that KVM answers with, and the sentence behind each refusal.

use core::fmt;

/// Why something was refused: a sentence with places for values and names.
///
/// `{}` in the text stands for the next value in decimal, `{x}` for the next in hexadecimal, `{n}` for the next name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Why {
    text: &'static str,
    values: [u64; 2],
    names: [&'static str; 2],
}

/// A positive errno, and why.
///
/// The reason is for people: two errors with the same number are equal, whatever their reasons.
#[derive(Clone, Copy)]
pub struct Errno(pub i32, Why);

impl Why {
    const UNSAID: Why = Why { text: "", values: [0; 2], names: [""; 2] };
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut values, mut names) = (self.values.iter(), self.names.iter());
        let mut rest = self.text;
        while let Some((before, after)) = rest.split_once('{') {
            f.write_str(before)?;
            let Some((place, after)) = after.split_once('}') else { return Ok(()) };
            match place {
                "x" => write!(f, "{:#x}", values.next().unwrap_or(&0))?,
                "n" => f.write_str(names.next().unwrap_or(&""))?,
                _ => write!(f, "{}", values.next().unwrap_or(&0))?,
            }
            rest = after;
        }
        f.write_str(rest)
    }
}

impl fmt::Debug for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

macro_rules! errnos {
    ($($name:ident = $n:literal $text:literal,)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno::new($n);)*
            /// Its name, if it is one that KVM uses.
            pub const fn name(self) -> &'static str {
                match self.0 { $($n => stringify!($name),)* _ => "E?" }
            }
            /// What its number says in words.
            pub const fn text(self) -> &'static str {
                match self.0 { $($n => $text,)* _ => "unknown error" }
            }
        }
    };
}

errnos! {
    EPERM = 1 "operation not permitted",
    ENOENT = 2 "no such thing",
    EINTR = 4 "interrupted",
    EIO = 5 "input/output error",
    ENXIO = 6 "no such device or address",
    E2BIG = 7 "list too long",
    ENOEXEC = 8 "not initialised",
    EBADF = 9 "bad file descriptor",
    EAGAIN = 11 "try again",
    ENOMEM = 12 "out of memory",
    EFAULT = 14 "bad address",
    EBUSY = 16 "busy",
    EEXIST = 17 "exists already",
    ENODEV = 19 "no such device",
    EINVAL = 22 "invalid argument",
    ENFILE = 23 "too many open files in system",
    EMFILE = 24 "too many open files",
    ENOTTY = 25 "inappropriate request for this descriptor",
    ENOSPC = 28 "no space left",
    ENOSYS = 38 "not implemented",
}

impl Errno {
    /// The errno of this number, without a reason.
    pub const fn new(n: i32) -> Errno {
        Errno(n, Why::UNSAID)
    }

    /// With the reason `text` (see [`Why`] for its places).
    pub const fn because(self, text: &'static str) -> Errno {
        Errno(self.0, Why { text, ..Why::UNSAID })
    }

    /// With one value for its reason.
    pub const fn value(self, v: u64) -> Errno {
        self.values([v, 0])
    }

    /// With values for its reason.
    pub const fn values(self, values: [u64; 2]) -> Errno {
        Errno(self.0, Why { values, ..self.1 })
    }

    /// With names for its reason.
    pub const fn names(self, names: [&'static str; 2]) -> Errno {
        Errno(self.0, Why { names, ..self.1 })
    }

    /// With this reason if it has none yet: what a layer knows that is further out.
    pub const fn or_because(self, text: &'static str) -> Errno {
        if self.1.text.is_empty() { self.because(text) } else { self }
    }

    /// The reason, if one was given.
    pub const fn why(self) -> Option<Why> {
        if self.1.text.is_empty() { None } else { Some(self.1) }
    }
}

impl PartialEq for Errno {
    fn eq(&self, other: &Errno) -> bool {
        self.0 == other.0
    }
}

impl Eq for Errno {}

impl PartialOrd for Errno {
    fn partial_cmp(&self, other: &Errno) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Errno {
    fn cmp(&self, other: &Errno) -> core::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl core::hash::Hash for Errno {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why() {
            Some(why) => write!(f, "{} ({why})", self.name()),
            None => write!(f, "{} ({})", self.name(), self.text()),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::format;

    #[test]
    fn reasons_fill_their_places_and_are_no_part_of_equality() {
        let e = Errno::EINVAL.because("{n}.{n} is {x}, at most {}");
        let e = e.names(["ID_AA64PFR0_EL1", "EL0"]).values([0x12, 1]);
        assert_eq!(format!("{e}"), "EINVAL (ID_AA64PFR0_EL1.EL0 is 0x12, at most 1)");
        assert_eq!((e, format!("{e:?}")), (Errno::EINVAL, "EINVAL".into()));
        assert_eq!(format!("{}", Errno::EBUSY), "EBUSY (busy)");
        assert_eq!(
            format!("{}", Errno::EBUSY.because("slot {} of {}, {x}").value(3)),
            "EBUSY (slot 3 of 0, 0x0)"
        );
        assert_eq!(format!("{}", Errno::EBUSY.because("odd {")), "EBUSY (odd )");
        assert!(Errno::EBUSY.why().is_none() && e.why().is_some());
        assert_eq!(e.or_because("else").why(), e.why());
        assert_eq!(format!("{:?}", Errno::EIO.or_because("else").why()), "Some(else)");
    }
}
