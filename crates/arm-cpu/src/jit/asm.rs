//! The x86-64 encoder: only the forms that the translator uses, general-purpose part. VEX forms stand in [`super::vex`].
//!
//! Code is assembled into a byte vector that knows its offset in the code region, so jumps to thunks and other blocks are
//! final. `flags_dirty` is set by every instruction that changes the arithmetic flags, by which the translator knows
//! whether flags of the guest may still stand there.

/// A general-purpose register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reg(pub u8);

#[allow(missing_docs)]
pub mod r {
    use super::Reg;
    pub const RAX: Reg = Reg(0);
    pub const RCX: Reg = Reg(1);
    pub const RDX: Reg = Reg(2);
    pub const RBX: Reg = Reg(3);
    pub const RSP: Reg = Reg(4);
    pub const RBP: Reg = Reg(5);
    pub const RSI: Reg = Reg(6);
    pub const RDI: Reg = Reg(7);
    pub const R8: Reg = Reg(8);
    pub const R9: Reg = Reg(9);
    pub const R10: Reg = Reg(10);
    pub const R11: Reg = Reg(11);
    pub const R12: Reg = Reg(12);
    pub const R13: Reg = Reg(13);
    pub const R14: Reg = Reg(14);
    pub const R15: Reg = Reg(15);
}

/// A memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    /// Base register.
    pub base: Reg,
    /// Index register (never RSP) and log2 of its scale.
    pub index: Option<(Reg, u8)>,
    /// Displacement.
    pub disp: i32,
}

impl Mem {
    /// `[base + disp]`.
    pub const fn at(base: Reg, disp: i32) -> Mem {
        Mem { base, index: None, disp }
    }
    /// `[base + index << scale + disp]`.
    pub const fn indexed(base: Reg, index: Reg, scale: u8, disp: i32) -> Mem {
        Mem { base, index: Some((index, scale)), disp }
    }
    /// The same, `n` bytes on.
    pub const fn plus(self, n: i32) -> Mem {
        Mem { disp: self.disp + n, ..self }
    }
}

/// A register or memory operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    /// Register.
    R(Reg),
    /// Memory.
    M(Mem),
}

impl From<Reg> for Rm {
    fn from(r: Reg) -> Rm {
        Rm::R(r)
    }
}
impl From<Mem> for Rm {
    fn from(m: Mem) -> Rm {
        Rm::M(m)
    }
}

/// Two-operand arithmetic, as encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Alu {
    Add = 0,
    Or = 1,
    Adc = 2,
    Sbb = 3,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts, as encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Shift {
    Rol = 0,
    Ror = 1,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// One-operand arithmetic of group 3, as encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Unary {
    Not = 2,
    Neg = 3,
    Mul = 4,
    Imul = 5,
    Div = 6,
    Idiv = 7,
}

/// Conditions, as encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Cc {
    O = 0,
    No = 1,
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    Ns = 9,
    P = 10,
    Np = 11,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cc {
    /// The opposite.
    pub fn inverse(self) -> Cc {
        ALL_CC[(self as usize) ^ 1]
    }
}

const ALL_CC: [Cc; 16] = [
    Cc::O,
    Cc::No,
    Cc::B,
    Cc::Ae,
    Cc::E,
    Cc::Ne,
    Cc::Be,
    Cc::A,
    Cc::S,
    Cc::Ns,
    Cc::P,
    Cc::Np,
    Cc::L,
    Cc::Ge,
    Cc::Le,
    Cc::G,
];

/// A place in the code that is jumped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// An assembler for one piece of code.
#[derive(Default)]
pub struct Asm {
    /// The bytes so far.
    pub code: Vec<u8>,
    /// Offset of the first byte in the code region.
    pub base: u32,
    /// An instruction since it was last cleared changed the arithmetic flags.
    pub flags_dirty: bool,
    labels: Vec<Option<u32>>,
    fixups: Vec<(u32, Label)>,
}

impl Asm {
    /// For code that will stand at `base`.
    pub fn new(base: u32) -> Asm {
        Asm {
            code: Vec::with_capacity(1024),
            base,
            flags_dirty: true,
            labels: Vec::new(),
            fixups: Vec::new(),
        }
    }
    /// Starts anew at `base`, keeping allocations.
    pub fn reset(&mut self, base: u32) {
        self.code.clear();
        self.labels.clear();
        self.fixups.clear();
        self.base = base;
        self.flags_dirty = true;
    }
    /// Offset in the code region of what comes next.
    pub fn here(&self) -> u32 {
        self.base + self.code.len() as u32
    }
    /// A label to be bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    /// The label is here.
    pub fn bind(&mut self, l: Label) {
        self.labels[l.0] = Some(self.here());
    }
    /// Fills in all jumps to labels.
    pub fn finish(&mut self) {
        for (at, l) in std::mem::take(&mut self.fixups) {
            let target = self.labels[l.0].unwrap_or(self.base);
            let rel = target.wrapping_sub(at + 4);
            let i = (at - self.base) as usize;
            self.code[i..i + 4].copy_from_slice(&rel.to_le_bytes());
        }
    }

    /// A raw byte.
    pub fn byte(&mut self, b: u8) {
        self.code.push(b);
    }
    pub(super) fn bytes(&mut self, b: &[u8]) {
        self.code.extend_from_slice(b);
    }

    /// ModRM, SIB, displacement.
    pub(super) fn modrm(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        match rm {
            Rm::R(r) => self.byte(0xc0 | reg | r.0 & 7),
            Rm::M(m) => {
                let (mode, len) = match m.disp {
                    0 if m.base.0 & 7 != 5 => (0, 0),
                    -128..=127 => (0x40, 1),
                    _ => (0x80, 4),
                };
                match m.index {
                    Some((x, scale)) => {
                        self.byte(mode | reg | 4);
                        self.byte(scale << 6 | (x.0 & 7) << 3 | m.base.0 & 7);
                    }
                    None if m.base.0 & 7 == 4 => {
                        self.byte(mode | reg | 4);
                        self.byte(0x24);
                    }
                    None => self.byte(mode | reg | m.base.0 & 7),
                }
                match len {
                    1 => self.byte(m.disp as u8),
                    4 => self.bytes(&m.disp.to_le_bytes()),
                    _ => {}
                }
            }
        }
    }

    /// The bits X and B of REX.
    pub(super) fn xb(rm: Rm) -> (u8, u8) {
        match rm {
            Rm::R(r) => (0, r.0 >> 3),
            Rm::M(m) => (m.index.map_or(0, |(x, _)| x.0 >> 3), m.base.0 >> 3),
        }
    }

    /// An instruction with a legacy encoding. `byte_regs`: registers 4-7 mean SPL to DIL.
    pub(super) fn op(
        &mut self,
        prefix: Option<u8>,
        w: bool,
        opcode: &[u8],
        reg: u8,
        rm: Rm,
        byte_regs: bool,
    ) {
        if let Some(p) = prefix {
            self.byte(p);
        }
        let (x, b) = Self::xb(rm);
        let rex = u8::from(w) << 3 | (reg >> 3) << 2 | x << 1 | b;
        let low = byte_regs && ((4..8).contains(&reg) || matches!(rm, Rm::R(r) if (4..8).contains(&r.0)));
        if rex != 0 || low {
            self.byte(0x40 | rex);
        }
        self.bytes(opcode);
        self.modrm(reg, rm);
    }

    /// `op reg, rm`.
    pub fn alu(&mut self, op: Alu, w: bool, reg: Reg, rm: impl Into<Rm>) {
        self.op(None, w, &[(op as u8) << 3 | 3], reg.0, rm.into(), false);
        self.flags_dirty = true;
    }
    /// `op rm, reg`.
    pub fn alu_to(&mut self, op: Alu, w: bool, rm: impl Into<Rm>, reg: Reg) {
        self.op(None, w, &[(op as u8) << 3 | 1], reg.0, rm.into(), false);
        self.flags_dirty = true;
    }
    /// `op rm, imm` with a sign-extended immediate.
    pub fn alu_i(&mut self, op: Alu, w: bool, rm: impl Into<Rm>, imm: i32) {
        match i8::try_from(imm) {
            Ok(v) => {
                self.op(None, w, &[0x83], op as u8, rm.into(), false);
                self.byte(v as u8);
            }
            Err(_) => {
                self.op(None, w, &[0x81], op as u8, rm.into(), false);
                self.bytes(&imm.to_le_bytes());
            }
        }
        self.flags_dirty = true;
    }
    /// `op byte rm, imm`.
    pub fn alu8_i(&mut self, op: Alu, rm: impl Into<Rm>, imm: u8) {
        self.op(None, false, &[0x80], op as u8, rm.into(), true);
        self.byte(imm);
        self.flags_dirty = true;
    }
    /// `cmp byte [m], 0`.
    pub fn cmp8_zero(&mut self, m: Mem) {
        self.alu8_i(Alu::Cmp, m, 0);
    }
    /// `movzx reg, ah`.
    pub fn mov_ah(&mut self, reg: Reg) {
        self.bytes(&[0x0f, 0xb6, 0xc4 | (reg.0 & 7) << 3]);
    }
    /// `cmp byte [m], reg` and the like are not needed; this is `op byte reg, rm`.
    pub fn alu8(&mut self, op: Alu, reg: Reg, rm: impl Into<Rm>) {
        self.op(None, false, &[(op as u8) << 3 | 2], reg.0, rm.into(), true);
        self.flags_dirty = true;
    }
    /// `test rm, reg`.
    pub fn test(&mut self, w: bool, rm: impl Into<Rm>, reg: Reg) {
        self.op(None, w, &[0x85], reg.0, rm.into(), false);
        self.flags_dirty = true;
    }
    /// `test rm, imm`.
    pub fn test_i(&mut self, w: bool, rm: impl Into<Rm>, imm: i32) {
        self.op(None, w, &[0xf7], 0, rm.into(), false);
        self.bytes(&imm.to_le_bytes());
        self.flags_dirty = true;
    }
    /// `test byte rm, imm`.
    pub fn test8_i(&mut self, rm: impl Into<Rm>, imm: u8) {
        self.op(None, false, &[0xf6], 0, rm.into(), true);
        self.byte(imm);
        self.flags_dirty = true;
    }
    /// `mov reg, rm`.
    pub fn mov(&mut self, w: bool, reg: Reg, rm: impl Into<Rm>) {
        self.op(None, w, &[0x8b], reg.0, rm.into(), false);
    }
    /// `mov [m], reg` of 8, 16, 32 or 64 bits by log2 of the bytes.
    pub fn store(&mut self, size: u32, m: impl Into<Rm>, reg: Reg) {
        match size {
            0 => self.op(None, false, &[0x88], reg.0, m.into(), true),
            1 => self.op(Some(0x66), false, &[0x89], reg.0, m.into(), false),
            _ => self.op(None, size == 3, &[0x89], reg.0, m.into(), false),
        }
    }
    /// `mov qword/dword [m], imm`.
    pub fn store_i(&mut self, w: bool, m: Mem, imm: i32) {
        self.op(None, w, &[0xc7], 0, m.into(), false);
        self.bytes(&imm.to_le_bytes());
    }
    /// `mov byte [m], imm`.
    pub fn store8_i(&mut self, m: Mem, imm: u8) {
        self.op(None, false, &[0xc6], 0, m.into(), true);
        self.byte(imm);
    }
    /// `reg = imm`, in the shortest form that leaves the flags alone.
    pub fn mov_i(&mut self, reg: Reg, v: u64) {
        if v <= 0xffff_ffff {
            if reg.0 >= 8 {
                self.byte(0x41);
            }
            self.byte(0xb8 | reg.0 & 7);
            self.bytes(&(v as u32).to_le_bytes());
        } else if v as i64 == i64::from(v as i32) {
            self.op(None, true, &[0xc7], 0, reg.into(), false);
            self.bytes(&(v as u32).to_le_bytes());
        } else {
            self.byte(0x48 | reg.0 >> 3);
            self.byte(0xb8 | reg.0 & 7);
            self.bytes(&v.to_le_bytes());
        }
    }
    /// `reg = imm` in a form of ten bytes.
    pub fn mov_i64(&mut self, reg: Reg, v: u64) {
        self.byte(0x48 | reg.0 >> 3);
        self.byte(0xb8 | reg.0 & 7);
        self.bytes(&v.to_le_bytes());
    }
    /// Shift by CL.
    pub fn shift_cl(&mut self, op: Shift, w: bool, rm: impl Into<Rm>) {
        self.op(None, w, &[0xd3], op as u8, rm.into(), false);
        self.flags_dirty = true;
    }
    /// Loads with zero extension by log2 of the bytes.
    pub fn load_zx(&mut self, size: u32, reg: Reg, m: impl Into<Rm>) {
        match size {
            0 => self.op(None, false, &[0x0f, 0xb6], reg.0, m.into(), true),
            1 => self.op(None, false, &[0x0f, 0xb7], reg.0, m.into(), false),
            _ => self.mov(size == 3, reg, m),
        }
    }
    /// Loads with sign extension to 64 (`w`) or 32 bits.
    pub fn load_sx(&mut self, size: u32, w: bool, reg: Reg, m: impl Into<Rm>) {
        match size {
            0 => self.op(None, w, &[0x0f, 0xbe], reg.0, m.into(), true),
            1 => self.op(None, w, &[0x0f, 0xbf], reg.0, m.into(), false),
            2 if w => self.op(None, true, &[0x63], reg.0, m.into(), false),
            _ => self.mov(size == 3, reg, m),
        }
    }
    /// `lea reg, [m]`.
    pub fn lea(&mut self, w: bool, reg: Reg, m: Mem) {
        self.op(None, w, &[0x8d], reg.0, m.into(), false);
    }
    /// Shift by a constant.
    pub fn shift(&mut self, op: Shift, w: bool, rm: impl Into<Rm>, n: u8) {
        self.op(None, w, &[0xc1], op as u8, rm.into(), false);
        self.byte(n);
        self.flags_dirty = true;
    }
    /// `shrd rm, reg, n`.
    pub fn shrd(&mut self, w: bool, rm: impl Into<Rm>, reg: Reg, n: u8) {
        self.op(None, w, &[0x0f, 0xac], reg.0, rm.into(), false);
        self.byte(n);
        self.flags_dirty = true;
    }
    /// Group 3.
    pub fn unary(&mut self, op: Unary, w: bool, rm: impl Into<Rm>) {
        self.op(None, w, &[0xf7], op as u8, rm.into(), false);
        if op != Unary::Not {
            self.flags_dirty = true;
        }
    }
    /// `imul reg, rm`.
    pub fn imul(&mut self, w: bool, reg: Reg, rm: impl Into<Rm>) {
        self.op(None, w, &[0x0f, 0xaf], reg.0, rm.into(), false);
        self.flags_dirty = true;
    }
    /// `lzcnt reg, rm`.
    pub fn lzcnt(&mut self, w: bool, reg: Reg, rm: impl Into<Rm>) {
        self.op(Some(0xf3), w, &[0x0f, 0xbd], reg.0, rm.into(), false);
        self.flags_dirty = true;
    }
    /// `crc32 reg, rm` of 8, 16, 32, 64 bits by log2 of the bytes (the Castagnoli polynomial).
    pub fn crc32c(&mut self, size: u32, reg: Reg, rm: impl Into<Rm>) {
        let rm = rm.into();
        if size == 1 {
            self.byte(0x66);
        }
        let low = if size == 0 { 0xf0 } else { 0xf1 };
        self.op(Some(0xf2), size == 3, &[0x0f, 0x38, low], reg.0, rm, size == 0);
    }
    /// `bswap reg`.
    pub fn bswap(&mut self, w: bool, reg: Reg) {
        let rex = u8::from(w) << 3 | reg.0 >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
        self.bytes(&[0x0f, 0xc8 | reg.0 & 7]);
    }
    /// `bt rm, n`.
    pub fn bt_i(&mut self, w: bool, rm: impl Into<Rm>, n: u8) {
        self.op(None, w, &[0x0f, 0xba], 4, rm.into(), false);
        self.byte(n);
        self.flags_dirty = true;
    }
    /// `cmovcc reg, rm`.
    pub fn cmov(&mut self, cc: Cc, w: bool, reg: Reg, rm: impl Into<Rm>) {
        self.op(None, w, &[0x0f, 0x40 | cc as u8], reg.0, rm.into(), false);
    }
    /// `setcc byte rm`.
    pub fn set(&mut self, cc: Cc, rm: impl Into<Rm>) {
        self.op(None, false, &[0x0f, 0x90 | cc as u8], 0, rm.into(), true);
    }
    /// `lock cmpxchg [m], reg` by log2 of the bytes.
    pub fn lock_cmpxchg(&mut self, size: u32, m: Mem, reg: Reg) {
        self.byte(0xf0);
        match size {
            0 => self.op(None, false, &[0x0f, 0xb0], reg.0, m.into(), true),
            1 => self.op(Some(0x66), false, &[0x0f, 0xb1], reg.0, m.into(), false),
            _ => self.op(None, size == 3, &[0x0f, 0xb1], reg.0, m.into(), false),
        }
        self.flags_dirty = true;
    }
    /// `lock xadd [m], reg`.
    pub fn lock_xadd(&mut self, size: u32, m: Mem, reg: Reg) {
        self.byte(0xf0);
        match size {
            0 => self.op(None, false, &[0x0f, 0xc0], reg.0, m.into(), true),
            1 => self.op(Some(0x66), false, &[0x0f, 0xc1], reg.0, m.into(), false),
            _ => self.op(None, size == 3, &[0x0f, 0xc1], reg.0, m.into(), false),
        }
        self.flags_dirty = true;
    }
    /// `xchg [m], reg`.
    pub fn xchg(&mut self, size: u32, m: Mem, reg: Reg) {
        match size {
            0 => self.op(None, false, &[0x86], reg.0, m.into(), true),
            1 => self.op(Some(0x66), false, &[0x87], reg.0, m.into(), false),
            _ => self.op(None, size == 3, &[0x87], reg.0, m.into(), false),
        }
    }
    /// A full barrier.
    pub fn fence(&mut self) {
        // lock or dword [rsp], 0
        self.bytes(&[0xf0, 0x83, 0x0c, 0x24, 0x00]);
        self.flags_dirty = true;
    }
    /// `ldmxcsr dword [m]`.
    pub fn ldmxcsr(&mut self, m: Mem) {
        self.op(None, false, &[0x0f, 0xae], 2, m.into(), false);
    }
    /// `stmxcsr dword [m]`.
    pub fn stmxcsr(&mut self, m: Mem) {
        self.op(None, false, &[0x0f, 0xae], 3, m.into(), false);
    }
    /// `mov [m], ah`; the operand's registers are of the lower eight.
    pub fn store_ah(&mut self, m: Mem) {
        self.op(None, false, &[0x88], 4, m.into(), false);
    }
    /// `mov ah, [m]`.
    pub fn load_ah(&mut self, m: Mem) {
        self.op(None, false, &[0x8a], 4, m.into(), false);
    }
    /// `lahf`.
    pub fn lahf(&mut self) {
        self.byte(0x9f);
    }
    /// `sahf`.
    pub fn sahf(&mut self) {
        self.byte(0x9e);
        self.flags_dirty = true;
    }
    /// `cmc`.
    pub fn cmc(&mut self) {
        self.byte(0xf5);
    }
    /// `stc`.
    pub fn stc(&mut self) {
        self.byte(0xf9);
    }
    /// `lfence; rdtsc`.
    pub fn rdtsc(&mut self) {
        self.bytes(&[0x0f, 0xae, 0xe8, 0x0f, 0x31]);
    }
    /// `cdq` or `cqo`.
    pub fn cqo(&mut self, w: bool) {
        if w {
            self.byte(0x48);
        }
        self.byte(0x99);
    }
    /// `push reg`.
    pub fn push(&mut self, reg: Reg) {
        if reg.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x50 | reg.0 & 7);
    }
    /// `pop reg`.
    pub fn pop(&mut self, reg: Reg) {
        if reg.0 >= 8 {
            self.byte(0x41);
        }
        self.byte(0x58 | reg.0 & 7);
    }
    /// `ret`.
    pub fn ret(&mut self) {
        self.byte(0xc3);
    }
    /// `jcc label`.
    pub fn jcc(&mut self, cc: Cc, l: Label) {
        self.bytes(&[0x0f, 0x80 | cc as u8]);
        self.fix(l);
    }
    /// `jmp label`.
    pub fn jmp(&mut self, l: Label) {
        self.byte(0xe9);
        self.fix(l);
    }
    /// A displacement to the label.
    pub fn displacement(&mut self, l: Label) {
        self.fix(l);
    }
    fn fix(&mut self, l: Label) {
        self.fixups.push((self.here(), l));
        self.bytes(&[0; 4]);
    }
    fn rel(&mut self, target: u32) {
        let rel = target.wrapping_sub(self.here() + 4);
        self.bytes(&rel.to_le_bytes());
    }
    /// `jmp` to an offset in the code region; returns where its displacement stands.
    pub fn jmp_to(&mut self, target: u32) -> u32 {
        self.byte(0xe9);
        let at = self.here();
        self.rel(target);
        at
    }
    /// `jcc` to an offset in the code region.
    pub fn jcc_to(&mut self, cc: Cc, target: u32) {
        self.bytes(&[0x0f, 0x80 | cc as u8]);
        self.rel(target);
    }
    /// `call` an offset in the code region.
    pub fn call_to(&mut self, target: u32) {
        self.byte(0xe8);
        self.rel(target);
        self.flags_dirty = true;
    }
    /// `jmp rm`.
    pub fn jmp_rm(&mut self, rm: impl Into<Rm>) {
        self.op(None, false, &[0xff], 4, rm.into(), false);
    }
    /// `call rm`.
    pub fn call_rm(&mut self, rm: impl Into<Rm>) {
        self.op(None, false, &[0xff], 2, rm.into(), false);
        self.flags_dirty = true;
    }
}
