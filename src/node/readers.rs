//! A file system for readers: mapped and mounted read-only, its journal replayed first.
//!
//! A snapshot of a mounted file system has a journal that holds what was synced last. A
//! read-only map cannot replay it, and to mount without it (norecovery, noload) would
//! silently leave those files out. So the first node that meets such a volume replays it,
//! writable, under a lock (`replay_lock`); from then on it is clean for all.
//!
//! Whether the journal needs it, the kernel says: it refuses the mount with EROFS. What a
//! reader gets wrong: the answer is asked for again under the lock. A file system that
//! another node has mounted by now is clean, and must never be written to.

use std::time::Duration;

use crate::host::fs_kind::FsKind;
use crate::host::replay;
use crate::node::mapping::Target;
use crate::node::mapping::in_use;
use crate::node::mapping::on_node::ImageKey;
use crate::node::replay_lock::ReplayLock;
use crate::node::stage::{Mounted, Staging, holding};
use crate::node::unstage;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::resolve::Resolved;
use crate::volume::image::watch;
use crate::volume::map_options::{MapOptions, UnmapOptions};
use crate::volume::operation::Progress;

/// A replay that waits for its cluster is not given up before this.
const LONGEST: Duration = Duration::from_secs(600);
/// Writers may come while readers mount, but not for ever.
const MOST_MOUNTS: usize = 5;

impl Mounted {
    /// Nothing is written to the image to have it mounted: what needs a replay is refused.
    ///
    /// # Errors
    /// [`Kind::Precondition`] with what a person can do.
    pub(super) fn or_refuse(self, resolved: &Resolved) -> Result<()> {
        let Self::NeedsReplay(kind) = self else { return Ok(()) };
        let why = match resolved.is_static {
            true => "this driver writes nothing to a static volume by itself",
            false => "mapOptions say that it is never written to",
        };
        let without = if kind == FsKind::Xfs { "norecovery" } else { "noload" };
        let text = format!(
            "the {kind} file system of {} was not unmounted by its last writer, and its journal has to be \
             replayed before it can be read, but {why}. Mount it writable once, or add the mount options \
             ro,{without}: files that are only in the journal are missing then",
            resolved.pool.describe(&resolved.image)
        );
        Err(Error::new(Kind::Precondition, text))
    }
}

impl Staging {
    /// Mounts a file system for readers. Steps, if its journal has to be replayed:
    /// 1. This node lets go of it. 2. The lock. 3. Whether it is still so. 4. The replay.
    /// 5. The mount. 6. The lock is given back.
    ///
    /// # Errors
    /// [`Kind::Precondition`] for an image that nobody but its owner may write to;
    /// [`Kind::InUse`] when somebody has it mapped; [`Kind::Busy`] while another replays it.
    pub(super) async fn mount_for_readers(&self, resolved: &Resolved, progress: &Progress) -> Result<()> {
        let found = self.mount_undisturbed(resolved, progress).await?;
        if found == Mounted::Yes {
            return Ok(());
        }
        if resolved.is_static || MapOptions::parse(self.parameter("mapOptions"))?.read_only() {
            return found.or_refuse(resolved);
        }
        // 1.
        self.let_go(resolved, progress).await?;
        // 2.
        let lock = ReplayLock::take(&resolved.pool, &resolved.image_id, &self.node, progress).await?;
        // 3. to 5.
        let mounted = self.mount_under(&lock, resolved, progress).await;
        // 6.
        lock.give_back().await;
        mounted
    }

    async fn mount_under(
        &self,
        lock: &ReplayLock<'_>,
        resolved: &Resolved,
        progress: &Progress,
    ) -> Result<()> {
        // 3.
        let Mounted::NeedsReplay(kind) = self.mount_undisturbed(resolved, progress).await? else {
            return Ok(());
        };
        self.let_go(resolved, progress).await?;
        // 4.
        self.replay(lock, resolved, kind, progress).await?;
        // 5.
        match self.mount_undisturbed(resolved, progress).await? {
            Mounted::Yes => Ok(()),
            Mounted::NeedsReplay(kind) => {
                let text = format!("the {kind} file system still wants its journal replayed, which was done");
                Err(Error::new(Kind::Precondition, text))
            }
        }
    }

    /// Maps and mounts it at a time at which nobody has it mapped writable: what was read of it
    /// while another node replayed the journal may be of two moments, so it is mapped anew then.
    async fn mount_undisturbed(&self, resolved: &Resolved, progress: &Progress) -> Result<Mounted> {
        for _ in 0..MOST_MOUNTS {
            let mounted = self.map_and_mount(resolved, progress).await?;
            let others =
                in_use::others(&resolved.pool, &resolved.image_id, resolved.cluster.mirror_daemon_count);
            if mounted != Mounted::Yes || !others.await?.iter().any(watch::is_kernel) {
                return Ok(mounted);
            }
            self.let_go(resolved, progress).await?;
        }
        let text = format!(
            "{} is mapped by one writer after the other, and cannot be read meanwhile",
            resolved.pool.describe(&resolved.image)
        );
        Err(Error::new(Kind::InUse, text))
    }

    /// Maps the image writable, by a kernel client of its own, and lets the journal be
    /// replayed. It is unmapped again on every way out.
    async fn replay(
        &self,
        lock: &ReplayLock<'_>,
        resolved: &Resolved,
        kind: FsKind,
        progress: &Progress,
    ) -> Result<()> {
        let target = Target { read_only: false, own_client: true, ..self.target(resolved) };
        let mapping = self.mapper.map(&target, progress).await?;
        let work = async {
            lock.note_client(&mapping).await?;
            let device = mapping.device();
            let name = device.display().to_string();
            let replayed = holding(&mapping, async {
                progress.step(format!("replaying the journal of the {kind} file system on {name}"));
                Ok(replay::replay(kind, &device, LONGEST).await)
            });
            let replayed = replayed.await?;
            replayed.map_err(|error| match error.errno {
                libc::EUCLEAN => Error::new(Kind::Precondition, "the journal is not replayed").because(error),
                _ => Error::from(error).while_doing("replaying the journal"),
            })
        };
        let replayed = work.await;
        self.let_go(resolved, progress).await?;
        lock.forget_client(&mapping).await?;
        replayed
    }

    /// Unmaps the image from this node.
    async fn let_go(&self, resolved: &Resolved, progress: &Progress) -> Result<()> {
        unstage::unmount(&self.place.entry, progress).await?;
        let mappings = ImageKey::of_target(&self.target(resolved)).mappings().await?;
        self.mapper.unmap(&mappings, UnmapOptions::default(), progress).await
    }
}
