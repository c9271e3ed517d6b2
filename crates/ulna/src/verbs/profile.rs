//! `ulna run --profile-guest` and `--perf-map`: what the engine did.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use ulna_kvm_backend::software::EngineReport;
use ulna_vmm::Error;

/// Blocks that are listed.
const BLOCKS: usize = 100;

/// The file of `--profile-guest`, and what has been reported for it.
pub struct ProfileFile {
    path: PathBuf,
    file: Mutex<File>,
    reports: Arc<Mutex<Vec<EngineReport>>>,
}

type Sink<T> = Arc<dyn Fn(T) + Send + Sync>;
type Lines = Arc<dyn Fn(&str) + Send + Sync>;

#[derive(Serialize)]
struct Profile {
    vcpus: Vec<BTreeMap<&'static str, u64>>,
    blocks: Vec<Block>,
    handlers: Vec<Handler>,
}

#[derive(Serialize, Clone)]
struct Block {
    pc: String,
    el: u8,
    length: u32,
    runs: u64,
    instructions: u64,
}

#[derive(Serialize)]
struct Handler {
    instruction: &'static str,
    calls: u64,
}

impl ProfileFile {
    /// Makes the file, before the guest starts.
    pub fn create(path: &Path) -> Result<ProfileFile, Error> {
        let file = File::create(path).map_err(|source| Error::File {
            action: "write the profile to",
            path: path.into(),
            source,
        })?;
        Ok(ProfileFile { path: path.into(), file: Mutex::new(file), reports: Arc::default() })
    }

    /// Takes the report of each vCPU.
    pub fn sink(&self) -> Sink<EngineReport> {
        let reports = self.reports.clone();
        Arc::new(move |r| reports.lock().unwrap_or_else(PoisonError::into_inner).push(r))
    }

    /// Writes it, once this many vCPUs have reported (their threads end on their own) or do not within a second.
    pub fn write(&self, vcpus: u32) -> Result<(), Error> {
        let count = || self.reports.lock().unwrap_or_else(PoisonError::into_inner).len();
        for _ in 0..1000 {
            if count() >= vcpus as usize {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut reports = std::mem::take(&mut *self.reports.lock().unwrap_or_else(PoisonError::into_inner));
        reports.sort_by_key(|r| r.index);
        let p = summary(&reports);
        let text = if self.path.extension().is_some_and(|e| e == "json") {
            serde_json::to_string_pretty(&p).map_err(|e| Error::Internal(e.to_string()))? + "\n"
        } else {
            text(&p)
        };
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(text.as_bytes()).map_err(|source| Error::File {
            action: "write the profile to",
            path: self.path.clone(),
            source,
        })
    }
}

/// All vCPUs together.
fn summary(reports: &[EngineReport]) -> Profile {
    let mut blocks: BTreeMap<(u64, u8, u32), u64> = BTreeMap::new();
    let mut handlers: BTreeMap<&'static str, u64> = BTreeMap::new();
    for r in reports {
        for b in &r.blocks {
            *blocks.entry((b.pc, b.el, b.len)).or_default() += b.runs;
        }
        for (name, n) in &r.handlers {
            *handlers.entry(name).or_default() += n;
        }
    }
    let mut blocks: Vec<Block> = blocks
        .into_iter()
        .map(|((pc, el, length), runs)| Block {
            pc: format!("{pc:#018x}"),
            el,
            length,
            runs,
            instructions: runs.saturating_mul(length.into()),
        })
        .collect();
    blocks.sort_by_key(|b| std::cmp::Reverse(b.instructions));
    blocks.truncate(BLOCKS);
    let mut handlers: Vec<Handler> =
        handlers.into_iter().map(|(instruction, calls)| Handler { instruction, calls }).collect();
    handlers.sort_by_key(|h| std::cmp::Reverse(h.calls));
    let vcpus = reports.iter().map(|r| r.counters.rows().into_iter().collect()).collect();
    Profile { vcpus, blocks, handlers }
}

fn text(p: &Profile) -> String {
    let mut out = String::new();
    for (n, v) in p.vcpus.iter().enumerate() {
        let _ = writeln!(out, "vCPU {n}");
        for (name, count) in v {
            let _ = writeln!(out, "  {:<24} {count:>16}", name.replace('_', " "));
        }
    }
    let all: u64 = p.vcpus.iter().filter_map(|v| v.get("instructions")).sum();
    let percent = |n: u64| 100.0 * n as f64 / all.max(1) as f64;
    let _ = writeln!(out, "\nHot blocks: share of all instructions, executions, EL, length, address");
    for b in &p.blocks {
        let _ = writeln!(
            out,
            "  {:>6.2} % {:>14}  EL{} {:>3}  {}",
            percent(b.instructions),
            b.runs,
            b.el,
            b.length,
            b.pc
        );
    }
    let _ = writeln!(out, "\nInstructions that translated code left to the interpreter's handlers");
    for h in &p.handlers {
        let _ = writeln!(out, "  {:>6.2} % {:>14}  {}", percent(h.calls), h.calls, h.instruction);
    }
    out
}

/// Where `perf` looks for the names of code that a process made (tools/perf/Documentation/jit-interface.txt).
pub fn perf_map() -> Result<Lines, Error> {
    let path = PathBuf::from(format!("/tmp/perf-{}.map", std::process::id()));
    let file = File::create(&path).map_err(|source| Error::File { action: "write", path, source })?;
    let file = Mutex::new(file);
    Ok(Arc::new(move |line| {
        let mut f = file.lock().unwrap_or_else(PoisonError::into_inner);
        // Without the line one block has no name.
        let _ = writeln!(f, "{line}");
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ulna_kvm_backend::software::{Counters, HotBlock};

    fn report(index: usize, runs: u64) -> EngineReport {
        let counters = Counters { instructions: 100, translated: 3, ..Counters::default() };
        let blocks = vec![
            HotBlock { pc: 0x4000, el: 1, len: 5, runs },
            HotBlock { pc: 0x8000, el: 0, len: 50, runs: 1 },
        ];
        EngineReport { index, counters, blocks, handlers: vec![("SVC", 7)] }
    }

    #[test]
    fn vcpus_are_added_and_the_hottest_block_comes_first() {
        let p = summary(&[report(0, 20), report(1, 30)]);
        assert_eq!(p.blocks.len(), 2);
        assert_eq!((p.blocks[0].runs, p.blocks[0].instructions), (50, 250));
        assert_eq!((p.handlers[0].instruction, p.handlers[0].calls), ("SVC", 14));
        assert_eq!(p.vcpus[1]["translated"], 3);
        let t = text(&p);
        assert!(t.contains("125.00 %") && t.contains("0x0000000000004000"), "{t}");
    }
}
