//! The table.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::judge::{Host, Verdict, judge};
use crate::recorded::{Outcome, Run};
use crate::start::{Ended, Launcher, Selection, programs, run_all};

/// What became of one start.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The test.
    pub test: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// How it ended here; nothing when it was not started.
    pub outcome: Option<Outcome>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// Where it failed.
    pub place: Option<String>,
    /// Its exit status.
    pub status: Option<String>,
    /// The host of the real KVM that it is compared with.
    pub real_host: Option<String>,
    /// How it ended there.
    pub real: Option<Outcome>,
    /// How long it took there.
    pub real_seconds: Option<f64>,
    /// What is thought of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The end of what a failed one wrote.
    pub output: String,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The kernel whose KVM was recorded.
    pub kernel: String,
    /// The starts.
    pub runs: Vec<Line>,
    /// Is everything as expected?
    pub expected: bool,
}

fn line(run: &Run, host: Host<'_>, ended: Option<&Ended>, verdict: Verdict) -> Line {
    let real = run.real(host.nearest);
    Line {
        test: run.test.clone(),
        args: run.args.clone(),
        outcome: ended.map(|e| e.outcome),
        seconds: ended.map(|e| (e.seconds * 100.0).round() / 100.0),
        place: ended.and_then(|e| e.place.clone()),
        status: ended.map(|e| e.status.clone()),
        real_host: real.map(|r| r.0.to_owned()),
        real: real.map(|r| r.1.outcome),
        real_seconds: real.map(|r| r.1.seconds),
        verdict,
        output: ended.map_or_else(String::new, |e| e.output.clone()),
    }
}

/// What is started, and what is not with the reason.
type Plan = (Vec<Run>, Vec<(Run, String)>);

/// The starts for a directory: those of the record whose program is there, and programs that the record has not.
fn plan(dir: &Path, record: &[Run], sel: &Selection) -> io::Result<Plan> {
    let there: BTreeSet<String> = programs(dir)?.into_iter().collect();
    let known: BTreeSet<&str> = record.iter().map(|r| r.test.as_str()).collect();
    let (mut start, mut not) = (Vec::new(), Vec::new());
    for run in record.iter().filter(|r| sel.has(r)) {
        match &run.left_out {
            _ if !there.contains(&run.test) => not.push((run.clone(), String::new())),
            Some(why) if !sel.all => not.push((run.clone(), why.clone())),
            _ => start.push(run.clone()),
        }
    }
    let others = there.iter().filter(|t| !known.contains(t.as_str())).map(|t| Run::unknown(t.clone()));
    start.extend(others.filter(|r| sel.has(r)));
    Ok((start, not))
}

impl Report {
    /// Runs what was selected of a directory, and compares it with what `host` says. `tell` hears of each test
    /// that ended.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn make(
        (kernel, record): &(String, Vec<Run>),
        l: &Launcher,
        sel: &Selection,
        host: Host<'_>,
        tell: &(dyn Fn(&Line) + Sync),
    ) -> io::Result<Report> {
        let (start, not) = plan(&l.dir, record, sel)?;
        let done = run_all(l, &start, &|run, e| tell(&line(run, host, Some(e), judge(run, host, e))));
        let mut runs: Vec<Line> = start
            .iter()
            .zip(done)
            .map(|(run, e)| match e {
                Ok(e) => line(run, host, Some(&e), judge(run, host, &e)),
                Err(e) => line(run, host, None, Verdict::Unexpected(format!("cannot be started: {e}"))),
            })
            .collect();
        runs.extend(not.into_iter().map(|(run, why)| {
            let verdict = if why.is_empty() {
                Verdict::Unexpected(format!("is not in {}", l.dir.display()))
            } else {
                Verdict::Out(why)
            };
            line(&run, host, None, verdict)
        }));
        let expected = !runs.iter().any(|r| r.verdict.is_bad());
        Ok(Report { kernel: kernel.clone(), runs, expected })
    }
}

impl Line {
    /// The heading of the lines' text.
    pub const HEADING: &'static str =
        "TEST                                                HERE         s   REAL         s  ON     ";

    fn name(&self) -> String {
        let mut s = self.test.clone();
        for a in &self.args {
            s.push(' ');
            s.push_str(a);
        }
        s
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |o: Option<Outcome>| o.map_or_else(|| "-".to_owned(), |o| o.to_string());
        let time = |s: Option<f64>| s.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}"));
        let mark = if self.verdict.is_bad() { "!! " } else { "" };
        let text = format!(
            "{:<50}  {:<7} {:>6}   {:<7} {:>6}  {:<6} {mark}{}",
            self.name(),
            word(self.outcome),
            time(self.seconds),
            word(self.real),
            time(self.real_seconds),
            self.real_host.as_deref().unwrap_or("-"),
            self.verdict.why()
        );
        f.write_str(text.trim_end())
    }
}

impl Report {
    /// The ends of what those wrote that are not as expected.
    pub fn failures(&self) -> Vec<String> {
        let bad = self.runs.iter().filter(|l| l.verdict.is_bad() && !l.output.is_empty());
        bad.map(|l| {
            let output: Vec<String> = l.output.lines().map(|o| format!("    {o}")).collect();
            format!(
                "\n{} ({}):\n{}",
                l.name(),
                l.status.as_deref().unwrap_or("not started"),
                output.join("\n")
            )
        })
        .collect()
    }

    /// The line below the table: how many are as expected, and the times of those that passed on both.
    pub fn summary(&self) -> String {
        let count = |f: &dyn Fn(&Line) -> bool| self.runs.iter().filter(|l| f(l)).count();
        let is = |o: Outcome| move |l: &Line| l.outcome == Some(o);
        let both =
            self.runs.iter().filter(|l| l.outcome == Some(Outcome::Pass) && l.real == Some(Outcome::Pass));
        let (here, there) = both
            .fold((0.0, 0.0), |(h, t), l| (h + l.seconds.unwrap_or(0.0), t + l.real_seconds.unwrap_or(0.0)));
        format!(
            "{} tests: {} pass, {} skip, {} fail, {} stopped, {} left out; {} not as expected. What passes on both: {here:.1} s \
             here, {there:.1} s on the KVM of Linux {} in QEMU",
            self.runs.len(),
            count(&is(Outcome::Pass)),
            count(&is(Outcome::Skip)),
            count(&is(Outcome::Fail)),
            count(&is(Outcome::Stopped)),
            count(&|l| matches!(l.verdict, Verdict::Out(_))),
            count(&|l| l.verdict.is_bad()),
            self.kernel
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", Line::HEADING.trim_end())?;
        for l in &self.runs {
            writeln!(f, "{l}")?;
        }
        for text in self.failures() {
            writeln!(f, "{text}")?;
        }
        write!(f, "\n{}", self.summary())
    }
}
