//! A pool and a RADOS namespace in it: where objects and images live.
//!
//! Lives here: the I/O context and the two ways to call C with it. Not here:
//! what is called (`omap`, `image`, `trash`…). What a reader gets wrong: a
//! [`Pool`] is of the pool's id. When the pool is deleted meanwhile, every
//! operation answers ENOENT, as for a missing object; [`Pool::confirm`] tells
//! the two apart.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;
use std::sync::Arc;

use super::aio;
use super::connection::Connection;
use super::context::Context;
use super::door;
use super::error::{CephError, Result};
use super::ffi;
use super::read_op::{ReadOp, ReadResults};
use super::write_op::WriteOp;

/// A pool, by id, with a namespace (empty: the default one).
#[derive(Clone)]
pub struct Pool {
    name: Arc<str>,
    namespace: Arc<str>,
    id: i64,
    connection: Connection,
    context: Arc<Context>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} = {}, namespace {:?})", self.name, self.id, self.namespace)
    }
}

impl Pool {
    /// `rados_ioctx_create2` for a pool that the osdmap has.
    pub(super) fn open(connection: &Connection, name: &str, id: i64, namespace: &str) -> Result<Self> {
        const OP: &str = "rados_ioctx_create2";
        let c_namespace = CString::new(namespace).map_err(|_| CephError::new(OP, name, libc::EINVAL))?;
        let mut io = null_mut();
        // SAFETY: a live cluster handle and room for the answer.
        let code = unsafe { ffi::rados_ioctx_create2(connection.cluster(), id, &mut io) };
        if code < 0 {
            return Err(CephError::new(OP, name, code));
        }
        // SAFETY: nobody else has the context yet, so its settings may be made.
        unsafe {
            ffi::rados_ioctx_set_namespace(io, c_namespace.as_ptr());
            // A full pool answers ENOSPC or EDQUOT instead of blocking for ever,
            // and deletes go through; librbd inherits it from the context.
            ffi::rados_set_pool_full_try(io);
        }
        Ok(Self {
            name: name.into(),
            namespace: namespace.into(),
            id,
            connection: connection.clone(),
            context: Arc::new(Context::new(io, connection)),
        })
    }

    /// The same pool as it was when a snapshot of an image was made: reads see the objects
    /// that the snapshot holds (`rados_ioctx_snap_set_read`). For reading data objects only;
    /// a snapshot's number is one of the pool that the image's data are in.
    ///
    /// # Errors
    /// librados gives no context.
    pub fn at_snapshot(&self, snap_id: u64) -> Result<Self> {
        let pool = Self::open(&self.connection, &self.name, self.id, &self.namespace)?;
        // SAFETY: a live context that nobody else has yet, so its settings may be made.
        unsafe { ffi::rados_ioctx_snap_set_read(pool.context.io(), snap_id) };
        Ok(pool)
    }

    /// Whether it is an erasure-coded pool without `allow_ec_overwrites`, to whose objects can only be
    /// appended, as the osdmap has it that this client knows
    /// (`rados_ioctx_pool_requires_alignment2`). `false` when it is not known.
    pub fn takes_no_overwrites(&self) -> bool {
        let mut answer = 0;
        // SAFETY: a live context and room for the answer.
        let code = unsafe { ffi::rados_ioctx_pool_requires_alignment2(self.context.io(), &mut answer) };
        code >= 0 && answer != 0
    }

    /// The pool's name when it was looked up.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pool's id in the osdmap.
    pub fn id(&self) -> i64 {
        self.id
    }

    /// The RADOS namespace, empty for the default one.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The connection that it belongs to.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The context, for a call that needs those of two pools.
    pub(super) fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// `pool/object`, or `pool/namespace/object`, as `rbd` writes it.
    pub fn describe(&self, object: &str) -> String {
        if self.namespace.is_empty() {
            format!("{}/{object}", self.name)
        } else {
            format!("{}/{}/{object}", self.name, self.namespace)
        }
    }

    /// ENOENT when the newest osdmap no longer has the pool: to be asked before
    /// an ENOENT of an object is believed.
    pub async fn confirm(&self) -> Result<()> {
        self.connection.newest_map().await?;
        match self.connection.pool_name(self.id).await? {
            Some(_) => Ok(()),
            None => Err(CephError::new("rados_pool_reverse_lookup", &*self.name, libc::ENOENT)),
        }
    }

    /// Performs a compound write on one object: one operation. `what` names its
    /// purpose in errors, metrics and faults.
    pub async fn write(&self, what: &'static str, object: &str, op: WriteOp) -> Result<()> {
        let shown = self.describe(object);
        let name = self.c_text(what, object)?;
        let call = aio::write(self.context.clone(), name, op);
        self.connection.judge(door::pass(what, &shown, call).await).map(|_| ())
    }

    /// Performs a compound read of one object: one operation.
    pub async fn read(&self, what: &'static str, object: &str, op: ReadOp) -> Result<ReadResults> {
        let shown = self.describe(object);
        let name = self.c_text(what, object)?;
        let call = aio::read(self.context.clone(), name, op);
        self.connection.judge(door::pass(what, &shown, call).await).map(|(_, results)| results)
    }

    /// A call that blocks its thread, with this pool's context and a text.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        op: &'static str,
        object: &str,
        text: &str,
        call: impl FnOnce(ffi::rados_ioctx_t, &CStr) -> (i64, T) + Send + 'static,
    ) -> Result<T> {
        let text = self.c_text(op, text)?;
        let context = self.context.clone();
        let work = move |_| call(context.io(), &text);
        self.connection.blocking(op, self.describe(object), work).await.map(|(_, value)| value)
    }

    /// The same for calls that take minutes, which must not keep others waiting.
    pub(super) async fn blocking_long(
        &self,
        op: &'static str,
        object: &str,
        text: &str,
        call: impl FnOnce(ffi::rados_ioctx_t, &CStr) -> i64 + Send + 'static,
    ) -> Result<()> {
        let text = self.c_text(op, text)?;
        let context = self.context.clone();
        let work = move |_| (call(context.io(), &text), ());
        self.connection.blocking_long(op, self.describe(object), work).await.map(|_| ())
    }

    /// A text for C; one with a NUL byte names nothing that could exist.
    pub(super) fn c_text(&self, op: &'static str, text: &str) -> Result<CString> {
        CString::new(text).map_err(|_| CephError::new(op, self.describe(text), libc::EINVAL))
    }
}
