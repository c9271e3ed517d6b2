//! `ulna selftests` without any: what is missing is told.

use assert_cmd::Command;

fn ulna(args: &[&str]) -> (i32, String, String) {
    let out = Command::cargo_bin("ulna").unwrap().args(args).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_directory_without_tests_is_not_as_expected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let (code, out, _) = ulna(&["selftests", path, "--only", "steal"]);
    assert_eq!(code, 1, "{out}");
    let line = out.lines().nth(1).unwrap();
    assert!(line.starts_with("steal_time") && line.contains("pass       0.1  max"), "{out}");
    assert!(out.contains("1 tests: 0 pass") && out.contains("1 not as expected"), "{out}");
    let (code, out, _) = ulna(&["selftests", path, "--json", "--host", "a57"]);
    let v: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, v["runs"].as_array().unwrap().len() >= 30, &v["expected"]), (1, true, &false.into()));
    let stats = v["runs"].as_array().unwrap().iter().find(|r| r["test"] == "kvm_binary_stats_test").unwrap();
    assert_eq!((stats["real"].as_str(), stats["real_host"].as_str()), (Some("pass"), Some("a57")));
}

#[test]
fn what_cannot_be_is_one_line() {
    for args in [&["selftests", "/nowhere"][..], &["selftests", "/", "--host", "nobody"]] {
        let (code, out, err) = ulna(args);
        assert_eq!((code, out.as_str(), err.lines().count()), (2, "", 1), "{err}");
    }
}
