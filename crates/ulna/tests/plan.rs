//! `ulna plan`, `baseline`, `hosts`, `run --cpu`, `completions` and `man` as a user calls them.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn ulna(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("ulna")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

fn code(args: &[&str]) -> i32 {
    ulna(args).status.code().unwrap()
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

#[test]
fn the_founding_question_has_its_answer() {
    let o = ulna(&["plan", "--from", "altra", "--to", "thunderx2", "--json"]);
    assert_eq!(o.status.code(), Some(9));
    let p: Value = serde_json::from_str(&out(&o)).unwrap();
    assert_eq!(p["verdict"], "blocked");
    let all = p["blockers"].as_array().unwrap();
    let find = |what: &str, field: Option<&str>| {
        let same = |b: &&Value| b["what"] == what && field.is_none_or(|f| b["field"] == f);
        all.iter().find(same).unwrap_or_else(|| panic!("{what}: {all:?}"))
    };
    let counter = find("CNTFRQ_EL0", None);
    assert_eq!((&counter["wanted"], &counter["limit"]), (&"0x17d7840".into(), &"0xbebc200".into()));
    assert_eq!((&counter["class"], &counter["answer"]), (&"counter".into(), &"unseen".into()));
    // Frequencies were read on both.
    assert_eq!(counter["inferred"], Value::Array(Vec::new()));
    let gic = find("ICC_CTLR_EL1", Some("SEIS"));
    assert!(gic["inferred"][0].as_str().unwrap().contains("thunderx2"));
    assert_eq!(find("MIDR_EL1", None)["class"], "identity");
    let dp = find("ID_AA64ISAR0_EL1", Some("DP"));
    assert_eq!((&dp["rule"], &dp["avoid"]["mask"]["value"]), (&"limit, frozen".into(), &0.into()));
    let text = out(&ulna(&["plan", "--from", "altra", "--to", "thunderx2"]));
    for title in ["Counter frequency", "Interrupt controller", "Identity and errata", "Feature ID fields"] {
        assert!(text.contains(title), "{text}");
    }
}

#[test]
fn exit_codes_tell_the_three_verdicts_apart() {
    assert_eq!(code(&["plan", "--from", "graviton2", "--to", "graviton2"]), 0);
    assert_eq!(code(&["plan", "--from", "altra", "--to", "graviton2", "--policy", "soft"]), 10);
    assert_eq!(code(&["plan", "--from", "altra", "--to", "graviton2"]), 9);
    assert_eq!(code(&["plan", "--from", "nonesuch", "--to", "graviton2"]), 2);
    assert_eq!(code(&["plan", "--from", "altra", "--to", "graviton2", "--features", "sve"]), 2);
    assert_eq!(code(&["plan", "--from", "altra@six", "--to", "graviton2"]), 2);
    assert_eq!(code(&["plan", "--to", "graviton2"]), 2);
    assert_eq!(code(&["plan", "/nonesuch", "--to", "graviton2"]), 11);
    assert_eq!(code(&["plan", "--real", "--from", "n1@6.18", "--to", "n1@6.1"]), 9);
}

#[test]
fn a_baseline_starts_on_every_host_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cpu.toml");
    let made = ulna(&["baseline", "altra", "graviton2", "--policy", "soft", "-o", path(&file)]);
    assert!(made.status.success(), "{}", err(&made));
    for host in ["altra", "graviton2"] {
        let o = ulna(&["run", "--host", host, "--policy", "soft", "--cpu", path(&file), "--control", "none"]);
        assert!(o.status.success(), "{host}: {}", err(&o));
        // Both count at the rate of the first.
        assert!(
            out(&o).contains("25000000") || out(&o).contains("25 MHz") || out(&o).contains("25.0"),
            "{}",
            out(&o)
        );
    }
    // From it the guest goes, on paper too.
    let ask = ["plan", "--from", "altra", "--to", "graviton2", "--policy", "soft", "--cpu", path(&file)];
    assert_eq!(code(&ask), 10);
}

#[test]
fn what_a_host_cannot_be_is_told_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cpu.toml");
    let text = "[registers]\n\"ID_AA64ISAR0_EL1.RNDR\" = 1\n\"ID_AA64ISAR0_EL1.SHA3\" = 1\nMIDR_EL1 = 1\n";
    std::fs::write(&file, text).unwrap();
    let o = ulna(&["run", "--host", "altra", "--cpu", path(&file)]);
    assert_eq!(o.status.code(), Some(2));
    let e = err(&o);
    for what in ["ID_AA64ISAR0_EL1.RNDR is 0x1", "ID_AA64ISAR0_EL1.SHA3 is 0x1", "MIDR_EL1 is 0x1"] {
        assert!(e.contains(what), "{e}");
    }
    assert_eq!(e.lines().count(), 1, "{e}");
    for bad in
        ["[registers]\nNONESUCH = 1\n", "gic = 4\n", "colour = 1\n", "{\"reg_modifiers\": 1}", "SYSREG_X_Y=1"]
    {
        std::fs::write(&file, bad).unwrap();
        let o = ulna(&["run", "--host", "altra", "--cpu", path(&file)]);
        assert_eq!((o.status.code(), err(&o).lines().count()), (Some(2), 1), "{bad}: {}", err(&o));
    }
    std::fs::write(&file, "gic = 2\n").unwrap();
    let o = ulna(&["run", "--host", "max", "--gic", "3", "--cpu", path(&file)]);
    assert!(err(&o).contains("--cpu and --gic contradict each other"), "{}", err(&o));
    std::fs::write(&file, "[registers]\nSTD_BMAP = 0\n").unwrap();
    let o =
        ulna(&["run", "--host", "max", "--services", "trng=on", "--cpu", path(&file), "--control", "none"]);
    assert!(err(&o).contains("--cpu and --services contradict each other"), "{}", err(&o));
}

#[test]
fn spellings_turn_into_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("template.json");
    let json = r#"{"reg_modifiers":[{"addr":"0x603000000013c030","bitmap":"0b0000xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}]}"#;
    std::fs::write(&file, json).unwrap();
    let as_ = |format: &str| out(&ulna(&["baseline", "--convert", path(&file), "--format", format]));
    assert!(as_("ulna").contains("\"ID_AA64ISAR0_EL1.RNDR\" = 0"), "{}", as_("ulna"));
    assert_eq!(as_("qemu"), "host,SYSREG_ID_AA64ISAR0_EL1_RNDR=0x0\n");
    assert!(as_("firecracker").contains("0b0000xxxx"));
    // In any of them a guest starts.
    let o = ulna(&["run", "--host", "graviton3", "--cpu", path(&file), "--control", "none"]);
    assert!(o.status.success(), "{}", err(&o));
}

#[test]
fn hosts_are_listed_shown_and_compared() {
    let list: Vec<Value> = serde_json::from_str(&out(&ulna(&["hosts", "list", "--json"]))).unwrap();
    assert_eq!(list.len(), ulna_profile::names().count());
    assert_eq!(out(&ulna(&["hosts"])).lines().count(), list.len() + 1);
    let show = out(&ulna(&["hosts", "show", "thunderx2"]));
    assert!(show.contains("gic.seis") && show.contains("inferred") && show.contains("hw-raw"), "{show}");
    let diff = out(&ulna(&["hosts", "diff", "altra", "graviton2"]));
    assert!(diff.contains("counter.hz") && diff.contains("25000000") && diff.contains("121875000"), "{diff}");
    assert!(out(&ulna(&["hosts", "diff", "altra", "altra"])).contains("say the same"));
    assert_eq!(code(&["hosts", "show", "nonesuch"]), 2);
}

#[test]
fn the_matrix_is_a_picture_and_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("m.html");
    let few = ["hosts", "matrix", "altra", "thunderx2", "graviton2", "--policy", "both"];
    let text = out(&ulna(&few));
    assert!(text.contains("Policy hw") && text.contains("Policy soft"), "{text}");
    assert_eq!(text.lines().filter(|l| l.starts_with("altra ")).count(), 2);
    let with_page = [&few[..], &["--html", path(&page), "--kernels", "6.12,6.18"]].concat();
    assert!(ulna(&with_page).status.success());
    let html = std::fs::read_to_string(&page).unwrap();
    // One page that asks nobody for anything.
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains(" src="));
    assert!(html.contains("altra@6.18") && html.contains("CNTFRQ_EL0") && !html.contains("/*DATA*/"));
    let start = html.find("const data = ").unwrap() + "const data = ".len();
    let end = start + html[start..].find(";\n").unwrap();
    let cells: Vec<Value> = serde_json::from_str(&html[start..end]).unwrap();
    assert_eq!(cells.len(), 2 * 6 * 6);
    let lines = out(&ulna(&[&few[..], &["--lines"]].concat()));
    assert_eq!(lines.lines().count(), 18);
}

/// H1 of seed-systems.md §6.6, as a converter sees it.
#[test]
fn h1_old_ids_are_named() {
    let r0 = out(&ulna(&["regs", "decode", "0x4020000000100000"]));
    assert!(r0.contains(" r0, 32 bits") && r0.contains("X0 (0x6030000000100000)"), "{r0}");
    let o = ulna(&["regs", "decode", "0x4002000000100000"]);
    assert_eq!(o.status.code(), Some(2));
    assert!(err(&o).contains("0x4020"), "{}", err(&o));
    let sctlr: Value =
        serde_json::from_str(&out(&ulna(&["regs", "decode", "0x40200000000f0800", "--json"]))).unwrap();
    assert_eq!((&sctlr["name"], &sctlr["arm64"]), (&"SCTLR".into(), &"SCTLR_EL1".into()));
}

#[test]
fn shells_and_man_know_every_verb() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ulna(&["man", path(dir.path())]).status.success());
    let help = out(&ulna(&["--help"]));
    let verbs: Vec<&str> = help
        .lines()
        .skip_while(|l| !l.starts_with("Commands:"))
        .skip(1)
        .take_while(|l| l.starts_with("  "))
        .filter_map(|l| l.split_whitespace().next())
        .filter(|v| *v != "help")
        .collect();
    assert!(verbs.contains(&"plan") && verbs.contains(&"run"), "{help}");
    for shell in ["bash", "zsh", "fish"] {
        let text = out(&ulna(&["completions", shell]));
        assert!(verbs.iter().all(|v| text.contains(v)), "{shell}");
    }
    for v in verbs {
        let page = std::fs::read_to_string(dir.path().join(format!("ulna-{v}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") || page.contains(".SH \"SYNOPSIS\""), "{v}");
    }
}
