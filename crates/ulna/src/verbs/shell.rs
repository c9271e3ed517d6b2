//! `ulna completions` and `ulna man`: what shells and `man` know of the verbs, from the command line's own tables.

use crate::cli::Cli;
use crate::complain;
use crate::host;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;
use ulna_vmm::{Error, ExitStatus};

/// Completions for a shell, on standard output: `source <(ulna completions bash)`.
#[derive(Args)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints them.
    pub fn call(self) -> ExitStatus {
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ulna", &mut text);
        host::print(&String::from_utf8_lossy(&text))
    }
}

/// Manual pages, a file a verb: `man -l DIR/ulna-run.1`.
#[derive(Args)]
pub struct ManArgs {
    /// Where to write them; made if it is not there
    dir: PathBuf,
}

impl ManArgs {
    /// Writes them.
    pub fn call(self) -> ExitStatus {
        match std::fs::create_dir_all(&self.dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.dir))
            .map_err(|source| Error::File { action: "write manual pages to", path: self.dir.clone(), source })
        {
            Ok(()) => ExitStatus::Done,
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }
}
