//! Answers that differ only because a feature is not built: by rules on fields and calls, never by hand.

use serde_json::Value;
use ulna_arm_regs::SysReg;
use ulna_arm_regs::feature::{Feat, FeatSet};
use ulna_arm_regs::id::{IdField, IdReg, Raz};
use ulna_kvm_abi::RegId;
use ulna_kvm_abi::reg::{GROUP_CORE, GROUP_SVE, GROUP_SYSREG};

use super::compare::{Line, kind, number};
use super::lab::{Cfg, EL1_32BIT, EL2, SVE};

/// What the recorded host has and this build has not.
pub struct Unbuilt {
    /// vCPU features.
    pub features: u32,
    /// KVM_CAP_ARM_MTE.
    pub mte: bool,
    /// The configurations as they were recorded.
    pub cfgs: Vec<Cfg>,
    /// What the engine executes.
    pub engine: FeatSet,
}

/// Registers of SME, which have no rows: SMPRI_EL1, SMCR_EL1, SMIDR_EL1, SVCR, TPIDR2_EL0.
const SME: [u16; 5] = [0xc094, 0xc096, 0xc806, 0xda12, 0xde85];

/// The system register of an id.
fn sysreg(id: u64) -> Option<SysReg> {
    let id = RegId(id);
    if id.group() == GROUP_SYSREG { SysReg::from_code(id.index()) } else { None }
}

/// The encoding at an index of KVM_ARM_GET_REG_WRITABLE_MASKS (KVM_ARM_FEATURE_ID_RANGE_IDX): op0 3, CRn 0.
fn mask_index(i: u64) -> Option<u16> {
    let op1 = [0, 1, 3].get(i as usize >> 6)?;
    Some((3 << 14 | op1 << 11 | (i >> 3 & 7) << 3 | i & 7) as u16)
}

/// The name under which a missing feature is counted.
fn group(f: Feat) -> String {
    let name = format!("{f:?}");
    for (prefix, group) in [
        ("AA32", "AArch32"),
        ("SVE", "SVE"),
        ("MTE", "MTE"),
        ("SME", "SME"),
        ("EL2", "EL2"),
        ("VHE", "EL2"),
        ("NV", "EL2"),
        ("HCX", "EL2"),
        ("FGT", "EL2"),
        ("ECV", "EL2"),
    ] {
        if name.starts_with(prefix) {
            return group.into();
        }
    }
    name
}

impl Unbuilt {
    /// The first missing feature among vCPU features.
    pub fn of_bits(&self, bits: u32) -> Option<String> {
        let missing = bits & self.features;
        let names = [(EL1_32BIT, "AArch32"), (SVE, "SVE"), (EL2, "EL2")];
        names.iter().find(|n| n.0 & missing != 0).map(|n| n.1.into())
    }

    fn of_cfg(&self, name: &str) -> Option<String> {
        let c = self.cfgs.iter().find(|c| c.name == name)?;
        self.of_bits(c.features).or_else(|| (c.mte && self.mte).then(|| "MTE".into()))
    }

    /// Why the recorded answer `was` cannot be given yet, if an unbuilt feature is the reason; `is` came instead.
    pub fn reason(
        &self,
        line: &Line,
        field: &str,
        was: Option<&Value>,
        is: Option<&Value>,
    ) -> Option<String> {
        let text = |f: &str| line.get(f).and_then(Value::as_str).unwrap_or_default();
        match kind(line) {
            "hasattr" | "firstrun" => self.of_cfg(text("cfg")),
            "early" if text("op").starts_with("sve:") => self.of_bits(SVE),
            "reinit" => self.of_bits(number(line.get("then"))? as u32),
            "cap" => match number(line.get("n"))? {
                93 => self.of_bits(EL1_32BIT),
                170 => self.of_bits(SVE),
                205 => self.mte.then(|| "MTE".into()),
                _ => None,
            },
            "init" => self.of_bits(number(line.get("features")?.get(0))? as u32),
            "masks" => {
                let r = SysReg::from_code(mask_index(number(line.get("index"))?)?)?;
                self.whole(r)
            }
            "cfg" | "idbits" => self.of_cfg(text("cfg")),
            // The usual answer of a whole space.
            "space" if text("id") == "usual" => self.of_cfg(text("cfg")),
            "reglist" | "space" | "coproc" => self.id(text("cfg"), number(line.get("id"))?),
            "reg" => {
                let id = number(line.get("id"))?;
                self.id(text("cfg"), id).or_else(|| self.answer(id, line, field, was, is))
            }
            "xreg" => {
                let r = sysreg(number(line.get("id"))?)?;
                let row = IdReg::of(r)?;
                let f = row.field_at(number(line.get("bit"))? as u32)?;
                ulna_machine::lowered_for(r, f.lsb, u64::MAX).map(group)
            }
            "mrs" => self.register(number(line.get("enc"))? as u16, was, is),
            _ => None,
        }
    }

    /// A register id that only vCPUs with an unbuilt feature have, or have not.
    fn id(&self, cfg: &str, id: u64) -> Option<String> {
        if matches!(cfg, "sve" | "sve-unfinalized" | "aarch32" | "mte" | "el2") {
            return self.of_cfg(cfg).or_else(|| self.of_bits(SVE));
        }
        let recorded = self.cfgs.iter().find(|c| c.name == cfg).map_or(0, |c| c.features);
        let missing = self.of_bits(recorded & SVE);
        match (RegId(id).group(), RegId(id).size()) {
            (GROUP_SVE, _) => missing.or_else(|| self.of_bits(SVE)),
            // The vector registers are listed as SVE's instead.
            (GROUP_CORE, 16) => missing,
            _ => match sysreg(id)?.row().needs {
                Some(f) if !self.engine.has(f) => Some(group(f)),
                _ => None,
            },
        }
    }

    /// An answer about a feature register: all bits in which both differ belong to fields that are lowered.
    fn answer(
        &self,
        id: u64,
        line: &Line,
        field: &str,
        was: Option<&Value>,
        is: Option<&Value>,
    ) -> Option<String> {
        let r = sysreg(id)?;
        if let Some(f) = self.whole(r) {
            return Some(f);
        }
        // What is read back is what was written, where nothing is said about it.
        let written = match field {
            "zero_rb" => Some(0),
            "ones_rb" => Some(u64::MAX),
            _ => None,
        };
        let (old, new) = (number(was).or(written), number(is).or(written));
        let Some(row) = IdReg::of(r) else { return self.fields(r, old?, new?) };
        let host = number(line.get("v"))?;
        let lowered = |f: &&IdField| ulna_machine::lowered_for(r, f.lsb, host).is_some();
        let first = row.fields.iter().find(lowered)?;
        let why = group(ulna_machine::lowered_for(r, first.lsb, host)?);
        if field == "v" || field.ends_with("_rb") {
            return self.fields(r, old?, new?);
        }
        if matches!(field, "acc" | "kept") || field.starts_with("err") {
            let open = row.fields.iter().filter(lowered).fold(0, |m, f| m | f.mask());
            let (was, is) = (number(was).unwrap_or(0), number(is).unwrap_or(0));
            return ((was ^ is) & !open == 0).then_some(why);
        }
        // Whether one certain value is taken.
        Some(why)
    }

    /// A register that is zero as a whole without a feature.
    fn whole(&self, r: SysReg) -> Option<String> {
        match IdReg::of(r)?.raz {
            Raz::UnlessAArch32 if !self.engine.has(Feat::AA32EL0) => Some("AArch32".into()),
            Raz::UnlessSve if !self.engine.has(Feat::SVE) => Some("SVE".into()),
            _ => None,
        }
    }

    /// A system register: every field that differs must be one whose feature the engine lacks.
    pub fn register(&self, enc: u16, was: Option<&Value>, is: Option<&Value>) -> Option<String> {
        if SME.contains(&enc) {
            return (!self.engine.has(Feat::SME)).then(|| "SME".into());
        }
        let r = SysReg::from_code(enc)?;
        if let Some(f) = r.row().needs
            && !self.engine.has(f)
        {
            return Some(group(f));
        }
        self.fields(r, number(was)?, number(is)?)
    }

    /// The same by values.
    pub fn fields(&self, r: SysReg, was: u64, is: u64) -> Option<String> {
        use SysReg as S;
        let differ = was ^ is;
        let n = |first: SysReg| (r as usize).wrapping_sub(first as usize);
        if let Some(id) = IdReg::of(r) {
            if let Some(f) = self.whole(r) {
                return Some(f);
            }
            let mut rest = differ;
            let mut why = None;
            for f in id.fields.iter().filter(|f| f.mask() & differ != 0) {
                why = Some(ulna_machine::lowered_for(r, f.lsb, was)?);
                rest &= !f.mask();
            }
            return if rest == 0 { why.map(group) } else { None };
        }
        // PMCR_EL0.LC reads as one where there is no AArch32; PMEVTYPERn_EL0.NSH is there with EL2.
        if r == S::PMCR_EL0 && differ == 1 << 6 && !self.engine.has(Feat::AA32EL0) {
            return Some("AArch32".into());
        }
        let typer = r == S::PMXEVTYPER_EL0 || r == S::PMCCFILTR_EL0 || n(S::PMEVTYPER0_EL0) < 31;
        (typer && differ == 1 << 27 && !self.engine.has(Feat::EL2)).then(|| "EL2".into())
    }
}
