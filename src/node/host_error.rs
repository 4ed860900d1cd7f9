//! From what a step on the node says to the domain's kinds.
//!
//! Only the kinds that an errno has wherever it comes from. What ENOENT, EBUSY or EROFS
//! mean depends on the step: whoever expects one says so itself.

use crate::host::HostError;
use crate::volume::error::{Error, Kind};

impl From<HostError> for Error {
    fn from(error: HostError) -> Self {
        let kind = match error.errno {
            libc::ETIMEDOUT => Kind::Timeout,
            // Of the node, not of the pool: somebody has to make room, then a repeat succeeds.
            libc::ENOSPC | libc::EDQUOT | libc::ENOMEM | libc::EMFILE | libc::ENFILE => Kind::Unavailable,
            libc::EIO | libc::EAGAIN | libc::EINTR | libc::ESHUTDOWN => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, "").because(error)
    }
}
