//! librbd's progress callback: told how far a long call is, and asked whether to go on.
//!
//! What a reader gets wrong: dropping the future of a call does not stop librbd; only this
//! does. librbd asks before it begins with the next object, on the one thread that serves the
//! whole client, so the answer must come at once. Stopped, the call fails with ECANCELED
//! after the objects that are under way (ten, `rbd_concurrent_management_ops`).

use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// Told (done, total) for each object; `false` stops the call. Must not wait for anything.
#[derive(Clone)]
pub struct KeepGoing(Arc<dyn Fn(u64, u64) -> bool + Send + Sync>);

impl KeepGoing {
    /// Asks this function.
    pub fn new(ask: impl Fn(u64, u64) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }

    /// To the end, whatever happens.
    pub fn always() -> Self {
        Self::new(|_, _| true)
    }

    /// The argument for C that belongs to [`asked`]: alive as long as this value is.
    pub(super) fn argument(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

impl std::fmt::Debug for KeepGoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeepGoing")
    }
}

/// For C.
///
/// # Safety
/// `argument` is of a live [`KeepGoing`].
pub(super) unsafe extern "C" fn asked(done: u64, total: u64, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let keep_going = unsafe { &*argument.cast::<KeepGoing>() };
    if (keep_going.0)(done, total) { 0 } else { -libc::ECANCELED }
}
