//! What a failed step on this node says: the step, the object, the errno, a detail.

use crate::errno;

/// A failed step on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostError {
    /// The step or the program (`mount`, `mkfs.ext4`, `krbd map`, …).
    pub op: &'static str,
    /// What it was done to, such as `/dev/rbd0`.
    pub object: String,
    /// The positive errno.
    pub errno: i32,
    /// What more is known: the program's last words, who is in the way.
    pub detail: Option<String>,
}

impl HostError {
    /// `errno` may be given as C returns it, negative.
    pub fn new(op: &'static str, object: impl Into<String>, errno: i32) -> Self {
        Self { op, object: object.into(), errno: errno.abs(), detail: None }
    }

    /// From an error of the standard library; EIO when it carries no errno.
    pub fn io(op: &'static str, object: impl Into<String>, error: &std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::new(op, object, errno),
            None => Self::new(op, object, libc::EIO).with(error.to_string()),
        }
    }

    /// The same error with what more is known.
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Whether the step failed with this (positive) errno.
    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

impl std::fmt::Display for HostError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.op, self.object, errno::describe(self.errno))?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for HostError {}

/// The result of a step on this node.
pub type Result<T> = std::result::Result<T, HostError>;
