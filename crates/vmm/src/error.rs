//! What can go wrong, each with its exit status.

use crate::exit::ExitStatus;
use crate::loader::LoadError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why a machine could not be built or could not go on. The text is one line for the user.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Something to be loaded cannot be.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file other than those to be loaded cannot be used.
    #[error("Cannot {action} {path}: {source}")]
    File {
        /// "open the disk", "write the device tree to", ...
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A disk cannot be used.
    #[error("Cannot use the {0}")]
    Disk(String),
    /// The host refuses something.
    #[error("Cannot {action}: {why}")]
    Host {
        /// "get 512 MiB of memory", ...
        action: String,
        /// Why.
        why: String,
    },
    /// The console's output has no reader any more.
    #[error("The guest's console cannot be written: {0}")]
    Console(io::Error),
    /// The guest is beyond help.
    #[error("{0}")]
    Crash(String),
    /// This host cannot have the machine.
    #[error("This host cannot have the machine: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Blocked(Vec<crate::moves::Blocked>),
    /// A snapshot or a move failed.
    #[error(transparent)]
    Move(#[from] crate::moves::MoveError),
    /// A part of ulna broke its promise.
    #[error("Internal failure: {0}")]
    Internal(String),
}

impl Error {
    /// How the process ends after this error.
    pub fn status(&self) -> ExitStatus {
        match self {
            Error::Usage(_) => ExitStatus::Usage,
            Error::Load(_) | Error::File { .. } | Error::Disk(_) => ExitStatus::Input,
            Error::Host { .. } => ExitStatus::Host,
            Error::Console(_) => ExitStatus::ConsoleClosed,
            Error::Crash(_) => ExitStatus::GuestCrash,
            Error::Internal(_) => ExitStatus::Internal,
            Error::Blocked(_) => ExitStatus::Blocked,
            Error::Move(_) => ExitStatus::Move,
        }
    }

    /// A refusal of the host.
    pub fn host(action: impl Into<String>, why: impl std::fmt::Display) -> Error {
        Error::Host { action: action.into(), why: why.to_string() }
    }
}
