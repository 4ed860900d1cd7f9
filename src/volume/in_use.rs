//! Whether another client uses an image, told by the watches on its header.
//!
//! A mapped image is watched by its kernel client; when that dies, the watch ends after
//! about 30 s (`osd_client_watch_timeout`). So a single-node volume waits that long for a
//! dead node's watch before it is refused.
//!
//! What a reader gets wrong: this keeps honest nodes apart and is no lock. Two nodes that
//! look at the same moment both see nothing, so each looks again after its map; fencing
//! is another matter.

use std::time::{Duration, Instant};

use super::error::{Error, Kind, Result};
use super::operation::Progress;
use super::watch::describe;
use crate::ceph::{CephError, ImageId, Pool, ReadOp, Watcher};
use crate::host::krbd;
use crate::host::thread::on_thread;

/// A dead client's watch is gone after 30 s, plus what Ceph needs to notice.
const MOST_WAIT: Duration = Duration::from_secs(45);

const PAUSE: Duration = Duration::from_secs(1);

/// Kept back from the deadline, so that the refusal with its reason still gets there.
const FOR_THE_ANSWER: Duration = Duration::from_millis(500);

/// Waits until no other client watches the image.
///
/// `mirror_daemons` rbd-mirror daemons may watch an image that is mirrored.
///
/// # Errors
/// [`Kind::InUse`] with the clients and their addresses after 45 s, or shortly before
/// the deadline.
pub async fn wait_until_free(
    pool: &Pool,
    id: &ImageId,
    image: &str,
    mirror_daemons: u32,
    progress: &Progress,
) -> Result<()> {
    let spec = krbd::spec(pool.name(), pool.namespace(), image);
    let until = Instant::now() + progress.deadline.left().saturating_sub(FOR_THE_ANSWER).min(MOST_WAIT);
    loop {
        let others = others(pool, id, mirror_daemons).await?;
        if others.is_empty() {
            return Ok(());
        }
        let who = describe(&others);
        if Instant::now() >= until {
            return Err(Error::new(
                Kind::InUse,
                format!(
                    "{spec} is in use by {who}; a volume for one node is not mapped beside another client. \
                     Unmap it there; a dead node's client goes by itself within a minute"
                ),
            ));
        }
        progress.step(format!("waiting for {who} to let go of {spec}"));
        tokio::time::sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

/// The same, once: for after the map, when the watch of each client shows.
///
/// # Errors
/// [`Kind::InUse`] with the clients and their addresses.
pub async fn require_free(pool: &Pool, id: &ImageId, image: &str, mirror_daemons: u32) -> Result<()> {
    let others = others(pool, id, mirror_daemons).await?;
    if others.is_empty() {
        return Ok(());
    }
    let spec = krbd::spec(pool.name(), pool.namespace(), image);
    let text = format!(
        "{spec} is used by {} too, since just now; a volume for one node is not used beside another client",
        describe(&others)
    );
    Err(Error::new(Kind::InUse, text))
}

async fn others(pool: &Pool, id: &ImageId, mirror_daemons: u32) -> Result<Vec<Watcher>> {
    let mut others = pool.image_watchers(id).await?;
    let librados = pool.connection().instance_id();
    others.retain(|watcher| watcher.client != librados);
    if others.is_empty() {
        return Ok(others);
    }
    let mine = on_thread("list mappings", "/sys/bus/rbd", krbd::mappings).await?;
    let fsid = pool.connection().fsid().await?;
    others.retain(|watcher| {
        !mine.iter().any(|mapping| mapping.cluster_fsid == fsid && mapping.client_id == watcher.client)
    });
    if are_mirror_daemons(pool, id, &others, mirror_daemons).await? {
        others.clear();
    }
    Ok(others)
}

/// Whether these watchers of an image can be the rbd-mirror daemons of its mirroring.
pub(super) async fn are_mirror_daemons(
    pool: &Pool,
    id: &ImageId,
    watchers: &[Watcher],
    mirror_daemons: u32,
) -> Result<bool> {
    let few = !watchers.is_empty()
        && watchers.len() <= usize::try_from(mirror_daemons).unwrap_or(0)
        && !watchers.iter().any(is_kernel);
    Ok(few && is_mirrored(pool, id).await?)
}

/// A kernel client's watch, which is never rbd-mirror's. libceph numbers its requests of
/// its own from `CEPH_LINGER_ID_START`; librados gives pointers, which are below that.
fn is_kernel(watcher: &Watcher) -> bool {
    watcher.cookie >= 0xffff_0000_0000_0000
}

/// cls rbd `mirror_image_get`: ENOENT for an image that is not mirrored. Without this
/// look, a foreign client of an ordinary image would pass for an rbd-mirror daemon.
async fn is_mirrored(pool: &Pool, id: &ImageId) -> Result<bool> {
    let id = id.as_str().as_bytes();
    let mut input = u32::try_from(id.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    input.extend_from_slice(id);
    let asked = ReadOp::new().exec(c"rbd", c"mirror_image_get", input);
    match pool.read("mirror image get", "rbd_mirroring", asked).await {
        Ok(_) => Ok(true),
        Err(CephError { errno: libc::ENOENT | libc::EOPNOTSUPP, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
