//! A name is reserved: by compare-and-set, so that two controllers at once never
//! reserve it twice, and in an order after which ceph-csi can go on wherever this
//! stops (`journal` has the order).

use std::collections::BTreeMap;

use uuid::Uuid;

use super::directory::{Found, Pointer, intent_key};
use super::{Entry, IMAGE_NAME, Journal, ORIGIN, OWNER, Origin, SOURCE, creator, read_entry};
use crate::ceph::{ImageId, WriteOp};
use crate::volume::error::{Error, Kind, Result};

/// How often a reservation is tried when others write the same name meanwhile.
const ATTEMPTS: usize = 5;

/// A reserved name.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// What the journal holds for it.
    pub entry: Entry,
    /// The pool of the image where it is not the journal's own.
    pub other_pool: Option<i64>,
    /// Whether the creator's lock on the uuid object is ours: nobody else makes the image.
    pub locked: bool,
    /// Whether the uuid was entered by this very call: no image can exist for it yet.
    pub fresh: bool,
    /// The image whose deletion began and has not ended.
    pub deleting: Option<ImageId>,
}

impl Reservation {
    /// That of an entry which was found by its name.
    pub fn of(entry: Entry) -> Self {
        Self { entry, other_pool: None, locked: false, fresh: false, deleting: None }
    }
}

/// What a new reservation writes.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The CO's name of the volume or snapshot.
    pub name: &'a str,
    /// `csi-vol-`, `csi-snap-`, or what the class says.
    pub prefix: &'a str,
    /// The claim's namespace.
    pub owner: Option<&'a str>,
    /// Of a snapshot: the name of the image that it is taken of.
    pub source: Option<&'a str>,
    /// Of a volume: what it is made of.
    pub origin: Option<&'a Origin>,
    /// Who creates: written into the lock.
    pub creator: &'a creator::Creator,
    /// Whether this process has made the name before, or begun to: something of it may be there.
    pub known: bool,
}

impl Journal {
    /// The reservation of a name, made now if there is none. A second turn of the
    /// loop is for those who lost a race.
    ///
    /// # Errors
    /// What Ceph answers, and [`Kind::Internal`] for a journal that contradicts itself.
    pub async fn reserve(&self, plan: &Plan<'_>) -> Result<Reservation> {
        let mut look_first = plan.known;
        for _ in 0..ATTEMPTS {
            // First the intent, for it fails when the name is known: a new name costs no look-up,
            // and one that this process has met costs no intent.
            let intended = match std::mem::take(&mut look_first) {
                true => Ok(None),
                false => self.intend(plan.name).await,
            };
            let found = match intended {
                Ok(Some(uuid)) => {
                    if let Some(reservation) = self.finish(uuid, plan).await? {
                        return Ok(reservation);
                    }
                    continue;
                }
                Ok(None) => self.look_up(plan.name).await?,
                Err(error) if error.is_refusal() => self.known_to(error, plan).await?,
                Err(error) => return Err(error),
            };
            if let (Some(pointer), Some(intended)) = (found.entered, found.intended)
                && pointer.uuid != intended
            {
                // ceph-csi, which reads no intents, entered the name meanwhile.
                self.withdraw_intent(intended, plan.name).await?;
            }
            let reserved = match (found.entered, found.intended) {
                (Some(pointer), _) => Some(self.reserved(pointer, plan).await?),
                (None, Some(uuid)) => self.finish(uuid, plan).await?,
                (None, None) => None,
            };
            if let Some(reservation) = reserved {
                return Ok(Reservation { deleting: found.deleting, ..reservation });
            }
        }
        let text = format!("{} was reserved and released by others {ATTEMPTS} times", plan.name);
        Err(Error::new(Kind::Busy, text))
    }

    /// Step 1: the intent. `None`: somebody else was faster.
    async fn intend(&self, name: &str) -> Result<Option<Uuid>> {
        let (key, intent) = (self.collection.directory_key(name), intent_key(name));
        let uuid = Uuid::new_v4();
        let op = WriteOp::new()
            .create()
            .omap_equals(&key, b"")
            .omap_equals(&intent, b"")
            .omap_set([(intent.as_str(), uuid.to_string().as_bytes())]);
        match self.pool.write("journal intend", &self.directory, op).await {
            Ok(()) => Ok(Some(uuid)),
            Err(error) if error.is(libc::ECANCELED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the directory holds for a name whose intent the cluster refuses: a complete volume is
    /// answered all the same. Of a name that is not there nothing is left, and the refusal is
    /// final. So it is for a user who may not even look, unless something was begun before.
    async fn known_to(&self, refused: Error, plan: &Plan<'_>) -> Result<Found> {
        match self.look_up(plan.name).await {
            Ok(Found { entered: None, intended: None, .. }) => Err(refused.settled()),
            Ok(found) => Ok(found),
            Err(look) if !plan.known && look.is_refusal() => Err(refused.settled()),
            Err(_) => Err(refused),
        }
    }

    /// Steps 2 and 3 for an intent of ours or of a creator that died.
    /// `None`: the intent is gone; somebody else finished it.
    async fn finish(&self, uuid: Uuid, plan: &Plan<'_>) -> Result<Option<Reservation>> {
        let written = match self.write_entry(uuid, plan).await {
            Ok(written) => written,
            Err(error) if error.is_refusal() => return Err(self.give_up(uuid, plan.name, error).await),
            Err(error) => return Err(error),
        };
        let key = self.collection.directory_key(plan.name);
        let (intent, text) = (intent_key(plan.name), uuid.to_string());
        let op = WriteOp::new()
            .omap_equals(&key, b"")
            .omap_equals(&intent, text.as_bytes())
            .omap_set([(key.as_str(), text.as_bytes())])
            .omap_remove([intent.as_str()]);
        match self.pool.write("journal enter", &self.directory, op).await {
            Ok(()) => match written {
                Some(reservation) => Ok(Some(Reservation { fresh: true, ..reservation })),
                None => Ok(Some(self.reserved(Pointer { pool_id: None, uuid }, plan).await?)),
            },
            Err(error) if error.is(libc::ECANCELED) || error.is(libc::ENOENT) => {
                self.withdraw(uuid, plan.name).await?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The cluster refuses the entry for good: the intent goes too, so that the answer may be final.
    async fn give_up(&self, uuid: Uuid, name: &str, error: Error) -> Error {
        match self.withdraw_intent(uuid, name).await {
            Ok(true) => error.settled(),
            Ok(false) => error,
            Err(undo) => {
                tracing::warn!(%undo, name, "could not take back a reservation that was refused");
                error
            }
        }
    }

    /// Step 2. `None`: the entry was there already, by another creator of this intent.
    async fn write_entry(&self, uuid: Uuid, plan: &Plan<'_>) -> Result<Option<Reservation>> {
        let image_name = format!("{}{uuid}", plan.prefix);
        let name_key = self.collection.name_key();
        let origin = plan.origin.map(Origin::to_string);
        let mut values = BTreeMap::from([(name_key, plan.name), (IMAGE_NAME, image_name.as_str())]);
        values.extend(plan.owner.map(|owner| (OWNER, owner)));
        values.extend(plan.source.map(|source| (SOURCE, source)));
        values.extend(origin.as_deref().map(|origin| (ORIGIN, origin)));
        let op = WriteOp::new()
            .create()
            .omap_equals(name_key, b"")
            .omap_set(values.iter().map(|(key, value)| (*key, value.as_bytes())));
        match self.pool.write("journal write entry", &self.object(uuid), plan.creator.lock(op)).await {
            Ok(()) => {}
            Err(error) if error.is(libc::ECANCELED) || error.is(libc::EBUSY) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let entry = Entry {
            uuid,
            name: plan.name.to_owned(),
            image_name: Some(image_name.clone()),
            image_id: None,
            group: None,
            kms: None,
            source: plan.source.map(str::to_owned),
            origin: plan.origin.cloned(),
            modified: None,
        };
        Ok(Some(Reservation { entry, other_pool: None, locked: true, fresh: false, deleting: None }))
    }

    /// What we wrote for an intent that is gone is removed, unless the name's key
    /// points to it: then the one who finished it needs it.
    async fn withdraw(&self, uuid: Uuid, name: &str) -> Result<()> {
        let found = self.look_up(name).await?;
        let used = found.entered.is_some_and(|pointer| pointer.uuid == uuid) || found.intended == Some(uuid);
        if used { Ok(()) } else { self.remove_entry(uuid, name).await }
    }

    /// The reservation behind a directory key. An entry that is missing or empty
    /// (ceph-csi stopped between its writes, or an old release wrote it to the
    /// journal pool) is read where it may be, else completed.
    async fn reserved(&self, pointer: Pointer, plan: &Plan<'_>) -> Result<Reservation> {
        let other = pointer.pool_id.filter(|id| *id != self.pool.id());
        let mut entry = match other {
            Some(id) => match self.pool.connection().pool_by_id(id, self.pool.namespace()).await? {
                Some(pool) => read_entry(&pool, self.collection, pointer.uuid).await?,
                None => None,
            },
            None => None,
        };
        if entry.as_ref().is_none_or(|entry| entry.name.is_empty()) {
            entry = self.entry(pointer.uuid).await?;
        }
        match entry {
            Some(entry) if entry.name.is_empty() && entry.is_young() => {
                Err(self.in_other_hands(&Entry { name: plan.name.to_owned(), ..entry }))
            }
            Some(entry) if entry.name == plan.name => {
                Ok(Reservation { entry, other_pool: other, locked: false, fresh: false, deleting: None })
            }
            Some(entry) if !entry.name.is_empty() => Err(self.contradiction(plan.name, &entry)),
            _ if other.is_some() => Err(self.lost(plan.name, pointer)),
            _ => match self.write_entry(pointer.uuid, plan).await? {
                Some(reservation) => Ok(reservation),
                None => {
                    Err(Error::new(Kind::Busy, format!("{} is being reserved by another client", plan.name)))
                }
            },
        }
    }

    fn contradiction(&self, name: &str, entry: &Entry) -> Error {
        let directory = self.pool.describe(&self.directory);
        let object = self.pool.describe(&self.object(entry.uuid));
        Error::new(
            Kind::Internal,
            format!(
                "the journal contradicts itself: {directory} gives {name} the uuid {}, but {object} belongs to {}; \
                 compare both with `rados listomapvals` and remove the wrong key",
                entry.uuid, entry.name
            ),
        )
    }

    fn lost(&self, name: &str, pointer: Pointer) -> Error {
        let directory = self.pool.describe(&self.directory);
        Error::new(
            Kind::Internal,
            format!(
                "{directory} says that {name} is {} in pool {}, but neither that pool nor this one has its entry; \
                 if it is gone, remove the key {}",
                pointer.uuid,
                pointer.pool_id.unwrap_or_default(),
                self.collection.directory_key(name)
            ),
        )
    }
}
