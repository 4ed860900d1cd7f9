//! Exclusive RADOS locks on an object (object class `lock`), and fencing their holders.
//!
//! Lives here: taking and giving back as steps of a compound write, so that they
//! cost nothing; who holds one; breaking it. A holder is a client and a cookie:
//! two processes with the same cookie are still two holders. A lock says nothing
//! of whether its holder lives; fencing makes sure that it does no more harm.

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use super::connection::Connection;
use super::encoding::Encoder;
use super::error::{CephError, Result};
use super::ffi;
use super::pool::Pool;
use super::write_op::WriteOp;

/// `ClsLockType::EXCLUSIVE`.
const EXCLUSIVE: u8 = 1;
/// `LOCK_FLAG_MAY_RENEW`: the holder may take it again.
const MAY_RENEW: u8 = 1;
/// Room for the answers of `rados_list_lockers`; an exclusive lock has one holder.
const ROOM: usize = 1024;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The client, such as `client.4123`.
    pub client: String,
    /// What it wrote beside its name.
    pub cookie: String,
    /// Its address, in the form in which a blocklist takes it.
    pub address: String,
}

/// Adds taking the lock: the whole operation fails with EBUSY while another holds it.
pub fn take(op: WriteOp, lock: &str, cookie: &str) -> WriteOp {
    take_for(op, lock, cookie, Duration::ZERO)
}

/// Adds taking the lock for a time, zero: for ever, or holding on to it for as long again.
/// The whole operation fails with EBUSY while another holds it.
pub fn take_for(op: WriteOp, lock: &str, cookie: &str, time: Duration) -> WriteOp {
    // cls_lock_lock_op: name, type, cookie, tag, description, duration, flags.
    let fields =
        Encoder::default().text(lock).u8(EXCLUSIVE).text(cookie).text("").text("").time(time).u8(MAY_RENEW);
    op.exec(c"lock", c"lock", Encoder::default().versioned(1, 1, fields).finish())
}

/// Adds giving the lock back: the whole operation fails with ENOENT when it is not ours.
pub fn give_back(op: WriteOp, lock: &str, cookie: &str) -> WriteOp {
    // cls_lock_unlock_op: name, cookie.
    let fields = Encoder::default().text(lock).text(cookie);
    op.exec(c"lock", c"unlock", Encoder::default().versioned(1, 1, fields).finish())
}

impl Pool {
    /// Who holds an exclusive lock, if anybody (`rados_list_lockers`).
    pub async fn lock_holder(&self, object: &str, lock: &str) -> Result<Option<Holder>> {
        const OP: &str = "rados_list_lockers";
        let lock = c_text(OP, lock)?;
        self.blocking(OP, object, object, move |io, object| {
            let mut exclusive = 0;
            let (mut tag, mut clients) = ([0_u8; ROOM], [0_u8; ROOM]);
            let (mut cookies, mut addresses) = ([0_u8; ROOM], [0_u8; ROOM]);
            let mut lengths = [ROOM; 4];
            let [tag_length, clients_length, cookies_length, addresses_length] = &mut lengths;
            // SAFETY: live context and texts; each buffer comes with its own length.
            let count = unsafe {
                ffi::rados_list_lockers(
                    io,
                    object.as_ptr(),
                    lock.as_ptr(),
                    &mut exclusive,
                    buffer(&mut tag),
                    tag_length,
                    buffer(&mut clients),
                    clients_length,
                    buffer(&mut cookies),
                    cookies_length,
                    buffer(&mut addresses),
                    addresses_length,
                )
            };
            let holder = (count > 0).then(|| Holder {
                client: first(&clients),
                cookie: first(&cookies),
                address: first(&addresses),
            });
            (count as i64, holder)
        })
        .await
    }

    /// Takes the lock away from its holder; ENOENT when it does not hold it any more.
    pub async fn break_lock(&self, object: &str, lock: &str, holder: &Holder) -> Result<()> {
        const OP: &str = "rados_break_lock";
        let (lock, client, cookie) =
            (c_text(OP, lock)?, c_text(OP, &holder.client)?, c_text(OP, &holder.cookie)?);
        self.blocking(OP, object, object, move |io, object| {
            // SAFETY: live context and texts.
            let code = unsafe {
                ffi::rados_break_lock(io, object.as_ptr(), lock.as_ptr(), client.as_ptr(), cookie.as_ptr())
            };
            (code.into(), ())
        })
        .await
    }
}

impl Connection {
    /// Puts a client on the cluster's blocklist for the cluster's default time
    /// (an hour): nothing that it still sends is done (`rados_blocklist_add`,
    /// allowed by mon caps `profile rbd`).
    pub async fn blocklist(&self, address: &str) -> Result<()> {
        const OP: &str = "rados_blocklist_add";
        let text = c_text(OP, address)?;
        let work = move |cluster| {
            // SAFETY: a live cluster handle; the function does not change the text
            // though its type says that it might.
            let code = unsafe { ffi::rados_blocklist_add(cluster, text.as_ptr().cast_mut(), 0) };
            (i64::from(code), ())
        };
        self.blocking(OP, address.to_owned(), work).await.map(|_| ())
    }
}

fn c_text(op: &'static str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| CephError::new(op, text, libc::EINVAL))
}

fn buffer(bytes: &mut [u8]) -> *mut c_char {
    bytes.as_mut_ptr().cast()
}

/// The first of the texts that C wrote one behind the other.
fn first(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}
