//! An image's mappings on this node, and whether somebody uses them.
//!
//! One image has one device and one mount on a node. Two handles may lead to one image (a static
//! volume of a provisioner's image, a cluster with two ids), a driver that was killed leaves a
//! mapping, and a person maps an image to repair it. Two devices of one image are two disks to
//! Linux: it lets both be mounted, and e2fsck replays the journal of one that is in use.
//!
//! What a reader gets wrong: a device file that is bound somewhere (a raw block volume) does not
//! keep the device open, so the kernel would unmap it. It is a mount, and is found as one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;

use super::target::Target;
use crate::host::krbd::{self, Mapping};
use crate::host::thread::on_thread;
use crate::host::{device, holders};
use crate::node::staged;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Progress;

/// udev and probes open a device for moments.
const CLAIMED_FOR: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(100);
/// Who comes late still waits this long for its turn.
const LEAST_WAIT: Duration = Duration::from_secs(5);

/// An image as the kernel knows it, whatever handle leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageKey {
    fsid: String,
    pool_id: i64,
    namespace: String,
    image_id: String,
}

impl ImageKey {
    /// Of a mapped image.
    pub fn of_mapping(mapping: &Mapping) -> Self {
        Self {
            fsid: mapping.cluster_fsid.clone(),
            pool_id: mapping.pool_id,
            namespace: mapping.namespace.clone(),
            image_id: mapping.image_id.clone(),
        }
    }

    /// Of an image that is to be mapped.
    pub fn of_target(target: &Target<'_>) -> Self {
        Self {
            fsid: target.pool.connection().fsid_text().to_owned(),
            pool_id: target.pool.id(),
            namespace: target.pool.namespace().to_owned(),
            image_id: target.image_id.as_str().to_owned(),
        }
    }

    /// The image's mappings on this node, by their numbers; those of its snapshots are others.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub async fn mappings(&self) -> Result<Vec<Mapping>> {
        let mut found = on_thread("list mappings", "/sys/bus/rbd", krbd::mappings).await?;
        found.retain(|mapping| mapping.snapshot.is_none() && Self::of_mapping(mapping) == *self);
        Ok(found)
    }
}

/// Whose turn it is with an image, among this node's volumes.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<ImageKey, Arc<tokio::sync::Mutex<()>>>>>);

/// The turn with an image; it ends when this goes.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    key: ImageKey,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until no other volume of this node maps, mounts or takes down the same image.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the call's time ends before that.
    pub async fn take(&self, key: ImageKey, progress: &Progress) -> Result<Turn> {
        progress.step(format!("waiting for another volume of image {} on this node", key.image_id));
        let mutex = self.lock().entry(key.clone()).or_default().clone();
        let mut turn = Turn { turns: self.clone(), key, held: None };
        let left = progress.deadline.left().max(LEAST_WAIT);
        match tokio::time::timeout(left, mutex.lock_owned()).await {
            Ok(held) => {
                turn.held = Some(held);
                Ok(turn)
            }
            Err(_) => {
                let text = format!(
                    "image {} is being staged or unstaged on this node as another volume",
                    turn.key.image_id
                );
                Err(Error::new(Kind::Busy, text))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ImageKey, Arc<tokio::sync::Mutex<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        self.held = None;
        // Who waits has a copy of it.
        if turns.get(&self.key).is_some_and(|mutex| Arc::strong_count(mutex) == 1) {
            turns.remove(&self.key);
        }
    }
}

/// Who uses the mapping, for an error's text; `None` when nobody does.
///
/// # Errors
/// procfs or sysfs cannot be read.
pub async fn user_of(mapping: &Mapping) -> Result<Option<String>> {
    let mounted = staged::elsewhere(mapping, &[]).await?;
    if !mounted.is_empty() {
        return Ok(Some(format!("it is mounted at {}", staged::list(&mounted))));
    }
    let name = mapping.device().display().to_string();
    let until = tokio::time::Instant::now() + CLAIMED_FOR;
    loop {
        let path = mapping.device();
        if !on_thread("open", &name, move || device::is_claimed(&path)).await? {
            return Ok(None);
        }
        if tokio::time::Instant::now() >= until {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let path = mapping.device();
    Ok(Some(holders::told(&name, move || holders::of_device(&path)).await))
}

/// The refusal of an image that is in use on this node already.
pub fn in_use(spec: &str, mapping: &Mapping, user: &str) -> Error {
    let text = format!(
        "{spec} is on this node already, as {}: {user}. An image has one mount on a node: end that use first, be \
         it another volume of the same image or a mapping made by hand; nothing was changed",
        mapping.device().display()
    );
    Error::new(Kind::InUse, text)
}
