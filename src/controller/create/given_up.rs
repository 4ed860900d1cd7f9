//! What an earlier try has left of a volume or snapshot that nobody can finish any more: what it
//! was to be made of is gone, or is not what was asked for any more.
//!
//! The caller gets a final answer then and forgets the name, so nothing may be left of it.

use super::leftover;
use crate::controller::delete::discard::Discard;
use crate::controller::delete::purge::Purger;
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
        let unfinished = |entry: &Entry| entry.image_id.is_none() && ours(entry);
        let Some(entry) = self.journal.find(self.name).await?.filter(unfinished) else { return Ok(()) };
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
            self.remove(&entry, &image).await?;
        }
        self.journal.retract(entry.uuid, &entry.name).await
    }

    async fn remove(&self, entry: &Entry, name: &str) -> Result<()> {
        let pool = self.journal.pool();
        let found = match pool.image_id(name).await? {
            Some(id) => pool.image_header(&id, &[]).await?.map(|header| (id, header)),
            None => None,
        };
        match &found {
            Some((id, header)) if header.parent.is_some() => {
                let header = Some(header);
                Discard { journal: self.journal, pool, name, id, header, entry }.run(self.purger).await
            }
            _ => leftover::clear(pool, name, leftover::Origin::Blank, self.progress).await,
        }
    }
}
