//! The tables: system registers, fields, features and their rules.
