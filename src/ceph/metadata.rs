//! An image's metadata as a whole: all keys, and several changed in one operation.

use std::collections::BTreeMap;

use super::encoding::{Encoder, text};
use super::error::Result;
use super::header::METADATA;
use super::image::{ImageId, RBD};
use super::pool::Pool;
use super::write_op::WriteOp;

impl Pool {
    /// All metadata of an image, nothing for one that is not there. One operation per
    /// thousand keys.
    pub async fn image_metadata(&self, id: &ImageId) -> Result<BTreeMap<String, String>> {
        let all = match self.omap_all("metadata list", &id.header_object(), METADATA).await {
            Err(error) if error.is(libc::ENOENT) => return Ok(BTreeMap::new()),
            all => all?,
        };
        let one = |(key, value): (String, Vec<u8>)| {
            let key = key.strip_prefix(METADATA)?.to_owned();
            Some((key, String::from_utf8_lossy(&value).into_owned()))
        };
        Ok(all.into_iter().filter_map(one).collect())
    }

    /// Removes keys, absent ones too, and sets others, all in one operation; ENOENT when there
    /// is no image.
    pub async fn change_metadata(
        &self,
        id: &ImageId,
        remove: &[String],
        set: &[(String, String)],
    ) -> Result<()> {
        let op = remove
            .iter()
            .fold(WriteOp::new().assert_exists(), |op, key| op.exec(RBD, c"metadata_remove", text(key)));
        let op = if set.is_empty() {
            op
        } else {
            let map = set.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
            op.exec(RBD, c"metadata_set", Encoder::default().map(map).finish())
        };
        self.write("metadata change", &id.header_object(), op).await
    }
}
