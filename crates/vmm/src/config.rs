//! What a user asks for, checked before anything is built.

use crate::control::Options;
use crate::error::Error;
use crate::gdb::Address;
use crate::layout;
use crate::services::{MAX_TARGETS, Services, Target};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use ulna_kvm_backend::RegId;

/// Which interrupt controller the board has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum GicVersion {
    /// GICv2: at most 8 vCPUs.
    V2,
    /// GICv3 with an ITS.
    V3,
    /// GICv3 where the hypervisor has it, else GICv2.
    #[default]
    Best,
}

/// What is to be started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kernel {
    /// A file whose format is told by its first bytes: Image, Image.gz or ELF.
    Auto(PathBuf),
    /// A file that is a flat program.
    Raw(PathBuf),
    /// A flat program that is at hand already.
    BuiltIn(Vec<u8>),
    /// Nothing: firmware looks for something to start.
    Firmware,
}

/// What the guest's time follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Clock {
    /// The host's clock.
    #[default]
    Host,
    /// The number of instructions executed: the same run every time.
    Instructions,
}

/// A disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// A raw image.
    pub path: PathBuf,
    /// The guest may not write.
    pub readonly: bool,
}

/// The network card.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Net {
    /// There is none.
    #[default]
    None,
    /// User-mode networking: no privileges needed.
    User,
    /// A tap interface of the host.
    Tap(String),
}

/// Where the serial port goes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Serial {
    /// The terminal, or whatever standard input and output are.
    #[default]
    Stdio,
    /// Output goes to a file; there is no input.
    File(PathBuf),
    /// A new pseudo-terminal, whose name is printed.
    Pty,
    /// Nowhere.
    None,
}

/// What is done to a VM so that its guest sees another CPU than the host's: checked by whoever made it, and done before
/// the first run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)] // streams of earlier versions lack what came later
pub struct CpuSettings {
    /// Features of KVM_ARM_VCPU_INIT that vCPUs go without.
    pub without: u32,
    /// The VM has an identity of its own (KVM_CAP_ARM_WRITABLE_IMP_ID_REGS).
    pub identity: bool,
    /// Registers that only the VM has.
    #[serde(with = "numbers")]
    pub vm_registers: Vec<(RegId, u64)>,
    /// ICC_CTLR_EL1 of every vCPU.
    pub icc_ctlr: Option<u64>,
    /// Registers, written through every vCPU.
    #[serde(with = "numbers")]
    pub registers: Vec<(RegId, u64)>,
}

/// Register ids as numbers.
mod numbers {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use ulna_kvm_backend::RegId;

    pub fn serialize<S: Serializer>(all: &[(RegId, u64)], s: S) -> Result<S::Ok, S::Error> {
        all.iter().map(|(id, v)| (id.0, *v)).collect::<Vec<_>>().serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(RegId, u64)>, D::Error> {
        let all = Vec::<(u64, u64)>::deserialize(d)?;
        Ok(all.into_iter().map(|(id, v)| (RegId(id), v)).collect())
    }
}

/// A machine and what runs on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)] // streams of earlier versions lack what came later
pub struct Config {
    /// Name of the machine, for people and for the control socket.
    pub name: String,
    /// What to start.
    pub kernel: Kernel,
    /// Image of flash bank 0. With it the machine starts there, and the firmware is given the kernel.
    pub firmware: Option<PathBuf>,
    /// File behind flash bank 1; without it what is written there is lost at the end.
    pub firmware_vars: Option<PathBuf>,
    /// Initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// vCPUs that are enabled at the start.
    pub cpus: u32,
    /// vCPUs that exist and are in the device tree; those above `cpus` cannot be switched on before they are enabled.
    pub max_cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Interrupt controller.
    pub gic: GicVersion,
    /// What time follows.
    pub clock: Clock,
    /// Disks in the order of their virtio slots.
    pub disks: Vec<Disk>,
    /// Network card.
    pub net: Net,
    /// Serial port.
    pub serial: Serial,
    /// Where to write the device tree that the guest gets.
    #[serde(skip)]
    pub dtb_out: Option<PathBuf>,
    /// Hypercall services that were chosen.
    pub services: Services,
    /// CPUs that the guest is to prepare for, the profile's own first; without any it is not told of such a list.
    pub targets: Vec<Target>,
    /// Who each vCPU is; without any all are the profile's CPU.
    pub identities: Vec<Target>,
    /// Where GDB may come in; then nothing runs before it says so.
    #[serde(skip)]
    pub gdb: Option<Address>,
    /// What the CPU says otherwise than the host's.
    pub cpu: CpuSettings,
    /// The control socket.
    #[serde(skip)]
    pub control: Option<Options>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "vm".into(),
            kernel: Kernel::Firmware,
            firmware: None,
            firmware_vars: None,
            initrd: None,
            cmdline: String::new(),
            cpus: 1,
            max_cpus: 1,
            memory: 512 << 20,
            gic: GicVersion::Best,
            clock: Clock::Host,
            disks: Vec::new(),
            net: Net::None,
            serial: Serial::Stdio,
            dtb_out: None,
            services: Services::default(),
            targets: Vec::new(),
            identities: Vec::new(),
            gdb: None,
            cpu: CpuSettings::default(),
            control: None,
        }
    }
}

/// RAM comes in steps of this size.
const MEMORY_STEP: u64 = 1 << 20;
/// Linux refuses longer ones (COMMAND_LINE_SIZE of arm64).
const CMDLINE_MAX: usize = 2047;

impl Config {
    /// Refuses what no machine can be; `ipa_bits` is the size of the host's guest-physical address space.
    pub fn check(&self, ipa_bits: u32) -> Result<(), Error> {
        let usage = |message: String| Err(Error::Usage(message));
        let most = match self.gic {
            GicVersion::V2 => layout::MAX_CPUS_V2,
            GicVersion::V3 | GicVersion::Best => layout::MAX_CPUS,
        };
        if self.cpus == 0 || self.cpus > layout::MAX_CPUS {
            return usage(format!("--cpus {}: a machine has 1 to {} vCPUs", self.cpus, layout::MAX_CPUS));
        }
        if self.max_cpus < self.cpus || self.max_cpus > layout::MAX_CPUS {
            return usage(format!(
                "--max-cpus {}: must be at least --cpus {} and at most {}",
                self.max_cpus,
                self.cpus,
                layout::MAX_CPUS
            ));
        }
        if self.max_cpus > most {
            return usage(format!("{} vCPUs: with --gic 2 a machine has at most {most}", self.max_cpus));
        }
        if self.memory == 0 || !self.memory.is_multiple_of(MEMORY_STEP) {
            return usage(format!("--memory of {} bytes: must be a multiple of 1M, and not 0", self.memory));
        }
        let end = layout::RAM.checked_add(self.memory).map(|end| layout::end(self.max_cpus, end));
        if end.is_none_or(|end| ipa_bits < 64 && end > 1 << ipa_bits) {
            let room = (1u64 << ipa_bits.min(63)).saturating_sub(layout::RAM) >> 20;
            return usage(format!(
                "--memory {}M: the profile has {ipa_bits} address bits, which leave {room}M above 0x{:x}{}",
                self.memory >> 20,
                layout::RAM,
                if self.max_cpus > 123 {
                    ", less what the interrupt controller of that many vCPUs takes"
                } else {
                    ""
                }
            ));
        }
        if self.cmdline.len() > CMDLINE_MAX {
            let len = self.cmdline.len();
            return usage(format!("--cmdline has {len} bytes; kernels take at most {CMDLINE_MAX}"));
        }
        if self.cmdline.contains('\0') {
            return usage("--cmdline contains a zero byte".into());
        }
        if self.kernel == Kernel::Firmware && self.firmware.is_none() {
            return usage("There is nothing to start: give --kernel or --firmware".into());
        }
        if self.initrd.is_some() && !matches!(self.kernel, Kernel::Auto(_) | Kernel::Raw(_)) {
            return usage("--initrd needs --kernel".into());
        }
        if self.clock == Clock::Instructions && (self.net != Net::None || self.max_cpus > 1) {
            let what = if self.max_cpus > 1 { "more than one vCPU" } else { "--net" };
            return usage(format!("--clock insn makes runs that repeat exactly, and {what} rules out that"));
        }
        for service in ["pvtime", "ptp"] {
            if self.clock == Clock::Instructions && self.services.word(service) == Some("on") {
                return usage(format!(
                    "--clock insn makes runs that repeat exactly, and --services {service}=on rules out that"
                ));
            }
        }
        if !self.targets.is_empty() && self.services.word("kvm") == Some("off") {
            return usage("--targets and --services kvm=off contradict each other: a guest finds the list among KVM's calls".into());
        }
        if self.targets.len() > MAX_TARGETS {
            return usage(format!("--targets: {} are more than {MAX_TARGETS}", self.targets.len()));
        }
        let cards = self.disks.len() + usize::from(self.net != Net::None) + 1;
        if cards > layout::VIRTIO_SLOTS as usize {
            return usage(format!(
                "{} disks: the board has room for {} virtio devices",
                self.disks.len(),
                layout::VIRTIO_SLOTS
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> Config {
        Config { kernel: Kernel::BuiltIn(vec![0]), ..Config::default() }
    }

    #[test]
    fn what_no_machine_can_be_is_refused_in_one_line() {
        let gib = 1u64 << 30;
        let disk = Disk { path: "d".into(), readonly: false };
        let cases: Vec<(Config, &str)> = vec![
            (Config { cpus: 0, max_cpus: 0, ..base() }, "--cpus 0: a machine has 1 to 512 vCPUs"),
            (Config { cpus: 513, max_cpus: 513, ..base() }, "--cpus 513: a machine has 1 to 512 vCPUs"),
            (Config { cpus: 2, ..base() }, "--max-cpus 1: must be at least --cpus 2"),
            (
                Config { cpus: 9, max_cpus: 9, gic: GicVersion::V2, ..base() },
                "with --gic 2 a machine has at most 8",
            ),
            (Config { memory: 0, ..base() }, "--memory of 0 bytes"),
            (Config { memory: 4097, ..base() }, "--memory of 4097 bytes"),
            (
                Config { memory: 1024 * gib, ..base() },
                "the profile has 40 address bits, which leave 1047552M",
            ),
            (Config { memory: u64::MAX << 20, ..base() }, "the profile has 40 address bits"),
            (Config { memory: 1023 * gib, cpus: 512, max_cpus: 512, ..base() }, "that many vCPUs"),
            (Config { cmdline: "x".repeat(2048), ..base() }, "--cmdline has 2048 bytes"),
            (Config { cmdline: "a\0b".into(), ..base() }, "zero byte"),
            (
                Config { clock: Clock::Instructions, cpus: 2, max_cpus: 2, ..base() },
                "more than one vCPU rules out that",
            ),
            (Config { clock: Clock::Instructions, net: Net::User, ..base() }, "--net rules out that"),
            (Config { kernel: Kernel::Firmware, ..base() }, "nothing to start"),
            (Config { initrd: Some("x".into()), ..base() }, "--initrd needs --kernel"),
            (
                Config { disks: vec![disk; 32], ..base() },
                "32 disks: the board has room for 32 virtio devices",
            ),
        ];
        for (config, want) in cases {
            let Err(Error::Usage(message)) = config.check(40) else { panic!("{want}: accepted") };
            assert!(message.contains(want) && !message.contains('\n'), "{message}");
        }
        assert!(base().check(40).is_ok());
        assert!(Config { memory: 1023 * gib, ..base() }.check(40).is_ok());
        assert!(Config { cpus: 512, max_cpus: 512, ..base() }.check(40).is_ok());
    }
}
