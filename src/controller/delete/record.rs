//! What is written down of an image on its way out: `rbd-csi.purge.<image id>` in the directory
//! object of the journal that it belonged to.
//!
//! A record is written before its image goes to the trash, so that no crash leaves an image
//! there that nobody takes out; with it the name is marked (`rbd-csi.delete.<name>`), so that a
//! CreateVolume that comes in between does not answer with an image that is about to go.
//!
//! What a reader gets wrong: a record alone is no right to purge. It names the time of the
//! trash entry that it goes with, and only that entry is ours: what somebody else has put into the
//! trash, before or after, has another time. Records of older versions have none; they count
//! once the journal's entry is gone, which means that the deletion was carried to its end.

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::ceph::{Header, ImageId, WriteOp};
use crate::volume::error::{Error, Kind as Fact, Result};
use crate::volume::image::name;
use crate::volume::journal::{Entry, Journal};

/// What a record's key begins with; behind it stands the image id.
pub const PREFIX: &str = "rbd-csi.purge.";
/// What all keys of ours in a directory object begin with.
const OURS: &str = "rbd-csi.";
/// What a flatten's record begins with (`change::flatten`).
const FLATTEN: &str = crate::controller::change::flatten::PREFIX;
/// How often a record is written when others change it meanwhile.
const ATTEMPTS: usize = 4;

/// What the image was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A volume.
    Volume,
    /// A snapshot, with an RBD snapshot of the image's own name.
    Snapshot,
    /// What stands beside a cloned volume, with an RBD snapshot named as that volume's image.
    Temp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::Temp => "temp",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "snapshot" => Self::Snapshot,
            "temp" => Self::Temp,
            _ => Self::Volume,
        }
    }
}

/// The image that another was cloned from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ParentImage {
    /// Its pool.
    pub pool_id: i64,
    /// Its RADOS namespace.
    pub namespace: String,
    /// Its id.
    pub id: ImageId,
}

impl ParentImage {
    /// The parent that a header names.
    pub fn of(header: &Header) -> Option<Self> {
        let parent = header.parent.as_ref()?;
        let (pool_id, namespace) = (parent.pool_id, parent.namespace.clone());
        Some(Self { pool_id, namespace, id: ImageId::new(&*parent.image_id) })
    }
}

/// A record's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The image's name.
    pub image: String,
    /// The uuid in it.
    pub uuid: Option<Uuid>,
    /// The image's pool; `None`: the journal's.
    pub pool_id: Option<i64>,
    /// The time of the trash entry, since 1970; `None` in records of older versions.
    pub deleted: Option<Duration>,
    /// What it was cloned from, as read before the deletion.
    pub parent: Option<ParentImage>,
    /// What it was.
    pub kind: Kind,
    /// It was found in the trash as an ancestor of an image that we purged; somebody else, such as
    /// ceph-csi, has put it there, and the mgr may have a task for it.
    pub adopted: bool,
    /// What the names of this image's chain begin with, besides ceph-csi's defaults.
    pub prefixes: Vec<String>,
}

impl Record {
    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = json!({ "image": self.image, "kind": self.kind.name() });
        let mut put = |key: &str, field: Option<Value>| {
            if let Some(field) = field {
                value[key] = field;
            }
        };
        put("uuid", self.uuid.map(|uuid| json!(uuid.to_string())));
        put("pool", self.pool_id.map(Value::from));
        put("deleted", self.deleted.map(|time| json!(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))));
        put(
            "parent",
            self.parent.as_ref().map(|parent| {
                json!({ "pool": parent.pool_id, "namespace": parent.namespace, "image": parent.id.as_str() })
            }),
        );
        put("adopted", self.adopted.then_some(Value::Bool(true)));
        put("prefixes", (!self.prefixes.is_empty()).then(|| json!(self.prefixes)));
        value.to_string().into_bytes()
    }

    /// Reads a value; what is not there or not understood is left out.
    pub fn decode(value: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(value).unwrap_or_default();
        let text = |field: &Value| field.as_str().map(str::to_owned);
        let parent = &value["parent"];
        let strings = value["prefixes"].as_array().into_iter().flatten().filter_map(text);
        Self {
            image: text(&value["image"]).unwrap_or_default(),
            uuid: value["uuid"].as_str().and_then(|text| Uuid::try_parse(text).ok()),
            pool_id: value["pool"].as_i64(),
            deleted: value["deleted"].as_u64().map(Duration::from_nanos),
            parent: parent["pool"].as_i64().zip(text(&parent["image"])).map(|(pool_id, id)| ParentImage {
                pool_id,
                namespace: text(&parent["namespace"]).unwrap_or_default(),
                id: ImageId::new(id),
            }),
            kind: Kind::parse(value["kind"].as_str().unwrap_or_default()),
            adopted: value["adopted"].as_bool().unwrap_or(false),
            prefixes: strings.collect(),
        }
    }

    /// The RBD snapshot that an image of this kind has of its own.
    pub fn own_snapshot(&self) -> Option<&str> {
        match self.kind {
            Kind::Volume => None,
            Kind::Snapshot => Some(&self.image),
            Kind::Temp => name::beside_which(&self.image),
        }
    }
}

/// A record as it stands.
#[derive(Debug, Clone)]
pub struct Written {
    /// What it says.
    pub record: Record,
    /// Its bytes, to compare with.
    pub value: Vec<u8>,
}

/// The key of an image's record; also the name of the lock of whoever purges it.
pub fn key(id: &ImageId) -> String {
    format!("{PREFIX}{}", id.as_str())
}

/// Writes a record. One that stands keeps its time: two who delete the same image at once go on
/// with one. With `mark`, the entry's name is marked as being deleted if it is this entry's still.
///
/// # Errors
/// [`Fact::Busy`] when others write it all the time; what Ceph answers.
pub async fn write(journal: &Journal, id: &ImageId, new: &Record, mark: Option<&Entry>) -> Result<Written> {
    let key = key(id);
    let mut standing = Vec::new();
    for _ in 0..ATTEMPTS {
        let deleted = Record::decode(&standing).deleted.or(new.deleted);
        let record = Record { deleted, ..new.clone() };
        let value = record.encode();
        let op = || {
            let op = WriteOp::new().create().omap_equals(key.as_str(), standing.as_slice());
            op.omap_set([(key.as_str(), value.as_slice())])
        };
        let marked = match mark {
            Some(entry) => written(journal, journal.mark_deletion(op(), entry, id)).await?,
            None => false,
        };
        // Another who deletes it too may have freed the name meanwhile; a mark that is written
        // after that would stand for ever.
        if marked || written(journal, op()).await? {
            return Ok(Written { record, value });
        }
        standing = read(journal, id).await?.map(|standing| standing.value).unwrap_or_default();
    }
    let text = format!("others are changing the record of image id {} all the time", id.as_str());
    Err(Error::new(Fact::Busy, text))
}

/// Puts another value in the place of one that stands. `false`: another stands there.
///
/// # Errors
/// What Ceph answers.
pub async fn replace(journal: &Journal, id: &ImageId, old: &[u8], new: &Record) -> Result<bool> {
    let key = key(id);
    let op = WriteOp::new().create().omap_equals(key.as_str(), old);
    written(journal, op.omap_set([(key.as_str(), new.encode())])).await
}

/// Takes a record back, with the mark that was written with it, if both are as they were.
///
/// # Errors
/// What Ceph answers.
pub async fn take_back(journal: &Journal, id: &ImageId, value: &[u8], entry: &Entry) -> Result<()> {
    let key = key(id);
    let op = || WriteOp::new().omap_equals(key.as_str(), value).omap_remove([key.as_str()]);
    if !written(journal, journal.unmark_deletion(op(), entry, id)).await? {
        written(journal, op()).await?;
    }
    Ok(())
}

async fn written(journal: &Journal, op: WriteOp) -> Result<bool> {
    match journal.pool().write("journal record purge", journal.directory(), op).await {
        Ok(()) => Ok(true),
        Err(error) if error.is(libc::ECANCELED) || error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The record of an image.
///
/// # Errors
/// What Ceph answers.
pub async fn read(journal: &Journal, id: &ImageId) -> Result<Option<Written>> {
    let key = key(id);
    match journal.pool().omap_get("journal read purge", journal.directory(), &[&key]).await {
        Err(error) if error.is(libc::ENOENT) => Ok(None),
        values => Ok(values?.remove(&key).map(|value| Written { record: Record::decode(&value), value })),
    }
}

/// Whether an image is recorded for its purge.
///
/// # Errors
/// What Ceph answers.
pub async fn is_recorded(journal: &Journal, id: &ImageId) -> Result<bool> {
    Ok(read(journal, id).await?.is_some())
}

/// Work that waits in a journal.
#[derive(Debug, Default)]
pub struct Left {
    /// The images that are recorded for their purge.
    pub purges: Vec<ImageId>,
    /// The images that are recorded to be flattened, with the records' values.
    pub flattens: Vec<(ImageId, Vec<u8>)>,
}

/// What waits in a journal: one operation for a thousand records.
///
/// # Errors
/// What Ceph answers.
pub async fn left(journal: &Journal) -> Result<Left> {
    let all = match journal.pool().omap_all("journal list purges", journal.directory(), OURS).await {
        Err(error) if error.is(libc::ENOENT) => return Ok(Left::default()),
        all => all?,
    };
    let mut left = Left::default();
    for (key, value) in all {
        if let Some(id) = key.strip_prefix(PREFIX) {
            left.purges.push(ImageId::new(id));
        } else if let Some(id) = key.strip_prefix(FLATTEN) {
            left.flattens.push((ImageId::new(id), value));
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let parent = ParentImage { pool_id: 7, namespace: "ns".into(), id: ImageId::new("1022") };
        let all = Record {
            image: "shop-1-temp".into(),
            uuid: Some(Uuid::from_u128(9)),
            pool_id: Some(3),
            deleted: Some(Duration::new(1_790_000_000, 123_456_789)),
            parent: Some(parent),
            kind: Kind::Temp,
            adopted: true,
            prefixes: vec!["shop-".into()],
        };
        assert_eq!(Record::decode(&all.encode()), all);
        assert_eq!(all.own_snapshot(), Some("shop-1"));
        let few = Record {
            uuid: None,
            pool_id: None,
            deleted: None,
            parent: None,
            kind: Kind::Snapshot,
            adopted: false,
            prefixes: Vec::new(),
            ..all
        };
        assert_eq!(Record::decode(&few.encode()), few);
    }

    #[test]
    fn a_record_of_an_older_version_is_a_volume_without_a_time() {
        let uuid = Uuid::from_u128(9);
        let record = Record::decode(format!(r#"{{"image":"csi-vol-1","uuid":"{uuid}"}}"#).as_bytes());
        assert_eq!((record.kind, record.deleted, record.uuid), (Kind::Volume, None, Some(uuid)));
        assert_eq!(Record::decode(b"").image, "");
    }
}
