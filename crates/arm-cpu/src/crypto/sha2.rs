//! SHA-256 and SHA-512 (FIPS 180-4) by the steps of the instructions (Arm ARM C7.2, SHA256H, SHA512H and following).

use super::{dwords, from_dwords, from_words, words};

#[inline(always)]
fn choose<T: Copy + std::ops::BitXor<Output = T> + std::ops::BitAnd<Output = T>>(x: T, y: T, z: T) -> T {
    ((y ^ z) & x) ^ z
}

#[inline(always)]
fn majority<T: Copy + std::ops::BitOr<Output = T> + std::ops::BitAnd<Output = T>>(x: T, y: T, z: T) -> T {
    (x & y) | ((x | y) & z)
}

#[inline(always)]
fn ror32(x: u32, a: u32, b: u32) -> u32 {
    x.rotate_right(a) ^ x.rotate_right(b)
}

#[inline(always)]
fn ror64(x: u64, a: u32, b: u32) -> u64 {
    x.rotate_right(a) ^ x.rotate_right(b)
}

/// Four rounds: returns (a, b, c, d) and (e, f, g, h).
#[inline]
fn hash256(x: u128, y: u128, w: u128) -> (u128, u128) {
    let [mut a, mut b, mut c, mut d] = words(x);
    let [mut e, mut f, mut g, mut h] = words(y);
    for w in words(w) {
        let t = h
            .wrapping_add(ror32(e, 6, 11) ^ e.rotate_right(25))
            .wrapping_add(choose(e, f, g))
            .wrapping_add(w);
        let s = t.wrapping_add(ror32(a, 2, 13) ^ a.rotate_right(22)).wrapping_add(majority(a, b, c));
        (h, g, f, e) = (g, f, e, d.wrapping_add(t));
        (d, c, b, a) = (c, b, a, s);
    }
    (from_words([a, b, c, d]), from_words([e, f, g, h]))
}

/// SHA256H: the first half of the state after four rounds.
#[inline]
pub fn sha256h(abcd: u128, efgh: u128, w: u128) -> u128 {
    hash256(abcd, efgh, w).0
}

/// SHA256H2: the second half; operands as the instruction has them (Vd is the second half).
#[inline]
pub fn sha256h2(efgh: u128, abcd: u128, w: u128) -> u128 {
    hash256(abcd, efgh, w).1
}

/// SHA256SU0: first half of the schedule update.
#[inline]
pub fn sha256su0(d: u128, n: u128) -> u128 {
    let t = words(n << 96 | d >> 32);
    let d = words(d);
    from_words(std::array::from_fn(|i| (ror32(t[i], 7, 18) ^ (t[i] >> 3)).wrapping_add(d[i])))
}

/// SHA256SU1: second half of the schedule update.
#[inline]
pub fn sha256su1(d: u128, n: u128, m: u128) -> u128 {
    let t0 = words(m << 96 | n >> 32);
    let (d, m) = (words(d), words(m));
    let mut r = [0u32; 4];
    for i in 0..4 {
        let x = if i < 2 { m[i + 2] } else { r[i - 2] };
        r[i] = (ror32(x, 17, 19) ^ (x >> 10)).wrapping_add(d[i]).wrapping_add(t0[i]);
    }
    from_words(r)
}

/// SHA512H: first part of two rounds.
#[inline]
pub fn sha512h(d: u128, n: u128, m: u128) -> u128 {
    let ([w0, w1], [x0, x1], [y0, y1]) = (dwords(d), dwords(n), dwords(m));
    let sigma = |v: u64| ror64(v, 14, 18) ^ v.rotate_right(41);
    let high = choose(y1, x0, x1).wrapping_add(sigma(y1)).wrapping_add(w1);
    let t = high.wrapping_add(y0);
    let low = choose(t, y1, x0).wrapping_add(sigma(t)).wrapping_add(w0);
    from_dwords([low, high])
}

/// SHA512H2: second part of two rounds.
#[inline]
pub fn sha512h2(d: u128, n: u128, m: u128) -> u128 {
    let ([w0, w1], [x0, _], [y0, y1]) = (dwords(d), dwords(n), dwords(m));
    let sigma = |v: u64| ror64(v, 28, 34) ^ v.rotate_right(39);
    let high = majority(x0, y1, y0).wrapping_add(sigma(y0)).wrapping_add(w1);
    let low = majority(high, y0, y1).wrapping_add(sigma(high)).wrapping_add(w0);
    from_dwords([low, high])
}

/// SHA512SU0: first half of the schedule update.
#[inline]
pub fn sha512su0(d: u128, n: u128) -> u128 {
    let ([w0, w1], [x0, _]) = (dwords(d), dwords(n));
    let sigma = |v: u64| ror64(v, 1, 8) ^ (v >> 7);
    from_dwords([w0.wrapping_add(sigma(w1)), w1.wrapping_add(sigma(x0))])
}

/// SHA512SU1: second half of the schedule update.
#[inline]
pub fn sha512su1(d: u128, n: u128, m: u128) -> u128 {
    let ([w0, w1], [x0, x1], [y0, y1]) = (dwords(d), dwords(n), dwords(m));
    let sigma = |v: u64| ror64(v, 19, 61) ^ (v >> 6);
    from_dwords([w0.wrapping_add(sigma(x0)).wrapping_add(y0), w1.wrapping_add(sigma(x1)).wrapping_add(y1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First `n` primes.
    fn primes(n: usize) -> Vec<u128> {
        (2u128..).filter(|p| (2..*p).take_while(|q| q * q <= *p).all(|q| p % q != 0)).take(n).collect()
    }

    /// The first 64 bits of the fraction of the `k`-th root of `p`, by bisection in integers.
    fn fraction(p: u128, k: u32) -> u64 {
        // Largest r with r^k <= p * 2^(64k), compared in limbs of 32 bits.
        fn mul(a: &[u64], b: &[u64]) -> Vec<u64> {
            let mut r = vec![0u64; a.len() + b.len()];
            for (i, x) in a.iter().enumerate() {
                let mut carry = 0;
                for (j, y) in b.iter().enumerate() {
                    let t = u128::from(r[i + j]) + u128::from(*x) * u128::from(*y) + carry;
                    r[i + j] = t as u64 & 0xffff_ffff;
                    carry = t >> 32;
                }
                r[i + b.len()] = carry as u64;
            }
            r
        }
        let limbs = |v: u128| (0..4).map(|i| (v >> (32 * i)) as u64 & 0xffff_ffff).collect::<Vec<_>>();
        let mut target = vec![0u64; 2 * k as usize];
        target.extend(limbs(p));
        let mut r = 0u128;
        for bit in (0..70).rev() {
            let t = limbs(r | 1 << bit);
            let mut power = t.clone();
            for _ in 1..k {
                power = mul(&power, &t);
            }
            let n = power.len().max(target.len());
            let at = |v: &[u64], i: usize| v.get(i).copied().unwrap_or(0);
            let over = (0..n).rev().find_map(|i| {
                let (a, b) = (at(&power, i), at(&target, i));
                (a != b).then_some(a > b)
            });
            if over != Some(true) {
                r |= 1 << bit;
            }
        }
        r as u64
    }

    #[test]
    fn fips_180_sha256_abc() {
        let k: Vec<u32> = primes(64).iter().map(|p| (fraction(*p, 3) >> 32) as u32).collect();
        assert_eq!(k[0], 0x428a_2f98);
        let h: Vec<u32> = primes(8).iter().map(|p| (fraction(*p, 2) >> 32) as u32).collect();
        let mut block = [0u32; 16];
        block[0] = 0x6162_6380;
        block[15] = 24;
        let quad = |s: &[u32]| from_words([s[0], s[1], s[2], s[3]]);
        let mut w: Vec<u128> = block.chunks(4).map(quad).collect();
        for i in 4..16 {
            w.push(sha256su1(sha256su0(w[i - 4], w[i - 3]), w[i - 2], w[i - 1]));
        }
        let (mut x, mut y) = (quad(&h), quad(&h[4..]));
        for i in 0..16 {
            let ws = words(w[i]);
            let wk = from_words(std::array::from_fn(|j| ws[j].wrapping_add(k[4 * i + j])));
            (x, y) = (sha256h(x, y, wk), sha256h2(y, x, wk));
        }
        let sum: Vec<u32> =
            words(x).iter().chain(&words(y)).zip(&h).map(|(a, b)| a.wrapping_add(*b)).collect();
        assert_eq!(
            sum,
            [
                0xba78_16bf,
                0x8f01_cfea,
                0x4141_40de,
                0x5dae_2223,
                0xb003_61a3,
                0x9617_7a9c,
                0xb410_ff61,
                0xf200_15ad
            ]
        );
    }

    #[test]
    fn fips_180_sha512_abc() {
        let k: Vec<u64> = primes(80).iter().map(|p| fraction(*p, 3)).collect();
        assert_eq!(k[79], 0x6c44_198c_4a47_5817);
        let h: Vec<u64> = primes(8).iter().map(|p| fraction(*p, 2)).collect();
        let mut block = [0u64; 16];
        block[0] = 0x6162_6380_0000_0000;
        block[15] = 24;
        let mut w: Vec<u128> = block.chunks(2).map(|c| from_dwords([c[0], c[1]])).collect();
        for i in 8..40 {
            let ext = w[i - 3] << 64 | w[i - 4] >> 64;
            w.push(sha512su1(sha512su0(w[i - 8], w[i - 7]), w[i - 1], ext));
        }
        // (a,b) (c,d) (e,f) (g,h), as the instructions want them: two rounds a step.
        let pair = |i: usize| from_dwords([h[i], h[i + 1]]);
        let (mut ab, mut cd, mut ef, mut gh) = (pair(0), pair(2), pair(4), pair(6));
        for i in 0..40 {
            let [w0, w1] = dwords(w[i]);
            let wk = from_dwords([w1.wrapping_add(k[2 * i + 1]), w0.wrapping_add(k[2 * i])]);
            let [g, hh] = dwords(gh);
            let [x, y] = dwords(wk);
            // W + K + (h for the first round, g for the second), the first round in the upper half.
            let sum = from_dwords([x.wrapping_add(g), y.wrapping_add(hh)]);
            let fg = ef >> 64 | gh << 64;
            let de = cd >> 64 | ef << 64;
            let t = sha512h(sum, fg, de);
            let [t0, t1] = dwords(t);
            let [c, d] = dwords(cd);
            let e = from_dwords([c.wrapping_add(t0), d.wrapping_add(t1)]);
            let a = sha512h2(t, cd, ab);
            (gh, ef, cd, ab) = (ef, e, ab, a);
        }
        let out: Vec<u64> = [ab, cd, ef, gh]
            .iter()
            .flat_map(|v| dwords(*v))
            .zip(&h)
            .map(|(a, b)| a.wrapping_add(*b))
            .collect();
        assert_eq!(out[0], 0xddaf_35a1_9361_7aba);
        assert_eq!(out[1], 0xcc41_7349_ae20_4131);
        assert_eq!(out[7], 0x2a9a_c94f_a54c_a49f);
    }
}
