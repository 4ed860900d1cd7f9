//! An image that is opened through librbd, for what cannot be done from outside.
//!
//! Lives here: opening, what is done with an open image, closing. Not here: what needs no
//! open image (`image`, `snapshot`, `clone`). What a reader gets wrong:
//! - Opening costs 9 to 12 operations and a watch; who has a watch is in use for everybody.
//! - Opening takes no lock. With `exclusive-lock` a snapshot, growth and flatten do: librbd
//!   asks the owner for it (krbd gives it back and takes it again with its next write), and
//!   *blocklists an owner that has no watch* ([`Pool::image_lock_owner`] tells beforehand).
//! - An image that is killed without a close keeps watch and lock until the client's watch
//!   ends (30 s). [`Image::close`] tells when it has happened; a dropped image is closed on a
//!   thread of its own, which nobody hears of.

use std::ffi::CString;
use std::ptr::{null, null_mut};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedSemaphorePermit};

use super::error::{CephError, Result};
use super::ffi;
use super::image::ImageId;
use super::keep_going::{KeepGoing, asked};
use super::pool::Pool;
use super::shutdown;

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// To look: no watch, no lock, nothing can be changed.
    ReadOnly,
    /// To change something: has a watch.
    ReadWrite,
}

/// librbd's handle, null once it is closed; closed with its last user.
struct Opened {
    image: ffi::rbd_image_t,
    // The image must go before its context, and that before its connection.
    pool: Pool,
    shown: String,
    room: Option<OwnedSemaphorePermit>,
}

// SAFETY: librbd's image handle is of no thread; the mutex around it lets one use it at a time.
unsafe impl Send for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        let image = std::mem::replace(&mut self.image, null_mut());
        if !image.is_null() {
            let (pool, shown, room) = (self.pool.clone(), self.shown.clone(), self.room.take());
            let rest = Self { image, pool, shown, room };
            shutdown::on_thread("rbd-close", move || close_alone(rest));
        }
    }
}

/// Closes an image that was dropped: on a thread that has no runtime, since that in which it
/// was dropped may be gone.
fn close_alone(opened: Opened) {
    let (shown, connection) = (opened.shown.clone(), opened.pool.connection().clone());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, image = shown, "not closed; its watch ends with this client");
            return std::mem::forget(opened);
        }
    };
    let closed = runtime.block_on(async move {
        connection.blocking("rbd_close", shown, move |_| (close_now(opened), ())).await
    });
    if let Err(error) = closed {
        tracing::warn!(%error, "not closed well; its watch ends with this client");
    }
}

fn close_now(mut opened: Opened) -> i64 {
    let image = std::mem::replace(&mut opened.image, null_mut());
    // SAFETY: an open image that nobody else has, and never will again.
    unsafe { ffi::rbd_close(image) }.into()
}

/// An open image. One call at a time: a second one waits for the first.
pub struct Image {
    opened: Arc<Mutex<Option<Opened>>>,
    pool: Pool,
    shown: String,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({})", self.shown)
    }
}

impl Pool {
    /// Opens an image (`rbd_open_by_id`, `rbd_open_by_id_read_only`); ENOENT when it is gone
    /// or what it is a clone of is. Finds it in the trash too. Waits while too many are open.
    pub async fn open_image(&self, id: &ImageId, mode: OpenMode) -> Result<Image> {
        let op = match mode {
            OpenMode::ReadOnly => "rbd_open_by_id_read_only",
            OpenMode::ReadWrite => "rbd_open_by_id",
        };
        let shown = self.describe(id.as_str());
        let room = self.connection().room_for_image().await;
        let (pool, of) = (self.clone(), shown.clone());
        let opened = self.blocking(op, id.as_str(), id.as_str(), move |io, id| {
            let mut image = null_mut();
            // SAFETY: a live context, a C string and room for the handle; no snapshot.
            let code = unsafe {
                match mode {
                    OpenMode::ReadOnly => ffi::rbd_open_by_id_read_only(io, id.as_ptr(), &mut image, null()),
                    OpenMode::ReadWrite => ffi::rbd_open_by_id(io, id.as_ptr(), &mut image, null()),
                }
            };
            // On failure librbd has freed it.
            let image = if code < 0 { null_mut() } else { image };
            (code.into(), Opened { image, pool, shown: of, room })
        });
        let opened = Arc::new(Mutex::new(Some(opened.await?)));
        Ok(Image { opened, pool: self.clone(), shown })
    }
}

impl Image {
    /// Makes a snapshot (`rbd_snap_create`), one monitor commit; EEXIST when there is
    /// one of that name. With `exclusive-lock` the lock is asked for: EROFS when its owner
    /// will not give it. Writes that were answered before this call are in it; nothing
    /// that is written after its answer is.
    pub async fn create_snapshot(&self, name: &str) -> Result<()> {
        let name = self.c_text("rbd_snap_create", name)?;
        self.on_image("rbd_snap_create", move |image| {
            // SAFETY: an open image and a C string.
            (unsafe { ffi::rbd_snap_create(image, name.as_ptr()) }.into(), ())
        })
        .await
    }

    /// Removes a snapshot (`rbd_snap_remove`); one that has clones goes to the snapshots'
    /// trash and with the last of them. ENOENT when there is none of that name, EBUSY when it
    /// is protected. Asks for the lock as [`Image::create_snapshot`] does.
    pub async fn remove_snapshot(&self, name: &str) -> Result<()> {
        let name = self.c_text("rbd_snap_remove", name)?;
        self.on_image("rbd_snap_remove", move |image| {
            // SAFETY: an open image and a C string.
            (unsafe { ffi::rbd_snap_remove(image, name.as_ptr()) }.into(), ())
        })
        .await
    }

    /// Grows the image (`rbd_resize2`), never shrinks it: EINVAL, also when somebody else has
    /// made it larger meanwhile. The size that it has is fine. Asks for the lock as
    /// [`Image::create_snapshot`] does.
    pub async fn resize(&self, size: u64) -> Result<()> {
        self.on_image("rbd_resize2", move |image| {
            let all = KeepGoing::always();
            // SAFETY: an open image; the argument outlives the call.
            let code = unsafe { ffi::rbd_resize2(image, size, false, Some(asked), all.argument()) };
            (code.into(), ())
        })
        .await
    }

    /// The image's size in bytes as of now (`rbd_get_size`).
    pub async fn size(&self) -> Result<u64> {
        self.on_image("rbd_get_size", move |image| {
            let mut size = 0;
            // SAFETY: an open image and room for the answer.
            (unsafe { ffi::rbd_get_size(image, &mut size) }.into(), size)
        })
        .await
    }

    /// Copies what the parent still has into the image and detaches it
    /// (`rbd_flatten_with_progress`); takes as long as the image has objects. EINVAL when it has
    /// no parent; ECANCELED when it was told to stop: then what was copied stays, and the next
    /// flatten does not do it again.
    ///
    /// At its end librbd first takes the link out of the parent's header, removes the
    /// parent's snapshot if it was in the snapshots' trash for this clone alone (for that it
    /// opens the parent and asks for *its* lock), and then the parent out of this header.
    /// Stopped in between, the image still names a parent whose snapshot may be gone; it can
    /// then not be opened with its parent, and has all data itself.
    pub async fn flatten(&self, keep_going: KeepGoing) -> Result<()> {
        const OP: &str = "rbd_flatten_with_progress";
        let opened = self.opened.clone().lock_owned().await;
        let handle = self.handle(OP, opened.as_ref())?;
        let flatten = move |_| {
            let (image, _opened) = (handle, opened);
            // SAFETY: an open image; the argument outlives the call.
            let code = unsafe { ffi::rbd_flatten_with_progress(image.0, Some(asked), keep_going.argument()) };
            (code.into(), ())
        };
        self.pool.connection().blocking_flatten(OP, self.shown.clone(), flatten).await.map(|_| ())
    }

    /// Closes the image (`rbd_close`), once the call that is under way has ended: watch and
    /// lock are gone with the answer. After an error too there is nothing to be closed.
    pub async fn close(self) -> Result<()> {
        const OP: &str = "rbd_close";
        let Some(opened) = self.opened.clone().lock_owned().await.take() else { return Ok(()) };
        let closed =
            self.pool.connection().blocking(OP, self.shown.clone(), move |_| (close_now(opened), ()));
        closed.await.map(|_| ())
    }
}

impl Image {
    /// A call on a thread of the connection's share.
    pub(super) async fn on_image<T: Send + 'static>(
        &self,
        op: &'static str,
        call: impl FnOnce(ffi::rbd_image_t) -> (i64, T) + Send + 'static,
    ) -> Result<T> {
        let opened = self.opened.clone().lock_owned().await;
        let handle = self.handle(op, opened.as_ref())?;
        let work = move |_| {
            // The thread, not the future, keeps the image open and others off it.
            let (image, _opened) = (handle, opened);
            call(image.0)
        };
        self.pool.connection().blocking(op, self.shown.clone(), work).await.map(|(_, value)| value)
    }

    fn handle(&self, op: &'static str, opened: Option<&Opened>) -> Result<Handle> {
        let opened = opened.ok_or_else(|| CephError::new(op, &*self.shown, libc::EBADF))?;
        Ok(Handle(opened.image))
    }

    fn c_text(&self, op: &'static str, text: &str) -> Result<CString> {
        CString::new(text).map_err(|_| CephError::new(op, format!("{}@{text:?}", self.shown), libc::EINVAL))
    }
}

/// librbd's handle on its way to a thread.
struct Handle(ffi::rbd_image_t);

// SAFETY: as for `Opened`, whose mutex whoever has this holds.
unsafe impl Send for Handle {}
