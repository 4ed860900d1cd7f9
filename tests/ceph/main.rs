//! `ceph/` against real clusters: what its functions do, what they answer when
//! something is wrong, and what they cost.
//!
//! Two clusters serve all tests of this file, so names are the tests' own. Lives
//! here: what the tests share. What a reader gets wrong: each test first enters
//! the lab's network with its thread, and its runtime's threads do the same.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clone;
mod connection;
mod image;
mod lock;
mod objects;
mod open;
mod outage;
mod partial;
mod resize;
mod snapshot;
#[path = "../support/mod.rs"]
mod support;
mod trash;

use std::path::PathBuf;

use rbd_csi::ceph::{CephError, Connection, Connections, Credentials, Pool};
use rbd_csi::secret::Secret;
use support::lab::{Cluster, Lab, LabSpec};
use support::ops;

/// Runs a test in the lab's network.
pub fn in_lab(test: impl AsyncFnOnce(&'static Lab)) {
    let lab = Lab::shared(LabSpec { clusters: 2, nodes: 0 });
    lab.enter();
    lab.runtime().block_on(test(lab));
}

/// Runs a test with the first cluster and its pool `rbd`.
pub fn with_pool(test: impl AsyncFnOnce(&'static Cluster, Pool)) {
    in_lab(async |lab| {
        let client = Client::new(lab.cluster(0), "");
        test(lab.cluster(0), client.pool("rbd").await).await;
        client.end().await;
    });
}

/// Connections with a ceph.conf of their own.
pub struct Client {
    cluster: &'static Cluster,
    connections: Connections,
    folder: tempfile::TempDir,
}

impl Client {
    /// `lines` go into the section `[client]`.
    pub fn new(cluster: &'static Cluster, lines: &str) -> Self {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let socket = folder.path().join("asok");
        let conf = folder.path().join("ceph.conf");
        let text = format!("[client]\nadmin_socket = {}\n{lines}\n", socket.display());
        std::fs::write(&conf, text).unwrap();
        Self { cluster, connections: Connections::new(Some(conf)), folder }
    }

    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    pub async fn connection(&self) -> Connection {
        self.connections.get(&monitors(self.cluster), &admin(self.cluster)).await.unwrap()
    }

    pub async fn pool(&self, name: &str) -> Pool {
        self.connection().await.pool(name, "").await.unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("asok")
    }

    /// Operations that this client has sent, by its own count.
    pub fn sent(&self) -> u64 {
        ops::counter(&self.socket(), "objecter", "op")
    }

    /// A meter of the operations that this client has sent, by its own count: each time it
    /// is read it wants just so many since the last time.
    pub fn costs(&self) -> impl FnMut(&str, u64) {
        let mut before = self.sent();
        move |what, expected| {
            let now = self.sent();
            assert_eq!(now - before, expected, "{what}");
            before = now;
        }
    }

    pub async fn end(self) {
        assert!(self.connections.close(std::time::Duration::from_secs(20)).await, "a client is left");
    }
}

pub fn monitors(cluster: &Cluster) -> Vec<String> {
    vec![cluster.monitors.clone()]
}

pub fn admin(cluster: &Cluster) -> Credentials {
    credentials("admin", &cluster.admin_key)
}

pub fn credentials(user: &str, key: &str) -> Credentials {
    Credentials { user: user.to_owned(), key: Secret::new(key.to_owned()) }
}

/// The error of a call that must fail.
pub fn errno<T: std::fmt::Debug>(result: Result<T, CephError>) -> i32 {
    result.unwrap_err().errno
}

/// The objects of pool `rbd` whose name has one of these in it.
pub fn objects_of(cluster: &Cluster, parts: &[&str]) -> Vec<String> {
    let all = cluster.objects("rbd").into_iter();
    all.filter(|name| parts.iter().any(|part| name.contains(part))).collect()
}
