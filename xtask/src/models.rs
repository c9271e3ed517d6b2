//! `cargo xtask models`: what PEs do at the same time, in every interleaving (loom), and what Miri says of the parts of
//! `arm-cpu` that need no host (`--miri`; needs a nightly toolchain with Miri).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Options of `models`.
#[derive(clap::Args)]
pub struct Args {
    /// Runs Miri on the unit tests of memory and of what PEs share, instead of the models.
    #[arg(long)]
    miri: bool,
}

/// Runs them.
pub fn run(a: &Args) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let mut c = Command::new("cargo");
    c.current_dir(&root).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    if a.miri {
        c.args(["+nightly", "miri", "test", "--package", "ulna-arm-cpu", "--lib", "--"]);
        // The others map memory of the host (TLB, zeroed pages), or are of races of guests, whose 16-byte accesses Rust has no
        // atomic type for.
        c.args(["mem::dirty::", "mem::page_state::"]);
        c.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("CARGO_TARGET_DIR", target.join("miri"));
    } else {
        c.args(["test", "--release", "--package", "ulna-arm-cpu", "--lib", "models::"]);
        c.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target.join("loom"));
    }
    let status = c.status().context("cargo")?;
    ensure!(status.success(), "{c:?}: {status}");
    Ok(())
}
