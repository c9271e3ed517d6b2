//! Paths that mean something other here than on the host.

use std::ffi::{CStr, c_char};

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `/dev/kvm`.
    Kvm,
    /// A parameter of the module, and what is in it.
    Parameter(&'static str),
    /// Of the host's own KVM: not here.
    Missing,
    /// Nothing special.
    Other,
}

/// Parameters of arm64's KVM that can be read (Linux 6.12, `virt/kvm/kvm_main.c`).
const PARAMETERS: [(&str, &str); 4] = [
    ("halt_poll_ns", "500000\n"),
    ("halt_poll_ns_grow", "2\n"),
    ("halt_poll_ns_grow_start", "10000\n"),
    ("halt_poll_ns_shrink", "2\n"),
];

/// What a path is.
///
/// # Safety
/// It is null or ends.
pub unsafe fn look(path: *const c_char) -> Name {
    if path.is_null() {
        return Name::Other;
    }
    // SAFETY: the caller's.
    name(unsafe { CStr::from_ptr(path) }.to_bytes())
}

fn name(path: &[u8]) -> Name {
    if path == b"/dev/kvm" {
        return Name::Kvm;
    }
    let Some(rest) = path.strip_prefix(b"/sys/module/kvm") else { return Name::Other };
    let Some(parameter) = rest.strip_prefix(b"/parameters/") else {
        return if rest.is_empty() || rest == b"/" || rest == b"/parameters" {
            Name::Other
        } else {
            Name::Missing
        };
    };
    let known = PARAMETERS.iter().find(|p| p.0.as_bytes() == parameter);
    known.map_or(Name::Missing, |p| Name::Parameter(p.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(name(b"/dev/kvm"), Name::Kvm);
        assert_eq!(name(b"/dev/kvmx"), Name::Other);
        assert_eq!(name(b"/sys/module/kvm_intel/parameters/ept"), Name::Missing);
        assert_eq!(name(b"/sys/module/kvm/parameters/halt_poll_ns"), Name::Parameter("500000\n"));
        assert_eq!(name(b"/sys/module/kvm/parameters/nx_huge_pages"), Name::Missing);
        // SAFETY: null is nothing.
        assert_eq!(unsafe { look(std::ptr::null()) }, Name::Other);
    }
}
