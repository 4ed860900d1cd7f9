//! Which of an image's data objects exist.
//!
//! Told by a valid object map, else by asking for each object, which takes a
//! while for a large image and says how far it is. Lives here: counting, and the
//! arithmetic from places in the image to objects. Not here: what follows from it.
//!
//! Easily missed: objects that were written and then trimmed are gone, and an
//! object map that is shorter than the image says nothing about the rest.

use std::collections::BTreeSet;
use std::ops::Range;

use tokio::task::JoinSet;

use crate::ceph::{CephError, Header, ImageId, ObjectMap, Pool};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::operation::Progress;

/// How many objects are asked for at a time.
const IN_FLIGHT: usize = 64;

/// The numbers of existing data objects that are not among `expected`, in some
/// order; it stops looking when it has `most`.
///
/// # Errors
/// Ceph's: an object that cannot be asked for is not an absent one.
pub async fn unexpected(
    pool: &Pool,
    image: &ImageId,
    header: &Header,
    expected: &BTreeSet<u64>,
    most: usize,
    progress: &Progress,
) -> Result<Vec<u64>> {
    if let Some(map) = valid_map(pool, image, header).await? {
        return Ok(map.existing().filter(|number| !expected.contains(number)).take(most).collect());
    }
    let data_pool = data_pool(pool, header).await?;
    let found = scan(&data_pool, header, expected, most, progress).await?;
    if found.is_empty() {
        // A pool that was deleted answers as absent objects do.
        data_pool.confirm().await?;
    }
    Ok(found)
}

/// The image's object map, if what it says of each data object can be believed.
///
/// # Errors
/// What Ceph answers.
pub async fn valid_map(pool: &Pool, image: &ImageId, header: &Header) -> Result<Option<ObjectMap>> {
    if !header.object_map_valid() {
        return Ok(None);
    }
    let map = pool.object_map(image).await?;
    Ok(map.filter(|map| map.len() >= header.data_objects()))
}

/// The pool in which the image's data objects are.
///
/// # Errors
/// [`Kind::Precondition`] when there is none; what Ceph answers.
pub async fn data_pool(pool: &Pool, header: &Header) -> Result<Pool> {
    let Some(id) = header.data_pool_id else { return Ok(pool.clone()) };
    let found = pool.connection().pool_by_id(id, pool.namespace()).await?;
    found.ok_or_else(|| Error::new(Kind::Precondition, format!("the image's data pool {id} does not exist")))
}

/// As [`unexpected`], by asking for each object; `pool` is the data objects'.
pub(super) async fn scan(
    pool: &Pool,
    header: &Header,
    expected: &BTreeSet<u64>,
    most: usize,
    progress: &Progress,
) -> Result<Vec<u64>> {
    let objects = header.data_objects();
    let mut numbers = (0..objects).filter(|number| !expected.contains(number));
    let (mut asked, mut looked_at, mut found) = (JoinSet::new(), 0u64, Vec::new());
    loop {
        while asked.len() < IN_FLIGHT && found.len() < most {
            let Some(number) = numbers.next() else { break };
            let (pool, name) = (pool.clone(), header.data_object(number));
            asked.spawn(async move { exists(&pool, &name).await.map(|exists| exists.then_some(number)) });
        }
        let Some(answer) = asked.join_next().await else { return Ok(found) };
        let answer = answer.map_err(|error| {
            Error::new(Kind::Internal, "looking at a data object ended without an answer").because(error)
        })??;
        found.extend(answer);
        if looked_at % 256 == 0 {
            progress.counted(format!(
                "proving that {} is blank: {looked_at} of {objects} objects looked at",
                header.object_prefix
            ));
        }
        looked_at += 1;
        if found.len() >= most {
            return Ok(found);
        }
    }
}

async fn exists(pool: &Pool, object: &str) -> std::result::Result<bool, CephError> {
    match pool.stat("data object stat", object).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The objects in which these places of the image lie (`file_to_extents` in
/// Ceph's `osdc/Striper.cc`).
pub fn objects_of(header: &Header, ranges: &[Range<u64>]) -> BTreeSet<u64> {
    let object = header.object_size();
    let (unit, count) = header.stripe.unwrap_or((object, 1));
    let (unit, count) = (unit.max(1), count.max(1));
    let rows = (object / unit).max(1);
    let mut objects = BTreeSet::new();
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        for block in range.start / unit..=(range.end - 1) / unit {
            let (row, column) = (block / count, block % count);
            objects.insert(row / rows * count + column);
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::Features;

    fn header(order: u8, stripe: Option<(u64, u64)>) -> Header {
        Header {
            size: 1 << 30,
            order,
            features: Features::LAYERING,
            flags: 0,
            op_features: 0,
            object_prefix: "rbd_data.1".into(),
            data_pool_id: None,
            stripe,
            parent: None,
            parent_of_snapshots: None,
            snapshots: Vec::new(),
            metadata: Default::default(),
        }
    }

    fn objects(header: &Header, ranges: &[Range<u64>]) -> Vec<u64> {
        objects_of(header, ranges).into_iter().collect()
    }

    #[test]
    fn places_lie_in_objects() {
        let plain = header(22, None);
        assert_eq!(objects(&plain, &[0..1, 4095..4097]), [0]);
        let object = 4 << 20;
        assert_eq!(objects(&plain, &[object - 1..object + 1, 5 * object..7 * object]), [0, 1, 5, 6]);
        assert_eq!(objects(&plain, std::slice::from_ref(&(7..7))), [0u64; 0]);
    }

    #[test]
    fn stripes_go_round() {
        // 64 KiB objects of four 16 KiB units, three objects side by side.
        let striped = header(16, Some((16 << 10, 3)));
        let unit = |n: u64| n * (16 << 10)..(n + 1) * (16 << 10);
        assert_eq!(objects(&striped, &[unit(0)]), [0]);
        assert_eq!(objects(&striped, &[unit(2)]), [2]);
        assert_eq!(objects(&striped, &[unit(3)]), [0]);
        assert_eq!(objects(&striped, &[unit(11)]), [2]);
        assert_eq!(objects(&striped, &[unit(12), unit(13)]), [3, 4]);
    }
}
