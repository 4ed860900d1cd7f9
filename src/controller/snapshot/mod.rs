//! CreateSnapshot: a point in time of a volume becomes a snapshot of its own.
//!
//! A snapshot is an image of its own (`point`), so it outlives its volume; its journal is
//! shaped like that of volumes (`Collection::Snapshots`), and so is the way here:
//! 1. Look the name up: one that is complete is answered as it is.
//! 2. Look at the source, and refuse what cannot be snapshotted before anything is written.
//! 3. Reserve the name.
//! 4. Make the point in time, under the creator's lock.
//! 5. Write the names of the VolumeSnapshot onto its image, in place of the claim's.
//! 6. Record the image's id: the snapshot is complete.

pub mod point;

mod create;

use crate::controller::Controller;
use crate::controller::recent::Attempt;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::operation::{Deadline, Request};
use crate::volume::parameters::snapshot::SnapshotParameters;
use crate::volume::request::{CreateSnapshotRequest, Snapshot};

impl Controller {
    /// CreateSnapshot.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such volume; [`Kind::InvalidArgument`] for one that
    /// cannot be snapshotted; [`Kind::AlreadyExists`] when the name is another volume's
    /// snapshot; [`Kind::Busy`] while the volume has to be flattened first; what Ceph answers.
    pub async fn create_snapshot(
        &self,
        request: CreateSnapshotRequest,
        deadline: Deadline,
    ) -> Result<Snapshot> {
        let parameters = SnapshotParameters::parse(&request.parameters, self.options.strict_parameters)?;
        let Some(source) = VolumeId::parse(&request.source_volume_id) else {
            let text = format!("source Volume ID {} not found", request.source_volume_id);
            return Err(Error::new(Kind::NotFound, text));
        };
        if let Some(other) = parameters.cluster_id.as_ref().filter(|id| **id != source.cluster_id) {
            let text = format!(
                "the class is for cluster {other}, and volume {source} is in cluster {}: use a \
                 VolumeSnapshotClass of that cluster",
                source.cluster_id
            );
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        let operation = Request {
            key: format!("snapshot {}/{}/{}", source.cluster_id, source.pool_id, request.name),
            rpc: "CreateSnapshot",
            fingerprint: format!("{source} {:?}", request.parameters),
            deadline,
        };
        let attempt = Attempt::new(&self.names, &operation.key);
        let (this, needs) = (self.clone(), vec![source.to_string()]);
        self.operations
            .run_with(operation, needs, move |progress| async move {
                let made = create::create(&this, &request, &source, &parameters, &attempt, &progress);
                attempt.end(made.await)
            })
            .await
    }
}
