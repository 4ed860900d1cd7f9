//! An image grows, whether somebody has it open or not, and never shrinks.
//!
//! 1. An ordinary image is not opened: its object map and header are written as librbd
//!    would ([`crate::ceph::Pool::grow_image`]), under its exclusive lock where it has one. A node's kernel
//!    that owns the lock gives it up for that moment, and takes it again with its next write.
//! 2. What takes more (a journal, an object map that is not valid), and what a librbd client
//!    has locked, librbd grows.
//!
//! Nobody is blocklisted for it: a kernel that does not answer is named. A controller that is
//! killed with the lock keeps it until its watch ends ([`crate::ceph::Pool::take_image_lock`]: 15 s; librbd's
//! 30 s, `osd_client_watch_timeout`): the pod's writes stand still so long, then its node takes the
//! lock over and blocklists the dead controller's client, no other.

use std::time::Duration;

use crate::ceph::{CephError, Features, Header, HeldBy, OpenMode, Taking};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::lock_owner;
use crate::volume::image::resolve::{Resolved, absent};
use crate::volume::journal::{Collection, Journal};
use crate::volume::operation::Progress;

/// How long a kernel that answers may take until it has given the lock up: it first writes out
/// what it has under way.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often another size may be found than was read a moment before.
const TRIES: usize = 10;

/// What came of one attempt.
enum Attempt {
    Grown,
    /// Somebody has changed the size meanwhile.
    Changed,
    /// This is librbd's.
    Librbd,
}

/// Grows the volume's image to `size` bytes, or leaves it when somebody has made it larger
/// meanwhile; gives the size that it then has.
///
/// # Errors
/// [`Kind::NotFound`] when the image is gone; [`Kind::Unavailable`] naming the node that holds the
/// image's lock and is cut off; [`Kind::InUse`] for a mapping that gives it to nobody; what Ceph
/// answers.
pub async fn grow(
    volume: &Resolved,
    handle: &str,
    size: u64,
    instance: &str,
    progress: &Progress,
) -> Result<u64> {
    let image = volume.pool.describe(&volume.image);
    let mut header = volume.header.clone();
    for _ in 0..TRIES {
        if header.size >= size {
            return Ok(header.size);
        }
        let attempt = match header.grows_unopened() {
            true => unopened(volume, &header, size, progress).await?,
            false => Attempt::Librbd,
        };
        match attempt {
            Attempt::Grown => return Ok(size),
            Attempt::Librbd => return by_librbd(volume, handle, size, instance, progress).await,
            Attempt::Changed => {}
        }
        let now = volume.pool.image_header(&volume.image_id, &[]).await?;
        header = now.ok_or_else(|| absent(handle))?;
    }
    let text = format!("image {image} was given another size {TRIES} times meanwhile: who does that?");
    Err(Error::new(Kind::Unavailable, text))
}

async fn unopened(volume: &Resolved, header: &Header, size: u64, progress: &Progress) -> Result<Attempt> {
    let Resolved { pool, image: name, image_id: id, .. } = volume;
    let image = pool.describe(name);
    if !header.features.contains(Features::EXCLUSIVE_LOCK) {
        progress.step(format!("growing image {image} to {size} bytes"));
        return outcome(pool.grow_image(id, header, size, None).await, volume);
    }
    progress.step(format!("taking the exclusive lock of image {image}, asking the node that owns it"));
    let lock = match pool.take_image_lock(id, header, PATIENCE).await? {
        Taking::Ours(lock) => lock,
        Taking::Changed => return Ok(Attempt::Changed),
        Taking::HeldBy(_, HeldBy::Other) => return Ok(Attempt::Librbd),
        Taking::HeldBy(owner, HeldBy::SilentKernel) => return Err(lock_owner::silent(&image, &owner)),
        Taking::HeldBy(_, HeldBy::ExclusiveKernel) => return Err(exclusive(volume)),
        Taking::HeldBy(owner, HeldBy::BusyKernel) => {
            let text = format!(
                "the node at {} still writes to image {image} and has not given up its exclusive lock for {} s; \
                 nothing was changed",
                lock_owner::address(&owner),
                PATIENCE.as_secs()
            );
            return Err(Error::new(Kind::Busy, text));
        }
    };
    progress.step(format!("growing image {image} to {size} bytes"));
    let grown = pool.grow_image(id, header, size, Some(&lock)).await;
    let released = lock.release().await;
    if let Err(error) = released {
        tracing::warn!(%error, image, "grown, but not unlocked well; its watch ends within 15 s");
    }
    outcome(grown, volume)
}

fn outcome(grown: std::result::Result<(), CephError>, volume: &Resolved) -> Result<Attempt> {
    match grown {
        Ok(()) => Ok(Attempt::Grown),
        Err(error) if error.is(libc::ECANCELED) => Ok(Attempt::Changed),
        // The size stands; somebody who has the image open did not answer the notification.
        Err(error) if error.is(libc::ETIMEDOUT) && error.op == "rados_notify2" => {
            let image = volume.pool.describe(&volume.image);
            tracing::warn!(%error, image, "grown, but somebody who has the image open has not said that it knows");
            Ok(Attempt::Grown)
        }
        Err(error) => Err(cannot(error.into(), volume)),
    }
}

/// librbd opens the image, which costs more, and knows everything. It grows an image too when there
/// is no room for its object map, and declares that invalid; so room is proven first.
async fn by_librbd(
    volume: &Resolved,
    handle: &str,
    size: u64,
    instance: &str,
    progress: &Progress,
) -> Result<u64> {
    let Resolved { pool, image: name, image_id: id, header, .. } = volume;
    let image = pool.describe(name);
    lock_owner::refuse_dead(pool, name, id, header).await?;
    if let Some(entry) = volume.entry.as_ref().filter(|_| header.object_map_valid()) {
        let journal = Journal::new(pool, Collection::Volumes, instance);
        journal.prove_room(entry.uuid).await.map_err(|error| cannot(error, volume))?;
    }
    progress.step(format!("opening image {image}"));
    let opened = match pool.open_image(id, OpenMode::ReadWrite).await {
        Err(error) if error.is(libc::ENOENT) => return Err(vanished(volume, handle, error).await),
        opened => opened?,
    };
    progress.step(format!("growing image {image} to {size} bytes, which waits for the owner of its lock"));
    let grown = opened.resize(size).await;
    let closed = opened.close().await;
    match grown {
        Ok(()) => {
            if let Err(error) = closed {
                tracing::warn!(%error, image, "grown, but not closed well; its watch ends with this client");
            }
            Ok(size)
        }
        // Somebody else has made it larger in the meantime, which is as good.
        Err(error) if error.is(libc::EINVAL) => match pool.image_header(id, &[]).await? {
            Some(now) if now.size >= size => Ok(now.size),
            _ => Err(Error::from(error)),
        },
        Err(error) if error.is(libc::EROFS) => Err(exclusive(volume).because(error)),
        Err(error) => Err(cannot(error.into(), volume)),
    }
}

/// The image was deleted since it was found, or what it is a clone of.
async fn vanished(volume: &Resolved, handle: &str, error: CephError) -> Error {
    match volume.pool.image_header(&volume.image_id, &[]).await {
        Ok(None) => absent(handle),
        Ok(Some(_)) => {
            let image = volume.pool.describe(&volume.image);
            let text = format!("image {image} cannot be opened: is the image gone that it is a clone of?");
            Error::new(Kind::Precondition, text).because(error)
        }
        Err(other) => Error::from(other),
    }
}

fn exclusive(volume: &Resolved) -> Error {
    let image = volume.pool.describe(&volume.image);
    let text = format!(
        "image {image} cannot grow while it is mapped with krbd's option `exclusive`, which gives its lock to \
         nobody: unmap it first"
    );
    Error::new(Kind::InUse, text)
}

fn cannot(error: Error, volume: &Resolved) -> Error {
    error.while_doing(format!("image {} cannot grow", volume.pool.describe(&volume.image)))
}
