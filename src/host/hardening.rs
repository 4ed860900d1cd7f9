//! What the process asks of libc and the kernel for itself: before it starts
//! threads, and when it ends while some of them are in calls that do not return.

use super::error::{HostError, Result};

/// Arenas of glibc's allocator: it makes one for each thread otherwise and keeps
/// them, tens of megabytes for the threads of librados.
const ARENAS: i32 = 2;

/// Bounds the allocator's arenas, and keeps memory with secrets out of core dumps
/// and from other processes (PR_SET_DUMPABLE, prctl(2)).
///
/// # Errors
/// The errno of what was refused; the process can work without.
pub fn harden() -> Result<()> {
    // SAFETY: plain integers.
    if unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) } == 0 {
        return Err(HostError::new("mallopt", "M_ARENA_MAX", libc::EINVAL));
    }
    nix::sys::prctl::set_dumpable(false)
        .map_err(|errno| HostError::new("prctl", "PR_SET_DUMPABLE", errno as i32))
}

/// Ends the process at once, without destructors.
///
/// For an end while a thread is still within librados: the C++ library's globals
/// would be torn down under it, and the process would abort instead.
pub fn leave(code: i32) -> ! {
    // SAFETY: _exit(2) takes a plain integer and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_process_cannot_be_dumped() {
        super::harden().unwrap();
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
    }
}
