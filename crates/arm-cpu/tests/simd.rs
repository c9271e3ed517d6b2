//! What Advanced SIMD instructions do beyond registers: traps, features, faults of structure loads and stores.

use std::sync::Arc;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::mem::{PhysMap, Slot};
use ulna_arm_cpu::shared::VmShared;
use ulna_arm_cpu::{Cpu, CpuConfig, Exit, Feat, FeatSet, SysReg};

struct Stopped;
impl Clock for Stopped {
    fn counter(&self, _: u64) -> u64 {
        0
    }
}

const RAM: u64 = 0x4000_0000;
const VECTORS: u64 = RAM + 0x8000;
const DATA: u64 = RAM + 0x4000;
const END: u64 = RAM + 0x1_0000;
const HVC_7: u32 = 0xd400_00e2;
const FPEN: u64 = 3 << 20;

const ADD_16B: u32 = 0x4e22_8420; // add v0.16b, v1.16b, v2.16b
const LD1_16B: u32 = 0x4c40_7020; // ld1 {v0.16b}, [x1]
const LD1_4S: u32 = 0x4c40_7820; // ld1 {v0.4s}, [x1]
const LD1_8H: u32 = 0x4c40_7420; // ld1 {v0.8h}, [x1]
const LD4_8H: u32 = 0x4cdf_0420; // ld4 {v0.8h-v3.8h}, [x1], #64
const LD2_H3: u32 = 0x0de2_5820; // ld2 {v0.h, v1.h}[3], [x1], x2
const LD3R_8B: u32 = 0x0ddf_e03e; // ld3r {v30.8b, v31.8b, v0.8b}, [x1], #3
const LD1_SP: u32 = 0x4cdf_73e0; // ld1 {v0.16b}, [sp], #16
const ST1_X4: u32 = 0x4c9f_2020; // st1 {v0.16b-v3.16b}, [x1], #64
const ST3_S1: u32 = 0x0d9f_b020; // st3 {v0.s-v2.s}[1], [x1], #12
const ST1_2D: u32 = 0x4c00_7c20; // st1 {v0.2d}, [x1]

/// A PE at EL1 with the MMU off (so that all memory is Device), and its memory.
struct Machine {
    cpu: Cpu,
    ram: *mut u8,
}

impl Machine {
    fn new(words: &[u32], features: FeatSet) -> Machine {
        let mut ram = vec![0u64; 0x1_0000 / 8].into_boxed_slice();
        let host = ram.as_mut_ptr().cast::<u8>();
        std::mem::forget(ram);
        // SAFETY: the memory is leaked, so it outlives the slot.
        let slot = unsafe { Slot::new(0, RAM, 0x1_0000, host, false, None, Arc::new(())) };
        let memory = Arc::new(PhysMap::default());
        memory.set_slots(vec![Arc::new(slot)]);
        let mut cpu = Cpu::new(CpuConfig {
            features,
            memory,
            shared: Arc::new(VmShared::default()),
            clock: Arc::new(Stopped),
            random: Arc::new(|| 4),
        });
        cpu.state.set_sys(SysReg::ID_AA64MMFR0_EL1, 5);
        cpu.state.set_sys(SysReg::VBAR_EL1, VECTORS);
        cpu.state.set_sys(SysReg::CPACR_EL1, FPEN);
        cpu.state.set_el_sp(1, 1);
        cpu.state.daif = 0x3c0;
        cpu.state.pc = RAM;
        cpu.state.x[1] = DATA;
        let mut m = Machine { cpu, ram: host };
        for (k, w) in words.iter().chain([&HVC_7]).enumerate() {
            m.write(RAM + 4 * k as u64, &w.to_le_bytes());
        }
        for v in 0..16 {
            m.write(VECTORS + 0x80 * v, &HVC_7.to_le_bytes());
        }
        m
    }
    fn write(&mut self, at: u64, bytes: &[u8]) {
        for (k, b) in bytes.iter().enumerate() {
            assert!((RAM..END).contains(&(at + k as u64)));
            // SAFETY: inside the leaked memory; the PE does not run.
            unsafe { self.ram.add((at - RAM) as usize + k).write(*b) };
        }
    }
    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        assert!(at >= RAM && at + len as u64 <= END);
        // SAFETY: as above.
        (0..len).map(|k| unsafe { self.ram.add((at - RAM) as usize + k).read() }).collect()
    }
    /// Runs; the EC of the exception that was taken, if one was.
    fn run(&mut self) -> Option<u64> {
        assert_eq!(self.cpu.run(), Exit::Hvc { imm: 7 });
        (self.cpu.state.pc >= VECTORS).then(|| self.cpu.state.sys(SysReg::ESR_EL1) >> 26 & 63)
    }
}

fn counting(n: usize) -> Vec<u8> {
    (0..n).map(|k| k as u8).collect()
}

#[test]
fn cpacr_traps_every_kind() {
    for word in [ADD_16B, LD1_16B, ST1_X4, 0x4e28_4820, 0x6f00_e400, 0x0e01_3c00] {
        let mut m = Machine::new(&[word], FeatSet::ALL);
        m.cpu.state.set_sys(SysReg::CPACR_EL1, 0);
        assert_eq!(m.run(), Some(7), "{word:#x}");
        assert_eq!(m.cpu.state.sys(SysReg::ESR_EL1) & 0x1ff_ffff, 1 << 24 | 0xe << 20);
        assert_eq!(m.cpu.state.v[0], 0);
    }
}

#[test]
fn what_the_features_lack_is_undefined() {
    for (word, feature) in [
        (0x4e28_4820, Feat::AES),
        (0x0ee2_e020, Feat::PMULL),
        (0xce62_8020, Feat::SHA512),
        (0xce82_0420, Feat::SHA3),
        (0xcec0_8420, Feat::SM4),
        (0xce42_0c20, Feat::SM3),
        (0x4e82_9420, Feat::DotProd),
        (0x4e82_a420, Feat::I8MM),
        (0x6e82_8420, Feat::RDM),
        (ADD_16B, Feat::AdvSIMD),
    ] {
        assert_eq!(Machine::new(&[word], FeatSet::ALL).run(), None, "{word:#x}");
        assert_eq!(Machine::new(&[word], FeatSet::ALL.without(feature)).run(), Some(0), "{word:#x}");
    }
}

#[test]
fn alignment_on_device_memory_is_that_of_the_element() {
    for (word, ok) in [(LD1_16B, true), (LD1_8H, true), (LD1_4S, false), (ST1_2D, false)] {
        let mut m = Machine::new(&[word], FeatSet::ALL);
        let at = if word == LD1_16B { DATA + 1 } else { DATA + 2 };
        m.cpu.state.x[1] = at;
        m.write(DATA, &counting(32));
        let ec = m.run();
        assert_eq!(ec.is_none(), ok, "{word:#x}");
        if ok {
            let first = (at - DATA) as u8;
            assert_eq!(m.cpu.state.v[0].to_le_bytes(), std::array::from_fn(|k| first + k as u8));
        } else {
            assert_eq!(m.cpu.state.sys(SysReg::FAR_EL1), at);
            assert_eq!(m.cpu.state.sys(SysReg::ESR_EL1) & 63, 0x21);
            assert_eq!(m.cpu.state.v[0], 0);
        }
    }
}

#[test]
fn elements_are_big_endian_each_by_itself() {
    let mut m = Machine::new(&[LD1_4S, 0x4c80_7c20 & !(1 << 23)], FeatSet::ALL);
    m.cpu.state.set_sys(SysReg::SCTLR_EL1, 1 << 25);
    m.write(DATA, &counting(16));
    assert_eq!(m.run(), None);
    assert_eq!(m.cpu.state.v[0], 0x0c0d_0e0f_0809_0a0b_0405_0607_0001_0203);
    // The second instruction stored it as two double words.
    assert_eq!(m.read(DATA, 16), [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11]);
}

#[test]
fn structures_interleave_and_the_base_moves() {
    let mut m = Machine::new(&[LD4_8H], FeatSet::ALL);
    m.write(DATA, &counting(64));
    assert_eq!(m.run(), None);
    assert_eq!(m.cpu.state.x[1], DATA + 64);
    assert_eq!(m.cpu.state.v[2].to_le_bytes()[..4], [4, 5, 12, 13]);
    assert_eq!(m.cpu.state.v[3].to_le_bytes()[14..], [62, 63]);

    let mut m = Machine::new(&[LD3R_8B], FeatSet::ALL);
    m.write(DATA, &counting(3));
    m.cpu.state.v[31] = u128::MAX;
    assert_eq!(m.run(), None);
    let each = |b: u128| b * 0x0101_0101_0101_0101;
    assert_eq!([30, 31, 0].map(|r| m.cpu.state.v[r]), [each(0), each(1), each(2)]);
    assert_eq!(m.cpu.state.x[1], DATA + 3);

    let mut m = Machine::new(&[LD2_H3], FeatSet::ALL);
    m.write(DATA, &counting(4));
    m.cpu.state.x[2] = 100;
    m.cpu.state.v[1] = u128::MAX;
    assert_eq!(m.run(), None);
    assert_eq!(m.cpu.state.v[0], 0x0100 << 48);
    assert_eq!(m.cpu.state.v[1], !(0xffff << 48) | 0x0302 << 48);
    assert_eq!(m.cpu.state.x[1], DATA + 100);
}

#[test]
fn a_store_that_leaves_memory_writes_nothing() {
    for (word, room, alignment) in [(ST1_X4, 24u64, 1u64), (ST3_S1, 8, 4)] {
        let mut m = Machine::new(&[word], FeatSet::ALL);
        let at = END - room;
        assert_eq!(at % alignment, 0);
        m.cpu.state.x[1] = at;
        m.cpu.state.v[0] = u128::MAX;
        m.cpu.state.v[1] = u128::MAX;
        let Exit::DataAbort(a) = m.cpu.run() else { panic!("no abort") };
        assert_eq!((a.far, a.ipa, a.write), (END, END, true));
        assert_eq!(m.cpu.state.x[1], at);
        assert_eq!(m.cpu.state.pc, RAM);
        assert_eq!(m.read(at, room as usize), vec![0; room as usize]);
    }
}

#[test]
fn a_load_that_leaves_memory_changes_no_register() {
    let mut m = Machine::new(&[LD4_8H], FeatSet::ALL);
    m.cpu.state.x[1] = END - 62;
    m.cpu.state.v[0] = 5;
    let Exit::DataAbort(a) = m.cpu.run() else { panic!("no abort") };
    assert_eq!((a.far, a.write), (END, false));
    assert_eq!((m.cpu.state.x[1], m.cpu.state.v[0]), (END - 62, 5));
}

#[test]
fn a_misaligned_stack_pointer_faults_before_the_access() {
    let mut m = Machine::new(&[LD1_SP], FeatSet::ALL);
    m.cpu.state.set_sp(DATA + 8);
    m.cpu.state.set_sys(SysReg::SCTLR_EL1, 8);
    assert_eq!(m.run(), Some(0x26));
    let mut m = Machine::new(&[LD1_SP], FeatSet::ALL);
    m.cpu.state.set_sp(DATA + 16);
    m.cpu.state.set_sys(SysReg::SCTLR_EL1, 8);
    assert_eq!(m.run(), None);
    assert_eq!(m.cpu.state.sp(), DATA + 32);
}
