//! What a failed Ceph call says: the function, the object, the errno.

use crate::errno;

/// A failed call to librados or librbd.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op} {object}: {}", errno::describe(*.errno))]
pub struct CephError {
    /// The C function (`rados_write_op_operate: journal reserve`, `rbd_create4`, …).
    pub op: &'static str,
    /// What it was called on, such as `rbd/csi.volumes.default`.
    pub object: String,
    /// The positive errno.
    pub errno: i32,
}

impl CephError {
    /// `errno` may be given as C returns it, negative.
    pub fn new(op: &'static str, object: impl Into<String>, errno: i32) -> Self {
        Self { op, object: object.into(), errno: errno.abs() }
    }

    /// Whether the call failed with this (positive) errno.
    pub fn is(&self, errno: i32) -> bool {
        self.errno == errno
    }
}

/// The result of a Ceph call.
pub type Result<T> = std::result::Result<T, CephError>;
