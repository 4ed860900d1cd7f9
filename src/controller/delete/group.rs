//! Members of a group snapshot.

use super::{Deletion, exists};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::journal::Entry;

impl Deletion<'_> {
    /// A member of a group snapshot goes with its group (CSI: "a snapshot that is part of a group
    /// snapshot and cannot be deleted alone"), unless the group is gone.
    pub(super) async fn refuse_member(&self, entry: &Entry, group: &str) -> Result<()> {
        let Some(id) = VolumeId::parse(group) else { return Ok(()) };
        let own = self.journal.pool();
        let other = if id.pool_id == own.id() {
            Some(own.clone())
        } else {
            own.connection().pool_by_id(id.pool_id, own.namespace()).await?
        };
        let Some(pool) = other else { return Ok(()) };
        if !exists(&pool, &format!("csi.volume.group.{}", id.uuid)).await? {
            return Ok(());
        }
        let text = format!(
            "snapshot {} is part of group snapshot {group} and cannot be deleted alone: delete the group \
             snapshot; nothing was changed",
            entry.name
        );
        Err(Error::new(Kind::InvalidArgument, text))
    }
}
