//! A reservation is taken back, and a volume's name marked while that is under way.

use uuid::Uuid;

use super::directory::{Pointer, delete_key, intent_key};
use super::{Entry, IMAGE_ID, Journal};
use crate::ceph::{ImageId, WriteOp};
use crate::volume::error::Result;

impl Journal {
    /// Takes the reservation of a volume back; what is gone already is no error.
    /// The image must be gone, or recorded for its purge, before.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn release(&self, uuid: Uuid, name: &str) -> Result<()> {
        if name.is_empty() {
            for name in self.names_of(uuid).await? {
                self.remove_key(uuid, &name).await?;
            }
        } else {
            self.remove_key(uuid, name).await?;
        }
        self.remove_entry(uuid, name).await
    }

    /// Takes back a reservation whose image does not exist and whose handle nobody may
    /// use any more. The key first becomes an intent again: wherever this stops, the
    /// name's next reservation goes on with the same uuid, and nothing is forgotten.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn retract(&self, uuid: Uuid, name: &str) -> Result<()> {
        let key = self.collection.directory_key(name);
        let (intent, text) = (intent_key(name), uuid.to_string());
        let op = WriteOp::new()
            .omap_equals(&key, text.as_bytes())
            .omap_remove([key.as_str(), delete_key(name).as_str()])
            .omap_set([(intent.as_str(), text.as_bytes())]);
        match self.pool.write("journal retract", &self.directory, op).await {
            Ok(()) => {}
            // Another form of the key, or another volume's: only what is this one's goes.
            Err(error) if error.is(libc::ECANCELED) => return self.release(uuid, name).await,
            Err(error) if error.is(libc::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        self.remove_entry(uuid, name).await?;
        self.remove_if(&intent, text.as_bytes(), &[&intent]).await.map(drop)
    }

    /// Removes an intent and what was written for it. `false`: it was finished meanwhile.
    pub(super) async fn withdraw_intent(&self, uuid: Uuid, name: &str) -> Result<bool> {
        let intent = intent_key(name);
        if !self.remove_if(&intent, uuid.to_string().as_bytes(), &[&intent]).await? {
            return Ok(false);
        }
        let named = self.collection.name_key();
        let op = WriteOp::new().omap_equals(named, name.as_bytes()).omap_equals(IMAGE_ID, b"").remove();
        match self.pool.write("journal remove entry", &self.object(uuid), op).await {
            Err(error) if !error.is(libc::ENOENT) && !error.is(libc::ECANCELED) => Err(error.into()),
            _ => Ok(true),
        }
    }

    pub(super) async fn remove_entry(&self, uuid: Uuid, name: &str) -> Result<()> {
        let op = WriteOp::new().omap_equals(self.collection.name_key(), name.as_bytes()).remove();
        match self.pool.write("journal remove entry", &self.object(uuid), op).await {
            Err(error) if !error.is(libc::ENOENT) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Adds marking a volume's name as being deleted; the whole operation fails with
    /// ECANCELED when the name is not this volume's any more.
    pub fn mark_deletion(&self, op: WriteOp, entry: &Entry, id: &ImageId) -> WriteOp {
        if entry.name.is_empty() {
            return op;
        }
        let (uuid, mark) = (entry.uuid.to_string(), format!("{}/{}", entry.uuid, id.as_str()));
        op.omap_equals(self.collection.directory_key(&entry.name), uuid)
            .omap_set([(delete_key(&entry.name), mark.into_bytes())])
    }

    /// Adds taking such a mark back; the whole operation fails with ECANCELED when there is none.
    pub fn unmark_deletion(&self, op: WriteOp, entry: &Entry, id: &ImageId) -> WriteOp {
        if entry.name.is_empty() {
            return op;
        }
        let (key, mark) = (delete_key(&entry.name), format!("{}/{}", entry.uuid, id.as_str()));
        op.omap_equals(&key, mark).omap_remove([key.as_str()])
    }

    async fn remove_key(&self, uuid: Uuid, name: &str) -> Result<()> {
        let key = self.collection.directory_key(name);
        let (intent, delete) = (intent_key(name), delete_key(name));
        let text = uuid.to_string();
        // Nobody else is about to take the name: the usual case, one operation.
        let op = WriteOp::new().omap_equals(&intent, b"").omap_equals(&key, text.as_bytes());
        let op = op.omap_remove([key.as_str(), delete.as_str()]);
        match self.pool.write("journal remove key", &self.directory, op).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is(libc::ENOENT) => return Ok(()),
            Err(error) if !error.is(libc::ECANCELED) => return Err(error.into()),
            Err(_) => {}
        }
        let values = match self.pool.omap_get("journal look-up", &self.directory, &[&key, &intent]).await {
            Err(error) if error.is(libc::ENOENT) => return Ok(()),
            values => values?,
        };
        // The key of an old release names the image's pool, too.
        let own = |value: &&Vec<u8>| Pointer::parse(value).is_some_and(|at| at.uuid == uuid);
        if let Some(value) = values.get(&key).filter(own) {
            self.remove_if(&key, value, &[&key, &delete]).await?;
        }
        match values.get(&intent).map(|value| std::str::from_utf8(value).ok().map(Uuid::try_parse)) {
            // ceph-csi, which knows no intents, has taken the name that a creator of ours that stopped
            // was about to take: the intent is all that names what that one wrote.
            Some(Some(Ok(other))) if other != uuid => self.withdraw_intent(other, name).await.map(drop),
            _ => self.remove_if(&intent, text.as_bytes(), &[&intent]).await.map(drop),
        }
    }

    /// Removes keys of the directory if one of them has this value.
    async fn remove_if(&self, asserted: &str, value: &[u8], keys: &[&str]) -> Result<bool> {
        let op = WriteOp::new().omap_equals(asserted, value).omap_remove(keys.iter().copied());
        match self.pool.write("journal remove key", &self.directory, op).await {
            Ok(()) => Ok(true),
            Err(error) if error.is(libc::ENOENT) || error.is(libc::ECANCELED) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
