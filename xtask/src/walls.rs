//! `cargo xtask walls`: the rules of architecture §2, checked on the tree.
//!
//! * arrows go down only: a crate depends on workspace crates of lower rooms only;
//! * `unsafe` stands in the crates that may have it, the others forbid it;
//! * `cfg(target_arch)` stands in `arm-cpu/src/host`, `arm-cpu/src/jit` and `kvm-backend/src/host` only.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Rooms from the bottom up; a crate may depend on those of lower floors. (crate, floor, may hold `unsafe`)
const ROOMS: [(&str, u32, bool); 18] = [
    ("kvm-abi", 0, false),
    ("arm-regs", 0, false),
    ("vgic", 0, false),
    ("devices", 0, false),
    ("profile", 1, false),
    ("machine", 2, false),
    ("trace", 3, false),
    ("arm-cpu", 2, true),
    ("kvm-core", 3, true),
    ("kvm-backend", 4, true),
    ("kvm", 4, true),
    ("stream", 1, false),
    ("plan", 3, false),
    ("vmm", 5, false),
    ("serve", 5, true),
    ("shim", 5, true),
    ("selftests", 5, false),
    ("ulna", 6, false),
];

/// Dependencies beyond the floors' order.
const NEVER: [(&str, &str, &str); 4] = [
    ("vmm", "arm-cpu", "the VMM reaches the CPU through kvm-backend only"),
    ("vmm", "kvm-core", "the VMM reaches KVM through kvm-backend only"),
    ("vmm", "vgic", "the VMM reaches the GIC through kvm-backend only"),
    ("arm-cpu", "profile", "features reach the CPU as a set"),
];

/// Checks the tree this was built from.
pub fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let mut broken = Vec::new();
    for entry in std::fs::read_dir(root.join("crates"))? {
        let dir = entry?.path();
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_string();
        match ROOMS.iter().find(|r| r.0 == name) {
            Some(&(_, floor, may_unsafe)) => {
                check_arrows(&dir, &name, floor, &mut broken)?;
                check_source(&dir, &name, may_unsafe, &mut broken)?;
            }
            None => broken.push(format!("crates/{name}: no room of the architecture has this name")),
        }
    }
    for b in &broken {
        println!("{b}");
    }
    if !broken.is_empty() {
        bail!("{} walls broken", broken.len());
    }
    println!("walls stand");
    Ok(())
}

fn check_arrows(dir: &Path, name: &str, floor: u32, broken: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(dir.join("Cargo.toml"))?;
    let manifest: toml::Table = text.parse().with_context(|| format!("{}", dir.display()))?;
    for section in ["dependencies", "build-dependencies"] {
        let Some(deps) = manifest.get(section).and_then(|d| d.as_table()) else { continue };
        for dep in deps.keys().filter_map(|k| k.strip_prefix("ulna-")) {
            if let Some(r) = ROOMS.iter().find(|r| r.0 == dep)
                && r.1 >= floor
            {
                broken
                    .push(format!("crates/{name}/Cargo.toml: depends on ulna-{dep}, which is not below it"));
            }
            if let Some(n) = NEVER.iter().find(|n| n.0 == name && n.1 == dep) {
                broken.push(format!("crates/{name}/Cargo.toml: depends on ulna-{dep}: {}", n.2));
            }
        }
    }
    Ok(())
}

fn check_source(dir: &Path, name: &str, may_unsafe: bool, broken: &mut Vec<String>) -> Result<()> {
    let mut files = Vec::new();
    rust_files(&dir.join("src"), &mut files)?;
    let root = ["lib.rs", "main.rs"].iter().map(|f| dir.join("src").join(f)).find(|p| p.exists());
    if !may_unsafe {
        let text = root.as_ref().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
        if !text.contains("#![forbid(unsafe_code)]") {
            broken.push(format!("crates/{name}: its root does not forbid unsafe code"));
        }
    }
    for f in files {
        let rel = f.strip_prefix(dir).unwrap_or(&f).to_string_lossy().replace('\\', "/");
        let host = match name {
            "arm-cpu" => rel.starts_with("src/host/") || rel.starts_with("src/jit/"),
            "kvm-backend" => rel.starts_with("src/host"),
            _ => false,
        };
        for (n, line) in std::fs::read_to_string(&f)?.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains("target_arch") && !host {
                broken.push(format!(
                    "crates/{name}/{rel}:{}: cfg(target_arch) outside the host modules",
                    n + 1
                ));
            }
        }
    }
    Ok(())
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for e in std::fs::read_dir(dir)? {
        let p = e?.path();
        if p.is_dir() {
            rust_files(&p, out)?;
        } else if p.extension().is_some_and(|x| x == "rs") {
            out.push(p);
        }
    }
    Ok(())
}
