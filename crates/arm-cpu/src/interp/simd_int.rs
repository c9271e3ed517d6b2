//! Advanced SIMD: three registers of the same type, two registers, across lanes (Arm ARM C4.1.95).

use super::simd_operand::{self as operand, handlers, size};
pub(crate) use super::simd_operand::{across, s2, s4, v_any, v_bh, v2, v3, v4};
use crate::cpu::Cpu;
use crate::crypto::poly;
use crate::insn::{Exec, Flow, Insn};
use crate::simd::lanes::map3;
use crate::simd::same::bits;
use crate::simd::{estimate, pair, permute, product, same};

handlers! {
    same {
        shadd_v = same::shadd;
        uhadd_v = same::uhadd;
        sqadd_v = same::sqadd;
        sqadd_s = same::sqadd;
        uqadd_v = same::uqadd;
        uqadd_s = same::uqadd;
        srhadd_v = same::srhadd;
        urhadd_v = same::urhadd;
        shsub_v = same::shsub;
        uhsub_v = same::uhsub;
        sqsub_v = same::sqsub;
        sqsub_s = same::sqsub;
        uqsub_v = same::uqsub;
        uqsub_s = same::uqsub;
        cmgt_v = same::cmgt;
        cmgt_s = same::cmgt;
        cmhi_v = same::cmhi;
        cmhi_s = same::cmhi;
        cmge_v = same::cmge;
        cmge_s = same::cmge;
        cmhs_v = same::cmhs;
        cmhs_s = same::cmhs;
        sshl_v = same::sshl;
        sshl_s = same::sshl;
        ushl_v = same::ushl;
        ushl_s = same::ushl;
        sqshl_v = same::sqshl;
        sqshl_s = same::sqshl;
        uqshl_v = same::uqshl;
        uqshl_s = same::uqshl;
        srshl_v = same::srshl;
        srshl_s = same::srshl;
        urshl_v = same::urshl;
        urshl_s = same::urshl;
        sqrshl_v = same::sqrshl;
        sqrshl_s = same::sqrshl;
        uqrshl_v = same::uqrshl;
        uqrshl_s = same::uqrshl;
        smax_v = same::smax;
        umax_v = same::umax;
        smin_v = same::smin;
        umin_v = same::umin;
        sabd_v = same::sabd;
        uabd_v = same::uabd;
        saba_v = same::saba;
        uaba_v = same::uaba;
        add_v = same::add;
        add_s = same::add;
        sub_v = same::sub;
        sub_s = same::sub;
        cmtst_v = same::cmtst;
        cmtst_s = same::cmtst;
        cmeq_v = same::cmeq;
        cmeq_s = same::cmeq;
        mla_v = same::mla;
        mls_v = same::mls;
        mul_v = same::mul;
        sqdmulh_v = same::sqdmulh;
        sqdmulh_s = same::sqdmulh;
        sqrdmulh_v = same::sqrdmulh;
        sqrdmulh_s = same::sqrdmulh;
        sqrdmlah_v = same::sqrdmlah;
        sqrdmlah_s = same::sqrdmlah;
        sqrdmlsh_v = same::sqrdmlsh;
        sqrdmlsh_s = same::sqrdmlsh;
        suqadd_v = same::suqadd;
        suqadd_s = same::suqadd;
        usqadd_v = same::usqadd;
        usqadd_s = same::usqadd;
        cls_v = same::cls;
        clz_v = same::clz;
        sqabs_v = same::sqabs;
        sqabs_s = same::sqabs;
        sqneg_v = same::sqneg;
        sqneg_s = same::sqneg;
        cmgt0_v = same::cmgt0;
        cmgt0_s = same::cmgt0;
        cmge0_v = same::cmge0;
        cmge0_s = same::cmge0;
        cmeq0_v = same::cmeq0;
        cmeq0_s = same::cmeq0;
        cmle0_v = same::cmle0;
        cmle0_s = same::cmle0;
        cmlt0_v = same::cmlt0;
        cmlt0_s = same::cmlt0;
        abs_v = same::abs;
        abs_s = same::abs;
        neg_v = same::neg;
        neg_s = same::neg;
    }
    pairwise {
        smaxp_v = pair::smaxp;
        umaxp_v = pair::umaxp;
        sminp_v = pair::sminp;
        uminp_v = pair::uminp;
        addp_v = pair::addp;
    }
    product {
        sdot_v = product::sdot;
        udot_v = product::udot;
        usdot_v = product::usdot;
        smmla_v = product::smmla;
        ummla_v = product::ummla;
        usmmla_v = product::usmmla;
    }
    one_sized {
        rev64_v = permute::rev64;
        rev32_v = permute::rev32;
        saddlp_v = pair::saddlp;
        uaddlp_v = pair::uaddlp;
    }
    one {
        rev16_v = permute::rev16;
        cnt_v = same::bits::cnt;
        urecpe_v = estimate::urecpe;
        ursqrte_v = estimate::ursqrte;
        rbit_v = same::bits::rbit;
    }
    across {
        saddlv_v = pair::saddlv;
        uaddlv_v = pair::uaddlv;
        smaxv_v = pair::smaxv;
        umaxv_v = pair::umaxv;
        sminv_v = pair::sminv;
        uminv_v = pair::uminv;
        addv_v = pair::addv;
    }
}

// Bitwise operations, and what has no form in common with others.

macro_rules! bitwise {
    ($($name:ident |$d:pat_param, $n:pat_param, $m:pat_param| $e:expr;)*) => { $(
        pub(crate) fn $name(cpu: &mut Cpu, i: &Insn) -> Exec {
            operand::bitwise(cpu, i, |$d, $n, $m| $e)
        }
    )* };
}
bitwise! {
    and_v |_, n, m| n & m;
    bic_v |_, n, m| n & !m;
    orr_v |_, n, m| n | m;
    orn_v |_, n, m| n | !m;
    eor_v |_, n, m| n ^ m;
    bsl_v |d, n, m| bits::bsl(d, n, m);
    bit_v |d, n, m| bits::bit(d, n, m);
    bif_v |d, n, m| bits::bif(d, n, m);
    not_v |_, n, _| !n;
}

pub(crate) fn pmul_v(cpu: &mut Cpu, i: &Insn) -> Exec {
    operand::same::<false>(cpu, i, |d, n, m, _| map3::<u8>(d, n, m, |_, n, m| poly::mul8(n, m) as u8))
}

pub(crate) fn addp_s(cpu: &mut Cpu, i: &Insn) -> Exec {
    cpu.fp_access()?;
    let r = pair::addp(3, operand::reg(cpu, i.rn));
    cpu.state.set_d(i.rd, r);
    Ok(Flow::Next)
}

pub(crate) fn sadalp_v(cpu: &mut Cpu, i: &Insn) -> Exec {
    operand::same::<false>(cpu, i, |d, n, _, q| same::add(size(i) + 1, d, d, pair::saddlp(size(i), n), q))
}

pub(crate) fn uadalp_v(cpu: &mut Cpu, i: &Insn) -> Exec {
    operand::same::<false>(cpu, i, |d, n, _, q| same::add(size(i) + 1, d, d, pair::uaddlp(size(i), n), q))
}
