//! The reference: a driver at EL2 of `qemu-system-aarch64`, written here in assembly, that takes cases from memory and
//! gives the answers through semihosting.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ulna_arm_regs::SysReg;
use ulna_conformance::el1::{Case, DATA, DATA_FACTOR, DATA_LEN, ID_REGS, Outcome, REGS, VECTORS};

const DRIVER: u64 = 0x4020_0000;
const CASES: u64 = 0x4400_0000;
const RESULTS: u64 = 0x4a00_0000;

/// A reference that can be started again and again.
pub struct Reference {
    qemu: String,
    cpu: String,
    dir: PathBuf,
    timeout: Duration,
}

fn name(r: SysReg) -> String {
    let e = r.encoding();
    format!("S{}_{}_C{}_C{}_{}", e.op0, e.op1, e.crn, e.crm, e.op2)
}

/// The program. x20 case, x21 result, x22 cases left, x23 step, x24 steps left, x25 x registers of the next step.
fn assembly() -> String {
    let mut s = String::new();
    let set_regs: String =
        REGS.iter().fold(String::new(), |s, r| s + &format!("  ldr x1, [x0], #8\n  msr {}, x1\n", name(*r)));
    let ids: String = ID_REGS
        .iter()
        .fold(String::new(), |s, r| s + &format!("  mrs x1, {}\n  str x1, [x21], #8\n", name(*r)));
    let pairs = |op: &str, base: &str, from: usize| -> String {
        (from..30)
            .step_by(2)
            .fold(String::new(), |s, r| s + &format!("  {op} x{r}, x{}, [{base}, #{}]\n", r + 1, r * 8))
    };
    let _ = write!(
        s,
        "
.macro big r, v
  movz \\r, #(\\v & 0xffff)
  movk \\r, #((\\v >> 16) & 0xffff), lsl #16
  movk \\r, #((\\v >> 32) & 0xffff), lsl #32
  movk \\r, #((\\v >> 48) & 0xffff), lsl #48
.endm
.text
start:
  big x0, {DRIVER:#x}
  add x0, x0, #0x800
  msr vbar_el2, x0
  // RW, API, APK, EnSCXT: AArch64 below, nothing trapped
  big x0, 0x20030080000000
  msr hcr_el2, x0
  mov x0, #3
  msr cnthctl_el2, x0
  mov x0, #0x32ff
  msr cptr_el2, x0
  mrs x0, mdcr_el2
  and x0, x0, #0x1f
  msr mdcr_el2, x0
  msr hstr_el2, xzr
  msr vttbr_el2, xzr
  msr cntvoff_el2, xzr
  mrs x0, midr_el1
  msr vpidr_el2, x0
  mrs x0, mpidr_el1
  msr vmpidr_el2, x0
  // HVC in all vectors of EL1
  big x0, {VECTORS:#x}
  big x1, 0xd4000002
  mov x2, #16
1: str x1, [x0], #0x80
  subs x2, x2, #1
  b.ne 1b
  big x21, {RESULTS:#x}
  big x20, {CASES:#x}
  ldr x22, [x20], #8
{ids}
case:
  cbz x22, finish
  // data
  big x0, {DATA:#x}
  big x1, {DATA_FACTOR:#x}
  mov x2, #({DATA_LEN:#x} / 8)
1: mul x3, x0, x1
  str x3, [x0], #8
  subs x2, x2, #1
  b.ne 1b
  ldr x26, [x20, #8]
  ldr x24, [x20, #16]
  add x0, x20, #32
{set_regs}
  mov x25, x0
  add x0, x0, #(31 * 8)
  mov x27, x0
  mov x2, x26
  cbz x2, 2f
1: ldp x3, x4, [x0], #16
  str x4, [x3]
  subs x2, x2, #1
  b.ne 1b
2: mov x23, x0
  dsb sy
  tlbi alle1
  ic iallu
  dsb sy
  isb
step:
  cbz x24, ended
  ldp x1, x2, [x23], #16
  msr elr_el2, x1
  msr spsr_el2, x2
  ldp x1, x2, [x23], #16
  cbz x1, 1f
  str x2, [x1]
  dsb sy
1: adr x0, context
  stp x20, x21, [x0]
  stp x22, x23, [x0, #16]
  stp x24, x26, [x0, #32]
  str x27, [x0, #48]
  mov x0, x25
  ldr x30, [x0, #240]
{load}
  ldp x0, x1, [x0]
  eret

ended:
  big x0, {DATA:#x}
  big x1, {DATA_FACTOR:#x}
  mov x2, #({DATA_LEN:#x} / 8)
  mov x3, #0
1: ldr x4, [x0], #8
  ror x3, x3, #7
  add x3, x3, x4
  mul x3, x3, x1
  subs x2, x2, #1
  b.ne 1b
  str x3, [x21], #8
  mov x0, x27
  mov x2, x26
  mov x3, #0
  cbz x2, 2f
1: ldr x5, [x0], #16
  ldr x4, [x5]
  ror x3, x3, #7
  add x3, x3, x4
  mul x3, x3, x1
  subs x2, x2, #1
  b.ne 1b
2: str x3, [x21], #8
  mov x0, x27
  mov x2, x26
  cbz x2, 2f
1: ldr x5, [x0], #16
  str xzr, [x5]
  subs x2, x2, #1
  b.ne 1b
  // words that steps wrote
2: ldr x2, [x20, #16]
1: cbz x2, 2f
  ldr x5, [x0, #16]
  add x0, x0, #32
  sub x2, x2, #1
  cbz x5, 1b
  str xzr, [x5]
  b 1b
2: msr mdscr_el1, xzr
  ldr x0, [x20]
  add x20, x20, x0, lsl #3
  sub x22, x22, #1
  b case

finish:
  adr x1, open
  adr x2, file
  str x2, [x1]
  mov x0, #1
  hlt #0xf000
  mov x19, x0
  big x18, {RESULTS:#x}
1: sub x2, x21, x18
  cbz x2, 3f
  mov x3, #0x100000
  cmp x2, x3
  csel x2, x2, x3, lo
  adr x1, write
  stp x19, x18, [x1]
  str x2, [x1, #16]
  add x18, x18, x2
  mov x0, #5
  hlt #0xf000
  b 1b
3: mov x5, #0
quit:
  adr x1, exit
  str x5, [x1, #8]
  mov x0, #0x18
  hlt #0xf000
  b .

  .org 0x800
  .rept 8
  mov x5, #3
  b quit
  .balign 0x80
  .endr
  // lower EL, AArch64, synchronous
  msr tpidr_el2, x0
  adr x0, context
  ldr x0, [x0, #8]
  stp x28, x29, [x0, #224]
  str x30, [x0, #240]
  str x1, [x0, #8]
  mrs x1, tpidr_el2
  str x1, [x0]
{save}
  add x2, x0, #248
  mrs x1, elr_el2
  str x1, [x2], #8
  mrs x1, spsr_el2
  str x1, [x2], #8
  mrs x1, esr_el2
  str x1, [x2], #8
  mrs x1, esr_el1
  str x1, [x2], #8
  mrs x1, far_el1
  str x1, [x2], #8
  mrs x1, elr_el1
  str x1, [x2], #8
  mrs x1, spsr_el1
  str x1, [x2], #8
  mrs x1, par_el1
  str x1, [x2], #8
  mrs x1, sp_el0
  str x1, [x2], #8
  mrs x1, sp_el1
  str x1, [x2], #8
  mov x25, x0
  adr x0, context
  ldp x20, x21, [x0]
  ldp x22, x23, [x0, #16]
  ldp x24, x26, [x0, #32]
  ldr x27, [x0, #48]
  mov x21, x2
  sub x24, x24, #1
  b step
  .balign 8
context: .space 64
open: .quad 0, 5, 11
write: .quad 0, 0, 0
exit: .quad 0x20026, 0
file: .asciz \"results.bin\"
",
        load = pairs("ldp", "x0", 2),
        save = pairs("stp", "x0", 2).replace("  stp x28, x29, [x0, #224]\n", ""),
    );
    s
}

fn command(name: &str, args: &[&str], dir: &Path, package: &str) -> Result<()> {
    let status = Command::new(name)
        .args(args)
        .current_dir(dir)
        .status()
        .with_context(|| format!("{name} (Debian: {package})"))?;
    ensure!(status.success(), "{name} {args:?} failed");
    Ok(())
}

impl Reference {
    /// Assembles the driver into `dir`.
    pub fn new(qemu: &str, cpu: &str, dir: &Path) -> Result<Reference> {
        let dir = dir.to_path_buf();
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("driver.s"), assembly())?;
        let package = "binutils-aarch64-linux-gnu";
        command("aarch64-linux-gnu-as", &["-march=armv8.5-a", "-o", "driver.o", "driver.s"], &dir, package)?;
        let copy = ["-O", "binary", "-j", ".text", "driver.o", "driver.bin"];
        command("aarch64-linux-gnu-objcopy", &copy, &dir, package)?;
        Ok(Reference { qemu: qemu.into(), cpu: cpu.into(), dir, timeout: Duration::from_secs(120) })
    }

    /// Values of [`ID_REGS`].
    pub fn ids(&self) -> Result<Vec<u64>> {
        Ok(self.start(&[])?.0)
    }

    /// Answers to the cases.
    pub fn ask(&self, cases: &[Case]) -> Result<Vec<Outcome>> {
        let (_, words) = match self.start(cases) {
            Ok(r) => r,
            Err(e) if cases.len() == 1 => {
                let p = self.dir.join("failed-case.txt");
                std::fs::write(&p, format!("{:#x?}", cases[0]))?;
                return Err(e.context(format!("the case is in {}", p.display())));
            }
            // One case that never ends stops all: find it.
            Err(e) => {
                eprintln!("diff-system: {e}; halving {} cases", cases.len());
                let (a, b) = cases.split_at(cases.len() / 2);
                let mut all = self.ask(a)?;
                all.extend(self.ask(b)?);
                return Ok(all);
            }
        };
        let mut at = 0;
        cases
            .iter()
            .map(|c| {
                let (o, n) = Outcome::get(&words[at..], c.steps.len()).context("results end early")?;
                at += n;
                Ok(o)
            })
            .collect()
    }

    fn start(&self, cases: &[Case]) -> Result<(Vec<u64>, Vec<u64>)> {
        let mut words = vec![cases.len() as u64];
        for c in cases {
            c.put(&mut words);
        }
        ensure!(words.len() * 8 < (RESULTS - CASES) as usize, "too many cases for one start");
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        std::fs::write(self.dir.join("cases.bin"), bytes)?;
        let results = self.dir.join("results.bin");
        let _ = std::fs::remove_file(&results);
        let mut child = Command::new(&self.qemu)
            .args(["-M", "virt,virtualization=on,highmem=off,gic-version=3", "-m", "512"])
            .args(["-cpu", &self.cpu])
            .args(["-display", "none", "-serial", "none", "-monitor", "none", "-nodefaults"])
            .args(["-semihosting-config", "enable=on,target=native"])
            .args(["-device", &format!("loader,file=driver.bin,addr={DRIVER:#x},force-raw=on")])
            .args(["-device", &format!("loader,file=cases.bin,addr={CASES:#x},force-raw=on")])
            .args(["-device", &format!("loader,addr={DRIVER:#x},cpu-num=0")])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {} (Debian: qemu-system-arm)", self.qemu))?;
        let begin = Instant::now();
        let status = loop {
            if let Some(s) = child.try_wait()? {
                break s;
            }
            if begin.elapsed() > self.timeout / if cases.len() < 256 { 8 } else { 1 } {
                child.kill()?;
                child.wait()?;
                bail!("the reference did not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        ensure!(status.success(), "the reference ended with {status}");
        let b = std::fs::read(&results).context("the reference wrote no results")?;
        let mut w: Vec<u64> = b.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect();
        ensure!(w.len() >= ID_REGS.len(), "the reference wrote too little");
        let rest = w.split_off(ID_REGS.len());
        Ok((w, rest))
    }
}
