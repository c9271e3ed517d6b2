//! An interactive run: raw mode while the guest runs, the terminal as it was afterwards, whatever the way out.

mod common;

use common::{echo, program, ulna};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

struct Session {
    user: File,
    peer: OwnedFd,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Session {
    /// The echo guest on a fresh terminal.
    fn start() -> Session {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let path = ptsname(&main, Vec::new()).unwrap();
        let peer = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let child = ulna()
            .args(["--name", "t", "--control", "none", "--kernel-format", "raw", "--kernel"])
            .arg(program(dir.path(), &echo()))
            .stdin(peer.try_clone().unwrap())
            .stdout(peer.try_clone().unwrap())
            .spawn()
            .unwrap();
        let session = Session { user: File::from(main), peer: OwnedFd::from(peer), child, _dir: dir };
        session.wait_until_raw();
        session
    }

    fn raw(&self) -> bool {
        !tcgetattr(&self.peer).unwrap().local_modes.contains(LocalModes::ISIG | LocalModes::ICANON)
    }

    fn wait_until_raw(&self) {
        let begin = Instant::now();
        while !self.raw() {
            assert!(begin.elapsed() < Duration::from_secs(20), "the terminal never becomes raw");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn echoes(&mut self, typed: &[u8]) {
        self.user.write_all(typed).unwrap();
        let mut back = vec![0u8; typed.len()];
        self.user.read_exact(&mut back).unwrap();
        assert_eq!(back, typed);
    }

    /// Waits for the end and checks that the terminal is as it was.
    fn ends(self, code: i32) {
        let out = self.child.wait_with_output().unwrap();
        let stderr = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(code), "{stderr}");
        let told = "ulna: t: Ctrl-A x quits, Ctrl-A b sends a break, Ctrl-A Ctrl-A sends Ctrl-A\n";
        assert_eq!(stderr, told);
        let modes = tcgetattr(&self.peer).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO), "{modes:?}");
    }
}

#[test]
fn control_c_is_the_guests_and_the_escape_key_quits() {
    let mut session = Session::start();
    session.echoes(b"hello\x03\x1a\r");
    session.user.write_all(b"\x01\x01").unwrap();
    let mut one = [0u8];
    session.user.read_exact(&mut one).unwrap();
    assert_eq!(one, [1]);
    session.user.write_all(b"\x01x").unwrap();
    session.ends(0);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let mut session = Session::start();
    session.echoes(b"a");
    let id = session.child.id().to_string();
    assert!(std::process::Command::new("kill").arg(id).status().unwrap().success());
    session.ends(143);
}

#[test]
fn a_pseudo_terminal_is_named_and_works() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = ulna()
        .args(["--name", "t", "--control", "none", "--serial", "pty", "--kernel-format", "raw", "--kernel"])
        .arg(program(dir.path(), &echo()))
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let path = line.strip_prefix("ulna: t: the serial port is ").unwrap().trim_end();
    // Users come and go.
    for typed in [b"first", b"other"] {
        let mut port = File::options().read(true).write(true).open(path).unwrap();
        port.write_all(typed).unwrap();
        let mut back = [0u8; 5];
        port.read_exact(&mut back).unwrap();
        assert_eq!(&back, typed);
    }
    assert!(std::process::Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn closed_standard_files_are_no_input_and_no_output() {
    for (redirect, output) in [("<&-", true), (">&-", false), ("<&- >&- 2>&-", false)] {
        let bin = assert_cmd::cargo::cargo_bin!("ulna");
        let script = format!("exec \"$0\" run {redirect}");
        let out = std::process::Command::new("sh").arg("-c").arg(script).arg(bin).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{redirect}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stderr.is_empty(), "{redirect}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(!out.stdout.is_empty(), output, "{redirect}");
    }
}
