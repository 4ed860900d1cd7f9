//! The lock under which a read-only volume's journal is replayed, once for all nodes.
//!
//! Two RADOS locks on the image's header: one from before the map, held by this node's
//! driver; and one that names the kernel client that writes, taken when it is mapped. A
//! clone of the image has neither.
//!
//! What a reader gets wrong: they keep nodes from each other's way, and are not what keeps
//! the file system whole. Whoever takes the lock from another looks at the watches after
//! that, and whoever has mapped makes sure after that that the lock is still its own; so
//! one of two always sees the other. And a client that was cut off in the middle is fenced
//! by the name that it left, since it may come back with what it had not yet written.

use std::time::{Duration, Instant};

use crate::ceph::lock::{self, Holder};
use crate::ceph::{CephError, ImageId, Pool, WriteOp};
use crate::host::boot::boot_id;
use crate::host::krbd::Mapping;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::watch;
use crate::volume::operation::Progress;

/// Held by a driver.
const DRIVER: &str = "rbd-csi.replay";
/// Held in the name of a kernel client, whose address is the cookie.
const CLIENT: &str = "rbd-csi.replay.client";

/// A holder that has nothing mapped is left alone for so long: it may be about to map.
const GRACE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(500);

/// The lock, held.
#[derive(Debug)]
pub struct ReplayLock<'a> {
    pool: &'a Pool,
    image: &'a ImageId,
    object: String,
    /// This node's name and boot: after a reboot nothing of before is mapped any more.
    holder: String,
}

impl<'a> ReplayLock<'a> {
    /// Takes the lock, once whoever has it lets go or is gone.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming the node that has it, near the deadline; what Ceph answers.
    pub async fn take(
        pool: &'a Pool,
        image: &'a ImageId,
        node: &str,
        progress: &Progress,
    ) -> Result<ReplayLock<'a>> {
        let holder = format!("{node} {}", boot_id()?);
        let this = Self { pool, image, object: image.header_object(), holder };
        let mut idle: Option<(Holder, Instant)> = None;
        loop {
            progress.step(format!("taking the lock for replaying the journal of {}", this.object));
            let op = lock::take(WriteOp::new().assert_exists(), DRIVER, &this.holder);
            match pool.write("replay lock", &this.object, op).await {
                Ok(()) => return Ok(this),
                Err(error) if !error.is(libc::EBUSY) => return Err(error.into()),
                Err(_) => {}
            }
            let Some(holder) = pool.lock_holder(&this.object, DRIVER).await? else { continue };
            if holder.cookie == this.holder {
                // Of this node's driver before it was started anew; what it had mapped is unmapped.
                this.take_away(&holder, false).await?;
                continue;
            }
            let writers = watch::others(pool, image).await?;
            idle = idle.filter(|(other, _)| *other == holder && writers.is_empty());
            let (_, since) = idle.get_or_insert_with(|| (holder.clone(), Instant::now()));
            if writers.is_empty() && (since.elapsed() >= GRACE || this.client().await?.is_some()) {
                this.take_away(&holder, true).await?;
            } else if progress.deadline.left() < watch::FOR_THE_ANSWER + POLL {
                return Err(this.busy(&holder));
            } else {
                progress.step(format!("waiting for node {}, which replays the journal", name(&holder)));
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// Makes sure that the lock is still this node's, now that its kernel's client can
    /// write, and notes the client. Nothing may be written before this.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another node has taken the lock meanwhile.
    pub async fn note_client(&self, mapping: &Mapping) -> Result<()> {
        // A note of this node's own from before is of a client that is gone.
        if let Some(old) = self.client().await? {
            self.break_it(CLIENT, &old).await?;
        }
        let op = lock::take(WriteOp::new().assert_exists(), DRIVER, &self.holder);
        let op = lock::take(op, CLIENT, &mapping.client_address);
        self.pool.write("replay client", &self.object, op).await.map_err(|error| match error.errno {
            libc::EBUSY => {
                let text = "another node has taken over the replay of the journal, since this one took long";
                Error::new(Kind::Busy, text).because(error)
            }
            _ => error.into(),
        })
    }

    /// Forgets the client, which has been unmapped.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn forget_client(&self, mapping: &Mapping) -> Result<()> {
        let op = lock::give_back(WriteOp::new().assert_exists(), CLIENT, &mapping.client_address);
        gone_is_fine(self.pool.write("replay client", &self.object, op).await)
    }

    /// Gives the lock back. One that stays is taken away by this node at once, and by others
    /// after a while.
    pub async fn give_back(self) {
        let op = lock::give_back(WriteOp::new().assert_exists(), DRIVER, &self.holder);
        if let Err(error) = gone_is_fine(self.pool.write("replay unlock", &self.object, op).await) {
            tracing::warn!(object = self.object, %error, "the lock for replaying stays");
        }
    }

    async fn client(&self) -> Result<Option<Holder>> {
        Ok(self.pool.lock_holder(&self.object, CLIENT).await?)
    }

    /// Takes both locks away. Another node's client has no watch any more, so it is dead or
    /// cut off; `fence` keeps it from writing when it comes back.
    async fn take_away(&self, holder: &Holder, fence: bool) -> Result<()> {
        tracing::warn!(object = self.object, node = holder.cookie, "taking over an unfinished replay");
        if let Some(client) = self.client().await? {
            if fence {
                let fenced = self.pool.connection().blocklist(&client.cookie).await;
                fenced.map_err(|error| self.busy(holder).because(error))?;
            }
            self.break_it(CLIENT, &client).await?;
        }
        self.break_it(DRIVER, holder).await
    }

    async fn break_it(&self, name: &str, holder: &Holder) -> Result<()> {
        gone_is_fine(self.pool.break_lock(&self.object, name, holder).await)
    }

    fn busy(&self, holder: &Holder) -> Error {
        let text = format!(
            "node {} (client at {}) replays the journal of image id {}, or has stopped while it did; if it is \
             gone for good, `rados -p {} lock break {} {DRIVER} {} --lock-cookie '{}'` lets this go on",
            name(holder),
            holder.address,
            self.image,
            self.pool.name(),
            self.object,
            holder.client,
            holder.cookie
        );
        Error::new(Kind::Busy, text)
    }
}

/// The node's name, of a holder that is a driver.
fn name(holder: &Holder) -> &str {
    holder.cookie.rsplit_once(' ').map_or(&*holder.cookie, |(name, _)| name)
}

fn gone_is_fine(outcome: std::result::Result<(), CephError>) -> Result<()> {
    match outcome {
        Err(CephError { errno: libc::ENOENT, .. }) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
