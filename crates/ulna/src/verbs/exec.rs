//! `ulna exec`: a program finds a working `/dev/kvm`; `ulna serve`: the server of one process.

use crate::complain;
use crate::host::{PolicyArg, find_profile, host_help};
use crate::values;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use ulna_devices::virtio::rng::{Entropy, HostEntropy};
use ulna_kvm_core::{ClockKind, Engine, EngineOptions, Kvm, KvmConfig};
use ulna_profile::KernelLevel;
use ulna_serve::launch;
use ulna_trace::{Log, Tracer};
use ulna_vmm::{Error, ExitStatus};

/// What the program's `/dev/kvm` plays.
#[derive(Args)]
pub struct PlayArgs {
    /// Host to play: the name of a built-in profile, or the path of a profile file
    #[arg(long, value_name = "PROFILE", default_value = "max", long_help = host_help())]
    host: String,
    /// Limits: what KVM on that hardware can do (hw), or what software can do beyond (soft)
    #[arg(long, value_enum, default_value = "hw", value_name = "hw|soft", hide_possible_values = true)]
    policy: PolicyArg,
    /// Kernel whose KVM is played [default: the profile's]
    #[arg(long, value_name = "MAJOR.MINOR", value_parser = values::kernel)]
    abi: Option<KernelLevel>,
    /// Show what Linux has and nothing else; refuse what carries something where the interface asks for zero
    #[arg(long)]
    strict: bool,
    /// Write a line for each KVM call: what was asked, the answer, and why it was refused
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value = "jit", value_name = "jit|interp", hide_possible_values = true)]
    engine: EngineArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineArg {
    Jit,
    Interp,
}

/// The program gets a /dev/kvm that behaves as on the host of the profile, whether this host has one or not. Its exit code
/// is passed on.
#[derive(Args)]
pub struct ExecArgs {
    #[command(flatten)]
    play: PlayArgs,
    /// The library that is loaded into the program [default: beside this program; built by `cargo xtask shim`]
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// qemu-aarch64, which starts an arm64 program on another host [default: found in PATH]
    #[arg(long, value_name = "FILE")]
    qemu: Option<PathBuf>,
    /// Where qemu-aarch64 finds arm64 libraries [default: /usr/aarch64-linux-gnu, if the loader is there]
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Serves the client whose connection is standard input.
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    play: PlayArgs,
}

fn internal(what: &str, e: impl std::fmt::Display) -> Error {
    Error::Internal(format!("{what}: {e}"))
}

impl PlayArgs {
    fn kvm(&self) -> Result<Kvm, Error> {
        let mut profile = find_profile(&self.host)?;
        if let Some(level) = self.abi {
            profile.kernel = level;
        }
        let random = || {
            let mut bytes = [0; 8];
            let _ = HostEntropy.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        Ok(Kvm::new(KvmConfig {
            profile,
            policy: self.policy.into(),
            clock: ClockKind::Host,
            random: Arc::new(random),
            wall_clock: Arc::new(super::run::wall_clock_ns),
            engine: match self.engine {
                EngineArg::Jit => Engine::Jit,
                EngineArg::Interp => Engine::Interp,
            },
            engine_options: EngineOptions::default(),
            strict: self.strict,
        }))
    }

    /// The command line of a server that plays this.
    fn server(&self) -> Result<Vec<OsString>, Error> {
        let exe = std::env::current_exe().map_err(|e| internal("cannot find this program", e))?;
        let mut c: Vec<OsString> =
            vec![exe.into(), "serve".into(), "--host".into(), self.host.clone().into()];
        let word = |v: Option<clap::builder::PossibleValue>| {
            v.map_or(OsString::new(), |v| v.get_name().to_owned().into())
        };
        c.extend(["--policy".into(), word(self.policy.to_possible_value())]);
        c.extend(["--engine".into(), word(self.engine.to_possible_value())]);
        if let Some(l) = self.abi {
            c.extend(["--abi".into(), format!("{}.{}", l.major, l.minor).into()]);
        }
        if self.strict {
            c.push("--strict".into());
        }
        if let Some(path) = &self.trace {
            let path = std::path::absolute(path).map_err(|e| internal("cannot find the trace file", e))?;
            std::fs::File::create(&path).map_err(|source| Error::File {
                action: "write the trace",
                path: path.clone(),
                source,
            })?;
            c.extend(["--trace".into(), path.into()]);
        }
        Ok(c)
    }
}

impl ExecArgs {
    /// Runs the program; returns only if it could not be started.
    pub fn call(self) -> ExitStatus {
        match self.run() {
            Ok(code) => std::process::exit(code.into()),
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }

    fn run(self) -> Result<u8, Error> {
        // What is wrong with the options is told here, once, and not by each server.
        self.play.kvm()?;
        let mut words = self.program.into_iter();
        let e = launch::Exec {
            program: words.next().unwrap_or_default(),
            args: words.collect(),
            shim: self.shim,
            qemu: self.qemu,
            sysroot: self.sysroot,
            server: self.play.server()?,
        };
        launch::exec(&e).map_err(|e| Error::Usage(e.to_string()))
    }
}

impl ServeArgs {
    /// Serves until the client is gone.
    pub fn call(self) -> ExitStatus {
        match self.run() {
            Ok(()) => ExitStatus::Done,
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }

    fn run(self) -> Result<(), Error> {
        let strict = self.play.strict;
        let kvm = Arc::new(self.play.kvm()?);
        let connection = std::io::stdin().as_fd().try_clone_to_owned();
        let connection = connection.map_err(|e| internal("standard input", e))?;
        let tracer = self.play.trace.as_ref().map(|path| {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            let file =
                file.map_err(|source| Error::File { action: "write the trace", path: path.clone(), source })?;
            Ok::<Arc<dyn Tracer>, Error>(Arc::new(Log::new(file)))
        });
        ulna_serve::confine::confine().map_err(|e| internal("cannot confine the server", e))?;
        let options = ulna_serve::Options { kvm, strict, tracer: tracer.transpose()? };
        ulna_serve::serve(connection, options).map_err(|e| internal("the client", e))
    }
}
