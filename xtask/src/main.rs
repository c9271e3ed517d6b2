//! Development tasks: `cargo xtask NAME`.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod conformance;
mod coverage;
mod debian;
mod diff_cpu;
mod diff_system;
mod fuzz;
mod gdb;
mod gic_model;
mod header_check;
mod kicks;
mod linux;
mod models;
mod reference;
mod sdei;
mod selftests;
mod services;
mod shim;
mod stress;
mod walls;
mod workloads;

/// Development tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

/// What executes instructions.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EngineArg {
    Interp,
    Jit,
    Check,
}

impl EngineArg {
    fn name(self) -> &'static str {
        match self {
            EngineArg::Interp => "interp",
            EngineArg::Jit => "jit",
            EngineArg::Check => "check",
        }
    }
}

impl From<EngineArg> for ulna_arm_cpu::Engine {
    fn from(e: EngineArg) -> Self {
        match e {
            EngineArg::Interp => Self::Interp,
            EngineArg::Jit => Self::Jit,
            EngineArg::Check => Self::Check,
        }
    }
}

#[derive(Subcommand)]
enum Task {
    /// Random instructions at EL0, here and under qemu-aarch64: compares the complete state.
    DiffCpu(diff_cpu::Args),
    /// Translation, exceptions, system registers, debug and PAuth, here and under qemu-system-aarch64.
    DiffSystem(diff_system::Args),
    /// Random programs on the translator and on the interpreter.
    FuzzJit {
        /// First seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Programs, of 34 instructions in the mean.
        #[arg(long, default_value_t = 300_000)]
        programs: u64,
    },
    /// The decode table against Arm's machine-readable encodings.
    Coverage(coverage::Args),
    /// The library that `ulna exec` preloads, for arm64.
    Shim(shim::Args),
    /// Random requests on the raw entry.
    Fuzz(fuzz::Args),
    /// A Debian root file system on a disk: boots to its login prompt, compiles and runs a C program.
    Debian(debian::Args),
    /// Numbers and layouts of kvm-abi against the C headers.
    HeaderCheck(header_check::Args),
    /// Real KVM's recorded answers against ours.
    Conformance(conformance::Args),
    /// GDB on the built-in guest and on Linux.
    Gdb(gdb::Args),
    /// Random accesses of the GIC, by a guest and without one, against a model from the specification.
    GicModel(gic_model::Args),
    /// Concurrent parts in every interleaving (loom), and under Miri.
    Models(models::Args),
    /// Boots a Debian kernel as a user would: CPUs, disk, network.
    Linux(linux::Args),
    /// Linux with a client of its SDEI driver: NMIs into CPUs that spin with interrupts off.
    Sdei(sdei::Args),
    /// Linux's KVM selftests under `ulna exec`, compared with a real KVM.
    Selftests(selftests::RunArgs),
    /// Builds Linux's KVM selftests for arm64 from Debian's source package.
    SelftestsBuild(selftests::BuildArgs),
    /// How soon a kick is heard: by a PE and by a vCPU, busy and asleep.
    Kicks(kicks::Args),
    /// All workloads of the benchmark kit with both engines, block by block.
    CheckWorkloads(workloads::CheckArgs),
    /// Two vCPUs on two cores, and two native threads.
    Scaling(workloads::ScalingArgs),
    /// Memory beyond what the guest touched.
    Footprint(workloads::FootprintArgs),
    /// Modified code, TLB shoot-downs, atomics and kicks on several PEs.
    Stress(stress::Args),
    /// The generated pages of the book, and the links of all pages.
    Reference(reference::Args),
    /// The rules of architecture §2: arrows, `unsafe`, `cfg(target_arch)`.
    Walls,
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::DiffCpu(a) => diff_cpu::run(&a),
        Task::DiffSystem(a) => diff_system::run(&a),
        Task::FuzzJit { seed, programs } => {
            let r = ulna_conformance::fuzz::run(seed, programs).map_err(anyhow::Error::msg)?;
            println!(
                "{} programs, {} blocks translated, {} blocks ({} instructions) executed: 0 differ",
                r.programs, r.blocks, r.executed, r.instructions
            );
            Ok(())
        }
        Task::Coverage(a) => coverage::run(&a),
        Task::Shim(args) => shim::run(&args),
        Task::Debian(a) => debian::run(&a),
        Task::Fuzz(a) => fuzz::run(&a),
        Task::HeaderCheck(a) => header_check::run(&a),
        Task::Conformance(a) => conformance::run(&a),
        Task::Gdb(a) => gdb::run(&a),
        Task::GicModel(a) => gic_model::run(&a),
        Task::Models(a) => models::run(&a),
        Task::Linux(a) => linux::run(&a),
        Task::Sdei(a) => sdei::run(&a),
        Task::Selftests(a) => selftests::run(&a),
        Task::SelftestsBuild(a) => selftests::build(&a),
        Task::Kicks(a) => kicks::run(&a),
        Task::CheckWorkloads(a) => workloads::check(&a),
        Task::Scaling(a) => workloads::scaling(&a),
        Task::Footprint(a) => workloads::footprint(&a),
        Task::Stress(a) => stress::run(&a),
        Task::Reference(a) => reference::run(&a),
        Task::Walls => walls::run(),
    }
}
