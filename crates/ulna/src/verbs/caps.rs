//! `ulna caps`: what KVM_CHECK_EXTENSION answers on a host.

use crate::complain;
use crate::host::{self, HostArgs};
use clap::Args;
use serde::Serialize;
use ulna_kvm_backend::abi::cap;
use ulna_kvm_backend::{Errno, Hypervisor};
use ulna_vmm::{Error, ExitStatus};

/// Every capability that arm64 knows, with the answers of the system and of a VM.
#[derive(Args)]
#[command(after_help = ExitStatus::help())]
pub struct CapsArgs {
    #[command(flatten)]
    host: HostArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    number: u32,
    name: String,
    /// The answer, or a negative errno.
    system: i32,
    /// The same.
    vm: i32,
}

impl CapsArgs {
    /// Prints the list.
    pub fn call(self) -> ExitStatus {
        match self.text() {
            Ok(text) => host::print(&text),
            Err(e) => {
                complain(&e.to_string());
                e.status()
            }
        }
    }

    fn text(&self) -> Result<String, Error> {
        let kvm = self.host.kvm()?;
        let vm = kvm.create_vm(0).map_err(host::internal)?;
        // A question that only a VM can answer is refused on the system.
        let answer = |r: ulna_kvm_backend::Result<i32>| r.unwrap_or_else(|e| -e.0);
        let list: Vec<Entry> = cap::ALL
            .iter()
            .map(|&(name, number)| Entry {
                number,
                name: format!("KVM_CAP_{name}"),
                system: answer(kvm.check_extension(number)),
                vm: answer(vm.check_extension(number)),
            })
            .collect();
        if self.json {
            return host::json(&list);
        }
        let mut text = format!("{:>6} {:<36} {:>10} {:>10}\n", "NUMBER", "NAME", "SYSTEM", "VM");
        for e in &list {
            let (system, vm) = (shown(e.system), shown(e.vm));
            text.push_str(&format!("{:>6} {:<36} {system:>10} {vm:>10}\n", e.number, e.name));
        }
        Ok(text)
    }
}

/// An answer, or the name of the errno.
fn shown(answer: i32) -> String {
    if answer < 0 { format!("{:?}", Errno::new(-answer)) } else { answer.to_string() }
}
