//! What is wrong with a configuration file, and where.

use std::fmt;
use std::path::{Path, PathBuf};

use super::json::Fault;
use crate::volume::error::{Error, Kind};

/// A configuration file that cannot be read or understood.
#[derive(Debug)]
pub struct ConfigError {
    file: PathBuf,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Unreadable(std::io::Error),
    Invalid(Fault),
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, reason: std::io::Error) -> Self {
        Self { file: file.to_owned(), reason: Reason::Unreadable(reason) }
    }

    pub(super) fn invalid(file: &Path, fault: Fault) -> Self {
        Self { file: file.to_owned(), reason: Reason::Invalid(fault) }
    }
}

impl fmt::Display for ConfigError {
    /// As compilers write it: `file:line:column: field: what`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.reason {
            Reason::Unreadable(reason) => write!(f, "{file}: {reason}"),
            Reason::Invalid(Fault { line, column, field, text }) if field.is_empty() => {
                write!(f, "{file}:{line}:{column}: {text}")
            }
            Reason::Invalid(Fault { line, column, field, text }) => {
                write!(f, "{file}:{line}:{column}: {field}: {text}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Error {
    /// Nothing is wrong with the call: whoever runs the cluster must act first.
    fn from(error: ConfigError) -> Self {
        Self::new(Kind::Precondition, "the driver's configuration is unusable").because(error)
    }
}
