//! Objects, their omap and their data: the everyday reads and writes.
//!
//! Each function is one operation on one object unless it says otherwise.

use std::collections::BTreeMap;

use super::error::{CephError, Result};
use super::pool::Pool;
use super::read_op::{Omap, ReadOp, ReadResult};
use super::write_op::WriteOp;

/// Keys asked for at once; OSDs give no more than 1024 by default.
const PAGE: u64 = 1024;
/// Read with the size: most objects that we read whole are smaller.
const FIRST_READ: usize = 64 << 10;
/// Read at once of a larger object.
const READ: usize = 4 << 20;

impl Pool {
    /// The values of these keys, absent ones left out; ENOENT when the object is absent.
    pub async fn omap_get(
        &self,
        what: &'static str,
        object: &str,
        keys: &[&str],
    ) -> Result<BTreeMap<String, Vec<u8>>> {
        let op = ReadOp::new().omap_keys(keys.iter().copied());
        let mut results = self.read(what, object, op).await?;
        Ok(results.next().map(ReadResult::into_omap).unwrap_or_default())
    }

    /// Up to `most` keys with this prefix behind `after` (empty: from the first on), and
    /// whether there are more. An OSD gives at most 1,024 at once unless it is configured
    /// otherwise, so fewer than `most` may come though there are more. ENOENT when the object
    /// is absent.
    pub async fn omap_page(
        &self,
        what: &'static str,
        object: &str,
        after: &str,
        prefix: &str,
        most: u64,
    ) -> Result<(BTreeMap<String, Vec<u8>>, bool)> {
        let op = ReadOp::new().omap_range(after, prefix, most);
        Ok(match self.read(what, object, op).await?.next() {
            Some(ReadResult::Omap { values, more }) => (values, more),
            _ => (Omap::new(), false),
        })
    }

    /// The object's extended attributes, those of object classes too; ENOENT when the object
    /// is absent.
    pub async fn list_xattrs(&self, what: &'static str, object: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut results = self.read(what, object, ReadOp::new().xattrs()).await?;
        Ok(results.next().map(ReadResult::into_omap).unwrap_or_default())
    }

    /// Every key with this prefix, in as many operations as that takes (one per
    /// 1,024 keys); ENOENT when the object is absent.
    pub async fn omap_all(
        &self,
        what: &'static str,
        object: &str,
        prefix: &str,
    ) -> Result<BTreeMap<String, Vec<u8>>> {
        self.omap_rest(what, object, prefix, Omap::new()).await
    }

    /// The keys with this prefix behind those that are known, and those.
    pub(super) async fn omap_rest(
        &self,
        what: &'static str,
        object: &str,
        prefix: &str,
        mut known: Omap,
    ) -> Result<Omap> {
        loop {
            let after = known.last_key_value().map_or("", |(key, _)| key);
            let (values, more) = self.omap_page(what, object, after, prefix, PAGE).await?;
            let ended = !more || values.is_empty();
            known.extend(values);
            if ended {
                return Ok(known);
            }
        }
    }

    /// Shows every key with this prefix to `look` and keeps none: for objects that may have a
    /// hundred thousand. One operation per 1,024 keys; an absent object has no keys.
    ///
    /// # Errors
    /// What Ceph answers, and what `look` does.
    pub async fn omap_walk(
        &self,
        what: &'static str,
        object: &str,
        prefix: &str,
        mut look: impl FnMut(&str, &[u8]) -> Result<()> + Send,
    ) -> Result<()> {
        let mut after = String::new();
        loop {
            let (values, more) = match self.omap_page(what, object, &after, prefix, PAGE).await {
                Err(error) if error.is(libc::ENOENT) => return Ok(()),
                page => page?,
            };
            for (key, value) in &values {
                look(key, value)?;
            }
            match values.into_iter().next_back() {
                Some((last, _)) if more => after = last,
                _ => return Ok(()),
            }
        }
    }

    /// The object's size in bytes; ENOENT when it is absent.
    pub async fn stat(&self, what: &'static str, object: &str) -> Result<u64> {
        match self.read(what, object, ReadOp::new().stat()).await?.next() {
            Some(ReadResult::Size(size)) => Ok(size),
            _ => Err(CephError::new(what, self.describe(object), libc::EIO)),
        }
    }

    /// The object's data; one operation up to 64 KiB. ENOENT when it is absent.
    pub async fn read_all(&self, what: &'static str, object: &str) -> Result<Vec<u8>> {
        let op = ReadOp::new().stat().read(0, FIRST_READ);
        let mut results = self.read(what, object, op).await?;
        let Some(ReadResult::Size(size)) = results.next() else {
            return Err(CephError::new(what, self.describe(object), libc::EIO));
        };
        let mut data = results.next().map(ReadResult::into_bytes).unwrap_or_default();
        while (data.len() as u64) < size {
            let op = ReadOp::new().read(data.len() as u64, READ);
            let part =
                self.read(what, object, op).await?.next().map(ReadResult::into_bytes).unwrap_or_default();
            if part.is_empty() {
                break;
            }
            data.extend(part);
        }
        Ok(data)
    }

    /// Removes the object; ENOENT when it is absent.
    pub async fn remove(&self, what: &'static str, object: &str) -> Result<()> {
        self.write(what, object, WriteOp::new().remove()).await
    }

    /// Removes the object; `false` when it was absent.
    pub async fn remove_if_there(&self, what: &'static str, object: &str) -> Result<bool> {
        gone_is_false(self.remove(what, object).await)
    }
}

/// `false` for ENOENT.
pub(super) fn gone_is_false(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
