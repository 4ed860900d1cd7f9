//! Exclusive RADOS locks on an object (object class `lock`), and fencing their holders.
//!
//! Lives here: taking and giving back as steps of a compound write, so that they
//! cost nothing; who holds one; breaking it. A holder is a client and a cookie:
//! two processes with the same cookie are still two holders. A lock says nothing
//! of whether its holder lives; fencing makes sure that it does no more harm.
//!
//! What a reader gets wrong: class `lock` keeps a lock's extended attribute when the lock
//! is given back or broken, without a holder in it, for ever, and every write to the object
//! writes all of its attributes anew. So whoever ends a lock removes the attribute in the
//! same operation; one whose time ran out is removed by [`sweep`].

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use super::connection::Connection;
use super::encoding::Encoder;
use super::error::{CephError, Result};
use super::ffi;
use super::image::ImageId;
use super::pool::Pool;
use super::watchers::{Watch, Watcher};
use super::write_op::WriteOp;

/// `ClsLockType::EXCLUSIVE`.
const EXCLUSIVE: u8 = 1;
/// `LOCK_FLAG_MAY_RENEW`: the holder may take it again.
const MAY_RENEW: u8 = 1;
/// `CEPH_ENTITY_TYPE_CLIENT`.
const CLIENT: u8 = 8;
/// The holder may not take it again.
const ONCE: u8 = 0;
/// What class `lock` puts before a lock's name to get the attribute's.
const XATTR: &str = "lock.";
/// librbd's and krbd's own lock on an image's header: who may write the image.
pub(super) const IMAGE_LOCK: &str = "rbd_lock";
/// The tag of such a lock that was taken on need; krbd and librbd refuse to share an image that is
/// locked with another.
const INTERNAL: &str = "internal";
/// How the cookie of such a lock begins that was taken on need, not by a person.
const AUTOMATIC: &str = "auto ";
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

impl Holder {
    /// Of the holder of an image's lock: the cookie of the watch on the header that it was
    /// taken with; `None` when a person took the lock (`rbd lock add`).
    pub fn watch_cookie(&self) -> Option<u64> {
        self.cookie.strip_prefix(AUTOMATIC)?.parse().ok()
    }

    /// Of the holder of an image's lock: whether it still watches the image. One that does
    /// not is dead or cut off, and librbd blocklists it before it takes the lock over.
    pub fn is_among(&self, watchers: &[Watcher]) -> bool {
        let held = self.watch();
        held.is_some_and(|held| watchers.iter().any(|watcher| (watcher.client, watcher.cookie) == held))
    }

    /// Of the holder of an image's lock: the watch that it was taken with.
    pub fn watch(&self) -> Option<Watch> {
        let number = self.client.strip_prefix("client.").and_then(|number| number.parse().ok());
        number.zip(self.watch_cookie())
    }
}

/// Adds taking the lock: the whole operation fails with EBUSY while another holds it.
pub fn take(op: WriteOp, lock: &str, cookie: &str) -> WriteOp {
    take_for(op, lock, cookie, Duration::ZERO)
}

/// Adds taking the lock for a time, zero: for ever, or holding on to it for as long again.
/// The whole operation fails with EBUSY while another holds it.
pub fn take_for(op: WriteOp, lock: &str, cookie: &str, time: Duration) -> WriteOp {
    take_with(op, lock, cookie, time, MAY_RENEW)
}

fn take_with(op: WriteOp, lock: &str, cookie: &str, time: Duration, flags: u8) -> WriteOp {
    take_tagged(op, lock, (cookie, ""), time, flags)
}

fn take_tagged(op: WriteOp, lock: &str, (cookie, tag): (&str, &str), time: Duration, flags: u8) -> WriteOp {
    // cls_lock_lock_op: name, type, cookie, tag, description, duration, flags.
    let fields =
        Encoder::default().text(lock).u8(EXCLUSIVE).text(cookie).text(tag).text("").time(time).u8(flags);
    op.exec(c"lock", c"lock", Encoder::default().versioned(1, 1, fields).finish())
}

/// The extended attribute that a lock of this name is kept in ([`Pool::list_xattrs`]).
pub fn xattr(lock: &str) -> String {
    format!("{XATTR}{lock}")
}

/// The name of the lock that an extended attribute keeps, if it does.
pub fn of_xattr(name: &str) -> Option<&str> {
    name.strip_prefix(XATTR)
}

/// Adds the removal of what is left of a lock that nobody holds: the whole operation fails
/// with EBUSY while somebody else holds it, with EEXIST while we do.
pub fn sweep(op: WriteOp, lock: &str) -> WriteOp {
    // It is taken only for the check; the object never has the lock.
    take_with(op, lock, "sweep", Duration::ZERO, ONCE).remove_xattr(&xattr(lock))
}

/// Adds giving the lock back, and leaves nothing of it: the whole operation fails with
/// ENOENT when it is not ours.
pub fn give_back(op: WriteOp, lock: &str, cookie: &str) -> WriteOp {
    // cls_lock_unlock_op: name, cookie.
    let fields = Encoder::default().text(lock).text(cookie);
    op.exec(c"lock", c"unlock", Encoder::default().versioned(1, 1, fields).finish())
        .remove_xattr(&xattr(lock))
}

/// The cookie of an image's exclusive lock that is taken with this watch on its header.
pub(super) fn image_cookie(watch: u64) -> String {
    format!("{AUTOMATIC}{watch}")
}

/// Adds taking an image's exclusive lock as librbd does ([`super::ImageLock`] has the whole
/// protocol): the whole operation fails with EBUSY while another holds it.
pub(super) fn take_image(op: WriteOp, cookie: &str) -> WriteOp {
    take_tagged(op, IMAGE_LOCK, (cookie, INTERNAL), Duration::ZERO, MAY_RENEW)
}

/// Adds that this client holds an image's exclusive lock: else the whole operation fails with EBUSY.
pub(super) fn assert_image(op: WriteOp, cookie: &str) -> WriteOp {
    // cls_lock_assert_op: name, type, cookie, tag.
    let fields = Encoder::default().text(IMAGE_LOCK).u8(EXCLUSIVE).text(cookie).text(INTERNAL);
    op.exec(c"lock", c"assert_locked", Encoder::default().versioned(1, 1, fields).finish())
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

    /// Takes an exclusive lock away from its holder, and leaves nothing of it; ENOENT when
    /// it does not hold it any more.
    pub async fn break_lock(&self, object: &str, lock: &str, holder: &Holder) -> Result<()> {
        const OP: &str = "lock break";
        let number = holder.client.strip_prefix("client.").and_then(|number| number.parse().ok());
        let number: u64 =
            number.ok_or_else(|| CephError::new(OP, format!("{lock} of {}", holder.client), libc::EINVAL))?;
        // cls_lock_break_op: name, locker (entity_name_t), cookie.
        let fields = Encoder::default().text(lock).u8(CLIENT).u64(number).text(&holder.cookie);
        let input = Encoder::default().versioned(1, 1, fields).finish();
        // It has one holder: once it is broken, the attribute is nobody's.
        let op = WriteOp::new().exec(c"lock", c"break_lock", input).remove_xattr(&xattr(lock));
        self.write(OP, object, op).await
    }

    /// Who owns an image's exclusive lock, if anybody does, or if a person locked it
    /// ([`Holder::watch_cookie`] tells); nobody when there is no image. Compare it with
    /// [`Pool::image_watchers`] by [`Holder::is_among`]. One operation.
    pub async fn image_lock_owner(&self, id: &ImageId) -> Result<Option<Holder>> {
        match self.lock_holder(&id.header_object(), IMAGE_LOCK).await {
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            holder => holder,
        }
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
