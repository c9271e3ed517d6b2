//! The control socket: a machine driven by `ulna ctl`, `list` and `stop`, and by clients that mean no good.

mod common;

use common::{HVC, echo, program, psci, ulna};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A directory of sockets, and of programs.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.path().join("ulna").join(format!("{name}.sock"))
    }

    /// `ulna run` of these words.
    fn start(&self, words: &[u32], args: &[&str]) -> Child {
        let mut command = ulna();
        // A directory of its own: another that starts may be reading its program.
        let dir = tempfile::tempdir_in(self.path()).unwrap().keep();
        command.args(["--kernel-format", "raw", "--kernel"]).arg(program(&dir, words));
        command.args(args).env("XDG_RUNTIME_DIR", self.path()).stdin(Stdio::piped()).spawn().unwrap()
    }

    /// The same, once the API answers.
    fn machine(&self, name: &str, words: &[u32], args: &[&str]) -> Machine<'_> {
        let args = [&["--name", name], args].concat();
        let m = Machine { place: self, name: name.into(), child: self.start(words, &args) };
        let begin = Instant::now();
        while m.info()["state"] != "running" {
            assert!(begin.elapsed() < Duration::from_secs(20), "{name} never runs");
            std::thread::sleep(Duration::from_millis(10));
        }
        m
    }

    /// Another verb: exit code, standard output, standard error.
    fn ulna(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ulna"));
        let out = command.args(args).env("XDG_RUNTIME_DIR", self.path()).output().unwrap();
        let text = |b| String::from_utf8(b).unwrap();
        (out.status.code().unwrap_or(-1), text(out.stdout), text(out.stderr))
    }

    fn json(&self, args: &[&str]) -> Value {
        let (_, stdout, _) = self.ulna(args);
        serde_json::from_str(&stdout).unwrap_or(Value::Null)
    }
}

struct Machine<'a> {
    place: &'a Place,
    name: String,
    child: Child,
}

impl Machine<'_> {
    fn ctl(&self, args: &[&str]) -> (i32, String, String) {
        self.place.ulna(&[&["ctl", &self.name], args].concat())
    }

    fn well(&self, args: &[&str]) {
        assert_eq!(self.ctl(args), (0, String::new(), String::new()), "{args:?}");
    }

    fn info(&self) -> Value {
        self.place.json(&["ctl", &self.name, "info", "--json"])
    }

    fn connect(&self) -> UnixStream {
        let s = UnixStream::connect(self.place.socket(&self.name)).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        s
    }

    /// Status of what comes back on these bytes; its body must be an error of one line, if it is one.
    fn raw(&self, request: &[u8]) -> u16 {
        let mut s = self.connect();
        // A server that refuses early may hang up early.
        let _ = s.write_all(request);
        let mut answer = String::new();
        s.read_to_string(&mut answer).unwrap();
        let status: u16 = answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap();
        if status >= 400 {
            let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            let error = body["error"].as_str().unwrap();
            assert!(!error.is_empty() && !error.contains('\n'), "{error}");
        }
        status
    }

    /// Types a character; whether the guest echoes it in this time.
    fn echoes(&mut self, c: u8, output: &std::sync::mpsc::Receiver<u8>, wait: Duration) -> bool {
        self.child.stdin.as_mut().unwrap().write_all(&[c]).unwrap();
        output.recv_timeout(wait) == Ok(c)
    }

    fn output(&mut self) -> std::sync::mpsc::Receiver<u8> {
        let mut out = self.child.stdout.take().unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut b = [0];
            while out.read_exact(&mut b).is_ok() && send.send(b[0]).is_ok() {}
        });
        receive
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_machine_is_told_of_paused_resumed_and_stopped() {
    let place = Place::new();
    let mut m = place.machine("demo", &echo(), &["--host", "altra", "--cpus", "2", "--max-cpus", "4"]);
    let output = m.output();
    assert!(m.echoes(b'a', &output, Duration::from_secs(10)));
    let i = m.info();
    assert_eq!(
        (&i["name"], &i["state"], &i["profile"]),
        (&"demo".into(), &"running".into(), &"altra".into())
    );
    assert_eq!((&i["policy"], &i["memory"], &i["gic"]), (&"hw".into(), &(512u64 << 20).into(), &3.into()));
    assert_eq!(i["pid"], m.child.id());
    assert_eq!(i["services"]["psci"], "1.1");
    let cpus = i["vcpus"].as_array().unwrap();
    assert_eq!(cpus.len(), 4);
    assert_eq!((&cpus[0]["power"], &cpus[1]["power"]), (&"on".into(), &"off".into()));
    let enabled: Vec<bool> = cpus.iter().map(|c| c["enabled"].as_bool().unwrap()).collect();
    assert_eq!(enabled, [true, true, false, false]);
    assert!(cpus[0]["exits"]["mmio_read"].as_u64().unwrap() > 0);
    assert!(cpus[0]["thread"].as_u64().unwrap() > 0);
    assert!(cpus[1]["thread"].is_null(), "no thread before it is on");

    m.well(&["pause"]);
    m.well(&["pause"]);
    let exits = |m: &Machine<'_>| m.info()["vcpus"][0]["exits"].clone();
    let before = exits(&m);
    assert!(!m.echoes(b'b', &output, Duration::from_millis(200)), "it stands still");
    assert_eq!(exits(&m), before);
    assert_eq!(m.info()["state"], "paused");
    m.well(&["resume"]);
    assert_eq!(output.recv_timeout(Duration::from_secs(10)), Ok(b'b'), "what was typed is not lost");
    m.well(&["resume"]);
    assert!(m.echoes(b'c', &output, Duration::from_secs(10)));

    let (code, text, _) = m.ctl(&["info"]);
    assert_eq!(code, 0);
    assert!(text.contains("state     running") && text.contains("1 on, 2 enabled, 4 possible"), "{text}");
    let (code, text, _) = place.ulna(&["list"]);
    assert!(code == 0 && text.lines().nth(1).unwrap().starts_with("demo  running"), "{text}");

    m.well(&["pause"]);
    assert_eq!(place.ulna(&["stop", "demo"]), (0, String::new(), String::new()), "also when it is paused");
    assert_eq!(m.child.wait().unwrap().code(), Some(0));
    assert!(!place.socket("demo").exists());
    let (code, _, stderr) = m.ctl(&["info"]);
    let says = format!("ulna: demo: no machine listens at {}\n", place.socket("demo").display());
    assert_eq!((code, stderr), (7, says));
    assert_eq!(place.json(&["list", "--json"]), Value::Array(vec![]));
}

#[test]
fn vcpus_are_enabled_and_disabled() {
    let place = Place::new();
    let m = place.machine("v", &echo(), &["--cpus", "1", "--max-cpus", "3"]);
    m.well(&["cpu", "enable", "2"]);
    m.well(&["cpu", "enable", "2"]);
    assert_eq!(m.info()["vcpus"][2]["enabled"], true);
    m.well(&["cpu", "disable", "2"]);
    let v: Value = serde_json::from_str(&m.ctl(&["cpu", "enable", "1", "--json"]).1).unwrap();
    assert_eq!((&v["id"], &v["enabled"], &v["power"]), (&1.into(), &true.into(), &"off".into()));
    let (code, _, stderr) = m.ctl(&["cpu", "disable", "0"]);
    assert_eq!((code, stderr.as_str()), (8, "ulna: v: vCPU 0 is on: have the guest switch it off first\n"));
    let (code, _, stderr) = m.ctl(&["cpu", "enable", "3"]);
    assert_eq!((code, stderr.as_str()), (8, "ulna: v: there is no vCPU 3; there are 3\n"));
    let (code, _, stderr) = m.ctl(&["nmi", "--cpu", "2"]);
    assert!(code == 8 && stderr.starts_with("ulna: v: the guest takes no NMI: it has no SDEI"), "{stderr}");
    assert_eq!(m.ctl(&["nmi", "--cpu", "3"]).2, "ulna: v: there is no vCPU 3; there are 3\n");
    let (code, _, stderr) = m.ctl(&["cpu", "enable", "x"]);
    assert!(code == 2 && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn the_socket_is_its_users_alone_and_names_are_taken_once() {
    let place = Place::new();
    let m = place.machine("one", &echo(), &[]);
    let dir = std::fs::metadata(place.path().join("ulna")).unwrap();
    assert_eq!(dir.mode() & 0o777, 0o700);
    let socket = std::fs::metadata(place.socket("one")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.mode() & 0o777, 0o600);

    let out = place.start(&echo(), &["--name", "one"]).wait_with_output().unwrap();
    let says = format!(
        "ulna: Cannot open the control socket {}: a machine listens there already\n",
        place.socket("one").display()
    );
    assert_eq!((out.status.code(), String::from_utf8(out.stderr).unwrap()), (Some(4), says));
    assert_eq!(m.info()["state"], "running", "the first is not disturbed");

    // One that was killed leaves its socket, which is no obstacle.
    drop(m);
    assert!(place.socket("one").exists());
    assert_eq!(place.ulna(&["stop", "one"]).0, 7);
    assert_eq!(place.json(&["list", "--json"]), Value::Array(vec![]), "and is not listed");
    let m = place.machine("one", &echo(), &[]);
    assert_eq!(place.ulna(&["stop", m.name.as_str(), "--json"]).1, "{\n  \"stopped\": true\n}\n");

    // A file that is no socket stays.
    let file = place.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let out = place.start(&echo(), &["--control", file.to_str().unwrap()]).wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.code() == Some(4) && stderr.ends_with("there is a file of that name\n"), "{stderr}");
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
    let long = format!("./{}", "x".repeat(120));
    let out = place.start(&echo(), &["--control", &long]).wait_with_output().unwrap();
    let stderr = String::from_utf8(out.stderr).unwrap();
    assert!(stderr.ends_with("the path is longer than 107 bytes\n"), "{stderr}");
}

#[test]
fn of_machines_that_start_at_once_under_one_name_one_runs() {
    let place = Place::new();
    let mut all: Vec<Child> = (0..6).map(|_| place.start(&echo(), &["--name", "same"])).collect();
    let begin = Instant::now();
    loop {
        let ended = all.iter_mut().map(|c| matches!(c.try_wait(), Ok(Some(_)))).filter(|e| *e).count();
        if ended == 5 || begin.elapsed() > Duration::from_secs(30) {
            assert_eq!(ended, 5);
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(place.ulna(&["stop", "same"]).0, 0);
    let mut codes: Vec<_> = all.iter_mut().map(|c| c.wait().unwrap().code()).collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(4), Some(4), Some(4), Some(4), Some(4)]);
}

#[test]
fn a_path_or_no_socket_and_no_name_at_all() {
    let place = Place::new();
    let path = place.path().join("here.sock");
    let mut child = place.start(&echo(), &["--control", path.to_str().unwrap()]);
    let begin = Instant::now();
    while !path.exists() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    let i = place.json(&["ctl", path.to_str().unwrap(), "info", "--json"]);
    assert_eq!(i["name"], format!("vm{}", child.id()));
    assert_eq!(place.json(&["list", "--json"]), Value::Array(vec![]));
    assert_eq!(place.ulna(&["stop", path.to_str().unwrap()]).0, 0);
    assert!(child.wait().unwrap().success());
    // A place where no socket can be is no reason to fail when nobody asked for one, and is when somebody did.
    let nowhere = |args: &[&str]| {
        let mut command = ulna();
        let words: Vec<u32> = [&psci(8)[..], &[HVC]].concat();
        command.args(["--kernel-format", "raw", "--kernel"]).arg(program(place.path(), &words)).args(args);
        let out = command.env("XDG_RUNTIME_DIR", "/proc/nowhere").output().unwrap();
        (out.status.code().unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    assert_eq!(nowhere(&[]), (0, String::new()));
    assert_eq!(nowhere(&["--control", "none"]), (0, String::new()));
    let (code, stderr) = nowhere(&["--name", "x"]);
    assert!(
        code == 4 && stderr.starts_with("ulna: Cannot use /proc/nowhere/ulna for control sockets"),
        "{stderr}"
    );
    for bad in ["vm.sock", ""] {
        let (code, stderr) = nowhere(&["--control", bad]);
        assert!(code == 2 && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn bad_requests_are_told_what_is_wrong() {
    let place = Place::new();
    let m = place.machine("bad", &echo(), &["--max-cpus", "2"]);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let with = |method: &str, path: &str, body: &str| {
        format!("{method} {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let cases = [
        (get("/v1/vm"), 200),
        (get("/"), 404),
        (get("/v1/vm/"), 404),
        (get("/v1/vm/cpus/"), 404),
        (get("/v1/vm/cpus/1/2"), 404),
        (get("/v1/vm/nonsense"), 404),
        (get("/v1/vm/pause"), 405),
        (with("PATCH", "/v1/vm", ""), 405),
        (with("PUT", "/v1/vm/cpus/1", ""), 400),
        (with("PUT", "/v1/vm/cpus/1", "[]"), 400),
        (with("PUT", "/v1/vm/cpus/1", r#"{"enabled":1}"#), 400),
        (with("PUT", "/v1/vm/cpus/1", r#"{"enabled":true,"x":1}"#), 400),
        (with("PUT", "/v1/vm/cpus/-1", r#"{"enabled":true}"#), 400),
        (with("PUT", "/v1/vm/cpus/01", r#"{"enabled":true}"#), 400),
        (with("PUT", "/v1/vm/cpus/99999999999999999999", r#"{"enabled":true}"#), 400),
        (with("PUT", "/v1/vm/cpus/2", r#"{"enabled":true}"#), 404),
        (with("PUT", "/v1/vm/cpus/0", r#"{"enabled":false}"#), 409),
        (with("POST", "/v1/vm/stop", r#"{"how":"gently"}"#), 400),
        (with("POST", "/v1/vm/stop", &"[".repeat(5000)), 400),
        (
            "POST /v1/vm/stop HTTP/1.1\r\nContent-Length: 999999\r\n\r\n".to_owned() + &"x".repeat(999_999),
            413,
        ),
        ("GET /v1/vm HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 501),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000)), 431),
        ("\0\0\0\0\r\n\r\n".to_owned(), 400),
        ("hello\r\n\r\n".to_owned(), 400),
    ];
    for (request, status) in cases {
        let begin: String = request.chars().take(80).collect();
        assert_eq!(m.raw(request.as_bytes()), status, "{begin:?}");
    }
    assert_eq!(m.info()["state"], "running", "none of it did anything");
    assert_eq!(m.info()["vcpus"][1]["enabled"], false);
}

#[test]
fn clients_that_hang_hold_up_nobody() {
    let place = Place::new();
    let m = place.machine("busy", &echo(), &["--cpus", "2"]);
    let mut hanging: Vec<UnixStream> = (0..8).map(|_| m.connect()).collect();
    for (n, s) in hanging.iter_mut().enumerate() {
        // Nothing, half a line, a head without its body.
        let part: &[u8] =
            [&b""[..], b"GET /v1", b"POST /v1/vm/stop HTTP/1.1\r\nContent-Length: 5\r\n\r\n{"][n % 3];
        s.write_all(part).unwrap();
    }
    // One that asks and never reads, one that goes away in the middle.
    let mut deaf = m.connect();
    deaf.write_all(b"GET /v1/openapi.json HTTP/1.1\r\n\r\n").unwrap();
    drop(m.connect());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    m.well(&["pause"]);
                    assert!(["paused", "running"].contains(&m.info()["state"].as_str().unwrap()));
                    m.well(&["resume"]);
                }
            });
        }
    });
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(m.info()["state"], "running");
    // Those that hang are told so in time.
    let mut answer = String::new();
    hanging[1].read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // And too many at a time are turned away, until the others' time is over.
    let crowd: Vec<UnixStream> = (0..40).map(|_| m.connect()).collect();
    let mut last = crowd.last().unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(crowd);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(place.ulna(&["stop", "busy"]).0, 0);
}

#[test]
fn a_machine_that_does_not_answer_is_told_from_one_that_is_not_there() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("ulna")).unwrap();
    let silent = UnixListener::bind(place.socket("silent")).unwrap();
    let rude = UnixListener::bind(place.socket("rude")).unwrap();
    std::thread::spawn(move || {
        for s in rude.incoming() {
            let mut s = s.unwrap();
            let _ = s.read(&mut [0; 512]);
            let _ = s.write_all(b"220 mail.example.org ESMTP\r\n");
        }
    });
    let (code, _, stderr) = place.ulna(&["ctl", "rude", "info"]);
    assert!(code == 7 && stderr.contains("does not answer: no HTTP"), "{stderr}");
    let begin = Instant::now();
    let list = place.json(&["list", "--json"]);
    assert!(begin.elapsed() < Duration::from_secs(5));
    let names: Vec<_> = list.as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rude", "silent"]);
    assert!(list[1]["error"].as_str().unwrap().contains("did not come in time"), "{list}");
    assert!(place.ulna(&["list"]).1.contains("silent  no answer"));
    drop(silent);
}

/// The guest counts what its counter shows; across a pause it must not see the pause.
#[test]
fn the_guests_clock_stands_still_in_a_pause() {
    let place = Place::new();
    // Waits for a character, then puts CNTVCT_EL0 in bytes on the serial port.
    let words = [
        common::UART,
        0xb940_1822, // ldr w2, [x1, #0x18]
        0x3727_ffe2, // tbnz w2, #4, back
        0xb940_0023, // ldr w3, [x1]
        0xd53b_e043, // mrs x3, cntvct_el0
        0x5280_0104, // movz w4, #8
        common::PUT,
        0xd348_fc63, // lsr x3, x3, #8
        0x7100_0484, // subs w4, w4, #1
        0x54ff_ffa1, // b.ne PUT
        0x17ff_fff7, // b back
    ];
    let mut m = place.machine("clock", &words, &["--host", "max"]);
    let output = m.output();
    let count = |m: &mut Machine<'_>| {
        m.child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        let bytes = [0; 8].map(|_: u8| output.recv_timeout(Duration::from_secs(20)).unwrap());
        u64::from_le_bytes(bytes)
    };
    // The frequency, from the host's point of view: the guest's counter against our clock.
    let (c0, t0) = (count(&mut m), Instant::now());
    std::thread::sleep(Duration::from_millis(400));
    let (c1, t1) = (count(&mut m), Instant::now());
    let hz = (c1 - c0) as f64 / (t1 - t0).as_secs_f64();
    m.well(&["pause"]);
    let paused = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let paused = paused.elapsed().as_secs_f64();
    m.well(&["resume"]);
    let (c2, t2) = (count(&mut m), Instant::now());
    let guest = (c2 - c1) as f64 / hz;
    let host = (t2 - t1).as_secs_f64();
    assert!(c2 > c1, "it never goes back");
    assert!((host - guest - paused).abs() < 0.7, "guest {guest:.2} s, host {host:.2} s, pause {paused:.2} s");
}

/// H3 and H6: a vCPU that is possible can be switched on once it is enabled, and not before. It was there from the start:
/// this KVM makes none once its interrupt controller is initialised.
#[test]
fn h3_h6_a_vcpu_is_switched_on_once_it_is_enabled() {
    let place = Place::new();
    // For each character: CPU_ON of vCPU 5, and '0' less its answer. The vCPU says 'X' and goes off.
    let words = [
        common::UART,
        0xb940_1822, // ldr w2, [x1, #0x18]
        0x3727_ffe2, // tbnz w2, #4, back
        0xb940_0023, // ldr w3, [x1]
        0xd280_0060, // mov x0, #3
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd280_00a1, // mov x1, #5
        0x1000_0122, // adr x2, 40 <fifth>
        HVC,
        0x5280_0604, // mov w4, #'0'
        0x4b00_0083, // sub w3, w4, w0
        common::UART,
        0xb900_0023, // str w3, [x1]
        0x17ff_fff4, // b 4
        0xd503_201f, // nop
        0xd503_201f, // nop
        common::UART,
        0x5280_0b03, // mov w3, #'X'
        0xb900_0023, // str w3, [x1]
        0x5280_0040, // mov w0, #2
        0x72b0_8000, // movk w0, #0x8400, lsl #16
        HVC,
    ];
    let mut m = place.machine("h3", &words, &["--cpus", "2", "--max-cpus", "64"]);
    let output = m.output();
    let ask = |m: &mut Machine<'_>| {
        m.child.stdin.as_mut().unwrap().write_all(b"?").unwrap();
        output.recv_timeout(Duration::from_secs(30)).unwrap()
    };
    let denied = b'3';
    assert_eq!(ask(&mut m), denied);
    for _ in 0..3 {
        m.well(&["cpu", "enable", "5"]);
        let mut answers = [ask(&mut m), output.recv_timeout(Duration::from_secs(30)).unwrap()];
        answers.sort();
        assert_eq!(answers, *b"0X", "it runs");
        let begin = Instant::now();
        while m.ctl(&["cpu", "disable", "5"]).0 != 0 {
            assert!(begin.elapsed() < Duration::from_secs(30), "it never goes off");
        }
        assert_eq!(ask(&mut m), denied);
    }
}

/// H3 as far as a bare guest shows it, and across a reset: the built-in guest tells which vCPUs it could switch on.
#[test]
fn what_is_enabled_stays_so_over_a_reset() {
    let place = Place::new();
    // Waits for a character, then resets.
    let words = [
        &[
            common::UART,
            0xb940_1822, // ldr w2, [x1, #0x18]
            0x3727_ffe2, // tbnz w2, #4, back
        ][..],
        &psci(9),
        &[HVC],
    ]
    .concat();
    let mut m = place.machine("r", &words, &["--max-cpus", "4"]);
    m.well(&["cpu", "enable", "3"]);
    m.child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    let begin = Instant::now();
    while m.info()["resets"] != 1 || m.info()["state"] != "running" {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", m.info());
        std::thread::sleep(Duration::from_millis(20));
    }
    let i = m.info();
    let enabled: Vec<bool> =
        i["vcpus"].as_array().unwrap().iter().map(|c| c["enabled"].as_bool().unwrap()).collect();
    assert_eq!(enabled, [true, false, false, true]);
    // A machine that is paused when it resets would begin at a stand; one that is paused ends by a signal all the same.
    m.well(&["pause"]);
    Command::new("kill").arg(m.child.id().to_string()).status().unwrap();
    assert_eq!(m.child.wait().unwrap().code(), Some(143));
}

/// H4: vCPUs that never ran have no thread, and cost little.
#[test]
fn h4_vcpus_that_never_ran_cost_little() {
    let place = Place::new();
    let start = |name: &str, max: &str| {
        place.machine(name, &echo(), &["--cpus", "2", "--max-cpus", max, "--host", "max"])
    };
    let (few, many) = (start("few", "2"), start("many", "512"));
    let field = |pid: u32, f: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with(f)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let both = |f: &str| (field(few.child.id(), f), field(many.child.id(), f));
    // Both may still be starting theirs.
    let begin = Instant::now();
    while both("Threads:").0 != both("Threads:").1 {
        assert!(begin.elapsed() < Duration::from_secs(20), "threads: {:?}", both("Threads:"));
        std::thread::sleep(Duration::from_millis(20));
    }
    let (few, many) = both("VmRSS:");
    let cost = many.saturating_sub(few);
    assert!(cost <= 510 * 64, "{cost} KiB for 510 vCPUs");
}

/// SYSTEM_SUSPEND: refused while another vCPU is on or the entry is nonsense; else the machine sleeps until it is woken.
#[test]
fn a_guest_that_sleeps_is_woken() {
    let place = Place::new();
    // For 's' it sleeps and says on waking what it left in the context ('W'), for 'o' it starts vCPU 1, for any other it wants
    // to sleep and wake up at an odd address; what is refused is '0' less the answer.
    let words = [
        0xd2a1_2001, // mov x1, #0x9000000
        0xb940_1822, // ldr w2, [x1, #24]
        0x3727_ffe2, // tbnz w2, #4, 4 <loop>
        0xb940_0023, // ldr w3, [x1]
        0x7101_bc7f, // cmp w3, #'o'
        0x5400_0200, // b.eq 54 <on>
        0xd280_01c0, // mov x0, #0xe
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd280_0021, // mov x1, #0x1
        0xd280_0ae2, // mov x2, #'W'
        0x7101_cc7f, // cmp w3, #'s'
        0x5400_0041, // b.ne 34 <go>
        0x1000_00a1, // adr x1, 44 <woken>
        0xd400_0002, // go: hvc #0x0
        0x5280_0603, // say: mov w3, #'0'
        0x4b00_0063, // sub w3, w3, w0
        0x1400_0002, // b 48 <put>
        0x2a00_03e3, // woken: mov w3, w0
        0xd2a1_2001, // put: mov x1, #0x9000000
        0xb900_0023, // str w3, [x1]
        0x17ff_ffed, // b 4 <loop>
        0xd280_0060, // on: mov x0, #0x3
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd280_0021, // mov x1, #0x1
        0x1000_0062, // adr x2, 6c <spin>
        0xd400_0002, // hvc #0x0
        0x17ff_fff4, // b 38 <say>
        0x1400_0000, // spin: b 6c <spin>
    ];
    for cpus in ["1", "2"] {
        let mut m = place.machine("sleep", &words, &["--cpus", cpus, "--services", "suspend=on"]);
        assert_eq!(m.info()["services"]["suspend"], "on");
        let output = m.output();
        let say = |m: &mut Machine<'_>, c: u8| m.child.stdin.as_mut().unwrap().write_all(&[c]).unwrap();
        let hear = || output.recv_timeout(Duration::from_secs(30)).unwrap();
        let comes_to = |m: &Machine<'_>, state: &str| {
            let begin = Instant::now();
            while m.info()["state"] != state {
                assert!(begin.elapsed() < Duration::from_secs(30), "{}", m.info()["state"]);
            }
        };
        say(&mut m, b'b');
        assert_eq!(hear(), b'9', "INVALID_ADDRESS");
        for _ in 0..3 {
            say(&mut m, b's');
            comes_to(&m, "suspended");
            // Paused meanwhile, it sleeps on.
            m.well(&["pause"]);
            assert_eq!(m.info()["state"], "paused");
            m.well(&["resume"]);
            assert_eq!(m.info()["state"], "suspended");
            m.well(&["resume"]);
            assert_eq!(hear(), b'W');
            comes_to(&m, "running");
        }
        if cpus == "2" {
            say(&mut m, b'o');
            assert_eq!(hear(), b'0');
            say(&mut m, b's');
            assert_eq!(hear(), b'3', "DENIED");
        }
        // It can be stopped asleep, too.
        if cpus == "1" {
            say(&mut m, b's');
            comes_to(&m, "suspended");
        }
        assert_eq!(place.ulna(&["stop", "sleep"]).0, 0);
        assert_eq!(m.child.wait().unwrap().code(), Some(0));
    }
    // Who did not ask for it has it not.
    let mut m = place.machine("awake", &words, &[]);
    let output = m.output();
    m.child.stdin.as_mut().unwrap().write_all(b"s").unwrap();
    assert_eq!(output.recv_timeout(Duration::from_secs(30)), Ok(b'1'), "NOT_SUPPORTED");
}

#[test]
fn the_power_key_reaches_the_guests_gpio() {
    let place = Place::new();
    // Unmasks the key's line and powers off when its raw interrupt status shows the press: GPIOIEV |= 8, GPIOICR, GPIORIS.
    let words = [
        &[
            0xd2a1_2061, // movz x1, #0x0903, lsl #16
            0x5280_0102, // movz w2, #8
            0xb904_0c22, // str w2, [x1, #0x40c]: GPIOIEV, rising edges
            0xb904_1c22, // str w2, [x1, #0x41c]: GPIOIC
            0xb944_1423, // ldr w3, [x1, #0x414]: GPIORIS
            0x361f_ffe3, // tbz w3, #3, back
        ][..],
        &psci(8),
        &[HVC],
    ]
    .concat();
    let mut m = place.machine("key", &words, &[]);
    m.well(&["pause"]);
    let (code, _, stderr) = m.ctl(&["stop", "--power-key"]);
    assert!(code == 8 && stderr.contains("paused"), "{stderr}");
    m.well(&["resume"]);
    m.well(&["stop", "--power-key"]);
    assert_eq!(m.child.wait().unwrap().code(), Some(0));
}

#[test]
fn curl_reads_the_description() {
    // The description itself is compared with the routes elsewhere; here, that it comes by HTTP as it is.
    let place = Place::new();
    let m = place.machine("doc", &echo(), &[]);
    let mut s = m.connect();
    s.write_all(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut reader = BufReader::new(s);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(n) = line.strip_prefix("Content-Length: ") {
            length = n.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = String::new();
    reader.read_to_string(&mut body).unwrap();
    assert_eq!(body.len(), length);
    let doc: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(doc["openapi"], "3.1.0");
}

/// A guest that spins with all interrupts masked takes the host's SDEI event, as often as it is raised.
#[test]
fn an_nmi_reaches_a_guest_that_spins_with_interrupts_masked() {
    let place = Place::new();
    // EVENT_REGISTER 0x40756C00, EVENT_ENABLE, PE_UNMASK, 'r' (ready) or 'b' (bad), spin; the handler prints 'N'.
    let words = [
        0xd2a1_2014, // mov x20, #0x9000000
        0xd28d_8001, // mov x1, #0x6c00
        0xf2a8_0ea1, // movk x1, #0x4075, lsl #16
        0x1000_0302, // adr x2, 6c <handler>
        0xd280_0003, // mov x3, #0x0
        0xd280_0004, // mov x4, #0x0
        0xd280_0005, // mov x5, #0x0
        0xd280_0420, // mov x0, #0x21
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd400_0002, // hvc #0x0
        0xb500_01c0, // cbnz x0, 60 <bad>
        0xd28d_8001, // mov x1, #0x6c00
        0xf2a8_0ea1, // movk x1, #0x4075, lsl #16
        0xd280_0440, // mov x0, #0x22
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd400_0002, // hvc #0x0
        0xb500_0100, // cbnz x0, 60 <bad>
        0xd280_0580, // mov x0, #0x2c
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd400_0002, // hvc #0x0
        0xd503_4fdf, // msr daifset, #0xf
        0x5280_0e43, // mov w3, #0x72
        0xb900_0283, // str w3, [x20]
        0x1400_0000, // b 5c <spin>
        0x5280_0c43, // mov w3, #0x62
        0xb900_0283, // str w3, [x20]
        0x17ff_fffd, // b 5c <spin>
        0xd2a1_2014, // mov x20, #0x9000000
        0x5280_09c3, // mov w3, #0x4e
        0xb900_0283, // str w3, [x20]
        0xd280_04a0, // mov x0, #0x25
        0xf2b8_8000, // movk x0, #0xc400, lsl #16
        0xd280_0001, // mov x1, #0x0
        0xd400_0002, // hvc #0x0
        0x1400_0000, // b 88 <handler+0x1c>
    ];
    let mut m = place.machine("spin", &words, &["--services", "sdei=1.1"]);
    let output = m.output();
    assert_eq!(m.info()["services"]["sdei"], "1.1");
    assert_eq!(output.recv_timeout(Duration::from_secs(10)), Ok(b'r'));
    for _ in 0..10 {
        m.well(&["nmi", "--cpu", "0"]);
        assert_eq!(output.recv_timeout(Duration::from_secs(10)), Ok(b'N'));
    }
    // In a pause it waits.
    m.well(&["pause"]);
    m.well(&["nmi"]);
    assert!(output.recv_timeout(Duration::from_millis(100)).is_err());
    m.well(&["resume"]);
    assert_eq!(output.recv_timeout(Duration::from_secs(10)), Ok(b'N'));
}
