//! ListSnapshots and GetSnapshot, from the journals of snapshots.
//!
//! What a reader gets wrong: a cluster that does not answer is an error, never a shorter list.
//! To csi-snapshotter a snapshot that is not in the list does not exist.
//!
//! A page costs one operation for each 1,024 names of the journal that are looked at and two
//! for each of its snapshots (one for those that a filter drops), and looks at no more than
//! 1,024 names (`MOST`): it may be shorter than asked for, and even empty, and still have a next one.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::ceph::{Pool, SnapshotKind};
use crate::config::ClusterEntry;
use crate::controller::Controller;
use crate::controller::reach::Reach;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::image::name::uuid_of;
use crate::volume::journal::{Collection, Entry, Journal};
use crate::volume::operation::{Deadline, Progress, Request};
use crate::volume::request::{ListSnapshotsRequest, Secrets, Snapshot};

/// Names that one call looks at.
const MOST: usize = 1024;
/// Entries that are read at the same time.
const AT_ONCE: usize = 16;
/// How long the Kubernetes API may take for a cluster's secret.
const SECRET: Duration = Duration::from_secs(10);

/// A part of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotPage {
    /// Snapshots, complete ones only.
    pub snapshots: Vec<Snapshot>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// Where a page begins: behind a name of a pool's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    cluster_id: String,
    pool_id: i64,
    after: String,
}

impl Place {
    fn parse(token: &str) -> Option<Self> {
        let (pool_id, rest) = token.split_once('/')?;
        let (length, rest) = rest.split_once('/')?;
        let (cluster_id, after) = rest.split_at_checked(length.parse().ok()?)?;
        let pool_id = pool_id.parse().ok()?;
        Some(Self { cluster_id: cluster_id.to_owned(), pool_id, after: after.to_owned() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}{}", self.pool_id, self.cluster_id.len(), self.cluster_id, self.after)
    }
}

impl Controller {
    /// ListSnapshots.
    ///
    /// # Errors
    /// [`Kind::NoSuchPlace`] for a token that is none; [`Kind::Precondition`] for a cluster
    /// that has no key or no configuration; what Ceph and Kubernetes answer.
    pub async fn list_snapshots(
        &self,
        request: ListSnapshotsRequest,
        deadline: Deadline,
    ) -> Result<SnapshotPage> {
        let place = match request.starting_token.as_str() {
            "" => None,
            token => Some(Place::parse(token).ok_or_else(|| no_place(token))?),
        };
        let ListSnapshotsRequest { snapshot_id, source_volume_id, max_entries, starting_token, .. } =
            &request;
        let operation = Request {
            key: format!("list {snapshot_id:?} {source_volume_id:?} {max_entries} {starting_token}"),
            rpc: "ListSnapshots",
            fingerprint: String::new(),
            deadline,
        };
        let this = self.clone();
        self.operations
            .run(operation, move |progress| async move {
                let (given, progress) = (request.secrets.clone(), &progress);
                let asking = Asking { controller: &this, given: &given, progress };
                asking.answer(request, place).await
            })
            .await
    }

    /// GetSnapshot.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is none, or none that is complete; else as
    /// [`Controller::list_snapshots`].
    pub async fn get_snapshot(
        &self,
        snapshot_id: String,
        secrets: Secrets,
        deadline: Deadline,
    ) -> Result<Snapshot> {
        let request = ListSnapshotsRequest {
            snapshot_id: Some(snapshot_id.clone()),
            source_volume_id: None,
            max_entries: 0,
            starting_token: String::new(),
            secrets,
        };
        let found = self.list_snapshots(request, deadline).await?.snapshots.pop();
        found.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("snapshot {snapshot_id} does not exist, or is not complete"))
        })
    }
}

/// What an entry of the snapshots' journal and its image make together; `None` for a snapshot
/// that is not complete, or not any more. One operation.
///
/// # Errors
/// What Ceph answers.
pub async fn described(cluster_id: &str, pool: &Pool, entry: &Entry) -> Result<Option<Snapshot>> {
    let Some(image_id) = &entry.image_id else { return Ok(None) };
    let Some(header) = pool.image_header(image_id, &[]).await? else { return Ok(None) };
    let name = entry.image(Collection::Snapshots);
    // What restores are cloned from; it goes first when the snapshot is deleted.
    let own = header.snapshots.iter().find(|own| own.kind == SnapshotKind::User && own.name == name);
    let id = |uuid| VolumeId { cluster_id: cluster_id.to_owned(), pool_id: pool.id(), uuid }.to_string();
    let source = entry.source.as_deref().unwrap_or_default();
    Ok(own.map(|own| Snapshot {
        id: id(entry.uuid),
        // A snapshot's image is in the pool of its volume.
        source_volume_id: uuid_of(source).map_or_else(|| source.to_owned(), id),
        size: own.size,
        created: own.created,
    }))
}

struct Asking<'a> {
    controller: &'a Controller,
    given: &'a Secrets,
    progress: &'a Progress,
}

impl Asking<'_> {
    async fn answer(&self, request: ListSnapshotsRequest, place: Option<Place>) -> Result<SnapshotPage> {
        let most = if request.max_entries == 0 { MOST } else { request.max_entries };
        if let Some(snapshot) = request.snapshot_id {
            let found = self.one(&snapshot).await?;
            let wanted = |found: &Snapshot| {
                request.source_volume_id.as_ref().is_none_or(|source| *source == found.source_volume_id)
            };
            let snapshots = found.into_iter().filter(wanted).collect();
            return Ok(SnapshotPage { snapshots, next: None });
        }
        let mut found = Found { most, ..Found::default() };
        match request.source_volume_id {
            Some(source) => self.of_source(&source, place, &mut found).await?,
            None => self.all(place, &mut found).await?,
        }
        Ok(SnapshotPage { snapshots: found.snapshots, next: found.stopped.map(|place| place.to_string()) })
    }

    /// A handle that nobody composed is the id of nothing; a cluster that is not configured is
    /// no proof of that.
    async fn one(&self, handle: &str) -> Result<Option<Snapshot>> {
        let Some(id) = VolumeId::parse(handle) else { return Ok(None) };
        let Some(journal) = self.journal(&id).await? else { return Ok(None) };
        self.progress.step(format!("looking up snapshot {handle}"));
        match journal.entry(id.uuid).await? {
            Some(entry) => described(&id.cluster_id, journal.pool(), &entry).await,
            None => Ok(None),
        }
    }

    /// The snapshots of a volume are in its pool; the volume itself may be gone.
    async fn of_source(&self, handle: &str, place: Option<Place>, found: &mut Found) -> Result<()> {
        let Some(id) = VolumeId::parse(handle) else { return Ok(()) };
        let Some(journal) = self.journal(&id).await? else { return Ok(()) };
        let begin = match place {
            Some(place) if (place.cluster_id.as_str(), place.pool_id) == (&id.cluster_id, id.pool_id) => {
                place.after
            }
            Some(place) => return Err(no_place(&place.to_string())),
            None => String::new(),
        };
        self.walk(&journal, &id.cluster_id, begin, Some(id.uuid), found).await.map(drop)
    }

    /// Every pool of every cluster that the key may read.
    async fn all(&self, place: Option<Place>, found: &mut Found) -> Result<()> {
        let mut clusters = self.controller.resolver.config.entries()?;
        // Of two with one id, the first counts, as everywhere.
        clusters.sort_by(|a, b| a.cluster_id.cmp(&b.cluster_id));
        clusters.dedup_by(|b, a| a.cluster_id == b.cluster_id);
        let at = place.as_ref();
        for cluster in
            clusters.iter().filter(|cluster| at.is_none_or(|at| cluster.cluster_id >= at.cluster_id))
        {
            let here = at.filter(|at| at.cluster_id == cluster.cluster_id);
            for pool in self.pools(cluster).await? {
                let after = match here {
                    Some(at) if pool.id() < at.pool_id => continue,
                    Some(at) if pool.id() == at.pool_id => at.after.clone(),
                    _ => String::new(),
                };
                let journal = self.snapshots_of(&pool);
                if self.walk(&journal, &cluster.cluster_id, after, None, found).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn pools(&self, cluster: &ClusterEntry) -> Result<Vec<Pool>> {
        let (namespace, connection) = (&cluster.rados_namespace, self.connect(cluster).await?);
        let mut pools = Vec::new();
        for name in connection.pools().await? {
            match connection.pool(&name, namespace).await {
                // Deleted since the list was read.
                Err(error) if error.is(libc::ENOENT) => {}
                pool => pools.push(pool?),
            }
        }
        pools.sort_by_key(Pool::id);
        Ok(pools)
    }

    /// Goes through a journal until enough is found (`true`, with the place) or it ends.
    async fn walk(
        &self,
        journal: &Journal,
        cluster_id: &str,
        mut after: String,
        source: Option<uuid::Uuid>,
        found: &mut Found,
    ) -> Result<bool> {
        let pool = journal.pool();
        self.progress.step(format!("listing the snapshots of pool {}", pool.name()));
        loop {
            let left = found.left();
            if left == 0 {
                let place = Place { cluster_id: cluster_id.to_owned(), pool_id: pool.id(), after };
                found.stopped = Some(place);
                return Ok(true);
            }
            let page = match journal.page(&after, u64::try_from(left).unwrap_or(u64::MAX)).await {
                // Not one of the pools that the key is for.
                Err(error) if source.is_none() && error.kind == Kind::Denied => return Ok(false),
                page => page?,
            };
            found.looked_at += page.names.len().max(1);
            let uuids = page.names.into_iter().map(|(_, uuid)| uuid).collect();
            found.snapshots.extend(read(journal, cluster_id, uuids, source).await?);
            match page.next {
                Some(next) => after = next,
                None => return Ok(false),
            }
        }
    }

    async fn journal(&self, id: &VolumeId) -> Result<Option<Journal>> {
        let cluster =
            self.controller.resolver.config.cluster(&id.cluster_id).map_err(|error| match error.kind {
                Kind::NotFound => error.of_kind(Kind::Precondition),
                _ => error,
            })?;
        let connection = self.connect(&cluster).await?;
        let pool = connection.pool_by_id(id.pool_id, &cluster.rados_namespace).await?;
        Ok(pool.map(|pool| self.snapshots_of(&pool)))
    }

    fn snapshots_of(&self, pool: &Pool) -> Journal {
        Journal::new(pool, Collection::Snapshots, &self.controller.resolver.instance)
    }

    async fn connect(&self, cluster: &ClusterEntry) -> Result<crate::ceph::Connection> {
        self.progress.step(format!("connecting to cluster {}", cluster.cluster_id));
        let limit = self.progress.deadline.left_at_most(SECRET);
        let secrets = self.controller.secrets_for(self.given, cluster, limit).await?;
        let connected =
            self.controller.resolver.connect_for(&cluster.cluster_id, &secrets, Kind::Precondition).await?;
        let (_, credentials, connection) = connected;
        let reach = Reach::new(&self.controller.resolver.connections, cluster, &credentials);
        self.controller.purger.resume_known(&connection, &reach);
        Ok(connection)
    }
}

/// What one call has found so far.
#[derive(Default)]
struct Found {
    snapshots: Vec<Snapshot>,
    most: usize,
    looked_at: usize,
    stopped: Option<Place>,
}

impl Found {
    /// How many more names may be looked at: never more than snapshots that are still wanted.
    fn left(&self) -> usize {
        self.most.saturating_sub(self.snapshots.len()).min(MOST.saturating_sub(self.looked_at))
    }
}

/// The complete snapshots of these uuids, in this order; of one volume if so wanted.
async fn read(
    journal: &Journal,
    cluster_id: &str,
    uuids: Vec<uuid::Uuid>,
    source: Option<uuid::Uuid>,
) -> Result<Vec<Snapshot>> {
    let mut found: Vec<Option<Snapshot>> = vec![None; uuids.len()];
    let mut asked = JoinSet::new();
    let mut waiting = uuids.into_iter().enumerate();
    loop {
        for (place, uuid) in waiting.by_ref().take(AT_ONCE.saturating_sub(asked.len())) {
            let (journal, cluster_id) = (journal.clone(), cluster_id.to_owned());
            asked.spawn(async move { (place, of_uuid(&journal, &cluster_id, uuid, source).await) });
        }
        let Some(read) = asked.join_next().await else { break };
        let (place, snapshot) =
            read.map_err(|error| Error::new(Kind::Internal, "an entry was not read").because(error))?;
        if let Some(slot) = found.get_mut(place) {
            *slot = snapshot?;
        }
    }
    Ok(found.into_iter().flatten().collect())
}

async fn of_uuid(
    journal: &Journal,
    cluster_id: &str,
    uuid: uuid::Uuid,
    source: Option<uuid::Uuid>,
) -> Result<Option<Snapshot>> {
    let Some(entry) = journal.entry(uuid).await? else { return Ok(None) };
    if source.is_some() && entry.source.as_deref().and_then(uuid_of) != source {
        return Ok(None);
    }
    described(cluster_id, journal.pool(), &entry).await
}

fn no_place(token: &str) -> Error {
    let text = format!("starting_token {token:?} is none that this list gave; begin without one");
    Error::new(Kind::NoSuchPlace, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_cluster_pool_and_name_whatever_they_contain() {
        for (cluster_id, after) in [("c", "snapshot-1"), ("a/b:c", "x/1/y"), ("ü", ""), ("1", "1/1/1")] {
            let place = Place { cluster_id: cluster_id.into(), pool_id: 7, after: after.into() };
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for bad in ["", "x", "7", "7/", "7/9/short", "7/1/ü", "-/1/c", "7/x/c"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
