//! A differential case at EL0: a state, up to four instructions, and the state afterwards.

/// Where the instructions of all cases of a batch stand: slot n at `CODE + n * SLOT`.
pub const CODE: u64 = 0x10_0000_0000;
/// Bytes of a slot: instructions, then BRK.
pub const SLOT: u64 = 32;
/// Most instructions of a case.
pub const MAX_INSNS: usize = 4;
/// Data pages, with nothing mapped before and after.
pub const DATA: u64 = 0x20_0000_0000;
/// Size of the data pages.
pub const DATA_LEN: usize = 0x2000;
/// BRK #1, the end of a case.
pub const BRK: u32 = 0xd420_0020;

/// Registers as both sides exchange them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Regs {
    /// x0-x30.
    pub x: [u64; 31],
    /// SP.
    pub sp: u64,
    /// PC (on input: ignored).
    pub pc: u64,
    /// PSTATE; only N, Z, C, V are compared.
    pub pstate: u64,
    /// FPSR.
    pub fpsr: u32,
    /// FPCR.
    pub fpcr: u32,
    /// v0-v31.
    pub v: [u128; 32],
}

/// Bytes of [`Regs`] in a file.
pub const REGS_LEN: usize = 31 * 8 + 8 * 3 + 4 * 2 + 32 * 16;

impl Regs {
    /// Little-endian bytes, in the order of the fields.
    pub fn put(&self, out: &mut Vec<u8>) {
        for x in self.x.iter().chain([&self.sp, &self.pc, &self.pstate]) {
            out.extend(x.to_le_bytes());
        }
        out.extend(self.fpsr.to_le_bytes());
        out.extend(self.fpcr.to_le_bytes());
        for v in &self.v {
            out.extend(v.to_le_bytes());
        }
    }
    /// Reads them back.
    pub fn get(b: &[u8]) -> Option<Regs> {
        let mut at = 0;
        let mut take = |n: usize| {
            let s = b.get(at..at + n);
            at += n;
            s
        };
        let mut r = Regs::default();
        for i in 0..34 {
            let v = u64::from_le_bytes(take(8)?.try_into().ok()?);
            match i {
                0..=30 => r.x[i] = v,
                31 => r.sp = v,
                32 => r.pc = v,
                _ => r.pstate = v,
            }
        }
        r.fpsr = u32::from_le_bytes(take(4)?.try_into().ok()?);
        r.fpcr = u32::from_le_bytes(take(4)?.try_into().ok()?);
        for v in &mut r.v {
            *v = u128::from_le_bytes(take(16)?.try_into().ok()?);
        }
        Some(r)
    }
}

/// A case.
#[derive(Clone, Debug)]
pub struct Case {
    /// State before.
    pub regs: Regs,
    /// Seed of the data pages' contents.
    pub mem_seed: u64,
    /// The instructions; unused ones are BRK.
    pub insns: [u32; MAX_INSNS],
}

/// Bytes of a [`Case`] in a file.
pub const CASE_LEN: usize = REGS_LEN + 8 + 4 * MAX_INSNS;

impl Case {
    /// To bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.regs.put(out);
        out.extend(self.mem_seed.to_le_bytes());
        for i in self.insns {
            out.extend(i.to_le_bytes());
        }
    }
    /// From bytes.
    pub fn get(b: &[u8]) -> Option<Case> {
        let regs = Regs::get(b)?;
        let rest = b.get(REGS_LEN..CASE_LEN)?;
        let mem_seed = u64::from_le_bytes(rest[..8].try_into().ok()?);
        let mut insns = [0; MAX_INSNS];
        for (i, c) in insns.iter_mut().zip(rest[8..].chunks_exact(4)) {
            *i = u32::from_le_bytes(c.try_into().ok()?);
        }
        Some(Case { regs, mem_seed, insns })
    }
}

/// How a case ended, as a Linux process sees it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Signal number: 5 SIGTRAP (BRK), 4 SIGILL, 7 SIGBUS, 11 SIGSEGV.
    pub signal: u32,
    /// State.
    pub regs: Regs,
    /// Hash of the data pages.
    pub mem: u64,
}

/// Bytes of an [`Outcome`] in a file.
pub const OUTCOME_LEN: usize = REGS_LEN + 8 + 8;

impl Outcome {
    /// To bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        self.regs.put(out);
        out.extend(u64::from(self.signal).to_le_bytes());
        out.extend(self.mem.to_le_bytes());
    }
    /// From bytes.
    pub fn get(b: &[u8]) -> Option<Outcome> {
        let regs = Regs::get(b)?;
        let rest = b.get(REGS_LEN..OUTCOME_LEN)?;
        let signal = u64::from_le_bytes(rest[..8].try_into().ok()?) as u32;
        Some(Outcome { signal, regs, mem: u64::from_le_bytes(rest[8..].try_into().ok()?) })
    }

    /// Takes out what the manual leaves open: what an access of more than 8 bytes did before it faulted.
    pub fn normalise(&mut self, case: &Case) {
        const SIGSEGV: u32 = 11;
        let partial = |i: &&u32| crate::generate::partial_on_fault(**i);
        if self.signal != SIGSEGV || !case.insns.iter().any(|i| partial(&i)) {
            return;
        }
        self.mem = 0;
        self.regs.v = [0; 32];
        for i in case.insns.iter().filter(partial).filter(|i| *i >> 26 & 1 == 0) {
            for r in [i & 31, i >> 10 & 31] {
                if r < 31 && r != i >> 5 & 31 {
                    self.regs.x[r as usize] = 0;
                }
            }
        }
    }

    /// A hash of everything that is compared.
    pub fn digest(&self) -> u64 {
        let mut o = self.clone();
        o.regs.pstate &= 0xf000_0000;
        let mut b = Vec::with_capacity(OUTCOME_LEN);
        o.put(&mut b);
        hash_data(&b)
    }

    /// What differs, in words; `None` when nothing does.
    pub fn difference(&self, reference: &Outcome) -> Option<String> {
        let mut d = Vec::new();
        let mut hex = |name: String, a: u128, b: u128| {
            if a != b {
                d.push(format!("{name} {a:#x} (reference {b:#x})"));
            }
        };
        hex("signal".into(), self.signal.into(), reference.signal.into());
        hex("pc".into(), self.regs.pc.into(), reference.regs.pc.into());
        for i in 0..31 {
            hex(format!("x{i}"), self.regs.x[i].into(), reference.regs.x[i].into());
        }
        hex("sp".into(), self.regs.sp.into(), reference.regs.sp.into());
        let flags = |r: &Regs| u128::from(r.pstate >> 28 & 15);
        hex("nzcv".into(), flags(&self.regs), flags(&reference.regs));
        hex("fpsr".into(), self.regs.fpsr.into(), reference.regs.fpsr.into());
        hex("fpcr".into(), self.regs.fpcr.into(), reference.regs.fpcr.into());
        for i in 0..32 {
            hex(format!("v{i}"), self.regs.v[i], reference.regs.v[i]);
        }
        hex("memory".into(), self.mem.into(), reference.mem.into());
        if d.is_empty() { None } else { Some(d.join(", ")) }
    }
}

/// Contents of the data pages: both sides compute them from the seed (xorshift64*).
pub fn fill_data(seed: u64, out: &mut [u8]) {
    let mut s = seed | 1;
    for c in out.chunks_mut(8) {
        s ^= s >> 12;
        s ^= s << 25;
        s ^= s >> 27;
        let v = s.wrapping_mul(0x2545_f491_4f6c_dd1d);
        c.copy_from_slice(&v.to_le_bytes()[..c.len()]);
    }
}

/// Hash of the data pages (FNV-like over 8-byte words).
pub fn hash_data(data: &[u8]) -> u64 {
    data.chunks_exact(8).fold(0xcbf2_9ce4_8422_2325, |h: u64, c| {
        let mut w = [0; 8];
        w.copy_from_slice(c);
        (h ^ u64::from_le_bytes(w)).wrapping_mul(0x100_0000_01b3).rotate_left(23)
    })
}

/// A recorded case: the seed of its state, its instructions, the digest of the reference's (normalised) outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// For [`Case::from_seed`].
    pub seed: u64,
    /// The instructions.
    pub insns: [u32; MAX_INSNS],
    /// [`Outcome::digest`] of the reference.
    pub digest: u64,
}

/// Bytes of a [`Recorded`] in a file.
pub const RECORDED_LEN: usize = 8 + 4 * MAX_INSNS + 8;

impl Recorded {
    /// To bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.seed.to_le_bytes());
        self.insns.iter().for_each(|i| out.extend(i.to_le_bytes()));
        out.extend(self.digest.to_le_bytes());
    }
    /// From bytes.
    pub fn get(b: &[u8]) -> Option<Recorded> {
        let word = |at: usize| Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?));
        let mut insns = [0; MAX_INSNS];
        for (n, i) in insns.iter_mut().enumerate() {
            *i = u32::from_le_bytes(b.get(8 + 4 * n..12 + 4 * n)?.try_into().ok()?);
        }
        Some(Recorded { seed: word(0)?, insns, digest: word(8 + 4 * MAX_INSNS)? })
    }
}
