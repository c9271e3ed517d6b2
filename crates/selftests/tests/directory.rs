//! A directory of programs that end in every way, run and compared.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use ulna_selftests::{Host, Knows, Launcher, Outcome, Real, Report, Run, Selection};

const HOST: Host<'_> = Host { nearest: &["max"], lacks: &[] };
const FAILS: &str = "echo '==== Test Assertion Failure ===='; echo '  lib/util.c:7: x == y'; exit 254";

fn program(dir: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(test: &str, real: Outcome) -> Run {
    let mut r = Run::unknown(test.into());
    r.real.insert("max".into(), Real { outcome: real, seconds: 3.0 });
    r
}

fn launcher(dir: &Path) -> Launcher {
    let outputs = dir.join("out");
    std::fs::create_dir_all(&outputs).unwrap();
    Launcher {
        prefix: vec!["sh".into()],
        dir: dir.join("tests"),
        outputs,
        timeout: Duration::from_secs(20),
        jobs: 3,
    }
}

#[test]
fn programs_end_in_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let l = launcher(dir.path());
    program(&l.dir, "passes", "test \"$1 $2\" = '-i 3'");
    program(&l.dir, "sub/skips", "exit 4");
    program(&l.dir, "known", FAILS);
    program(&l.dir, "fails", FAILS);
    program(&l.dir, "dies", "echo last words; kill -SEGV $$");
    program(&l.dir, "new", "exit 0");
    program(&l.dir, "out", "exit 1");
    let mut record = vec![
        run("passes", Outcome::Pass),
        run("sub/skips", Outcome::Skip),
        run("known", Outcome::Fail),
        run("fails", Outcome::Pass),
        run("dies", Outcome::Pass),
        run("out", Outcome::Stopped),
        run("missing", Outcome::Pass),
    ];
    record[0].args = vec!["-i".into(), "3".into()];
    record[1].serial = true;
    record[2].fails_at = Some(Knows { place: "util.c:7".into(), why: "the kernel's own".into() });
    record[5].left_out = Some("it never ends".into());
    let told = Mutex::new(0);
    let tell = |_: &ulna_selftests::Line| *told.lock().unwrap() += 1;
    let all = ("6.12".to_owned(), record);
    let r = Report::make(&all, &l, &Selection::default(), HOST, &tell).unwrap();
    let by = |name: &str| r.runs.iter().find(|x| x.test == name).unwrap();
    assert!(!r.expected && *told.lock().unwrap() == 6);
    assert_eq!(by("passes").outcome, Some(Outcome::Pass));
    assert_eq!((by("sub/skips").outcome, by("new").outcome), (Some(Outcome::Skip), Some(Outcome::Pass)));
    assert!(!by("known").verdict.is_bad() && by("known").place.as_deref() == Some("lib/util.c:7"));
    assert_eq!(by("fails").verdict.why(), "fails at lib/util.c:7");
    assert_eq!(
        (by("dies").status.as_deref(), by("dies").output.as_str()),
        (Some("killed by signal 11"), "last words")
    );
    assert_eq!((by("out").outcome, by("out").verdict.why()), (None, "it never ends"));
    assert!(by("missing").verdict.is_bad());
    let text = r.to_string();
    assert!(text.contains("!! fails at lib/util.c:7") && text.contains("    last words"), "{text}");
    assert!(
        r.summary().starts_with("8 tests: 2 pass, 1 skip, 3 fail, 0 stopped, 1 left out; 3 not as expected")
    );

    let few = Selection { only: vec!["ski".into(), "known".into()], ..Selection::default() };
    let r = Report::make(&all, &l, &few, HOST, &tell).unwrap();
    assert!(r.expected && r.runs.len() == 2, "{r}");
}

#[test]
fn what_does_not_end_is_stopped_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let l = Launcher { timeout: Duration::from_millis(300), ..launcher(dir.path()) };
    let alive = dir.path().join("alive");
    program(&l.dir, "hangs", &format!("(sleep 0.8; touch {}) & sleep 60", alive.display()));
    let all = ("6.12".to_owned(), vec![run("hangs", Outcome::Pass)]);
    let r = Report::make(&all, &l, &Selection::default(), HOST, &|_| {}).unwrap();
    assert_eq!((r.runs[0].outcome, r.expected), (Some(Outcome::Stopped), false));
    assert_eq!(r.runs[0].status.as_deref(), Some("stopped at the time limit"));
    std::thread::sleep(Duration::from_millis(1000));
    assert!(!alive.exists());
}
