//! Hosts against hosts: as text for a terminal, and as one page of HTML that needs nothing else.

use crate::blocker::{Plan, Verdict};
use crate::check::plan;
use crate::guest::Guest;
use crate::host::Host;
use serde::Serialize;
use std::fmt::Write as _;

/// A move from one host to another.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Profile and kernel of the source.
    pub from: String,
    /// Of the destination.
    pub to: String,
    /// The policy on both sides.
    pub policy: &'static str,
    /// What a plan says.
    pub plan: Plan,
    /// What it says of a guest that was started from the baseline of both.
    pub from_baseline: Option<Verdict>,
}

/// Profile and kernel.
pub fn short(h: &Host) -> String {
    let k = h.profile.kernel;
    format!("{}@{}.{}", h.profile.name, k.major, k.minor)
}

/// Every ordered pair of `hosts`, which have one policy. With `baselines`, also what a guest started from the baseline
/// of both meets.
pub fn cells(hosts: &[Host], baselines: bool) -> Vec<Cell> {
    let mut all = Vec::with_capacity(hosts.len() * hosts.len());
    for from in hosts {
        let guest = Guest::of(from, from.usual_features(), false);
        for to in hosts {
            let p = plan(&guest, Some(from), to);
            let from_baseline = baselines.then(|| {
                let base = crate::baseline::baseline(&[from.clone(), to.clone()]);
                match base.cpu.guest(from) {
                    Ok(g) if base.none.is_empty() => plan(&g, Some(from), to).verdict,
                    _ => Verdict::Blocked,
                }
            });
            let policy = match from.policy {
                ulna_machine::Policy::Hw => "hw",
                ulna_machine::Policy::Soft => "soft",
            };
            all.push(Cell { from: short(from), to: short(to), policy, plan: p, from_baseline });
        }
    }
    all
}

/// As a table for a terminal: rows are sources. The number of reasons, or `.` for go and `?` for go, inferred.
pub fn text(hosts: &[Host], cells: &[Cell]) -> String {
    let names: Vec<String> = hosts.iter().map(|h| h.profile.name.clone()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    let mut out = String::new();
    // Names stand upright above their columns.
    for line in 0..width {
        let _ = write!(out, "{:width$}", "");
        for n in &names {
            let pad = width - n.len();
            let c = if line >= pad { n[line - pad..].chars().next().unwrap_or(' ') } else { ' ' };
            let _ = write!(out, "   {c}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    for (n, row) in cells.chunks(names.len().max(1)).enumerate() {
        let _ = write!(out, "{:width$}", names[n]);
        for c in row {
            let what = match c.plan.verdict {
                Verdict::Go => ".".into(),
                Verdict::GoInferred => "?".into(),
                Verdict::Blocked => c.plan.blockers.len().to_string(),
            };
            let mark = match c.from_baseline {
                Some(Verdict::Blocked) | None => ' ',
                Some(_) if c.plan.verdict == Verdict::Blocked => '+',
                Some(_) => ' ',
            };
            let _ = write!(out, "{what:>3}{mark}");
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out.push_str("\nRows: where the guest is. Columns: where it goes. A number: so many reasons against it; .  it goes;\n");
    out.push_str("?  it goes as far as is known; +  it goes if it is started from the baseline of both.\n");
    out
}

/// A line a pair, for a file that people review.
pub fn lines(cells: &[Cell]) -> String {
    let mut out = String::new();
    for c in cells {
        let names: Vec<String> = c.plan.blockers.iter().map(crate::Blocker::name).collect();
        let base = c.from_baseline.map_or("-", Verdict::word);
        let _ = write!(out, "{} {} {}: {}; baseline {base}", c.policy, c.from, c.to, c.plan.verdict.word());
        if !names.is_empty() {
            let _ = write!(out, ": {}", grouped(&names));
        }
        out.push('\n');
    }
    out
}

/// `REG.A,REG.B` as `REG.{A B}`.
fn grouped(names: &[String]) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for n in names {
        let (reg, field) = n.split_once('.').unwrap_or((n, ""));
        match groups.last_mut() {
            Some(g) if g.0 == reg => g.1.push(field),
            _ => groups.push((reg, vec![field])),
        }
    }
    let show = |(reg, fields): &(&str, Vec<&str>)| match fields.as_slice() {
        [""] => (*reg).to_owned(),
        [one] => format!("{reg}.{one}"),
        all => format!("{reg}.{{{}}}", all.join(" ")),
    };
    groups.iter().map(show).collect::<Vec<_>>().join(" ")
}

/// What the page holds of a cell.
#[derive(Serialize)]
struct Short<'a> {
    f: &'a str,
    t: &'a str,
    p: &'a str,
    /// 0 go, 1 go inferred, 2 blocked.
    v: u8,
    /// From the baseline: the same, or none.
    b: Option<u8>,
    /// Reasons: class, name, wanted, limit, rule, remedy, inferred.
    r: Vec<(&'a str, String, String, String, &'a str, String, bool)>,
    /// Values nobody measured.
    i: usize,
}

fn number(v: Verdict) -> u8 {
    match v {
        Verdict::Go => 0,
        Verdict::GoInferred => 1,
        Verdict::Blocked => 2,
    }
}

/// One page: colour by verdict, reasons on hover and click, filters by policy and kernel.
pub fn html(cells: &[Cell]) -> String {
    let short: Vec<Short<'_>> = cells
        .iter()
        .map(|c| Short {
            f: &c.from,
            t: &c.to,
            p: c.policy,
            v: number(c.plan.verdict),
            b: c.from_baseline.map(number),
            r: c.plan
                .blockers
                .iter()
                .map(|b| {
                    let limit = b.limit.map_or_else(|| b.answer.text().to_owned(), |l| format!("{l:#x}"));
                    let avoid = b.avoid.as_ref().map_or_else(String::new, ToString::to_string);
                    let inferred = !b.inferred.is_empty();
                    (b.class.title(), b.name(), format!("{:#x}", b.wanted), limit, b.rule, avoid, inferred)
                })
                .collect(),
            i: c.plan.inferred.len(),
        })
        .collect();
    // `<` only, so that no value can end the script element.
    let data = serde_json::to_string(&short).unwrap_or_default().replace('<', "\\u003c");
    PAGE.replace("/*DATA*/", &data)
}

const PAGE: &str = include_str!("matrix.html");
