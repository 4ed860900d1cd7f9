//! Who watches an object: `librados::IoCtx::list_watchers` through `watchers.cc`.
//!
//! What a reader gets wrong: a client that died keeps its watch for another 30
//! seconds (`osd_client_watch_timeout`), and a read-only mapping has none.

use std::ffi::CStr;

use super::error::Result;
use super::ffi;
use super::pool::Pool;

/// A client that watches an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    /// `ip:port/nonce`, as in krbd's `client_addr` and in the blocklist.
    pub address: String,
    /// The client's number: [`super::Connection::instance_id`], or N of krbd's `clientN`.
    pub client: u64,
    /// Tells several watches of one client apart.
    pub cookie: u64,
}

impl Pool {
    /// The object's watchers, one operation; ENOENT when it is absent.
    pub async fn watchers(&self, object: &str) -> Result<Vec<Watcher>> {
        self.blocking("list_watchers", object, object, |io, name| {
            let (mut code, mut watchers) = list(io, name, 16);
            if code == -libc::ERANGE {
                (code, watchers) = list(io, name, 4096);
            }
            (code.into(), watchers)
        })
        .await
    }
}

/// A client, and which of its watches of an object it is.
pub type Watch = (u64, u64);

/// Whether the cookie of a watch, or of a lock that was taken with it, is a kernel client's:
/// libceph numbers its requests of its own from `CEPH_LINGER_ID_START`; librados gives
/// pointers, which are below that.
pub fn is_kernels(cookie: u64) -> bool {
    cookie >= 0xffff_0000_0000_0000
}

fn list(io: ffi::rados_ioctx_t, object: &CStr, most: usize) -> (i32, Vec<Watcher>) {
    let empty = ffi::rbd_csi_watcher { address: [0; 256], client: 0, cookie: 0 };
    let mut out = vec![empty; most];
    let mut count = most;
    // SAFETY: a live context, a C string, and room for `count` entries.
    let code = unsafe { ffi::rbd_csi_list_watchers(io, object.as_ptr(), out.as_mut_ptr(), &mut count) };
    let filled = if code < 0 { 0 } else { count.min(most) };
    (code, out[..filled].iter().map(watcher).collect())
}

fn watcher(raw: &ffi::rbd_csi_watcher) -> Watcher {
    // SAFETY: the shim ends each address with a NUL inside the array.
    let address = unsafe { CStr::from_ptr(raw.address.as_ptr()) };
    Watcher { address: address.to_string_lossy().into_owned(), client: raw.client, cookie: raw.cookie }
}
