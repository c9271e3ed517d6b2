//! A software Arm CPU: state, decode table, interpreter, translation, exceptions.
