//! The controller's calls: each becomes an operation of its own (`operation`).
//!
//! Lives here: what belongs to a call as a whole — its checks before anything is
//! touched, its key and fingerprint, its connection. The work is in `provision`,
//! `delete` and `resolve`.

pub mod ask;
pub mod change;
pub mod create;
pub mod delete;
mod owner;
pub mod reach;
mod recent;
pub mod snapshot;

use change::depth::{self, CloneLimits};
use change::flatten::{Flattener, Need, Target};
use create::content::{Content, Lookup};
use create::given_up::GivenUp;
use reach::Reach;
use recent::{Attempt, Names, Recent};

use std::sync::Arc;
use std::time::Duration;

use crate::ceph::{Connection, Pool};
use crate::config::ClusterEntry;
use crate::kube::Kube;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::{VolumeId, canonical};
use crate::volume::image::name;
use crate::volume::image::resolve::{Resolved, Resolver};
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Collection, Entry, Journal, Origin};
use crate::volume::operation::{Deadline, Operations, Progress, Request};
use crate::volume::parameters::Parameters;
use crate::volume::request::{CreateRequest, ValidateRequest, Volume};
pub use crate::volume::rights::with_rights;
use crate::volume::servable;
use crate::volume::size::CapacityRange;
use create::{Means, Wanted};
use delete::purge::Purger;

/// What the command line says of a controller.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// `--clustername`.
    pub cluster_name: Option<String>,
    /// `--strict-parameters`.
    pub strict_parameters: bool,
    /// What tells this process from every other that creates volumes, and is the
    /// same for the one that is started in its place.
    pub identity: String,
    /// How long another creator of the same volume is left alone before it is fenced.
    pub takeover_grace: Duration,
    /// How deep chains of clones get, and how many snapshots an image has.
    pub clone_limits: CloneLimits,
    /// How many images are flattened side by side (`--flatten-concurrency`).
    pub flatten_concurrency: usize,
}

/// The controller service.
#[derive(Clone)]
pub struct Controller {
    options: Arc<ControllerOptions>,
    resolver: Resolver,
    operations: Operations,
    purger: Purger,
    creator: Creator,
    /// Names that were made, or begun.
    names: Names,
    /// What was deleted.
    gone: Recent,
    /// Where the secrets lie that config.json names, if there is a Kubernetes.
    kube: Option<Kube>,
}

impl Controller {
    /// A controller that reaches its clusters through `resolver`.
    pub fn new(options: ControllerOptions, resolver: Resolver, operations: Operations) -> Self {
        let creator = Creator::new(&options.identity, options.takeover_grace);
        let flattener = Flattener::new(options.flatten_concurrency, &creator, &resolver.instance);
        let purger = Purger::new(&creator, &resolver.instance, &flattener);
        flattener.tell(&purger);
        let (names, gone) = (Names::default(), Recent::default());
        Self { options: Arc::new(options), resolver, operations, purger, creator, names, gone, kube: None }
    }

    /// The same, with a Kubernetes that keeps the secrets that config.json names.
    pub fn with_kube(self, kube: Option<Kube>) -> Self {
        Self { kube, ..self }
    }

    /// CreateVolume.
    ///
    /// # Errors
    /// See [`create::provision`]; [`Kind::InvalidArgument`] for what cannot be made.
    pub async fn create(&self, request: CreateRequest, deadline: Deadline) -> Result<Volume> {
        let wanted = self.check(&request)?;
        let CreateRequest { capabilities, parameters, source, .. } = &request;
        let operation = Request {
            key: format!("{}/{}/{}", wanted.parameters.cluster_id, wanted.parameters.pool, wanted.name),
            rpc: "CreateVolume",
            fingerprint: format!("{:?} {capabilities:?} {parameters:?} {source:?}", wanted.capacity),
            deadline,
        };
        let needs = source.iter().map(|origin| canonical(origin.handle())).collect();
        let (this, attempt) = (self.clone(), Attempt::new(&self.names, &operation.key));
        self.operations
            .run_with(operation, needs, move |progress| async move {
                attempt.end(this.create_now(wanted, &request, &attempt, &progress).await)
            })
            .await
    }

    fn check(&self, request: &CreateRequest) -> Result<Wanted> {
        if request.has_topology {
            return Err(not_yet("a volume for a topology", "accessibility_requirements"));
        }
        if let Some(name) = request.mutable_parameters.keys().next() {
            let text =
                format!("mutable parameter {name}: no parameter of a volume can be changed in this version");
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        create::check_capabilities(&request.capabilities, request.source.is_some())?;
        for capability in &request.capabilities {
            servable::fs_type_parameter(capability, &request.parameters)?;
        }
        let capacity = CapacityRange { required: request.required, limit: request.limit };
        if request.source.is_none() {
            let size = capacity.size()?;
            let mkfs_options = request.parameters.get("mkfsOptions").map_or("", String::as_str);
            for capability in &request.capabilities {
                servable::format(capability, size, mkfs_options)?;
            }
        }
        Ok(Wanted {
            name: request.name.clone(),
            capacity,
            content: Content::Blank,
            parameters: Parameters::parse(&request.parameters, self.options.strict_parameters)?,
            cluster_name: self.options.cluster_name.clone(),
        })
    }

    async fn create_now(
        &self,
        mut wanted: Wanted,
        request: &CreateRequest,
        attempt: &Attempt,
        progress: &Progress,
    ) -> Result<Volume> {
        let parameters = &wanted.parameters;
        progress.step(format!("connecting to cluster {}", parameters.cluster_id));
        let (cluster, credentials, connection) = self
            .resolver
            .connect_for(&parameters.cluster_id, &request.secrets, Kind::InvalidArgument)
            .await?;
        let pool = open_pool(&connection, &parameters.pool, &cluster.rados_namespace).await?;
        let id =
            VolumeId { cluster_id: cluster.cluster_id.clone(), pool_id: pool.id(), uuid: uuid::Uuid::nil() };
        if VolumeId::parse(&id.to_string()).as_ref() != Some(&id) && id.fits() {
            let text = format!("clusterID {:?} cannot stand in a volume id: only ASCII can", id.cluster_id);
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        if !id.fits() {
            let text = format!(
                "clusterID {} makes volume ids of more than 128 bytes, which CSI forbids",
                id.cluster_id
            );
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        parameters.context(&format!("{}{}", parameters.prefix, id.uuid), pool.namespace())?;
        let reach = Reach::new(&self.resolver.connections, &cluster, &credentials);
        let journal = self.open_journal(&pool, Collection::Volumes, &reach);
        self.purger.make_ready(&journal);
        let mut deep = None;
        if let Some(origin) = &request.source {
            let content = self.content(&wanted, origin, &journal, (&cluster, &reach), progress).await;
            let sized = content.and_then(|content| {
                (wanted.content, deep) = content;
                wanted.size().map(drop)
            });
            if let Err(error) = sized {
                return Err(self.without_leftovers(error, &wanted, origin, &journal, progress).await);
            }
        }
        let means = Means {
            creator: &self.creator,
            purger: &self.purger,
            attempt,
            mirror_daemons: cluster.mirror_daemon_count,
        };
        let made = create::provision(&wanted, &journal, means, &id.cluster_id, progress)
            .await
            .map_err(|error| with_rights(error, credentials.user(), &wanted.parameters.pool))?;
        self.flatten_later(&reach, deep).await;
        Ok(made)
    }

    /// Begins the flatten of an image that has reached the soft limit. It comes after what is
    /// made of the image, which it would disturb; what fails is tried again by the next such call.
    async fn flatten_later(&self, reach: &Reach, deep: Option<Target>) {
        let Some(target) = deep else { return };
        if let Err(error) = self.purger.flattener().start(reach, target, Need::Soft).await {
            tracing::warn!(%error, "an image at the soft limit of the clone depth is not flattened yet");
        }
    }

    /// Looks up what the volume is to be made of, and whether that can be cloned now; with the image
    /// that is to be flattened afterwards. A name that stands already is only compared with its
    /// source, which may be gone by now.
    async fn content(
        &self,
        wanted: &Wanted,
        origin: &Origin,
        journal: &Journal,
        (cluster, reach): (&ClusterEntry, &Reach),
        progress: &Progress,
    ) -> Result<(Content, Option<Target>)> {
        progress.step(format!("looking up {origin}"));
        let complete = journal.find(&wanted.name).await?.filter(|entry| entry.image_id.is_some());
        if let Some(entry) = &complete
            && entry.origin.as_ref() == Some(&own_words(origin))
        {
            // A repeat: what it was made of is recorded, and need not be there any more.
            return Ok((Content::Gone { origin: own_words(origin), complete: complete.clone() }, None));
        }
        let connection = journal.pool().connection();
        let lookup =
            Lookup { config: &self.resolver.config, cluster, connection, instance: &self.resolver.instance };
        let content = match lookup.content(Some(origin)).await {
            Err(error) if error.kind == Kind::NotFound && complete.is_some() => {
                return Ok((Content::Gone { origin: own_words(origin), complete }, None));
            }
            content => content?,
        };
        if complete.is_some() {
            return Ok((content, None));
        }
        if let Content::Volume { image, .. } | Content::Snapshot { image, .. } = &content
            && image.pool.id() != journal.pool().id()
        {
            // Flattens that are recorded in the source's pool go on.
            self.open_journal(&image.pool, Collection::Volumes, reach);
        }
        let look = depth::Look { controller: self, reach, progress };
        let deep = match &content {
            Content::Volume { image, .. } => look.before_snapshot(image).await?,
            Content::Snapshot { image, .. } => look.before_restore(image).await?,
            Content::Blank | Content::Gone { .. } => None,
        };
        Ok((content, deep))
    }

    /// A source that is gone, or has outgrown the size that is asked for, will not do again:
    /// what an earlier try has left of the volume is taken back before the caller is told so.
    async fn without_leftovers(
        &self,
        error: Error,
        wanted: &Wanted,
        origin: &Origin,
        journal: &Journal,
        progress: &Progress,
    ) -> Error {
        if !matches!(error.kind, Kind::NotFound | Kind::OutOfRange) {
            return error;
        }
        let (creator, purger) = (&self.creator, &self.purger);
        let given_up = GivenUp { name: &wanted.name, journal, creator, purger, progress };
        let origin = own_words(origin);
        let ours = |entry: &Entry| entry.origin.as_ref().is_none_or(|recorded| *recorded == origin);
        let images = |entry: &Entry| {
            let image = entry.image_or(&wanted.parameters.prefix);
            let beside = name::beside(&image);
            vec![image, beside]
        };
        match given_up.take_back(ours, images).await {
            Ok(()) => error.settled(),
            Err(left) => left.while_doing(format!("taking back {}, since {error}", wanted.name)).unsettled(),
        }
    }

    /// ValidateVolumeCapabilities: `None` when all are served, else why not.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such volume; what Ceph answers.
    pub async fn validate(&self, request: ValidateRequest, deadline: Deadline) -> Result<Option<String>> {
        let this = self.clone();
        let operation = Request {
            key: format!("validate {}", request.volume_id),
            rpc: "ValidateVolumeCapabilities",
            fingerprint: format!("{:?} {:?}", request.capabilities, request.context),
            deadline,
        };
        self.operations
            .run(operation, move |progress| async move {
                progress.step(format!("looking up volume {}", request.volume_id));
                let ValidateRequest { volume_id, context, secrets, .. } = &request;
                this.resolved(&this.resolver.resolve(volume_id, context, secrets, &[]).await?);
                // Whether the volume has a content source is not told, nor does it matter any more.
                Ok(create::check_capabilities(&request.capabilities, true)
                    .err()
                    .map(|error| error.to_string()))
            })
            .await
    }

    /// A call has found a volume, and brought a key: what is left to purge there goes on.
    pub(crate) fn resolved(&self, volume: &Resolved) {
        let reach = Reach::new(&self.resolver.connections, &volume.cluster, &volume.credentials);
        self.open_journal(&volume.pool, Collection::Volumes, &reach);
    }

    /// The journal of a pool; what is left to purge in it goes on.
    fn open_journal(&self, pool: &Pool, collection: Collection, reach: &Reach) -> Journal {
        let journal = Journal::new(pool, collection, &self.resolver.instance);
        self.purger.resume(&journal, reach);
        journal
    }
}

async fn open_pool(connection: &Connection, name: &str, namespace: &str) -> Result<Pool> {
    match connection.pool(name, namespace).await {
        Ok(pool) => Ok(pool),
        Err(error) if error.is(libc::ENOENT) => {
            let hint = match name.contains('/') {
                true => "; a RADOS namespace is no part of it, but `rbd.radosNamespace` in config.json",
                false => "",
            };
            let text = format!("pool {name} does not exist: create it, or correct the StorageClass{hint}");
            Err(Error::new(Kind::InvalidArgument, text).because(error))
        }
        Err(error) => Err(error.into()),
    }
}

/// A source with the one spelling of its handle, as the journal records it.
fn own_words(origin: &Origin) -> Origin {
    match origin {
        Origin::Snapshot(handle) => Origin::Snapshot(canonical(handle)),
        Origin::Volume(handle) => Origin::Volume(canonical(handle)),
    }
}

fn not_yet(what: &str, field: &str) -> Error {
    Error::new(Kind::InvalidArgument, format!("{field}: this version of the driver cannot make {what} yet"))
}
