//! The GIC's devices: creation, placement, initialisation, registers, interrupt lines.

use serde_json::{Map, Value, json};
use ulna_kvm_abi::device::*;
use ulna_kvm_abi::ioctl::request;
use ulna_kvm_abi::structs::{CreateDevice, IrqLevel};

use super::answers::{Answers, hex};
use super::attr::has_attrs;
use super::lab::{Cfg, Lab, PLAIN, PSCI, Vm, WITH_GIC};

const GICD: u64 = 0x0800_0000;
const GICR: u64 = 0x0810_0000;
const ENXIO: i64 = -6;
const ENOENT: i64 = -2;

/// `device`, `irqline`, `vgicreg`, `vgicsys`, `hasattr` of the GIC, and its sequences.
pub fn replay(lab: &Lab, gic: bool) -> Answers {
    let mut out = Answers::default();
    let v = lab.bare(false);
    for t in 0..16 {
        let mut d = CreateDevice { type_: t, fd: 0, flags: 1 };
        out.line(json!({"k": "device", "type": t, "test": lab.with(v.fd, request::CREATE_DEVICE, &mut d)}));
    }
    let mut d = CreateDevice { type_: TYPE_ARM_VGIC_V3, fd: 0, flags: 2 };
    let r = lab.with(v.fd, request::CREATE_DEVICE, &mut d);
    out.act("device", "v3 flags 2", r);
    if r == 0 {
        lab.close(d.fd as i32);
    }
    drop(v);
    if gic {
        create(lab, &mut out);
        place(lab, &mut out);
        regions(lab, &mut out);
        nr_irqs(lab, &mut out);
        init(lab, &mut out);
        registers(lab, &mut out);
        irq_line(lab, &mut out);
    }
    out
}

fn bare_with_gic(lab: &Lab) -> Vm<'_> {
    let mut v = lab.bare(false);
    v.add_gic();
    v
}

fn create(lab: &Lab, out: &mut Answers) {
    let v = bare_with_gic(lab);
    let again = |kind| match lab.create_device(v.fd, kind) {
        fd if fd >= 0 => {
            lab.close(fd);
            0
        }
        e => e,
    };
    out.act("device", "v3 twice", again(TYPE_ARM_VGIC_V3));
    out.act("device", "v2 after v3", again(TYPE_ARM_VGIC_V2));
    has_attrs(lab, out, "vgic3", "new", v.gic, 10, 8);
    for a in 0..6 {
        let mut x = 0x5a5au64;
        let r = lab.get_attr(v.gic, GRP_ADDR, a, &mut x);
        out.act_value("addr", format!("get {a}"), r, hex(x));
        if matches!(a, V3_ADDR_TYPE_REDIST | V3_ADDR_TYPE_REDIST_REGION) {
            continue;
        }
        for x in [1, 0x1000, 0x7f_ffff_0001, 1 << 40, (1 << 40) - 0x1_0000u64] {
            out.act("addr", format!("set {a} {x:#x}"), lab.set_attr(v.gic, GRP_ADDR, a, x));
        }
    }
}

fn place(lab: &Lab, out: &mut Answers) {
    let v = bare_with_gic(lab);
    let seq = "place";
    let set = |attr, x: u64| lab.set_attr(v.gic, GRP_ADDR, attr, x);
    out.act(seq, "dist", set(V3_ADDR_TYPE_DIST, GICD));
    out.act(seq, "dist again", set(V3_ADDR_TYPE_DIST, GICD));
    out.act(seq, "redist over dist", set(V3_ADDR_TYPE_REDIST, GICD));
    out.act(seq, "redist", set(V3_ADDR_TYPE_REDIST, GICR));
    out.act(seq, "redist again", set(V3_ADDR_TYPE_REDIST, GICR));
    out.act(seq, "region after redist", set(V3_ADDR_TYPE_REDIST_REGION, 0x0900_0000 | 1 << 52));
    out.act(seq, "init before vcpu init", lab.do_attr(v.gic, GRP_CTRL, CTRL_INIT));
}

fn regions(lab: &Lab, out: &mut Answers) {
    let v = bare_with_gic(lab);
    let seq = "regions";
    let region = |x: u64| lab.set_attr(v.gic, GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, x);
    let at = 0x0900_0000;
    out.act(seq, "count 0", region(at));
    out.act(seq, "index 1 first", region(at | 2 << 52 | 1));
    out.act(seq, "flags", region(at | 2 << 52 | 1 << 12));
    out.act(seq, "index 0", region(at | 2 << 52));
    out.act(seq, "index 0 again", region(at | 2 << 52));
    out.act(seq, "overlap", region(0x0902_0000 | 2 << 52 | 1));
    out.act(seq, "index 1", region(0x0904_0000 | 1 << 52 | 1));
    let mut x = 0u64;
    out.act(seq, "get 0", lab.get_attr(v.gic, GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, &mut x));
    out.act_value(seq, "value 0", 0, hex(x));
    x = 2;
    out.act(seq, "get 2", lab.get_attr(v.gic, GRP_ADDR, V3_ADDR_TYPE_REDIST_REGION, &mut x));
    out.act(seq, "redist after region", lab.set_attr(v.gic, GRP_ADDR, V3_ADDR_TYPE_REDIST, GICR));
}

fn nr_irqs(lab: &Lab, out: &mut Answers) {
    let seq = "nr-irqs";
    for n in [0, 32, 63, 64, 65, 96, 128, 1000, 1019, 1020, 1024, 1056, u32::MAX] {
        let v = bare_with_gic(lab);
        let mut now = 77u32;
        let g = lab.get_attr(v.gic, GRP_NR_IRQS, 0, &mut now);
        if n == 0 {
            out.act(seq, "get first", g);
            out.act(seq, "value first", now);
        }
        out.act(seq, format!("set {n}"), lab.set_attr(v.gic, GRP_NR_IRQS, 0, n));
        if n == 96 {
            out.act(seq, "set 128 after 96", lab.set_attr(v.gic, GRP_NR_IRQS, 0, 128u32));
            lab.get_attr(v.gic, GRP_NR_IRQS, 0, &mut now);
            out.act(seq, "value after 96", now);
        }
    }
}

fn init(lab: &Lab, out: &mut Answers) {
    let seq = "init";
    let v = bare_with_gic(lab);
    let init = || lab.do_attr(v.gic, GRP_CTRL, CTRL_INIT);
    lab.vcpu_init(v.vcpu, PSCI);
    out.act(seq, "run before init", v.run_once(false));
    out.act(seq, "init without addr", init());
    out.act(seq, "init again", init());
    out.act(seq, "run without addr", v.run_once(false));
    out.act(seq, "nr_irqs after init", lab.set_attr(v.gic, GRP_NR_IRQS, 0, 64u32));
    out.act(seq, "vcpu after init", lab.ctl(v.fd, request::CREATE_VCPU, 1));
    drop(v);
    let v = lab.make(&PLAIN);
    v.run_once(false);
    out.act(seq, "create after run", lab.create_device(v.fd, TYPE_ARM_VGIC_V3));
}

fn get(lab: &Lab, v: &Vm<'_>, group: u32, attr: u64) -> (i64, u64) {
    let mut x = 0u64;
    let r = lab.get_attr(v.gic, group, attr, &mut x);
    (r, x)
}

fn set(lab: &Lab, v: &Vm<'_>, group: u32, attr: u64, x: u64) -> i64 {
    lab.set_attr(v.gic, group, attr, x)
}

/// All registers: one vCPU, 64 interrupts, initialised, not run.
fn registers(lab: &Lab, out: &mut Answers) {
    let mut v = lab.make(&WITH_GIC);
    has_attrs(lab, out, "vgic3", "init", v.gic, 10, 8);
    frame(lab, &v, out, GRP_DIST_REGS, "dist", 0x1_0000);
    frame(lab, &v, out, GRP_REDIST_REGS, "redist", 0x2_0000);
    let seq = "vgic-reg";
    let asked = |group, attr| get(lab, &v, group, attr).0;
    out.act(seq, "dist off 1", asked(GRP_DIST_REGS, 1));
    out.act(seq, "redist off 2", asked(GRP_REDIST_REGS, 2));
    out.act(seq, "redist mpidr 1", asked(GRP_REDIST_REGS, 1 << 32));
    out.act(seq, "dist mpidr 1", asked(GRP_DIST_REGS, 1 << 32));
    out.act(seq, "sysreg mpidr 1", asked(GRP_CPU_SYSREGS, 1 << 32 | 0xc664));
    for first in [0, 32] {
        let (r, x) = get(lab, &v, GRP_LEVEL_INFO, first);
        out.act_value(seq, format!("level {first}"), r, hex(x));
    }
    out.act(seq, "level 1", asked(GRP_LEVEL_INFO, 1));
    out.act(seq, "level 1024", asked(GRP_LEVEL_INFO, 1024));
    out.act(seq, "level info 1", asked(GRP_LEVEL_INFO, 1 << 10));
    for enc in 0xc000..0x1_0000 {
        let h = lab.has_attr(v.gic, GRP_CPU_SYSREGS, enc);
        if h == 0 || enc % 0x40 == 0 {
            cpu_register(lab, &mut v, out, enc);
        }
    }
}

/// Registers of four bytes in a frame; runs of equal answers are one line, and where there is none there is no line.
fn frame(lab: &Lab, v: &Vm<'_>, out: &mut Answers, group: u32, name: &str, size: u64) {
    let mut run: Option<(u64, u64, Map<String, Value>)> = None;
    let mut end = |run: &mut Option<(u64, u64, Map<String, Value>)>| {
        let Some((off, n, answer)) = run.take() else { return };
        if answer.get("has") == Some(&ENXIO.into()) && answer.get("get") == Some(&ENXIO.into()) {
            return;
        }
        let mut line = Map::new();
        line.insert("grp".into(), name.into());
        line.insert("off".into(), hex(off));
        line.insert("n".into(), n.into());
        line.extend(answer);
        out.fields("vgicreg", line);
    };
    for off in (0..size).step_by(4) {
        let answer = frame_register(lab, v, group, off);
        match &mut run {
            Some((_, n, same)) if *same == answer => *n += 1,
            _ => {
                end(&mut run);
                run = Some((off, 1, answer));
            }
        }
    }
    end(&mut run);
}

fn frame_register(lab: &Lab, v: &Vm<'_>, group: u32, off: u64) -> Map<String, Value> {
    let mut f = Map::new();
    let has = lab.has_attr(v.gic, group, off);
    let (got, val) = if has != 0 && !off.is_multiple_of(0x1000) { (has, 0) } else { get(lab, v, group, off) };
    f.insert("has".into(), has.into());
    f.insert("get".into(), got.into());
    if got != 0 {
        return f;
    }
    f.insert("v".into(), hex(val));
    f.insert("same".into(), set(lab, v, group, off, val).into());
    for (name, x) in [("zero", 0), ("ones", 0xffff_ffff)] {
        f.insert(name.into(), set(lab, v, group, off, x).into());
        f.insert(format!("{name}_rb"), hex(get(lab, v, group, off).1));
    }
    set(lab, v, group, off, val);
    f
}

/// A refused write can leave something behind, and some fields only go down: then a new VM is made.
fn restore<'a>(lab: &'a Lab, v: &mut Vm<'a>, enc: u64, val: u64) {
    set(lab, v, GRP_CPU_SYSREGS, enc, val);
    if get(lab, v, GRP_CPU_SYSREGS, enc) != (0, val) {
        *v = lab.make(&WITH_GIC);
    }
}

/// A register of the CPU interface, bit by bit.
fn cpu_register<'a>(lab: &'a Lab, v: &mut Vm<'a>, out: &mut Answers, enc: u64) {
    let (r, val) = get(lab, v, GRP_CPU_SYSREGS, enc);
    if r == ENXIO || r == ENOENT {
        return;
    }
    let mut f = Map::new();
    f.insert("enc".into(), hex(enc));
    f.insert("get".into(), r.into());
    if r == 0 {
        f.insert("v".into(), hex(val));
        f.insert("same".into(), set(lab, v, GRP_CPU_SYSREGS, enc, val).into());
        for (name, x) in [("zero", 0), ("ones", u64::MAX)] {
            f.insert(name.into(), set(lab, v, GRP_CPU_SYSREGS, enc, x).into());
            f.insert(format!("{name}_rb"), hex(get(lab, v, GRP_CPU_SYSREGS, enc).1));
            restore(lab, v, enc, val);
        }
        let (mut acc, mut kept) = (0, 0);
        let mut errors: Vec<(i64, u64)> = Vec::new();
        for b in 0..64 {
            let new = val ^ 1 << b;
            match set(lab, v, GRP_CPU_SYSREGS, enc, new) {
                0 => {
                    acc |= 1 << b;
                    kept |= u64::from(get(lab, v, GRP_CPU_SYSREGS, enc).1 == new) << b;
                }
                e => match errors.iter_mut().find(|m| m.0 == e) {
                    Some(m) => m.1 |= 1 << b,
                    None => errors.push((e, 1 << b)),
                },
            }
            restore(lab, v, enc, val);
        }
        f.insert("acc".into(), hex(acc));
        if kept != acc {
            f.insert("kept".into(), hex(kept));
        }
        if !errors.is_empty() {
            f.insert(
                "err".into(),
                errors.iter().map(|(e, m)| (e.to_string(), hex(*m))).collect::<Map<_, _>>().into(),
            );
        }
    }
    out.fields("vgicsys", f);
}

/// KVM_IRQ_LINE: type 27:24, vCPU 23:16 and 31:28, number.
fn irq_line(lab: &Lab, out: &mut Answers) {
    const LINES: [u32; 16] = [
        0,
        1,
        2,
        0x0100_0000 | 31,
        0x0100_0000 | 32,
        0x0100_0000 | 63,
        0x0100_0000 | 64,
        0x0100_0000 | 1019,
        0x0200_0000 | 15,
        0x0200_0000 | 16,
        0x0200_0000 | 27,
        0x0200_0000 | 31,
        0x0200_0000 | 32,
        0x0201_0000 | 16,
        0x1200_0000 | 16,
        0x0300_0000,
    ];
    for (gic, c) in [(0, Cfg { name: "gic", ..PLAIN }), (1, WITH_GIC)] {
        let v = lab.make(&c);
        for irq in LINES {
            let ret = lab.with(v.fd, request::IRQ_LINE, &mut IrqLevel { irq, level: 0 });
            out.line(json!({"k": "irqline", "gic": gic, "irq": hex(irq.into()), "ret": ret}));
        }
    }
}
