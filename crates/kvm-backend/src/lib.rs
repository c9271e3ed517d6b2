//! The seam for VMMs: one hypervisor interface, software or the host's own.
