//! Where a machine's system registers differ from what its ID registers call for.

/// Registers that are missing, and ones that are there beyond the features or although a hypervisor means to trap them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Irregular {
    /// Encodings, in order.
    absent: Vec<u16>,
    /// Encoding, exception level of the read, and the constant it gives; in order.
    extra: Vec<(u16, u8, u64)>,
}

impl Irregular {
    /// By packed encodings; `extra` is (encoding, exception level, value).
    pub fn new(mut absent: Vec<u16>, mut extra: Vec<(u16, u8, u64)>) -> Irregular {
        absent.sort_unstable();
        extra.sort_unstable();
        Irregular { absent, extra }
    }

    /// Is an access to this register UNDEFINED whatever the features say?
    pub fn is_absent(&self, enc: u16) -> bool {
        self.absent.binary_search(&enc).is_ok()
    }

    /// What the machine answers by itself to a read at `el`.
    pub fn extra(&self, enc: u16, el: u8) -> Option<u64> {
        let n = self.extra.binary_search_by_key(&(enc, el), |x| (x.0, x.1)).ok()?;
        self.extra.get(n).map(|x| x.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_found_in_any_order() {
        let i = Irregular::new(vec![9, 3, 7], vec![(0xcf98, 1, 5), (0xcd82, 0, 6)]);
        assert!([3, 7, 9].into_iter().all(|e| i.is_absent(e)) && !i.is_absent(4));
        assert_eq!(i.extra(0xcf98, 1), Some(5));
        assert_eq!(i.extra(0xcf98, 0), None);
        assert_eq!(i.extra(0xcd82, 0), Some(6));
        assert_eq!(i.extra(0xcd82, 1), None);
        assert_eq!(i.extra(0xcd83, 1), None);
    }
}
