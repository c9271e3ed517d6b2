//! Generates the enum of instructions, the table of lines and the decoder's buckets from `table/*.tbl`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

struct Line {
    name: String,
    manual: String,
    module: String,
    pattern: String,
    mask: u32,
    value: u32,
    feats: Vec<String>,
    prep: Option<String>,
    end: bool,
    todo: bool,
}

fn parse(module: &str, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (n, raw) in text.lines().enumerate() {
        let raw = raw.trim();
        if raw.is_empty() || raw.starts_with('#') {
            continue;
        }
        let at = format!("table/{module}.tbl:{}", n + 1);
        let (name, rest) = raw.split_once(char::is_whitespace).unwrap_or_else(|| panic!("{at}: no fields"));
        let rest = rest.trim_start().strip_prefix('"').unwrap_or_else(|| panic!("{at}: no manual name"));
        let (manual, rest) = rest.split_once('"').unwrap_or_else(|| panic!("{at}: unclosed quote"));
        let mut words = rest.split_whitespace();
        let pattern: String = words
            .next()
            .unwrap_or_else(|| panic!("{at}: no pattern"))
            .chars()
            .filter(|c| *c != '_')
            .collect();
        assert_eq!(pattern.len(), 32, "{at}: pattern of {} characters", pattern.len());
        let (mut mask, mut value) = (0u32, 0u32);
        for c in pattern.chars() {
            mask = mask << 1 | u32::from(c == '0' || c == '1');
            value = value << 1 | u32::from(c == '1');
        }
        let feats = match words.next().unwrap_or_else(|| panic!("{at}: no features")) {
            "-" => Vec::new(),
            f => f.split('+').map(str::to_string).collect(),
        };
        let mut line = Line {
            name: name.to_string(),
            manual: manual.to_string(),
            module: module.to_string(),
            pattern,
            mask,
            value,
            feats,
            prep: None,
            end: false,
            todo: false,
        };
        for w in words {
            match w.split_once('=') {
                Some(("prep", f)) => line.prep = Some(f.to_string()),
                None if w == "end" => line.end = true,
                None if w == "todo" => line.todo = true,
                _ => panic!("{at}: unknown option {w}"),
            }
        }
        lines.push(line);
    }
    lines
}

fn main() {
    println!("cargo::rerun-if-changed=table");
    println!("cargo::rerun-if-changed=build.rs");
    let mut files: Vec<_> = fs::read_dir("table")
        .expect("table/")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|x| x == "tbl"))
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for f in &files {
        let module = f.file_stem().and_then(|s| s.to_str()).expect("name").to_string();
        lines.extend(parse(&module, &fs::read_to_string(f).expect("read table")));
    }
    let mut out = String::new();
    out.push_str("/// Every instruction of the decode table.\n#[allow(non_camel_case_types, missing_docs, clippy::upper_case_acronyms)]\n");
    out.push_str("#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]\n#[repr(u16)]\npub enum Op {\n");
    for l in &lines {
        writeln!(out, "    {},", l.name).unwrap();
    }
    out.push_str("    /// No line of the table matches, or its feature is absent.\n    UNALLOCATED,\n}\n\n");
    writeln!(out, "/// The decode table, in file order; `Op` as an integer indexes it.\npub static LINES: [Line; {}] = [", lines.len()).unwrap();
    for l in &lines {
        let exec = if l.todo {
            "None".to_string()
        } else {
            format!("Some(crate::interp::{}::{})", l.module, l.name.to_lowercase())
        };
        let prep = match &l.prep {
            Some(p) => format!("Some(crate::interp::{}::{p})", l.module),
            None => "None".to_string(),
        };
        let feats: Vec<_> = l.feats.iter().map(|f| format!("Feat::{f}")).collect();
        writeln!(
            out,
            "    Line {{ op: Op::{}, name: {:?}, manual: {:?}, module: {:?}, pattern: {:?}, mask: {:#010x}, value: {:#010x}, feats: &[{}], exec: {exec}, prep: {prep}, end: {} }},",
            l.name, l.name, l.manual, l.module, l.pattern, l.mask, l.value, feats.join(", "), l.end
        )
        .unwrap();
    }
    out.push_str("];\n\n");
    // Buckets by bits 31:21; within a bucket the more specific line first.
    let mut flat: Vec<u16> = Vec::new();
    let mut offsets: Vec<u32> = vec![0];
    for b in 0..2048u32 {
        let top = b << 21;
        let mut c: Vec<usize> =
            (0..lines.len()).filter(|&i| (lines[i].value ^ top) & lines[i].mask & 0xffe0_0000 == 0).collect();
        c.sort_by_key(|&i| (std::cmp::Reverse(lines[i].mask.count_ones()), i));
        flat.extend(c.iter().map(|&i| i as u16));
        offsets.push(flat.len() as u32);
    }
    writeln!(
        out,
        "static BUCKET_OFFSETS: [u32; 2049] = {offsets:?};\nstatic BUCKETS: [u16; {}] = {flat:?};",
        flat.len()
    )
    .unwrap();
    let dest = Path::new(&env::var("OUT_DIR").expect("OUT_DIR")).join("table.rs");
    fs::write(dest, out).expect("write table.rs");
}
