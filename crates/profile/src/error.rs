//! What can be wrong with a profile, in one line with file and key.

use std::fmt;

/// A profile that cannot be used, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ProfileError {
    /// No built-in profile has this name.
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The text is not TOML of the schema.
    Syntax {
        /// File (or built-in name).
        file: String,
        /// Line, from 1.
        line: usize,
        /// What the parser said.
        what: String,
    },
    /// A key has a value that makes no sense.
    Value {
        /// File (or built-in name).
        file: String,
        /// Path of the key.
        key: String,
        /// What is wrong.
        what: String,
    },
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "No host profile is called {name:?}; there are ")?;
                for (i, n) in crate::names().enumerate() {
                    write!(f, "{}{n}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Syntax { file, line, what } => write!(f, "{file}:{line}: {what}"),
            Self::Value { file, key, what } => write!(f, "{file}: {key}: {what}"),
        }
    }
}

impl std::error::Error for ProfileError {}
