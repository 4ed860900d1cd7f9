//! A copy-on-write clone of a snapshot, made by librbd in format 2.
//!
//! What a reader gets wrong: librbd's clone is a create and then an attach, so a stop inside
//! leaves an image that looks like a whole, empty one. In the order of its writes (seen
//! with 16.2.15), and what a stop behind each of them leaves:
//!
//! | write | on | a stop behind it leaves |
//! |---|---|---|
//! | `dir_add_image`, `set_id`, `create`, `object_map_resize` | the clone's objects | what a stop inside a create leaves; behind the last one: **a whole image without a parent**, empty, of the snapshot's size |
//! | `parent_attach` | the clone's header | `parent` is there; `op_features` lack 2 (clone child). The parent's snapshot **does not know the clone** and can be removed under it |
//! | `op_features_set` | the clone's header | the same with `op_features` 2 |
//! | `child_attach` | the parent's header | a clone that is whole but for its metadata ([`Pool::children_of`] names it) |
//! | `metadata_set` | the clone's header | a whole clone |
//!
//! Without metadata on the parent the last one is not there. So a clone is whole when its header has
//! the right parent *and* the parent names it as its child; before that nobody may use it.
//! From `object_map_resize` to the end librbd watches the clone, so a stopped one is watched for
//! up to 30 s. A clone that fails, other than by a stop, is removed again by librbd.
//!
//! librbd copies **every** metadata key of the parent *as it is now* (not as it was when
//! the snapshot was made) but those that begin with `.rbd`; the child's own later keys of the
//! same name win. Snapshots, locks, flags, data pool and stripes are not taken over; features and
//! object size are unless the spec has some.

use super::error::{CephError, Result};
use super::ffi;
use super::image::{ImageSpec, Options};
use super::pool::Pool;

/// `rbd_default_clone_format`: the snapshot need not be protected, and can go to the snapshots'
/// trash while it has clones. Never left to the cluster: its default depends on the oldest
/// client that the cluster lets in.
const FORMAT: u64 = 2;

impl Pool {
    /// Makes a clone of a snapshot of an image of this pool, of the snapshot's size; `spec.size` is
    /// not looked at (`rbd_clone3`). Both pools must be of one connection. ENOENT: no such image,
    /// snapshot or data pool; EEXIST also for any half-made image of the clone's name; ENOSYS: the parent
    /// or the spec has no `layering`. After an error any part of the clone may exist, see above.
    pub async fn clone_image(
        &self,
        parent: &str,
        snapshot: &str,
        child_pool: &Pool,
        name: &str,
        spec: &ImageSpec,
    ) -> Result<()> {
        const OP: &str = "rbd_clone3";
        if child_pool.connection().serial() != self.connection().serial() {
            return Err(CephError::new(OP, child_pool.describe(name), libc::EXDEV));
        }
        let (parent_text, snapshot) = (self.c_text(OP, parent)?, self.c_text(OP, snapshot)?);
        let (spec, parent_context) = (spec.clone(), self.context());
        let call = move |io: ffi::rados_ioctx_t, name: &std::ffi::CStr| {
            let made = Options::of(&spec).and_then(|options| {
                options.number(ffi::RBD_IMAGE_OPTION_CLONE_FORMAT, Some(FORMAT)).map(|()| options)
            });
            let code = match made {
                Err(code) => code,
                // SAFETY: live contexts, C strings and live options.
                Ok(options) => unsafe {
                    ffi::rbd_clone3(
                        parent_context.io(),
                        parent_text.as_ptr(),
                        snapshot.as_ptr(),
                        io,
                        name.as_ptr(),
                        options.handle(),
                    )
                },
            };
            (code.into(), ())
        };
        child_pool.blocking(OP, name, name, call).await
    }
}
