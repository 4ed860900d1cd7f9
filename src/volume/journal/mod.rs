//! The omap journal: which volume name has which uuid, image and owner; the same for snapshots.
//!
//! The format is ceph-csi's (ARCHITECTURE.md, "On-disk formats"): a directory
//! object `csi.volumes.<instance>` with a key `csi.volume.<name>` → uuid, and one
//! object `csi.volume.<uuid>` a volume. Snapshots have objects of their own of the same
//! shape (`collection`). Three kinds of keys of our own live in the
//! directory object, outside the prefix `csi.` that ceph-csi reads:
//! `rbd-csi.intent.<name>` → uuid while a reservation is being written,
//! `rbd-csi.delete.<name>` → uuid and image id while its deletion is under way, and
//! `rbd-csi.purge.<image id>` for each image on its way out (`purge`).
//!
//! A reservation is written so that ceph-csi can go on at every crash point:
//! 1. intent key, if neither key nor intent is there (compare-and-set);
//! 2. the uuid object, complete, in one operation, with the creator's lock;
//! 3. directory key in and intent out, if the intent is still ours.
//!
//! It is undone in the order key, uuid object: a uuid object without a key can
//! still be deleted by its handle, a key without its object stops ceph-csi.
//! Look-ups are by key; a directory is listed only to find the name of an entry
//! that ceph-csi left empty or that is lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::ceph::{ImageId, Pool, ReadOp, ReadResult, WriteOp};
use crate::volume::error::Result;

pub mod collection;
pub mod creator;
mod directory;
mod release;
mod reserve;

pub use collection::Collection;
pub use directory::Page;
pub use reserve::{Plan, Reservation};

const IMAGE_NAME: &str = "csi.imagename";
const IMAGE_ID: &str = "csi.imageid";
const OWNER: &str = "csi.volume.owner";
const GROUP: &str = "csi.groupid";
const KMS: &str = "csi.volume.encryptKMS";
/// Of a snapshot: the name of the image that it was taken of.
const SOURCE: &str = "csi.source";
/// Of a volume with a content source, ours: the source's kind and handle ([`Origin`]). ceph-csi
/// records nothing of the kind.
const ORIGIN: &str = "rbd-csi.source";
/// ceph-csi takes no lock: what was written so lately may be in its hands.
pub const YOUNG: Duration = Duration::from_secs(60);
const KEYS: [&str; 7] = [IMAGE_NAME, IMAGE_ID, OWNER, GROUP, KMS, SOURCE, ORIGIN];

/// The journal of one pool (and RADOS namespace) under one `--instanceid`, of volumes or of
/// snapshots.
#[derive(Clone)]
pub struct Journal {
    pool: Pool,
    collection: Collection,
    directory: String,
}

/// What a volume was made of, as a journal records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A snapshot, by its handle.
    Snapshot(String),
    /// Another volume, by its handle.
    Volume(String),
}

impl Origin {
    /// The handle.
    pub fn handle(&self) -> &str {
        match self {
            Self::Snapshot(handle) | Self::Volume(handle) => handle,
        }
    }

    /// Reads what [`Display`](std::fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("snapshot", handle) => Some(Self::Snapshot(handle.to_owned())),
            ("volume", handle) => Some(Self::Volume(handle.to_owned())),
            _ => None,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Snapshot(handle) => write!(f, "snapshot:{handle}"),
            Self::Volume(handle) => write!(f, "volume:{handle}"),
        }
    }
}

/// What the journal knows of a volume or snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The volume's uuid.
    pub uuid: Uuid,
    /// The CO's name; empty in entries of old releases.
    pub name: String,
    /// The image's name; `None` in entries of old releases (prefix and uuid then).
    pub image_name: Option<String>,
    /// The image's id; `None` until the image is complete, and in entries of old releases.
    pub image_id: Option<ImageId>,
    /// The handle of the group that the volume belongs to.
    pub group: Option<String>,
    /// The KMS of an encrypted volume.
    pub kms: Option<String>,
    /// Of a snapshot: the name of the image that it was taken of.
    pub source: Option<String>,
    /// Of a volume that this driver made of a content source: of which.
    pub origin: Option<Origin>,
    /// When its object was last written to, since 1970; `None` when this very call has written it.
    pub modified: Option<Duration>,
}

impl Entry {
    /// That of a volume or snapshot whose own is gone.
    pub fn lost(uuid: Uuid, name: &str, image: String) -> Self {
        Self {
            uuid,
            name: name.to_owned(),
            image_name: Some(image),
            image_id: None,
            group: None,
            kms: None,
            source: None,
            origin: None,
            modified: None,
        }
    }

    /// Whether it was written less than a minute ago, by the writer's clock: one that is wrong by
    /// more makes nothing young for longer.
    fn is_young(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.modified.is_some_and(|modified| now.abs_diff(modified) < YOUNG)
    }

    /// The name of the image, which entries of old releases leave to the collection's default.
    pub fn image(&self, collection: Collection) -> String {
        self.image_or(collection.default_prefix())
    }

    /// The same where the caller knows the prefix.
    pub fn image_or(&self, prefix: &str) -> String {
        self.image_name.clone().unwrap_or_else(|| format!("{prefix}{}", self.uuid))
    }
}

impl Journal {
    /// The journal that lives in this pool.
    pub fn new(pool: &Pool, collection: Collection, instance: &str) -> Self {
        Self { pool: pool.clone(), collection, directory: collection.directory(instance) }
    }

    /// The same journal through another client of the same pool.
    pub fn through(&self, pool: &Pool) -> Self {
        Self { pool: pool.clone(), ..self.clone() }
    }

    /// Whether it keeps volumes or snapshots.
    pub fn collection(&self) -> Collection {
        self.collection
    }

    /// The object of one of its uuids.
    pub fn object(&self, uuid: Uuid) -> String {
        self.collection.object(uuid)
    }

    /// The pool that the journal lives in.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The object with the directory keys, and with our own intents and purge records.
    pub fn directory(&self) -> &str {
        &self.directory
    }

    /// The journal's entry of a uuid; `None` when there is no such object.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn entry(&self, uuid: Uuid) -> Result<Option<Entry>> {
        read_entry(&self.pool, self.collection, uuid).await
    }

    /// Records the image of a reservation, which makes the volume complete, and
    /// gives the creator's lock back. `false`: the reservation does not stand any more.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn complete(
        &self,
        entry: &Entry,
        image: &ImageId,
        locked: Option<&creator::Creator>,
    ) -> Result<bool> {
        let mut op = WriteOp::new()
            .assert_exists()
            .omap_equals(self.collection.name_key(), entry.name.as_bytes())
            .omap_set([(IMAGE_ID, image.as_str().as_bytes())]);
        if let Some(creator) = locked {
            op = creator.unlock(op);
        }
        let object = self.object(entry.uuid);
        match self.pool.write("journal complete", &object, op).await {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ECANCELED) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Journal {
    /// Whether a reservation that another began is still its name's. ceph-csi takes its own back
    /// without a look at what we have done meanwhile: first the entry, then the key.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn stands(&self, entry: &Entry) -> Result<bool> {
        let (found, current) = tokio::join!(self.look_up(&entry.name), self.entry(entry.uuid));
        let entered = found?.entered.is_some_and(|pointer| pointer.uuid == entry.uuid);
        Ok(current?.is_some() && entered)
    }

    /// Proves that the pool takes new data, by a few bytes in the entry's object, which nobody
    /// reads and which are taken away again. Two operations.
    ///
    /// # Errors
    /// [`Kind::NoSpace`](crate::volume::error::Kind::NoSpace) when pool or quota are full; what
    /// Ceph answers.
    pub async fn prove_room(&self, uuid: Uuid) -> Result<()> {
        let object = self.object(uuid);
        let with = |data: &[u8]| WriteOp::new().assert_exists().write_full(data);
        self.pool.write("journal try room", &object, with(b"room?")).await?;
        Ok(self.pool.write("journal leave room", &object, with(b"")).await?)
    }
}

async fn read_entry(pool: &Pool, collection: Collection, uuid: Uuid) -> Result<Option<Entry>> {
    let name = collection.name_key();
    let keys: Vec<&str> = KEYS.into_iter().chain([name]).collect();
    let op = ReadOp::new().omap_keys(keys).stat_with_time();
    let mut results = match pool.read("journal read entry", &collection.object(uuid), op).await {
        Ok(results) => results,
        Err(error) if error.is(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut values = results.next().map(ReadResult::into_omap).unwrap_or_default();
    let modified = match results.next() {
        Some(ReadResult::Stat { modified, .. }) => Some(modified),
        _ => None,
    };
    let mut text = |key: &str| {
        let value = values.remove(key).filter(|value| !value.is_empty())?;
        Some(String::from_utf8_lossy(&value).into_owned())
    };
    Ok(Some(Entry {
        uuid,
        name: text(name).unwrap_or_default(),
        image_name: text(IMAGE_NAME),
        image_id: text(IMAGE_ID).map(ImageId::new),
        group: text(GROUP),
        kms: text(KMS),
        source: text(SOURCE),
        origin: text(ORIGIN).and_then(|text| Origin::parse(&text)),
        modified,
    }))
}
