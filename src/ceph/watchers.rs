//! Who watches an object: `librados::IoCtx::list_watchers` through `watchers.cc`.
//!
//! What a reader gets wrong: a client that died keeps its watch for another 30
//! seconds (`osd_client_watch_timeout`), and a read-only mapping has none.

use std::ffi::CStr;
use std::ptr::{null, null_mut};
use std::time::Duration;

use super::encoding::{Decoded, Decoder};
use super::error::{CephError, Result};
use super::ffi;
use super::image::ImageId;
use super::pool::Pool;
use super::read_op::owned;

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

impl Pool {
    /// Which of an image's watchers answer within that time (`rados_notify2`): a watch alone
    /// does not say that, since it outlives its client by half a minute. The notification is
    /// empty, which librbd and krbd take for a changed header: they read it anew, and answer.
    /// Two operations when somebody watches; ENOENT when there is no image.
    pub async fn who_answers(&self, id: &ImageId, limit: Duration) -> Result<Vec<Watch>> {
        const OP: &str = "rados_notify2";
        let object = id.header_object();
        let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let ask = move |io: ffi::rados_ioctx_t, object: &CStr| {
            let (mut reply, mut length) = (null_mut(), 0usize);
            // SAFETY: a live context, a C string, no payload, room for the reply, which is copied
            // and freed.
            unsafe {
                let code = ffi::rados_notify2(io, object.as_ptr(), null(), 0, limit, &mut reply, &mut length);
                let bytes = owned(reply, length);
                if !reply.is_null() {
                    ffi::rados_buffer_free(reply);
                }
                // Somebody did not answer; who did stands in the reply.
                let code = if code == -libc::ETIMEDOUT && !bytes.is_empty() { 0 } else { code };
                (code.into(), bytes)
            }
        };
        let reply = self.blocking(OP, &object, &object, ask).await?;
        answers(&reply).map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))
    }
}

/// What the OSD gathered: (client, watch) and its answer, then those who gave none.
fn answers(reply: &[u8]) -> Decoded<Vec<Watch>> {
    let mut reply = Decoder::new(reply);
    let count = reply.u32()?;
    (0..count)
        .map(|_| {
            let watch = (reply.u64()?, reply.u64()?);
            reply.bytes()?;
            Ok(watch)
        })
        .collect()
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
