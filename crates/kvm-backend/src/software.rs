//! The software KVM behind the traits.
