//! The catalog says of every register what a VMM may write; the setter must agree, bit by bit.

use std::sync::Arc;

use ulna_kvm_abi::RegId;
use ulna_kvm_core::{ClockKind, Engine, Kvm, KvmConfig, Policy, Vcpu, Vm};
use ulna_machine::catalog::{self, WriteRule};
use ulna_machine::{Machine, VcpuFeatures};
use ulna_profile::Profile;

/// A vCPU whose time stands still.
fn vcpu(profile: &Profile, features: u32) -> (Vm, Vcpu) {
    let kvm = Kvm::new(KvmConfig {
        profile: profile.clone(),
        policy: Policy::Hw,
        clock: ClockKind::Insn,
        engine: Engine::default(),
        engine_options: Default::default(),
        random: Arc::new(|| 0),
        wall_clock: Arc::new(|| 0),
        strict: false,
    });
    let vm = kvm.create_vm(0).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut init = vm.preferred_target();
    init.features[0] = features;
    vcpu.init(&init).unwrap();
    (vm, vcpu)
}

fn get(v: &mut Vcpu, id: RegId) -> u128 {
    let mut b = [0; 16];
    v.get_one_reg(id, &mut b[..id.size()]).unwrap();
    u128::from_le_bytes(b)
}

fn set(v: &mut Vcpu, id: RegId, value: u128) -> bool {
    v.set_one_reg(id, &value.to_le_bytes()[..id.size()]).is_ok()
}

/// What is wrong with what the catalog says of a register.
fn judge(machine: &Machine, profile: &Profile, features: u32, id: RegId) -> Option<String> {
    let named = catalog::name(id).unwrap();
    let (rule, mask) = machine.write_rule(named);
    let (_vm, mut v) = vcpu(profile, features);
    let first = get(&mut v, id);
    if !set(&mut v, id, first) {
        return Some(format!("{named}: refuses what it reads"));
    }
    if get(&mut v, id) != first {
        // A register that clears bits has cleared all of them.
        v = vcpu(profile, features).1;
    }
    let mut wrong = (0u128, 0u128);
    for bit in 0..id.size() as u32 * 8 {
        let one = 1u128 << bit;
        let accepted = set(&mut v, id, first ^ one);
        let moved = get(&mut v, id) ^ first;
        let inside = mask & one != 0;
        let good = match rule {
            WriteRule::Open | WriteRule::Masked if inside => accepted && moved == one,
            WriteRule::CounterOffset => accepted && moved == one,
            WriteRule::Open | WriteRule::Masked | WriteRule::Ignored => accepted && moved == 0,
            WriteRule::Fixed => !accepted && moved == 0,
            // A field at its limit cannot go up; one that can go down moves one bit.
            WriteRule::Limit if inside => accepted && moved & !one == 0 || !accepted && moved == 0,
            WriteRule::Limit => moved == 0,
            WriteRule::Bitmap => accepted == (first & one != 0) && moved & !one == 0,
            WriteRule::HostLevel => moved == 0,
            // Bits that PSTATE does not have are taken and read as zero.
            WriteRule::Pstate => moved & !one == 0 && (accepted || moved == 0),
            WriteRule::SetBits => accepted && moved == one & mask & !first,
            WriteRule::ClearBits => accepted && first & !mask == 0 && moved == first & !one,
            WriteRule::Counters => accepted && moved & !(one & mask) == 0,
            WriteRule::Choice | WriteRule::LineSize => accepted == (moved == one),
        };
        if !good {
            if accepted {
                wrong.0 |= one;
            } else {
                wrong.1 |= one;
            }
        }
        if !set(&mut v, id, first) || get(&mut v, id) != first {
            v = vcpu(profile, features).1;
        }
    }
    let rule = rule.name();
    (wrong != (0, 0)).then(|| {
        format!(
            "{named}: {rule} {mask:#x}, reads {first:#x}: wrong when accepted {:#x}, refused {:#x}",
            wrong.0, wrong.1
        )
    })
}

#[test]
fn the_setter_obeys_the_catalog() {
    let mut wrong = Vec::new();
    for name in ["max", "n1", "a57", "qemu-cortex-a72", "qemu-max", "thunderx2"] {
        let profile = Profile::builtin(name).unwrap();
        let all = Machine::new(&profile, Policy::Hw, VcpuFeatures::NONE).supported_vcpu_features();
        let features = all.without(VcpuFeatures::POWER_OFF | VcpuFeatures::EL1_32BIT).bits();
        let machine = Machine::new(&profile, Policy::Hw, VcpuFeatures::from_bits(features));
        let ids = vcpu(&profile, features).1.reg_list().unwrap();
        let found = ids.iter().filter_map(|&id| judge(&machine, &profile, features, id));
        wrong.extend(found.map(|w| format!("{name}: {w}")));
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
}
