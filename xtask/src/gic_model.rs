//! The GIC against a model from the specification: random accesses by a guest, and by several seeds without one.

use std::time::Instant;

use anyhow::{Result, anyhow, ensure};
use ulna_gic_model::direct::Direct;
use ulna_gic_model::guest::Machine;
use ulna_gic_model::ops::Plan;
use ulna_gic_model::{Identity, Model, Target};

use crate::EngineArg;

#[derive(clap::Args)]
pub struct Args {
    /// Accesses on each side: by the guest of a whole machine, and on the GIC alone.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Accesses between two moves to another machine; 0 for none.
    #[arg(long, default_value_t = 50_000)]
    moves: u64,
    /// What executes the guest.
    #[arg(long, value_enum, default_value_t = EngineArg::Interp)]
    engine: EngineArg,
}

/// Identities that take turns: a fifth of the steps each.
fn identities() -> Vec<Identity> {
    let of = |affinity: &[u32], intids, pri_bits, id_bits, seis, a3v| Identity {
        affinity: affinity.to_vec(),
        intids,
        pri_bits,
        id_bits,
        seis,
        a3v,
    };
    vec![
        of(&[0, 1, 2, 3], 96, 5, 16, false, true),
        of(&[0, 1, 0x101, 0x2_0003], 64, 7, 24, false, true),
        of(&[0, 1, 2], 1024 - 32, 6, 16, false, false),
        of(&[0, 0x100, 0x1_0000, 0x100_0000], 96, 5, 24, false, true),
        of(&[0, 1, 2, 3, 4, 5, 6, 7], 96, 7, 16, true, false),
    ]
}

pub fn run(args: &Args) -> Result<()> {
    let ids = identities();
    let each = args.steps.div_ceil(ids.len() as u64);
    for (name, unaligned) in [("a guest's accesses", false), ("accesses of the GIC alone", true)] {
        let start = Instant::now();
        for (n, id) in (0..).zip(&ids) {
            let seed = args.seed + n;
            let mut target: Box<dyn Target> = if unaligned {
                Box::new(Direct::new(id).map_err(|e| anyhow!(e))?)
            } else {
                Box::new(Machine::new(id, args.engine.into()).map_err(|e| anyhow!(e))?)
            };
            let mut plan = Plan::new(&id.affinity, id.intids, unaligned);
            let mut model = Model::new(id.clone());
            let report = ulna_gic_model::run(&mut model, &mut *target, &mut plan, seed, each, args.moves);
            let report = report.map_err(|e| anyhow!("{name}, {id:?}: {e}"))?;
            println!("{name}, seed {seed}: {report}");
            ensure!(each < 20_000 || report.is_lively(), "too little happened");
        }
        println!("{name}: all agree, in {:.1} s", start.elapsed().as_secs_f64());
    }
    let start = Instant::now();
    for (seed, cpus) in (args.seed..).zip([1, 2, 3, 4, 8]) {
        let (read, taken) = ulna_gic_model::v2::run(cpus, seed, each).map_err(|e| anyhow!("GICv2: {e}"))?;
        println!(
            "GICv2 of {cpus}, seed {seed}: {each} accesses: {read} values read, {taken} interrupts acknowledged"
        );
    }
    println!("GICv2: all agree, in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
