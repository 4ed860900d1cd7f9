//! DeleteVolume and DeleteSnapshot as a CO calls them.

use super::{Deleted, Deletion};
use crate::controller::reach::Reach;
use crate::controller::{Controller, with_rights};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::{self, VolumeId};
use crate::volume::journal::Collection;
use crate::volume::operation::{Deadline, Progress, Request};
use crate::volume::request::{DeleteRequest, DeleteSnapshotRequest, Secrets};

/// What is to be deleted.
struct Doomed {
    collection: Collection,
    id: VolumeId,
    secrets: Secrets,
}

impl Controller {
    /// DeleteVolume.
    ///
    /// # Errors
    /// As `Deletion::run`.
    pub async fn delete(&self, request: DeleteRequest, deadline: Deadline) -> Result<Deleted> {
        if id::is_migration(&request.volume_id) {
            let text = format!(
                "volume {} is one of the in-tree driver, which this version does not serve: keep a ceph-csi \
                 controller for these, nothing was changed",
                request.volume_id
            );
            return Err(Error::new(Kind::Precondition, text));
        }
        self.delete_of(Collection::Volumes, &request.volume_id, request.secrets, deadline).await
    }

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
        self.delete_of(Collection::Snapshots, &request.snapshot_id, request.secrets, deadline).await
    }

    async fn delete_of(
        &self,
        collection: Collection,
        handle: &str,
        secrets: Secrets,
        deadline: Deadline,
    ) -> Result<Deleted> {
        let Some(id) = VolumeId::parse(handle) else {
            tracing::warn!(handle, "no {} has such an id: nothing to delete", collection.noun());
            return Ok(Deleted::Absent);
        };
        let rpc = match collection {
            Collection::Volumes => "DeleteVolume",
            Collection::Snapshots => "DeleteSnapshot",
        };
        let operation = Request { key: id.to_string(), rpc, fingerprint: String::new(), deadline };
        let (this, doomed) = (self.clone(), Doomed { collection, id, secrets });
        self.operations
            .run_with(operation, Vec::new(), move |progress| async move {
                this.delete_now(&doomed, &progress).await
            })
            .await
    }

    async fn delete_now(&self, doomed: &Doomed, progress: &Progress) -> Result<Deleted> {
        let Doomed { collection, id, secrets } = doomed;
        progress.step(format!("connecting to cluster {}", id.cluster_id));
        let (cluster, credentials, connection) =
            self.resolver.connect_for(&id.cluster_id, secrets, Kind::Precondition).await?;
        let Some(pool) = connection.pool_by_id(id.pool_id, &cluster.rados_namespace).await? else {
            tracing::warn!(handle = %id, pool = id.pool_id, "the cluster has no such pool: nothing to delete");
            return Ok(Deleted::Absent);
        };
        let reach = Reach::new(&self.resolver.connections, &cluster, &credentials);
        let journal = self.open_journal(&pool, *collection, &reach);
        let key = format!("{} {id}", collection.noun());
        let deletion = Deletion {
            journal: &journal,
            creator: &self.creator,
            purger: &self.purger,
            mirror_daemons: cluster.mirror_daemon_count,
            instance: &self.resolver.instance,
            key: &key,
            gone: &self.gone,
            progress,
        };
        let deleted = deletion.run(id.uuid).await;
        deleted.map_err(|error| with_rights(error, credentials.user(), pool.name()))
    }
}
