//! `ulna regs` and `ulna caps` as a user calls them.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn ulna(args: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("ulna")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(args: &[&str]) -> String {
    let o = ulna(args);
    assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8(o.stdout).unwrap()
}

fn list(args: &[&str]) -> Vec<Value> {
    serde_json::from_str(&text(args)).unwrap()
}

#[test]
fn the_list_is_that_of_a_vcpu() {
    // Linux 6.12 on this CPU lists 259 registers without PMU (oracle/recordings/neoverse-n1.jsonl, cfg psci).
    let all = list(&["regs", "--host", "qemu-neoverse-n1", "--features", "psci", "--json"]);
    assert_eq!(all.len(), 259);
    let with_pmu = list(&["regs", "--host", "qemu-neoverse-n1", "--json"]);
    assert_eq!(with_pmu.len(), 259 + 74);
    let find = |name: &str| all.iter().find(|e| e["name"] == name).unwrap();
    let midr = find("MIDR_EL1");
    assert_eq!(midr["id"], "0x603000000013c000");
    assert_eq!((&midr["write_rule"], &midr["width"]), (&"fixed".into(), &64.into()));
    let isar0 = find("ID_AA64ISAR0_EL1");
    assert_eq!((&isar0["scope"], &isar0["write_rule"]), (&"vm".into(), &"limit, frozen".into()));
    assert_eq!(find("X0")["scope"], "vcpu");
    assert_eq!(find("CNTVCT_EL0")["id"], "0x603000000013df1a");
}

#[test]
fn scopes_divide_the_list() {
    let of = |scope| list(&["regs", "--host", "altra", "--scope", scope, "--json"]).len();
    assert_eq!(of("vm") + of("vcpu"), list(&["regs", "--host", "altra", "--json"]).len());
    assert!(of("vm") > 50);
}

#[test]
fn people_get_a_table() {
    let t = text(&["regs", "--host", "rpi4"]);
    assert!(t.starts_with("ID  "));
    assert!(t.lines().any(|l| l.starts_with("0x6030000000100040 PC ")));
}

#[test]
fn ids_are_named_and_values_split() {
    let t = text(&["regs", "decode", "0x603000000013c030", "0x0000100010211120"]);
    assert!(
        t.starts_with("0x603000000013c030 ID_AA64ISAR0_EL1 op0=3 op1=0 CRn=0 CRm=6 op2=0, 64 bits, scope vm")
    );
    assert!(t.contains("  23:20   Atomic             0x2        FEAT_LSE\n"));
    assert!(t.contains("  7:4     AES                0x2        FEAT_AES FEAT_PMULL\n"), "{t}");
    assert_eq!(
        text(&["regs", "decode", "0x6030000000140001", "2"]),
        "0x6030000000140001 SMCCC_ARCH_WORKAROUND_1, 64 bits, scope vm, introduced by SMCCC 1.1\n\
         \x20 3:0     Level              0x2        not required\n"
    );
    assert_eq!(
        text(&["regs", "decode", "0x603000000013df02"]),
        "0x603000000013df02 CNTV_CVAL_EL0 op0=3 op1=3 CRn=14 CRm=3 op2=2, 64 bits, scope vcpu; the id has the encoding of \
         CNTVCT_EL0\n"
    );
    assert!(text(&["regs", "decode", "0x603000000013ffff"]).contains(" S3_7_C15_C15_7 op0=3 op1=7 "));
    assert!(text(&["regs", "decode", "0x6080000000150020"]).contains(" Z1, 2048 bits, scope vcpu"));
    assert!(text(&["regs", "decode", "pstate", "0x3c5"]).contains("EL1h"));
    let json: Value =
        serde_json::from_str(&text(&["regs", "decode", "--json", "MVFR0_EL1", "0x10110222"])).unwrap();
    assert_eq!((&json["id"], &json["encoding"][3]), (&"0x603000000013c018".into(), &3.into()));
    assert_eq!(
        json["fields"][7],
        serde_json::json!({"name": "SIMDReg", "high": 3, "low": 0, "value": "0x2", "meaning": json["fields"][7]["meaning"]})
    );
    assert_eq!(text(&["regs", "decode", "pc"]), text(&["regs", "decode", "0x6030000000100040"]));
    assert!(text(&["regs", "decode", "MIDR_EL1", "0x413fd0c1"]).contains("PartNum            0xd0c"));
}

#[test]
fn two_hosts_differ_by_field() {
    let t = text(&["regs", "diff", "altra", "thunderx2"]);
    assert!(t.lines().any(|l| l.starts_with("CTR_EL0: ") && l.ends_with("DIC=0x1|0x0 IDC=0x1|0x0")), "{t}");
    assert_eq!(text(&["regs", "diff", "altra", "altra"]), "");
    let json = list(&["regs", "diff", "altra", "thunderx2", "--json"]);
    let ctr = json.iter().find(|d| d["name"] == "CTR_EL0").unwrap();
    assert!(ctr["fields"].as_array().unwrap().contains(&serde_json::json!(["IDC", "0x1", "0x0"])), "{ctr}");
    assert_eq!(json.len(), t.lines().count());
    // A written list stands for its host.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("altra.json");
    std::fs::write(&file, text(&["regs", "--host", "altra", "--json"])).unwrap();
    assert_eq!(text(&["regs", "diff", file.to_str().unwrap(), "altra"]), "");
}

#[test]
fn capabilities_have_numbers_and_names() {
    let all = list(&["caps", "--host", "altra", "--json"]);
    let cap = |name: &str| all.iter().find(|c| c["name"] == name).unwrap();
    assert_eq!(cap("KVM_CAP_ONE_REG")["vm"], 1);
    assert_eq!(cap("KVM_CAP_ARM_VM_IPA_SIZE")["system"], 48);
    assert_eq!(cap("KVM_CAP_ARM_SVE")["vm"], 0);
    assert_eq!(cap("KVM_CAP_MSI_DEVID")["system"], -22);
    let table = text(&["caps"]);
    assert!(table.lines().count() > 60);
    assert!(
        table.lines().any(|l| l.split_whitespace().eq(["131", "KVM_CAP_MSI_DEVID", "EINVAL", "0"])),
        "{table}"
    );
}

#[test]
fn mistakes_get_one_line_and_their_code() {
    for (args, code, part) in [
        (&["regs", "--host", "nowhere"][..], 2, "nowhere"),
        (&["regs", "--host", "altra", "--features", "sve"], 2, "altra does not offer sve"),
        (&["regs", "--features", "psci,x"], 2, "\"x\" is none of psci"),
        (&["regs", "decode", "0x42"], 2, "names no register"),
        (&["regs", "decode", "FPCR", "0x100000000"], 2, "does not fit the 32 bits of FPCR"),
        (&["regs", "decode", "NOT_A_REG"], 2, "neither a register id nor a name"),
        (&["regs", "decode", "MIDR_EL1", "12z"], 2, "12z"),
        (&["regs", "diff", "altra", "/nonexistent/list.json"], 3, "/nonexistent/list.json"),
        (&["caps", "--host", "/nonexistent.toml"], 3, "/nonexistent.toml"),
    ] {
        let o = ulna(args);
        let err = String::from_utf8(o.stderr).unwrap();
        assert_eq!(o.status.code(), Some(code), "{args:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
        assert!(err.contains(part), "{args:?}: {err}");
        assert!(o.stdout.is_empty());
    }
}
