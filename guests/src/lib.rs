//! Small A64 guest programs, assembled at build time.
