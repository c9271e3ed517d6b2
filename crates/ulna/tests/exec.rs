//! `ulna exec` without the library and the emulator: what is wrong is one line; `ulna serve`: confined, and its end.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::cargo::cargo_bin;
use ulna_kvm_abi::ioctl::{self, request};
use ulna_kvm_abi::structs::{VcpuInit, Wire};
use ulna_kvm_abi::wire::{Request, op};
use ulna_serve::client::{Client, pair};

fn exec(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(cargo_bin("ulna")).arg("exec").args(args).output().expect("started");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn what_is_wrong_is_one_line() {
    let mut text = tempfile::NamedTempFile::new().expect("file");
    text.write_all(&[b'#'; 100]).expect("written");
    let text = text.path().to_str().expect("path");
    let this = cargo_bin("ulna");
    let this = this.to_str().expect("path");
    let cases: [(&[&str], &str); 5] = [
        (&["--", "/nonexistent/program"], "cannot open /nonexistent/program"),
        (&["--", "no-such-program-anywhere"], "no program no-such-program-anywhere in PATH"),
        (&["--", text], "is not an ELF program"),
        (&["--shim", "/nonexistent/lib.so", "--", this], "cannot find the library /nonexistent/lib.so"),
        (&["--host", "nobody", "--", this], "--host"),
    ];
    for (args, says) in cases {
        let (code, err) = exec(args);
        assert_eq!((code, err.lines().count()), (Some(2), 1), "{args:?}: {err}");
        assert!(err.starts_with("ulna: ") && err.contains(says), "{args:?}: {err}");
    }
}

fn server() -> (Child, Client) {
    let (mine, theirs) = pair().expect("sockets");
    let child = Command::new(cargo_bin("ulna"))
        .args(["serve", "--host", "n1"])
        .stdin(Stdio::from(theirs))
        .spawn()
        .expect("started");
    (child, Client::connect(mine).expect("hello"))
}

fn ends(child: &mut Child) -> std::process::ExitStatus {
    let begin = Instant::now();
    loop {
        if let Some(s) = child.try_wait().expect("a child") {
            return s;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A vCPU whose guest never leaves: its memory is nowhere, so it takes aborts for ever.
fn vcpu(c: &mut Client) -> (Client, Client) {
    let (mut vm, _) = c.make(&ioctl::CREATE_VM, 0).expect("server").expect("vm");
    let (mut vcpu, _) = vm.make(&ioctl::CREATE_VCPU, 0).expect("server").expect("vcpu");
    let mut b = [0; 32];
    VcpuInit { target: 5, features: [1, 0, 0, 0, 0, 0, 0] }.to_bytes(&mut b);
    assert_eq!(vcpu.structure(&ioctl::ARM_VCPU_INIT, &b).expect("server").0, 0);
    (vm, vcpu)
}

#[test]
fn a_server_is_confined_and_ends_with_its_client() {
    let (mut child, mut client) = server();
    let (_vm, vcpu) = vcpu(&mut client);
    // Powered off: it waits for ever.
    let run = Request { op: op::IOCTL, request: request::RUN, extra: 1, ..Request::default() };
    vcpu.send(run, &[], &[], &[]).expect("sent");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), (Some("1"), Some("2")));
    drop(client);
    assert!(ends(&mut child).success());
}

#[test]
fn a_server_that_dies_leaves_no_client_waiting() {
    let (mut child, mut client) = server();
    let (_vm, mut vcpu) = vcpu(&mut client);
    let run = Request { op: op::IOCTL, request: request::RUN, extra: 1, ..Request::default() };
    vcpu.send(run, &[], &[], &[]).expect("sent");
    child.kill().expect("killed");
    assert!(vcpu.answer().is_err() && client.number(&ioctl::GET_API_VERSION, 0).is_err());
    ends(&mut child);
}
