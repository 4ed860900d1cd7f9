//! The directory object: its keys, and what they say of a name.

use uuid::Uuid;

use super::{Entry, Journal};
use crate::ceph::ImageId;
use crate::volume::error::{Error, Kind, Result};

/// What a directory key points to: a uuid, and a pool where it is not the journal's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) pool_id: Option<i64>,
    pub(super) uuid: Uuid,
}

impl Pointer {
    /// `<uuid>`, or `<16 hex digits of the image's pool>/<uuid>` (topology volumes up to v3.10).
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let (pool, uuid) = match text.split_once('/') {
            Some((pool, uuid)) => (Some(i64::from_str_radix(pool, 16).ok()?), uuid),
            None => (None, text),
        };
        Some(Self { pool_id: pool, uuid: Uuid::try_parse(uuid).ok()? })
    }
}

/// What the directory holds for a name.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) entered: Option<Pointer>,
    pub(super) intended: Option<Uuid>,
    pub(super) deleting: Option<ImageId>,
}

/// A part of a directory.
#[derive(Debug, Default)]
pub struct Page {
    /// Names and their uuids.
    pub names: Vec<(String, Uuid)>,
    /// The name behind which the next page begins, if there is one.
    pub next: Option<String>,
}

impl Journal {
    pub(super) async fn look_up(&self, name: &str) -> Result<Found> {
        let key = self.collection.directory_key(name);
        let (intent, delete) = (intent_key(name), delete_key(name));
        let keys = [key.as_str(), &intent, &delete];
        let values = match self.pool.omap_get("journal look-up", &self.directory, &keys).await {
            Ok(values) => values,
            Err(error) if error.is(libc::ENOENT) => return Ok(Found::default()),
            Err(error) => return Err(error.into()),
        };
        let pointer = |key: &str| {
            let Some(value) = values.get(key).filter(|value| !value.is_empty()) else { return Ok(None) };
            Pointer::parse(value).map(Some).ok_or_else(|| self.nonsense(key, value))
        };
        let entered = pointer(&key)?;
        let deleting = entered.and_then(|entered| marked(values.get(&delete)?, entered.uuid));
        Ok(Found { entered, intended: pointer(&intent)?.map(|pointer| pointer.uuid), deleting })
    }

    /// What the journal holds for a name: an entry that stands, complete or not, and is not
    /// being deleted. Two operations, one for an unknown name; nothing is reserved.
    ///
    /// # Errors
    /// What Ceph answers, and [`Kind::Internal`] for a journal that contradicts itself.
    pub async fn find(&self, name: &str) -> Result<Option<Entry>> {
        Ok(self.find_marked(name).await?.filter(|(_, deleting)| deleting.is_none()).map(|(entry, _)| entry))
    }

    /// The same also of what is being deleted, with the image that its mark names.
    ///
    /// # Errors
    /// As [`Journal::find`].
    pub async fn find_marked(&self, name: &str) -> Result<Option<(Entry, Option<ImageId>)>> {
        let found = self.look_up(name).await?;
        let own = |pointer: &Pointer| pointer.pool_id.is_none_or(|id| id == self.pool.id());
        let Some(pointer) = found.entered.filter(own) else { return Ok(None) };
        let entry = self.entry(pointer.uuid).await?.filter(|entry| entry.name == name);
        Ok(entry.map(|entry| (entry, found.deleting)))
    }

    /// A page of the directory: up to `most` names behind `after` (empty: from the first one),
    /// in their order, each with its uuid, and whether there are more. One operation; fewer may
    /// come though there are more. Left out is what an old release put into another pool.
    ///
    /// # Errors
    /// What Ceph answers; a directory that is not there has no names.
    pub async fn page(&self, after: &str, most: u64) -> Result<Page> {
        let prefix = self.collection.key_prefix();
        let after = if after.is_empty() { String::new() } else { self.collection.directory_key(after) };
        let read = self.pool.omap_page("journal page", &self.directory, &after, prefix, most).await;
        let (keys, more) = match read {
            Err(error) if error.is(libc::ENOENT) => return Ok(Page::default()),
            read => read?,
        };
        let last = keys.last_key_value().and_then(|(key, _)| key.strip_prefix(prefix)).map(str::to_owned);
        let names = keys.iter().filter_map(|(key, value)| {
            let here = Pointer::parse(value).filter(|at| at.pool_id.is_none_or(|id| id == self.pool.id()))?;
            Some((key.strip_prefix(prefix)?.to_owned(), here.uuid))
        });
        Ok(Page { names: names.collect(), next: last.filter(|_| more) })
    }

    /// Takes back the intent of a name that was never entered. `false`: there is none.
    ///
    /// # Errors
    /// What Ceph answers, and [`Kind::Internal`] for a journal that contradicts itself.
    pub async fn forget_intent(&self, name: &str) -> Result<bool> {
        match self.look_up(name).await? {
            Found { entered: None, intended: Some(uuid), .. } => self.withdraw_intent(uuid, name).await,
            _ => Ok(false),
        }
    }

    fn nonsense(&self, key: &str, value: &[u8]) -> Error {
        let text = String::from_utf8_lossy(value);
        let object = self.pool.describe(&self.directory);
        Error::new(Kind::Internal, format!("key {key} of {object} holds {text:?}, which is no uuid"))
    }

    /// The names that point to a uuid. Lists the directory, one operation for 1,024 names: for
    /// entries that are lost, and those that ceph-csi left empty, which cannot tell their name.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn names_of(&self, uuid: Uuid) -> Result<Vec<String>> {
        let prefix = self.collection.key_prefix();
        let mut names = Vec::new();
        let look = |key: &str, value: &[u8]| {
            if Pointer::parse(value).is_some_and(|at| at.uuid == uuid) {
                names.extend(key.strip_prefix(prefix).map(str::to_owned));
            }
            Ok(())
        };
        self.pool.omap_walk("journal list names", &self.directory, prefix, look).await?;
        Ok(names)
    }
}

pub(super) fn intent_key(name: &str) -> String {
    format!("rbd-csi.intent.{name}")
}

/// Stands from the record of a deletion to its end; the value is `<uuid>/<image id>`.
pub(super) fn delete_key(name: &str) -> String {
    format!("rbd-csi.delete.{name}")
}

/// The image of a mark; `None` when it is another volume's.
fn marked(value: &[u8], uuid: Uuid) -> Option<ImageId> {
    let (marked, image) = std::str::from_utf8(value).ok()?.split_once('/')?;
    (Uuid::try_parse(marked).ok()? == uuid).then(|| ImageId::new(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_points_to_a_uuid_and_perhaps_to_a_pool() {
        let uuid = Uuid::from_u128(5);
        assert_eq!(Pointer::parse(uuid.to_string().as_bytes()), Some(Pointer { pool_id: None, uuid }));
        let pooled = format!("{:016x}/{uuid}", 18);
        assert_eq!(Pointer::parse(pooled.as_bytes()), Some(Pointer { pool_id: Some(18), uuid }));
        assert_eq!(Pointer::parse(b"x/y"), None);
    }
}
