//! Decoded code: blocks of instructions by guest-physical page, and the instruction TLB that finds the page of a PC.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cpu::{Cpu, StopCause};
use crate::decode::decode;
use crate::exception::Exception;
use crate::exit::Exit;
use crate::insn::{Insn, Stop};
use crate::jit::{JumpCache, PageTable};
use crate::mem::attr::AccessKind;
use crate::mem::int::MemInt;
use crate::mem::physmap::{Slot, find_slot};
use crate::mem::stage1::Fault;
use crate::mem::tlb::NO_TAG;
use crate::mem::zeroed::{Zeroable, Zeroed};
use crate::sync::{AtomicU32, Ordering};

/// Entries of the instruction TLB.
const ITLB_ENTRIES: usize = 4096;
/// Longest block.
const MAX_BLOCK: usize = 64;
/// Decoded instructions kept before everything is dropped and decoded anew (32 bytes each).
const MAX_INSNS: usize = 400_000;

/// All decoded blocks of one page.
struct CodePage {
    slot: Arc<Slot>,
    ipa: u64,
    /// Generation of the page's contents that the blocks were decoded from.
    generation: u32,
    /// By word of the page: 0, or index of the block that starts there plus one.
    starts: Box<[u16; 1024]>,
    blocks: Vec<Block>,
    /// Where translations for one address and mode stand.
    table: Option<Box<PageTable>>,
    /// That address (of the page) and mode.
    table_for: (u64, u8),
}

/// A decoded block and what was made of it.
pub(crate) struct Block {
    pub insns: Box<[Insn]>,
    /// Executions by the interpreter, as far as they are counted.
    pub heat: u8,
    /// Translations.
    pub entries: Vec<Entry>,
}

/// The words of a page of code.
#[derive(Clone, Copy)]
pub(crate) struct Words<'a>(Option<(&'a Slot, *const u8)>);

impl Words<'_> {
    /// The word at an offset.
    pub fn get(&self, offset: usize) -> Option<u32> {
        let (_, host) = self.0.filter(|_| offset < 0x1000)?;
        // SAFETY: the page lies inside the slot, which stays as long as the reference to it.
        Some(unsafe { u32::get(host.wrapping_add(offset & !3)) })
    }
}

/// A translation of a block.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub pc: u64,
    pub mode: u8,
    /// Offset of the code.
    pub at: u32,
}

/// Translations of one block that are kept, for it may be mapped at several addresses.
const MAX_ENTRIES: usize = 8;

impl Block {
    /// Keeps a translation.
    pub fn add_entry(&mut self, pc: u64, mode: u8, at: u32) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.remove(0);
        }
        self.entries.push(Entry { pc, mode, at });
    }
}

impl CodePage {
    /// The table has no translations any more.
    fn forget_table(&mut self) {
        if let Some(t) = &mut self.table {
            t.fill(0);
        }
    }
    fn code_gen(&self) -> &AtomicU32 {
        self.slot.code_gen(self.ipa)
    }
}

#[derive(Clone, Copy)]
struct ItlbEntry {
    /// Page | fetch context.
    tag: u64,
    /// Index of the code page.
    page: u32,
    guarded: bool,
}

// SAFETY: integers and a boolean; 0 is `false`.
unsafe impl Zeroable for ItlbEntry {}

/// The decoded code of one PE.
#[derive(Default)]
pub(crate) struct CodeCache {
    itlb: Zeroed<[ItlbEntry; ITLB_ENTRIES]>,
    /// `itlb` has entries: a vCPU that never ran does not touch the table (its cost is scenario H4).
    any_itlb: bool,
    pages: Vec<CodePage>,
    by_ipa: HashMap<u64, u32>,
    insns: usize,
    /// Dropped blocks are freed at a block boundary only: the running one may be among them.
    graveyard: Vec<Block>,
    /// Where translated code stands.
    pub jumps: JumpCache,
    /// Everything was dropped: translated code must not go on.
    pub dropped: bool,
    /// Blocks decoded, for statistics.
    pub decoded: u64,
}

/// A block found: its instructions, and whether its page is guarded (FEAT_BTI).
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub insns: *const [Insn],
    pub guarded: bool,
    /// Indices of its page and of the block there.
    pub page: usize,
    pub block: usize,
}

/// Processes that run the same program have its pages at different places.
fn itlb_index(pc: u64, context: u64) -> usize {
    let hash = if pc >> 63 == 0 { context << 5 } else { 0 };
    ((pc >> 12) + hash) as usize & (ITLB_ENTRIES - 1)
}

impl CodeCache {
    /// Forgets which pages virtual addresses lead to.
    pub fn flush_itlb(&mut self) {
        if self.any_itlb {
            for e in self.itlb.iter_mut() {
                e.tag = NO_TAG;
            }
            self.any_itlb = false;
        }
        self.jumps.clear();
    }
    /// Forgets it for some pages.
    pub fn flush_itlb_pages(&mut self, va: u64, pages: u64) {
        if !self.jumps.saw(va, pages) {
            return;
        }
        for e in self.itlb.iter_mut() {
            if (e.tag & !0xfff).wrapping_sub(va & !0xfff) < pages << 12 {
                e.tag = NO_TAG;
            }
        }
        self.jumps.clear_pages(va, pages);
    }
    /// A block by its indices.
    pub fn block_mut(&mut self, page: usize, block: usize) -> Option<&mut Block> {
        self.pages.get_mut(page)?.blocks.get_mut(block)
    }
    /// The words of a page, as they are now.
    pub fn words(&self, page: usize) -> Words<'_> {
        Words(self.pages.get(page).map(|p| (&*p.slot, p.slot.host(p.ipa).cast_const())))
    }
    /// Forgets all translations.
    pub fn forget_entries(&mut self) {
        for p in self.pages.iter_mut() {
            p.blocks.iter_mut().for_each(|b| b.entries.clear());
            p.forget_table();
        }
    }
    /// Enters a translation in the table of its page, and the page among those that generated code knows.
    pub fn note_translation(&mut self, page: usize, pc: u64, mode: u8, at: u32, fetch: u64, hash: u64) {
        let Some(p) = self.pages.get_mut(page) else { return };
        let is_for = (pc & !0xfff, mode);
        if p.table.is_some() && p.table_for != is_for {
            // Whoever knows the table takes it for that of the other address.
            self.jumps.forget_pages();
            p.forget_table();
        }
        p.table_for = is_for;
        let table = p.table.get_or_insert_with(|| Box::new([0; 1024]));
        table[(pc >> 2) as usize & 1023] = at;
        self.jumps.insert_page(pc, fetch, hash, table);
    }
    /// Drops everything.
    pub fn flush(&mut self) {
        self.flush_itlb();
        for p in self.pages.drain(..) {
            self.graveyard.extend(p.blocks);
        }
        self.by_ipa.clear();
        self.insns = 0;
        self.dropped = true;
    }
    /// Frees dropped blocks; only between blocks.
    pub fn bury(&mut self) {
        self.graveyard.clear();
    }
}

impl Cpu {
    /// The block at PC: by the instruction TLB, else by translation and decoding.
    #[inline(always)]
    pub(crate) fn find_block(&mut self) -> Result<Found, Stop> {
        let pc = self.state.pc;
        let context = self.tlb.ctx[(pc >> 63) as usize];
        let e = &self.code.itlb[itlb_index(pc, context)];
        // A misaligned PC is for the slow path; its low bits must not mix with those of the context.
        if (e.tag ^ (pc & !0xfff | context)) | pc & 3 == 0 {
            let guarded = e.guarded;
            if let Some(p) = self.code.pages.get(e.page as usize)
                && p.generation == p.code_gen().load(Ordering::Relaxed)
            {
                let block = (p.starts[(pc >> 2) as usize & 1023] as usize).wrapping_sub(1);
                if let Some(b) = p.blocks.get(block) {
                    return Ok(Found { insns: &raw const *b.insns, guarded, page: e.page as usize, block });
                }
            }
        }
        self.find_block_slow()
    }

    #[cold]
    #[inline(never)]
    fn find_block_slow(&mut self) -> Result<Found, Stop> {
        let pc = self.state.pc;
        if pc & 3 != 0 {
            return self.raise(Exception::pc_alignment(pc));
        }
        let unpriv = self.state.el == 0;
        let t = match self.translate_checked(pc, AccessKind::Fetch, unpriv, false) {
            Ok(t) => t,
            Err(Fault::Stage1(code)) => return self.raise(Exception::instruction_abort(pc, code)),
            Err(Fault::Stage2Walk(ipa)) => return self.leave(Exit::InstAbort { ipa, far: pc, s1ptw: true }),
        };
        self.refresh_slots();
        let Some(slot) = find_slot(&self.slots, t.ipa).cloned() else {
            return self.leave(Exit::InstAbort { ipa: t.ipa, far: pc, s1ptw: false });
        };
        // Marking may carry out requests of others (they may wait for us): then the translation and the slot may be gone.
        // The page is marked now, so that looking again waits for nobody.
        if self.mark_code(&slot, t.ipa) {
            return self.find_block_slow();
        }
        let page = self.code_page(slot, t.ipa & !0xfff);
        let b = self.block(page, t.ipa);
        // Another PE may have taken the page back and written to it meanwhile, untold: then once more, from the run loop,
        // which hears kicks.
        if !self.code.pages[page].slot.page_state(t.ipa).is_ready() {
            self.code.pages[page].generation = self.code.pages[page].generation.wrapping_sub(1);
            self.stop = StopCause::None;
            return Err(Stop);
        }
        let ctx = self.tlb.ctx[(pc >> 63) as usize];
        self.code.jumps.see(pc);
        self.code.any_itlb = true;
        self.code.itlb[itlb_index(pc, ctx)] =
            ItlbEntry { tag: pc & !0xfff | ctx, page: page as u32, guarded: t.info.guarded };
        let insns = &raw const *self.code.pages[page].blocks[b].insns;
        Ok(Found { insns, guarded: t.info.guarded, page, block: b })
    }

    /// Index of the code page at `ipa`, emptied when its contents changed.
    fn code_page(&mut self, slot: Arc<Slot>, ipa: u64) -> usize {
        if self.code.insns > MAX_INSNS {
            self.code.flush();
        }
        let generation = slot.page_state(ipa).generation();
        if let Some(&i) = self.code.by_ipa.get(&ipa) {
            let p = &self.code.pages[i as usize];
            if p.generation != generation || !Arc::ptr_eq(&p.slot, &slot) {
                self.forget_page(i as usize);
                let c = &mut self.code;
                let p = &mut c.pages[i as usize];
                c.insns -= p.blocks.iter().map(|b| b.insns.len()).sum::<usize>();
                c.graveyard.append(&mut p.blocks);
                p.starts.fill(0);
                p.generation = generation;
                p.slot = slot;
            }
            return i as usize;
        }
        let i = self.code.pages.len();
        self.code.pages.push(CodePage {
            slot,
            ipa,
            generation,
            starts: Box::new([0; 1024]),
            blocks: Vec::new(),
            table: None,
            table_for: (0, 0),
        });
        self.code.by_ipa.insert(ipa, i as u32);
        i
    }

    /// Nothing translated from the page is entered any more.
    fn forget_page(&mut self, page: usize) {
        let Some(p) = self.code.pages.get_mut(page) else { return };
        p.forget_table();
        let entries: Vec<Entry> = p.blocks.iter_mut().flat_map(|b| std::mem::take(&mut b.entries)).collect();
        for e in entries {
            self.forget_translated(e.pc, e.at);
        }
    }

    /// The page of `ipa` is written: what was translated from it is not entered any more.
    pub(crate) fn code_written(&mut self, ipa: u64) {
        if self.jit.on()
            && let Some(&i) = self.code.by_ipa.get(&(ipa & !0xfff))
        {
            self.forget_page(i as usize);
        }
    }

    /// Index of the block at `ipa` in its page, decoding it when it is not there.
    fn block(&mut self, page: usize, ipa: u64) -> usize {
        let p = &mut self.code.pages[page];
        let word = (ipa >> 2) as usize & 1023;
        if let Some(b) = (p.starts[word] as usize).checked_sub(1) {
            return b;
        }
        let host = p.slot.host(ipa & !0xfff);
        let mut insns = Vec::with_capacity(16);
        for w in word..1024 {
            // SAFETY: the page lies inside the slot.
            let raw = unsafe { u32::get(host.wrapping_add(w * 4)) };
            let i = decode(raw, &self.features);
            insns.push(i);
            if i.end || insns.len() == MAX_BLOCK {
                break;
            }
        }
        self.code.insns += insns.len();
        self.code.decoded += 1;
        p.blocks.push(Block { insns: insns.into(), heat: 0, entries: Vec::new() });
        p.starts[word] = p.blocks.len() as u16;
        p.blocks.len() - 1
    }

    /// Is the page of the current PC guarded?
    pub fn guarded_page(&self) -> bool {
        let pc = self.state.pc;
        let context = self.tlb.ctx[(pc >> 63) as usize];
        let e = &self.code.itlb[itlb_index(pc, context)];
        e.tag == (pc & !0xfff | context) && e.guarded
    }
}
