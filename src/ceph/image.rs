//! Images: made by librbd, read and marked without opening them.
//!
//! Lives here: create, the way from a name to an id and to the header, metadata,
//! and the clearing away of an unfinished create. Not here: deletion (`trash`).
//! What a reader gets wrong: an image is four objects (`rbd_id.<name>`, keys in
//! `rbd_directory`, `rbd_header.<id>`, `rbd_object_map.<id>`), made one after the
//! other, and librbd answers EEXIST for any half of them.

use std::ffi::CString;
use std::ptr::null_mut;

use super::encoding::{Encoder, text};
use super::error::{CephError, Result};
use super::features::Features;
use super::ffi;
use super::header::{self, Header};
use super::omap::gone_is_false;
use super::pool::Pool;
use super::read_op::{Omap, ReadOp, ReadResult};
use super::watchers::Watcher;
use super::write_op::WriteOp;

/// The object that lists a pool's images, both ways.
pub(super) const DIRECTORY: &str = "rbd_directory";
/// The object class of all `rbd_*` objects.
pub(super) const RBD: &std::ffi::CStr = c"rbd";

/// librbd's internal name of an image, such as `10226b8b4567`: it stays the same
/// when the image is renamed or goes to the trash, and is never used again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(String);

impl ImageId {
    /// An id as Ceph wrote it.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `rbd_header.<id>`: what clients watch, and where metadata are.
    pub fn header_object(&self) -> String {
        format!("rbd_header.{}", self.0)
    }

    /// `rbd_object_map.<id>`.
    pub fn object_map_object(&self) -> String {
        format!("rbd_object_map.{}", self.0)
    }

    /// `rbd_object_map.<id>.<snapshot>`: the map of what a snapshot holds.
    pub fn snapshot_map_object(&self, snap_id: u64) -> String {
        format!("rbd_object_map.{}.{snap_id:016x}", self.0)
    }
}

impl std::fmt::Display for ImageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an image is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageSpec {
    /// Bytes.
    pub size: u64,
    /// What it can do; `None`: as the cluster's configuration says, which costs
    /// librbd one operation more.
    pub features: Option<Features>,
    /// The pool for the data objects, when it is to be another one.
    pub data_pool: Option<String>,
    /// Bytes of a data object, a power of two from 4 KiB to 32 MiB.
    pub object_size: Option<u64>,
    /// Stripe unit in bytes and stripe count.
    pub stripe: Option<(u64, u64)>,
}

/// `rbd_id.<name>`.
pub(super) fn id_object(name: &str) -> String {
    format!("rbd_id.{name}")
}

impl Pool {
    /// Makes an image of format 2 (`rbd_create4`): librbd's own 8 operations.
    /// EEXIST also for any half-made image of that name; ENOENT for a missing
    /// data pool or RBD namespace; ENOSPC or EDQUOT on a full pool. After an
    /// error any part of the image may exist.
    pub async fn create_image(&self, name: &str, spec: &ImageSpec) -> Result<()> {
        let spec = spec.clone();
        let call = move |io: ffi::rados_ioctx_t, name: &std::ffi::CStr| {
            let code = Options::of(&spec).map_or_else(
                |code| code,
                // SAFETY: a live context, a C string and live options.
                |options| unsafe { ffi::rbd_create4(io, name.as_ptr(), spec.size, options.0) },
            );
            (code.into(), ())
        };
        self.blocking("rbd_create4", name, name, call).await
    }

    /// The id that `rbd_id.<name>` holds; `None` when that object is absent or
    /// empty. One operation.
    pub async fn image_id(&self, name: &str) -> Result<Option<ImageId>> {
        const OP: &str = "image id";
        let object = id_object(name);
        let data = match self.read(OP, &object, ReadOp::new().read(0, 4096)).await {
            Err(error) if error.is(libc::ENOENT) => return Ok(None),
            found => found?.next().map(ReadResult::into_bytes).unwrap_or_default(),
        };
        let id = header::decode_id(&data)
            .map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))?;
        Ok(id.map(ImageId))
    }

    /// The id that the pool's directory has for a name. A create that stopped
    /// early leaves an entry here before there is an `rbd_id.<name>`.
    pub async fn directory_id(&self, name: &str) -> Result<Option<ImageId>> {
        self.directory_text("directory id", c"dir_get_id", name).await.map(|id| id.map(ImageId))
    }

    /// The id that a name has by its own object, else by the pool's directory; one operation, two
    /// where the object is missing.
    pub async fn named_id(&self, name: &str) -> Result<Option<ImageId>> {
        match self.image_id(name).await? {
            None => self.directory_id(name).await,
            named => Ok(named),
        }
    }

    /// The name that the pool's directory has for an id; none while it is in the trash.
    pub async fn directory_name(&self, id: &ImageId) -> Result<Option<String>> {
        self.directory_text("directory name", c"dir_get_name", id.as_str()).await
    }

    /// The names of the pool's images that end so. Lists the pool's directory, one operation per
    /// 1,024 images.
    pub async fn images_ending(&self, end: &str) -> Result<Vec<String>> {
        const PREFIX: &str = "name_";
        let mut found = Vec::new();
        let look = |key: &str, _: &[u8]| {
            found.extend(key.strip_prefix(PREFIX).filter(|name| name.ends_with(end)).map(str::to_owned));
            Ok(())
        };
        self.omap_walk("directory list", DIRECTORY, PREFIX, look).await?;
        Ok(found)
    }

    async fn directory_text(
        &self,
        what: &'static str,
        method: &'static std::ffi::CStr,
        key: &str,
    ) -> Result<Option<String>> {
        match self.read(what, DIRECTORY, ReadOp::new().exec(RBD, method, text(key))).await {
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(mut results) => {
                let data = results.next().map(ReadResult::into_bytes).unwrap_or_default();
                header::decode_id(&data)
                    .map_err(|_| CephError::new(what, self.describe(DIRECTORY), libc::EBADMSG))
            }
        }
    }

    /// The header with those of these metadata keys that exist; `None` when the
    /// object is absent or no header was ever written to it. One operation (and
    /// one more per thousand snapshots); the image is not opened.
    pub async fn image_header(&self, id: &ImageId, metadata: &[&str]) -> Result<Option<Header>> {
        const OP: &str = "image header";
        let object = id.header_object();
        let keys = header::KEYS.iter().map(|key| (*key).to_owned());
        let keys = keys.chain([header::PARENT.to_owned()]);
        let keys = keys.chain(metadata.iter().map(|key| format!("{}{key}", header::METADATA)));
        let op = ReadOp::new().omap_keys(keys).omap_range("", header::SNAPSHOTS, 1024);
        let mut results = match self.read(OP, &object, op).await {
            Err(error) if error.is(libc::ENOENT) => return Ok(None),
            results => results?,
        };
        let omap = results.next().map(ReadResult::into_omap).unwrap_or_default();
        let snapshots = match results.next() {
            Some(ReadResult::Omap { values, more: true }) => {
                self.omap_rest(OP, &object, header::SNAPSHOTS, values).await?
            }
            Some(other) => other.into_omap(),
            None => Omap::new(),
        };
        Header::decode(&omap, &snapshots)
            .map_err(|_| CephError::new(OP, self.describe(&object), libc::EBADMSG))
    }

    /// Sets metadata keys, all in one operation; ENOENT when there is no image.
    pub async fn set_metadata(&self, id: &ImageId, pairs: &[(String, String)]) -> Result<()> {
        let map = pairs.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        // Without the assertion the class would make an object that looks like half an image.
        let op =
            WriteOp::new().assert_exists().exec(RBD, c"metadata_set", Encoder::default().map(map).finish());
        self.write("metadata set", &id.header_object(), op).await
    }

    /// Sets a metadata key that has the value `old`, empty for an absent one; ECANCELED
    /// when it has another.
    pub async fn replace_metadata(&self, id: &ImageId, key: &str, old: &str, new: &str) -> Result<()> {
        let map = Encoder::default().map([(key, new.as_bytes())].into_iter()).finish();
        let op = WriteOp::new().assert_exists().omap_equals(format!("{}{key}", header::METADATA), old).exec(
            RBD,
            c"metadata_set",
            map,
        );
        self.write("metadata replace", &id.header_object(), op).await
    }

    /// Removes a metadata key that has this value; ECANCELED when it has another.
    pub async fn remove_metadata_of(&self, id: &ImageId, key: &str, value: &str) -> Result<()> {
        let op = WriteOp::new()
            .assert_exists()
            .omap_equals(format!("{}{key}", header::METADATA), value)
            .exec(RBD, c"metadata_remove", text(key));
        self.write("metadata remove", &id.header_object(), op).await
    }

    /// Removes a metadata key; an absent key is no error, an absent image is (ENOENT).
    pub async fn remove_metadata(&self, id: &ImageId, key: &str) -> Result<()> {
        let op = WriteOp::new().assert_exists().exec(RBD, c"metadata_remove", text(key));
        self.write("metadata remove", &id.header_object(), op).await
    }

    /// Takes the parent out of an image's header (`parent_detach`), which is the last that librbd
    /// does in a flatten; again is fine. The caller has proven that all data were copied: the
    /// parent does not name the image as its clone any more.
    pub async fn detach_parent(&self, id: &ImageId) -> Result<()> {
        let op = WriteOp::new().assert_exists().exec(RBD, c"parent_detach", Vec::new());
        match self.write("parent detach", &id.header_object(), op).await {
            Err(error) if error.is(libc::ENOENT) => Ok(()),
            done => done,
        }
    }

    /// Who watches the image, this client included; nobody when there is none.
    pub async fn image_watchers(&self, id: &ImageId) -> Result<Vec<Watcher>> {
        match self.watchers(&id.header_object()).await {
            Err(error) if error.is(libc::ENOENT) => Ok(Vec::new()),
            watchers => watchers,
        }
    }

    /// Takes the pieces of an unfinished create away, in the order in which
    /// librbd undoes one; what is not there is fine. The caller has proven that
    /// nobody watches the image and that it has neither data nor snapshots.
    pub async fn remove_partial_image(&self, name: &str, id: &ImageId) -> Result<()> {
        self.remove_if_there("undo object map", &id.object_map_object()).await?;
        self.remove_if_there("undo header", &id.header_object()).await?;
        self.remove_id_object("undo image id", name, id).await?;
        self.remove_directory_entry("undo directory", name, id).await?;
        Ok(())
    }

    /// Removes `rbd_id.<name>` if it is this image's, or nobody's.
    pub(super) async fn remove_id_object(&self, what: &'static str, name: &str, id: &ImageId) -> Result<()> {
        let object = id_object(name);
        let op = WriteOp::new().content_equals(text(id.as_str())).remove();
        match self.write(what, &object, op).await {
            Err(error) if error.is(libc::ENOENT) => Ok(()),
            // An empty one is a stop inside an old librbd's create; it names no
            // image and would block the name for ever.
            Err(error) if WriteOp::is_mismatch(error.errno) => match self.stat(what, &object).await {
                Ok(0) => self.remove_if_there(what, &object).await.map(|_| ()),
                Ok(_) => Ok(()),
                Err(error) if error.is(libc::ENOENT) => Ok(()),
                Err(error) => Err(error),
            },
            done => done,
        }
    }

    /// Removes both keys of the pool's directory if they are this image's. `false`: they were gone.
    pub(super) async fn remove_directory_entry(
        &self,
        what: &'static str,
        name: &str,
        id: &ImageId,
    ) -> Result<bool> {
        let input = Encoder::default().text(name).text(id.as_str()).finish();
        let op = WriteOp::new().assert_exists().exec(RBD, c"dir_remove_image", input);
        gone_is_false(self.write(what, DIRECTORY, op).await)
    }
}

/// librbd's image options, destroyed when they go.
pub(super) struct Options(ffi::rbd_image_options_t);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by `rbd_image_options_create`, destroyed once.
        unsafe { ffi::rbd_image_options_destroy(self.0) }
    }
}

impl Options {
    /// Everything of the spec but its size; a negative errno.
    pub(super) fn of(spec: &ImageSpec) -> std::result::Result<Self, i32> {
        let mut raw = null_mut();
        // SAFETY: room for the answer.
        unsafe { ffi::rbd_image_options_create(&mut raw) };
        let options = Self(raw);
        options.number(ffi::RBD_IMAGE_OPTION_FORMAT, Some(2))?;
        options.number(ffi::RBD_IMAGE_OPTION_FEATURES, spec.features.map(|features| features.0))?;
        if let Some(size) = spec.object_size {
            if !size.is_power_of_two() {
                return Err(-libc::EINVAL);
            }
            options.number(ffi::RBD_IMAGE_OPTION_ORDER, Some(size.trailing_zeros().into()))?;
        }
        options.number(ffi::RBD_IMAGE_OPTION_STRIPE_UNIT, spec.stripe.map(|(unit, _)| unit))?;
        options.number(ffi::RBD_IMAGE_OPTION_STRIPE_COUNT, spec.stripe.map(|(_, count)| count))?;
        if let Some(pool) = &spec.data_pool {
            let pool = CString::new(pool.as_str()).map_err(|_| -libc::EINVAL)?;
            // SAFETY: live options and a C string, which librbd copies.
            let code = unsafe {
                ffi::rbd_image_options_set_string(raw, ffi::RBD_IMAGE_OPTION_DATA_POOL, pool.as_ptr())
            };
            if code < 0 {
                return Err(code);
            }
        }
        Ok(options)
    }

    /// For C calls while the options live.
    pub(super) fn handle(&self) -> ffi::rbd_image_options_t {
        self.0
    }

    pub(super) fn number(&self, option: i32, value: Option<u64>) -> std::result::Result<(), i32> {
        let Some(value) = value else { return Ok(()) };
        // SAFETY: live options.
        match unsafe { ffi::rbd_image_options_set_uint64(self.0, option, value) } {
            code if code < 0 => Err(code),
            _ => Ok(()),
        }
    }
}
