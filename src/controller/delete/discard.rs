//! An image leaves: recorded, then moved to the trash, then queued for its purge.
//!
//! 1. The record, with the time that the trash entry is to have (`record`).
//! 2. The move. Refused for good, the record is taken back: a mark or a record that stood would
//!    destroy a live image one day, by the next CreateVolume of the name or when a person moves the
//!    image to the trash to keep it.
//! 3. A look at the entry: whoever was faster (ceph-csi, librbd for a mirrored image) wrote a
//!    time of its own, and the record takes that one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::purge::Purger;
use super::record::{self, Kind, ParentImage, Record, Written};
use crate::ceph::{CephError, Header, ImageId, Pool, TrashState};
use crate::volume::error::{Error, Kind as Fact, Result};
use crate::volume::image::name;
use crate::volume::journal::{Collection, Entry, Journal};

/// An image that is to go. The right to that is proven.
pub struct Discard<'a> {
    /// The journal of the entry that it belongs to.
    pub journal: &'a Journal,
    /// The image's pool.
    pub pool: &'a Pool,
    /// Its name.
    pub name: &'a str,
    /// Its id.
    pub id: &'a ImageId,
    /// Its header, if there is one.
    pub header: Option<&'a Header>,
    /// The entry.
    pub entry: &'a Entry,
}

impl Discard<'_> {
    /// Does all of it; the purge goes on in the background. Repeatable at any point.
    ///
    /// # Errors
    /// [`Fact::Precondition`] when librbd refuses the move for good, and everything is as it was;
    /// what Ceph answers, with the record standing.
    pub async fn run(&self, purger: &Purger) -> Result<()> {
        let written = record::write(self.journal, self.id, &self.record(), self.marked()).await?;
        let stamp = written.record.deleted.unwrap_or_else(now);
        match self.pool.trash_move_at(self.name, self.id, stamp).await {
            Err(error) if is_final(&error) => return Err(self.refused(&written, error).await),
            moved => moved?,
        }
        self.take_its_time(written).await?;
        purger.start(self.journal, self.id.clone());
        Ok(())
    }

    fn record(&self) -> Record {
        let default = |prefix: &String| ["csi-vol-", "csi-snap-"].contains(&prefix.as_str());
        let names = [Some(self.name), self.entry.source.as_deref()];
        let mut prefixes: Vec<String> = names
            .into_iter()
            .flatten()
            .filter_map(name::prefix_of)
            .filter(|prefix| !default(prefix))
            .collect();
        prefixes.dedup();
        Record {
            image: self.name.to_owned(),
            uuid: Some(self.entry.uuid),
            pool_id: (self.pool.id() != self.journal.pool().id()).then(|| self.pool.id()),
            deleted: Some(now()),
            parent: self.header.and_then(ParentImage::of),
            kind: self.kind(),
            adopted: false,
            prefixes,
        }
    }

    fn kind(&self) -> Kind {
        match self.journal.collection() {
            Collection::Snapshots => Kind::Snapshot,
            Collection::Volumes if self.is_beside() => Kind::Temp,
            Collection::Volumes => Kind::Volume,
        }
    }

    /// Whether it is what stands beside the entry's own image.
    fn is_beside(&self) -> bool {
        let uuid = self.entry.uuid.to_string();
        name::beside_which(self.name).is_some_and(|name| name.ends_with(&uuid))
    }

    fn marked(&self) -> Option<&Entry> {
        (self.kind() != Kind::Temp).then_some(self.entry)
    }

    async fn refused(&self, written: &Written, error: CephError) -> Error {
        let standing = match self.pool.trash_entry(self.id).await {
            Ok(Some(entry)) => entry.state == TrashState::Restoring,
            Ok(None) => true,
            Err(_) => false,
        };
        let image = self.pool.describe(self.name);
        if !standing {
            let text = format!("image {image} is half-way to the trash");
            return Error::new(Fact::Unavailable, text).because(error);
        }
        if let Err(undo) = record::take_back(self.journal, self.id, &written.value, self.entry).await {
            tracing::warn!(image, %undo, "the record of a deletion that was refused could not be taken back");
            return Error::from(error).unsettled();
        }
        let text = format!(
            "image {image} cannot be moved to the trash: is it in an rbd group, being migrated or restored, or a \
             mirror's non-primary side? Nothing was changed"
        );
        Error::new(Fact::Precondition, text).because(error).settled()
    }

    async fn take_its_time(&self, written: Written) -> Result<()> {
        let Some(entry) = self.pool.trash_entry(self.id).await? else { return Ok(()) };
        if written.record.deleted == Some(entry.deleted) {
            return Ok(());
        }
        let timed = Record { deleted: Some(entry.deleted), ..written.record };
        if record::replace(self.journal, self.id, &written.value, &timed).await? {
            return Ok(());
        }
        match record::read(self.journal, self.id).await? {
            // Purged already, or another who deletes it has done the same.
            None => Ok(()),
            Some(other) if other.record.deleted == Some(entry.deleted) => Ok(()),
            Some(_) => {
                let text = format!("image {} is being deleted by others too", self.pool.describe(self.name));
                Err(Error::new(Fact::Busy, text))
            }
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What librbd refuses however often it is asked.
fn is_final(error: &CephError) -> bool {
    [libc::EINVAL, libc::EROFS, libc::EMLINK, libc::EBUSY].iter().any(|errno| error.is(*errno))
}
