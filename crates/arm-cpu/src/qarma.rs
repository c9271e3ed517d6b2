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

/// Nibble n of the result is nibble `SHUFFLE[n]` of the argument.
const SHUFFLE: [u8; 16] = [13, 6, 11, 0, 7, 12, 1, 10, 8, 3, 14, 5, 2, 9, 4, 15];
/// The same for the tweak.
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

/// By byte position and value: the nibbles substituted and moved to their places. XORing eight entries does a whole state.
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

static MOVE: Cells = cells(IDENTITY, SHUFFLE);
static MOVE_BACK: Cells = cells(IDENTITY, inverse(SHUFFLE));
static MOVE_TWEAK: Cells = cells(IDENTITY, TWEAK);
static MOVE_TWEAK_BACK: Cells = cells(IDENTITY, inverse(TWEAK));
static SUB_5: Cells = cells(SUB5, IDENTITY);
static SUB_5_BACK: Cells = cells(inverse(SUB5), IDENTITY);
static SUB_3: Cells = cells(SUB3, IDENTITY);

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

/// TweakShuffle: the LFSR maps (b3, b2, b1, b0) to (b0 ^ b1, b3, b2, b1).
#[inline(always)]
fn tweak(v: u64) -> u64 {
    let s = look(&MOVE_TWEAK, v);
    let f = s >> 1 & 0x7777_7777_7777_7777 | (s ^ s >> 1) << 3 & 0x8888_8888_8888_8888;
    s & !LFSR | f & LFSR
}

/// TweakInvShuffle.
#[inline(always)]
fn tweak_back(v: u64) -> u64 {
    // (b3, b2, b1, b0) comes from (b2, b1, b0, b0 ^ b3).
    let f = v << 1 & 0xeeee_eeee_eeee_eeee | (v ^ v >> 3) & 0x1111_1111_1111_1111;
    look(&MOVE_TWEAK_BACK, v & !LFSR | f & LFSR)
}

/// The number of forward rounds less one, and the S-box.
struct Variant {
    iterations: usize,
    sub: &'static Cells,
    sub_back: &'static Cells,
}

static QARMA5: Variant = Variant { iterations: 4, sub: &SUB_5, sub_back: &SUB_5_BACK };
static QARMA3: Variant = Variant { iterations: 2, sub: &SUB_3, sub_back: &SUB_3 };

fn compute(v: &Variant, data: u64, modifier: u64, key0: u64, key1: u64) -> u64 {
    let modk0 = (key0 & 1) << 63 | key0 >> 2 << 1 | (key0 >> 63 ^ key0 >> 1) & 1;
    let mut running = modifier;
    let mut w = data ^ key0;
    for (n, rc) in RC.iter().enumerate().take(v.iterations + 1) {
        w ^= key1 ^ running ^ rc;
        if n > 0 {
            w = mult(look(&MOVE, w));
        }
        w = look(v.sub, w);
        running = tweak(running);
    }
    w ^= modk0 ^ running;
    w = look(v.sub, mult(look(&MOVE, w)));
    w = mult(look(&MOVE, w)) ^ key1;
    w = look(&MOVE_BACK, w);
    w = look(&MOVE_BACK, mult(look(v.sub_back, w)));
    w ^= key0 ^ running;
    for n in (0..=v.iterations).rev() {
        w = look(v.sub_back, w);
        if n > 0 {
            w = look(&MOVE_BACK, mult(w));
        }
        running = tweak_back(running);
        w ^= RC[n] ^ key1 ^ running ^ ALPHA;
    }
    w ^ modk0
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
        let sigma1 = Variant { iterations: 4, sub: &SUB_3, sub_back: &SUB_3 };
        assert_eq!(compute(&sigma1, PLAIN, TWEAKEY, W0, K0), 0x544b_0ab9_5bda_7c3a);
    }

    #[test]
    fn steps_and_their_inverses() {
        for v in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX, PLAIN, 1 << 63] {
            assert_eq!(mult(mult(v)), v);
            assert_eq!(tweak_back(tweak(v)), v);
            assert_eq!(look(&MOVE_BACK, look(&MOVE, v)), v);
            assert_eq!(look(&SUB_5_BACK, look(&SUB_5, v)), v);
            assert_eq!(look(&SUB_3, look(&SUB_3, v)), v);
        }
    }
}
