//! The commands there are.

use crate::verbs::baseline::BaselineArgs;
use crate::verbs::caps::CapsArgs;
use crate::verbs::ctl::{CtlArgs, ListArgs, StopArgs};
use crate::verbs::demo::DemoArgs;
use crate::verbs::exec::{ExecArgs, ServeArgs};
use crate::verbs::hosts::HostsArgs;
use crate::verbs::migrate::{MigrateArgs, ReceiveArgs};
use crate::verbs::plan::PlanArgs;
use crate::verbs::regs::RegsArgs;
use crate::verbs::run::RunArgs;
use crate::verbs::selftests::SelftestsArgs;
use crate::verbs::shell::{CompletionsArgs, ManArgs};
use crate::verbs::snapshot::{InspectArgs, RestoreArgs, SnapshotArgs};
use clap::{Parser, Subcommand};
use ulna_vmm::ExitStatus;

/// KVM for arm64, in userspace: boots and moves arm64 machines on any host.
#[derive(Parser)]
#[command(name = "ulna", version, max_term_width = 100, after_help = ExitStatus::help())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A verb.
#[derive(Subcommand)]
pub enum Command {
    /// Start a machine and stay with it until it is off.
    Run(Box<RunArgs>),
    /// List the machines that run.
    List(ListArgs),
    /// Ask, pause, resume or stop a machine that runs, or enable its vCPUs.
    Ctl(CtlArgs),
    /// End a machine.
    Stop(StopArgs),
    /// Start a program that finds a working /dev/kvm.
    Exec(ExecArgs),
    /// Serve the /dev/kvm of one process, on standard input: what exec starts.
    #[command(hide = true)]
    Serve(ServeArgs),
    /// Tell what keeps a guest from moving to another host, all of it, before anything moves.
    Plan(PlanArgs),
    /// Write the most that a guest can have and yet go to all of several hosts.
    Baseline(BaselineArgs),
    /// List, show and compare the hosts that can be played, and who can move where.
    Hosts(HostsArgs),
    /// Write the whole state of a machine that runs into a directory.
    Snapshot(SnapshotArgs),
    /// Let a machine go on from a snapshot.
    Restore(Box<RestoreArgs>),
    /// Tell what a snapshot holds.
    Inspect(InspectArgs),
    /// Show what this is for: a guest that counts moves between hosts that have little in common.
    Demo(DemoArgs),
    /// Move a machine to another host while its guest runs.
    Migrate(MigrateArgs),
    /// Wait for a machine that is moved here, and go on with it.
    Receive(Box<ReceiveArgs>),
    /// List, name and compare the registers that KVM shows.
    Regs(RegsArgs),
    /// List the capabilities of KVM.
    Caps(CapsArgs),
    /// Write what a shell needs to complete command lines.
    Completions(CompletionsArgs),
    /// Write manual pages.
    Man(ManArgs),
    /// Run a directory of Linux's KVM selftests and compare them with a real KVM.
    Selftests(SelftestsArgs),
}

impl Command {
    /// Does it.
    pub fn call(self) -> ExitStatus {
        match self {
            Command::Run(args) => args.call(),
            Command::List(args) => args.call(),
            Command::Ctl(args) => args.call(),
            Command::Stop(args) => args.call(),
            Command::Exec(args) => args.call(),
            Command::Serve(args) => args.call(),
            Command::Plan(args) => args.call(),
            Command::Baseline(args) => args.call(),
            Command::Hosts(args) => args.call(),
            Command::Snapshot(args) => args.call(),
            Command::Restore(args) => args.call(),
            Command::Inspect(args) => args.call(),
            Command::Demo(args) => args.call(),
            Command::Migrate(args) => args.call(),
            Command::Receive(args) => args.call(),
            Command::Regs(args) => args.call(),
            Command::Caps(args) => args.call(),
            Command::Completions(args) => args.call(),
            Command::Man(args) => args.call(),
            Command::Selftests(args) => args.call(),
        }
    }
}

/// What is wrong with a command line, in one line: clap's own text has a paragraph.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim) {
        if part.starts_with("Usage:") || part.starts_with("For more information") {
            break;
        }
        if !part.is_empty() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(part);
        }
    }
    line.trim_start_matches("error: ").to_owned()
}
