//! QARMA-64 as pointer authentication uses it (Arm ARM, ComputePACQARMA5 and ComputePACQARMA3; R. Avanzi, "The QARMA
//! Block Cipher Family", 2016), on whole 64-bit words.
//!
//! A state is 16 cells of 4 bits; rows of the cell matrix are 16 bits apart, so MixColumns is three rotations of the
//! word by 16, 32 and 48 bits with each nibble rotated in place.

const ALPHA: u64 = 0xc0ac_29b7_c97c_50dd;
const RC: [u64; 5] =
    [0, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89, 0x4528_21e6_38d0_1377];

/// The S-box sigma-2 and its inverse.
const SUB5: [u8; 16] = [0xb, 0x6, 0x8, 0xf, 0xc, 0x0, 0x9, 0xe, 0x3, 0x7, 0x4, 0x5, 0xd, 0x2, 0x1, 0xa];
/// The S-box sigma-1, an involution.
const SUB3: [u8; 16] = [0xa, 0xd, 0xe, 0x6, 0xf, 0x7, 0x3, 0x5, 0x9, 0x8, 0x0, 0xc, 0xb, 0x1, 0x2, 0x4];

/// Nibble n of the result is nibble `SHUFFLE[n]` of the argument (PACCellShuffle).
const SHUFFLE: [u8; 16] = [13, 6, 11, 0, 7, 12, 1, 10, 8, 3, 14, 5, 2, 9, 4, 15];
/// The same for the tweak (TweakShuffle).
const TWEAK: [u8; 16] = [4, 5, 6, 7, 11, 2, 3, 8, 12, 13, 14, 15, 0, 1, 10, 9];
/// Nibbles of the shuffled tweak that go through the LFSR.
const LFSR: u64 = 0xff0f_f000_f00f_0f00;

const fn inverse(p: [u8; 16]) -> [u8; 16] {
    let mut r = [0; 16];
    let mut n = 0;
    while n < 16 {
        r[p[n] as usize] = n as u8;
        n += 1;
    }
    r
}

/// `a` after `b`, both as "nibble n of the result is nibble p\[n\] of the argument".
const fn after(a: [u8; 16], b: [u8; 16]) -> [u8; 16] {
    let mut r = [0; 16];
    let mut n = 0;
    while n < 16 {
        r[n] = b[a[n] as usize];
        n += 1;
    }
    r
}

const fn shuffle(v: u64) -> u64 {
    let mut r = 0;
    let mut n = 0;
    while n < 16 {
        r |= (v >> (4 * SHUFFLE[n]) & 15) << (4 * n);
        n += 1;
    }
    r
}

/// By byte position and value: the nibbles substituted and moved to their places. ORing eight entries does a whole state.
type Cells = [[u64; 256]; 8];

/// Table that substitutes (`sub`), then lets nibble n be taken from nibble `from[n]`.
const fn cells(sub: [u8; 16], from: [u8; 16]) -> Cells {
    let to = inverse(from);
    let mut t = [[0; 256]; 8];
    let mut pos = 0;
    while pos < 8 {
        let mut v = 0;
        while v < 256 {
            let lo = (sub[v & 15] as u64) << (4 * to[2 * pos]);
            let hi = (sub[v >> 4] as u64) << (4 * to[2 * pos + 1]);
            t[pos][v] = lo | hi;
            v += 1;
        }
        pos += 1;
    }
    t
}

const IDENTITY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

#[inline(always)]
fn look(t: &Cells, v: u64) -> u64 {
    let b = v.to_le_bytes();
    let mut r = 0;
    for (t, b) in t.iter().zip(b) {
        r |= t[b as usize];
    }
    r
}

/// Each nibble rotated left by 1.
#[inline(always)]
fn rot1(v: u64) -> u64 {
    (v & 0x7777_7777_7777_7777) << 1 | v >> 3 & 0x1111_1111_1111_1111
}

/// Each nibble rotated left by 2.
#[inline(always)]
fn rot2(v: u64) -> u64 {
    (v & 0x3333_3333_3333_3333) << 2 | v >> 2 & 0x3333_3333_3333_3333
}

/// PACMult: the matrix circ(0, rho, rho^2, rho), its own inverse.
#[inline(always)]
fn mult(v: u64) -> u64 {
    rot1(v.rotate_left(16) ^ v.rotate_left(48)) ^ rot2(v.rotate_left(32))
}

/// The LFSR on every nibble that `mask` selects: (b3, b2, b1, b0) to (b0 ^ b1, b3, b2, b1).
#[inline(always)]
fn lfsr(v: u64, mask: u64) -> u64 {
    let f = v >> 1 & 0x7777_7777_7777_7777 | (v ^ v >> 1) << 3 & 0x8888_8888_8888_8888;
    v & !mask | f & mask
}

// The S-box acts on cells and so commutes with moving them: "substitute, then shuffle" and "shuffle back, then
// substitute back" are one table each. What is added between the two (round keys, tweaks, constants) is added shuffled
// instead; the tweak is kept shuffled throughout.

/// The number of forward rounds less one, and tables by S-box.
struct Variant {
    iterations: usize,
    /// Substitute and shuffle.
    forward: &'static Cells,
    /// Substitute back and shuffle back.
    back: &'static Cells,
}

static MOVE: Cells = cells(IDENTITY, SHUFFLE);
/// TweakShuffle of a shuffled tweak.
static MOVE_TWEAK: Cells = cells(IDENTITY, after(after(SHUFFLE, TWEAK), inverse(SHUFFLE)));
const LFSR_SHUFFLED: u64 = shuffle(LFSR);
const RC_SHUFFLED: [u64; 5] = [0, shuffle(RC[1]), shuffle(RC[2]), shuffle(RC[3]), shuffle(RC[4])];
const ALPHA_SHUFFLED: u64 = shuffle(ALPHA);

static FORWARD_5: Cells = cells(SUB5, SHUFFLE);
static BACK_5: Cells = cells(inverse(SUB5), inverse(SHUFFLE));
static FORWARD_3: Cells = cells(SUB3, SHUFFLE);
static BACK_3: Cells = cells(SUB3, inverse(SHUFFLE));

static QARMA5: Variant = Variant { iterations: 4, forward: &FORWARD_5, back: &BACK_5 };
static QARMA3: Variant = Variant { iterations: 2, forward: &FORWARD_3, back: &BACK_3 };

fn compute(v: &Variant, data: u64, modifier: u64, key0: u64, key1: u64) -> u64 {
    let modk0 = (key0 & 1) << 63 | key0 >> 2 << 1 | (key0 >> 63 ^ key0 >> 1) & 1;
    // The shuffled tweaks of all rounds; the way back uses them in reverse.
    let mut tweaks = [look(&MOVE, modifier); 6];
    for n in 0..=v.iterations {
        tweaks[n + 1] = lfsr(look(&MOVE_TWEAK, tweaks[n]), LFSR_SHUFFLED);
    }
    let (k0, k1) = (look(&MOVE, key0), look(&MOVE, key1));
    let last = tweaks[v.iterations + 1];
    let mut w = data ^ key0 ^ key1 ^ modifier;
    for n in 1..=v.iterations {
        w = mult(look(v.forward, w) ^ k1 ^ tweaks[n] ^ RC_SHUFFLED[n]);
    }
    // The reflector.
    w = mult(look(v.forward, w) ^ look(&MOVE, modk0) ^ last);
    w = mult(look(v.forward, w)) ^ key1;
    w = mult(look(v.back, w)) ^ k0 ^ last;
    for n in (1..=v.iterations).rev() {
        w = mult(look(v.back, w)) ^ RC_SHUFFLED[n] ^ k1 ^ tweaks[n] ^ ALPHA_SHUFFLED;
    }
    look(v.back, w) ^ key1 ^ modifier ^ ALPHA ^ modk0
}

/// QARMA5-64 with sigma-2: FEAT_PACQARMA5.
pub fn qarma5(data: u64, modifier: u64, key0: u64, key1: u64) -> u64 {
    compute(&QARMA5, data, modifier, key0, key1)
}

/// QARMA3-64 with sigma-1: FEAT_PACQARMA3.
pub fn qarma3(data: u64, modifier: u64, key0: u64, key1: u64) -> u64 {
    compute(&QARMA3, data, modifier, key0, key1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const W0: u64 = 0x84be_85ce_9804_e94b;
    const K0: u64 = 0xec28_02d4_e0a4_88e9;
    const TWEAKEY: u64 = 0x477d_469d_ec0b_8762;
    const PLAIN: u64 = 0xfb62_3599_da6e_8127;

    #[test]
    fn the_papers_vectors() {
        // Avanzi 2016, table of test vectors for QARMA-64: r = 5 with sigma-2, and with sigma-1.
        assert_eq!(qarma5(PLAIN, TWEAKEY, W0, K0), 0xc003_b939_99b3_3765);
        let sigma1 = Variant { iterations: 4, forward: &FORWARD_3, back: &BACK_3 };
        assert_eq!(compute(&sigma1, PLAIN, TWEAKEY, W0, K0), 0x544b_0ab9_5bda_7c3a);
    }

    #[test]
    fn steps_and_their_inverses() {
        for v in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX, PLAIN, 1 << 63] {
            assert_eq!(mult(mult(v)), v);
            assert_eq!(look(&MOVE, v), shuffle(v));
            // Back undoes forward but for the place where the shuffle stands.
            let to = cells(IDENTITY, inverse(SHUFFLE));
            assert_eq!(look(&BACK_5, look(&FORWARD_5, v)), v);
            assert_eq!(look(&BACK_3, look(&FORWARD_3, v)), v);
            assert_eq!(look(&to, look(&MOVE, v)), v);
        }
        let mut seen = SUB3.to_vec();
        seen.sort_unstable();
        assert_eq!(seen, IDENTITY);
        assert_eq!(inverse(SUB3), SUB3);
    }
}
