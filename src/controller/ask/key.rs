//! The key of a cluster for calls that come without one.
//!
//! ListSnapshots has a secret only where the VolumeSnapshotClass names one for listing, which
//! hardly any does; `rbd.controllerPublishSecretRef` of config.json names one a cluster.

use std::time::Duration;

use crate::config::{ClusterEntry, SecretRef};
use crate::controller::Controller;
use crate::kube::{Fact, Kube, KubeError};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::secrets::Secrets;

/// How long all clusters' secrets may take when it is only asked whether they are there:
/// sidecars wait for that at their start.
const LOOK: Duration = Duration::from_secs(3);

impl Controller {
    /// Whether ListSnapshots and GetSnapshot work without a secret for every cluster of
    /// config.json. Announced otherwise, they would do harm: csi-snapshotter asks them for each
    /// VolumeSnapshotContent that a person made, and an error or an empty answer there means
    /// a snapshot that never gets ready.
    pub async fn lists_snapshots(&self) -> bool {
        let Some(kube) = &self.kube else { return false };
        let Ok(clusters) = self.resolver.config.entries() else { return false };
        if clusters.is_empty() || clusters.iter().any(|cluster| cluster.secret.is_none()) {
            return false;
        }
        let all = async {
            for cluster in &clusters {
                read(kube, cluster, LOOK).await?.credentials()?;
            }
            Ok::<_, Error>(())
        };
        let found = tokio::time::timeout(LOOK, all).await;
        match found {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => tracing::warn!(%error, "listing snapshots is not announced"),
            Err(_) => tracing::warn!("listing snapshots is not announced: the Kubernetes API is silent"),
        }
        false
    }

    /// The secret to ask a cluster with: what the call brought, else the cluster's own.
    pub(super) async fn secrets_for(
        &self,
        given: &Secrets,
        cluster: &ClusterEntry,
        limit: Duration,
    ) -> Result<Secrets> {
        match &self.kube {
            _ if !given.0.is_empty() => Ok(given.clone()),
            Some(kube) => read(kube, cluster, limit).await,
            None => Err(keyless(cluster, "there is no Kubernetes to take one from")),
        }
    }
}

async fn read(kube: &Kube, cluster: &ClusterEntry, limit: Duration) -> Result<Secrets> {
    let Some(SecretRef { name, namespace }) = &cluster.secret else {
        return Err(keyless(cluster, "config.json names none for it (rbd.controllerPublishSecretRef)"));
    };
    match kube.secret(namespace, name, limit).await {
        Ok(Some(fields)) => Ok(Secrets(fields)),
        Ok(None) => Err(keyless(cluster, &format!("secret {namespace}/{name} does not exist"))),
        Err(error) => Err(unread(cluster, &format!("{namespace}/{name}"), error)),
    }
}

fn keyless(cluster: &ClusterEntry, why: &str) -> Error {
    let text = format!("the call came without a secret for cluster {}, and {why}", cluster.cluster_id);
    Error::new(Kind::Precondition, text)
}

fn unread(cluster: &ClusterEntry, secret: &str, error: KubeError) -> Error {
    let failed = format!("cannot read secret {secret} of cluster {}", cluster.cluster_id);
    match error.fact {
        Fact::Away => Error::new(Kind::Unavailable, failed),
        Fact::Forbidden => {
            let rule = "apiGroups [\"\"], resources [\"secrets\"], verbs [\"get\"]";
            let text = format!("{failed}: the ClusterRole of this driver's controller lacks the rule {rule}");
            Error::new(Kind::Precondition, text)
        }
    }
    .because(error)
}
