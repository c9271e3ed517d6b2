//! `cargo xtask shim`: builds the library that `ulna exec` preloads, for arm64, and puts it beside the commands.
//!
//! Rust for arm64 comes from Debian (`rustc-web`, `libstd-rust-web-dev:arm64`), the linker from `gcc-aarch64-linux-gnu`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const NAME: &str = "libulna-shim-aarch64.so";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// Options.
#[derive(clap::Args)]
pub struct Args {
    /// The compiler that knows arm64
    #[arg(long, default_value = "/usr/bin/rustc")]
    rustc: PathBuf,
    /// Then run a client that does what programs do with descriptors, memory, signals and processes, under this `ulna`
    #[arg(long, value_name = "ULNA")]
    check: Option<PathBuf>,
}

/// Where builds go.
fn target_dir() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or(own, PathBuf::from)
}

/// Builds and copies it.
pub fn run(args: &Args) -> Result<()> {
    let knows = Command::new(&args.rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let dir = knows
        .ok()
        .filter(|o| o.status.success())
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    if !dir.is_some_and(|d| Path::new(&d).exists()) {
        bail!(
            "{} cannot compile for {TARGET} (Debian: rustc-web, libstd-rust-web-dev:arm64)",
            args.rustc.display()
        );
    }
    let target = target_dir();
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--package", "ulna-shim", "--target", TARGET])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env("CARGO_TARGET_DIR", target.join("shim-build"))
        .env("RUSTC", &args.rustc)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("the library does not build (its linker is {LINKER}, Debian: gcc-aarch64-linux-gnu)");
    }
    let built = target.join("shim-build").join(TARGET).join("release/libulna_shim.so");
    for place in ["shim", "debug", "release"] {
        let dir = target.join(place);
        if place == "shim" {
            std::fs::create_dir_all(&dir)?;
        }
        if dir.is_dir() {
            std::fs::copy(&built, dir.join(NAME)).with_context(|| dir.display().to_string())?;
            println!("{}", dir.join(NAME).display());
        }
    }
    args.check.as_ref().map_or(Ok(()), |ulna| check(ulna, &target.join("shim")))
}

/// A client in C, for arm64.
fn check(ulna: &Path, dir: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/shim/tests/client.c");
    let program = dir.join("client");
    let built = Command::new(LINKER)
        .args(["-O1", "-Wall", "-Werror", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .context(LINKER)?;
    if !built.success() {
        bail!("the client does not build");
    }
    let ended = Command::new(ulna)
        .arg("exec")
        .arg("--shim")
        .arg(dir.join(NAME))
        .args(["--host", "n1", "--"])
        .arg(&program)
        .status()
        .context("ulna exec")?;
    if !ended.success() {
        bail!("the client's checks failed");
    }
    Ok(())
}
