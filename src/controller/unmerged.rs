//! What is written elsewhere, so that the door builds without it.

use super::Controller;
use super::delete::Deleted;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Deadline;
use crate::volume::request::{CreateSnapshotRequest, DeleteSnapshotRequest, Snapshot};

impl Controller {
    /// CreateSnapshot.
    ///
    /// # Errors
    /// Always.
    pub async fn create_snapshot(&self, _: CreateSnapshotRequest, _: Deadline) -> Result<Snapshot> {
        Err(Error::new(Kind::Internal, "not merged"))
    }

    /// DeleteSnapshot.
    ///
    /// # Errors
    /// Always.
    pub async fn delete_snapshot(&self, _: DeleteSnapshotRequest, _: Deadline) -> Result<Deleted> {
        Err(Error::new(Kind::Internal, "not merged"))
    }
}
