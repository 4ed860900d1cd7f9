//! Who has an image open, and waiting until nobody has.

use std::time::{Duration, Instant};

use super::error::{Error, Kind, Result};
use super::in_use;
use super::operation::Progress;
use crate::ceph::{ImageId, Pool, Watcher};

const POLL: Duration = Duration::from_secs(1);
/// What is kept of the caller's time to give the answer and to undo.
const RESERVE: Duration = Duration::from_secs(2);

/// Waits until no other client watches the image's header, for a dead client's
/// watch to run out. Our own librados client does not count.
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
    loop {
        let own = pool.connection().instance_id();
        let mut watchers = pool.image_watchers(id).await?;
        watchers.retain(|watcher| watcher.client != own);
        if watchers.is_empty() || in_use::are_mirror_daemons(pool, id, &watchers, mirror_daemons).await? {
            return Ok(());
        }
        if since.elapsed() >= patience || progress.deadline.left() <= RESERVE + POLL {
            return Err(in_use(pool, name, &watchers, since.elapsed()));
        }
        progress.step(format!("waiting for {} to let go of {}", describe(&watchers), pool.describe(name)));
        tokio::time::sleep(POLL).await;
    }
}

fn in_use(pool: &Pool, name: &str, watchers: &[Watcher], waited: Duration) -> Error {
    Error::new(
        Kind::InUse,
        format!(
            "image {} is in use by {} (waited {} s): unmap it there; a dead client's watch ends by itself after 30 s",
            pool.describe(name),
            describe(watchers),
            waited.as_secs()
        ),
    )
}

/// `client.4123 at 10.0.0.7:0/123456`, joined by commas.
pub fn describe(watchers: &[Watcher]) -> String {
    let one = |watcher: &Watcher| format!("client.{} at {}", watcher.client, watcher.address);
    watchers.iter().map(one).collect::<Vec<_>>().join(", ")
}
