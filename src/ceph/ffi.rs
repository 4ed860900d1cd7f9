//! The C functions of librados and librbd that we use: declarations only.
//!
//! Written from `rados/librados.h` and `rbd/librbd.h` of Ceph 16.2; all of them
//! are in 16.2, 18.2 and 20.2 with the same signature. C enums are integers:
//! a newer library may return a value that an older header does not name.

#![allow(non_camel_case_types)]

use std::ffi::{c_char, c_int, c_uchar, c_void};

pub type rados_t = *mut c_void;
pub type rados_ioctx_t = *mut c_void;
pub type rados_completion_t = *mut c_void;
pub type rados_write_op_t = *mut c_void;
pub type rados_read_op_t = *mut c_void;
pub type rados_omap_iter_t = *mut c_void;
pub type rados_xattrs_iter_t = *mut c_void;
pub type rbd_image_options_t = *mut c_void;
pub type rbd_image_t = *mut c_void;
pub type rados_callback_t = Option<unsafe extern "C" fn(rados_completion_t, *mut c_void)>;
/// Argument, notification, cookie, who sent it, and the message.
pub type rados_watchcb2_t = Option<unsafe extern "C" fn(*mut c_void, u64, u64, u64, *mut c_void, usize)>;
/// Argument, cookie and errno.
pub type rados_watcherrcb_t = Option<unsafe extern "C" fn(*mut c_void, u64, c_int)>;
/// `librbd_progress_fn_t`: done, total, argument; a negative answer stops the operation.
pub type rbd_progress_t = Option<unsafe extern "C" fn(u64, u64, *mut c_void) -> c_int>;

/// `LIBRADOS_CMPXATTR_OP_EQ`; the OSD answers EINVAL to NE, GTE and LTE on an omap.
pub const CMP_EQUAL: u8 = 1;
/// `LIBRADOS_CREATE_EXCLUSIVE`.
pub const CREATE_EXCLUSIVE: c_int = 1;
/// `LIBRADOS_CREATE_IDEMPOTENT`.
pub const CREATE_IDEMPOTENT: c_int = 0;

pub const RBD_IMAGE_OPTION_FORMAT: c_int = 0;
pub const RBD_IMAGE_OPTION_FEATURES: c_int = 1;
pub const RBD_IMAGE_OPTION_ORDER: c_int = 2;
pub const RBD_IMAGE_OPTION_STRIPE_UNIT: c_int = 3;
pub const RBD_IMAGE_OPTION_STRIPE_COUNT: c_int = 4;
pub const RBD_IMAGE_OPTION_DATA_POOL: c_int = 10;
pub const RBD_IMAGE_OPTION_CLONE_FORMAT: c_int = 12;

/// `rbd_mirror_image_info_t`.
#[repr(C)]
pub struct rbd_mirror_image_info_t {
    pub global_id: *mut c_char,
    pub state: c_int,
    pub primary: bool,
}

/// `struct rbd_csi_watcher` of `watchers.cc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct rbd_csi_watcher {
    pub address: [c_char; 256],
    pub client: u64,
    pub cookie: u64,
}

unsafe extern "C" {
    pub fn rados_create2(
        cluster: *mut rados_t,
        cluster_name: *const c_char,
        user: *const c_char,
        flags: u64,
    ) -> c_int;
    pub fn rados_conf_read_file(cluster: rados_t, path: *const c_char) -> c_int;
    pub fn rados_conf_set(cluster: rados_t, option: *const c_char, value: *const c_char) -> c_int;
    pub fn rados_conf_get(
        cluster: rados_t,
        option: *const c_char,
        buffer: *mut c_char,
        length: usize,
    ) -> c_int;
    pub fn rados_connect(cluster: rados_t) -> c_int;
    pub fn rados_shutdown(cluster: rados_t);
    pub fn rados_get_instance_id(cluster: rados_t) -> u64;
    pub fn rados_cluster_fsid(cluster: rados_t, buffer: *mut c_char, length: usize) -> c_int;
    pub fn rados_wait_for_latest_osdmap(cluster: rados_t) -> c_int;
    pub fn rados_mon_command(
        cluster: rados_t,
        commands: *const *const c_char,
        count: usize,
        input: *const c_char,
        input_length: usize,
        output: *mut *mut c_char,
        output_length: *mut usize,
        status: *mut *mut c_char,
        status_length: *mut usize,
    ) -> c_int;
    pub fn rados_buffer_free(buffer: *mut c_char);

    pub fn rados_pool_list(cluster: rados_t, buffer: *mut c_char, length: usize) -> c_int;
    pub fn rados_pool_lookup(cluster: rados_t, name: *const c_char) -> i64;
    pub fn rados_pool_reverse_lookup(cluster: rados_t, id: i64, buffer: *mut c_char, length: usize) -> c_int;
    pub fn rados_ioctx_create2(cluster: rados_t, id: i64, io: *mut rados_ioctx_t) -> c_int;
    pub fn rados_ioctx_destroy(io: rados_ioctx_t);
    pub fn rados_ioctx_set_namespace(io: rados_ioctx_t, namespace: *const c_char);
    pub fn rados_ioctx_snap_set_read(io: rados_ioctx_t, snap: u64);
    pub fn rados_set_pool_full_try(io: rados_ioctx_t);
    pub fn rados_ioctx_pool_requires_alignment2(io: rados_ioctx_t, answer: *mut c_int) -> c_int;
    pub fn rados_aio_ioctx_selfmanaged_snap_create(
        io: rados_ioctx_t,
        id: *mut u64,
        completion: rados_completion_t,
    );
    pub fn rados_aio_ioctx_selfmanaged_snap_remove(
        io: rados_ioctx_t,
        id: u64,
        completion: rados_completion_t,
    );
    pub fn rados_notify2(
        io: rados_ioctx_t,
        object: *const c_char,
        payload: *const c_char,
        length: c_int,
        timeout_ms: u64,
        reply: *mut *mut c_char,
        reply_length: *mut usize,
    ) -> c_int;
    pub fn rados_watch3(
        io: rados_ioctx_t,
        object: *const c_char,
        cookie: *mut u64,
        heard: rados_watchcb2_t,
        lost: rados_watcherrcb_t,
        timeout_seconds: u32,
        argument: *mut c_void,
    ) -> c_int;
    pub fn rados_unwatch2(io: rados_ioctx_t, cookie: u64) -> c_int;
    pub fn rados_watch_flush(cluster: rados_t) -> c_int;
    pub fn rados_notify_ack(
        io: rados_ioctx_t,
        object: *const c_char,
        notification: u64,
        cookie: u64,
        answer: *const c_char,
        length: c_int,
    ) -> c_int;
    pub fn rados_list_lockers(
        io: rados_ioctx_t,
        object: *const c_char,
        name: *const c_char,
        exclusive: *mut c_int,
        tag: *mut c_char,
        tag_length: *mut usize,
        clients: *mut c_char,
        clients_length: *mut usize,
        cookies: *mut c_char,
        cookies_length: *mut usize,
        addresses: *mut c_char,
        addresses_length: *mut usize,
    ) -> isize;
    pub fn rados_blocklist_add(cluster: rados_t, address: *mut c_char, expire_seconds: u32) -> c_int;

    pub fn rados_aio_create_completion2(
        argument: *mut c_void,
        complete: rados_callback_t,
        completion: *mut rados_completion_t,
    ) -> c_int;
    pub fn rados_aio_get_return_value(completion: rados_completion_t) -> c_int;
    pub fn rados_aio_release(completion: rados_completion_t);

    pub fn rados_create_write_op() -> rados_write_op_t;
    pub fn rados_release_write_op(op: rados_write_op_t);
    pub fn rados_write_op_assert_exists(op: rados_write_op_t);
    pub fn rados_write_op_create(op: rados_write_op_t, exclusive: c_int, category: *const c_char);
    pub fn rados_write_op_omap_cmp2(
        op: rados_write_op_t,
        key: *const c_char,
        operator: u8,
        value: *const c_char,
        key_length: usize,
        value_length: usize,
        code: *mut c_int,
    );
    pub fn rados_write_op_omap_set2(
        op: rados_write_op_t,
        keys: *const *const c_char,
        values: *const *const c_char,
        key_lengths: *const usize,
        value_lengths: *const usize,
        count: usize,
    );
    pub fn rados_write_op_omap_rm_keys2(
        op: rados_write_op_t,
        keys: *const *const c_char,
        key_lengths: *const usize,
        count: usize,
    );
    pub fn rados_write_op_exec(
        op: rados_write_op_t,
        class: *const c_char,
        method: *const c_char,
        input: *const c_char,
        input_length: usize,
        code: *mut c_int,
    );
    pub fn rados_write_op_cmpext(
        op: rados_write_op_t,
        bytes: *const c_char,
        length: usize,
        offset: u64,
        code: *mut c_int,
    );
    pub fn rados_write_op_write_full(op: rados_write_op_t, bytes: *const c_char, length: usize);
    pub fn rados_write_op_rmxattr(op: rados_write_op_t, name: *const c_char);
    pub fn rados_write_op_remove(op: rados_write_op_t);
    pub fn rados_aio_write_op_operate(
        op: rados_write_op_t,
        io: rados_ioctx_t,
        completion: rados_completion_t,
        object: *const c_char,
        mtime: *mut libc::time_t,
        flags: c_int,
    ) -> c_int;

    pub fn rados_create_read_op() -> rados_read_op_t;
    pub fn rados_release_read_op(op: rados_read_op_t);
    pub fn rados_read_op_omap_get_vals2(
        op: rados_read_op_t,
        after: *const c_char,
        prefix: *const c_char,
        most: u64,
        values: *mut rados_omap_iter_t,
        more: *mut c_uchar,
        code: *mut c_int,
    );
    pub fn rados_read_op_omap_get_vals_by_keys2(
        op: rados_read_op_t,
        keys: *const *const c_char,
        count: usize,
        key_lengths: *const usize,
        values: *mut rados_omap_iter_t,
        code: *mut c_int,
    );
    pub fn rados_read_op_exec(
        op: rados_read_op_t,
        class: *const c_char,
        method: *const c_char,
        input: *const c_char,
        input_length: usize,
        output: *mut *mut c_char,
        output_length: *mut usize,
        code: *mut c_int,
    );
    pub fn rados_read_op_stat(
        op: rados_read_op_t,
        size: *mut u64,
        mtime: *mut libc::time_t,
        code: *mut c_int,
    );
    pub fn rados_read_op_read(
        op: rados_read_op_t,
        offset: u64,
        length: usize,
        buffer: *mut c_char,
        bytes_read: *mut usize,
        code: *mut c_int,
    );
    pub fn rados_read_op_getxattrs(op: rados_read_op_t, values: *mut rados_xattrs_iter_t, code: *mut c_int);
    pub fn rados_getxattrs_next(
        values: rados_xattrs_iter_t,
        name: *mut *const c_char,
        value: *mut *const c_char,
        length: *mut usize,
    ) -> c_int;
    pub fn rados_getxattrs_end(values: rados_xattrs_iter_t);
    pub fn rados_aio_read_op_operate(
        op: rados_read_op_t,
        io: rados_ioctx_t,
        completion: rados_completion_t,
        object: *const c_char,
        flags: c_int,
    ) -> c_int;
    pub fn rados_omap_get_next2(
        values: rados_omap_iter_t,
        key: *mut *mut c_char,
        value: *mut *mut c_char,
        key_length: *mut usize,
        value_length: *mut usize,
    ) -> c_int;
    pub fn rados_omap_get_end(values: rados_omap_iter_t);

    pub fn rbd_image_options_create(options: *mut rbd_image_options_t);
    pub fn rbd_image_options_destroy(options: rbd_image_options_t);
    pub fn rbd_image_options_set_string(
        options: rbd_image_options_t,
        option: c_int,
        value: *const c_char,
    ) -> c_int;
    pub fn rbd_image_options_set_uint64(options: rbd_image_options_t, option: c_int, value: u64) -> c_int;
    pub fn rbd_create4(
        io: rados_ioctx_t,
        name: *const c_char,
        size: u64,
        options: rbd_image_options_t,
    ) -> c_int;
    pub fn rbd_trash_move(io: rados_ioctx_t, name: *const c_char, delay: u64) -> c_int;
    pub fn rbd_trash_remove_with_progress(
        io: rados_ioctx_t,
        id: *const c_char,
        force: bool,
        progress: rbd_progress_t,
        argument: *mut c_void,
    ) -> c_int;
    pub fn rbd_clone3(
        parent_io: rados_ioctx_t,
        parent: *const c_char,
        snapshot: *const c_char,
        io: rados_ioctx_t,
        name: *const c_char,
        options: rbd_image_options_t,
    ) -> c_int;

    pub fn rbd_open_by_id(
        io: rados_ioctx_t,
        id: *const c_char,
        image: *mut rbd_image_t,
        snapshot: *const c_char,
    ) -> c_int;
    pub fn rbd_open_by_id_read_only(
        io: rados_ioctx_t,
        id: *const c_char,
        image: *mut rbd_image_t,
        snapshot: *const c_char,
    ) -> c_int;
    pub fn rbd_close(image: rbd_image_t) -> c_int;
    pub fn rbd_get_size(image: rbd_image_t, size: *mut u64) -> c_int;
    pub fn rbd_snap_create(image: rbd_image_t, name: *const c_char) -> c_int;
    pub fn rbd_snap_remove(image: rbd_image_t, name: *const c_char) -> c_int;
    pub fn rbd_resize2(
        image: rbd_image_t,
        size: u64,
        allow_shrink: bool,
        progress: rbd_progress_t,
        argument: *mut c_void,
    ) -> c_int;
    pub fn rbd_flatten_with_progress(
        image: rbd_image_t,
        progress: rbd_progress_t,
        argument: *mut c_void,
    ) -> c_int;
    pub fn rbd_mirror_image_get_info(
        image: rbd_image_t,
        info: *mut rbd_mirror_image_info_t,
        size: usize,
    ) -> c_int;
    pub fn rbd_mirror_image_get_info_cleanup(info: *mut rbd_mirror_image_info_t);

    pub fn rbd_csi_list_watchers(
        io: rados_ioctx_t,
        object: *const c_char,
        out: *mut rbd_csi_watcher,
        count: *mut usize,
    ) -> c_int;
}
