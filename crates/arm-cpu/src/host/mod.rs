//! What depends on the host CPU: the only place, with `jit/`, for `cfg(target_arch)`.

pub mod aes;
pub mod atomic16;
pub mod clmul;
pub mod tsc;
pub mod vector;
