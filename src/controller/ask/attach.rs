//! A volume is given to a node, and taken from it: ControllerPublishVolume and its
//! opposite.
//!
//! Lives here: what can be refused before a pod is started. What a reader gets wrong:
//! nothing is done in Ceph. An image needs no permission for a node; who has it is
//! seen from its watchers when it is staged.
//!
//! So the volume itself is not looked up either. CSI wants NOT_FOUND for one that does
//! not exist, and gets it for what cannot be a handle. To know of any other takes a key,
//! and only PVs of StorageClasses with a controller-publish secret carry one: the same
//! volume would be there for one PV and unknown for another. Staging looks it up anyway,
//! on the node where it counts, so a second look here would only let an outage of Ceph
//! fail more calls.

use crate::kube::{Fact, Kube, KubeError};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::image::resolve;
use crate::volume::operation::Deadline;
use crate::volume::request::{AttachRequest, DetachRequest};
use crate::volume::servable;

/// Gives volumes to the nodes of a Kubernetes cluster.
#[derive(Clone)]
pub struct Attacher(Kube);

impl Attacher {
    /// For the nodes that this API knows.
    pub fn new(kube: Kube) -> Self {
        Self(kube)
    }

    /// ControllerPublishVolume. Changes nothing, so every code may be final.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a capability that no node would stage;
    /// [`Kind::Precondition`] for a volume of a kind that is not served, and where the
    /// API may not be asked; [`Kind::NotFound`] for an impossible handle and a node that
    /// does not exist; [`Kind::Unavailable`] when the API does not answer.
    pub async fn attach(&self, request: &AttachRequest, deadline: Deadline) -> Result<()> {
        let AttachRequest { volume_id, node, capability, context } = request;
        servable::check(capability, context).map_err(|error| error.of_kind(Kind::InvalidArgument))?;
        resolve::refuse_what_is_not_here_yet(volume_id, context)?;
        if !resolve::is_static(context) && VolumeId::parse(volume_id).is_none() {
            return Err(resolve::absent(volume_id));
        }
        match self.0.has_node(node, deadline.left()).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let text =
                    format!("node {node} does not exist: the Kubernetes cluster has none of that name");
                Err(Error::new(Kind::NotFound, text))
            }
            Err(error) => Err(unasked(node, error)),
        }
    }

    /// ControllerUnpublishVolume. Nothing was given, so there is nothing to take back, and
    /// nothing to ask for: neither the volume nor the node nor the API has to be there.
    /// A VolumeAttachment of a volume that is long gone must be able to go as well.
    pub fn detach(&self, request: &DetachRequest) {
        tracing::debug!(volume = request.volume_id, node = request.node, "nothing to take back");
    }
}

fn unasked(node: &str, error: KubeError) -> Error {
    match error.fact {
        Fact::Away => Error::new(Kind::Unavailable, format!("cannot know whether node {node} exists")),
        Fact::Forbidden => {
            let text = format!(
                "cannot know whether node {node} exists: the ClusterRole of this driver's controller lacks the \
                 rule apiGroups [\"\"], resources [\"nodes\"], verbs [\"get\"]"
            );
            Error::new(Kind::Precondition, text)
        }
    }
    .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::capability::{Access, AccessMode, Capability};
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::time::Duration;

    const HANDLE: &str = "0001-0004-deaf-0000000000000001-164658ce-0000-4000-8000-000000000000";

    /// Nobody is asked by a request that is refused before: there are no files at all.
    async fn refusal(volume_id: &str, node: &str, mode: AccessMode, context: &[(&str, &str)]) -> Error {
        let attacher = Attacher::new(Kube::new("127.0.0.1", 1, Path::new("/nowhere")));
        let access = Access::Mount { fs_type: String::new(), flags: Vec::new(), group: String::new() };
        let context: BTreeMap<String, String> =
            context.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let request = AttachRequest {
            volume_id: volume_id.to_owned(),
            node: node.to_owned(),
            capability: Capability { access, mode },
            context,
        };
        attacher.attach(&request, Deadline::after(Duration::from_secs(5))).await.unwrap_err()
    }

    #[tokio::test]
    async fn what_could_never_be_staged_is_refused_without_asking_anybody() {
        use AccessMode::{MultiNodeMultiWriter, MultiNodeSingleWriter, SingleNodeWriter};
        for (volume, mode, context, kind) in [
            (HANDLE, MultiNodeMultiWriter, &[][..], Kind::InvalidArgument),
            (HANDLE, MultiNodeSingleWriter, &[], Kind::InvalidArgument),
            (HANDLE, SingleNodeWriter, &[("mapOptions", "krbd:secret=x")], Kind::InvalidArgument),
            (HANDLE, SingleNodeWriter, &[("encrypted", "true")], Kind::Precondition),
            ("mig_mons-x_image-y_z", SingleNodeWriter, &[], Kind::Precondition),
            ("fake-vol-id", SingleNodeWriter, &[], Kind::NotFound),
        ] {
            let error = refusal(volume, "node1", mode, context).await;
            assert_eq!(error.kind, kind, "{volume} {mode} {context:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_handle_of_a_static_volume_is_any_name() {
        for yes in ["true", "True", "1"] {
            let context = &[("staticVolume", yes)];
            let error = refusal("my-image", "node1", AccessMode::SingleNodeWriter, context).await;
            assert_eq!(error.kind, Kind::Unavailable, "{error}");
            assert!(error.to_string().contains("/nowhere"), "{error}");
        }
        let context = &[("staticVolume", "yes")];
        let error = refusal("my-image", "node1", AccessMode::SingleNodeWriter, context).await;
        assert_eq!(error.kind, Kind::NotFound, "{error}");
        let context = &[("staticVolume", "true")];
        let error = refusal("my-image", "no/node", AccessMode::SingleNodeWriter, context).await;
        assert_eq!(error.kind, Kind::NotFound, "{error}");
    }
}
