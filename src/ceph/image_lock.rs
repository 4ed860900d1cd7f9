//! An image's exclusive lock, taken without opening the image.
//!
//! Lives here: librbd's protocol for it, as far as a short change of the image needs it:
//! 1. watch the header: a lock whose owner has no watch is taken for a dead one's, and the
//!    owner is blocklisted;
//! 2. take the lock, whose cookie names the watch;
//! 3. while a kernel owns it, ask it for the lock ([`Message::RequestLock`]): krbd writes out what
//!    it has under way, gives the lock back, and says so;
//! 4. afterwards give the lock back, say so, and end the watch.
//!
//! Not here: what is done under the lock (`resize`), and asking a librbd client, which
//! librbd does better. What a reader gets wrong: who waits for our lock asks for it again only
//! when it hears that the lock is free, a kernel after ten seconds at the latest; so nothing
//! that takes long may be done under it.

use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::context::Context;
use super::error::Result;
use super::ffi;
use super::header::Header;
use super::image::ImageId;
use super::lock::{self, Holder};
use super::notify::{Message, response};
use super::pool::Pool;
use super::shutdown;
use super::watchers::is_kernels;
use super::write_op::WriteOp;

/// After so many seconds without a sign of life our watch ends, and a kernel takes the lock of
/// a controller that was killed: half of Ceph's own time, three times what librados needs to
/// tell that it lives.
const WATCH_SECONDS: u32 = 15;
/// How long to wait for word that the lock is free, which a kernel sends once it has written out
/// what it had under way, before one asks again: the word may have been lost.
const PAUSE: Duration = Duration::from_secs(5);

/// How often the lock is given back when that fails.
const UNLOCKS: usize = 4;
/// How often all are told of the new header: a kernel that took the lock without having heard of it
/// would not find the object map that it expects.
const TELLS: usize = 3;

/// What came of an attempt to take the lock.
#[derive(Debug)]
pub enum Taking {
    /// The lock is ours.
    Ours(ImageLock),
    /// The image has another size or other features than the header said. Nothing was taken.
    Changed,
    /// Somebody keeps it. Nothing was taken, and nobody was blocklisted.
    HeldBy(Holder, HeldBy),
}

/// Who keeps an image's lock, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// A librbd client, or a person by hand: it was not asked.
    Other,
    /// A kernel that does not answer: it is dead or cut off.
    SilentKernel,
    /// A kernel that has the image mapped with krbd's option `exclusive`.
    ExclusiveKernel,
    /// A kernel that answers, but has not given the lock up within the patience.
    BusyKernel,
}

/// What librados' callbacks know of a watch.
struct Listener {
    context: Arc<Context>,
    object: CString,
    /// We own the lock, and say so to who asks for it.
    owner: AtomicBool,
    /// Nobody else watched the image when it was told of the new header, nor asked for the lock since.
    alone: AtomicBool,
    released: Notify,
}

/// A watch on an image's header; ended with its last user.
struct Watching {
    pool: Pool,
    id: ImageId,
    cookie: u64,
    /// `Arc::into_raw` of the listener, which belongs to the callbacks; null once it is taken back.
    argument: Argument,
    listener: Arc<Listener>,
}

struct Argument(*const Listener);

// SAFETY: the listener may be used by any thread (its context may, and the rest is atomic).
unsafe impl Send for Argument {}
// SAFETY: as above; the pointer is changed through `&mut` alone.
unsafe impl Sync for Argument {}

/// An image's exclusive lock. Give it back with [`ImageLock::release`]; one that is dropped is
/// given back on a thread of its own, which nobody hears of.
pub struct ImageLock(Option<Watching>);

impl std::fmt::Debug for ImageLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ImageLock({:?})", self.0.as_ref().map(|watching| watching.id.as_str()))
    }
}

impl Pool {
    /// Takes an image's exclusive lock if its size is still that of `header`, asking the kernel
    /// that owns it. ENOENT when there is no image. Never blocklists anybody, and never waits
    /// longer than `patience` and the answer to one question (5 s). Two operations when nobody
    /// owns the lock, six or seven when a kernel does.
    pub async fn take_image_lock(&self, id: &ImageId, header: &Header, patience: Duration) -> Result<Taking> {
        let watching = Watching::begin(self, id).await?;
        // From here on a lock that may be ours is given back whatever happens.
        let held = ImageLock(Some(watching));
        match held.take(header, Instant::now() + patience).await {
            Ok(None) => Ok(Taking::Ours(held)),
            Ok(Some(other)) => held.release().await.map(|()| other),
            Err(error) => {
                let released = held.release().await;
                if let Err(error) = released {
                    tracing::warn!(%error, "the watch of an image is not ended; it ends with this client");
                }
                Err(error)
            }
        }
    }
}

impl ImageLock {
    /// `None`: it is ours.
    async fn take(&self, header: &Header, until: Instant) -> Result<Option<Taking>> {
        let Some(watching) = &self.0 else { return Ok(None) };
        loop {
            let released = watching.listener.released.notified();
            match watching.lock(header).await {
                Ok(()) => return Ok(None),
                Err(error) if error.is(libc::ECANCELED) => return Ok(Some(Taking::Changed)),
                Err(error) if !error.is(libc::EBUSY) => return Err(error),
                Err(_) => {}
            }
            let Some(owner) = watching.pool.image_lock_owner(&watching.id).await? else { continue };
            if watching.is_left_behind(&owner).await? {
                continue;
            }
            let why = match watching.ask(&owner).await? {
                Some(HeldBy::BusyKernel) if Instant::now() < until => {
                    let _ = tokio::time::timeout(PAUSE, released).await;
                    continue;
                }
                Some(why) => why,
                // It was given up or changed hands.
                None => continue,
            };
            return Ok(Some(Taking::HeldBy(owner, why)));
        }
    }

    /// The lock's owner as the object class knows it: to be checked along with a write.
    pub(super) fn assert(&self, op: WriteOp) -> WriteOp {
        match &self.0 {
            Some(watching) => lock::assert_image(op, &watching.lock_cookie()),
            None => op,
        }
    }

    /// Tells all who have the image open that its header has changed ([`Pool::notify_header_update`]).
    pub(super) async fn notify_header_update(&self) -> Result<()> {
        let Some(watching) = &self.0 else { return Ok(()) };
        for _ in 0..TELLS {
            let (answers, all) = watching.pool.tell(&watching.id, Message::HeaderUpdate).await?;
            if all {
                // One of the answers is ours.
                watching.listener.alone.store(answers.len() < 2, Ordering::Release);
                return Ok(());
            }
        }
        Err(watching.pool.unanswered(&watching.id))
    }

    /// Gives the lock back, tells those who may wait for it, and ends the watch. Two operations,
    /// and two more unless nobody else had the image open.
    pub async fn release(mut self) -> Result<()> {
        match self.0.take() {
            Some(watching) => watching.end().await,
            None => Ok(()),
        }
    }
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        let Some(watching) = self.0.take() else { return };
        let shown = watching.pool.describe(watching.id.as_str());
        shutdown::on_thread("rbd-unlock", move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    if let Err(error) = runtime.block_on(watching.end()) {
                        tracing::warn!(%error, image = shown, "not unlocked well; its watch ends with this client");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, image = shown, "not unlocked; its watch ends with this client");
                    std::mem::forget(watching);
                }
            }
        });
    }
}

impl Watching {
    async fn begin(pool: &Pool, id: &ImageId) -> Result<Self> {
        const OP: &str = "rados_watch3";
        let object = id.header_object();
        let listener = Arc::new(Listener {
            context: pool.context(),
            object: pool.c_text(OP, &object)?,
            owner: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            released: Notify::new(),
        });
        let (argument, cluster) = (Argument(Arc::into_raw(listener.clone())), pool.connection().clone());
        let call = move |io: ffi::rados_ioctx_t, object: &std::ffi::CStr| {
            let argument = argument;
            let mut cookie = 0;
            // SAFETY: a live context, a C string, room for the answer; the argument lives until
            // the watch is ended and no callback is under way.
            let code = unsafe {
                ffi::rados_watch3(
                    io,
                    object.as_ptr(),
                    &mut cookie,
                    Some(heard),
                    Some(lost),
                    WATCH_SECONDS,
                    argument.0.cast_mut().cast(),
                )
            };
            if code < 0 {
                // SAFETY: there is no watch, and behind the flush no callback has the argument.
                unsafe {
                    ffi::rados_watch_flush(cluster.cluster());
                    drop(Arc::from_raw(argument.0));
                }
            }
            (code.into(), (cookie, argument))
        };
        let (cookie, argument) = pool.blocking(OP, &object, &object, call).await?;
        Ok(Self { pool: pool.clone(), id: id.clone(), cookie, argument, listener })
    }

    fn lock_cookie(&self) -> String {
        lock::image_cookie(self.cookie)
    }

    /// EBUSY while another holds it, ECANCELED when the image has another size.
    async fn lock(&self, header: &Header) -> Result<()> {
        let op = WriteOp::new().assert_exists().omap_equals("size", header.size.to_le_bytes());
        let op = op.omap_equals("features", header.features.0.to_le_bytes());
        let taken = lock::take_image(op, &self.lock_cookie());
        let taken = self.pool.write("image lock", &self.id.header_object(), taken).await;
        // After any other error it may be ours.
        let refusals = [libc::EBUSY, libc::ECANCELED, libc::ENOENT];
        let refused = taken.as_ref().is_err_and(|error| refusals.contains(&error.errno));
        self.listener.owner.store(!refused, Ordering::Release);
        taken
    }

    /// Breaks a lock that this very client took and could not give back when its watch ended: nobody
    /// else can, but by blocklisting this client. Whether it was one.
    async fn is_left_behind(&self, owner: &Holder) -> Result<bool> {
        let own = self.pool.connection().instance_id();
        if owner.watch().is_none_or(|(client, _)| client != own)
            || owner.is_among(&self.pool.image_watchers(&self.id).await?)
        {
            return Ok(false);
        }
        match self.pool.break_lock(&self.id.header_object(), lock::IMAGE_LOCK, owner).await {
            Err(error) if !error.is(libc::ENOENT) => Err(error),
            _ => Ok(true),
        }
    }

    /// Asks the owner for the lock: why it keeps it, `None` when it has it no more.
    async fn ask(&self, owner: &Holder) -> Result<Option<HeldBy>> {
        let Some(watch) = owner.watch().filter(|watch| is_kernels(watch.1)) else {
            return Ok(Some(HeldBy::Other));
        };
        let own = (self.pool.connection().instance_id(), self.cookie);
        let (answers, _) = self.pool.tell(&self.id, Message::RequestLock(own)).await?;
        // A kernel that was cut off for a moment has another watch than when it took the lock.
        let same = answers.iter().find(|answer| answer.watch == watch);
        let again = || answers.iter().find(|answer| answer.watch.0 == watch.0 && is_kernels(answer.watch.1));
        match same.or_else(again).map(|answer| answer.code) {
            Some(Some(code)) if code < 0 => Ok(Some(HeldBy::ExclusiveKernel)),
            Some(_) => Ok(Some(HeldBy::BusyKernel)),
            // It may have given the lock up meanwhile.
            None if self.pool.image_lock_owner(&self.id).await?.as_ref() != Some(owner) => Ok(None),
            None => Ok(Some(HeldBy::SilentKernel)),
        }
    }

    async fn end(mut self) -> Result<()> {
        let mut unlocked = Ok(());
        // Without its watch the lock would be taken for a dead client's.
        for tried in 0..UNLOCKS {
            if !self.listener.owner.load(Ordering::Acquire) {
                break;
            }
            unlocked = self.unlock().await;
            match &unlocked {
                Err(error) if !error.is(libc::ESHUTDOWN) && tried + 1 < UNLOCKS => {
                    tokio::time::sleep(PAUSE).await
                }
                _ => break,
            }
        }
        let unwatched = self.unwatch().await;
        unlocked.and(unwatched)
    }

    async fn unlock(&self) -> Result<()> {
        let op = lock::give_back(WriteOp::new(), lock::IMAGE_LOCK, &self.lock_cookie());
        match self.pool.write("image unlock", &self.id.header_object(), op).await {
            // It never was ours, or somebody took it away.
            Err(error) if error.is(libc::ENOENT) => {}
            unlocked => unlocked?,
        }
        self.listener.owner.store(false, Ordering::Release);
        // Who does not hear this asks again by itself.
        if self.listener.alone.load(Ordering::Acquire) {
            return Ok(());
        }
        let _ = self.pool.tell(&self.id, Message::ReleasedLock).await?;
        Ok(())
    }

    async fn unwatch(&mut self) -> Result<()> {
        const OP: &str = "rados_unwatch2";
        let (object, cookie) = (self.id.header_object(), self.cookie);
        let cluster = self.pool.connection().clone();
        let argument = std::mem::replace(&mut self.argument, Argument(std::ptr::null()));
        let call = move |io: ffi::rados_ioctx_t, _: &std::ffi::CStr| {
            let argument = argument;
            // SAFETY: a live context and a watch of it that is ended once; behind the flush no
            // callback has the argument, which is given back as it was given out.
            unsafe {
                let code = ffi::rados_unwatch2(io, cookie);
                ffi::rados_watch_flush(cluster.cluster());
                drop(Arc::from_raw(argument.0));
                (code.into(), ())
            }
        };
        match self.pool.blocking(OP, &object, &object, call).await {
            // It had ended already.
            Err(error) if error.is(libc::ENOTCONN) || error.is(libc::ENOENT) => Ok(()),
            ended => ended,
        }
    }
}

/// librados' callback for a notification: each must be answered, or its sender waits in vain.
///
/// # Safety
/// `argument` is the watch's [`Listener`], and `data` has that length.
unsafe extern "C" fn heard(
    argument: *mut c_void,
    notification: u64,
    cookie: u64,
    _from: u64,
    data: *mut c_void,
    length: usize,
) {
    // SAFETY: the caller's promises; the acknowledgement is sent, not waited for.
    unsafe {
        let listener = &*argument.cast::<Listener>();
        let message = if data.is_null() || length == 0 {
            None
        } else {
            Message::decode(std::slice::from_raw_parts(data.cast(), length))
        };
        let answer = match message {
            Some(Message::RequestLock(_)) if listener.owner.load(Ordering::Acquire) => {
                listener.alone.store(false, Ordering::Release);
                response(0)
            }
            _ => Vec::new(),
        };
        ffi::rados_notify_ack(
            listener.context.io(),
            listener.object.as_ptr(),
            notification,
            cookie,
            if answer.is_empty() { null_mut() } else { answer.as_ptr().cast() },
            c_int::try_from(answer.len()).unwrap_or(0),
        );
        if message == Some(Message::ReleasedLock) {
            listener.released.notify_waiters();
        }
    }
}

/// librados' callback for a watch that was lost. Nothing is to be done: a lock without a watch
/// is taken by who wants it, who blocklists this client first, and so no write of ours comes late.
unsafe extern "C" fn lost(_argument: *mut c_void, cookie: u64, error: c_int) {
    tracing::warn!(cookie, errno = -error, "the watch on an image whose lock is taken was lost");
}
