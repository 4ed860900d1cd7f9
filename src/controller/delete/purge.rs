//! The purges of this process: what waits, for what, and when it is tried again.
//!
//! Background work without the mgr, on a Ceph client of its own, so that calls do not wait for
//! it. Each journal (`Place`) has a queue and at most one task; a cluster has some slots, so
//! one that hangs holds up no other. A place keeps no connection: it asks for one at each try,
//! with the key that a call brought last, and ends with its pool.
//!
//! What a reader gets wrong: without a key nothing can be done. After a restart a cluster's
//! purges go on with the first call, of any kind, that brings one. An image that clones need is
//! not polled: the purge of the last clone wakes it (`parent`). What other programs do to it is
//! looked for now and then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::attempt::{self, Outcome};
use super::queue::{Item, Next, Queue};
use super::record::{self, ParentImage, Record};
use crate::ceph::{Connection, ImageId, Pool};
use crate::controller::change::flatten::Flattener;
use crate::controller::owner;
use crate::controller::reach::Reach;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::name;
use crate::volume::journal::creator::Creator;
use crate::volume::journal::{Collection, Journal};

/// Purges that run at once in a cluster; each may send many deletes to it.
const AT_ONCE: usize = 4;
/// How often a journal's records are read again: another controller may have died.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// A journal, told from all others of this process, whatever client it is reached by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    fsid: String,
    pool_id: i64,
    namespace: String,
    collection: Collection,
}

impl Place {
    /// That of a journal.
    pub fn of(journal: &Journal) -> Self {
        let pool = journal.pool();
        Self {
            fsid: pool.connection().fsid_text().to_owned(),
            pool_id: pool.id(),
            namespace: pool.namespace().to_owned(),
            collection: journal.collection(),
        }
    }
}

/// The purges of this process.
#[derive(Clone)]
pub struct Purger(Arc<Shared>);

struct Shared {
    creator: Creator,
    instance: String,
    flattener: Flattener,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    places: HashMap<Place, Queue>,
    /// Of each cluster.
    slots: HashMap<String, Arc<Semaphore>>,
    /// Of how many purges that run each image is the parent.
    parents: HashMap<(String, ParentImage), usize>,
}

impl Purger {
    /// `creator` tells this process's locks from others'; `flattener` goes on with the flattens
    /// that are recorded in the same objects.
    pub fn new(creator: &Creator, instance: &str, flattener: &Flattener) -> Self {
        Self(Arc::new(Shared {
            creator: creator.clone(),
            instance: instance.to_owned(),
            flattener: flattener.clone(),
            state: Mutex::default(),
        }))
    }

    /// Who takes locks.
    pub(super) fn creator(&self) -> &Creator {
        &self.0.creator
    }

    /// Who flattens images.
    pub fn flattener(&self) -> &Flattener {
        &self.0.flattener
    }

    /// `--instanceid`.
    pub(super) fn instance(&self) -> &str {
        &self.0.instance
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call has brought a key: whatever waits in this pool, and in the other pools of its cluster
    /// that this process knows, goes on. It is looked for at the first call, and again after
    /// a while.
    pub fn resume(&self, journal: &Journal, reach: &Reach) {
        let here = Place::of(journal);
        {
            let mut state = self.state();
            for collection in [Collection::Volumes, Collection::Snapshots] {
                let place = Place { collection, ..here.clone() };
                state.places.entry(place).or_insert_with(|| Queue::new(reach)).reach = reach.clone();
            }
        }
        self.resume_known(journal.pool().connection(), reach);
    }

    /// The same for the pools of the cluster that are known by now, where a call is for none.
    pub fn resume_known(&self, connection: &Connection, reach: &Reach) {
        self.0.creator.know(connection);
        let mut due = Vec::new();
        for (place, queue) in &mut self.state().places {
            if place.fsid != connection.fsid_text() {
                continue;
            }
            // Its key may be no good any more; another user may lack rights in the pool.
            if queue.looked.is_none() || queue.reach.is_of(reach) {
                queue.reach = reach.clone();
            }
            let old = queue.looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN);
            if old {
                queue.looked = Some(Instant::now());
                due.push(place.clone());
            }
        }
        if due.is_empty() {
            return;
        }
        let purger = self.clone();
        tokio::spawn(async move {
            for place in due {
                if let Err(error) = purger.look(&place).await {
                    tracing::warn!(%error, "could not read which images wait for their purge");
                    if let Some(queue) = purger.state().places.get_mut(&place) {
                        queue.looked = None;
                    }
                }
            }
        });
    }

    /// Finds what waits in a place.
    async fn look(&self, place: &Place) -> Result<()> {
        let Some(journal) = self.journal(place).await? else {
            self.forget(place);
            return Ok(());
        };
        let left = record::left(&journal).await?;
        for id in &left.purges {
            self.queue(place, id.clone(), false);
        }
        let reach = self.state().places.get(place).map(|queue| queue.reach.clone());
        if let Some(reach) = reach {
            for (id, value) in &left.flattens {
                self.0.flattener.resume(journal.pool(), &reach, id, value);
            }
        }
        // Locks of the dead last for a minute, which this process may outlive.
        owner::sweep(&journal, &left).await
    }

    /// Makes sure, once and in the background, that a volume that is about to be created
    /// can be deleted from a full pool.
    pub fn make_ready(&self, journal: &Journal) {
        let place = Place::of(journal);
        let unready = |queue: &mut Queue| !std::mem::replace(&mut queue.ready, true);
        if !self.state().places.get_mut(&place).is_some_and(unready) {
            return;
        }
        let (purger, journal) = (self.clone(), journal.clone());
        tokio::spawn(async move {
            if let Err(error) = journal.pool().prepare_trash().await {
                tracing::debug!(%error, "the pool's trash could not be prepared");
                if let Some(queue) = purger.state().places.get_mut(&place) {
                    queue.ready = false;
                }
            }
        });
    }

    /// Purges a recorded image in the background, now.
    pub fn start(&self, journal: &Journal, id: ImageId) {
        let place = Place::of(journal);
        let known = self.state().places.keys().find(|known| known.fsid == place.fsid).cloned();
        match known {
            Some(known) => self.wake(place, id, &known),
            None => tracing::debug!(image_id = id.as_str(), "recorded; the next call purges it"),
        }
    }

    /// The same for a place that may be new; its cluster is reached as `from` is.
    pub(super) fn wake(&self, place: Place, id: ImageId, from: &Place) {
        {
            let mut state = self.state();
            let Some(reach) = state.places.get(from).map(|queue| queue.reach.clone()) else { return };
            state.places.entry(place.clone()).or_insert_with(|| Queue::new(&reach));
        }
        self.queue(&place, id, true);
    }

    /// An image of that name has all data of its own now: its parent goes on if it waited for that.
    /// `journal` is the image's, through the background client.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn parent_left(&self, journal: &Journal, image: &str, parent: ParentImage) -> Result<()> {
        let child = Record {
            image: image.to_owned(),
            uuid: None,
            pool_id: None,
            deleted: None,
            parent: Some(parent),
            kind: record::Kind::Volume,
            adopted: false,
            prefixes: name::prefix_of(image).into_iter().collect(),
        };
        if let Some((place, id)) = super::parent::after_child(self, journal, &child).await? {
            self.wake(place, id, &Place::of(journal));
        }
        Ok(())
    }

    fn queue(&self, place: &Place, id: ImageId, now: bool) {
        let mut state = self.state();
        let Some(queue) = state.places.get_mut(place) else { return };
        match queue.items.get_mut(&id) {
            Some(item) if now => item.wake(),
            Some(_) => {}
            None => drop(queue.items.insert(id, Item::new())),
        }
        queue.wake.notify_one();
        if !std::mem::replace(&mut queue.runs, true) {
            tokio::spawn(self.clone().run(place.clone()));
        }
    }

    /// A place's task.
    async fn run(self, place: Place) {
        loop {
            match self.next(&place) {
                Next::End => return,
                Next::Wait(until, wake) => {
                    let until = until.unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
                    let _ = tokio::time::timeout_at(until.into(), wake.notified()).await;
                }
                Next::Try(id, slots) => {
                    let Ok(slot) = slots.acquire_owned().await else { return };
                    let (purger, place) = (self.clone(), place.clone());
                    tokio::spawn(async move {
                        purger.attempt(&place, &id).await;
                        drop(slot);
                    });
                }
            }
        }
    }

    fn next(&self, place: &Place) -> Next {
        let mut state = self.state();
        let slots =
            state.slots.entry(place.fsid.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
        let slots = slots.clone();
        state.places.get_mut(place).map_or(Next::End, |queue| queue.next(&slots))
    }

    async fn attempt(&self, place: &Place, id: &ImageId) {
        let work = {
            let (purger, place, id) = (self.clone(), place.clone(), id.clone());
            async move { attempt::attempt(&purger, &place, &id).await }
        };
        // A task of its own: a panic in it is an error of this image alone.
        let outcome = tokio::spawn(work).await.unwrap_or_else(|panic| {
            Err(Error::new(
                Kind::Internal,
                format!("the purge of image id {} panicked: {panic}", id.as_str()),
            ))
        });
        match outcome {
            Ok(Outcome::PoolGone) => self.forget(place),
            outcome => {
                if let Some(queue) = self.state().places.get_mut(place) {
                    queue.settle(id, outcome);
                }
            }
        }
    }

    /// The pool of a place is gone, and with it all that waited there.
    fn forget(&self, place: &Place) {
        let mut state = self.state();
        let Some(mut queue) = state.places.remove(place) else { return };
        let ids: Vec<ImageId> = queue.items.keys().cloned().collect();
        for id in &ids {
            queue.remove(id);
        }
        queue.wake.notify_one();
        tracing::info!(
            pool_id = place.pool_id,
            purges = ids.len(),
            "a pool is gone, and with it what was to be purged there"
        );
    }

    /// The journal of a place through the background client, with the key that a call brought last;
    /// `None` when the pool is gone.
    pub(super) async fn journal(&self, place: &Place) -> Result<Option<Journal>> {
        let reach = self.state().places.get(place).map(|queue| queue.reach.clone());
        let Some(reach) = reach else { return Ok(None) };
        let pool = reach.background_by_id(place.pool_id, &place.namespace).await?;
        Ok(pool.map(|pool| {
            self.0.creator.know(pool.connection());
            Journal::new(&pool, place.collection, &self.0.instance)
        }))
    }

    /// How long it is known that this client owns the lock of an image and does not watch it.
    pub(super) fn seen_for(&self, place: &Place, id: &ImageId, owner: &str) -> Duration {
        let mut state = self.state();
        let item = state.places.get_mut(place).and_then(|queue| queue.items.get_mut(id));
        let Some(item) = item else { return Duration::ZERO };
        match &item.seen {
            Some((seen, since)) if seen == owner => since.elapsed(),
            _ => {
                item.seen = Some((owner.to_owned(), Instant::now()));
                Duration::ZERO
            }
        }
    }

    /// To be held while a clone of this parent is removed.
    pub(super) fn leaves(&self, journal: &Journal, parent: &ParentImage) -> Leaving {
        let key = (journal.pool().connection().fsid_text().to_owned(), parent.clone());
        *self.state().parents.entry(key.clone()).or_default() += 1;
        Leaving { purger: self.clone(), key }
    }

    /// Whether a clone of this parent is being removed.
    pub(super) fn others_leave(&self, pool: &Pool, parent: &ParentImage) -> bool {
        let key = (pool.connection().fsid_text().to_owned(), parent.clone());
        self.state().parents.contains_key(&key)
    }
}

/// A clone of an image is being removed; until dropped.
pub(super) struct Leaving {
    purger: Purger,
    key: (String, ParentImage),
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = self.purger.state();
        if let Some(count) = state.parents.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                state.parents.remove(&self.key);
            }
        }
    }
}
