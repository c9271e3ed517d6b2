//! The `kvm_run` page after KVM_RUN (kvm-arm64-abi.md §3).

use ulna_kvm_abi::exit;
use ulna_kvm_abi::structs::Wire;

use crate::{mem, names};

/// Offsets into `struct kvm_run`.
const IMMEDIATE_EXIT: usize = 0x01;
const EXIT_REASON: usize = 0x08;
const UNION: usize = 0x20;

fn get<T: Wire>(page: &[u8], at: usize) -> T {
    T::from_bytes(page.get(at..).unwrap_or(&[]))
}

/// What KVM_RUN was given: a flag, the answer to a load.
pub(crate) fn given(before: &[u8]) -> String {
    let mut s = String::new();
    if get::<u8>(before, IMMEDIATE_EXIT) != 0 {
        s.push_str("immediate_exit");
    }
    let load = get::<u32>(before, EXIT_REASON) == exit::MMIO && get::<u8>(before, UNION + 20) == 0;
    if load {
        let sep = if s.is_empty() { "" } else { ", " };
        s.push_str(&format!("{sep}loaded {}", mmio_data(before)));
    }
    s
}

fn mmio_data(page: &[u8]) -> String {
    let len = (get::<u32>(page, UNION + 16) as usize).min(8);
    mem::number(page.get(UNION + 8..UNION + 8 + len).unwrap_or(&[]))
}

/// Why the guest was left.
pub(crate) fn describe(page: &[u8]) -> String {
    let reason = get::<u32>(page, EXIT_REASON);
    let name = names::exit_reason(reason);
    let word = |n: usize| get::<u64>(page, UNION + 8 * n);
    match reason {
        exit::MMIO => {
            let (addr, len) = (word(0), get::<u32>(page, UNION + 16));
            let bytes = if len == 1 { "1 byte".into() } else { format!("{len} bytes") };
            if get::<u8>(page, UNION + 20) != 0 {
                format!("MMIO write of {bytes} at {addr:#x}: {}", mmio_data(page))
            } else {
                format!("MMIO read of {bytes} at {addr:#x}")
            }
        }
        exit::SYSTEM_EVENT => {
            let n = (get::<u32>(page, UNION + 4) as usize).min(16);
            let data: Vec<String> = (0..n).map(|i| format!("{:#x}", word(1 + i))).collect();
            let kind = names::system_event(get(page, UNION));
            format!("SYSTEM_EVENT {kind} [{}]", data.join(", "))
        }
        exit::HYPERCALL => {
            let by = if get::<u64>(page, UNION + 64) & exit::HYPERCALL_EXIT_SMC != 0 { "SMC" } else { "HVC" };
            format!("HYPERCALL {:#x} by {by}", word(0))
        }
        exit::DEBUG => {
            let esr = get::<u32>(page, UNION);
            let far = word(1);
            let what = match esr >> 26 {
                0x30 | 0x31 => "breakpoint",
                0x32 | 0x33 => "single step",
                0x34 | 0x35 => "watchpoint",
                0x3c => "BRK",
                _ => "",
            };
            let at = if esr >> 26 == 0x34 { format!(" at {far:#x}") } else { String::new() };
            format!("DEBUG {what}{at} (ESR {esr:#x})")
        }
        exit::ARM_NISV => format!("ARM_NISV at {:#x} (ISS {:#x})", word(1), word(0)),
        exit::FAIL_ENTRY => {
            format!("FAIL_ENTRY reason {:#x} on CPU {}", word(0), get::<u32>(page, UNION + 8))
        }
        exit::INTERNAL_ERROR => format!("INTERNAL_ERROR {}", get::<u32>(page, UNION)),
        exit::MEMORY_FAULT => {
            format!("MEMORY_FAULT at {:#x}+{:#x}, flags {:#x}", word(1), word(2), word(0))
        }
        _ => name.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(reason: u32, union: &[(usize, &[u8])]) -> Vec<u8> {
        let mut p = vec![0; 4096];
        p[EXIT_REASON..EXIT_REASON + 4].copy_from_slice(&reason.to_le_bytes());
        for (at, b) in union {
            p[UNION + at..UNION + at + b.len()].copy_from_slice(b);
        }
        p
    }

    #[test]
    fn exits_by_field() {
        let uart: &[u8] = &[0, 0, 0, 9];
        let store = page(6, &[(0, uart), (8, &[0x48]), (16, &[1]), (20, &[1])]);
        assert_eq!(describe(&store), "MMIO write of 1 byte at 0x9000000: 0x48");
        let load = page(6, &[(0, uart), (8, &[0x12, 0x34]), (16, &[4])]);
        assert_eq!(
            (describe(&load).as_str(), given(&load).as_str()),
            ("MMIO read of 4 bytes at 0x9000000", "loaded 0x3412")
        );
        assert_eq!(describe(&page(24, &[(0, &[2]), (4, &[1]), (8, &[1])])), "SYSTEM_EVENT RESET [0x1]");
        assert_eq!(describe(&page(3, &[(0, &[1, 0, 0, 0xc4]), (64, &[1])])), "HYPERCALL 0xc4000001 by SMC");
        assert_eq!(
            describe(&page(4, &[(0, &[0x22, 0, 0, 0xd0]), (8, &[0x40])])),
            "DEBUG watchpoint at 0x40 (ESR 0xd0000022)"
        );
        assert_eq!(describe(&page(28, &[(0, &[7]), (8, &[0, 0x10])])), "ARM_NISV at 0x1000 (ISS 0x7)");
        assert_eq!(
            (describe(&page(10, &[])), describe(&page(31, &[]))),
            ("INTR".into(), "DIRTY_RING_FULL".into())
        );
        assert_eq!((describe(&[]), describe(&page(99, &[]))), ("UNKNOWN".into(), "99".into()));
    }

    #[test]
    fn what_a_run_is_given() {
        let mut p = page(0, &[]);
        assert_eq!(given(&p), "");
        p[1] = 1;
        assert_eq!(given(&p), "immediate_exit");
        assert_eq!(given(&[]), "");
    }
}
