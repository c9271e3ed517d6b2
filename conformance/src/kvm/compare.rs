//! Recorded lines against replayed ones: which answers agree.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::expand::expand;

/// One line of a recording or of a replay.
pub type Line = Map<String, Value>;

/// What became of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same.
    Agreed,
    /// Different only because this feature is not built.
    Waiting(String),
    /// Different: what it is about, what was recorded, what came.
    Differs(String),
}

/// The fields that say what was asked; the others are answers.
fn question(kind: &str) -> &'static [&'static str] {
    match kind {
        "hasattr" => &["fd", "cfg", "group"],
        "act" => &["seq", "op"],
        "enablerange" => &["from", "to", "note"],
        "enable" => &["n"],
        "null" => &["op", "req"],
        "device" => &["type"],
        "vgicreg" => &["grp", "off"],
        "vgicsys" => &["enc"],
        "irqline" => &["gic", "irq"],
        "hvcrange" => &["bases", "fns", "note"],
        "hvc" => &["cfg", "insn", "fn", "a"],
        "mrs" => &["cfg", "el", "enc"],
        "mrsrange" => &["cfg", "el", "first", "last"],
        "firstrun" => &["cfg"],
        "early" => &["op"],
        "call" => &["fd", "op", "arg"],
        "caprange" => &["from", "to"],
        "cap" => &["n"],
        "createvm" => &["type"],
        "createvcpu" => &["id"],
        "init" => &["target", "features"],
        "masks" => &["range", "reserved", "addr", "fd", "index"],
        "cfg" => &["cfg"],
        "reglist" | "coproc" | "idbits" => &["cfg", "id"],
        "reg" => &["cfg", "id", "phase"],
        "xreg" => &["cfg", "id", "bit"],
        "space" => &["cfg", "name", "id"],
        "reinit" => &["first", "then"],
        _ => &[],
    }
}

/// `k` of a line.
pub fn kind(l: &Line) -> &str {
    l.get("k").and_then(Value::as_str).unwrap_or_default()
}

/// A number in hex or decimal.
pub fn number(v: Option<&Value>) -> Option<u64> {
    match v? {
        Value::String(s) => u64::from_str_radix(s.strip_prefix("0x")?, 16).ok(),
        v => v.as_u64(),
    }
}

/// By question; the same question asked again has a number.
fn by_question(lines: Vec<Line>) -> BTreeMap<(String, u32), Line> {
    let mut map = BTreeMap::new();
    for l in lines {
        let k = kind(&l).to_string();
        let fields: Vec<String> =
            question(&k).iter().map(|f| l.get(*f).map_or_else(String::new, Value::to_string)).collect();
        let key = format!("{k} {}", fields.join(" "));
        let mut n = 0;
        while map.contains_key(&(key.clone(), n)) {
            n += 1;
        }
        map.insert((key, n), l);
    }
    map
}

/// The recorded and the replayed answer, as far as they can be compared.
fn comparable(recorded: &Line, field: &str, v: Option<&Value>) -> Option<Value> {
    let enc = number(recorded.get("enc"));
    match (kind(recorded), field) {
        // How many CPUs the host has.
        ("cap", _) if number(recorded.get("n")) == Some(9) => None,
        ("reg", "v" | "kept" | "zero_rb" | "ones_rb") if recorded.get("moving").is_some() => None,
        ("mrs", "v") if recorded.get("moving").is_some() => None,
        // CNTP_CTL_EL0.ISTATUS depends on how long the host has been up.
        ("mrs", "v") if enc == Some(0xdf11) => number(v).map(|v| (v & !4).into()),
        // The status of TRNG_RND can be compared, random numbers and times cannot.
        ("hvc", "x") if recorded.get("moving").is_some() => {
            let random = number(recorded.get("fn")).is_some_and(|f| f & !0x4000_0000 == 0x8400_0053);
            if random { v?.get(0).cloned() } else { None }
        }
        _ => v.cloned(),
    }
}

/// Compares the answers of both sides; `waiting` is asked about each that differs.
pub fn compare(
    recorded: &[Line],
    replayed: &[Line],
    waiting: impl Fn(&Line, &str, Option<&Value>, Option<&Value>) -> Option<String>,
) -> BTreeMap<String, Vec<Verdict>> {
    let (theirs, ours) = expand(recorded, replayed);
    let (theirs, ours) = (by_question(theirs), by_question(ours));
    let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let mut verdicts: BTreeMap<String, Vec<Verdict>> = BTreeMap::new();
    for key in keys {
        let (t, o) = (theirs.get(key), ours.get(key));
        let Some(either) = t.or(o) else { continue };
        let k = kind(either).to_string();
        let asked = question(&k);
        let list = verdicts.entry(k).or_default();
        let (Some(t), Some(o)) = (t, o) else {
            let missing = if t.is_none() { "recorded nothing" } else { "came nothing" };
            let line = Value::Object(either.clone());
            list.push(match waiting(either, "", t.map(|_| &Value::Null), o.map(|_| &Value::Null)) {
                Some(f) => Verdict::Waiting(f),
                None => Verdict::Differs(format!("{missing}: {line}")),
            });
            continue;
        };
        // The line of a range says that nothing else answered otherwise: that is an answer, too.
        let before = list.len();
        let fields: BTreeSet<&String> = t.keys().chain(o.keys()).collect();
        for f in fields {
            if f == "k" || asked.contains(&f.as_str()) {
                continue;
            }
            let (a, b) = (t.get(f), o.get(f));
            // Whether a counter is seen to move depends on its frequency; a value that was seen to is not compared.
            let same = f == "moving" || comparable(t, f, a) == comparable(t, f, b);
            list.push(if same {
                Verdict::Agreed
            } else if let Some(f) = waiting(t, f, a, b) {
                Verdict::Waiting(f)
            } else {
                let show = |v: Option<&Value>| v.map_or_else(|| "nothing".into(), Value::to_string);
                let again = if key.1 > 0 { format!(" #{}", key.1) } else { String::new() };
                Verdict::Differs(format!("{}{again}: {f} {} here {}", key.0, show(a), show(b)))
            });
        }
        if list.len() == before {
            list.push(Verdict::Agreed);
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(v: Value) -> Line {
        v.as_object().cloned().expect("an object")
    }

    fn verdicts(recorded: Vec<Value>, replayed: Vec<Value>) -> Vec<Verdict> {
        let (a, b): (Vec<_>, Vec<_>) =
            (recorded.into_iter().map(line).collect(), replayed.into_iter().map(line).collect());
        compare(&a, &b, |l, _, _, _| l.get("waits").map(|_| "F".into())).into_values().flatten().collect()
    }

    #[test]
    fn each_answer_counts_and_questions_may_repeat() {
        let act = |ret: i32| json!({"k": "act", "seq": "s", "op": "then", "ret": ret});
        assert_eq!(verdicts(vec![act(0), act(1)], vec![act(0), act(1)]), [Verdict::Agreed, Verdict::Agreed]);
        let v = verdicts(vec![act(0), act(1)], vec![act(0), act(2)]);
        assert!(matches!(&v[1], Verdict::Differs(d) if d.contains("#1: ret 1 here 2")), "{v:?}");
        let v = verdicts(vec![act(0)], vec![act(0), act(2)]);
        assert!(matches!(&v[1], Verdict::Differs(d) if d.starts_with("recorded nothing")), "{v:?}");
    }

    #[test]
    fn runs_of_registers_are_compared_one_by_one() {
        let run =
            |off: &str, n: u32, v: &str| json!({"k": "vgicreg", "grp": "dist", "off": off, "n": n, "v": v});
        let v = verdicts(vec![run("0x10", 2, "0x1")], vec![run("0x10", 1, "0x1"), run("0x14", 1, "0x1")]);
        assert_eq!(v, [Verdict::Agreed, Verdict::Agreed]);
        let v = verdicts(vec![run("0x10", 2, "0x1")], vec![run("0x10", 1, "0x1")]);
        assert!(matches!(&v[..], [Verdict::Agreed, Verdict::Differs(_)]), "{v:?}");
    }

    #[test]
    fn what_moves_is_not_compared_and_what_waits_is_counted() {
        let mrs = |v: &str| json!({"k": "mrs", "cfg": "c", "el": 1, "enc": "0xdf02", "v": v, "moving": 1});
        assert_eq!(verdicts(vec![mrs("0x1")], vec![mrs("0x2")]), [Verdict::Agreed, Verdict::Agreed]);
        let rnd = |x: [&str; 2]| json!({"k": "hvc", "fn": "0x84000053", "x": x, "moving": 1});
        let v = verdicts(vec![rnd(["0x0", "0x1"])], vec![rnd(["0x0", "0x2"])]);
        assert!(v.iter().all(|v| *v == Verdict::Agreed), "{v:?}");
        let v = verdicts(vec![rnd(["0x0", "0x1"])], vec![rnd(["0x5", "0x1"])]);
        assert!(v.iter().any(|v| *v != Verdict::Agreed), "{v:?}");
        let early = |ret: i32| json!({"k": "early", "op": "o", "ret": ret, "waits": 1});
        let v = verdicts(vec![early(0)], vec![early(1)]);
        assert!(v.contains(&Verdict::Waiting("F".into())), "{v:?}");
    }
}
