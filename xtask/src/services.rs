//! What Linux makes of firmware services, each on and off, and of vCPUs of two kinds: stories of `cargo xtask linux`.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ulna_vmm::Services;
use ulna_vmm::services::SERVICES;

use crate::linux::{Args, Guest, ctl_output, power_off, told};

/// What a guest's log and sysfs show.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Facts {
    /// PSCI's version as the log has it.
    psci: String,
    /// SMCCC's version as the log has it.
    smccc: bool,
    /// `smccc_trng` is one of the random number generators, and gives numbers once it is chosen.
    trng: bool,
    /// There is a PTP clock, of that name.
    ptp: bool,
    /// The log tells of stolen time.
    pvtime: bool,
    /// The system can be suspended to RAM.
    suspend: bool,
    /// SDEI's version as the log has it.
    sdei: String,
}

/// A boot, and what it shows.
fn facts(a: &Args, services: &str) -> Result<Facts> {
    let more = if services.is_empty() { vec![] } else { vec!["--services", services] };
    let mut g = Guest::start(a, "shell", &[&["--memory", "512M"][..], &more].concat())?;
    g.wait("# ", 90)?;
    let log = g.shell("dmesg")?;
    let after = |before: &str| {
        let line = log.lines().find_map(|l| l.split_once(before)).map(|l| l.1);
        line.and_then(|l| l.split(' ').next()).unwrap_or_default().to_owned()
    };
    let psci = if log.contains("Using PSCI v0.1 Function IDs from DT") {
        "0.1".into()
    } else {
        after("psci: PSCIv")
    };
    let rng = g.shell(
        "cd /sys/class/misc/hw_random; cat rng_available; echo smccc_trng >rng_current; cat rng_current; \
         busybox head -c 64 /dev/hwrng | wc -c; cd /",
    )?;
    let rng: Vec<&str> = rng.lines().filter(|l| !l.is_empty() && !l.contains("write error")).collect();
    let trng = rng.first().is_some_and(|l| l.split(' ').any(|n| n == "smccc_trng"));
    if trng {
        ensure!(
            rng.get(1..3) == Some(&["smccc_trng", "64"]),
            "--services {services}: the TRNG's numbers: {rng:?}"
        );
    }
    let ptp = g.shell("cat /sys/class/ptp/ptp0/clock_name; ls /dev/ptp0")?;
    let ptp = [ptp.contains("KVM virtual PTP"), ptp.lines().any(|l| l == "/dev/ptp0")];
    ensure!(ptp[0] == ptp[1], "--services {services}: a PTP clock with a name and a device: {ptp:?}");
    let sleep = g.shell("cat /sys/power/mem_sleep")?;
    let facts = Facts {
        smccc: log.contains("psci: SMC Calling Convention v1."),
        trng,
        ptp: ptp[0],
        pvtime: log.contains("arm-pv: using stolen time PV"),
        suspend: sleep.contains("deep"),
        sdei: after("sdei: SDEIv"),
        psci,
    };
    // PSCI 0.1 cannot power off.
    if facts.psci != "0.1" {
        power_off(&mut g)?;
    }
    Ok(facts)
}

/// What Linux should show of these services: the default, and what each word changes.
fn expected(services: &Services) -> Facts {
    let is = |name, word| services.word(name) == Some(word);
    let psci = services.word("psci").unwrap_or("1.1").to_owned();
    // Linux looks for everything else by SMCCC 1.1, which it finds by PSCI 1.0.
    let smccc = psci.starts_with('1');
    Facts {
        smccc,
        trng: smccc && !is("trng", "off"),
        ptp: smccc && !is("ptp", "off") && !is("kvm", "off"),
        pvtime: is("pvtime", "on"),
        suspend: is("suspend", "on"),
        sdei: services.word("sdei").filter(|w| *w != "off").unwrap_or_default().to_owned(),
        psci,
    }
}

/// Each word of each service, alone and with others.
const CASES: [&str; 14] = [
    "",
    "psci=1.3,trng=on,pvtime=on,kvm=on,ptp=on,suspend=on,sdei=1.1",
    "psci=1.0,trng=off,pvtime=off,ptp=off,suspend=off,sdei=off",
    "trng=off",
    "ptp=off",
    "kvm=off",
    "pvtime=on",
    "suspend=on",
    "sdei=1.0",
    "sdei=1.1",
    "psci=1.2,trng=off",
    "psci=1.1,ptp=off",
    "psci=0.2",
    "psci=0.1",
];

/// Each service on and off, as the kernel's log and /sys show it.
pub fn on_and_off(a: &Args) -> Result<()> {
    for service in SERVICES {
        for choice in service.choices {
            let word = format!("{}={}", service.name, choice.word);
            ensure!(CASES.iter().any(|c| c.split(',').any(|w| w == word)), "no guest starts with {word}");
        }
    }
    for text in CASES {
        let services = if text.is_empty() { Ok(Services::default()) } else { text.parse() };
        let want = expected(&services.map_err(anyhow::Error::msg)?);
        let got = facts(a, text)?;
        ensure!(got == want, "--services {text}: Linux shows\n{got:#?}\nnot\n{want:#?}");
    }
    Ok(())
}

/// More busy vCPUs than the host has CPUs: the guest is told what they lack.
pub fn stolen_time(a: &Args) -> Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()) * 2;
    let mut stolen = [0; 2];
    for (n, word) in ["on", "off"].into_iter().enumerate() {
        let services = format!("pvtime={word}");
        let cpus = cpus.to_string();
        let more = ["--memory", "512M", "--cpus", &cpus, "--services", &services];
        let mut g = Guest::start(a, "shell", &more)?;
        g.wait("# ", 90)?;
        let busy = format!(
            "for i in $(seq {cpus}); do (while :; do :; done) & done; sleep 4; grep '^cpu ' /proc/stat"
        );
        let text = g.shell(&busy)?;
        let line = text.lines().find(|l| l.starts_with("cpu ")).context("no cpu line in /proc/stat")?;
        stolen[n] = line.split_whitespace().nth(8).context("no steal time")?.parse::<u64>()?;
        power_off(&mut g)?;
    }
    ensure!(stolen[0] > 20 && stolen[1] == 0, "stolen on and off, in 1/100 s: {stolen:?}");
    Ok(())
}

/// H9: two MIDRs in Linux's sysfs, and one set of features.
pub fn identities(a: &Args) -> Result<()> {
    let more = ["--cpus", "4", "--memory", "512M", "--identity", "a72:2,a53:2"];
    let mut g = Guest::start(a, "shell", &more)?;
    g.wait("# ", 90)?;
    let midrs = g.shell("cat /sys/devices/system/cpu/cpu[0-3]/regs/identification/midr_el1")?;
    let want = ["0x00000000410fd083", "0x00000000410fd083", "0x00000000410fd034", "0x00000000410fd034"];
    ensure!(midrs.split_whitespace().eq(want), "MIDRs: {midrs}");
    let features = g.shell(
        "grep ^Features /proc/cpuinfo | sort -u | wc -l; grep 'CPU part' /proc/cpuinfo | sort -u | wc -l",
    )?;
    ensure!(features.split_whitespace().eq(["1", "2"]), "kinds of features, of CPUs: {features}");
    let log = g.shell("dmesg | grep -c 'SANITY CHECK\\|Unsupported CPU feature'")?;
    ensure!(log.trim() == "0", "Linux finds CPUs that do not fit together");
    power_off(&mut g)
}

/// Has Linux sleep, and waits until it does. What it prints on waking is still to come.
pub fn fall_asleep(g: &mut Guest, a: &Args, vm: &str) -> Result<()> {
    g.type_line("echo mem >/sys/power/state; echo a''wake")?;
    let end = Instant::now() + Duration::from_secs(30);
    while !ctl_output(a, &[vm, "info"])?.contains("state     suspended") {
        ensure!(Instant::now() < end, "Linux does not fall asleep");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Linux sleeps until its clock's alarm, or until somebody wakes it; all its CPUs are there afterwards.
pub fn sleep(a: &Args) -> Result<()> {
    let vm = format!("xtask-sleep-{}", std::process::id());
    let more = ["--cpus", "4", "--memory", "512M", "--services", "suspend=on", "--name", &vm];
    let mut g = Guest::start(a, "shell", &more)?;
    g.wait("# ", 90)?;
    let slept = Instant::now();
    let alarm = "cd /sys/class/rtc/rtc0; echo +3 >wakealarm; echo mem >/sys/power/state";
    let count =
        "cat /sys/devices/system/cpu/online /sys/power/suspend_stats/success /sys/power/suspend_stats/fail";
    let out = g.shell(&format!("{alarm}; {count}"))?;
    ensure!(out.split_whitespace().eq(["0-3", "1", "0"]), "CPUs online, times asleep, failures: {out}");
    ensure!(slept.elapsed() > Duration::from_secs(1), "it did not sleep for its alarm's time");
    fall_asleep(&mut g, a, &vm)?;
    let used = |g: &Guest| -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", g.child.id()))?;
        // utime and stime, the 14th and 15th field; the second ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields.get(11).context("stat")?.parse::<u64>()?
            + fields.get(12).context("stat")?.parse::<u64>()?)
    };
    let before = used(&g)?;
    std::thread::sleep(Duration::from_secs(2));
    let ticks = used(&g)? - before;
    ensure!(ticks < 20, "a guest that sleeps used {ticks} of 200 ticks");
    told(a, &[&vm, "resume"])?;
    g.wait("awake", 30)?;
    let out = g.shell(count)?;
    ensure!(out.split_whitespace().eq(["0-3", "2", "0"]), "CPUs online, times asleep, failures: {out}");
    let log = g.shell("dmesg | grep -c 'WARNING\\|BUG\\|stall'")?;
    ensure!(log.trim() == "0", "Linux complains");
    power_off(&mut g)
}

/// What `ulna ctl` prints.
pub fn printed(ulna: &std::path::Path, args: &[&str]) -> Result<String> {
    let out = Command::new(ulna).arg("ctl").args(args).output().context("ulna ctl")?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
