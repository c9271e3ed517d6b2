//! Live moves with one fault each: real processes, real kills, at every place of the conversation between the two sides.
//! Afterwards exactly one side runs the guest, or none where the side that had it was killed, and what was printed is one
//! alphabet. `ULNA_FAULTS=2000 cargo test -p ulna --test move_faults -- --nocapture` runs that many; by default a few.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// As in `moves.rs`: the alphabet, a letter every few milliseconds.
const ALPHABET: [u32; 11] = [
    0xd2a1_2001,
    0x5280_0820,
    0xb900_0020,
    0x1100_0400,
    0x7101_6c1f,
    0x5400_0041,
    0x5280_0820,
    0xd2a0_0082,
    0xf100_0442,
    0x54ff_ffe1,
    0x17ff_fff8,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Both ends of the connection are closed.
    Cut,
    /// A bit of the next bytes is turned.
    Corrupt,
    /// `kill -9`.
    KillSource,
    KillDestination,
}

/// Where: after so many bytes in this direction.
#[derive(Clone, Copy, Debug)]
struct At {
    forward: bool,
    bytes: u64,
}

/// Somebody in the middle who does the first connection harm.
struct Middle {
    address: String,
    forward: Arc<AtomicU64>,
    backward: Arc<AtomicU64>,
}

struct Harm {
    fault: Fault,
    at: At,
    done: AtomicBool,
    kill: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Set when nobody is to be let in any more.
    closed: AtomicBool,
}

fn pump(
    mut from: TcpStream,
    mut to: TcpStream,
    count: Arc<AtomicU64>,
    forward: bool,
    harm: Option<Arc<Harm>>,
) {
    let mut b = [0u8; 4096];
    while let Ok(n) = from.read(&mut b) {
        if n == 0 {
            break;
        }
        let before = count.fetch_add(n as u64, Ordering::SeqCst);
        let hit = harm.as_ref().filter(|h| h.at.forward == forward && before + n as u64 > h.at.bytes);
        if let Some(h) = hit
            && !h.done.swap(true, Ordering::SeqCst)
        {
            let at = (h.at.bytes.saturating_sub(before) as usize).min(n - 1);
            if h.fault == Fault::Corrupt {
                b[at] ^= 0x20;
            } else {
                // What a process wrote before it was killed still arrives.
                let arrives = if h.fault == Fault::KillDestination && !forward { n } else { at };
                let _ = to.write_all(&b[..arrives]);
                if h.fault == Fault::KillDestination {
                    h.closed.store(true, Ordering::SeqCst);
                }
                if let Some(kill) = h.kill.lock().unwrap().take() {
                    kill();
                }
                break;
            }
        }
        if to.write_all(&b[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}

impl Middle {
    fn new(to: String, harm: Option<Arc<Harm>>) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        listener.set_nonblocking(true).unwrap();
        let m = Middle { address, forward: Arc::default(), backward: Arc::default() };
        let (f, b) = (m.forward.clone(), m.backward.clone());
        std::thread::spawn(move || {
            let mut first = true;
            let end = Instant::now() + Duration::from_secs(60);
            while Instant::now() < end && !harm.as_ref().is_some_and(|h| h.closed.load(Ordering::SeqCst)) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                let Ok(onward) = TcpStream::connect(&to) else { continue };
                let harm = harm.clone().filter(|_| std::mem::take(&mut first));
                let (s, o, f, h) =
                    (stream.try_clone().unwrap(), onward.try_clone().unwrap(), f.clone(), harm.clone());
                std::thread::spawn(move || pump(s, o, f, true, h));
                let b = b.clone();
                std::thread::spawn(move || pump(onward, stream, b, false, harm));
            }
        });
        m
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ulna(dir: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(assert_cmd::cargo::cargo_bin!("ulna"));
    c.args(args).env("XDG_RUNTIME_DIR", dir).current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null());
    c
}

fn printed(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn prints(path: &Path, letters: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while printed(path).len() < letters {
        assert!(Instant::now() < end, "{}: nothing more", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends SIGKILL.
fn killer(pid: u32) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
    })
}

struct Seen {
    source: bool,
    destination: bool,
    said: String,
    forward: u64,
    backward: u64,
}

/// One move. Who runs the guest afterwards?
fn one_move(dir: &Path, fault: Option<(Fault, At)>) -> Seen {
    let out: [PathBuf; 2] = ["a.out", "b.out"].map(|n| dir.join(n));
    out.iter().for_each(|o| drop(std::fs::remove_file(o)));
    let run = ["run", "--kernel", "alphabet", "--kernel-format", "raw", "--memory", "16M", "--name", "a"];
    let source = Process(ulna(dir, &[&run[..], &["--serial", "file=a.out"]].concat()).spawn().unwrap());
    let receive = ["receive", "--listen", "127.0.0.1:0", "--name", "b", "--serial", "file=b.out"];
    let mut destination = Process(ulna(dir, &receive).stderr(Stdio::piped()).spawn().unwrap());
    let mut errors = BufReader::new(destination.0.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
    let at = line.trim().rsplit(' ').next().unwrap().to_owned();
    prints(&out[0], 2);
    let harm = fault.map(|(fault, at)| {
        let kill = match fault {
            Fault::KillSource => Some(killer(source.0.id())),
            Fault::KillDestination => Some(killer(destination.0.id())),
            _ => None,
        };
        let (done, closed) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Harm { fault, at, done, kill: Mutex::new(kill), closed })
    });
    let middle = Middle::new(at, harm);
    let (tx, rx) = channel();
    let mut c = ulna(dir, &["migrate", "a", &middle.address, "--json"]);
    c.stderr(Stdio::piped()).stdout(Stdio::piped());
    std::thread::spawn(move || tx.send(c.output().unwrap()));
    let o = rx.recv_timeout(Duration::from_secs(50)).expect("the move comes to an end");
    let said = String::from_utf8_lossy(&o.stderr).into_owned() + &String::from_utf8_lossy(&o.stdout);
    let lengths = || [printed(&out[0]).len(), printed(&out[1]).len()];
    std::thread::sleep(Duration::from_millis(30));
    let before = lengths();
    // Letters come every few milliseconds on a quiet machine.
    let end = Instant::now() + Duration::from_millis(1500);
    while Instant::now() < end && lengths() == before {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_millis(50));
    let after = lengths();
    let (source, destination) = (after[0] > before[0], after[1] > before[1]);
    // What was printed, in order: one alphabet, without a letter twice.
    let text = printed(&out[0]) + &printed(&out[1]);
    for (n, c) in text.bytes().enumerate() {
        assert_eq!(c, b'A' + (n % 26) as u8, "letter {n} after {fault:?}: {text}");
    }
    let (forward, backward) = (middle.forward.load(Ordering::SeqCst), middle.backward.load(Ordering::SeqCst));
    Seen { source, destination, said, forward, backward }
}

#[test]
fn one_fault_at_any_place_leaves_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let words: Vec<u8> = ALPHABET.iter().flat_map(|w| w.to_le_bytes()).collect();
    std::fs::write(dir.path().join("alphabet"), words).unwrap();
    let whole = one_move(dir.path(), None);
    assert!(!whole.source && whole.destination, "{}", whole.said);
    let count: u64 = std::env::var("ULNA_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let mut tally: BTreeMap<(Fault, bool, String, &str), u64> = BTreeMap::new();
    let kinds = [Fault::Cut, Fault::Corrupt, Fault::KillSource, Fault::KillDestination];
    // A quarter of the faults hits the destination's few answers, where the hand-over is.
    for n in 0..count {
        let fault = kinds[(n % 4) as usize];
        let forward = n / 4 % 2 == 0;
        let all = if forward { whole.forward } else { whole.backward };
        // Spread by the golden ratio; the last bytes of the forward direction are state and Go.
        let share = (n as f64 * 0.618_033_988_75).fract();
        let bytes = (all as f64 * share) as u64;
        let at = At { forward, bytes: bytes.min(all.saturating_sub(2)) };
        let seen = one_move(dir.path(), Some((fault, at)));
        let last = seen.said.lines().rev().find_map(|l| l.split("\"phase\":\"").nth(1)?.split('"').next());
        let phase = last.unwrap_or("?").to_owned();
        let who = match (seen.source, seen.destination) {
            (true, true) => panic!("both run after {fault:?} {at:?}: {}", seen.said),
            (true, false) => "source",
            (false, true) => "destination",
            (false, false) => "nobody",
        };
        let killed = matches!(fault, Fault::KillSource | Fault::KillDestination);
        assert!(who != "nobody" || killed, "nobody runs after {fault:?} {at:?}: {}", seen.said);
        if fault == Fault::KillSource {
            assert_ne!(who, "source");
        }
        if fault == Fault::KillDestination {
            assert_ne!(who, "destination");
            let was_told = seen.said.contains("\"outcome\":\"moved\"");
            assert!(who == "source" || was_told, "{at:?}: {}", seen.said);
        }
        *tally.entry((fault, forward, phase, who)).or_default() += 1;
    }
    for ((fault, forward, phase, who), n) in tally {
        let way = if forward { "to the destination" } else { "to the source" };
        println!("{fault:?} on the way {way}, {phase}: {who} runs ({n})");
    }
    println!("{count} faults");
}
