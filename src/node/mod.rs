//! The node's calls: each that changes something becomes an operation (`operation`).
//!
//! Lives here: what belongs to a call as a whole — its checks before anything is
//! touched, its key and fingerprint. The work is in `stage`, `unstage`, `publish`,
//! `expand` and `stats`.
//!
//! What a reader gets wrong: all operations of a volume have one key, so that a volume
//! is not published while it is unstaged; those of different volumes never wait for each
//! other.

pub mod blank;
pub mod checks;
pub mod expand;
pub mod host_error;
pub mod mapping;
pub mod publish;
mod readers;
pub mod replay_lock;
pub mod stage;
pub mod staged;
pub mod stash;
pub mod stats;
pub mod unstage;

use std::path::PathBuf;
use std::sync::Arc;

use crate::host::utab;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::resolve::Resolver;
use crate::volume::operation::{Deadline, Operations, Request};
use crate::volume::request::{
    ExpandOnNodeRequest, PublishRequest, StageRequest, StatsRequest, UnpublishRequest, UnstageRequest,
};
use crate::volume::servable;
use checks::Checks;
use expand::Expansion;
use mapping::{MapWith, Mapper};
use publish::Publication;
use stage::Staging;
use staged::StagingPath;
use stats::Health;

/// What the command line says of a node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// `--nodeid`.
    pub node_id: String,
    /// `--map-with`.
    pub map_with: MapWith,
    /// A folder for short-lived sparse files.
    pub scratch: PathBuf,
}

/// The node service.
#[derive(Clone)]
pub struct Node {
    options: Arc<NodeOptions>,
    resolver: Resolver,
    operations: Operations,
    mapper: Mapper,
    checks: Checks,
}

impl Node {
    /// A node that reaches its clusters through `resolver`.
    pub fn new(options: NodeOptions, resolver: Resolver, operations: Operations) -> Self {
        let mapper = Mapper::new(options.map_with);
        Self { options: Arc::new(options), resolver, operations, mapper, checks: Checks::default() }
    }

    /// This node's name: `--nodeid`.
    pub fn id(&self) -> &str {
        &self.options.node_id
    }

    /// NodeStageVolume.
    ///
    /// # Errors
    /// See [`stage::stage`].
    pub async fn stage(&self, request: StageRequest, deadline: Deadline) -> Result<()> {
        let place = StagingPath::new(&request.volume_id, &request.staging_path)?;
        servable::check(&request.capability, &request.context)?;
        let operation = Request {
            key: request.volume_id.clone(),
            rpc: "NodeStageVolume",
            fingerprint: format!("{:?} {:?} {:?}", place.folder, request.capability, request.context),
            deadline,
        };
        let staging = Staging {
            place,
            capability: request.capability,
            context: request.context,
            secrets: request.secrets,
            resolver: self.resolver.clone(),
            mapper: self.mapper.clone(),
            checks: self.checks.clone(),
            node: self.options.node_id.clone(),
            scratch: self.options.scratch.clone(),
        };
        let work = move |progress| async move {
            stage::stage(&staging, &progress).await?;
            utab::add(&staging.place.entry).await;
            Ok(())
        };
        self.operations.run(operation, work).await
    }

    /// NodeUnstageVolume. A volume that is not staged is no error.
    ///
    /// # Errors
    /// See [`unstage::take_down`].
    pub async fn unstage(&self, request: UnstageRequest, deadline: Deadline) -> Result<()> {
        let place = match StagingPath::new(&request.volume_id, &request.staging_path) {
            // No volume has such an id, so it is not staged.
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            other => other?,
        };
        let operation = Request {
            key: request.volume_id,
            rpc: "NodeUnstageVolume",
            fingerprint: format!("{:?}", place.folder),
            deadline,
        };
        let (mapper, config) = (self.mapper.clone(), self.resolver.config.clone());
        let work = move |progress| async move {
            // What is left is on this node only, and the CO has to come back for it.
            unstage::take_down(&place, &mapper, &config, &progress).await
        };
        self.operations.run(operation, work).await
    }

    /// NodePublishVolume.
    ///
    /// # Errors
    /// See [`publish::publish`].
    pub async fn publish(&self, request: PublishRequest, deadline: Deadline) -> Result<()> {
        let staging_path = request.staging_path.ok_or_else(|| {
            let text = format!("volume {} is published without staging_target_path", request.volume_id);
            Error::new(Kind::Precondition, text)
        })?;
        let publication = Publication {
            staging: StagingPath::new(&request.volume_id, &staging_path)?,
            target: staged::path("target_path", &request.target_path)?,
            capability: request.capability,
            read_only: request.read_only,
            service_accounts: request.service_accounts,
        };
        let operation = Request {
            key: request.volume_id,
            rpc: "NodePublishVolume",
            fingerprint: format!("{publication:?}"),
            deadline,
        };
        let work = move |progress| async move {
            publish::publish(&publication, &progress).await?;
            utab::add(&publication.target).await;
            Ok(())
        };
        self.operations.run(operation, work).await
    }

    /// NodeUnpublishVolume. A volume that is not published there is no error.
    ///
    /// # Errors
    /// See [`publish::unpublish`].
    pub async fn unpublish(&self, request: UnpublishRequest, deadline: Deadline) -> Result<()> {
        let target = staged::path("target_path", &request.target_path)?;
        let operation = Request {
            key: request.volume_id,
            rpc: "NodeUnpublishVolume",
            fingerprint: format!("{target:?}"),
            deadline,
        };
        let work = move |progress| async move { publish::unpublish(&target, &progress).await };
        self.operations.run(operation, work).await
    }

    /// NodeGetVolumeStats.
    ///
    /// # Errors
    /// See [`stats::stats`].
    pub async fn stats(&self, request: StatsRequest, deadline: Deadline) -> Result<Health> {
        stats::stats(&request.volume_id, &request.path, deadline).await
    }

    /// NodeExpandVolume; gives the bytes of the volume's device.
    ///
    /// # Errors
    /// See [`expand::expand`].
    pub async fn expand(&self, request: ExpandOnNodeRequest, deadline: Deadline) -> Result<u64> {
        let staging = request.staging_path.map(|path| StagingPath::new(&request.volume_id, &path));
        let expansion = Expansion {
            volume_id: request.volume_id.clone(),
            staging: staging.transpose()?,
            path: request.path,
            range: request.range,
            capability: request.capability,
        };
        let operation = Request {
            key: request.volume_id,
            rpc: "NodeExpandVolume",
            fingerprint: format!("{expansion:?}"),
            deadline,
        };
        let work = move |progress| async move { expand::expand(&expansion, &progress).await };
        self.operations.run(operation, work).await
    }
}
