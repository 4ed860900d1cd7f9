//! DeleteSnapshot.

use super::{Deleted, Deletion, exists};
use crate::controller::Controller;
use crate::controller::reach::Reach;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::journal::{Collection, Entry};
use crate::volume::operation::{Deadline, Progress, Request};
use crate::volume::request::DeleteSnapshotRequest;

impl Controller {
    /// DeleteSnapshot. Volumes that were made of it stay as they are: its image waits for them in
    /// the trash.
    ///
    /// # Errors
    /// As `Deletion::run`; [`Kind::InvalidArgument`] for a member of a group snapshot.
    pub async fn delete_snapshot(
        &self,
        request: DeleteSnapshotRequest,
        deadline: Deadline,
    ) -> Result<Deleted> {
        let Some(id) = VolumeId::parse(&request.snapshot_id) else {
            tracing::warn!(snapshot = request.snapshot_id, "no snapshot has such an id: nothing to delete");
            return Ok(Deleted::Absent);
        };
        let operation =
            Request { key: id.to_string(), rpc: "DeleteSnapshot", fingerprint: String::new(), deadline };
        let this = self.clone();
        self.operations
            .run_with(operation, Vec::new(), move |progress| async move {
                this.delete_snapshot_now(&id, &request, &progress).await
            })
            .await
    }

    async fn delete_snapshot_now(
        &self,
        id: &VolumeId,
        request: &DeleteSnapshotRequest,
        progress: &Progress,
    ) -> Result<Deleted> {
        progress.step(format!("connecting to cluster {}", id.cluster_id));
        let (cluster, credentials, connection) =
            self.resolver.connect_for(&id.cluster_id, &request.secrets, Kind::Precondition).await?;
        let Some(pool) = connection.pool_by_id(id.pool_id, &cluster.rados_namespace).await? else {
            tracing::warn!(
                snapshot = request.snapshot_id,
                pool = id.pool_id,
                "the cluster has no such pool: nothing to delete"
            );
            return Ok(Deleted::Absent);
        };
        let reach = Reach::new(&self.resolver.connections, &cluster, &credentials);
        let journal = self.open_journal(&pool, Collection::Snapshots, &reach);
        let deletion = Deletion {
            journal: &journal,
            creator: &self.creator,
            purger: &self.purger,
            mirror_daemons: cluster.mirror_daemon_count,
            instance: &self.resolver.instance,
            progress,
        };
        deletion
            .run(id.uuid)
            .await
            .map_err(|error| crate::controller::with_rights(error, credentials.user(), pool.name()))
    }
}

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
