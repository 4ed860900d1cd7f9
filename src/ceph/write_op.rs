//! A compound write on one object: all of its steps happen, or none.
//!
//! Lives here: the builder and its translation to librados. Not here: how it is
//! sent (`aio`). What a reader gets wrong: an absent omap key and a present key
//! with an empty value are the same to [`WriteOp::omap_equals`]; never store
//! empty values under keys that are compared.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::null;

use super::ffi;
use super::read_op::c_string;

#[derive(Debug, Clone)]
enum Step {
    Create(c_int),
    AssertExists,
    OmapEquals(String, Vec<u8>),
    OmapSet(Vec<(String, Vec<u8>)>),
    OmapRemove(Vec<String>),
    ContentEquals(Vec<u8>),
    Exec(&'static CStr, &'static CStr, Vec<u8>),
    WriteFull(Vec<u8>),
    RemoveXattr(CString),
    Remove,
}

/// The steps of one atomic write, in order (`rados_write_op_t`).
#[derive(Debug, Clone, Default)]
pub struct WriteOp(Vec<Step>);

impl WriteOp {
    /// No step yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// Makes the object when it is absent.
    pub fn create(self) -> Self {
        self.with(Step::Create(ffi::CREATE_IDEMPOTENT))
    }

    /// Makes the object; EEXIST when it is there.
    pub fn create_exclusive(self) -> Self {
        self.with(Step::Create(ffi::CREATE_EXCLUSIVE))
    }

    /// ENOENT when the object is absent.
    pub fn assert_exists(self) -> Self {
        self.with(Step::AssertExists)
    }

    /// ECANCELED unless the key has this value; the empty value also stands for
    /// an absent key. On an absent object ENOENT, unless [`WriteOp::create`]
    /// stands before it.
    pub fn omap_equals(self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.with(Step::OmapEquals(key.into(), value.into()))
    }

    /// Sets these keys; makes the object when it is absent.
    pub fn omap_set<K: Into<String>, V: Into<Vec<u8>>>(
        self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        self.with(Step::OmapSet(pairs))
    }

    /// Removes these keys; absent ones are no error, an absent object is (ENOENT).
    pub fn omap_remove<K: Into<String>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        self.with(Step::OmapRemove(keys.into_iter().map(Into::into).collect()))
    }

    /// Fails with an errno above 4095 unless the object's data begin with these
    /// bytes ([`WriteOp::is_mismatch`]); ENOENT when the object is absent.
    pub fn content_equals(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(Step::ContentEquals(bytes.into()))
    }

    /// Whether an errno says that [`WriteOp::content_equals`] found other bytes:
    /// librados answers `-MAX_ERRNO - offset of the first difference`.
    pub fn is_mismatch(errno: i32) -> bool {
        errno >= 4095
    }

    /// Calls a method of an object class, such as `c"rbd"`, `c"metadata_set"`.
    pub fn exec(self, class: &'static CStr, method: &'static CStr, input: Vec<u8>) -> Self {
        self.with(Step::Exec(class, method, input))
    }

    /// Makes these bytes the object's whole data; makes the object when it is absent.
    pub fn write_full(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.with(Step::WriteFull(bytes.into()))
    }

    /// Removes an extended attribute; an absent one is no error.
    pub fn remove_xattr(self, name: &str) -> Self {
        self.with(Step::RemoveXattr(c_string(name)))
    }

    /// Removes the object; ENOENT when it is absent.
    pub fn remove(self) -> Self {
        self.with(Step::Remove)
    }

    /// How many result codes [`WriteOp::fill`] needs room for.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts the steps into a librados operation.
    ///
    /// # Safety
    /// `op` is a live write operation; `codes` has room for [`WriteOp::len`]
    /// numbers and stays where it is until the operation has completed.
    pub(super) unsafe fn fill(&self, op: ffi::rados_write_op_t, codes: *mut c_int) {
        for (index, step) in self.0.iter().enumerate() {
            // SAFETY: the index is below `len`; librados copies every input
            // buffer into the operation before each function returns.
            unsafe { step.add(op, codes.add(index)) };
        }
    }
}

impl Step {
    /// # Safety
    /// As for [`WriteOp::fill`], for the one result code of this step.
    unsafe fn add(&self, op: ffi::rados_write_op_t, code: *mut c_int) {
        // SAFETY: the caller's promises; pointers and lengths are of live slices.
        unsafe {
            match self {
                Self::Create(exclusive) => ffi::rados_write_op_create(op, *exclusive, null()),
                Self::AssertExists => ffi::rados_write_op_assert_exists(op),
                Self::OmapEquals(key, value) => ffi::rados_write_op_omap_cmp2(
                    op,
                    bytes(key.as_bytes()),
                    ffi::CMP_EQUAL,
                    bytes(value),
                    key.len(),
                    value.len(),
                    code,
                ),
                Self::OmapSet(pairs) => {
                    let (keys, key_lengths) = columns(pairs.iter().map(|(key, _)| key.as_bytes()));
                    let (values, value_lengths) = columns(pairs.iter().map(|(_, value)| value.as_slice()));
                    ffi::rados_write_op_omap_set2(
                        op,
                        keys.as_ptr(),
                        values.as_ptr(),
                        key_lengths.as_ptr(),
                        value_lengths.as_ptr(),
                        pairs.len(),
                    );
                }
                Self::OmapRemove(keys) => {
                    let (keys, lengths) = columns(keys.iter().map(String::as_bytes));
                    ffi::rados_write_op_omap_rm_keys2(op, keys.as_ptr(), lengths.as_ptr(), keys.len());
                }
                Self::ContentEquals(content) => {
                    ffi::rados_write_op_cmpext(op, bytes(content), content.len(), 0, code);
                }
                Self::Exec(class, method, input) => ffi::rados_write_op_exec(
                    op,
                    class.as_ptr(),
                    method.as_ptr(),
                    bytes(input),
                    input.len(),
                    code,
                ),
                Self::WriteFull(data) => ffi::rados_write_op_write_full(op, bytes(data), data.len()),
                Self::RemoveXattr(name) => ffi::rados_write_op_rmxattr(op, name.as_ptr()),
                Self::Remove => ffi::rados_write_op_remove(op),
            }
        }
    }
}

/// The address of a slice for C, which counts bytes as `char`.
pub(super) fn bytes(slice: &[u8]) -> *const c_char {
    slice.as_ptr().cast()
}

/// Addresses and lengths of slices, as the omap functions take them.
pub(super) fn columns<'a>(slices: impl Iterator<Item = &'a [u8]>) -> (Vec<*const c_char>, Vec<usize>) {
    slices.map(|slice| (bytes(slice), slice.len())).unzip()
}
