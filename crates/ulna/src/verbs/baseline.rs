//! `ulna baseline`: the most that a guest can have and yet go to all of several hosts.

use crate::complain;
use crate::host::{self, PolicyArg, find_place};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use ulna_plan::Host;
use ulna_plan::baseline::{Baseline, baseline};
use ulna_plan::cpu::Format;
use ulna_vmm::{Error, ExitStatus};

/// The common denominator of hosts, as a file for `ulna run --cpu`. With one host: what that host shows. The exit code is
/// 9 if they have no common value for something.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct BaselineArgs {
    /// Hosts: built-in profiles or profile files, and with @MAJOR.MINOR the kernel
    #[arg(required_unless_present = "convert", value_name = "PROFILE[@KERNEL]")]
    hosts: Vec<String>,
    /// Rewrite this file, in any of the spellings, instead
    #[arg(long, value_name = "F", conflicts_with = "hosts")]
    convert: Option<PathBuf>,
    /// Limits: what KVM on that hardware can do (hw), or what software can do beyond (soft)
    #[arg(long, value_enum, default_value = "hw", value_name = "hw|soft", hide_possible_values = true)]
    policy: PolicyArg,
    /// The hosts themselves with Linux's KVM, not this program in their place
    #[arg(long, conflicts_with = "policy")]
    real: bool,
    /// Spelling: ours, Firecracker's CPU template, or QEMU's properties
    #[arg(
        long,
        value_enum,
        default_value = "ulna",
        value_name = "ulna|firecracker|qemu",
        hide_possible_values = true
    )]
    format: FormatArg,
    /// Where to write it [default: standard output]
    #[arg(long, short, value_name = "F")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    Ulna,
    Firecracker,
    Qemu,
}

impl BaselineArgs {
    /// Writes it.
    pub fn call(self) -> ExitStatus {
        match self.write() {
            Ok(status) => status,
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }

    fn write(&self) -> Result<ExitStatus, Error> {
        let Baseline { cpu, none } = match &self.convert {
            Some(path) => Baseline { cpu: crate::cpu_file::read(path)?, none: Vec::new() },
            None => {
                let place = |h: &String| find_place("baseline", h, self.policy.into(), self.real);
                let hosts: Vec<Host> = self.hosts.iter().map(place).collect::<Result<_, Error>>()?;
                baseline(&hosts)
            }
        };
        let format = match self.format {
            FormatArg::Ulna => Format::Ulna,
            FormatArg::Firecracker => Format::Firecracker,
            FormatArg::Qemu => Format::Qemu,
        };
        for n in &none {
            complain(&format!("baseline: no common value of {n}"));
        }
        let (text, lost) = cpu.write(format);
        if !lost.is_empty() {
            complain(&format!("baseline: this spelling has no words for {}", lost.join(", ")));
        }
        let done = match &self.output {
            None => host::print(&text),
            Some(path) => {
                std::fs::write(path, text).map_err(|source| Error::File {
                    action: "write the CPU to",
                    path: path.clone(),
                    source,
                })?;
                ExitStatus::Done
            }
        };
        Ok(if done == ExitStatus::Done && !none.is_empty() { ExitStatus::Blocked } else { done })
    }
}
