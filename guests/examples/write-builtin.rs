//! Writes the built-in guest to a file, to run it under another emulator:
//! `qemu-system-aarch64 -M virt,gic-version=3 -cpu neoverse-n1 -smp 4 -nographic -kernel FILE`.
fn main() -> std::io::Result<()> {
    let path =
        std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("usage: write-builtin FILE"))?;
    std::fs::write(path, ulna_guests::builtin())
}
