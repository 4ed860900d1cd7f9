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

use uuid::Uuid;

use crate::ceph::lock::Holder;
use crate::ceph::resize::OBJECT_MAP_SIZE;
use crate::ceph::{CephError, Features, Header, HeldBy, ImageId, OpenMode, Pool, Taking};
use crate::controller::create::clone::unless_flattened;
use crate::controller::snapshot::point::close;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::lock_owner;
use crate::volume::journal::Journal;
use crate::volume::operation::Progress;
use crate::volume::size::check_mapped;

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
    /// There is no such image any more.
    Gone,
    /// This is librbd's.
    Librbd,
}

/// An image that is to grow.
#[derive(Clone, Copy)]
pub struct Growing<'a> {
    /// Where it is.
    pub pool: &'a Pool,
    /// Its name.
    pub name: &'a str,
    /// Its id.
    pub id: &'a ImageId,
    /// Its header, as it was read a moment before.
    pub header: &'a Header,
    /// Its journal and the entry there, if it has one.
    pub entry: Option<(&'a Journal, Uuid)>,
}

/// Grows the image to `size` bytes, or leaves it when it is as large, also since somebody has made
/// it larger meanwhile; gives the size that it then has, `None` when the image is gone.
///
/// # Errors
/// [`Kind::OutOfRange`] for more objects than an object map has; [`Kind::Unavailable`] naming the node that holds the image's lock and is cut off;
/// [`Kind::InUse`] for a mapping that gives it to nobody; [`Kind::Busy`] while a node keeps it;
/// what Ceph answers.
pub async fn grow(image: Growing<'_>, size: u64, progress: &Progress) -> Result<Option<u64>> {
    let mut header = image.header.clone();
    if header.features.contains(Features::OBJECT_MAP) {
        check_mapped(&image.shown(), size, header.object_size(), header.stripe)?;
    }
    for _ in 0..TRIES {
        if header.size >= size {
            return Ok(Some(header.size));
        }
        let now = Growing { header: &header, ..image };
        let attempt = match header.grows_unopened() {
            true => now.unopened(size, progress).await?,
            false => Attempt::Librbd,
        };
        match attempt {
            Attempt::Grown => return Ok(Some(size)),
            Attempt::Librbd => return now.by_librbd(size, progress).await,
            Attempt::Gone => return Ok(None),
            Attempt::Changed => {}
        }
        match image.pool.image_header(image.id, &[]).await? {
            Some(now) => header = now,
            None => return Ok(None),
        }
    }
    let text =
        format!("image {} was given another size {TRIES} times meanwhile: who does that?", image.shown());
    Err(Error::new(Kind::Unavailable, text))
}

impl Growing<'_> {
    fn shown(&self) -> String {
        self.pool.describe(self.name)
    }

    async fn unopened(&self, size: u64, progress: &Progress) -> Result<Attempt> {
        let Self { pool, id, header, .. } = *self;
        let image = self.shown();
        if !header.features.contains(Features::EXCLUSIVE_LOCK) {
            progress.step(format!("growing image {image} to {size} bytes"));
            return self.outcome(pool.grow_image(id, header, size, None).await);
        }
        progress.step(format!("taking the exclusive lock of image {image}, asking the node that owns it"));
        let lock = match pool.take_image_lock(id, header, PATIENCE).await {
            Err(error) if error.is(libc::ENOENT) => return Ok(Attempt::Gone),
            Err(error) => return Err(self.cannot(error.into())),
            Ok(Taking::Ours(lock)) => lock,
            Ok(Taking::Changed) => return Ok(Attempt::Changed),
            Ok(Taking::HeldBy(owner, why)) => return self.held_by(&owner, why),
        };
        progress.step(format!("growing image {image} to {size} bytes"));
        let grown = pool.grow_image(id, header, size, Some(&lock)).await;
        if let Err(error) = lock.release().await {
            tracing::warn!(%error, image, "not unlocked well; the watch on it ends within 15 s");
        }
        self.outcome(grown)
    }

    fn held_by(&self, owner: &Holder, why: HeldBy) -> Result<Attempt> {
        let image = self.shown();
        match why {
            HeldBy::Other => Ok(Attempt::Librbd),
            HeldBy::SilentKernel => Err(lock_owner::silent(&image, owner)),
            HeldBy::ExclusiveKernel => Err(self.exclusive()),
            HeldBy::BusyKernel => {
                let text = format!(
                    "the node at {} still writes to image {image} and has not given up its exclusive lock for \
                     {} s; nothing was changed",
                    lock_owner::address(owner),
                    PATIENCE.as_secs()
                );
                Err(Error::new(Kind::Busy, text))
            }
        }
    }

    fn outcome(&self, grown: crate::ceph::Result<()>) -> Result<Attempt> {
        match grown {
            Ok(()) => Ok(Attempt::Grown),
            Err(error) if error.is(libc::ECANCELED) => Ok(Attempt::Changed),
            // The map is missing, too large, or not as the header says: librbd copes, or tells.
            Err(error)
                if error.op == OBJECT_MAP_SIZE
                    && [libc::ENOENT, libc::EINVAL, libc::ESTALE].contains(&error.errno) =>
            {
                Ok(Attempt::Librbd)
            }
            Err(error) if error.is(libc::ENOENT) => Ok(Attempt::Gone),
            // The size stands; somebody who has the image open did not answer the notification.
            Err(error) if error.is(libc::ETIMEDOUT) && error.op == "rados_notify2" => {
                let image = self.shown();
                tracing::warn!(%error, image, "grown, but somebody who has it open has not said that it knows");
                Ok(Attempt::Grown)
            }
            Err(error) => Err(self.cannot(error.into())),
        }
    }

    /// librbd opens the image, which costs more, and knows everything. It grows an image too when
    /// there is no room for its object map, and declares that invalid; so room is proven first.
    async fn by_librbd(&self, size: u64, progress: &Progress) -> Result<Option<u64>> {
        let Self { pool, name, id, header, entry } = *self;
        let image = self.shown();
        lock_owner::refuse_dead(pool, name, id, header).await?;
        if let Some((journal, uuid)) = entry.filter(|_| header.object_map_valid()) {
            journal.prove_room(uuid).await.map_err(|error| self.cannot(error))?;
        }
        progress.step(format!("opening image {image}"));
        let opened = match unless_flattened(pool, id, || pool.open_image(id, OpenMode::ReadWrite)).await {
            Err(error) if error.is(libc::ENOENT) => return self.vanished(error).await,
            opened => opened?,
        };
        progress
            .step(format!("growing image {image} to {size} bytes, which waits for the owner of its lock"));
        let grown = opened.resize(size).await;
        close(opened).await;
        match grown {
            Ok(()) => Ok(Some(size)),
            // Somebody else has made it larger in the meantime, which is as good.
            Err(error) if error.is(libc::EINVAL) => match pool.image_header(id, &[]).await? {
                Some(now) if now.size >= size => Ok(Some(now.size)),
                _ => Err(Error::from(error)),
            },
            Err(error) if error.is(libc::EROFS) => Err(self.exclusive().because(error)),
            Err(error) => Err(self.cannot(error.into())),
        }
    }

    /// The image was deleted since it was found, or what it is a clone of.
    async fn vanished(&self, error: CephError) -> Result<Option<u64>> {
        if self.pool.image_header(self.id, &[]).await?.is_none() {
            return Ok(None);
        }
        let text =
            format!("image {} cannot be opened: is the image gone that it is a clone of?", self.shown());
        Err(Error::new(Kind::Precondition, text).because(error))
    }

    fn exclusive(&self) -> Error {
        let text = format!(
            "image {} cannot grow while it is mapped with krbd's option `exclusive`, which gives its lock to \
             nobody: unmap it first",
            self.shown()
        );
        Error::new(Kind::InUse, text)
    }

    fn cannot(&self, error: Error) -> Error {
        error.while_doing(format!("image {} cannot grow", self.shown()))
    }
}
