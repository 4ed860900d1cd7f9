//! How many file system programs (mkfs, e2fsck) run at once.
//!
//! A node that comes back after a power cut checks all its volumes at the same moment, and each check
//! needs memory. The bound is a pool's: where a pool does not answer, its own volumes wait for
//! each other, and no other pool's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ceph::Pool;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Progress;

/// Programs at once for one pool's volumes.
const AT_ONCE: usize = 16;

/// A pool: its cluster, and its number there.
type Place = (String, i64);

/// A program's turn; it ends when this goes.
pub type Turn = OwnedSemaphorePermit;

/// The turns of all pools.
#[derive(Debug, Clone, Default)]
pub struct Checks(Arc<Mutex<HashMap<Place, Arc<Semaphore>>>>);

impl Checks {
    /// Waits until a program may run on a device of this pool, and for as long as this is held.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the call's time ends before that.
    pub async fn turn(&self, pool: &Pool, progress: &Progress) -> Result<Turn> {
        let key = (pool.connection().fsid_text().to_owned(), pool.id());
        let turns = {
            let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            pools.entry(key).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone()
        };
        if let Ok(turn) = turns.clone().try_acquire_owned() {
            return Ok(turn);
        }
        let others =
            format!("{AT_ONCE} file systems of pool {} are being checked or made on this node", pool.name());
        progress.step(format!("waiting, since {others}"));
        match tokio::time::timeout(progress.deadline.left(), turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Error::new(Kind::Busy, format!("{others}; calling again waits on"))),
        }
    }
}
