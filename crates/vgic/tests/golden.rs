//! Register reset values and write masks against recordings of real KVM.

use std::collections::HashMap;

use ulna_vgic::{Affinity, Gic, GicConfig, GicError, IccReg, NoMemory, Region, Version};

fn gic() -> Gic {
    let mut config = GicConfig::new(Version::V3, vec![Affinity(0)], 64);
    // That machine's ICC_CTLR_EL1 was 0x8c00.
    config.id_bits = 24;
    Gic::new(config).unwrap()
}

fn number(s: &str) -> u64 {
    u64::from_str_radix(s.trim_start_matches("0x"), 16).unwrap()
}

fn errno(result: Result<(), GicError>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(GicError::BadValue) => -22,
        Err(GicError::Busy) => -16,
        Err(_) => -6,
    }
}

#[test]
fn distributor_and_redistributor() {
    let mut gic = gic();
    let mut known = HashMap::new();
    let mut checked = 0;
    for line in include_str!("data/kvm-6.12-vgicreg.txt").lines().filter(|l| !l.starts_with('#')) {
        let f: Vec<&str> = line.split(' ').collect();
        let region = if f[0] == "dist" { Region::Dist } else { Region::Redist(0) };
        let (first, n, has) = (number(f[1]), f[2].parse::<u64>().unwrap(), f[3] == "0");
        for off in (first..).step_by(4).take(n as usize) {
            known.insert((f[0], off), has);
            assert_eq!(gic.has_user_register(region, off), has, "has {line} at {off:#x}");
            let value = gic.user_read(region, 0, off);
            assert_eq!(value, number(f[4]), "value {line} at {off:#x}");
            // In the recording's order; what a register reads depends on what was written before.
            let same = gic.user_write(region, 0, off, value, &NoMemory);
            assert_eq!(errno(same), f[5].parse::<i32>().unwrap(), "{line}: writing back to {off:#x}");
            for (written, code, back) in [(0, f[6], f[7]), (0xffff_ffff, f[8], f[9])] {
                let result = gic.user_write(region, 0, off, written, &NoMemory);
                assert_eq!(
                    errno(result),
                    code.parse::<i32>().unwrap(),
                    "{line}: writing {written:#x} to {off:#x}"
                );
                let now = gic.user_read(region, 0, off);
                assert_eq!(now, number(back), "{line}: after writing {written:#x} to {off:#x}");
            }
            let _ = gic.user_write(region, 0, off, value, &NoMemory);
            checked += 1;
        }
    }
    assert!(checked > 250, "only {checked} registers in the recording");
    for (name, region, size) in [("dist", Region::Dist, 0x1_0000), ("redist", Region::Redist(0), 0x2_0000)] {
        for off in (0..size).filter(|off| !known.contains_key(&(name, *off))) {
            assert!(!gic.has_user_register(region, off), "{name} {off:#x} is not in the recording");
        }
    }
}

#[test]
fn cpu_interface() {
    let mut seen = 0;
    for line in include_str!("data/kvm-6.12-vgicsys.txt").lines().filter(|l| !l.starts_with('#')) {
        let f: Vec<&str> = line.split(' ').collect();
        let reg = IccReg::from_packed(number(f[0]) as u16).expect(line);
        let mut first = gic();
        if f[1] != "0" {
            assert_eq!(first.user_sysreg_read(0, reg), Err(GicError::BadValue), "{line}");
            assert_eq!(first.user_sysreg_write(0, reg, 0), Err(GicError::BadValue), "{line}");
            continue;
        }
        let value = first.user_sysreg_read(0, reg).expect(line);
        assert_eq!(value, number(f[2]), "{line}");
        assert_eq!(first.user_sysreg_write(0, reg, value), Ok(()), "{line}");
        for (written, code, back) in [(0, f[3], f[4]), (u64::MAX, f[5], f[6])] {
            let mut gic = gic();
            assert_eq!(errno(gic.user_sysreg_write(0, reg, written)), code.parse::<i32>().unwrap(), "{line}");
            assert_eq!(gic.user_sysreg_read(0, reg), Ok(number(back)), "{line}: after {written:#x}");
        }
        let (mut accepted, mut kept) = (0, 0);
        for bit in 0..64 {
            let mut gic = gic();
            let flipped = value ^ 1 << bit;
            if gic.user_sysreg_write(0, reg, flipped).is_ok() {
                accepted |= 1u64 << bit;
                kept |= u64::from(gic.user_sysreg_read(0, reg) == Ok(flipped)) << bit;
            }
        }
        assert_eq!((accepted, kept), (number(f[7]), number(f[8])), "{line}: {accepted:#x} {kept:#x}");
        seen += 1;
    }
    assert_eq!(seen, 9);
    for enc in 0..=u16::MAX {
        let Some(reg) = IccReg::from_packed(enc) else { continue };
        let recorded =
            include_str!("data/kvm-6.12-vgicsys.txt").lines().any(|l| l.starts_with(&format!("{enc:#x} ")));
        assert_eq!(gic().user_sysreg_read(0, reg) != Err(GicError::NoRegister), recorded, "{enc:#x} {reg:?}");
    }
}
