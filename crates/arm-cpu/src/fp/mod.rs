//! Exact Arm floating-point arithmetic as pure functions.
