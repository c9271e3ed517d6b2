//! The profiles embedded in the program.

use crate::error::ProfileError;
use crate::file;
use crate::model::Profile;

macro_rules! builtin {
    ($($name:literal)+) => {
        const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../profiles/", $name, ".toml"))),)+];
    };
}

builtin! {
    "max" "max-qarma5" "altra" "thunderx2" "graviton2" "graviton3" "graviton4" "kunpeng920" "rpi4" "rpi5"
    "a53" "a57" "a72" "a76" "n1" "v1"
    "qemu-cortex-a57" "qemu-cortex-a72" "qemu-cortex-a76" "qemu-neoverse-n1" "qemu-max" "qemu-max-mte"
}

/// The names of the built-in profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILTIN.iter().map(|(n, _)| *n)
}

impl Profile {
    /// A built-in profile by name.
    ///
    /// ```
    /// let p = ulna_profile::Profile::builtin("altra")?;
    /// assert_eq!(p.reg(ulna_arm_regs::SysReg::MIDR_EL1), 0x413f_d0c1);
    /// # Ok::<(), ulna_profile::ProfileError>(())
    /// ```
    pub fn builtin(name: &str) -> Result<Profile, ProfileError> {
        match BUILTIN.iter().find(|(n, _)| *n == name) {
            Some((n, text)) => file::parse(text, &format!("profiles/{n}.toml")),
            None => Err(ProfileError::Unknown { name: name.to_owned() }),
        }
    }

    /// A profile from the text of a file; `file` names it in errors.
    pub fn parse(text: &str, file: &str) -> Result<Profile, ProfileError> {
        file::parse(text, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KernelLevel, Kind};
    use proptest::prelude::*;
    use ulna_arm_regs::SysReg;

    #[test]
    fn every_profile_loads_and_is_called_like_its_file() {
        for n in names() {
            let p = Profile::builtin(n).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(p.name, n);
            assert!(p.kernel >= KernelLevel { major: 6, minor: 12 });
            assert!(p.regs.values().all(|v| v.source.text.len() > 5), "{n}: a source says nothing");
        }
    }

    #[test]
    fn every_file_of_the_directory_is_embedded() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../profiles");
        let mut files = 0;
        for e in std::fs::read_dir(dir).unwrap() {
            let f = e.unwrap().file_name().into_string().unwrap();
            if let Some(n) = f.strip_suffix(".toml") {
                assert!(names().any(|b| b == n), "{f} is not embedded");
                files += 1;
            }
        }
        assert_eq!(files, names().count());
    }

    #[test]
    fn unmeasured_values_say_so() {
        let p = Profile::builtin("thunderx2").unwrap();
        assert!(p.inferred().any(|(r, _)| r == SysReg::ID_AA64MMFR1_EL1));
        assert_eq!(p.regs[&SysReg::MIDR_EL1].source.kind, Kind::HwRaw);
    }

    #[test]
    fn errors_are_one_line_with_file_and_key() {
        let good = BUILTIN[0].1;
        let cases = [
            (
                good.replace("MIDR_EL1", "MIDDR_EL1"),
                "x.toml: regs[0].values.MIDDR_EL1: no such system register",
            ),
            (good.replace("hz =", "hertz ="), "x.toml:"),
            (good.replace("id_bits = 24", "id_bits = 17"), "x.toml: gic.id_bits: must be 16 or 24"),
            (
                good.replace("kernel = \"6.12\"", "kernel = \"six\""),
                "x.toml: kernel: \"six\" is not MAJOR.MINOR",
            ),
            ("name = ".to_owned(), "x.toml:1: "),
        ];
        for (text, want) in cases {
            let e = Profile::parse(&text, "x.toml").unwrap_err().to_string();
            assert!(e.starts_with(want) && !e.contains('\n'), "{e}");
        }
        let e = Profile::builtin("nonesuch").unwrap_err().to_string();
        assert!(e.contains("\"nonesuch\"") && e.contains("altra"));
    }

    proptest! {
        #[test]
        fn damaged_files_are_refused_or_read_but_never_panic(at in 0usize..4000, with in any::<char>()) {
            let mut t: Vec<char> = BUILTIN[0].1.chars().collect();
            let i = at % t.len();
            t[i] = with;
            let _ = Profile::parse(&t.into_iter().collect::<String>(), "x.toml").map_err(|e| e.to_string());
        }
    }
}
