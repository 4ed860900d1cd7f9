//! Who has an image open, and waiting until nobody has.
//!
//! A client that has an image open watches its header; when it dies, its watch ends after
//! about 30 s (`osd_client_watch_timeout`), so a wait of that length tells the dead from
//! the living. Not here: whether one's own mappings count (`in_use`).

use std::future::Future;
use std::time::{Duration, Instant};

use crate::ceph::{CephError, ImageId, Pool, ReadOp, Watcher, is_kernels};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Progress;

/// A dead client's watch is gone after 30 s, plus what Ceph needs to notice.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// What stands for a pool's mirroring; each rbd-mirror daemon watches it.
const MIRRORING: &str = "rbd_mirroring";

/// Between two looks.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Kept back from the deadline, so that the refusal with its reason still gets there.
pub const FOR_THE_ANSWER: Duration = Duration::from_secs(1);

/// Waits until no other client watches the image's header. Our own librados client does
/// not count, nor do the rbd-mirror daemons of a mirrored image.
///
/// # Errors
/// [`Kind::InUse`] naming the clients, after `patience` or near the deadline;
/// what Ceph answers.
pub async fn until_unwatched(
    pool: &Pool,
    name: &str,
    id: &ImageId,
    (patience, mirror_daemons): (Duration, u32),
    progress: &Progress,
) -> Result<()> {
    let since = Instant::now();
    let look = || async { without_mirror_daemons(pool, id, others(pool, id).await?, mirror_daemons).await };
    let left = wait(&pool.describe(name), patience, progress, look).await?;
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::InUse,
        format!(
            "image {} is in use by {} (waited {} s): unmap it there; a dead client's watch ends by itself after 30 s",
            pool.describe(name),
            describe(&left),
            since.elapsed().as_secs()
        ),
    ))
}

/// Looks again and again until nobody is left, up to `patience` and shortly before the
/// deadline; gives those who are left then. Looks once at least.
///
/// # Errors
/// What `look` answers.
pub async fn wait<Look>(
    image: &str,
    patience: Duration,
    progress: &Progress,
    look: impl Fn() -> Look,
) -> Result<Vec<Watcher>>
where
    Look: Future<Output = Result<Vec<Watcher>>>,
{
    let until = Instant::now() + progress.deadline.left().saturating_sub(FOR_THE_ANSWER).min(patience);
    loop {
        let watchers = look().await?;
        if watchers.is_empty() || Instant::now() >= until {
            return Ok(watchers);
        }
        progress.step(format!("waiting for {} to let go of {image}", describe(&watchers)));
        tokio::time::sleep(PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

/// Who watches the image, but for our own librados client.
///
/// # Errors
/// What Ceph answers.
pub async fn others(pool: &Pool, id: &ImageId) -> Result<Vec<Watcher>> {
    let own = pool.connection().instance_id();
    let mut watchers = pool.image_watchers(id).await?;
    watchers.retain(|watcher| watcher.client != own);
    Ok(watchers)
}

/// The same watchers, or none when they can be the rbd-mirror daemons of the image's mirroring.
///
/// # Errors
/// What Ceph answers.
pub async fn without_mirror_daemons(
    pool: &Pool,
    id: &ImageId,
    watchers: Vec<Watcher>,
    mirror_daemons: u32,
) -> Result<Vec<Watcher>> {
    let few = !watchers.is_empty()
        && watchers.len() <= usize::try_from(mirror_daemons).unwrap_or(0)
        && !watchers.iter().any(is_kernel);
    let excused = few && is_mirrored(pool, id).await?;
    Ok(if excused { Vec::new() } else { watchers })
}

/// The same watchers without rbd-mirror daemons, by librbd's own measure: they watch the
/// pool's mirroring, too. That holds where [`without_mirror_daemons`] does not: an image in
/// the trash is not mirrored any more, while its daemon may not have let go of it yet.
///
/// # Errors
/// What Ceph answers.
pub async fn without_mirroring(pool: &Pool, mut watchers: Vec<Watcher>) -> Result<Vec<Watcher>> {
    if watchers.is_empty() {
        return Ok(watchers);
    }
    let daemons = match pool.watchers(MIRRORING).await {
        Err(error) if error.is(libc::ENOENT) => Vec::new(),
        daemons => daemons?,
    };
    watchers.retain(|watcher| !daemons.iter().any(|daemon| daemon.client == watcher.client));
    Ok(watchers)
}

/// A kernel client's watch, which is never rbd-mirror's.
pub fn is_kernel(watcher: &Watcher) -> bool {
    is_kernels(watcher.cookie)
}

/// cls rbd `mirror_image_get`: ENOENT for an image that is not mirrored. Without this
/// look, a foreign client of an ordinary image would pass for an rbd-mirror daemon.
async fn is_mirrored(pool: &Pool, id: &ImageId) -> Result<bool> {
    let id = id.as_str().as_bytes();
    let mut input = u32::try_from(id.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
    input.extend_from_slice(id);
    let asked = ReadOp::new().exec(c"rbd", c"mirror_image_get", input);
    match pool.read("mirror image get", MIRRORING, asked).await {
        Ok(_) => Ok(true),
        Err(CephError { errno: libc::ENOENT | libc::EOPNOTSUPP, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `client.4123 at 10.0.0.7:0/123456`, joined by commas.
pub fn describe(watchers: &[Watcher]) -> String {
    let one = |watcher: &Watcher| format!("client.{} at {}", watcher.client, watcher.address);
    watchers.iter().map(one).collect::<Vec<_>>().join(", ")
}
