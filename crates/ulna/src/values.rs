//! How values on the command line are written.

use std::path::PathBuf;
use ulna_profile::KernelLevel;
use ulna_vmm::identity::Cluster;
use ulna_vmm::{Disk, Net, Serial};

/// A size: a number with K, M, G or T behind it; MiB without.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "K" | "k" => 10,
        "" | "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        unit => return Err(format!("unknown unit {unit:?}; sizes are like 512M, 2G")),
    };
    let number: u64 = digits.parse().map_err(|_| "sizes are like 512M, 2G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than 64 bits".into())
}

/// A number: decimal, or hexadecimal behind 0x; `_` between digits.
pub fn number(text: &str) -> Result<u128, String> {
    let plain = text.replace('_', "");
    let parsed = match plain.strip_prefix("0x").or_else(|| plain.strip_prefix("0X")) {
        Some(hex) => u128::from_str_radix(hex, 16),
        None => plain.parse(),
    };
    parsed.map_err(|_| "numbers are like 42, 0x2a".into())
}

/// `MAJOR.MINOR` of a kernel.
pub fn kernel(text: &str) -> Result<KernelLevel, String> {
    let parts = text.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (major, minor) = parts.ok_or("kernels are like 6.12")?;
    Ok(KernelLevel { major, minor })
}

/// `WHO[:COUNT]`.
pub fn cluster(text: &str) -> Result<Cluster<String>, String> {
    let (who, count) = match text.rsplit_once(':') {
        Some((who, count)) => {
            (who, Some(count.parse().map_err(|_| format!("{count:?} is no number of vCPUs"))?))
        }
        None => (text, None),
    };
    if who.is_empty() {
        Err("clusters are like a72:4,a53:2".into())
    } else {
        Ok(Cluster { who: who.into(), count })
    }
}

/// `path=F[,readonly]`.
pub fn disk(text: &str) -> Result<Disk, String> {
    let mut path = None;
    let mut readonly = false;
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("path", p)) if !p.is_empty() && path.is_none() => path = Some(PathBuf::from(p)),
            None if part == "readonly" => readonly = true,
            _ => return Err(format!("{part:?} is none of path=F, readonly")),
        }
    }
    Ok(Disk { path: path.ok_or("path=F is missing")?, readonly })
}

/// `user`, `tap=IF`, `none`.
pub fn net(text: &str) -> Result<Net, String> {
    match text.split_once('=') {
        None if text == "user" => Ok(Net::User),
        None if text == "none" => Ok(Net::None),
        Some(("tap", name)) if !name.is_empty() => Ok(Net::Tap(name.into())),
        _ => Err("one of user, tap=IF, none".into()),
    }
}

/// `stdio`, `file=F`, `pty`, `none`.
pub fn serial(text: &str) -> Result<Serial, String> {
    match text.split_once('=') {
        None if text == "stdio" => Ok(Serial::Stdio),
        None if text == "pty" => Ok(Serial::Pty),
        None if text == "none" => Ok(Serial::None),
        Some(("file", path)) if !path.is_empty() => Ok(Serial::File(path.into())),
        _ => Err("one of stdio, file=F, pty, none".into()),
    }
}

/// A name that is also good as a file's.
pub fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 64 || !text.chars().all(good) || text.starts_with('.') {
        return Err("1 to 64 letters, digits, '-', '_' or '.', not starting with '.'".into());
    }
    Ok(text.into())
}

/// What `--control` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Control {
    /// No socket.
    None,
    /// Here.
    Path(PathBuf),
}

/// `none`, or a path, which has a slash.
pub fn control(text: &str) -> Result<Control, String> {
    match text {
        "none" => Ok(Control::None),
        path if path.contains('/') => Ok(Control::Path(path.into())),
        _ => Err("none, or a path with a slash like ./vm.sock".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("64"), Ok(64 << 20));
        assert_eq!(size("2g"), Ok(2 << 30));
        assert_eq!(size("1T"), Ok(1 << 40));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "M", "1.5G", "-1", "12Q", "99999999999T", "1 G", "µ"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number("42"), Ok(42));
        assert_eq!(number("0x6030_0000_0013_c000"), Ok(0x6030_0000_0013_c000));
        for bad in ["", "0x", "x1", "-1", "1.0", "0x1_0000_0000_0000_0000_0000_0000_0000_0000"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn disks_networks_ports() {
        assert_eq!(disk("path=a b,readonly"), Ok(Disk { path: "a b".into(), readonly: true }));
        assert_eq!(disk("path=x"), Ok(Disk { path: "x".into(), readonly: false }));
        for bad in ["", "x", "readonly", "path=", "path=a,path=b", "path=a,ro"] {
            assert!(disk(bad).is_err(), "{bad}");
        }
        assert_eq!(net("tap=tap0"), Ok(Net::Tap("tap0".into())));
        assert!(net("tap=").is_err() && net("bridge").is_err());
        assert_eq!(serial("file=out=1"), Ok(Serial::File("out=1".into())));
        assert!(serial("file").is_err() && serial("tcp").is_err());
        assert_eq!(control("./x"), Ok(Control::Path("./x".into())));
        assert!(control("x").is_err() && control("").is_err());
        assert!(name("a-b_c.1").is_ok() && name("../x").is_err() && name("").is_err() && name(".x").is_err());
    }
}
