//! Is what exists what is asked for? If not: what differs.

use crate::ceph::{Features, Header, Pool};

use super::wanted::Wanted;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::journal::Entry;

/// Compares what the journal says of a volume with the request.
///
/// # Errors
/// [`Kind::AlreadyExists`] for a volume that is encrypted or of another name prefix.
pub fn entry(entry: &Entry, wanted: &Wanted, pool: &Pool) -> Result<()> {
    let mut differences = Vec::new();
    if let Some(kms) = &entry.kms {
        differences.push(format!("it is encrypted (KMS {kms})"));
    }
    let prefix = &wanted.parameters.prefix;
    match (&entry.origin, wanted.content.origin()) {
        (Some(has), asked) if Some(has) != asked => {
            let asked = asked.map_or("nothing".to_owned(), ToString::to_string);
            differences.push(format!("it was made of {has}, not of {asked}"));
        }
        _ => {}
    }
    if let Some(name) = entry.image_name.as_ref().filter(|name| !name.starts_with(prefix.as_str())) {
        differences.push(format!("its image is {name}, not {prefix}…"));
    }
    verdict(differences, wanted, pool, entry.image_name.as_deref().unwrap_or("its image"))
}

/// Compares an image with the request.
///
/// # Errors
/// [`Kind::AlreadyExists`] with everything that differs; what Ceph answers.
pub async fn image(header: &Header, wanted: &Wanted, pool: &Pool, name: &str) -> Result<()> {
    let spec = wanted.parameters.image(header.size);
    let mut differences = Vec::new();
    if !wanted.capacity.accepts(header.size) {
        let (required, limit) = (wanted.capacity.required, wanted.capacity.limit);
        differences
            .push(format!("it has {} bytes, {required} to {limit} are asked for (0: any)", header.size));
    }
    if let Some(features) = spec.features {
        // What librbd sets by itself, for stripes, a data pool or a clone, was not asked for by name.
        let internal = Features::STRIPING | Features::DATA_POOL | Features::OPERATIONS;
        let has = header.features.without(internal);
        if has != features {
            differences.push(format!("its features are {has}, not {features}"));
        }
    }
    let object_size = header.object_size();
    if let Some(asked) = spec.object_size.filter(|asked| *asked != object_size) {
        differences.push(format!("its objects have {object_size} bytes, not {asked}"));
    }
    // A unit of a whole object over one object is no striping: librbd does not store it.
    let stripe = header.stripe.unwrap_or((object_size, 1));
    if let Some(asked) = spec.stripe.filter(|asked| *asked != stripe) {
        differences.push(format!("its stripes are {stripe:?}, not {asked:?}"));
    }
    if let Some(asked) = &spec.data_pool {
        let has = match header.data_pool_id {
            Some(id) => {
                pool.connection().pool_by_id(id, pool.namespace()).await?.map(|pool| pool.name().to_owned())
            }
            None => Some(pool.name().to_owned()),
        };
        if has.as_deref() != Some(asked.as_str()) {
            differences.push(format!("its data pool is {}, not {asked}", has.unwrap_or_default()));
        }
    }
    verdict(differences, wanted, pool, name)
}

fn verdict(differences: Vec<String>, wanted: &Wanted, pool: &Pool, image: &str) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let text = format!(
        "volume {} exists as {} and differs: {}",
        wanted.name,
        pool.describe(image),
        differences.join("; ")
    );
    Err(Error::new(Kind::AlreadyExists, text))
}
