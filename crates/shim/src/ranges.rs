//! What the program has mapped where: pure bookkeeping.

/// What is at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Private memory of nobody else.
    Anonymous,
    /// A private copy of a file, or something that libc mapped.
    Private,
    /// A file that can be shared: its number, and where in it.
    File {
        id: u32,
        offset: u64,
        /// It took the place of anonymous memory.
        converted: bool,
    },
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub start: u64,
    pub end: u64,
    pub prot: i32,
    pub what: What,
}

impl Region {
    /// The part of it that is in `start..end`.
    fn within(&self, start: u64, end: u64) -> Option<Region> {
        let (s, e) = (self.start.max(start), self.end.min(end));
        if s >= e {
            return None;
        }
        let what = match self.what {
            What::File { id, offset, converted } => {
                What::File { id, offset: offset + (s - self.start), converted }
            }
            w => w,
        };
        Some(Region { start: s, end: e, prot: self.prot, what })
    }
}

/// Regions by address, apart from each other.
#[derive(Default)]
pub struct Ranges(Vec<Region>);

impl Ranges {
    pub const fn new() -> Ranges {
        Ranges(Vec::new())
    }

    fn first(&self, addr: u64) -> usize {
        self.0.partition_point(|r| r.end <= addr)
    }

    /// Those that overlap `start..end`, whole.
    pub fn over(&self, start: u64, end: u64) -> &[Region] {
        let first = self.first(start);
        let n = self.0[first..].partition_point(|r| r.start < end);
        &self.0[first..first + n]
    }

    /// Takes `start..end` out, and returns what was there.
    pub fn cut(&mut self, start: u64, end: u64) -> Vec<Region> {
        if start >= end {
            return Vec::new();
        }
        let first = self.first(start);
        let over = self.over(start, end);
        let (n, mut keep) = (over.len(), Vec::new());
        let gone = over.iter().filter_map(|r| r.within(start, end)).collect();
        for r in over {
            keep.extend(r.within(0, start));
            keep.extend(r.within(end, u64::MAX));
        }
        if n > 0 {
            self.0.splice(first..first + n, keep);
        }
        gone
    }

    /// Puts a region in, in place of what was there; returns that.
    pub fn put(&mut self, r: Region) -> Vec<Region> {
        let gone = self.cut(r.start, r.end);
        let at = self.first(r.start);
        if r.start < r.end {
            self.0.insert(at, r);
        }
        gone
    }

    /// Another protection.
    pub fn protect(&mut self, start: u64, end: u64, prot: i32) {
        if self.over(start, end).iter().all(|r| r.prot == prot) {
            return;
        }
        for r in self.cut(start, end) {
            self.put(Region { prot, ..r });
        }
    }

    /// Is a file mapped anywhere?
    pub fn uses(&self, file: u32) -> bool {
        self.0.iter().any(|r| matches!(r.what, What::File { id, .. } if id == file))
    }

    /// What of `start..end` is in no region.
    pub fn gaps(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        for r in self.over(start, end) {
            if r.start > at {
                gaps.push((at, r.start));
            }
            at = r.end;
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(start: u64, end: u64, offset: u64) -> Region {
        Region { start, end, prot: 3, what: What::File { id: 1, offset, converted: true } }
    }

    #[test]
    fn a_cut_leaves_both_sides_with_their_offsets() {
        let mut r = Ranges::default();
        r.put(file(0x1000, 0x9000, 0x100_0000));
        assert_eq!(r.cut(0x3000, 0x5000), [file(0x3000, 0x5000, 0x100_2000)]);
        assert_eq!(r.over(0, 0x10000), [file(0x1000, 0x3000, 0x100_0000), file(0x5000, 0x9000, 0x100_4000)]);
        assert_eq!(r.gaps(0, 0xa000), [(0, 0x1000), (0x3000, 0x5000), (0x9000, 0xa000)]);
        assert!(r.uses(1) && !r.uses(2));
        r.cut(0, u64::MAX);
        assert!(!r.uses(1) && r.over(0, u64::MAX).is_empty());
    }

    #[test]
    fn protection_splits() {
        let mut r = Ranges::default();
        r.put(Region { start: 0, end: 0x4000, prot: 3, what: What::Anonymous });
        r.protect(0x1000, 0x2000, 1);
        let prots: Vec<_> = r.over(0, 0x4000).iter().map(|r| (r.start, r.prot)).collect();
        assert_eq!(prots, [(0, 3), (0x1000, 1), (0x2000, 3)]);
    }

    /// Against a page by page model.
    #[test]
    fn ranges_are_as_pages() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let mut r = Ranges::default();
        let mut pages = [None; 64];
        for step in 0..2000u64 {
            let (a, b) = (next(64), next(64));
            let (s, e) = (a.min(b), a.max(b) + 1);
            match next(3) {
                0 => drop(r.cut(s << 12, e << 12)),
                1 => drop(r.put(file(s << 12, e << 12, step << 24))),
                _ => {
                    r.protect(s << 12, e << 12, step as i32);
                    for p in pages[s as usize..e as usize].iter_mut().flatten() {
                        *p = (step as i32, (*p as (i32, u64)).1);
                    }
                    check(&r, &pages);
                    continue;
                }
            }
            let there = !r.over(s << 12, e << 12).is_empty();
            for p in s..e {
                pages[p as usize] = there.then_some((3, (step << 24) + ((p - s) << 12)));
            }
            check(&r, &pages);
        }
    }

    fn check(r: &Ranges, pages: &[Option<(i32, u64)>; 64]) {
        for (n, p) in pages.iter().enumerate() {
            let at = (n as u64) << 12;
            let got =
                r.over(at, at + 1).first().and_then(|x| x.within(at, at + 0x1000)).map(|x| match x.what {
                    What::File { offset, .. } => (x.prot, offset),
                    _ => (x.prot, 0),
                });
            assert_eq!(got, *p, "page {n}");
        }
    }
}
