//! The command line: parse, call, print. One file a verb, in `verbs/`.
#![forbid(unsafe_code)]

mod cli;
mod cpu_file;
mod host;
mod values;
mod verbs;

use clap::Parser;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use ulna_vmm::ExitStatus;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            // --help and --version; a reader that went away after the first page is no failure.
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            complain(&cli::one_line(&e));
            return ExitStatus::Usage.code().into();
        }
    };
    // The panic itself was reported where it happened; what is left is to end with the documented code.
    let status = catch_unwind(AssertUnwindSafe(|| cli.command.call())).unwrap_or(ExitStatus::Internal);
    status.code().into()
}

/// One line on standard error. A closed standard error is no reason to fail in another way.
fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "ulna: {message}");
}
