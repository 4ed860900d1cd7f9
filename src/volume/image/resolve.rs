//! From a volume handle to the image behind it.
//!
//! A handle that a journal composed names cluster, pool and uuid; the journal
//! names the image. A static volume's handle is the image's name, and its
//! context says the rest. Nothing is written here, and no image is opened.

use std::collections::BTreeMap;

use crate::ceph::{Connection, Connections, Credentials, Header, ImageId, Pool, conf_file};
use crate::config::{ClusterEntry, ConfigFiles};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::{self, VolumeId};
use crate::volume::journal::{Collection, Entry, Journal};
use crate::volume::parameters;
use crate::volume::request::Secrets;
use crate::volume::rights::with_rights;

/// What is needed to reach a volume's cluster.
#[derive(Clone)]
pub struct Resolver {
    /// The librados clients of this process.
    pub connections: Connections,
    /// config.json, read on each call.
    pub config: ConfigFiles,
    /// `--instanceid`.
    pub instance: String,
}

/// A volume and the image behind it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The entry of config.json.
    pub cluster: ClusterEntry,
    /// Whose key was used.
    pub credentials: Credentials,
    /// What the journal holds for it; `None` for a static volume.
    pub entry: Option<Entry>,
    /// The image's pool.
    pub pool: Pool,
    /// The image's name.
    pub image: String,
    /// The image's id.
    pub image_id: ImageId,
    /// The image's header.
    pub header: Header,
    /// Made by hand, not by a journal: never formatted, never deleted.
    pub is_static: bool,
}

impl Resolver {
    /// A connection to the cluster of that id. A cluster that config.json does not
    /// have is a wrong parameter for a new volume and a missing configuration for
    /// one that exists: `unknown` says which.
    ///
    /// # Errors
    /// `unknown`; what Ceph answers.
    pub async fn connect_for(
        &self,
        cluster_id: &str,
        secrets: &Secrets,
        unknown: Kind,
    ) -> Result<(ClusterEntry, Credentials, Connection)> {
        let cluster = self.config.cluster(cluster_id).map_err(|error| match error.kind {
            Kind::NotFound => error.of_kind(unknown),
            _ => error,
        })?;
        let credentials = secrets.credentials()?;
        let connection = self
            .connections
            .get(&cluster.monitors, &credentials)
            .await
            .map_err(|error| connecting(&cluster, &credentials, error))?;
        Ok((cluster, credentials, connection))
    }

    /// The image behind a handle. `metadata` names the image metadata to read along.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such volume; [`Kind::Precondition`]
    /// for what this version cannot serve; what Ceph answers.
    pub async fn resolve(
        &self,
        handle: &str,
        context: &BTreeMap<String, String>,
        secrets: &Secrets,
        metadata: &[&str],
    ) -> Result<Resolved> {
        refuse_what_is_not_here_yet(handle, context)?;
        if is_static(context) {
            return self.resolve_static(handle, context, secrets, metadata).await;
        }
        let id = VolumeId::parse(handle).ok_or_else(|| absent(handle))?;
        let (cluster, credentials, connection) =
            self.connect_for(&id.cluster_id, secrets, Kind::Precondition).await?;
        let pool = connection
            .pool_by_id(id.pool_id, &cluster.rados_namespace)
            .await?
            .ok_or_else(|| absent(handle))?;
        let looking = async {
            let entry = self.entry(&pool, &id, context).await?.ok_or_else(|| absent(handle))?;
            let image = entry
                .image_name
                .clone()
                .or_else(|| context.get("imageName").cloned())
                .unwrap_or_else(|| Collection::Volumes.default_image(id.uuid));
            let found = find_image(&pool, &image, entry.image_id.clone(), metadata).await?;
            let (image_id, header) = found.ok_or_else(|| absent(handle))?;
            Ok((Some(entry), image, image_id, header))
        };
        let found = looking.await.map_err(|error| with_rights(error, credentials.user(), pool.name()));
        let (entry, image, image_id, header) = found?;
        Ok(Resolved { cluster, credentials, entry, pool, image, image_id, header, is_static: false })
    }

    /// Topology volumes of old releases have their keys in the journal pool and
    /// an empty object of the same name in the image's.
    async fn entry(
        &self,
        pool: &Pool,
        id: &VolumeId,
        context: &BTreeMap<String, String>,
    ) -> Result<Option<Entry>> {
        let found = Journal::new(pool, Collection::Volumes, &self.instance).entry(id.uuid).await?;
        let other = context.get("journalPool").filter(|name| name.as_str() != pool.name());
        match (found, other) {
            (Some(entry), Some(other)) if entry.name.is_empty() => {
                let journal = pool.connection().pool(other, pool.namespace()).await?;
                Ok(Journal::new(&journal, Collection::Volumes, &self.instance)
                    .entry(id.uuid)
                    .await?
                    .or(Some(entry)))
            }
            (found, _) => Ok(found),
        }
    }

    async fn resolve_static(
        &self,
        handle: &str,
        context: &BTreeMap<String, String>,
        secrets: &Secrets,
        metadata: &[&str],
    ) -> Result<Resolved> {
        let required = |name: &str| {
            context.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                let text = format!("static volume {handle}: its volumeAttributes lack {name}");
                Error::new(Kind::InvalidArgument, text)
            })
        };
        if handle.contains(['/', '\\', '@']) || handle.contains("..") {
            let text = format!("static volume {handle:?}: the handle must be the name of an image");
            return Err(Error::new(Kind::InvalidArgument, text));
        }
        let (cluster, credentials, connection) =
            self.connect_for(required("clusterID")?, secrets, Kind::Precondition).await?;
        let pool = match connection.pool(required("pool")?, &cluster.rados_namespace).await {
            Ok(pool) => pool,
            Err(error) if error.is(libc::ENOENT) => return Err(absent(handle).because(error)),
            Err(error) => return Err(error.into()),
        };
        let found = find_image(&pool, handle, None, metadata).await;
        let found = found.map_err(|error| with_rights(error, credentials.user(), pool.name()))?;
        let (image_id, header) = found.ok_or_else(|| absent(handle))?;
        Ok(Resolved {
            cluster,
            credentials,
            entry: None,
            pool,
            image: handle.to_owned(),
            image_id,
            header,
            is_static: true,
        })
    }
}

/// The name decides, for the kernel maps by name: somebody may have put another image
/// in its place since the journal recorded an id. Both are asked for at once.
async fn find_image(
    pool: &Pool,
    name: &str,
    recorded: Option<ImageId>,
    metadata: &[&str],
) -> Result<Option<(ImageId, Header)>> {
    let header_of = async |id: &Option<ImageId>| match id {
        Some(id) => pool.image_header(id, metadata).await,
        None => Ok(None),
    };
    let (named, header) = tokio::join!(pool.image_id(name), header_of(&recorded));
    let Some(id) = named? else { return Ok(None) };
    let header = if recorded.as_ref() == Some(&id) { header? } else { header_of(&Some(id.clone())).await? };
    Ok(header.map(|header| (id, header)))
}

/// Volumes of kinds that this version has no code for. A word for `encrypted` that says neither
/// yes nor no is refused, too: mapped as it is, an encrypted volume would look like a blank one.
///
/// # Errors
/// [`Kind::Precondition`], with the kind.
pub fn refuse_what_is_not_here_yet(handle: &str, context: &BTreeMap<String, String>) -> Result<()> {
    let is =
        |name: &str, value: &str| context.get(name).is_some_and(|given| given.eq_ignore_ascii_case(value));
    let lacking = if id::is_migration(handle) || is("migration", "true") {
        "volumes of the in-tree driver"
    } else if context.get("encrypted").is_some_and(|given| parameters::is_true(given) != Some(false)) {
        "encryption"
    } else if is("mounter", "rbd-nbd") {
        "rbd-nbd"
    } else {
        return Ok(());
    };
    let text =
        format!("volume {handle}: this version of the driver does not serve {lacking}; nothing was changed");
    Err(Error::new(Kind::Precondition, text))
}

/// The image metadata that restricts a volume to some service accounts' pods (ceph-csi 3.17).
pub const RESTRICTED: &str = ".rbd.csi.ceph.com/serviceaccount";

impl Resolved {
    /// Refuses a volume whose image was found with [`RESTRICTED`] on it, but for a static one, where
    /// ceph-csi, too, does not look.
    ///
    /// # Errors
    /// [`Kind::Precondition`], with the way to end the restriction.
    pub fn refuse_restricted(&self, handle: &str) -> Result<()> {
        match self.header.metadata.get(RESTRICTED) {
            Some(accounts) if !accounts.is_empty() && !self.is_static => {
                Err(restricted(handle, accounts, &self.pool.describe(&self.image)))
            }
            _ => Ok(()),
        }
    }
}

/// The refusal of a volume that is restricted to these service accounts.
pub fn restricted(handle: &str, accounts: &str, image: &str) -> Error {
    let text = format!(
        "volume {handle} is restricted to pods of the service accounts {accounts}, which this version of the driver \
         does not serve; nothing was changed. `rbd image-meta remove {image} {RESTRICTED}` ends the restriction, \
         from the next time on that the volume is attached"
    );
    Error::new(Kind::Precondition, text)
}

/// Whether a PV with this context was written by hand: its handle is an image's name. Said
/// in any of Go's spellings, as ceph-csi takes it; another word is no yes.
pub fn is_static(context: &BTreeMap<String, String>) -> bool {
    const YES: [&str; 6] = ["1", "t", "T", "true", "True", "TRUE"];
    context.get("staticVolume").is_some_and(|value| YES.contains(&value.as_str()))
}

/// There is no such volume.
pub fn absent(handle: &str) -> Error {
    Error::new(Kind::NotFound, format!("volume {handle} does not exist"))
}

fn connecting(cluster: &ClusterEntry, credentials: &Credentials, error: crate::ceph::CephError) -> Error {
    let (id, monitors, user) = (&cluster.cluster_id, cluster.monitors.join(","), credentials.user());
    let failed = format!("cannot connect to cluster {id} as client.{user}");
    match error.errno {
        // Of the file, not of the key, though librados' number is the same.
        _ if error.op == conf_file::OP => {
            let text = format!("{failed}: ceph.conf cannot be used; put it right in its config map");
            Error::new(Kind::Precondition, text).because(error)
        }
        // librados 20 tells a wrong key by EOPNOTSUPP.
        libc::EACCES | libc::EOPNOTSUPP => Error::new(
            Kind::Unauthenticated,
            format!("{failed}; does it exist, with this key and mon caps \"profile rbd\"?"),
        )
        .because(error),
        // librados: the key is no base64, or a monitor's address is none (rados_connect).
        libc::EINVAL => Error::new(
            Kind::Unauthenticated,
            format!("{failed}; is userKey a cephx key, and {monitors} addresses of monitors?"),
        )
        .because(error),
        libc::ETIMEDOUT => Error::from(error).while_doing(format!(
            "{failed}; does a monitor of {monitors} answer from here, and is the key right?"
        )),
        _ => Error::from(error).while_doing(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn what_a_connect_ends_with_is_told_by_what_has_to_be_put_right() {
        let told = |errno| {
            let cluster =
                ClusterEntry { cluster_id: "c".into(), monitors: vec!["m".into()], ..Default::default() };
            let credentials = Credentials { user: "u".into(), key: Secret::new("k".into()) };
            connecting(&cluster, &credentials, crate::ceph::CephError::new("rados_connect", "m", errno))
        };
        for (errno, kind, words) in [
            (libc::EACCES, Kind::Unauthenticated, "does it exist, with this key"),
            // As librados 20.2 answers; the lab's is older.
            (libc::EOPNOTSUPP, Kind::Unauthenticated, "does it exist, with this key"),
            (libc::EINVAL, Kind::Unauthenticated, "is userKey a cephx key"),
            (libc::ETIMEDOUT, Kind::Timeout, "does a monitor of m answer from here"),
        ] {
            let error = told(errno);
            assert!(error.kind == kind && error.to_string().contains(words), "{error}");
        }
    }

    fn refusal(encrypted: &str) -> Option<Error> {
        let context = BTreeMap::from([("encrypted".to_owned(), encrypted.to_owned())]);
        refuse_what_is_not_here_yet("0001-a", &context).err()
    }

    #[test]
    fn encrypted_is_every_word_but_a_clear_no() {
        // Go's spellings of true, and what ceph-csi refuses, too.
        for word in ["1", "t", "T", "true", "TRUE", "True", "yes", "on", "-", "tRuE"] {
            let error = refusal(word).unwrap_or_else(|| panic!("{word:?} would be mapped as it is"));
            assert_eq!(error.kind, Kind::Precondition, "{word:?}");
            assert!(error.to_string().contains("does not serve encryption"), "{word:?}: {error}");
        }
        for word in ["0", "f", "F", "false", "FALSE", "False", ""] {
            assert!(refusal(word).is_none(), "{word:?}");
        }
    }
}
