//! Setting a client up: its configuration, in which order, and the connect.
//!
//! 1. `rados_create2("ceph", "client.<user>")`
//! 2. our defaults: time-outs, no log, no admin socket
//! 3. `ceph.conf`, when it is there: a checked copy (`conf_file`), whose values win over our defaults
//! 4. monitors and key: always ours, and no other place to take a key from
//! 5. `rados_connect`, bounded by `client_mount_timeout`
//!
//! What a reader gets wrong: `rados_conf_set` beats every file, however late that
//! is read, so a default that a file may change must come from a file, too: one
//! in memory. librados complains on stderr about a bad key
//! unless told not to. The key is in this process's memory only; no error here
//! carries a value, only an option's name.

use std::ffi::{CStr, CString};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::ptr::null_mut;

use zeroize::Zeroizing;

use super::conf_file;
use super::connection::Connection;
use super::credentials::Credentials;
use super::error::{CephError, Result};
use super::ffi;

/// Read before `ceph.conf`, so that it can say otherwise. Without the first
/// three a dead monitor holds a call for 300 s and a dead OSD for ever.
const DEFAULTS: &str = "[global]
client_mount_timeout = 15
rados_osd_op_timeout = 30
rados_mon_op_timeout = 30
log_file =
log_to_stderr = false
err_to_stderr = false
admin_socket =
";

/// A handle that is not connected yet; shut down unless it is handed on.
struct Client(ffi::rados_t);

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: made by `rados_create2`; this is its only owner. We are on a
        // blocking thread already, and without a connection it does not wait.
        unsafe { ffi::rados_shutdown(self.0) }
    }
}

/// Connects; blocks up to `client_mount_timeout`. EACCES: unknown user, wrong
/// key or no monitor caps. ETIMEDOUT: no monitor answered.
pub(super) fn connect(
    ceph_conf: Option<&Path>,
    monitors: &[String],
    credentials: &Credentials,
) -> (i64, Option<Result<Connection>>) {
    match set_up(ceph_conf, monitors, credentials) {
        Ok(client) => {
            // SAFETY: a live handle, configured, not connected yet.
            let code = unsafe { ffi::rados_connect(client.0) };
            if code < 0 {
                return (code.into(), None);
            }
            let cluster = client.0;
            std::mem::forget(client);
            (0, Some(Connection::adopt(cluster, label(monitors, credentials))))
        }
        Err(error) => (0, Some(Err(error))),
    }
}

/// What errors and logs call the client.
pub(super) fn label(monitors: &[String], credentials: &Credentials) -> String {
    format!("client.{}@{}", credentials.user(), monitors.join(","))
}

fn set_up(ceph_conf: Option<&Path>, monitors: &[String], credentials: &Credentials) -> Result<Client> {
    let object = label(monitors, credentials);
    let client = create(credentials.user(), &object)?;
    client.read(DEFAULTS.as_bytes(), "our defaults")?;
    if let Some(path) = ceph_conf
        && let Some(text) = conf_file::read(path)?
    {
        client.read(&text, &path.display().to_string())?;
    }
    let text = |text: String| {
        CString::new(text).map_err(|_| CephError::new("rados_conf_set", &*object, libc::EINVAL))
    };
    client.set(c"mon_host", &text(monitors.join(","))?, &object)?;
    // Both are looked at before mon_host (MonMap::build_initial), as keyring and keyfile
    // are before the key.
    for other in [c"mon_host_override", c"monmap", c"keyring", c"keyfile"] {
        client.set(other, c"", &object)?;
    }
    client.set_key(credentials.key.reveal().trim(), &object)?;
    Ok(client)
}

fn create(user: &str, object: &str) -> Result<Client> {
    const OP: &str = "rados_create2";
    let name =
        CString::new(format!("client.{user}")).map_err(|_| CephError::new(OP, object, libc::EINVAL))?;
    let mut cluster = null_mut();
    // SAFETY: C strings and room for the handle.
    let code = unsafe { ffi::rados_create2(&mut cluster, c"ceph".as_ptr(), name.as_ptr(), 0) };
    if code < 0 { Err(CephError::new(OP, object, code)) } else { Ok(Client(cluster)) }
}

impl Client {
    fn set(&self, option: &CStr, value: &CStr, object: &str) -> Result<()> {
        // SAFETY: a live handle and C strings, which librados copies.
        let code = unsafe { ffi::rados_conf_set(self.0, option.as_ptr(), value.as_ptr()) };
        if code < 0 {
            let option = option.to_string_lossy();
            return Err(CephError::new("rados_conf_set", format!("{option} of {object}"), code));
        }
        Ok(())
    }

    fn set_key(&self, key: &str, object: &str) -> Result<()> {
        // One allocation of the final size, wiped when it goes.
        let mut text = Zeroizing::new(Vec::with_capacity(key.len() + 1));
        text.extend_from_slice(key.as_bytes());
        text.push(0);
        let text = CStr::from_bytes_with_nul(&text)
            .map_err(|_| CephError::new("rados_conf_set", format!("key of {object}"), libc::EINVAL))?;
        self.set(c"key", text, object)
    }

    /// Reads options from a copy in memory; `object` is what it is a copy of.
    fn read(&self, text: &[u8], object: &str) -> Result<()> {
        let failed = |errno| CephError::new(conf_file::OP, object, errno);
        let copy = conf_file::in_memory(text);
        let copy = copy.map_err(|error| failed(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let name = CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
        let name = name.map_err(|_| failed(libc::EINVAL))?;
        // SAFETY: a live handle and a C string; the copy is open meanwhile.
        match unsafe { ffi::rados_conf_read_file(self.0, name.as_ptr()) } {
            code if code >= 0 => Ok(()),
            code => Err(failed(code)),
        }
    }
}
