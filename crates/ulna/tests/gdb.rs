//! `ulna run --gdb`, spoken to in GDB's remote protocol.

mod common;

use common::{HVC, PUT, UART, char, program, psci, ulna};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

const ENTRY: u64 = 0x4008_0000;
/// The counter loop of vCPU 0, that of vCPU 1, the data.
const LOOP: u64 = ENTRY + 7 * 4;
const SECOND: u64 = ENTRY + 15 * 4;
const DATA: u64 = ENTRY + 0x100;
const PATIENCE: Duration = Duration::from_secs(20);

/// vCPU 0 starts vCPU 1, counts in memory, and powers off when it is told; vCPU 1 counts in x7.
fn counters() -> Vec<u32> {
    let mut p = vec![
        0x1000_0804, // adr x4, #0x100
        0xd2b8_8000, // movz x0, #0xc400, lsl #16
        0xf280_0060, // movk x0, #3: CPU_ON
        0xd280_0021, // movz x1, #1
        0x1000_0162, // adr x2, #44
        0xd280_0003, // movz x3, #0
        HVC,
        0xf940_0085, // ldr x5, [x4]
        0x9100_04a5, // add x5, x5, #1
        0xf900_0085, // str x5, [x4]
        0xf940_0886, // ldr x6, [x4, #16]
        0xb4ff_ff86, // cbz x6, back to the ldr
    ];
    p.extend(psci(8));
    p.extend([HVC, 0x9100_04e7, 0x17ff_ffff]); // add x7, x7, #1; b back
    p
}

struct Machine {
    child: Option<Child>,
    address: String,
    _dir: tempfile::TempDir,
}

impl Machine {
    fn start(words: &[u32], more: &[&str]) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("gdb");
        Machine::start_at(dir, words, socket.to_str().unwrap(), more)
    }

    fn start_at(dir: tempfile::TempDir, words: &[u32], at: &str, more: &[&str]) -> Machine {
        let path: PathBuf = program(dir.path(), words);
        let mut child = ulna()
            .args(["--kernel-format", "raw", "--gdb", at, "--kernel"])
            .arg(path)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ulna: waiting for GDB at ").expect(&line).to_string();
        Machine { child: Some(child), address, _dir: dir }
    }

    fn connect(&self) -> Gdb {
        let stream: Box<dyn Stream> = if self.address.contains('/') {
            let s = UnixStream::connect(&self.address).unwrap();
            s.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(s)
        } else {
            let s = TcpStream::connect(&self.address).unwrap();
            s.set_read_timeout(Some(PATIENCE)).unwrap();
            Box::new(s)
        };
        let mut g = Gdb { stream };
        let features = g.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
        assert!(features.contains("qXfer:features:read+"), "{features}");
        assert_eq!(g.ask("QStartNoAckMode"), "OK");
        g
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    fn end(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut c) = self.child.take() {
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// A client of the remote protocol.
struct Gdb {
    stream: Box<dyn Stream>,
}

impl Gdb {
    fn send(&mut self, text: &str) {
        let sum = text.bytes().fold(0u8, |a, b| a.wrapping_add(b));
        self.stream.write_all(format!("${text}#{sum:02x}").as_bytes()).unwrap();
    }

    fn byte(&mut self) -> u8 {
        let mut b = [0];
        self.stream.read_exact(&mut b).expect("an answer");
        b[0]
    }

    /// The next packet, with runs of characters written out.
    fn answer(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut text = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let n = self.byte() - 29;
                    let last = *text.last().unwrap();
                    text.extend(std::iter::repeat_n(last, n.into()));
                }
                b => text.push(b),
            }
        }
        self.byte();
        self.byte();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn ask(&mut self, text: &str) -> String {
        self.send(text);
        self.answer()
    }

    fn ok(&mut self, text: &str) {
        assert_eq!(self.ask(text), "OK", "{text}");
    }

    /// Register `n` of thread `t`.
    fn reg(&mut self, t: u32, n: u32) -> u64 {
        self.ok(&format!("Hgp1.{t}"));
        number(&self.ask(&format!("p{n:x}")))
    }

    fn pc(&mut self, t: u32) -> u64 {
        self.reg(t, 32)
    }

    fn memory(&mut self, at: u64, len: usize) -> u64 {
        number(&self.ask(&format!("m{at:x},{len:x}")))
    }

    /// Continues and expects a stop that says `what` of thread `t`.
    fn go(&mut self, how: &str, what: &str, t: u32) {
        let stop = self.ask(how);
        assert!(stop.starts_with('T') && stop.contains(&format!("thread:p01.{t:02x};")), "{how}: {stop}");
        assert!(stop.contains(what), "{how}: {stop}");
    }
}

/// Little-endian bytes in hex.
fn number(hex: &str) -> u64 {
    let bytes: Vec<u8> = (0..hex.len() / 2)
        .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap_or_else(|_| panic!("{hex}")))
        .collect();
    bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
}

#[test]
fn breakpoints_watchpoints_steps_on_every_vcpu() {
    let m = Machine::start(&counters(), &["--cpus", "2"]);
    let mut g = m.connect();
    assert!(g.ask("?").starts_with("T05"));
    assert_eq!(g.ask("qfThreadInfo"), "mp01.01,p01.02");
    let info = g.ask("qThreadExtraInfo,p1.2");
    assert_eq!(info, hex("vCPU 1, powered off"));
    let xml = g.ask("qXfer:features:read:target.xml:0,ffff");
    assert!(xml.starts_with("m<?xml") && xml.contains("org.gnu.gdb.aarch64.core"), "{xml}");
    let rest = g.ask(&format!("qXfer:features:read:target.xml:{:x},ffff", xml.len() - 1));
    assert!(rest.ends_with("</target>") && rest.contains("\"TTBR1_EL1\""), "{rest}");
    // The first bytes of all registers: x0 is the device tree, the PC the entry.
    let all = g.ask("g");
    assert_eq!(all.len(), 2 * (33 * 8 + 4 + 32 * 16 + 8));
    assert_eq!(number(&all[32 * 16..33 * 16]), ENTRY);
    assert_eq!(g.pc(1), ENTRY);

    // A software breakpoint: memory holds a BRK meanwhile, and the count goes on behind it.
    g.ok(&format!("Z0,{LOOP:x},4"));
    g.go("vCont;c", "swbreak:;", 1);
    assert_eq!((g.pc(1), g.memory(LOOP, 4)), (LOOP, 0xd420_0000));
    g.ok(&format!("z0,{LOOP:x},4"));
    assert_eq!(g.memory(LOOP, 4), 0xf940_0085);
    for n in 1..4 {
        g.go("vCont;s:p1.1", "T05", 1);
        assert_eq!(g.pc(1), LOOP + 4 * n);
    }
    assert_eq!(g.memory(DATA, 8), 1);

    // A hardware breakpoint of the other vCPU, which was switched on meanwhile.
    g.ok(&format!("Z1,{SECOND:x},4"));
    g.go("vCont;c", "hwbreak:;", 2);
    assert_eq!(g.pc(2), SECOND);
    g.ok(&format!("z1,{SECOND:x},4"));
    g.ok("Hgp1.2");
    g.ok(&format!("P7={}", hex64(0x1234)));
    g.go("vCont;s:p1.2;c", "T05", 2);
    assert_eq!((g.pc(2), g.reg(2, 7)), (SECOND + 4, 0x1235));

    // A watchpoint stops before the store.
    g.ok(&format!("Z2,{DATA:x},8"));
    g.go("vCont;c", &format!("watch:{DATA:x};"), 1);
    assert_eq!(g.pc(1), LOOP + 8);
    let count = g.memory(DATA, 8);
    assert_eq!(g.reg(1, 5), count + 1);
    g.ok(&format!("z2,{DATA:x},8"));

    // Ctrl-C, and both counted.
    g.send("vCont;c");
    std::thread::sleep(Duration::from_millis(50));
    g.stream.write_all(&[3]).unwrap();
    assert!(g.answer().starts_with("T02"));
    assert!(g.memory(DATA, 8) > count + 1 && g.reg(2, 7) > 0x1236);

    // Only one goes.
    let (count, other) = (g.memory(DATA, 8), g.reg(2, 7));
    while g.pc(1) == LOOP {
        g.go("vCont;s:p1.1", "T05", 1);
    }
    g.ok(&format!("Z1,{LOOP:x},4"));
    g.go("vCont;c:p1.1", "hwbreak:;", 1);
    assert_eq!(g.reg(2, 7), other, "the other stood");
    assert!(g.memory(DATA, 8) >= count);
    g.ok(&format!("z1,{LOOP:x},4"));

    // What is not there, and what does not fit.
    assert!(g.ask("m9000000,4").starts_with('E') && g.ask("M9000000,1:00").starts_with('E'));
    assert!(g.ask("Z0,9000000,4").starts_with('E'));
    assert!(g.ask(&format!("Z2,{:x},1000", DATA + 8)).starts_with('E'));

    // Told to end, it powers off.
    g.ok(&format!("M{:x},8:{}", DATA + 16, hex64(1)));
    assert!(g.ask("vCont;c").starts_with("W00"));
    let out = m.end();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

fn hex(text: &str) -> String {
    text.bytes().map(|b| format!("{b:02x}")).collect()
}

fn hex64(v: u64) -> String {
    v.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn detach_lets_it_run_and_another_may_come() {
    let dir = tempfile::tempdir().unwrap();
    let m = Machine::start_at(dir, &counters(), "127.0.0.1:0", &[]);
    let mut g = m.connect();
    assert_eq!(g.memory(DATA, 8), 0);
    g.ok(&format!("Z0,{LOOP:x},4"));
    g.ok("D;1");
    drop(g);
    std::thread::sleep(Duration::from_millis(50));
    let mut g = m.connect();
    let count = g.memory(DATA, 8);
    assert!(count > 0, "it ran");
    assert_eq!(g.memory(LOOP, 4), 0xf940_0085, "without the breakpoint of the first");
    // One who vanishes is one who detaches.
    drop(g);
    std::thread::sleep(Duration::from_millis(50));
    let mut g = m.connect();
    assert!(g.memory(DATA, 8) > count);
    g.send("vKill;1");
    assert_eq!(m.end().status.code(), Some(0));
}

#[test]
fn the_guests_own_breaks_are_the_guests() {
    // Vectors at +0x800; a BRK, and the handler powers off if ESR says so.
    let mut p = vec![
        0x1000_4004, // adr x4, #0x800
        0xd518_c004, // msr vbar_el1, x4
        0xd503_3fdf, // isb
        0xd420_00e0, // brk #7
        0x1400_0000, // b .
    ];
    p.resize((0x800 + 0x200) / 4, 0x1400_0000);
    p.extend([
        0xd538_5201, // mrs x1, esr_el1
        0xd280_00e2, // movz x2, #7
        0xf2be_4002, // movk x2, #0xf200, lsl #16
        0xeb02_003f, // cmp x1, x2
        0x5400_0001, // b.ne .
    ]);
    p.extend(psci(8));
    p.push(HVC);
    let m = Machine::start(&p, &[]);
    let mut g = m.connect();
    // Something must be set, else nothing is intercepted at all.
    g.ok(&format!("Z0,{:x},4", ENTRY + 16));
    g.ok(&format!("Z1,{:x},4", ENTRY + 16));
    for n in 1..4 {
        g.go("vCont;s:p1.1", "T05", 1);
        assert_eq!(g.pc(1), ENTRY + 4 * n);
    }
    g.go("vCont;s:p1.1", "T05", 1);
    assert_eq!(g.pc(1), ENTRY + 0xa00, "a step over BRK leads into the handler");
    assert!(g.ask("vCont;c").starts_with("W00"));
    assert_eq!(m.end().status.code(), Some(0));
}

#[test]
fn a_reset_stands_at_the_first_instruction() {
    let mut p = psci(9).to_vec();
    p.extend([HVC, 0x1400_0000]);
    let m = Machine::start(&p, &[]);
    let mut g = m.connect();
    for _ in 0..3 {
        g.ok(&format!("Z1,{:x},4", ENTRY + 8));
        g.go("vCont;c", "hwbreak", 1);
        g.ok(&format!("z1,{:x},4", ENTRY + 8));
        g.go("vCont;c", "T05", 1);
        assert_eq!(g.pc(1), ENTRY);
    }
    drop(g);
    std::thread::sleep(Duration::from_millis(100));
    m.signal("TERM");
    assert_eq!(m.end().status.code(), Some(143), "running or standing");
}

#[test]
fn signals_end_a_machine_that_stands() {
    let m = Machine::start(&counters(), &[]);
    m.signal("TERM");
    assert_eq!(m.end().status.code(), Some(143), "before GDB came");
    let m = Machine::start(&counters(), &[]);
    let mut g = m.connect();
    assert_eq!(g.pc(1), ENTRY);
    m.signal("INT");
    assert_eq!(m.end().status.code(), Some(130));
    let mut rest = Vec::new();
    assert_eq!(g.stream.read_to_end(&mut rest).unwrap(), 0, "{rest:?}");
}

#[test]
fn a_vcpu_that_waits_for_the_host_comes_late() {
    // Nobody reads the serial port's output: when the pipe is full, the store does not end.
    let mut m = Machine::start(&[UART, char(b'x'), PUT, 0x17ff_ffff], &[]);
    let mut g = m.connect();
    g.send("vCont;c");
    std::thread::sleep(Duration::from_millis(700));
    g.stream.write_all(&[3]).unwrap();
    assert!(g.answer().starts_with("T02"));
    assert!(g.ask("g").starts_with('E'), "its registers are out of reach");
    let out = m.child.as_mut().and_then(|c| c.stdout.take()).unwrap();
    let reader = std::thread::spawn(move || BufReader::new(out).bytes().take(200_000).count());
    let end = std::time::Instant::now() + PATIENCE;
    while g.ask("g").starts_with('E') {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(g.pc(1) & !0xf, ENTRY);
    g.send("k");
    assert_eq!(m.end().status.code(), Some(0));
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn nonsense_ends_the_session_at_worst() {
    let m = Machine::start(&counters(), &[]);
    for nonsense in [
        &b"$#00$zzzz#00\x03\x03$m,#e1"[..],
        b"$m0,ffffffffffffffff#44",
        b"$Z9,0,0#00$vCont;x:9.9#11$Hgp0.999#22",
        b"\xff\xfe\x00}}}}$$$$####****",
        b"$G00#d7$P999=00#00$p99999999999#00",
    ] {
        let mut s = UnixStream::connect(&m.address).unwrap();
        s.write_all(nonsense).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(s);
    }
    for odd in
        ["p999", "P999=00", "G00", "Hgp1.77", "Hgp1.0", "vCont;s:p1.77", "X0,0:", "T77", "vCont;q", "m"]
    {
        let s = UnixStream::connect(&m.address).unwrap();
        s.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut g = Gdb { stream: Box::new(s) };
        g.send(odd);
        // Refused, ignored, or the end of this session: but not of the machine.
        let _ = g.stream.read(&mut [0; 64]);
    }
    let mut g = m.connect();
    assert!(g.pc(1) >= ENTRY);
    g.send("k");
    assert_eq!(m.end().status.code(), Some(0));
}
