//! Whether another client uses an image that this node is to map, told by the watches on
//! its header (`watch`): what this node itself has mapped does not count.
//!
//! An image that is mapped writable is watched by its kernel client. So a single-node volume waits
//! for a dead node's watch to end before it is refused.
//!
//! What a reader gets wrong: this keeps honest nodes apart and is no lock. Two nodes that
//! look at the same moment both see nothing, so each looks again after its map, and then
//! both may see each other: exactly one has to let go. And it does not see all: an image that is
//! mapped read-only has no watch (Linux 5.5), and a node that was cut off has lost its own, and
//! may still have writes to send. Nothing here stops that; the documents say so (support.md).

use std::time::{Duration, Instant};

use crate::ceph::{ImageId, Pool, Watcher, is_kernels};
use crate::host::krbd;
use crate::host::thread::on_thread;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::watch::{self, describe};
use crate::volume::operation::Progress;

/// How long a client that has to let go may take: an unmap, tried again while it is busy.
const LETTING_GO: Duration = Duration::from_secs(10);

const GLANCE: Duration = Duration::from_millis(200);

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
    let look = || others(pool, id, mirror_daemons);
    let left = watch::wait(&spec, watch::PATIENCE, progress, look).await?;
    if left.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{spec} is in use by {}; a volume for one node is not mapped beside another client. \
         Unmap it there; a dead node's client goes by itself within a minute",
        describe(&left)
    );
    Err(Error::new(Kind::InUse, text))
}

/// The same for after the map by the kernel's client `own`, when the watch of each client
/// shows. Nobody goes on who sees another. Of two nodes the one with the greater number lets go at
/// once; the numbers are the monitors', so both agree on who that is. The other waits for it,
/// since who came last may not have been seen by the first, and the first then stays. Whoever
/// opens the image through librbd (`rbd du`, a backup, the mgr) wants no device, and is waited for
/// as before the map.
///
/// # Errors
/// [`Kind::InUse`] with the clients and their addresses.
pub async fn require_alone(
    pool: &Pool,
    id: &ImageId,
    image: &str,
    mirror_daemons: u32,
    own: u64,
    progress: &Progress,
) -> Result<()> {
    let spec = krbd::spec(pool.name(), pool.namespace(), image);
    let mut seen = None;
    loop {
        let others = others(pool, id, mirror_daemons).await?;
        if others.is_empty() {
            return Ok(());
        }
        let who = describe(&others);
        let (nodes, librbd): (Vec<_>, Vec<_>) = others.iter().partition(|other| is_kernels(other.cookie));
        let (patience, pause) =
            if librbd.is_empty() { (LETTING_GO, GLANCE) } else { (watch::PATIENCE, watch::PAUSE) };
        // Counted from when it was seen: the look itself may have taken its time.
        let since = *seen.get_or_insert_with(Instant::now);
        let late = since.elapsed() >= patience || progress.deadline.left() < watch::FOR_THE_ANSWER;
        if nodes.iter().any(|other| other.client < own) || late {
            let text = format!(
                "{spec} is used by {who} too, since just now; a volume for one node is not used beside \
                 another client"
            );
            return Err(Error::new(Kind::InUse, text));
        }
        progress.step(format!("waiting for {who}, which came later, to let go of {spec}"));
        tokio::time::sleep(pause).await;
    }
}

/// The other clients that watch the image.
///
/// # Errors
/// What Ceph answers.
pub async fn others(pool: &Pool, id: &ImageId, mirror_daemons: u32) -> Result<Vec<Watcher>> {
    let mut others = watch::others(pool, id).await?;
    if others.is_empty() {
        return Ok(others);
    }
    let mine = on_thread("list mappings", "/sys/bus/rbd", krbd::mappings).await?;
    let fsid = pool.connection().fsid().await?;
    others.retain(|watcher| {
        !mine.iter().any(|mapping| mapping.cluster_fsid == fsid && mapping.client_id == watcher.client)
    });
    watch::without_mirror_daemons(pool, id, others, mirror_daemons).await
}
