//! How deep chains of clones get, and how many snapshots an image has, before it is flattened.
//!
//! The limits and their defaults are ceph-csi's. Each clone in a chain is one more image that a
//! read may have to look at; librbd opens chains of 16 at most, and krbd maps no image with
//! more than 510 snapshots. At the soft limit a flatten begins in the background and the call
//! goes on; at the hard one the call is told to come back.

use crate::controller::Controller;
use crate::controller::change::flatten::{Flattener, Need, Target, is_blind};
use crate::controller::reach::Reach;
use crate::controller::snapshot::point::Source;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::chain;
use crate::volume::operation::Progress;

/// `--rbdhardmaxclonedepth`, `--rbdsoftmaxclonedepth`, `--maxsnapshotsonimage`,
/// `--minsnapshotsonimage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CloneLimits {
    /// So many ancestors an image may have at most.
    pub hard_depth: usize,
    /// From so many on it is flattened in the background.
    pub soft_depth: usize,
    /// So many snapshots an image may have at most, those in its snapshot trash included.
    pub most_snapshots: usize,
    /// Above so many the surplus' clones are flattened in the background.
    pub many_snapshots: usize,
}

impl Default for CloneLimits {
    fn default() -> Self {
        Self { hard_depth: 8, soft_depth: 4, most_snapshots: 450, many_snapshots: 250 }
    }
}

/// What a snapshot or a clone of a volume adds to the chain, and what may still be put on top:
/// ceph-csi's `depthToAvoidFlatten`.
const ABOVE_A_VOLUME: usize = 3;
/// The same for a volume from a snapshot.
const ABOVE_A_SNAPSHOT: usize = 1;

/// Where an image is looked at, and how it is reached again when it is to be flattened.
pub struct Look<'a> {
    /// Limits and the flattener.
    pub controller: &'a Controller,
    /// The way back to the cluster.
    pub reach: &'a Reach,
    /// Tells the step.
    pub progress: &'a Progress,
}

impl Look<'_> {
    /// Before a snapshot or a clone is taken of a volume's image; the image when it is to be
    /// flattened afterwards.
    ///
    /// # Errors
    /// [`Kind::Busy`] with how far the flatten is that has to come first, or when the image has too
    /// many snapshots; what Ceph answers.
    pub async fn before_snapshot(&self, image: &Source) -> Result<Option<Target>> {
        self.snapshots(image)?;
        refuse_blind(self.flattener(), image).await?;
        self.depth(image, ABOVE_A_VOLUME).await
    }

    /// Before a volume is made of a snapshot's image.
    ///
    /// # Errors
    /// As [`Look::before_snapshot`].
    pub async fn before_restore(&self, image: &Source) -> Result<Option<Target>> {
        self.depth(image, ABOVE_A_SNAPSHOT).await
    }

    fn flattener(&self) -> &Flattener {
        self.controller.purger.flattener()
    }

    async fn depth(&self, image: &Source, above: usize) -> Result<Option<Target>> {
        if image.header.parent.is_none() {
            return Ok(None);
        }
        let depth = chain::ancestors(&image.pool, &image.header).await?.len();
        let limits = &self.controller.options.clone_limits;
        if depth < limits.soft_depth.saturating_sub(above) {
            return Ok(None);
        }
        let target = Target::of(image);
        if depth < limits.hard_depth.saturating_sub(above) {
            return Ok(Some(target));
        }
        let shown = image.pool.describe(&image.name);
        let far = self.flattener().start(self.reach, target, Need::Hard).await?;
        let text = format!(
            "image {shown} is a clone of a clone, {depth} deep, and has to be flattened first: flatten is in \
             progress for image {shown}, {far}; calling again goes on when it is done"
        );
        self.progress.counted(format!("flattening {shown}, {far}"));
        Err(Error::new(Kind::Busy, text))
    }

    fn snapshots(&self, image: &Source) -> Result<()> {
        let limits = &self.controller.options.clone_limits;
        let has = image.header.snapshots.len();
        if has <= limits.many_snapshots {
            return Ok(());
        }
        let full = has > limits.most_snapshots;
        let need = if full { Need::Hard } else { Need::Soft };
        let surplus = has - limits.many_snapshots;
        self.flattener().thin_out(self.reach, Target::of(image), surplus, need);
        if !full {
            return Ok(());
        }
        let text = format!(
            "rbd image {} has {has} snapshots, and may have {} (--maxsnapshotsonimage): the images that were \
             cloned from them are being flattened, which takes the snapshots away; call again later",
            image.pool.describe(&image.name),
            limits.most_snapshots
        );
        Err(Error::new(Kind::Busy, text))
    }
}

/// Refuses a snapshot that the flatten of its image would not see.
///
/// # Errors
/// [`Kind::Busy`] with how far that flatten is; what Ceph answers.
pub async fn refuse_blind(flattener: &Flattener, image: &Source) -> Result<()> {
    // One that has lost its parent waits for its clones only: a snapshot of it has no parent either.
    if image.header.parent.is_none() || !is_blind(&image.header) {
        return Ok(());
    }
    let Some(far) = flattener.under_way(&image.pool, &image.id).await? else { return Ok(()) };
    let shown = image.pool.describe(&image.name);
    let text = format!(
        "image {shown} has neither exclusive-lock nor deep-flatten, so no snapshot of it can be taken while it is \
         flattened: flatten is in progress for image {shown}, {far}; calling again goes on when it is done"
    );
    Err(Error::new(Kind::Busy, text))
}
