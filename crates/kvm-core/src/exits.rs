//! What the CPU left for the hypervisor: stage-2 aborts, trapped registers, hypercalls, waiting.

use std::sync::atomic::Ordering;

use ulna_arm_cpu::cpu::Clock;
use ulna_arm_cpu::exception::{Exception, fsc};
use ulna_arm_cpu::exit::{DataAbort, Exit};
use ulna_arm_cpu::mem::dirty::DirtySink;
use ulna_arm_cpu::{Feat, SysReg};
use ulna_kvm_abi::Errno;
use ulna_vgic::{IccReg, timer};

use crate::Result;
use crate::firmware::{self, Conduit};
use crate::memory::GuestTables;
use crate::run::Leave;
use crate::stats::Stat;
use crate::vcpu::Vcpu;

/// An access that the VMM carries out (`kvm_run.mmio`), and how a read completes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mmio {
    ipa: u64,
    len: usize,
    write: bool,
    data: [u8; 8],
    /// The next run completes it: ISS of the access.
    pending: Option<u32>,
}

impl Mmio {
    /// Address, direction, data.
    pub fn parts(&mut self) -> (u64, bool, &mut [u8]) {
        (self.ipa, self.write, &mut self.data[..self.len])
    }
    /// The access is not to be completed.
    pub fn cancel(&mut self) {
        self.pending = None;
    }
}

/// ISS of a data abort with ISV.
mod iss {
    pub const ISV: u32 = 1 << 24;
    pub const CM: u32 = 1 << 8;
    pub const WNR: u32 = 1 << 6;
    pub const DFSC: u32 = 0x3f;
    pub fn size(iss: u32) -> usize {
        1 << (iss >> 22 & 3)
    }
    pub fn sign_extend(iss: u32) -> bool {
        iss >> 21 & 1 != 0
    }
    pub fn register(iss: u32) -> u8 {
        (iss >> 16 & 31) as u8
    }
    pub fn sixty_four(iss: u32) -> bool {
        iss >> 15 & 1 != 0
    }
}

impl Vcpu {
    /// Carries out an exit; `Some` leaves KVM_RUN.
    pub(crate) fn handle(&mut self, exit: Exit) -> Result<Option<Leave>> {
        self.faults.note(&exit);
        match exit {
            Exit::Kick | Exit::Budget | Exit::Pmu => {}
            Exit::Wfi => {
                self.shared.stats.count(Stat::Wfi);
                self.sleep(None);
            }
            Exit::Wfe => {
                self.shared.stats.count(Stat::Wfe);
                std::thread::yield_now();
            }
            Exit::Wfxt { deadline, event } => {
                self.shared.stats.count(if event { Stat::Wfe } else { Stat::Wfi });
                // WFET may end early; WFIT waits in terms of CNTVCT_EL0.
                if event {
                    std::thread::yield_now();
                } else {
                    self.sleep(Some(deadline.wrapping_add(self.cpu.cntvoff)));
                }
            }
            Exit::Hvc { .. } => {
                self.shared.stats.count(Stat::Hvc);
                return firmware::call(self, Conduit::Hvc);
            }
            Exit::Smc { imm } => {
                self.cpu.skip_instruction();
                if imm != 0 {
                    self.cpu.state.x[0] = u64::MAX;
                } else {
                    return firmware::call(self, Conduit::Smc);
                }
            }
            Exit::SysReg { enc, rt, read } => self.sysreg(enc, rt, read),
            Exit::DataAbort(a) => return self.data_abort(a),
            Exit::InstAbort { ipa, far, .. } => self.inst_abort(ipa, far),
            // Told by `EngineOptions::difference`.
            Exit::Difference => return Err(Errno::EIO.because("the two engines disagree")),
            Exit::Debug { esr, far } => return Ok(Some(Leave::Debug(esr, far))),
        }
        Ok(None)
    }

    /// An abort beyond what the VM's address space holds: whatever the access was. The order of the checks is KVM's
    /// (kvm-arm64-abi.md §3.3).
    fn beyond(&mut self, ipa: u64, far: u64, fetch: bool) -> bool {
        if ipa >> self.vm.config.profile.memory.ipa_bits != 0 {
            // Level 0, and no WnR: the syndrome is made from nothing.
            let abort = if fetch { Exception::instruction_abort } else { Exception::data_abort };
            self.cpu.take_exception(abort(far, fsc::ADDRESS_SIZE));
        } else if ipa >> self.vm.ipa_bits != 0 {
            self.cpu.inject_external_abort(ipa | far & 0xfff, fetch);
        } else {
            return false;
        }
        true
    }

    /// A fetch from where no memory is: external abort, as KVM injects it.
    fn inst_abort(&mut self, ipa: u64, far: u64) {
        if !self.beyond(ipa, far, true) {
            self.cpu.inject_external_abort(far, true);
        }
    }

    fn data_abort(&mut self, a: DataAbort) -> Result<Option<Leave>> {
        if self.beyond(a.ipa, a.far, false) {
            return Ok(None);
        }
        if a.s1ptw {
            self.cpu.inject_external_abort(a.far, false);
            return Ok(None);
        }
        if a.iss & iss::CM != 0 && !a.readonly {
            // Cache maintenance of what is no memory.
            self.cpu.skip_instruction();
            return Ok(None);
        }
        if a.iss & iss::ISV == 0 {
            if !self.vm.nisv_to_user.load(Ordering::Relaxed) {
                let e = Errno::ENOSYS.because(
                    "the guest accesses {x} outside its memory with an instruction that tells no size",
                );
                return Err(e.value(a.ipa));
            }
            let iss = u64::from(a.iss & (iss::CM | iss::WNR | iss::DFSC));
            return Ok(Some(Leave::ArmNisv { iss, ipa: a.ipa }));
        }
        let len = iss::size(a.iss);
        let index = self.shared.index;
        // What the register holds is in the guest's byte order, what is on the bus is not.
        let value = if self.cpu.data_is_big_endian() { swapped(a.value, len) } else { a.value };
        let ring = self.shared.ring().map(|r| &**r as &dyn DirtySink);
        let memory = GuestTables(&self.vm.memory, ring);
        let handled = self.vm.with_gic(|g| {
            let (region, offset) = g.frame(a.ipa)?;
            if a.write {
                g.gic.mmio_write(region, index, offset, len, value, &memory);
                Some(0)
            } else {
                Some(g.gic.mmio_read(region, index, offset, len))
            }
        });
        if let Some(v) = handled.flatten() {
            self.shared.stats.count(Stat::MmioKernel);
            if !a.write {
                self.put(a.iss, v);
            }
            self.cpu.skip_instruction();
            return Ok(None);
        }
        let events = &self.vm.io_events;
        if a.write && (events.write(a.ipa, len, value) || self.vm.coalesced.write(a.ipa, len, value)) {
            self.shared.stats.count(Stat::MmioKernel);
            self.cpu.skip_instruction();
            return Ok(None);
        }
        self.shared.stats.count(Stat::MmioUser);
        let data = if a.write { value.to_le_bytes() } else { [0; 8] };
        self.mmio = Mmio { ipa: a.ipa, len, write: a.write, data, pending: Some(a.iss) };
        Ok(Some(Leave::Mmio))
    }

    /// Before KVM_RUN completes an access: `fill` brings the bytes that the VMM read. Where its page does not say MMIO any
    /// more, the access is forgotten, and the instruction is executed again.
    pub(crate) fn take_mmio_data(&mut self, wanted: bool, fill: impl FnOnce(&mut [u8])) {
        if !wanted {
            self.mmio.pending = None;
        } else if self.mmio.pending.is_some() && !self.mmio.write {
            fill(self.mmio.parts().2);
        }
    }

    /// Completes an access that the VMM carried out: the instruction is over.
    pub(crate) fn complete_mmio(&mut self) {
        if let Some(iss) = self.mmio.pending.take() {
            if !self.mmio.write {
                self.put(iss, u64::from_le_bytes(self.mmio.data));
            }
            self.cpu.skip_instruction();
        }
    }

    /// Writes what a load read to its register.
    fn put(&mut self, iss: u32, v: u64) {
        let bits = iss::size(iss) as u32 * 8;
        let mut v = if bits == 64 { v } else { v & ((1 << bits) - 1) };
        if self.cpu.data_is_big_endian() {
            v = swapped(v, iss::size(iss));
        }
        if iss::sign_extend(iss) && bits < 64 {
            v = (((v << (64 - bits)) as i64) >> (64 - bits)) as u64;
        }
        if !iss::sixty_four(iss) {
            v &= 0xffff_ffff;
        }
        self.cpu.state.set_x(iss::register(iss), v);
    }

    /// A register that the CPU does not own.
    fn sysreg(&mut self, enc: u16, rt: u8, read: bool) {
        let value = self.cpu.state.xr(rt);
        let done = match SysReg::from_code(enc) {
            Some(r) if is_timer(r) => Some(self.timer_register(r, read, value)),
            Some(r) => self.emulated(r, read),
            None => None,
        };
        let done = done.or_else(|| self.gic_register(enc, read, value));
        match done {
            Some(v) => {
                if read {
                    self.cpu.state.set_x(rt, v);
                }
                self.cpu.skip_instruction();
            }
            None => self.cpu.inject_undef(),
        }
    }

    fn gic_register(&mut self, enc: u16, read: bool, value: u64) -> Option<u64> {
        let reg = IccReg::from_encoding(
            (enc >> 14) as u8,
            (enc >> 11 & 7) as u8,
            (enc >> 7 & 15) as u8,
            (enc >> 3 & 15) as u8,
            (enc & 7) as u8,
        )?;
        let index = self.shared.index;
        self.vm.with_gic(|g| {
            let defined = if read { reg.readable() } else { reg.writable() };
            if !defined || !g.gic.sysreg_exists(reg) {
                return None;
            }
            if read {
                Some(g.gic.sysreg_read(index, reg))
            } else {
                g.gic.sysreg_write(index, reg, value);
                Some(0)
            }
        })?
    }

    /// Registers that KVM answers with zero and whose writes it ignores.
    fn emulated(&self, r: SysReg, read: bool) -> Option<u64> {
        use SysReg::*;
        let n = r as u16;
        let ras = (ERRIDR_EL1 as u16..=ERXMISC3_EL1 as u16).contains(&n) && self.cpu.has(Feat::RAS);
        let lor = (LORSA_EL1 as u16..=LORID_EL1 as u16).contains(&n) && self.cpu.has(Feat::LOR);
        (ras || (lor && (read || r != LORID_EL1))).then_some(0)
    }

    fn timer_register(&mut self, r: SysReg, read: bool, value: u64) -> u64 {
        use SysReg::*;
        let virt = matches!(r, CNTV_CTL_EL0 | CNTV_CVAL_EL0 | CNTV_TVAL_EL0);
        let (ctl, cval) = if virt { (CNTV_CTL_EL0, CNTV_CVAL_EL0) } else { (CNTP_CTL_EL0, CNTP_CVAL_EL0) };
        let offset = if virt { self.cpu.cntvoff } else { self.cpu.cntpoff };
        let now = self.vm.clock.counter(self.cpu.state.icount);
        let s = &mut self.cpu.state;
        let (c, v) = (s.sys(ctl), s.sys(cval));
        match (r, read) {
            // The virtual timer is the hardware's, whose ISTATUS is clear while it is off; the physical one KVM emulates.
            (CNTV_CTL_EL0, true) if c & timer::CTL_ENABLE == 0 => c,
            (CNTV_CTL_EL0 | CNTP_CTL_EL0, true) => timer::ctl_read(c, v, now, offset),
            (CNTV_CVAL_EL0 | CNTP_CVAL_EL0, true) => v,
            (_, true) => timer::tval_read(v, now, offset),
            (CNTV_CTL_EL0 | CNTP_CTL_EL0, false) => {
                s.set_sys(ctl, value & (timer::CTL_ENABLE | timer::CTL_IMASK));
                0
            }
            (CNTV_CVAL_EL0 | CNTP_CVAL_EL0, false) => {
                s.set_sys(cval, value);
                0
            }
            (_, false) => {
                s.set_sys(cval, timer::tval_write(value, now, offset));
                0
            }
        }
    }
}

/// The low `len` bytes the other way round.
fn swapped(v: u64, len: usize) -> u64 {
    v.swap_bytes() >> (64 - 8 * len)
}

fn is_timer(r: SysReg) -> bool {
    use SysReg::*;
    matches!(r, CNTV_CTL_EL0 | CNTV_CVAL_EL0 | CNTV_TVAL_EL0 | CNTP_CTL_EL0 | CNTP_CVAL_EL0 | CNTP_TVAL_EL0)
}
