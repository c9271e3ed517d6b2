//! `cargo xtask header-check`: `kvm-abi` against the kernel's own header files.
//!
//! A C program of static assertions is made of the tables (requests, structures with their fields, constants,
//! capabilities) and given to the cross compiler; what the installed headers do not have yet is counted and left out.
//! Debian: `apt install linux-libc-dev-arm64-cross gcc-aarch64-linux-gnu`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use ulna_kvm_abi::{cap, ioctl, structs, uapi};

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// Where `linux/kvm.h` and `asm/kvm.h` are.
    #[arg(long, default_value = "/usr/aarch64-linux-gnu/include")]
    include: PathBuf,
    /// The compiler.
    #[arg(long, default_value = "aarch64-linux-gnu-gcc")]
    cc: String,
}

/// Fields that are nested in the header, or have a name that Rust does not allow.
fn c_field(structure: &str, field: &str) -> String {
    match (structure, field) {
        ("kvm_vcpu_events", "reserved") => field.into(),
        ("kvm_vcpu_events", "pad") => "exception.pad".into(),
        ("kvm_vcpu_events", f) => format!("exception.{f}"),
        ("kvm_guest_debug", f) if f.starts_with("dbg_") => format!("arch.{f}"),
        ("kvm_irq_routing_entry", "kind") => "type".into(),
        ("kvm_dirty_log", "padding") => "padding1".into(),
        (_, f) => f.trim_end_matches('_').into(),
    }
}

/// Constants that older headers have with another value: arm64 has a dirty ring since 6.2, and a header without one says 0.
const CHANGED: &[(&str, &str)] = &[("KVM_DIRTY_LOG_PAGE_OFFSET", "KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP")];

/// A constant's name in C: bindgen puts an enumeration's name before its members.
fn c_name(name: &str) -> &str {
    ["kvm_device_type_"].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name)
}

/// Compares.
pub fn run(a: &Args) -> Result<()> {
    let mut text = String::new();
    for name in ["linux/kvm.h", "asm/kvm.h", "asm/ptrace.h", "linux/psci.h"] {
        let path = a.include.join(name);
        text += &std::fs::read_to_string(&path)
            .with_context(|| format!("{} (package linux-libc-dev-arm64-cross)", path.display()))?;
    }
    let words: BTreeSet<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let structures: BTreeSet<&str> =
        text.lines().filter_map(|l| l.trim().strip_prefix("struct ")?.strip_suffix(" {")).collect();

    let mut c = String::from("#include <stddef.h>\n#include <linux/kvm.h>\n#include <asm/ptrace.h>\n");
    let (mut checked, mut newer) = (0, Vec::new());
    let mut check = |c: &mut String, known: bool, name: &str, condition: String| -> Result<()> {
        if known {
            writeln!(c, "_Static_assert({condition}, \"{name}\");")?;
            checked += 1;
        } else {
            newer.push(name.to_string());
        }
        Ok(())
    };
    for i in ioctl::ALL {
        let name = format!("KVM_{}", i.name);
        check(&mut c, words.contains(&*name), &name, format!("{name} == {:#x}u", i.request()))?;
    }
    for (name, number) in cap::ALL {
        let name = format!("KVM_CAP_{name}");
        check(&mut c, words.contains(&*name), &name, format!("{name} == {number}"))?;
    }
    for (name, value) in uapi::ALL {
        let n = c_name(name);
        let condition = format!("(unsigned long long)({n}) == {value:#x}ull");
        let sign = CHANGED.iter().find(|x| x.0 == *name).map_or(n, |x| x.1);
        check(&mut c, words.contains(n) && words.contains(sign), n, condition)?;
    }
    for (name, size, fields) in structs::LAYOUTS {
        let known = structures.contains(name);
        check(&mut c, known, name, format!("sizeof(struct {name}) == {size}"))?;
        for (field, offset, bytes) in *fields {
            let f = c_field(name, field);
            let at = format!("{name}.{f}");
            let condition = format!("offsetof(struct {name}, {f}) == {offset}");
            check(&mut c, known, &at, condition)?;
            let condition = format!("sizeof(((struct {name} *)0)->{f}) == {bytes}");
            check(&mut c, known, &at, condition)?;
        }
    }
    let file = std::env::temp_dir().join(format!("ulna-header-check-{}.c", std::process::id()));
    std::fs::write(&file, &c)?;
    let mut out = Command::new(&a.cc);
    out.args(["-std=gnu11", "-fsyntax-only", "-isystem"]).arg(&a.include).arg(&file);
    let out = out.output().with_context(|| format!("start {} (package gcc-aarch64-linux-gnu)", a.cc))?;
    std::fs::remove_file(&file).ok();
    if !out.status.success() {
        bail!("kvm-abi and the header disagree:\n{}", String::from_utf8_lossy(&out.stderr));
    }
    println!("header-check: {checked} agree; not in these headers: {}", newer.join(" "));
    Ok(())
}
