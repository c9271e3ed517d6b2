//! The state of a VM as text, to be compared: what is refused must not change it.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use ulna_kvm_abi::RegId;

use super::{VcpuHandle, VmHandle};

impl VmHandle {
    /// Everything that requests on the VM and its devices can change, the memory's contents apart.
    pub fn dump(&self) -> String {
        let v = &self.vm().0;
        let mut s = String::with_capacity(4096);
        let flag = |f: &std::sync::atomic::AtomicBool| f.load(Ordering::SeqCst);
        let word = |w: &std::sync::atomic::AtomicU64| w.load(Ordering::SeqCst);
        // Writing to a string does not fail.
        let _ = writeln!(
            s,
            "started {} fixed {} nisv {} suspend {} offsets {:x} {:x} ppis {:?} alive {}",
            flag(&v.started),
            flag(&v.offsets_fixed),
            flag(&v.nisv_to_user),
            flag(&v.system_suspend),
            word(&v.cntvoff),
            word(&v.cntpoff),
            v.timer_ppis(),
            v.check_alive().is_ok(),
        );
        let _ = writeln!(s, "vcpus {:?}", v.vcpus().keys().collect::<Vec<_>>());
        let _ = writeln!(s, "slots {}", v.slots.dump());
        let f = &v.firmware;
        let words = [&f.psci_version, &f.std, &f.std_hyp, &f.vendor_hyp].map(word);
        let filter = f.filter.lock().unwrap_or_else(|e| e.into_inner());
        let _ = writeln!(s, "firmware {words:x?} {filter:?}");
        drop(filter);
        let _ = writeln!(s, "id {:x?}", v.id_values());
        let _ = writeln!(s, "gic {:?} {:?}", *v.setup(), v.with_gic(|g| format!("{:x?}", g.gic.state())));
        let _ = writeln!(s, "ioeventfds {}", v.io_events.len());
        s
    }
}

impl VcpuHandle {
    /// Everything that requests on the vCPU can change, but its page. Waits while it runs.
    pub fn dump(&self) -> String {
        let mut v = self.lock();
        let mut s = String::with_capacity(0x4000);
        let _ = writeln!(
            s,
            "state {} mask {:x?} pmu {} {}",
            v.mp_state(),
            self.signal_mask(),
            v.pmu_ready,
            v.shared().pmu_irq.load(Ordering::SeqCst)
        );
        let mut b = [0; 256];
        for id in v.reg_list().unwrap_or_default() {
            let data = &mut b[..RegId::size(id).min(256)];
            let r = v.get_one_reg(id, data);
            let _ = writeln!(s, "{:x} {r:?} {data:x?}", id.0);
        }
        let _ = writeln!(s, "events {:?}", v.vcpu_events());
        s
    }
}
