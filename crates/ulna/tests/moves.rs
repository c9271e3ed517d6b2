//! Machines that are saved and go on, as a user does it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Prints the alphabet again and again, a letter every few milliseconds; the letter is in w0 only.
const ALPHABET: [u32; 11] = [
    0xd2a1_2001, // movz x1, #0x900, lsl 16
    0x5280_0820, // movz w0, #'A'
    0xb900_0020, // str w0, [x1]
    0x1100_0400, // add w0, w0, #1
    0x7101_6c1f, // cmp w0, #'Z' + 1
    0x5400_0041, // b.ne .+8
    0x5280_0820, // movz w0, #'A'
    0xd2a0_0082, // movz x2, #4, lsl 16
    0xf100_0442, // subs x2, x2, #1
    0x54ff_ffe1, // b.ne .-4
    0x17ff_fff8, // b .-32
];

/// A place for one test's machines.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let p = Place(tempfile::tempdir().unwrap());
        let words: Vec<u8> = ALPHABET.iter().flat_map(|w| w.to_le_bytes()).collect();
        std::fs::write(p.path("alphabet"), words).unwrap();
        p
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn ulna(&self, args: &[&str]) -> Command {
        let mut c = Command::new(assert_cmd::cargo::cargo_bin!("ulna"));
        c.args(args).env("XDG_RUNTIME_DIR", self.0.path()).current_dir(self.0.path()).stdin(Stdio::null());
        c
    }

    fn ask(&self, args: &[&str]) -> Output {
        self.ulna(args).output().unwrap()
    }

    fn well(&self, args: &[&str]) -> String {
        let o = self.ask(args);
        assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
        String::from_utf8(o.stdout).unwrap()
    }

    /// A machine that prints the alphabet to a file.
    fn alphabet(&self, name: &str, more: &[&str]) -> Machine {
        let serial = format!("file={name}.out");
        let args =
            ["run", "--kernel", "alphabet", "--kernel-format", "raw", "--memory", "64M", "--name", name];
        let c = self.ulna(&[&args[..], &["--serial", &serial], more].concat()).spawn().unwrap();
        Machine { child: c, out: self.path(&format!("{name}.out")) }
    }

    fn restored(&self, dir: &str, name: &str, more: &[&str]) -> Machine {
        let serial = format!("file={name}.out");
        let c =
            self.ulna(&[&["restore", dir, "--name", name, "--serial", &serial][..], more].concat()).spawn();
        Machine { child: c.unwrap(), out: self.path(&format!("{name}.out")) }
    }
}

struct Machine {
    child: Child,
    out: PathBuf,
}

/// A process that waits for a machine, and where.
fn receiver(p: &Place, name: &str, more: &[&str]) -> (Machine, String) {
    let serial = format!("file={name}.out");
    let args = ["receive", "--listen", "127.0.0.1:0", "--name", name, "--serial", &serial];
    let mut child = p.ulna(&[&args[..], more].concat()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut errors, &mut line).unwrap();
    let address = line.trim().rsplit(' ').next().unwrap().to_owned();
    // What else it says goes on to the test's own output.
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
    (Machine { child, out: p.path(&format!("{name}.out")) }, address)
}

impl Machine {
    fn printed(&self) -> String {
        let mut text = String::new();
        let _ = std::fs::File::open(&self.out).and_then(|mut f| f.read_to_string(&mut text));
        text
    }

    fn prints(&self, letters: usize) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            let text = self.printed();
            if text.len() >= letters {
                return text;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} letters of {letters} after a minute", self.printed().len());
    }

    fn ends(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One letter after the other, across all parts.
fn assert_alphabet(parts: &[&str]) {
    let all = parts.concat();
    for (n, c) in all.bytes().enumerate() {
        assert_eq!(c, b'A' + (n % 26) as u8, "letter {n} of {parts:?}");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_machine_goes_on_from_its_snapshot_at_the_letter_where_it_stopped() {
    let p = Place::new();
    let mut a = p.alphabet("a", &["--host", "altra", "--clock", "host"]);
    a.prints(3);
    let said = p.well(&["snapshot", "a", "snap", "--stop"]);
    assert!(said.contains("the guest stood still for") && said.contains("publish"), "{said}");
    assert!(a.ends().success());
    let before = a.printed();

    let inspected = p.well(&["inspect", "snap", "--registers", "--verify"]);
    for part in
        ["host       altra, policy hw", "25000000 Hz", "pl011", "MIDR_EL1", "vcpu 0     ", "memory agrees"]
    {
        assert!(inspected.contains(part), "{part}: {inspected}");
    }
    let b = p.restored("snap", "b", &[]);
    let after = b.prints(30);
    assert_alphabet(&[&before, &after]);

    // A snapshot of what was restored, and the first one once more.
    p.well(&["snapshot", "b", "snap2", "--no-sync"]);
    assert_alphabet(&[&before, &b.prints(after.len() + 2)]);
    p.well(&["stop", "b"]);
    let c = p.restored("snap", "c", &[]);
    assert_alphabet(&[&before, &c.prints(3)]);
    let d = p.restored("snap2", "d", &["--paused"]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(d.printed(), "");
    p.well(&["ctl", "d", "resume"]);
    d.prints(2);
}

#[test]
fn another_host_says_all_that_it_cannot_have() {
    let p = Place::new();
    let mut a = p.alphabet("a", &["--host", "altra"]);
    a.prints(1);
    p.well(&["snapshot", "a", "snap", "--stop", "--no-sync"]);
    a.ends();
    let o = p.ask(&["restore", "snap", "--host", "thunderx2"]);
    let why = String::from_utf8(o.stderr).unwrap();
    assert_eq!(o.status.code(), Some(9), "{why}");
    assert!(why.contains("counter frequency is 25000000 Hz in the machine"), "{why}");
    assert!(
        why.contains("ID_AA64") && why.matches("in the machine; ").count() > 3 && why.lines().count() == 1,
        "{why}"
    );
}

#[test]
fn a_snapshot_that_is_damaged_is_told_and_does_not_run() {
    let p = Place::new();
    let mut a = p.alphabet("a", &[]);
    a.prints(1);
    p.well(&["snapshot", "a", "snap", "--no-sync"]);
    // One that fails leaves the machine and the snapshot.
    std::fs::write(p.path("file"), "x").unwrap();
    for bad in ["file", "no/such/place"] {
        let o = p.ask(&["snapshot", "a", bad]);
        let why = String::from_utf8(o.stderr).unwrap();
        assert!(o.status.code() == Some(8) && why.starts_with("ulna: a: connect: "), "{why}");
    }
    let n = a.printed().len();
    a.prints(n + 2);
    p.well(&["stop", "a"]);
    a.ends();

    let refuse = |why: &str, more: &[&str]| {
        let o = p.ask(&[&["restore", "snap"][..], more].concat());
        let text = String::from_utf8(o.stderr).unwrap();
        assert_eq!(o.status.code(), Some(11), "{text}");
        assert!(text.contains(why) && text.lines().count() == 1, "{why}: {text}");
    };
    let state = p.path("snap/state.ulna");
    let whole = std::fs::read(&state).unwrap();
    flip(&state, whole.len() / 2);
    refuse("connect: snap/state.ulna: byte ", &[]);
    std::fs::write(&state, &whole[..whole.len() - 5]).unwrap();
    refuse("the stream ends at byte", &[]);
    std::fs::write(&state, &whole).unwrap();
    flip(&p.path("snap/ram.mem"), 0x8_0004);
    refuse("negotiate: snap/ram.mem: the checksum of the MiB at byte 0 is wrong", &["--verify"]);
    std::fs::File::options().write(true).open(p.path("snap/ram.mem")).unwrap().set_len(4096).unwrap();
    refuse("ram.mem has 4096 bytes; the snapshot says 67108864", &[]);
    let o = p.ask(&["inspect", "nothing"]);
    assert!(String::from_utf8(o.stderr).unwrap().contains("connect: cannot open nothing/state.ulna"));
}

#[test]
fn a_machine_moves_live_and_misses_no_letter() {
    let p = Place::new();
    let mut a = p.alphabet("a", &["--host", "altra"]);
    a.prints(3);
    let (b, at) = receiver(&p, "b", &[]);
    let said = p.well(&["migrate", "a", &at, "--json", "--streams", "2", "--zstd"]);
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!((&last["outcome"], &last["phase"]), (&"moved".into(), &"run".into()), "{last}");
    assert!(last["downtime_ms"].as_f64().unwrap() < 2000.0 && !last["rounds"].as_array().unwrap().is_empty());
    assert!(a.ends().success());
    let before = a.printed();
    assert_alphabet(&[&before, &b.prints(5)]);
    // And on, from where it is now.
    let (c, at) = receiver(&p, "c", &[]);
    p.well(&["migrate", "b", &at]);
    let mut b = b;
    assert!(b.ends().success());
    let between = b.printed();
    assert_alphabet(&[&before, &between, &c.prints(5)]);
}

#[test]
fn a_destination_that_cannot_have_it_says_all_and_the_source_goes_on() {
    let p = Place::new();
    let a = p.alphabet("a", &["--host", "altra"]);
    a.prints(1);
    let (mut b, at) = receiver(&p, "b", &["--host", "thunderx2"]);
    let o = p.ask(&["migrate", "a", &at]);
    let why = String::from_utf8(o.stderr).unwrap();
    assert_eq!(o.status.code(), Some(9), "{why}");
    assert!(why.lines().count() > 3 && why.lines().all(|l| l.starts_with("ulna: a: negotiate: ")), "{why}");
    assert!(why.contains("counter frequency is 25000000 Hz"), "{why}");
    assert_eq!(b.ends().code(), Some(9));
    let n = a.printed().len();
    assert_alphabet(&[&a.prints(n + 3)]);
    // Nobody there; a dry run; a plan that is given up.
    let o = p.ask(&["migrate", "a", "127.0.0.1:1"]);
    let why = String::from_utf8(o.stderr).unwrap();
    assert!(
        o.status.code() == Some(11) && why.contains("connect: 127.0.0.1:1: nobody listens there"),
        "{why}"
    );
    let (_c, at) = receiver(&p, "c", &[]);
    p.well(&["migrate", "a", &at, "--dry-run"]);
    let (mut d, at) = receiver(&p, "d", &[]);
    let o = p.ask(&["migrate", "a", &at, "--bandwidth", "1K", "--timeout", "1"]);
    let why = String::from_utf8(o.stderr).unwrap();
    assert!(o.status.code() == Some(11) && why.contains("precopy: not at an end after 1 s"), "{why}");
    assert_eq!(d.ends().code(), Some(11));
    let n = a.printed().len();
    assert_alphabet(&[&a.prints(n + 3)]);
}

#[test]
fn only_who_shows_a_certificate_is_let_in() {
    let p = Place::new();
    let tls = |who: &str| format!("{}/tests/tls/{who}", env!("CARGO_MANIFEST_DIR"));
    let mut a = p.alphabet("a", &[]);
    a.prints(1);
    let (b, at) = receiver(&p, "b", &["--tls", &tls("ours")]);
    for stranger in [vec![], vec!["--tls".to_owned(), tls("other")]] {
        let more: Vec<&str> = stranger.iter().map(String::as_str).collect();
        let o = p.ask(&[&["migrate", "a", &at][..], &more].concat());
        let why = String::from_utf8(o.stderr).unwrap();
        assert_eq!(o.status.code(), Some(11), "{stranger:?}: {why}");
    }
    assert_alphabet(&[&a.prints(a.printed().len() + 1)]);
    p.well(&["migrate", "a", &at, "--tls", &tls("ours")]);
    assert!(a.ends().success());
    assert_alphabet(&[&a.printed(), &b.prints(3)]);
    // And a source that wants a certificate does not take an address for one.
    let (_c, at) = receiver(&p, "c", &[]);
    let o = p.ask(&["migrate", "b", &at, "--tls", &tls("ours")]);
    assert_eq!(o.status.code(), Some(11));
}

/// Streams that earlier versions wrote: `golden/VERSION/state.ulna`, of a machine that printed the alphabet.
#[test]
fn golden_streams_are_still_read_and_run() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    let mut count = 0;
    for entry in std::fs::read_dir(golden).unwrap() {
        let from = entry.unwrap().path();
        if !from.is_dir() {
            continue;
        }
        let p = Place::new();
        let dir = p.path("snap");
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(from.join("state.ulna"), dir.join("state.ulna")).unwrap();
        for name in ["ram", "flash0", "flash1"] {
            let f = std::fs::File::create(dir.join(format!("{name}.mem"))).unwrap();
            f.set_len(64 << 20).unwrap();
            if name == "ram" {
                let program = std::fs::read(p.path("alphabet")).unwrap();
                std::os::unix::fs::FileExt::write_all_at(&f, &program, 0x8_0000).unwrap();
            }
        }
        let first = p.restored("snap", "a", &[]).prints(30);
        let at = first.as_bytes()[0] - b'A';
        assert!(
            first.bytes().enumerate().all(|(n, c)| c == b'A' + ((n + usize::from(at)) % 26) as u8),
            "{first}"
        );
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn the_demo_shows_a_refusal_and_a_move_without_a_gap() {
    let p = Place::new();
    let said = p.well(&["demo"]);
    assert!(
        said.contains("counter frequency is 25000000 Hz") && said.contains("The guest stood still for"),
        "{said}"
    );
    let numbers = |who: &str| -> Vec<u64> {
        let last = said.split("4. It moves").nth(1).unwrap();
        let of = |l: &str| l.split("count ").nth(1)?.split(',').next()?.parse().ok();
        last.lines().filter(|l| l.trim_start().starts_with(who)).filter_map(of).collect()
    };
    let to = said.split("4. It moves to ").nth(1).and_then(|t| t.split(' ').next()).unwrap();
    let (before, after) = (numbers("altra"), numbers(to));
    assert!(after.len() == 6 && !before.is_empty(), "{said}");
    let all: Vec<u64> = before.iter().chain(&after).copied().collect();
    assert!(all.windows(2).all(|w| w[1] == w[0] + 1), "{all:?}");
}
