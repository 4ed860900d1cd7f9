//! What the cluster's maps say: which pools there are, and the monitors' answers.
//!
//! What a reader gets wrong: a client answers from the osdmap that it happens to
//! have. "No such pool" is only true of the newest one, which only a monitor can
//! give, so these calls may wait for a monitor; [`Connection::blocking_map`] ends that.

use std::ffi::{CString, c_char};
use std::ptr::{null, null_mut};

use super::connection::Connection;
use super::error::{CephError, Result};
use super::ffi;
use super::pool::Pool;
use super::read_op::owned;

impl Connection {
    /// The pool of this name; ENOENT only after the newest osdmap was asked for
    /// (`rados_pool_lookup`, `rados_wait_for_latest_osdmap`).
    pub async fn pool(&self, name: &str, namespace: &str) -> Result<Pool> {
        let id = match self.pool_id(name).await {
            Err(error) if error.is(libc::ENOENT) => {
                self.newest_map().await?;
                self.pool_id(name).await?
            }
            found => found?,
        };
        Pool::open(self, name, id, namespace)
    }

    /// The pool of this id; `None` only after the newest osdmap was asked for
    /// (`rados_pool_reverse_lookup`).
    pub async fn pool_by_id(&self, id: i64, namespace: &str) -> Result<Option<Pool>> {
        let mut name = self.pool_name(id).await?;
        if name.is_none() {
            self.newest_map().await?;
            name = self.pool_name(id).await?;
        }
        name.map(|name| Pool::open(self, &name, id, namespace)).transpose()
    }

    /// The names of all pools in the newest osdmap (`rados_pool_list`).
    pub async fn pools(&self) -> Result<Vec<String>> {
        self.newest_map().await?;
        let list = |cluster| {
            let mut names = Vec::new();
            // SAFETY: a live handle; without room for them the length of all names is told.
            let mut length = unsafe { ffi::rados_pool_list(cluster, null_mut(), 0) };
            // A pool that is made in between makes the answer longer.
            while usize::try_from(length).is_ok_and(|length| length > names.len()) {
                names.resize(usize::try_from(length).unwrap_or(0), 0u8);
                // SAFETY: a live handle and a buffer of the length that is given.
                length = unsafe {
                    ffi::rados_pool_list(cluster, names.as_mut_ptr().cast::<c_char>(), names.len())
                };
            }
            (length.into(), names)
        };
        let (_, names) = self.blocking("rados_pool_list", "all pools".to_owned(), list).await?;
        // Each name ends with a NUL, the list with an empty one.
        let names = names.split(|byte| *byte == 0).take_while(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    async fn pool_id(&self, name: &str) -> Result<i64> {
        const OP: &str = "rados_pool_lookup";
        let c_name = CString::new(name).map_err(|_| CephError::new(OP, name, libc::EINVAL))?;
        let look = move |cluster| {
            // SAFETY: a live handle and a C string.
            (unsafe { ffi::rados_pool_lookup(cluster, c_name.as_ptr()) }, ())
        };
        self.blocking_map(OP, name.to_owned(), look).await.map(|(id, ())| id)
    }

    /// The name of the pool in the osdmap that this client has.
    pub(super) async fn pool_name(&self, id: i64) -> Result<Option<String>> {
        let look = move |cluster| {
            // Ceph itself sets no limit to a pool's name; nobody passes this one.
            let mut name = vec![0u8; 4096];
            // SAFETY: a live handle and a buffer of the length that is given.
            let code = unsafe {
                ffi::rados_pool_reverse_lookup(cluster, id, name.as_mut_ptr().cast::<c_char>(), name.len())
            };
            (code.into(), name)
        };
        match self.blocking_map("rados_pool_reverse_lookup", format!("pool {id}"), look).await {
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok((length, mut name)) => {
                name.truncate(usize::try_from(length).unwrap_or(0));
                Ok(Some(String::from_utf8_lossy(&name).into_owned()))
            }
        }
    }

    /// Waits until this client has the newest osdmap.
    pub(super) async fn newest_map(&self) -> Result<()> {
        // SAFETY: a live handle.
        let wait = |cluster| (unsafe { ffi::rados_wait_for_latest_osdmap(cluster) }.into(), ());
        self.blocking_monitor("rados_wait_for_latest_osdmap", wait).await
    }

    /// A command to the monitors; its output (`rados_mon_command`). Needs the
    /// caps that the command needs.
    pub(super) async fn monitor_command(&self, op: &'static str, command: CString) -> Result<Vec<u8>> {
        let call = move |cluster| {
            let (mut output, mut length) = (null_mut(), 0usize);
            let commands = [command.as_ptr()];
            // SAFETY: one command, no input, room for the answer, which is copied and freed.
            unsafe {
                let code = ffi::rados_mon_command(
                    cluster,
                    commands.as_ptr(),
                    commands.len(),
                    null(),
                    0,
                    &mut output,
                    &mut length,
                    null_mut(),
                    null_mut(),
                );
                let bytes = owned(output, length);
                if !output.is_null() {
                    ffi::rados_buffer_free(output);
                }
                (code.into(), bytes)
            }
        };
        self.blocking_monitor(op, call).await
    }
}
