//! The way back to a cluster for work that outlives its call.
//!
//! Such work keeps no connection: the key may be changed, the client blocklisted. It asks for
//! one at each try, and gets a client of its own, so that calls do not wait for it.

use crate::ceph::{Connections, Credentials, Pool};
use crate::config::ClusterEntry;
use crate::volume::error::Result;

/// What is needed to reach a cluster again.
#[derive(Clone)]
pub struct Reach {
    connections: Connections,
    monitors: Vec<String>,
    credentials: Credentials,
}

impl Reach {
    /// The way to this cluster with this key.
    pub fn new(connections: &Connections, cluster: &ClusterEntry, credentials: &Credentials) -> Self {
        Self {
            connections: connections.clone(),
            monitors: cluster.monitors.clone(),
            credentials: credentials.clone(),
        }
    }

    /// Whether it is the same user, who may have got another key.
    pub fn is_of(&self, other: &Self) -> bool {
        self.credentials.user() == other.credentials.user()
    }

    /// The same pool through the background client; `None` when it is gone.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn background(&self, pool: &Pool) -> Result<Option<Pool>> {
        self.background_by_id(pool.id(), pool.namespace()).await
    }

    /// The pool of an id; `None` when it is gone.
    ///
    /// # Errors
    /// What Ceph answers.
    pub async fn background_by_id(&self, id: i64, namespace: &str) -> Result<Option<Pool>> {
        let connection = self.connections.get_background(&self.monitors, &self.credentials).await?;
        Ok(connection.pool_by_id(id, namespace).await?)
    }
}
