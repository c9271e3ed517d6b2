//! How soon a kick is heard, from the call until the thread that executes the guest has come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ulna_arm_cpu::{CpuLines, Engine, EngineOptions};
use ulna_kvm_abi::{ARM_TARGET_GENERIC_V8, RegId, VcpuInit, vcpu_feature};
use ulna_kvm_core::{ClockKind, Kvm, KvmConfig, Policy, Run, Vcpu};
use ulna_profile::Profile;

use crate::stress::{Busy, busy_pe};

/// What is kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// A PE in a short loop.
    Loop,
    /// A PE that changes code, calls it and remaps pages: it decodes and translates all the time.
    NewCode,
    /// A vCPU in a short loop: until KVM_RUN has returned.
    Vcpu,
    /// A vCPU that waits for an interrupt: until KVM_RUN has returned.
    Asleep,
}

impl Situation {
    /// All of them.
    pub const ALL: [Situation; 4] = [Situation::Loop, Situation::NewCode, Situation::Vcpu, Situation::Asleep];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Situation::Loop => "a PE in a loop",
            Situation::NewCode => "a PE that changes code",
            Situation::Vcpu => "a vCPU in a loop",
            Situation::Asleep => "a vCPU in WFI",
        }
    }
}

/// Times of `kicks` kicks, sorted.
///
/// # Errors
/// The guest did something else than to be kicked.
pub fn latency(engine: Engine, what: Situation, kicks: usize) -> Result<Vec<Duration>, String> {
    match what {
        Situation::Loop | Situation::NewCode => {
            let busy = if what == Situation::Loop { Busy::Loop } else { Busy::NewCode };
            let (mut cpu, lines) = busy_pe(engine, busy);
            measure(
                kicks,
                move || lines.set(CpuLines::KICK),
                move || match cpu.run() {
                    ulna_arm_cpu::Exit::Kick => Ok(()),
                    e => Err(format!("the PE left by {e:x?}")),
                },
            )
        }
        Situation::Vcpu | Situation::Asleep => {
            const B: u32 = 0x1400_0000;
            const NOP: u32 = 0xd503_201f;
            const WFI: u32 = 0xd503_207f;
            let first = if what == Situation::Vcpu { NOP } else { WFI };
            // B to the instruction before.
            let mut v = vcpu(engine, &[first, B | 0x03ff_ffff])?;
            let kick = v.kicker();
            measure(kicks, kick, move || match v.run() {
                Ok(Run::Intr) => Ok(()),
                Ok(r) => Err(format!("the vCPU left by {r:x?}")),
                Err(e) => Err(e.to_string()),
            })
        }
    }
}

/// Kicks somebody who runs in a thread of his own, every 300 µs or so.
fn measure(
    kicks: usize,
    kick: impl Fn(),
    mut run: impl FnMut() -> Result<(), String> + Send,
) -> Result<Vec<Duration>, String> {
    let start = Instant::now();
    let now = || start.elapsed().as_nanos() as u64;
    // When the run after kick n came back, plus one; and how many have.
    let (seen, count) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let mut out = Vec::with_capacity(kicks);
    let end = std::thread::scope(|s| {
        let t = s.spawn(|| -> Result<(), String> {
            for n in 0..kicks as u64 {
                let r = run();
                seen.store(now(), Ordering::SeqCst);
                failed.store(r.is_err(), Ordering::SeqCst);
                count.store(n + 1, Ordering::SeqCst);
                r?;
            }
            Ok(())
        });
        for n in 0..kicks as u64 {
            // By then it runs, or sleeps.
            std::thread::sleep(Duration::from_micros(300));
            let at = now();
            kick();
            while count.load(Ordering::SeqCst) <= n && !failed.load(Ordering::SeqCst) {
                std::hint::spin_loop();
            }
            if failed.load(Ordering::SeqCst) {
                break;
            }
            out.push(Duration::from_nanos(seen.load(Ordering::SeqCst).saturating_sub(at)));
        }
        t.join().unwrap_or_else(|_| Err("its thread panicked".into()))
    });
    end?;
    out.sort();
    Ok(out)
}

const RAM: u64 = 0x4000_0000;
const RAM_LEN: usize = 0x1_0000;

fn vcpu(engine: Engine, words: &[u32]) -> Result<Vcpu, String> {
    let say = |e: ulna_kvm_abi::Errno| e.to_string();
    let kvm = Kvm::new(KvmConfig {
        profile: Profile::builtin("n1").map_err(|e| e.to_string())?,
        policy: Policy::Hw,
        clock: ClockKind::Host,
        random: Arc::new(|| 4),
        wall_clock: Arc::new(|| 0),
        engine,
        engine_options: EngineOptions::default(),
        strict: true,
    });
    let vm = kvm.create_vm(0).map_err(say)?;
    let ram: Arc<Vec<AtomicU64>> = Arc::new((0..RAM_LEN / 8).map(|_| AtomicU64::new(0)).collect());
    for (to, pair) in ram.iter().zip(words.chunks(2)) {
        let high = u64::from(pair.get(1).copied().unwrap_or(0));
        to.store(high << 32 | u64::from(pair[0]), Ordering::SeqCst);
    }
    // The slot wants whole pages of the host.
    let at = ram.as_ptr().cast_mut().cast::<u8>();
    let skip = at.align_offset(0x1000);
    for n in (0..words.len().div_ceil(2)).rev() {
        let v = ram[n].swap(0, Ordering::SeqCst);
        ram[n + skip / 8].store(v, Ordering::SeqCst);
    }
    let len = (RAM_LEN - 0x1000) as u64;
    // SAFETY: `ram` keeps the memory, of which `skip` (below 4 KiB) bytes are left out; all accesses are atomic or raw.
    let slot = unsafe { vm.set_user_memory_region(0, RAM, len, at.wrapping_add(skip), 0, ram.clone()) };
    slot.map_err(say)?;
    let mut v = vm.create_vcpu(0).map_err(say)?;
    let features = [1 << vcpu_feature::PSCI_0_2, 0, 0, 0, 0, 0, 0];
    v.init(&VcpuInit { target: ARM_TARGET_GENERIC_V8, features }).map_err(say)?;
    v.set_one_reg(RegId::PC, &RAM.to_le_bytes()).map_err(say)?;
    Ok(v)
}
