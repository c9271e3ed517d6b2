//! SM3 (GB/T 32905-2016) by the steps of the instructions (Arm ARM C7.2, SM3PARTW1 and following).

use super::{from_words, words};

#[inline(always)]
fn p0(x: u32) -> u32 {
    x ^ x.rotate_left(9) ^ x.rotate_left(17)
}

#[inline(always)]
fn p1(x: u32) -> u32 {
    x ^ x.rotate_left(15) ^ x.rotate_left(23)
}

/// SM3PARTW1.
#[inline]
pub fn sm3partw1(d: u128, n: u128, m: u128) -> u128 {
    let x = words(d ^ n);
    let m = words(m);
    let mut r = [0; 4];
    for i in 0..3 {
        r[i] = p1(x[i] ^ m[i + 1].rotate_left(15));
    }
    r[3] = p1(x[3] ^ r[0].rotate_left(15));
    from_words(r)
}

/// SM3PARTW2.
#[inline]
pub fn sm3partw2(d: u128, n: u128, m: u128) -> u128 {
    let (n, m) = (words(n), words(m));
    let t: [u32; 4] = std::array::from_fn(|i| n[i] ^ m[i].rotate_left(7));
    let mut r = words(d ^ from_words(t));
    r[3] ^= p1(t[0].rotate_left(15));
    from_words(r)
}

/// SM3SS1.
#[inline]
pub fn sm3ss1(n: u128, m: u128, a: u128) -> u128 {
    let (n, m, a) = (words(n)[3], words(m)[3], words(a)[3]);
    from_words([0, 0, 0, n.rotate_left(12).wrapping_add(m).wrapping_add(a).rotate_left(7)])
}

#[inline(always)]
fn tt1(d: u128, n: u128, w: u32, f: impl Fn(u32, u32, u32) -> u32) -> u128 {
    let [r0, c, b, a] = words(d);
    let ss2 = words(n)[3] ^ a.rotate_left(12);
    let t = f(a, b, c).wrapping_add(r0).wrapping_add(ss2).wrapping_add(w);
    from_words([c, b.rotate_left(9), a, t])
}

#[inline(always)]
fn tt2(d: u128, n: u128, w: u32, f: impl Fn(u32, u32, u32) -> u32) -> u128 {
    let [h, g, ff, e] = words(d);
    let t = f(e, ff, g).wrapping_add(h).wrapping_add(words(n)[3]).wrapping_add(w);
    from_words([g, ff.rotate_left(19), e, p0(t)])
}

/// SM3TT1A; `w` is the indexed element of Vm.
#[inline]
pub fn sm3tt1a(d: u128, n: u128, w: u32) -> u128 {
    tt1(d, n, w, |x, y, z| x ^ y ^ z)
}

/// SM3TT1B.
#[inline]
pub fn sm3tt1b(d: u128, n: u128, w: u32) -> u128 {
    tt1(d, n, w, |x, y, z| (x & y) | (x & z) | (y & z))
}

/// SM3TT2A.
#[inline]
pub fn sm3tt2a(d: u128, n: u128, w: u32) -> u128 {
    tt2(d, n, w, |x, y, z| x ^ y ^ z)
}

/// SM3TT2B.
#[inline]
pub fn sm3tt2b(d: u128, n: u128, w: u32) -> u128 {
    tt2(d, n, w, |x, y, z| (x & y) | (!x & z))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gb_t_32905_abc() {
        const IV: [u32; 8] = [
            0x7380_166f,
            0x4914_b2b9,
            0x1724_42d7,
            0xda8a_0600,
            0xa96f_30bc,
            0x1631_38aa,
            0xe38d_ee4d,
            0xb0fb_0e4e,
        ];
        let mut w = vec![0u32; 16];
        w[0] = 0x6162_6380;
        w[15] = 24;
        // W16..W67 four at a time.
        for j in (16..68).step_by(4) {
            let q = |i: usize| {
                let at = |k: usize| w.get(i + k).copied().unwrap_or(0);
                from_words([at(0), at(1), at(2), at(3)])
            };
            // W1 wants the words j-16 and j-9, and j-4 as its third operand; W2 j-13 rotated and j-6.
            let part1 = sm3partw1(q(j - 16), q(j - 9), q(j - 4));
            let r = sm3partw2(part1, q(j - 6), q(j - 13));
            w.extend(words(r));
        }
        let (mut abcd, mut efgh) =
            (from_words([IV[3], IV[2], IV[1], IV[0]]), from_words([IV[7], IV[6], IV[5], IV[4]]));
        for j in 0..64 {
            let t: u32 = if j < 16 { 0x79cc_4519 } else { 0x7a87_9d8a };
            let tj = u128::from(t.rotate_left(j as u32 % 32)) << 96;
            let ss1 = sm3ss1(abcd, efgh, tj);
            let w1 = w[j] ^ w[j + 4];
            (abcd, efgh) = if j < 16 {
                (sm3tt1a(abcd, ss1, w1), sm3tt2a(efgh, ss1, w[j]))
            } else {
                (sm3tt1b(abcd, ss1, w1), sm3tt2b(efgh, ss1, w[j]))
            };
        }
        let [d, c, b, a] = words(abcd);
        let [h, g, f, e] = words(efgh);
        let out: Vec<u32> = [a, b, c, d, e, f, g, h].iter().zip(IV).map(|(x, y)| x ^ y).collect();
        assert_eq!(
            out,
            [
                0x66c7_f0f4,
                0x62ee_edd9,
                0xd1f2_d46b,
                0xdc10_e4e2,
                0x4167_c487,
                0x5cf2_f7a2,
                0x297d_a02b,
                0x8f4b_a8e0
            ]
        );
    }
}
