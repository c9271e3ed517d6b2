//! Steps on the model and on something else, and where they part.

use crate::ops::{Op, Plan, Rng, reg};
use crate::{Model, Sysreg, Taken, Target};

/// What happened on the way: a comparison in which nothing does is worth nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps.
    pub steps: u64,
    /// Values that were read back and agreed.
    pub read: u64,
    /// Interrupts that were acknowledged, by group.
    pub acknowledged: [u64; 2],
    /// SGIs, PPIs and SPIs among them.
    pub kinds: [u64; 3],
    /// Acknowledged while another was active.
    pub preempted: u64,
    /// Interrupts that a processor took when it unmasked them, and times it took none.
    pub windows: [u64; 2],
    /// Accesses that were UNDEFINED.
    pub undefined: u64,
    /// Moves to another machine.
    pub moves: u64,
}

impl Report {
    /// Whether everything that can happen did.
    pub fn is_lively(&self) -> bool {
        let all = [self.read, self.preempted, self.undefined];
        all.iter().chain(&self.acknowledged).chain(&self.kinds).chain(&self.windows).all(|n| *n != 0)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { steps, read, acknowledged: [g0, g1], kinds: [sgis, ppis, spis], .. } = self;
        write!(f, "{steps} accesses: {read} values read, {g0} interrupts of group 0 and {g1} of group 1 ")?;
        write!(f, "acknowledged ({sgis} SGIs, {ppis} PPIs, {spis} SPIs, {} preempting), ", self.preempted)?;
        write!(f, "{} taken by a CPU that unmasked, {} times none, ", self.windows[0], self.windows[1])?;
        write!(f, "{} undefined, {} moves", self.undefined, self.moves)
    }
}

/// Makes `steps` steps from `seed`, and a move every `every` (none for 0). Says where model and target part.
pub fn run(
    model: &mut Model,
    target: &mut dyn Target,
    plan: &mut Plan,
    seed: u64,
    steps: u64,
    every: u64,
) -> Result<Report, String> {
    let mut rng = Rng(seed);
    let mut report = Report::default();
    let mut todo: Vec<(usize, Op)> = Vec::new();
    let mut recent: std::collections::VecDeque<(usize, Op)> = std::collections::VecDeque::new();
    for n in 0..steps {
        // Nonsense shuts everything sooner or later: open it again.
        if n % 400 == 0 {
            todo = plan.open((n / 400) as usize);
        }
        let (cpu, op) = todo.pop().unwrap_or_else(|| plan.step(&mut rng));
        recent.push_back((cpu, op));
        if recent.len() > 24 {
            recent.pop_front();
        }
        let value = step(model, target, cpu, &op, &mut report).map_err(|e| {
            let before: Vec<String> = recent.iter().map(|(c, o)| format!("  cpu {c}: {o:x?}")).collect();
            format!("step {n} of seed {seed}, processor {cpu}, {op:x?}: {e}\nbefore:\n{}", before.join("\n"))
        })?;
        plan.learn(cpu, &op, value);
        if every != 0 && n % every == every - 1 {
            target.migrate().map_err(|e| format!("move at step {n}: {e}"))?;
            if target.moves_by_registers() {
                model.move_by_registers();
            }
            report.moves += 1;
        }
    }
    report.steps = steps;
    Ok(report)
}

fn agree<T: PartialEq + std::fmt::Debug>(theirs: T, model: T) -> Result<T, String> {
    if theirs == model { Ok(theirs) } else { Err(format!("{theirs:x?}, but the model says {model:x?}")) }
}

fn step(
    model: &mut Model,
    target: &mut dyn Target,
    cpu: usize,
    op: &Op,
    report: &mut Report,
) -> Result<u64, String> {
    match *op {
        Op::Load(frame, offset, size) => {
            report.read += 1;
            return agree(target.load(cpu, frame, offset, size)?, model.load(frame, offset, size));
        }
        Op::Store(frame, offset, size, value) => {
            target.store(cpu, frame, offset, size, value)?;
            model.store(frame, offset, size, value);
        }
        Op::Mrs(r) => {
            let depth = model.depth(cpu);
            let got = agree(target.mrs(cpu, r)?, model.mrs(cpu, r))?;
            let Sysreg::Done(value) = got else {
                report.undefined += 1;
                return Ok(0);
            };
            report.read += 1;
            if let Some(group) = reg::IAR.iter().position(|i| *i == r)
                && value < 1020
            {
                report.acknowledged[group] += 1;
                report.kinds[if value < 16 {
                    0
                } else if value < 32 {
                    1
                } else {
                    2
                }] += 1;
                report.preempted += u64::from(depth > 0);
            }
            return Ok(value);
        }
        Op::Msr(r, value) => {
            let got = agree(target.msr(cpu, r, value)?, model.msr(cpu, r, value))?;
            report.undefined += u64::from(got == Sysreg::Undefined);
        }
        Op::Line(intid, level) => {
            target.line(cpu, intid, level)?;
            model.line(cpu, intid, level);
        }
        Op::Window => {
            let told = match model.signalled(cpu) {
                None => Taken::Nothing,
                Some((_, 0)) => Taken::Fiq,
                Some(_) => Taken::Irq,
            };
            let got = agree(target.window(cpu)?, told)?;
            report.windows[usize::from(got == Taken::Nothing)] += 1;
        }
    }
    Ok(0)
}
