//! What an earlier try has left of a volume or snapshot that nobody can finish any more: what it
//! was to be made of is gone, or is not what was asked for any more.
//!
//! The caller gets a final answer then and forgets the name, so nothing may be left of it.

use super::leftover;
use crate::ceph::ImageId;
use crate::controller::delete::discard::Discard;
use crate::controller::delete::purge::Purger;
use crate::controller::delete::record;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Entry, Journal, Reservation};
use crate::volume::operation::Progress;

/// A name that is given up.
pub struct GivenUp<'a> {
    /// The name.
    pub name: &'a str,
    /// The journal that may have it.
    pub journal: &'a Journal,
    /// Who may clear away what another has begun.
    pub creator: &'a Creator,
    /// Where images go.
    pub purger: &'a Purger,
    /// Tells the step.
    pub progress: &'a Progress,
}

impl GivenUp<'_> {
    /// Takes its reservation back if it is not complete and `ours`, with those of `images` that
    /// exist. The deletion of the source has seen to the snapshot that it had.
    ///
    /// # Errors
    /// What Ceph answers; a final error says no more than that a repeat is needed.
    pub async fn take_back(
        &self,
        ours: impl Fn(&Entry) -> bool,
        images: impl Fn(&Entry) -> Vec<String>,
    ) -> Result<()> {
        self.journal.forget_intent(self.name).await?;
        // One who stopped in the middle of this has marked the name as being deleted.
        let unfinished = |(entry, _): &(Entry, _)| entry.image_id.is_none() && ours(entry);
        let found = self.journal.find_marked(self.name).await?.filter(unfinished);
        let Some((entry, mut marked)) = found else { return Ok(()) };
        let _making = self.creator.begin(entry.uuid)?;
        let reservation = Reservation::of(entry.clone());
        if !self.journal.claim(&reservation, self.creator, self.progress).await? {
            let text = format!(
                "{} was finished or given up by another while it was looked at; call again",
                self.name
            );
            return Err(Error::new(Kind::Busy, text));
        }
        for image in images(&entry) {
            // The mark names the entry's own image, which comes first.
            self.remove(&entry, &image, marked.take()).await?;
        }
        self.journal.retract(entry.uuid, &entry.name).await
    }

    /// Removes an image; `marked` is its id where its way to the trash has begun, on which it loses
    /// its name.
    async fn remove(&self, entry: &Entry, name: &str, marked: Option<ImageId>) -> Result<()> {
        let pool = self.journal.pool();
        let Some(id) = pool.named_id(name).await?.or(marked) else { return self.clear(name).await };
        let header = pool.image_header(&id, &[]).await?;
        let leaving =
            pool.trash_entry(&id).await?.is_some() && record::is_recorded(self.journal, &id).await?;
        if !leaving && header.as_ref().is_none_or(|header| header.parent.is_none()) {
            return self.clear(name).await;
        }
        let header = header.as_ref();
        Discard { journal: self.journal, pool, name, id: &id, header, entry }.run(self.purger).await
    }

    async fn clear(&self, name: &str) -> Result<()> {
        leftover::clear(self.journal.pool(), name, leftover::Origin::Blank, self.progress).await
    }
}
