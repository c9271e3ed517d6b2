//! How an engine is set up, and what it tells of itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Bytes of generated code that a PE keeps before it starts anew, unless told otherwise.
pub const DEFAULT_CACHE: usize = 32 << 20;

/// Gets lines or reports.
pub type TextSink = Arc<dyn Fn(&str) + Send + Sync>;

/// How the engine of a PE is set up.
#[derive(Clone, Default)]
pub struct EngineOptions {
    /// Bytes of generated code that a PE keeps before it starts anew; 0 for [`DEFAULT_CACHE`].
    pub cache: usize,
    /// Translate a block before it is executed for the first time: short guests then show what the translator does.
    pub at_once: bool,
    /// Count how often each block and each handler is executed.
    pub profile: bool,
    /// Gets lines as `perf` wants them in `/tmp/perf-PID.map`: where generated code stands and how it is called.
    pub perf_map: Option<TextSink>,
    /// Gets the report of the first difference that [`super::Engine::Check`] finds.
    pub difference: Option<TextSink>,
    /// Gets what a PE counted, when it ends.
    pub report: Option<Arc<dyn Fn(EngineReport) + Send + Sync>>,
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("cache", &self.cache)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl EngineOptions {
    /// The size of the code cache.
    pub(crate) fn cache(&self) -> usize {
        if self.cache == 0 { DEFAULT_CACHE } else { self.cache.clamp(MIN_CACHE, 1 << 30) }
    }
}

/// The smallest code cache: some of the longest blocks.
pub const MIN_CACHE: usize = 1 << 20;

/// What an engine counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instructions executed.
    pub instructions: u64,
    /// Blocks decoded.
    pub decoded: u64,
    /// Blocks translated.
    pub translated: u64,
    /// Guest instructions in them.
    pub translated_instructions: u64,
    /// Bytes of generated code, all translations together.
    pub code_bytes: u64,
    /// Jumps patched to go straight to their target.
    pub chained: u64,
    /// Times that generated code was entered.
    pub entered: u64,
    /// Times that it was left because it did not know where a jump leads.
    pub lookups: u64,
    /// Handlers of the interpreter that generated code called.
    pub handlers: u64,
    /// Blocks that the interpreter executed.
    pub interpreted: u64,
    /// Times that all generated code was dropped.
    pub evictions: u64,
    /// Data accesses that the first level of the TLB did not know.
    pub tlb_misses: u64,
    /// Walks of the guest's translation tables.
    pub walks: u64,
    /// Whole flushes of the TLB.
    pub tlb_flushes: u64,
    /// Times that the CPU was left for the hypervisor.
    pub exits: u64,
    /// Blocks that `check` compared.
    pub compared: u64,
    /// Blocks that it could not compare.
    pub not_compared: u64,
}

impl Counters {
    /// Names and values, in the order of the fields.
    pub fn rows(&self) -> [(&'static str, u64); 17] {
        [
            ("instructions", self.instructions),
            ("decoded", self.decoded),
            ("translated", self.translated),
            ("translated_instructions", self.translated_instructions),
            ("code_bytes", self.code_bytes),
            ("chained", self.chained),
            ("entered", self.entered),
            ("lookups", self.lookups),
            ("handlers", self.handlers),
            ("interpreted", self.interpreted),
            ("evictions", self.evictions),
            ("tlb_misses", self.tlb_misses),
            ("walks", self.walks),
            ("tlb_flushes", self.tlb_flushes),
            ("exits", self.exits),
            ("compared", self.compared),
            ("not_compared", self.not_compared),
        ]
    }
}

/// A block and how often it was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotBlock {
    /// Address of its first instruction.
    pub pc: u64,
    /// Exception level.
    pub el: u8,
    /// Instructions.
    pub len: u32,
    /// Executions.
    pub runs: u64,
}

/// What the engine of a PE tells at its end.
#[derive(Clone, Debug, Default)]
pub struct EngineReport {
    /// Index of the PE.
    pub index: usize,
    /// Its counters.
    pub counters: Counters,
    /// Blocks by executed instructions, most first; only with [`EngineOptions::profile`].
    pub blocks: Vec<HotBlock>,
    /// Instructions that generated code left to the interpreter's handlers, most often used first; only with
    /// [`EngineOptions::profile`].
    pub handlers: Vec<(&'static str, u64)>,
}

/// Counts of blocks, at addresses that stay.
#[derive(Default)]
pub(crate) struct Profile {
    cells: Vec<Box<[u64; CHUNK]>>,
    blocks: Vec<HotBlock>,
    index: HashMap<(u64, u8, u32), usize>,
    /// By operation.
    pub handlers: Vec<u64>,
}

const CHUNK: usize = 1024;

impl Profile {
    /// Where executions of a block are counted.
    pub fn cell(&mut self, pc: u64, el: u8, len: u32) -> *mut u64 {
        let n = match self.index.get(&(pc, el, len)) {
            Some(&n) => n,
            None => {
                let n = self.blocks.len();
                self.blocks.push(HotBlock { pc, el, len, runs: 0 });
                self.index.insert((pc, el, len), n);
                n
            }
        };
        while self.cells.len() <= n / CHUNK {
            self.cells.push(Box::new([0; CHUNK]));
        }
        &raw mut self.cells[n / CHUNK][n % CHUNK]
    }
    /// One more execution.
    pub fn count(&mut self, pc: u64, el: u8, len: u32) {
        let p = self.cell(pc, el, len);
        // SAFETY: `cell` gave an element of a box that this value owns.
        unsafe { *p = p.read().wrapping_add(1) };
    }
    /// One more handler.
    pub fn handler(&mut self, op: usize) {
        if self.handlers.len() <= op {
            self.handlers.resize(op + 1, 0);
        }
        self.handlers[op] += 1;
    }
    /// Blocks by executed instructions.
    pub fn hot(&self) -> Vec<HotBlock> {
        let mut v: Vec<HotBlock> = self
            .blocks
            .iter()
            .enumerate()
            .map(|(n, b)| HotBlock { runs: self.cells[n / CHUNK][n % CHUNK], ..*b })
            .filter(|b| b.runs != 0)
            .collect();
        v.sort_by_key(|b| std::cmp::Reverse(b.runs.saturating_mul(b.len.into())));
        v
    }
}

impl crate::Cpu {
    pub(crate) fn set_options(&mut self, o: &EngineOptions) {
        self.options = o.clone();
        self.profile = o.profile.then(Box::default);
    }

    /// What the engine counted up to now.
    pub fn engine_report(&self) -> EngineReport {
        let mut counters = self.counters;
        counters.instructions = self.state.icount;
        counters.decoded = self.code.decoded;
        counters.tlb_flushes = self.tlb.flushes;
        let Some(p) = &self.profile else {
            return EngineReport { index: self.index, counters, ..EngineReport::default() };
        };
        let mut handlers: Vec<(&'static str, u64)> = p
            .handlers
            .iter()
            .enumerate()
            .filter(|(_, n)| **n != 0)
            .map(|(op, n)| (crate::decode::LINES.get(op).map_or("?", |l| l.name), *n))
            .collect();
        handlers.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        EngineReport { index: self.index, counters, blocks: p.hot(), handlers }
    }
}

impl Drop for crate::Cpu {
    fn drop(&mut self) {
        if let Some(f) = self.options.report.take() {
            f(self.engine_report());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_counted_apart_and_the_hottest_comes_first() {
        let mut p = Profile::default();
        for n in 0..3000u64 {
            p.count(0x1000 + 4 * n, 0, 1);
        }
        let first = p.cell(0x1000, 0, 1);
        p.count(0x1000, 1, 5);
        assert_eq!(first, p.cell(0x1000, 0, 1));
        let hot = p.hot();
        assert_eq!(hot.len(), 3001);
        assert_eq!(hot[0], HotBlock { pc: 0x1000, el: 1, len: 5, runs: 1 });
    }

    #[test]
    fn a_cache_has_a_least_size() {
        assert_eq!(EngineOptions::default().cache(), DEFAULT_CACHE);
        assert_eq!(EngineOptions { cache: 1, ..EngineOptions::default() }.cache(), MIN_CACHE);
    }
}
