//! What vCPUs cost that never run. Alone in its process, because it counts the process's memory and threads.

mod common;

use common::*;
use ulna_kvm_core::{ClockKind, Vcpu};

fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[test]
fn h4_a_vcpu_that_never_ran_costs_little_memory_and_no_thread() {
    let g = Guest::new("n1", ClockKind::Host);
    let first = g.vcpu(0, PSCI);
    let (Some(before), Some(threads)) = (status("VmRSS:"), status("Threads:")) else { return };
    let vcpus: Vec<Vcpu> = (1..512).map(|n| g.vcpu(n, PSCI | OFF)).collect();
    let (after, threads_after) = (status("VmRSS:").expect("RSS"), status("Threads:").expect("threads"));
    let each = (after - before) / vcpus.len() as u64;
    println!("{each} KiB a vCPU");
    assert!(each <= 40, "{each} KiB a vCPU");
    assert_eq!(threads, threads_after);
    drop(first);
}
