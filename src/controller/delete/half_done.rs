//! Snapshots and clones of a volume that were begun and not ended.
//!
//! While one is made, the volume has an RBD snapshot named after it (`snapshot::point`). Its
//! maker may be at work; or it was given up, and then it is taken back, so that the volume can be
//! deleted.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Deletion;
use super::discard::Discard;
use crate::ceph::{ImageSpec, Snapshot, SnapshotKind};
use crate::controller::snapshot::point::{Names, Point, Source};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::name;
use crate::volume::journal::creator::LOCK;
use crate::volume::journal::{Collection, Entry, Journal, Reservation, YOUNG};

/// An operation that has left a snapshot on its source.
struct HalfDone {
    journal: Journal,
    entry: Entry,
    names: Names,
}

impl Deletion<'_> {
    /// Takes back what was begun with this image and given up. `true`: something was, and the
    /// image is to be looked at again.
    ///
    /// # Errors
    /// [`Kind::Busy`] naming what may still be under way; what Ceph answers.
    pub(super) async fn take_back_half_done(&self, source: &Source) -> Result<bool> {
        let mut any = false;
        for snapshot in source.header.snapshots.iter().filter(|snapshot| snapshot.kind == SnapshotKind::User)
        {
            if let Some(half) = self.half_done(source, snapshot).await? {
                self.take_back(source, snapshot, &half).await?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Takes back a snapshot of this journal that is to be deleted before it was complete.
    pub(super) async fn take_snapshot_back(
        &self,
        source: &Source,
        mark: &Snapshot,
        entry: &Entry,
        image: &str,
    ) -> Result<()> {
        let (journal, entry) = (self.journal.clone(), entry.clone());
        self.take_back(source, mark, &HalfDone { journal, entry, names: Names::of_snapshot(image) }).await
    }

    /// The operation of which a snapshot of the image is the beginning.
    async fn half_done(&self, source: &Source, mark: &Snapshot) -> Result<Option<HalfDone>> {
        let (collection, image) = match name::beside_which(&mark.name) {
            Some(image) => (Collection::Volumes, image),
            None => (Collection::Snapshots, mark.name.as_str()),
        };
        let Some(uuid) = name::uuid_of(image) else { return Ok(None) };
        let names = match collection {
            Collection::Volumes => Names::beside_clone(image),
            Collection::Snapshots => Names::of_snapshot(image),
        };
        for pool in self.pools_of(source, mark).await? {
            let journal = Journal::new(&pool, collection, self.instance);
            let Some(entry) = journal.entry(uuid).await? else { continue };
            let begun = entry.image_id.is_none()
                && entry.image_name.as_deref().is_none_or(|name| name == image)
                && entry.source.as_deref().is_none_or(|name| name == source.name);
            if begun {
                return Ok(Some(HalfDone { journal, entry, names }));
            }
        }
        Ok(None)
    }

    /// Where the journal of the operation can be: a snapshot's is in this pool, a clone's in the
    /// clone's.
    async fn pools_of(&self, source: &Source, mark: &Snapshot) -> Result<Vec<crate::ceph::Pool>> {
        let own = self.journal.pool();
        let mut pools = vec![own.clone()];
        for child in source.pool.children_of(&source.id, Some(mark.id)).await? {
            if child.pool_id != own.id() || child.namespace != own.namespace() {
                pools.extend(own.connection().pool_by_id(child.pool_id, &child.namespace).await?);
            }
        }
        Ok(pools)
    }

    async fn take_back(&self, source: &Source, mark: &Snapshot, half: &HalfDone) -> Result<()> {
        let HalfDone { journal, entry, names } = half;
        let noun = journal.collection().noun();
        let object = journal.object(entry.uuid);
        let image = source.pool.describe(&source.name);
        match journal.pool().lock_holder(&object, LOCK).await? {
            // Given up by our predecessor: `claim` sees to that.
            Some(holder) if self.creator.is_us(&holder) => {}
            Some(holder) => {
                let text = format!(
                    "{noun} {} is being made of {image} by {}; call again",
                    entry.name, holder.address
                );
                return Err(Error::new(Kind::Busy, text));
            }
            None if age(mark) < YOUNG => {
                let text = format!(
                    "{noun} {} was begun {} s ago with snapshot {} of {image}: it may be in the making; call again",
                    entry.name,
                    age(mark).as_secs(),
                    mark.name
                );
                return Err(Error::new(Kind::Busy, text));
            }
            None => {}
        }
        self.progress.step(format!("taking back {noun} {}, which was given up", entry.name));
        let _making = self.creator.begin(entry.uuid)?;
        if !journal.claim(&Reservation::of(entry.clone()), self.creator, self.progress).await? {
            let text = format!("{noun} {} was finished while it was looked at; call again", entry.name);
            return Err(Error::new(Kind::Busy, text));
        }
        self.take_clone_back(half).await?;
        let spec = ImageSpec::default();
        let (pool, names) = (journal.pool(), names.clone());
        let point = Point { source, pool, names, spec, purger: self.purger, progress: self.progress };
        point.roll_back(journal, entry).await?;
        tracing::info!(
            noun,
            name = entry.name,
            image = source.name,
            "what was given up half-way was taken back"
        );
        journal.retract(entry.uuid, &entry.name).await
    }

    /// The clone itself, which ceph-csi may have begun before it took the snapshot of the source away.
    async fn take_clone_back(&self, half: &HalfDone) -> Result<()> {
        let HalfDone { journal, entry, names } = half;
        if journal.collection() != Collection::Volumes {
            return Ok(());
        }
        let pool = journal.pool();
        let Some(id) = pool.image_id(&names.own).await? else { return Ok(()) };
        let Some(header) = pool.image_header(&id, &[]).await? else { return Ok(()) };
        let discard = Discard { journal, pool, name: &names.own, id: &id, header: Some(&header), entry };
        discard.run(self.purger).await
    }
}

fn age(mark: &Snapshot) -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(mark.created)
}
