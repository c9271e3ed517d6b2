//! Lines that hold many answers, or leave out what follows from others, as lines of one question each.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::compare::{Line, kind, number};

fn text<'a>(l: &'a Line, field: &str) -> &'a str {
    l.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn array<'a>(l: &'a Line, field: &str) -> &'a [Value] {
    l.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn id_of(v: &Value) -> u64 {
    number(Some(v)).unwrap_or(0)
}

fn hex(v: u64) -> Value {
    format!("{v:#x}").into()
}

/// Adds a line made by `json!`.
fn push(out: &mut Vec<Line>, v: Value) {
    if let Value::Object(l) = v {
        out.push(l);
    }
}

/// The register lists of one side by configuration.
type Lists = BTreeMap<String, Vec<u64>>;

fn lists(lines: &[Line]) -> Lists {
    let of = |l: &&Line| kind(l) == "reglist";
    let list = |l: &Line| (text(l, "cfg").to_owned(), array(l, "regs").iter().map(id_of).collect());
    lines.iter().filter(of).map(list).collect()
}

/// Both sides with one question a line.
pub fn expand(recorded: &[Line], replayed: &[Line]) -> (Vec<Line>, Vec<Line>) {
    let (ours, theirs) = (lists(replayed), lists(recorded));
    let (mut a, mut b) = (single(recorded), single(replayed));
    registers(recorded, replayed, &theirs, &ours, &mut a, &mut b);
    list_members(&theirs, &ours, &mut a, &mut b);
    spaces(recorded, replayed, &theirs, &ours, &mut a, &mut b);
    (a, b)
}

/// What one side's line says by itself.
fn single(lines: &[Line]) -> Vec<Line> {
    let mut out = Vec::new();
    for l in lines {
        match kind(l) {
            "vgicreg" => runs_of_registers(l, &mut out),
            "masks" if l.contains_key("mask") => masks(l, &mut out),
            "coproc" => coprocessors(l, &mut out),
            "reg" | "reglist" | "space" => {}
            _ => out.push(l.clone()),
        }
    }
    out
}

/// A line of several registers that answer the same becomes one line each.
fn runs_of_registers(l: &Line, out: &mut Vec<Line>) {
    let (Some(n), Some(off)) = (number(l.get("n")), number(l.get("off"))) else { return out.push(l.clone()) };
    out.extend((0..n).map(|i| {
        let mut l = l.clone();
        l.remove("n");
        l.insert("off".into(), format!("{:#x}", off + 4 * i).into());
        l
    }));
}

/// A mask of writable bits a line.
fn masks(l: &Line, out: &mut Vec<Line>) {
    for (i, m) in array(l, "mask").iter().enumerate() {
        push(out, json!({"k": "masks", "range": l["range"], "index": i, "mask": m}));
    }
    let mut rest = l.clone();
    rest.remove("mask");
    out.push(rest);
}

/// One id in every coprocessor.
fn coprocessors(l: &Line, out: &mut Vec<Line>) {
    for run in array(l, "get") {
        let [first, n, ret] = [0, 1, 2].map(|i| run.get(i).unwrap_or(&Value::Null));
        for i in 0..n.as_u64().unwrap_or(0) {
            push(
                out,
                json!({"k": "coproc", "cfg": l["cfg"], "id": hex(id_of(first) + (i << 16)), "ret": ret}),
            );
        }
    }
}

/// Members of the lists, and that common ones are in the same order.
fn list_members(theirs: &Lists, ours: &Lists, a: &mut Vec<Line>, b: &mut Vec<Line>) {
    for (side, out) in [(theirs, &mut *a), (ours, &mut *b)] {
        for (cfg, list) in side {
            for id in list {
                push(out, json!({"k": "reglist", "cfg": cfg, "id": hex(*id), "listed": 1}));
            }
        }
    }
    for (cfg, recorded) in theirs {
        let Some(replayed) = ours.get(cfg) else { continue };
        let common = |list: &[u64], other: &[u64]| -> Vec<u64> {
            let other: BTreeSet<u64> = other.iter().copied().collect();
            list.iter().copied().filter(|id| other.contains(id)).collect()
        };
        let (want, got) = (common(recorded, replayed), common(replayed, recorded));
        let first = want.iter().zip(&got).find(|(x, y)| x != y);
        let line = |first: Value| json!({"k": "reglist", "cfg": cfg, "id": "order", "order": first});
        push(a, line(first.map_or("one".into(), |(x, _)| hex(*x))));
        push(b, line(first.map_or("one".into(), |(_, y)| hex(*y))));
    }
}

type Registers<'a> = BTreeMap<(&'a str, u64), &'a Line>;

fn of_side(lines: &[Line]) -> Registers<'_> {
    let of = |l: &&Line| kind(l) == "reg";
    lines.iter().filter(of).map(|l| ((text(l, "cfg"), number(l.get("id")).unwrap_or(0)), l)).collect()
}

/// What was said about each register, before and after the first run. A register that answers as in the first
/// configuration has no line in the others.
fn registers(
    recorded: &[Line],
    replayed: &[Line],
    theirs: &Lists,
    ours: &Lists,
    a: &mut Vec<Line>,
    b: &mut Vec<Line>,
) {
    let (was, is) = (of_side(recorded), of_side(replayed));
    let keys: BTreeSet<_> = was.keys().chain(is.keys()).copied().collect();
    for key in keys {
        for (side, lists, out) in [(&was, theirs, &mut *a), (&is, ours, &mut *b)] {
            let listed = || lists.get(key.0).is_some_and(|l| l.contains(&key.1));
            let line = side.get(&key).or_else(|| side.get(&("psci", key.1)).filter(|_| listed()));
            if let Some(line) = line {
                phases(line, key.0, out);
            }
        }
    }
}

fn phases(l: &Line, cfg: &str, out: &mut Vec<Line>) {
    let before = l.get("pre");
    for (phase, said) in [("pre", before), ("post", l.get("post").or(before))] {
        let Some(Value::Object(said)) = said else { continue };
        let mut line = said.clone();
        if let Some(Value::Object(errors)) = line.remove("err") {
            for (e, mask) in errors {
                line.insert(format!("err{e}"), mask);
            }
        }
        for (k, v) in [("k", "reg"), ("cfg", cfg), ("phase", phase)] {
            line.insert(k.into(), v.into());
        }
        line.insert("id".into(), l["id"].clone());
        out.push(line);
    }
}

/// What one side said about a space of ids.
struct Space {
    usual: Value,
    other: BTreeMap<u64, Value>,
}

fn spaces_of(lines: &[Line]) -> BTreeMap<(String, String), Space> {
    let mut found = BTreeMap::new();
    for l in lines.iter().filter(|l| kind(l) == "space") {
        let mut other = BTreeMap::new();
        for run in array(l, "other") {
            let [first, n, ret] = [0, 1, 2].map(|i| run.get(i).unwrap_or(&Value::Null));
            let first = id_of(first);
            other.extend((first..first + n.as_u64().unwrap_or(0)).map(|id| (id, ret.clone())));
        }
        let usual = l.get("usual").cloned().unwrap_or(Value::Null);
        found.insert((text(l, "cfg").to_owned(), text(l, "name").to_owned()), Space { usual, other });
    }
    found
}

/// The usual answer of each space, and that of every id that answered otherwise on either side.
fn spaces(
    recorded: &[Line],
    replayed: &[Line],
    theirs: &Lists,
    ours: &Lists,
    a: &mut Vec<Line>,
    b: &mut Vec<Line>,
) {
    let (was, is) = (spaces_of(recorded), spaces_of(replayed));
    for (key, x) in &was {
        let Some(y) = is.get(key) else { continue };
        let ids: BTreeSet<&u64> = x.other.keys().chain(y.other.keys()).collect();
        for (s, lists, out) in [(x, theirs, &mut *a), (y, ours, &mut *b)] {
            let (cfg, name) = key;
            push(out, json!({"k": "space", "cfg": cfg, "name": name, "id": "usual", "ret": s.usual}));
            for id in &ids {
                // Listed and readable is what one expects, and has no entry.
                let listed = lists.get(cfg).is_some_and(|l| l.contains(id));
                let ret = s.other.get(id).cloned().unwrap_or(if listed { 0.into() } else { s.usual.clone() });
                push(out, json!({"k": "space", "cfg": cfg, "name": name, "id": hex(**id), "ret": ret}));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(v: Value) -> Vec<Line> {
        v.as_array().into_iter().flatten().filter_map(|l| l.as_object().cloned()).collect()
    }

    #[test]
    fn a_register_without_a_line_answers_as_in_the_first_configuration() {
        let list = |cfg: &str| json!({"k": "reglist", "cfg": cfg, "phase": "pre", "regs": ["0x1"]});
        let reg = |cfg: &str, v: &str| json!({"k": "reg", "cfg": cfg, "id": "0x1", "pre": {"v": v, "err": {"-22": "0x3"}}});
        let recorded = lines(json!([list("psci"), list("gic"), reg("psci", "0x5")]));
        let replayed = lines(json!([list("psci"), list("gic"), reg("psci", "0x5"), reg("gic", "0x6")]));
        let (a, b) = expand(&recorded, &replayed);
        let gic = |l: &[Line]| -> Vec<Line> {
            l.iter().filter(|l| kind(l) == "reg" && text(l, "cfg") == "gic").cloned().collect()
        };
        assert_eq!(gic(&a).len(), 2);
        assert_eq!((text(&gic(&a)[0], "v"), text(&gic(&b)[0], "v")), ("0x5", "0x6"));
        assert_eq!(text(&gic(&a)[1], "err-22"), "0x3");
    }

    #[test]
    fn ids_are_compared_one_by_one() {
        let space = |other: Value| json!([{"k": "space", "cfg": "c", "name": "n", "first": "0x0", "count": 9, "usual": -2, "other": other}]);
        let (a, b) = expand(&lines(space(json!([["0x1", 2, -22]]))), &lines(space(json!([["0x2", 1, -22]]))));
        let answers = |l: &[Line]| l.iter().map(|l| l["ret"].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!((answers(&a), answers(&b)), (vec![-2, -22, -22], vec![-2, -2, -22]));
    }

    #[test]
    fn the_order_of_what_both_list_is_compared() {
        let list = |ids: Value| json!([{"k": "reglist", "cfg": "c", "phase": "pre", "regs": ids}]);
        let order = |x: Value, y: Value| {
            let (a, b) = expand(&lines(list(x)), &lines(list(y)));
            let of = |l: &[Line]| l.iter().find_map(|l| l.get("order").cloned());
            (of(&a), of(&b))
        };
        let (a, b) = order(json!(["0x1", "0x2", "0x3"]), json!(["0x1", "0x3"]));
        assert_eq!(a, b);
        let (a, b) = order(json!(["0x1", "0x2"]), json!(["0x2", "0x1"]));
        assert_ne!(a, b);
    }
}
