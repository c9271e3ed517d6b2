//! `cargo xtask selftests-build`: Linux's KVM selftests for arm64 from Debian's source package; nothing of it enters the
//! tree. `cargo xtask selftests`: runs them all and compares them with the record of a real KVM.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Options of `selftests-build`.
#[derive(clap::Args)]
pub struct BuildArgs {
    /// Directory that receives the programs.
    #[arg(default_value = "target/selftests")]
    out: PathBuf,
    /// Source of the kernel, as a tarball [default: that of Debian's package linux-source-6.12].
    #[arg(long)]
    source: Option<PathBuf>,
}

/// Options of `selftests`.
#[derive(clap::Args)]
pub struct RunArgs {
    /// Directory of the programs; built when it is not there.
    #[arg(default_value = "target/selftests")]
    dir: PathBuf,
    /// The program under test.
    #[arg(long, default_value = "target/release/ulna")]
    ulna: PathBuf,
    /// More options for `ulna selftests`.
    #[arg(last = true)]
    options: Vec<String>,
}

/// What the build reads of the kernel's tree.
const PARTS: [&str; 14] = [
    "Makefile",
    "Kbuild",
    "Kconfig",
    "scripts",
    "include",
    "arch/arm64",
    "usr/include",
    "tools/include",
    "tools/arch",
    "tools/build",
    "tools/scripts",
    "tools/lib",
    "tools/testing/selftests/kvm",
    "tools/testing/selftests/rseq",
];
const CROSS: &str = "aarch64-linux-gnu-";

/// Runs a command whose output is of interest only when it fails.
fn quiet(c: &mut Command) -> Result<()> {
    let out = c.stdin(Stdio::null()).output().with_context(|| format!("start {:?}", c.get_program()))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr);
        let lines: Vec<&str> = text.lines().collect();
        bail!("{c:?}: {}\n{}", out.status, lines[lines.len().saturating_sub(20)..].join("\n"));
    }
    Ok(())
}

fn tarball() -> Result<PathBuf> {
    let found = std::fs::read_dir("/usr/src")?.filter_map(|e| Some(e.ok()?.path())).find(|p| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("linux-source-6.12.tar"))
    });
    found.context("no kernel source: install Debian's package linux-source-6.12, or give --source")
}

/// Builds them.
pub fn build(a: &BuildArgs) -> Result<()> {
    let source = a.source.clone().map_or_else(tarball, Ok)?;
    let work = tempfile::tempdir()?;
    let (tree, objects) = (work.path().join("src"), work.path().join("obj"));
    std::fs::create_dir(&tree)?;
    std::fs::create_dir(&objects)?;
    let mut tar = Command::new("tar");
    tar.arg("xf").arg(&source).arg("-C").arg(&tree);
    tar.args(["--strip-components=1", "--wildcards", "--no-wildcards-match-slash"]);
    tar.args(PARTS.map(|p| format!("*/{p}")));
    tar.args(["mk", "h"].map(|e| format!("*/tools/testing/selftests/*.{e}")))
        .arg("*/tools/testing/selftests/Makefile");
    quiet(&mut tar)?;
    let make = |dir: &Path| {
        let mut c = Command::new("make");
        c.arg("-C").arg(dir).args(["ARCH=arm64".into(), format!("CROSS_COMPILE={CROSS}")]);
        c
    };
    quiet(make(&tree).arg("headers_install"))?;
    let jobs = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut output = std::ffi::OsString::from("OUTPUT=");
    output.push(&objects);
    quiet(make(&tree.join("tools/testing/selftests/kvm")).arg(format!("-j{jobs}")).arg(output))?;
    let mut names = Vec::new();
    for below in ["", "aarch64"] {
        for entry in std::fs::read_dir(objects.join(below))? {
            use std::os::unix::fs::PermissionsExt;
            let (entry, meta) = entry.and_then(|e| e.metadata().map(|m| (e, m)))?;
            let name = entry.file_name().into_string().unwrap_or_default();
            if meta.is_file() && meta.permissions().mode() & 1 != 0 && !name.ends_with(".o") {
                names.push(if below.is_empty() { name } else { format!("{below}/{name}") });
            }
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "nothing was built");
    std::fs::create_dir_all(a.out.join("aarch64"))?;
    for name in &names {
        let mut strip = Command::new(format!("{CROSS}strip"));
        quiet(strip.arg("-g").arg("-o").arg(a.out.join(name)).arg(objects.join(name)))?;
    }
    std::fs::write(a.out.join("list"), names.join("\n") + "\n")?;
    println!("selftests-build: {} programs in {}", names.len(), a.out.display());
    Ok(())
}

/// Runs them.
pub fn run(a: &RunArgs) -> Result<()> {
    if !a.dir.join("list").exists() {
        build(&BuildArgs { out: a.dir.clone(), source: None })?;
    }
    let status = Command::new(&a.ulna).arg("selftests").arg(&a.dir).args(&a.options).status();
    let status = status.with_context(|| format!("start {}", a.ulna.display()))?;
    ensure!(status.success(), "selftests are not as expected ({status})");
    Ok(())
}
