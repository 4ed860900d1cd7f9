//! Deletions of what the journal does not name: an entry of an old release without the image's name,
//! and a handle whose entry is gone.
//!
//! Handle, directory key and image name share the uuid, so the rest is found by it in lists of the
//! journal's and the pool's directory. Only these cases read them, a page at a time. A handle whose
//! deletion this process has seen to its end needs no list: such a repeat is the usual one.
//!
//! What a reader gets wrong: an image without an entry is deleted only where a directory key says
//! that the volume of this uuid exists, and only under the name that no person would have given it;
//! else it is named in an error. People name copies after what they copied.

use uuid::Uuid;

use super::{Deleted, Deletion, exists, mgr, record};
use crate::controller::create::content::{ENCRYPTED, refuse_encrypted};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::{Collection, Entry};

impl Deletion<'_> {
    /// The name of an entry's image. Old releases recorded none, and the class may have had a prefix
    /// of its own.
    pub(super) async fn image_name(&self, entry: &Entry) -> Result<String> {
        let usual = entry.image(self.journal.collection());
        if entry.image_name.is_some() {
            return Ok(usual);
        }
        // An image with a recorded id is found by that.
        if entry.image_id.is_some() || self.has_names(&usual).await? {
            return Ok(usual);
        }
        let others = self.others(entry.uuid, &usual).await?;
        if others.is_empty() {
            return Ok(usual);
        }
        let object = self.pool().describe(&self.journal.object(entry.uuid));
        let text = format!(
            "{object} does not say which image is the {}'s, {usual} does not exist, and there is {}: write the right \
             one there as csi.imagename (`rados setomapval`), or rename what is to stay",
            self.journal.collection().noun(),
            others.join(", ")
        );
        Err(Error::new(Kind::Precondition, text))
    }

    /// Images whose names end with the uuid: with a class's prefix, or given by a person. A name that
    /// ends with the usual one is a person's: that of a copy, or of what was renamed to be kept.
    async fn others(&self, uuid: Uuid, usual: &str) -> Result<Vec<String>> {
        let mut others = self.pool().images_ending(&uuid.to_string()).await?;
        others.retain(|name| !name.ends_with(usual));
        Ok(others)
    }

    /// No entry: all is gone, or the journal was damaged, and the uuid still leads to something.
    pub(super) async fn without_entry(&self, uuid: Uuid) -> Result<Deleted> {
        let usual = self.journal.collection().default_image(uuid);
        let mut images = Vec::new();
        if self.has_names(&usual).await? {
            images.push(usual.clone());
        } else {
            self.refuse_the_other_kind(uuid).await?;
            if self.gone.has(self.key) {
                return Ok(Deleted::Absent);
            }
            images = self.others(uuid, &usual).await?;
        }
        let keys = self.journal.names_of(uuid).await?;
        match (keys.as_slice(), images.as_slice()) {
            ([], []) => self.in_trash(uuid).await.map(|()| Deleted::Absent),
            ([name], []) => {
                self.in_trash(uuid).await?;
                self.of_lost_entry(uuid, name, usual).await
            }
            ([name], [image]) if *image == usual => {
                self.refuse_unknown_content(uuid, name, image).await?;
                self.of_lost_entry(uuid, name, usual).await
            }
            _ => Err(self.lost(uuid, &keys, &images)),
        }
    }

    async fn has_names(&self, image: &str) -> Result<bool> {
        Ok(self.pool().named_id(image).await?.is_some())
    }

    async fn of_lost_entry(&self, uuid: Uuid, name: &str, image: String) -> Result<Deleted> {
        tracing::warn!(
            name,
            image,
            "the journal's entry of {uuid} is lost; the deletion goes by its directory key"
        );
        self.of_entry(Entry::lost(uuid, name, image)).await
    }

    /// The entry would have said whether the image is encrypted, and who makes one that is not whole.
    async fn refuse_unknown_content(&self, uuid: Uuid, name: &str, image: &str) -> Result<()> {
        let pool = self.pool();
        let header = match pool.image_id(image).await? {
            Some(id) => pool.image_header(&id, &ENCRYPTED).await?,
            None => None,
        };
        let Some(header) = header else {
            return Err(self.lost(uuid, &[name.to_owned()], &[image.to_owned()]));
        };
        let entry = Entry::lost(uuid, name, image.to_owned());
        refuse_encrypted(self.journal.collection(), name, &entry, &header)
    }

    fn lost(&self, uuid: Uuid, keys: &[String], images: &[String]) -> Error {
        let (pool, collection) = (self.pool(), self.journal.collection());
        let mut found =
            images.iter().map(|image| format!("image {}", pool.describe(image))).collect::<Vec<_>>();
        let directory = pool.describe(self.journal.directory());
        found
            .extend(keys.iter().map(|name| format!("key {} of {directory}", collection.directory_key(name))));
        let text = format!(
            "the journal entry {} is gone, and this is left of the {}: {}; look at it, then remove it by hand \
             (`rbd rm`, `rados rmomapkey`) or restore the entry",
            self.journal.object(uuid),
            collection.noun(),
            found.join(", ")
        );
        Error::new(Kind::Precondition, text)
    }

    /// Images of that uuid in the trash: those of a deletion of ours are purged, another's are not.
    async fn in_trash(&self, uuid: Uuid) -> Result<()> {
        let pool = self.pool();
        for (id, image) in pool.trash_find(&uuid.to_string()).await? {
            // Its purge may have ended since the list was read.
            if !record::is_recorded(self.journal, &id).await?
                && pool.trash_entry(&id).await?.is_some()
                && !mgr::has_task(pool, &id).await?
            {
                let text = format!(
                    "image {image} (id {}) is in the trash of pool {} without a journal entry: \
                     `rbd trash rm` or `rbd trash restore` it",
                    id.as_str(),
                    pool.name()
                );
                return Err(Error::new(Kind::Precondition, text));
            }
            self.purger.start(self.journal, id);
        }
        Ok(())
    }

    /// A snapshot's handle is no volume's, nor the reverse.
    async fn refuse_the_other_kind(&self, uuid: Uuid) -> Result<()> {
        let (other, call) = match self.journal.collection() {
            Collection::Volumes => (Collection::Snapshots, "DeleteSnapshot"),
            Collection::Snapshots => (Collection::Volumes, "DeleteVolume"),
        };
        if !exists(self.pool(), &other.object(uuid)).await? {
            return Ok(());
        }
        let text = format!("{uuid} is a {}: {call} deletes it; nothing was changed", other.noun());
        Err(Error::new(Kind::Precondition, text))
    }
}
