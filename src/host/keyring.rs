//! A cephx key for the kernel, in the keyring of the calling thread.
//!
//! The kernel client looks a key up by its name with the credentials of whoever
//! writes the map line, so a thread keyring is enough: it ends with the thread and
//! no other thread or process can see it. What a reader gets wrong: the key must be
//! added and the map line written on the same thread.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::error::{HostError, Result};
use crate::secret::Secret;

/// [`HostError::op`] of a key that the kernel does not take.
pub const ADD: &str = "add_key";

/// `KEY_SPEC_THREAD_KEYRING` of linux/keyctl.h.
const THREAD_KEYRING: libc::c_long = -1;

/// The name under which the kernel finds the key of `user` (without `client.`).
pub fn key_name(user: &str) -> String {
    format!("client.{user}")
}

/// Puts the key (base64, as in a keyring file) into this thread's keyring (`add_key(2)`, type "ceph").
///
/// # Errors
/// EINVAL for a key that is no cephx key; ENODEV when the kernel has no such key type
/// (libceph is not loaded); EDQUOT when root's key quota is used up.
pub fn add_to_thread(user: &str, key: &Secret) -> Result<()> {
    let name = key_name(user);
    let failed = |errno| HostError::new(ADD, name.clone(), errno);
    // Room for the whole key at once: a buffer that grows would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(key.reveal().len()));
    STANDARD
        .decode_vec(key.reveal().trim(), &mut bytes)
        .map_err(|_| failed(libc::EINVAL).with("the key of the secret is not base64 text"))?;
    let description = std::ffi::CString::new(name.clone())
        .map_err(|_| failed(libc::EINVAL).with("the user's name contains a NUL"))?;
    // SAFETY: both strings end with NUL, payload and length belong to `bytes`, all live
    // through the call; the kernel copies them.
    let serial = unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"ceph".as_ptr(),
            description.as_ptr(),
            bytes.as_ptr(),
            bytes.len(),
            THREAD_KEYRING,
        )
    };
    if serial >= 0 {
        return Ok(());
    }
    Err(match nix::errno::Errno::last_raw() {
        libc::EINVAL => failed(libc::EINVAL).with("the key of the secret is not a cephx key"),
        libc::ENOENT => failed(libc::ENOENT).with("the kernel lacks the cipher cbc(aes)"),
        errno => failed(errno),
    })
}
