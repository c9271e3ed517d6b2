//! The device tree of the board (Devicetree Specification 0.4; bindings of Linux's `Documentation/devicetree`).

use crate::layout::{self, ppi, spi};
use std::ops::Range;
use ulna_devices::flash::BANK_WIDTH;
use ulna_devices::fw_cfg::reg::SIZE as FW_CFG_SIZE;
use vm_fdt::{Error, FdtWriter};

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
const PHANDLE_ITS: u32 = 3;
const PHANDLE_GPIO: u32 = 4;

const GIC_SPI: u32 = 0;
const GIC_PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// KEY_POWER of Linux's input event codes, which the gpio-keys binding uses.
const KEY_POWER: u32 = 116;
/// SDEI's event that the host raises (seed-systems.md §3.6).
const HOST_NMI: u32 = 0x4075_6c00;

/// The GPIO line of the power key.
pub const POWER_KEY_LINE: u8 = 3;

/// The interrupt controller as the tree describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GicTree {
    /// GICv2.
    V2,
    /// GICv3.
    V3 {
        /// Regions of redistributors.
        redistributors: Vec<Range<u64>>,
        /// Whether there is an ITS.
        its: bool,
    },
}

/// What the tree says that differs from run to run.
#[derive(Clone, Debug)]
pub struct Tree<'a> {
    /// RAM.
    pub ram: Range<u64>,
    /// MPIDR_EL1 of every vCPU that is listed.
    pub cpus: &'a [u64],
    /// Interrupt controller.
    pub gic: GicTree,
    /// The version of PSCI, if it was chosen.
    pub psci: Option<&'static str>,
    /// Whether there is SDEI.
    pub sdei: bool,
    /// Whether the vCPUs have performance monitors.
    pub pmu: bool,
    /// virtio-mmio slots in use.
    pub virtio: &'a [u32],
    /// Kernel command line.
    pub cmdline: &'a str,
    /// Where the initrd lies.
    pub initrd: Option<Range<u64>>,
    /// Entropy for the kernel's random number generator.
    pub rng_seed: [u8; 32],
    /// Entropy for the kernel's address space layout.
    pub kaslr_seed: u64,
}

impl Tree<'_> {
    /// The flattened tree.
    pub fn flatten(&self) -> Result<Vec<u8>, Error> {
        let mut fdt = FdtWriter::new()?;
        let root = fdt.begin_node("")?;
        fdt.property_string("compatible", "linux,dummy-virt")?;
        fdt.property_string("model", "ulna,virt")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;
        self.chosen(&mut fdt)?;
        self.aliases(&mut fdt)?;
        self.memory(&mut fdt)?;
        self.cpus(&mut fdt)?;
        psci(&mut fdt, self.psci)?;
        if self.sdei {
            sdei(&mut fdt)?;
        }
        self.gic(&mut fdt)?;
        self.timer(&mut fdt)?;
        if self.pmu {
            self.pmu(&mut fdt)?;
        }
        flash(&mut fdt)?;
        fw_cfg(&mut fdt)?;
        clock(&mut fdt)?;
        uart(&mut fdt)?;
        rtc(&mut fdt)?;
        gpio(&mut fdt)?;
        for &slot in self.virtio {
            virtio(&mut fdt, slot)?;
        }
        fdt.end_node(root)?;
        fdt.finish()
    }

    fn chosen(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("chosen")?;
        fdt.property_string("bootargs", self.cmdline)?;
        fdt.property_string("stdout-path", "serial0")?;
        if let Some(initrd) = &self.initrd {
            fdt.property_u64("linux,initrd-start", initrd.start)?;
            fdt.property_u64("linux,initrd-end", initrd.end)?;
        }
        fdt.property("rng-seed", &self.rng_seed)?;
        fdt.property_u64("kaslr-seed", self.kaslr_seed)?;
        fdt.end_node(node)
    }

    fn aliases(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("aliases")?;
        fdt.property_string("serial0", &format!("/pl011@{:x}", layout::UART))?;
        fdt.end_node(node)
    }

    fn memory(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node(&format!("memory@{:x}", self.ram.start))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[self.ram.start, self.ram.end - self.ram.start])?;
        fdt.end_node(node)
    }

    fn cpus(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        // Aff3 needs a second cell; without it one cell is what every program expects.
        let affinity = |mpidr: u64| mpidr & 0xff_00ff_ffff;
        let wide = self.cpus.iter().any(|&m| affinity(m) >> 32 != 0);
        let node = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", if wide { 2 } else { 1 })?;
        fdt.property_u32("#size-cells", 0)?;
        for &mpidr in self.cpus {
            let reg = affinity(mpidr);
            let cpu = fdt.begin_node(&format!("cpu@{reg:x}"))?;
            fdt.property_string("device_type", "cpu")?;
            fdt.property_string("compatible", "arm,armv8")?;
            fdt.property_string("enable-method", "psci")?;
            if wide {
                fdt.property_u64("reg", reg)?;
            } else {
                fdt.property_u32("reg", reg as u32)?;
            }
            fdt.end_node(cpu)?;
        }
        fdt.end_node(node)
    }

    fn gic(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node(&format!("intc@{:x}", layout::GICD))?;
        fdt.property_phandle(PHANDLE_GIC)?;
        fdt.property_null("interrupt-controller")?;
        fdt.property_u32("#interrupt-cells", 3)?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        fdt.property_null("ranges")?;
        match &self.gic {
            GicTree::V2 => {
                fdt.property_string("compatible", "arm,cortex-a15-gic")?;
                let reg = [layout::GICD, layout::GICD_V2_SIZE, layout::GICC, layout::GICC_SIZE];
                fdt.property_array_u64("reg", &reg)?;
            }
            GicTree::V3 { redistributors, its } => {
                fdt.property_string("compatible", "arm,gic-v3")?;
                let mut reg = vec![layout::GICD, layout::GICD_V3_SIZE];
                for region in redistributors {
                    reg.extend([region.start, region.end - region.start]);
                }
                fdt.property_array_u64("reg", &reg)?;
                fdt.property_u32("#redistributor-regions", redistributors.len() as u32)?;
                if *its {
                    let child = fdt.begin_node(&format!("its@{:x}", layout::ITS))?;
                    fdt.property_phandle(PHANDLE_ITS)?;
                    fdt.property_string("compatible", "arm,gic-v3-its")?;
                    fdt.property_null("msi-controller")?;
                    fdt.property_u32("#msi-cells", 1)?;
                    fdt.property_array_u64("reg", &[layout::ITS, layout::ITS_SIZE])?;
                    fdt.end_node(child)?;
                }
            }
        }
        fdt.end_node(node)
    }

    /// The third cell of a PPI: its trigger and, for a GICv2, the CPUs it belongs to in bits 15:8.
    fn ppi_flags(&self) -> u32 {
        match self.gic {
            GicTree::V2 => ((1u32 << self.cpus.len().min(8)) - 1) << 8 | LEVEL_HIGH,
            GicTree::V3 { .. } => LEVEL_HIGH,
        }
    }

    fn timer(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("timer")?;
        let names = ["arm,armv8-timer", "arm,armv7-timer"];
        fdt.property_string_list("compatible", names.map(String::from).to_vec())?;
        fdt.property_null("always-on")?;
        let mut cells = Vec::new();
        for ppi in [ppi::TIMER_SECURE, ppi::TIMER_PHYSICAL, ppi::TIMER_VIRTUAL, ppi::TIMER_HYP] {
            cells.extend([GIC_PPI, ppi, self.ppi_flags()]);
        }
        fdt.property_array_u32("interrupts", &cells)?;
        fdt.end_node(node)
    }

    fn pmu(&self, fdt: &mut FdtWriter) -> Result<(), Error> {
        let node = fdt.begin_node("pmu")?;
        fdt.property_string("compatible", "arm,armv8-pmuv3")?;
        fdt.property_array_u32("interrupts", &[GIC_PPI, ppi::PMU, self.ppi_flags()])?;
        fdt.end_node(node)
    }
}

/// Function ids of PSCI 0.1, which has none of its own: KVM's.
const PSCI_0_1: [(&str, u32); 4] = [
    ("cpu_suspend", 0x95c1_ba5e),
    ("cpu_off", 0x95c1_ba5f),
    ("cpu_on", 0x95c1_ba60),
    ("migrate", 0x95c1_ba61),
];

fn psci(fdt: &mut FdtWriter, version: Option<&str>) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    match version {
        Some("0.1") => {
            fdt.property_string("compatible", "arm,psci")?;
            for (name, id) in PSCI_0_1 {
                fdt.property_u32(name, id)?;
            }
        }
        Some("0.2") => fdt.property_string("compatible", "arm,psci-0.2")?,
        _ => {
            let names = ["arm,psci-1.0", "arm,psci-0.2"];
            fdt.property_string_list("compatible", names.map(String::from).to_vec())?;
        }
    }
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

/// Linux's binding `firmware/sdei`, and the event that `ulna ctl VM nmi` raises.
fn sdei(fdt: &mut FdtWriter) -> Result<(), Error> {
    let firmware = fdt.begin_node("firmware")?;
    let node = fdt.begin_node("sdei")?;
    fdt.property_string("compatible", "arm,sdei-1.0")?;
    fdt.property_string("method", "hvc")?;
    fdt.property_u32("ulna,nmi-event", HOST_NMI)?;
    fdt.end_node(node)?;
    fdt.end_node(firmware)
}

/// Both banks are one node, two 16-bit devices side by side in each.
fn flash(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("flash@{:x}", layout::FLASH.start))?;
    fdt.property_string("compatible", "cfi-flash")?;
    let banks = [layout::FLASH, layout::FLASH_VARS].map(|r| [r.start, r.end - r.start]);
    fdt.property_array_u64("reg", banks.as_flattened())?;
    fdt.property_u32("bank-width", BANK_WIDTH as u32)?;
    fdt.end_node(node)
}

fn fw_cfg(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("fw-cfg@{:x}", layout::FW_CFG))?;
    fdt.property_string("compatible", "qemu,fw-cfg-mmio")?;
    fdt.property_array_u64("reg", &[layout::FW_CFG, FW_CFG_SIZE])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.end_node(node)
}

fn primecell(fdt: &mut FdtWriter, name: &str, base: u64, irq: u32) -> Result<(), Error> {
    fdt.property_string_list("compatible", vec![format!("arm,{name}"), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &[base, layout::PRIMECELL_SIZE])?;
    fdt.property_array_u32("interrupts", &[GIC_SPI, irq, LEVEL_HIGH])
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl011@{:x}", layout::UART))?;
    primecell(fdt, "pl011", layout::UART, spi::UART)?;
    fdt.property_array_u32("clocks", &[PHANDLE_CLOCK, PHANDLE_CLOCK])?;
    fdt.property_string_list("clock-names", ["uartclk", "apb_pclk"].map(String::from).to_vec())?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl031@{:x}", layout::RTC))?;
    primecell(fdt, "pl031", layout::RTC, spi::RTC)?;
    fdt.property_u32("clocks", PHANDLE_CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

fn gpio(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl061@{:x}", layout::GPIO))?;
    fdt.property_phandle(PHANDLE_GPIO)?;
    primecell(fdt, "pl061", layout::GPIO, spi::GPIO)?;
    fdt.property_null("gpio-controller")?;
    fdt.property_u32("#gpio-cells", 2)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_u32("clocks", PHANDLE_CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)?;

    let keys = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let power = fdt.begin_node("poweroff")?;
    fdt.property_string("label", "GPIO Key Poweroff")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.property_array_u32("gpios", &[PHANDLE_GPIO, u32::from(POWER_KEY_LINE), 0])?;
    fdt.end_node(power)?;
    fdt.end_node(keys)
}

fn virtio(fdt: &mut FdtWriter, slot: u32) -> Result<(), Error> {
    let base = layout::virtio(slot);
    let node = fdt.begin_node(&format!("virtio_mmio@{base:x}"))?;
    fdt.property_string("compatible", "virtio,mmio")?;
    fdt.property_array_u64("reg", &[base, layout::VIRTIO_STRIDE])?;
    fdt.property_array_u32("interrupts", &[GIC_SPI, spi::VIRTIO + slot, LEVEL_HIGH])?;
    fdt.property_null("dma-coherent")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn tree(cpus: &[u64]) -> Tree<'_> {
        Tree {
            ram: 0x4000_0000..0x6000_0000,
            cpus,
            gic: GicTree::V3 { redistributors: layout::redistributors(4, 0x6000_0000), its: true },
            psci: None,
            sdei: true,
            pmu: true,
            virtio: &[0, 31],
            cmdline: "console=ttyAMA0 quiet",
            initrd: Some(0x4800_0000..0x4900_0000),
            rng_seed: [7; 32],
            kaslr_seed: 0x0123_4567_89ab_cdef,
        }
    }

    /// Every property as (path of the node, name, bytes): the tests' own reader of the format.
    fn properties(blob: &[u8]) -> Vec<(String, String, Vec<u8>)> {
        let word = |at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize;
        let text = |at: usize| {
            let len = blob[at..].iter().position(|&b| b == 0).unwrap();
            String::from_utf8(blob[at..at + len].to_vec()).unwrap()
        };
        assert_eq!(word(0), 0xd00d_feed);
        assert_eq!(word(4), blob.len());
        let (mut at, strings) = (word(8), word(12));
        let (mut path, mut out) = (Vec::new(), Vec::new());
        loop {
            let token = word(at);
            at += 4;
            match token {
                1 => {
                    let name = text(at);
                    at = (at + name.len() + 1).next_multiple_of(4);
                    path.push(name);
                }
                2 => {
                    path.pop();
                }
                3 => {
                    let (len, name) = (word(at), text(strings + word(at + 4)));
                    out.push((path.join("/"), name, blob[at + 8..at + 8 + len].to_vec()));
                    at = (at + 8 + len).next_multiple_of(4);
                }
                9 => return out,
                other => panic!("token {other}"),
            }
        }
    }

    fn get<'a>(all: &'a [(String, String, Vec<u8>)], path: &str, name: &str) -> &'a [u8] {
        &all.iter().find(|(p, n, _)| p == path && n == name).unwrap_or_else(|| panic!("{path} {name}")).2
    }

    fn cells(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap())).collect()
    }

    #[test]
    fn the_tree_says_what_the_board_has() {
        let all = properties(&tree(&[0x8000_0000, 0x8000_0001]).flatten().unwrap());
        assert_eq!(get(&all, "", "compatible"), b"linux,dummy-virt\0");
        assert_eq!(get(&all, "/chosen", "bootargs"), b"console=ttyAMA0 quiet\0");
        assert_eq!(get(&all, "/chosen", "linux,initrd-end"), 0x4900_0000u64.to_be_bytes());
        assert_eq!(get(&all, "/chosen", "kaslr-seed"), 0x0123_4567_89ab_cdefu64.to_be_bytes());
        assert_eq!(get(&all, "/chosen", "rng-seed").len(), 32);
        assert_eq!(cells(get(&all, "/memory@40000000", "reg")), [0, 0x4000_0000, 0, 0x2000_0000]);
        assert_eq!(cells(get(&all, "/cpus/cpu@1", "reg")), [1]);
        assert_eq!(get(&all, "/cpus/cpu@1", "enable-method"), b"psci\0");
        assert_eq!(get(&all, "/psci", "method"), b"hvc\0");
        assert_eq!(get(&all, "/firmware/sdei", "compatible"), b"arm,sdei-1.0\0");
        assert_eq!(get(&all, "/firmware/sdei", "method"), b"hvc\0");
        assert_eq!(get(&all, "/intc@8000000", "compatible"), b"arm,gic-v3\0");
        assert_eq!(
            cells(get(&all, "/intc@8000000", "reg")),
            [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 0x8_0000]
        );
        assert_eq!(cells(get(&all, "/intc@8000000/its@8080000", "reg")), [0, 0x0808_0000, 0, 0x2_0000]);
        assert_eq!(cells(get(&all, "/timer", "interrupts")), [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
        assert_eq!(cells(get(&all, "/pmu", "interrupts")), [1, 7, 4]);
        assert_eq!(cells(get(&all, "/pl011@9000000", "interrupts")), [0, 1, 4]);
        assert_eq!(cells(get(&all, "/pl031@9010000", "interrupts")), [0, 2, 4]);
        assert_eq!(cells(get(&all, "/flash@0", "reg")), [0, 0, 0, 0x400_0000, 0, 0x400_0000, 0, 0x400_0000]);
        assert_eq!(cells(get(&all, "/flash@0", "bank-width")), [4]);
        assert_eq!(cells(get(&all, "/fw-cfg@9020000", "reg")), [0, 0x0902_0000, 0, 0x18]);
        assert_eq!(cells(get(&all, "/gpio-keys/poweroff", "gpios")), [PHANDLE_GPIO, 3, 0]);
        assert_eq!(cells(get(&all, "/virtio_mmio@a003e00", "interrupts")), [0, 47, 4]);
        assert!(
            !all.iter().any(|(p, ..)| p == "/virtio_mmio@a000200"),
            "slots not in use are not in the tree"
        );
    }

    #[test]
    fn a_gicv2_has_its_cpus_in_the_ppi_cells() {
        let mut t = tree(&[0, 1, 2]);
        t.gic = GicTree::V2;
        t.pmu = false;
        let all = properties(&t.flatten().unwrap());
        assert_eq!(get(&all, "/intc@8000000", "compatible"), b"arm,cortex-a15-gic\0");
        assert_eq!(
            cells(get(&all, "/intc@8000000", "reg")),
            [0, 0x0800_0000, 0, 0x1000, 0, 0x0801_0000, 0, 0x2000]
        );
        assert_eq!(cells(get(&all, "/timer", "interrupts"))[..3], [1, 13, 0x704]);
        assert!(!all.iter().any(|(p, ..)| p == "/pmu"));
    }

    #[test]
    fn aff3_widens_the_cpu_addresses() {
        let all = properties(&tree(&[0x8000_0000, 0x1_8000_0000]).flatten().unwrap());
        assert_eq!(cells(get(&all, "/cpus", "#address-cells")), [2]);
        assert_eq!(cells(get(&all, "/cpus/cpu@100000000", "reg")), [1, 0]);
    }

    #[test]
    fn the_device_tree_compiler_has_no_complaint() {
        // A check in development: machines with only Rust have no dtc.
        let Ok(mut dtc) = Command::new("dtc")
            .args(["-I", "dtb", "-O", "dts", "-o", "/dev/null", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        else {
            return;
        };
        std::io::Write::write_all(&mut dtc.stdin.take().unwrap(), &tree(&[0, 1]).flatten().unwrap()).unwrap();
        let out = dtc.wait_with_output().unwrap();
        let complaints = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && complaints.is_empty(), "{complaints}");
    }
}
