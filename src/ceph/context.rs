//! The handle that librados gives for a pool and a namespace in it.

use super::connection::Connection;
use super::ffi;

/// An I/O context of librados, destroyed with its last user.
pub(super) struct Context {
    io: ffi::rados_ioctx_t,
    // The context must go before its cluster handle does.
    _connection: Connection,
}

// SAFETY: librados' I/O contexts may be used by several threads at once as long
// as nobody changes their settings; ours are set in `open` and never after.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Takes over a context that was made with this connection.
    pub(super) fn new(io: ffi::rados_ioctx_t, connection: &Connection) -> Self {
        Self { io, _connection: connection.clone() }
    }

    /// For C calls while the context lives.
    pub(super) fn io(&self) -> ffi::rados_ioctx_t {
        self.io
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `rados_ioctx_create2`, destroyed once.
        unsafe { ffi::rados_ioctx_destroy(self.io) }
    }
}
