//! The arm64 KVM UAPI: structs, ioctl numbers, register ids, exit reasons.
