//! Why Ceph refuses to make a volume for good, asked once it has: a volume that is made costs no question.
//!
//! What a reader gets wrong: librbd answers EINVAL for whatever it does not like, and says more
//! only in a log of its own.

use crate::ceph::{CephError, Features, ImageSpec, Pool, Result};
use crate::volume::error::{Error, Kind};
use crate::volume::size::check_mapped;

/// Bytes of a data object where neither class nor Ceph's configuration says anything.
const OBJECT: u64 = 4 << 20;

/// An error of a reservation. Only pools that are erasure-coded cannot hold the keys that it
/// begins with (`pg_pool_t::supports_omap`), and nothing was written.
pub fn of_journal(error: Error, pool: &Pool) -> Error {
    if !error.ceph().is_some_and(|cause| cause.is(libc::EOPNOTSUPP)) {
        return error;
    }
    let pool = pool.name();
    let text = format!(
        "pool {pool} is erasure-coded and cannot hold the journal and image headers: name a replicated pool, and \
         {pool} as dataPool"
    );
    Error::new(Kind::InvalidArgument, text).because(error).settled()
}

/// What librbd's refusals mean for what was asked (`librbd/image/CreateRequest`).
pub async fn of_create(error: CephError, spec: &ImageSpec, pool: &Pool, name: &str) -> Error {
    match of_request(&error, spec, pool, name).await {
        Ok(Some(refusal)) => return refusal.because(error),
        Ok(None) => {}
        Err(unknown) => return unknown.into(),
    }
    let (kind, text) = match error.errno {
        libc::ENOENT if !pool.namespace().is_empty() => (
            Kind::InvalidArgument,
            format!(
                "pool {} has no RBD namespace {}: make it with `rbd namespace create`",
                pool.name(),
                pool.namespace()
            ),
        ),
        libc::EINVAL => (Kind::InvalidArgument, "librbd refuses these image parameters".to_owned()),
        libc::ENOSYS => (Kind::InvalidArgument, "this librbd does not know these image features".to_owned()),
        libc::EDOM => (Kind::OutOfRange, "librbd refuses this object size".to_owned()),
        _ => return Error::from(error),
    };
    Error::new(kind, text).because(error)
}

/// The same of a clone, whose parent, too, may be what librbd does not find or like.
pub async fn of_clone(error: CephError, spec: &ImageSpec, pool: &Pool, name: &str) -> Error {
    match of_request(&error, spec, pool, name).await {
        Ok(Some(refusal)) => refusal.because(error),
        Ok(None) => Error::from(error).while_doing(format!("cloning {}", pool.describe(name))),
        Err(unknown) => unknown.into(),
    }
}

/// What is wrong with the class and the size, whatever the image is made of.
async fn of_request(error: &CephError, spec: &ImageSpec, pool: &Pool, name: &str) -> Result<Option<Error>> {
    if ![libc::ENOENT, libc::EINVAL].contains(&error.errno) {
        return Ok(None);
    }
    if let Some(data) = &spec.data_pool {
        let invalid = |text: String| Ok(Some(Error::new(Kind::InvalidArgument, text)));
        let found = match pool.connection().pool(data, "").await {
            Err(absent) if absent.is(libc::ENOENT) => {
                return invalid(format!("data pool {data} does not exist"));
            }
            found => found?,
        };
        if error.is(libc::EINVAL) && found.takes_no_overwrites() {
            return invalid(format!(
                "data pool {data} is erasure-coded and takes no overwrites, which images need: \
                 `ceph osd pool set {data} allow_ec_overwrites true`"
            ));
        }
    }
    let mapped = spec.features.is_none_or(|features| features.contains(Features::OBJECT_MAP));
    let object = spec.object_size.unwrap_or(OBJECT);
    let sized = check_mapped(&pool.describe(name), spec.size, object, spec.stripe);
    Ok(sized.err().filter(|_| mapped && error.is(libc::EINVAL)))
}
