//! An image gets fewer snapshots: the images that were cloned from them are flattened.
//!
//! In the background, since each clone has to be looked at. First come those with no volume below
//! them; those with one only when a call cannot go on without.

use std::sync::PoisonError;

use super::{Flattener, Need, Target, below, place};
use crate::controller::reach::Reach;
use crate::volume::error::Result;
use crate::volume::image::name::beside_which;

/// How many flattens one look begins: more wait for their turn anyway.
const AT_ONCE: usize = 16;

impl Flattener {
    /// Has so many clones of an image flattened, or as many as there can be.
    pub fn thin_out(&self, reach: &Reach, image: Target, surplus: usize, need: Need) {
        let place = place(&image.pool, &image.id);
        if !self.thinned.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone()) {
            return;
        }
        let (this, reach) = (self.clone(), reach.clone());
        tokio::spawn(async move {
            if let Err(error) = this.thin_out_now(&reach, &image, surplus.min(AT_ONCE), need).await {
                let image = image.pool.describe(&image.name);
                tracing::warn!(image, %error, "an image has many snapshots, and its clones are not flattened yet");
            }
            this.thinned.lock().unwrap_or_else(PoisonError::into_inner).remove(&place);
        });
    }

    async fn thin_out_now(&self, reach: &Reach, image: &Target, count: usize, need: Need) -> Result<()> {
        let Some(pool) = reach.background(&image.pool).await? else { return Ok(()) };
        let mut clones = below::clones(&pool, &image.id).await?;
        // The oldest first; those beside cloned volumes before them, since nobody restores them.
        clones.sort_by_key(|(snap_id, clone)| (beside_which(&clone.name).is_none(), *snap_id));
        let (mut begun, mut needed) = (0, Vec::new());
        for (_, clone) in clones {
            if begun == count {
                return Ok(());
            }
            if below::look(&clone.pool, &clone.id, &self.instance).await?.is_empty() {
                self.start(reach, clone, need).await?;
                begun += 1;
            } else if need == Need::Hard {
                needed.push(clone);
            }
        }
        for clone in needed.into_iter().take(count - begun) {
            self.start(reach, clone, need).await?;
        }
        Ok(())
    }
}
