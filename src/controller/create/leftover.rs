//! What an earlier, interrupted try left of an image, and what may be done with it.
//!
//! Only for images whose id no journal records yet: nobody was ever told of
//! them. Even so nothing is cleared away that is not proven blank: a journal of
//! an old release records no ids, and its images hold people's data.
//! Callers hold the creator's lock (`journal::creator`).

use std::collections::BTreeSet;

use crate::ceph::{Features, Header, ImageId, ImageSpec, Pool};

use crate::controller::create::clone::Parent;
use crate::controller::delete::record;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::data_objects;
use crate::volume::journal::{Entry, Journal};
use crate::volume::operation::Progress;

/// What an image must have been made of.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Nothing: an empty volume.
    Blank,
    /// One of these snapshots.
    Clone(&'a [Parent]),
}

impl<'a> Origin<'a> {
    /// The parent among these that the header names.
    fn parent(self, header: &Header) -> Option<&'a Parent> {
        match self {
            Self::Blank => None,
            Self::Clone(parents) => parents.iter().find(|parent| parent.is_of(header)),
        }
    }
}

/// The image of that name if it is whole; pieces of one are cleared away.
///
/// # Errors
/// [`Kind::Precondition`] for pieces that hold data; what Ceph answers.
pub async fn take_over_or_clear(
    pool: &Pool,
    name: &str,
    spec: &ImageSpec,
    origin: Origin<'_>,
    progress: &Progress,
) -> Result<Option<(ImageId, Header)>> {
    let Some(found) = Found::look(pool, name).await? else { return Ok(None) };
    match found {
        // One in the trash is another's, whose id librbd has drawn again.
        Found { id, header: Some(header), listed: true, named: true }
            if whole(pool, &id, &header, spec, origin).await? && pool.trash_entry(&id).await?.is_none() =>
        {
            Ok(Some((id, header)))
        }
        found => {
            found.clear(pool, name, origin, progress).await?;
            Ok(None)
        }
    }
}

/// Clears the pieces of an image away.
///
/// # Errors
/// As [`take_over_or_clear`].
pub async fn clear(pool: &Pool, name: &str, origin: Origin<'_>, progress: &Progress) -> Result<()> {
    match Found::look(pool, name).await? {
        Some(found) => found.clear(pool, name, origin, progress).await,
        None => Ok(()),
    }
}

/// The image of a complete volume is gone: its reservation goes too, so that the
/// name can become a new volume.
///
/// # Errors
/// [`Kind::Precondition`] when somebody moved the image to the trash, renamed it, or
/// took its name away.
pub async fn forget_vanished(journal: &Journal, pool: &Pool, entry: &Entry, id: &ImageId) -> Result<()> {
    if pool.trash_entry(id).await?.is_some() && !record::is_recorded(journal, id).await? {
        let text = format!(
            "the image of {} is in the trash of pool {} as {}: `rbd trash restore {}` brings it back, \
             `rbd trash rm {}` lets the name be used anew",
            entry.name,
            pool.name(),
            id.as_str(),
            id.as_str(),
            id.as_str()
        );
        return Err(Error::new(Kind::Precondition, text));
    }
    if let Some(name) = &entry.image_name
        && let Some(other) = pool.image_id(name).await?
    {
        let text = format!(
            "the journal says that the image of {} has the id {}, but {} has the id {}: somebody replaced it",
            entry.name,
            id.as_str(),
            pool.describe(name),
            other.as_str()
        );
        return Err(Error::new(Kind::Precondition, text));
    }
    if pool.trash_entry(id).await?.is_none() && pool.image_header(id, &[]).await?.is_some() {
        let text = format!(
            "the image of {} (id {} in pool {}) has lost its name; restore it, or delete the volume",
            entry.name,
            id.as_str(),
            pool.name()
        );
        return Err(Error::new(Kind::Precondition, text));
    }
    journal.retract(entry.uuid, &entry.name).await
}

/// The pieces of an image.
struct Found {
    id: ImageId,
    header: Option<Header>,
    /// The pool's directory lists it.
    listed: bool,
    /// Its id object exists.
    named: bool,
}

impl Found {
    async fn look(pool: &Pool, name: &str) -> Result<Option<Self>> {
        let by_name = pool.image_id(name).await?;
        let by_directory = pool.directory_id(name).await?;
        let Some(id) = by_name.clone().or_else(|| by_directory.clone()) else { return Ok(None) };
        if let (Some(a), Some(b)) = (&by_name, &by_directory)
            && a != b
        {
            let text = format!(
                "image {} has two ids: {} in its id object, {} in the pool's directory",
                pool.describe(name),
                a.as_str(),
                b.as_str()
            );
            return Err(Error::new(Kind::Precondition, text));
        }
        let header = pool.image_header(&id, &[]).await?;
        Ok(Some(Self { id, header, listed: by_directory.is_some(), named: by_name.is_some() }))
    }

    /// Pieces without a header were never an image that anybody could open.
    async fn clear(&self, pool: &Pool, name: &str, origin: Origin<'_>, progress: &Progress) -> Result<()> {
        if let Some(header) = &self.header {
            prove_blank(pool, name, &self.id, header, origin, progress).await?;
        }
        Ok(pool.remove_partial_image(name, &self.id).await?)
    }
}

/// librbd writes stripes and object map after the header: an image without them
/// is not what was asked for, and one without its map would never have a valid one.
/// The same for the parent of a clone: one that stopped before it was attached would be
/// answered as a restored volume, and be empty.
async fn whole(
    pool: &Pool,
    id: &ImageId,
    header: &Header,
    spec: &ImageSpec,
    origin: Origin<'_>,
) -> Result<bool> {
    match (origin, origin.parent(header)) {
        (Origin::Blank, _) if header.parent.is_none() => {}
        (Origin::Clone(_), Some(parent)) if parent.names(pool, id).await? => {}
        _ => return Ok(false),
    }
    let striped = spec.stripe.is_some_and(|stripe| stripe != (header.object_size(), 1));
    if striped && header.stripe.is_none() {
        return Ok(false);
    }
    if !header.features.contains(Features::OBJECT_MAP) {
        return Ok(true);
    }
    Ok(header.object_map_valid() && pool.object_map(id).await?.is_some())
}

/// As for a mkfs (`data_objects`), and nobody has it open.
async fn prove_blank(
    pool: &Pool,
    name: &str,
    id: &ImageId,
    header: &Header,
    origin: Origin<'_>,
    progress: &Progress,
) -> Result<()> {
    let not_blank = |what: String| {
        let text = format!(
            "image {} is unfinished and not proven blank: {what}; look at it with `rbd info` and `rbd status`, \
             and remove or rename it",
            pool.describe(name)
        );
        Err(Error::new(Kind::Precondition, text))
    };
    if let Some(watcher) = pool.image_watchers(id).await?.first() {
        return not_blank(format!("{} has it open", watcher.address));
    }
    if !header.snapshots.is_empty() {
        return not_blank("it has a snapshot".to_owned());
    }
    match (&header.parent, origin.parent(header)) {
        (None, _) => {}
        // It was attached, and the parent not told: nobody can have read or written it.
        (Some(_), Some(parent)) if !parent.names(pool, id).await? => {}
        (Some(_), _) => return not_blank("it has a parent".to_owned()),
    }
    let found = match data_objects::unexpected(pool, id, header, &BTreeSet::new(), 1, progress).await {
        Err(error) if error.kind == Kind::Precondition => return not_blank(error.to_string()),
        Err(error) => return Err(error.while_doing(format!("clearing away {}", pool.describe(name)))),
        Ok(found) => found,
    };
    match found.first() {
        Some(number) => not_blank(format!("its data object {} exists", header.data_object(*number))),
        None => Ok(()),
    }
}
