//! What is to be mapped, and the request that the kernel gets for it.
//!
//! Lives here: the features that the kernel must have, the monitors' addresses and the
//! session's time-out. What a reader gets wrong: no option is added unless it is needed;
//! mappings share a client, and with it their connections, only when all options are equal.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::ceph::{Credentials, Features, Header, ImageId, Pool};
use crate::host::krbd::{self, MapRequest, Mapping};
use crate::host::thread::on_thread;
use crate::node::mapping::monitors::{self, Route};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::MapOptions;

/// The map option by which a mapping gets a kernel client of its own.
pub(super) const NOSHARE: &str = "noshare";

/// How many seconds the kernel opens a session for when it is not told
/// (`CEPH_MOUNT_TIMEOUT_DEFAULT`).
const KERNEL_MOUNT_TIMEOUT: u64 = 60;

/// The time-outs that are asked for when less is left: few, since mappings share a
/// client (and so its connections) only when all their options are the same.
const MOUNT_TIMEOUTS: [u64; 8] = [45, 30, 20, 10, 5, 3, 2, 1];

/// What is to be mapped, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The image's pool and namespace, on a connection to its cluster.
    pub pool: &'a Pool,
    /// The monitors of config.json, for a cluster that does not tell its own.
    pub monitors: &'a [String],
    /// The user that maps.
    pub credentials: &'a Credentials,
    /// The image's name.
    pub image: &'a str,
    /// The image's id.
    pub image_id: &'a ImageId,
    /// The image's header, as just read.
    pub header: &'a Header,
    /// The parameter `mapOptions`, as the StorageClass has it.
    pub map_options: &'a str,
    /// Whether the device shall refuse writes.
    pub read_only: bool,
    /// Whether it gets a kernel client of its own, which can be fenced alone.
    pub own_client: bool,
    /// The network namespace of the kernel's connections (`netNamespaceFilePath`).
    pub netns: Option<&'a Path>,
    /// A block volume for many nodes: other clients are no obstacle.
    pub multi_node_block: bool,
    /// So many rbd-mirror daemons watch a mirrored image (`mirrorDaemonCount`).
    pub mirror_daemons: u32,
}

impl Target<'_> {
    /// `pool/[namespace/]image`.
    pub(super) fn spec(&self) -> String {
        krbd::spec(self.pool.name(), self.pool.namespace(), self.image)
    }

    /// The call's time is over before the kernel could be asked.
    pub(super) fn no_time_left(&self) -> Error {
        Error::new(Kind::Timeout, format!("mapping {}: no time is left for it", self.spec()))
    }

    /// What is wrong with a device that the kernel made by the image's name: the name may
    /// have become another image's after its id was read.
    pub(super) fn another(&self, mapping: &Mapping, fsid: &str) -> Option<Error> {
        let (id, pool) = (self.image_id.as_str(), self.pool.id());
        if mapping.image_id == id && mapping.pool_id == pool && mapping.cluster_fsid == fsid {
            return None;
        }
        let text = format!(
            "{} is image {id} in pool {pool} of cluster {fsid}, but the kernel found image {} in pool {} of \
             cluster {} by that name: was it replaced just now? Nothing was written",
            self.spec(),
            mapping.image_id,
            mapping.pool_id,
            mapping.cluster_fsid
        );
        Some(Error::new(Kind::Precondition, text))
    }

    /// The request for the kernel, and the seconds that it has to open a session: `left` at most.
    ///
    /// # Errors
    /// [`Kind::Timeout`] when no time is left.
    pub(super) fn request(
        &self,
        options: &MapOptions,
        route: Route,
        fsid: &str,
        left: Duration,
    ) -> Result<(MapRequest, u64)> {
        let mut items = options.items().to_vec();
        if self.own_client && !options.items().iter().any(|item| item == NOSHARE) {
            items.push(NOSHARE.to_owned());
        }
        items.extend(route.ms_mode.map(|mode| format!("ms_mode={mode}")));
        let asked = options.value("mount_timeout").and_then(|text| text.parse().ok());
        let (add, mount_timeout) = mount_timeout(asked, left).ok_or_else(|| self.no_time_left())?;
        items.extend(add.map(|seconds| format!("mount_timeout={seconds}")));
        let request = MapRequest {
            monitors: route.monitors,
            user: self.credentials.user().to_owned(),
            key: self.credentials.key.clone(),
            fsid: fsid.to_owned(),
            pool: self.pool.name().to_owned(),
            namespace: self.pool.namespace().to_owned(),
            image: self.image.to_owned(),
            options: items,
            read_only: self.read_only,
            netns: self.netns.map(PathBuf::from),
        };
        Ok((request, mount_timeout))
    }
}

/// The option to add, if any, and the seconds that count then. `asked` is the user's own,
/// where 0 means for ever.
fn mount_timeout(asked: Option<u64>, left: Duration) -> Option<(Option<u64>, u64)> {
    let wanted = match asked {
        Some(0) => u64::MAX,
        Some(seconds) => seconds,
        None => KERNEL_MOUNT_TIMEOUT,
    };
    if wanted <= left.as_secs() {
        return Some((None, wanted));
    }
    let fits = MOUNT_TIMEOUTS.into_iter().find(|seconds| *seconds <= left.as_secs())?;
    Some((Some(fits), fits))
}

/// Before the kernel says no without saying why.
pub(super) async fn check_features(target: &Target<'_>) -> Result<()> {
    let read = on_thread("read", "supported_features", krbd::supported_features);
    let Some(supported) = read.await? else { return Ok(()) };
    let missing = target.header.features.without(Features(supported));
    if missing.0 == 0 {
        return Ok(());
    }
    Err(Error::new(
        Kind::Precondition,
        format!(
            "{} cannot be mapped: this node's kernel lacks {missing} of the image's features {}; disable it \
             with `rbd feature disable`, or use a newer kernel",
            target.spec(),
            target.header.features
        ),
    ))
}

/// The live monitor map's addresses; config.json's when the user may not see the map. A
/// cluster that does not answer is never tried by the kernel.
pub(super) async fn route(target: &Target<'_>, options: &MapOptions) -> Result<Route> {
    let known = match target.pool.connection().monitors().await {
        Ok(known) => known,
        Err(error) if error.is(libc::EPERM) || error.is(libc::EACCES) => {
            tracing::warn!(%error, "the monitors of config.json are used");
            let configured = target.monitors.to_vec();
            on_thread("resolve", "monitors", move || Ok(monitors::from_config(&configured))).await?
        }
        Err(error) => {
            return Err(Error::from(error)
                .while_doing(format!("{} is not mapped while its cluster does not answer", target.spec())));
        }
    };
    monitors::route(&known, options).map_err(|error| error.while_doing(format!("mapping {}", target.spec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_never_waits_longer_than_the_caller() {
        let within = |asked, seconds| mount_timeout(asked, Duration::from_secs(seconds));
        assert_eq!(within(None, 110), Some((None, 60)));
        assert_eq!(within(None, 59), Some((Some(45), 45)));
        assert_eq!(within(None, 4), Some((Some(3), 3)));
        assert_eq!(within(None, 0), None);
        assert_eq!(within(Some(5), 30), Some((None, 5)));
        assert_eq!(within(Some(100), 30), Some((Some(30), 30)));
        assert_eq!(within(Some(0), 110), Some((Some(45), 45)));
    }
}
