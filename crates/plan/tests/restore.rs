//! Plan agrees with restore: every pair of profiles, both policies. The registers of a VM of the source are written into
//! a VM of the destination, every one, and all that is refused, comes out changed or reads otherwise for the guest is
//! collected; the plan has to name exactly that.

mod common;

use common::*;
use ulna_kvm_core::Policy;
use ulna_plan::{Verdict, plan};

#[test]
fn plan_names_what_a_restore_refuses() {
    let (mut pairs, mut go) = (0, 0);
    for policy in [Policy::Hw, Policy::Soft] {
        let all = hosts(policy);
        let guests: Vec<_> = all.iter().map(|h| start(h, false)).collect();
        for (from, (guest, unseen)) in all.iter().zip(&guests) {
            for to in &all {
                let p = plan(guest, Some(from), to);
                let real = restore(guest, unseen, to);
                let said = named(&p);
                let differ: Vec<_> = said.symmetric_difference(&real).collect();
                assert!(differ.is_empty(), "{} to {}: {differ:?}", p.from, p.to);
                assert_eq!(p.verdict == Verdict::Blocked, !real.is_empty());
                pairs += 1;
                go += u32::from(real.is_empty());
            }
        }
    }
    println!("{pairs} pairs, {go} go");
    assert_eq!(pairs, 2 * 22 * 22);
    assert!(go >= 44, "{go}");
}
