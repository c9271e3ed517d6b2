//! Is an outcome as expected?

use serde::Serialize;

use crate::recorded::{Outcome, Run};
use crate::start::Ended;

/// What is thought of an outcome.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "verdict", content = "why", rename_all = "lowercase")]
pub enum Verdict {
    /// As on the real KVM, or better.
    Expected(String),
    /// Not so.
    Unexpected(String),
    /// Not started.
    Out(String),
}

impl Verdict {
    /// Does it count as a failure of this program?
    pub fn is_bad(&self) -> bool {
        matches!(self, Verdict::Unexpected(_))
    }

    /// The sentence.
    pub fn why(&self) -> &str {
        match self {
            Verdict::Expected(s) | Verdict::Unexpected(s) | Verdict::Out(s) => s,
        }
    }
}

/// What is compared with what.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// The recorded hosts, the nearest first.
    pub nearest: &'a [&'a str],
    /// What the host that is played has not, of what tests need.
    pub lacks: &'a [&'a str],
}

/// The verdict on how a start ended, against what these hosts did.
pub fn judge(run: &Run, host: Host<'_>, ended: &Ended) -> Verdict {
    let good = |s: &str| Verdict::Expected(s.to_owned());
    let bad = |s: String| Verdict::Unexpected(s);
    let real = run.real(host.nearest);
    let at = ended.place.as_deref().unwrap_or("somewhere");
    match (ended.outcome, real.map(|r| r.1.outcome)) {
        (Outcome::Pass, Some(Outcome::Pass | Outcome::Skip) | None) => good(""),
        (Outcome::Pass, Some(_)) => good("better than on the real KVM"),
        (Outcome::Skip, Some(Outcome::Skip)) => good(""),
        (Outcome::Skip, _) if run.needs.iter().any(|n| host.lacks.contains(&n.as_str())) => {
            good("the host lacks what it needs")
        }
        (Outcome::Skip, _) => match (&run.may_skip, real) {
            (Some(what), _) => good(&format!("{what} is not built")),
            (None, Some((host, _))) => bad(format!("skipped, but not on {host}")),
            (None, None) => good("not recorded"),
        },
        (Outcome::Fail, _) => match &run.fails_at {
            Some(k) if ended.is_at(&k.place) => good(&format!("fails there too, at {}: {}", k.place, k.why)),
            Some(k) => bad(format!("fails at {at}; it may fail only at {}", k.place)),
            None => bad(format!("fails at {at}")),
        },
        (Outcome::Stopped, Some(Outcome::Stopped)) => good("not seen to end there either"),
        (Outcome::Stopped, _) => bad("did not end in time".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recorded::{Knows, Real};

    const HOST: Host<'_> = Host { nearest: &["max"], lacks: &["GICv3"] };

    fn ended(outcome: Outcome, place: Option<&str>) -> Ended {
        Ended {
            outcome,
            seconds: 1.0,
            place: place.map(Into::into),
            status: String::new(),
            output: String::new(),
        }
    }

    #[test]
    fn only_what_the_record_allows_is_expected() {
        let mut r = Run::unknown("t".into());
        let verdict = |r: &Run, o, at| judge(r, HOST, &ended(o, at)).is_bad();
        assert!(!verdict(&r, Outcome::Pass, None) && verdict(&r, Outcome::Fail, None));
        for (real, pass, skip, stopped) in [
            (Outcome::Pass, false, true, true),
            (Outcome::Skip, false, false, true),
            (Outcome::Stopped, false, true, false),
        ] {
            r.real.insert("max".into(), Real { outcome: real, seconds: 1.0 });
            let bad = [Outcome::Pass, Outcome::Skip, Outcome::Stopped].map(|o| verdict(&r, o, None));
            assert_eq!(bad, [pass, skip, stopped], "{real}");
            assert!(verdict(&r, Outcome::Fail, Some("lib/kvm_util.c:724")));
        }
        r.may_skip = Some("AArch32".into());
        r.real.insert("max".into(), Real { outcome: Outcome::Pass, seconds: 1.0 });
        assert!(!verdict(&r, Outcome::Skip, None));
        for (needs, bad) in [("GICv3", false), ("PMU", true)] {
            (r.may_skip, r.needs) = (None, vec![needs.into()]);
            assert_eq!(verdict(&r, Outcome::Skip, None), bad);
        }
    }

    #[test]
    fn a_known_failure_is_known_by_its_place() {
        let mut r = Run::unknown("t".into());
        r.real.insert("max".into(), Real { outcome: Outcome::Fail, seconds: 1.0 });
        r.fails_at = Some(Knows { place: "kvm_util.c:724".into(), why: "EIO".into() });
        let verdict = |o, at| judge(&r, HOST, &ended(o, at));
        assert!(!verdict(Outcome::Fail, Some("lib/kvm_util.c:724")).is_bad());
        assert!(!verdict(Outcome::Pass, None).is_bad());
        for at in [None, Some("lib/kvm_util.c:7240"), Some("other_kvm_util.c:724"), Some("vgic_init.c:3")] {
            assert!(verdict(Outcome::Fail, at).is_bad(), "{at:?}");
        }
        assert!(verdict(Outcome::Skip, None).is_bad());
        assert_eq!(
            verdict(Outcome::Fail, Some("a.c:1")).why(),
            "fails at a.c:1; it may fail only at kvm_util.c:724"
        );
    }
}
