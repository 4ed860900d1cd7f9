//! A compound read of one object: all results are of the same moment.
//!
//! Lives here: the builder, its translation to librados, and the results. Not
//! here: how it is sent (`aio`). What a reader gets wrong: the first step that
//! fails fails the whole read; a missing omap key is no failure, it is just not
//! among the values.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uchar};
use std::ptr::{null, null_mut, slice_from_raw_parts};
use std::time::Duration;

use super::ffi;
use super::write_op::{bytes, columns};

/// An object's omap, or a part of it.
pub type Omap = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Clone)]
enum Step {
    Keys(Vec<String>),
    Range(CString, CString, u64),
    Exec(&'static CStr, &'static CStr, Vec<u8>),
    Stat,
    StatWithTime,
    Xattrs,
    Read(u64, usize),
}

/// The steps of one read, in order (`rados_read_op_t`).
#[derive(Debug, Clone, Default)]
pub struct ReadOp(Vec<Step>);

/// What one step of a [`ReadOp`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadResult {
    /// Of [`ReadOp::omap_keys`], [`ReadOp::omap_range`] and [`ReadOp::xattrs`]; `more`
    /// says that the range goes on behind the last of these keys.
    Omap {
        /// The keys that exist, with their values.
        values: Omap,
        /// Whether there is more.
        more: bool,
    },
    /// Of [`ReadOp::exec`] and [`ReadOp::read`].
    Bytes(Vec<u8>),
    /// Of [`ReadOp::stat`]: the object's size in bytes.
    Size(u64),
    /// Of [`ReadOp::stat_with_time`].
    Stat {
        /// The object's size in bytes.
        size: u64,
        /// When it was last written to, since 1970, in whole seconds of the writer's clock.
        modified: Duration,
    },
}

/// The results of a [`ReadOp`], in the order of its steps.
pub type ReadResults = std::vec::IntoIter<ReadResult>;

impl ReadResult {
    /// The values of an omap or xattr step, of any other step none.
    pub fn into_omap(self) -> Omap {
        match self {
            Self::Omap { values, .. } => values,
            _ => Omap::new(),
        }
    }

    /// The bytes of an `exec` or `read` step, of any other step none.
    pub fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            _ => Vec::new(),
        }
    }
}

/// A text without its NUL bytes: what Ceph gives to C cannot have any.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "")).unwrap_or_default()
}

impl ReadOp {
    /// No step yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// The values of these omap keys; ENOENT when the object is absent.
    pub fn omap_keys<K: Into<String>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        self.with(Step::Keys(keys.into_iter().map(Into::into).collect()))
    }

    /// Up to `most` omap entries whose key begins with `prefix` and sorts behind
    /// `after`; the OSD may give fewer (`osd_max_omap_entries_per_request`).
    pub fn omap_range(self, after: &str, prefix: &str, most: u64) -> Self {
        self.with(Step::Range(c_string(after), c_string(prefix), most))
    }

    /// Calls a reading method of an object class.
    pub fn exec(self, class: &'static CStr, method: &'static CStr, input: Vec<u8>) -> Self {
        self.with(Step::Exec(class, method, input))
    }

    /// The object's size.
    pub fn stat(self) -> Self {
        self.with(Step::Stat)
    }

    /// The object's size, and when it was last written to.
    pub fn stat_with_time(self) -> Self {
        self.with(Step::StatWithTime)
    }

    /// All extended attributes, those of object classes too.
    pub fn xattrs(self) -> Self {
        self.with(Step::Xattrs)
    }

    /// Up to `length` bytes of the object's data from `offset`.
    pub fn read(self, offset: u64, length: usize) -> Self {
        self.with(Step::Read(offset, length))
    }

    /// Room for the results.
    pub(super) fn slots(&self) -> Vec<Slot> {
        self.0
            .iter()
            .map(|step| Slot {
                bytes: if let Step::Read(_, length) = step { vec![0; *length] } else { Vec::new() },
                ..Slot::default()
            })
            .collect()
    }

    /// Puts the steps into a librados operation.
    ///
    /// # Safety
    /// `op` is a live read operation; `slots` are those of [`ReadOp::slots`] and
    /// stay where they are until the operation has completed.
    pub(super) unsafe fn fill(&self, op: ffi::rados_read_op_t, slots: &mut [Slot]) {
        for (step, slot) in self.0.iter().zip(slots) {
            // SAFETY: the caller's promises.
            unsafe { step.add(op, slot) };
        }
    }

    /// The results of a read that has completed well.
    pub(super) fn results(&self, slots: Vec<Slot>) -> ReadResults {
        let results: Vec<_> = self.0.iter().zip(slots).map(|(step, slot)| slot.result(step)).collect();
        results.into_iter()
    }
}

impl Step {
    /// # Safety
    /// As for [`ReadOp::fill`], for the one slot of this step.
    unsafe fn add(&self, op: ffi::rados_read_op_t, slot: &mut Slot) {
        // SAFETY: librados copies inputs at once; outputs go into the slot.
        unsafe {
            match self {
                Self::Keys(keys) => {
                    let (keys, lengths) = columns(keys.iter().map(String::as_bytes));
                    ffi::rados_read_op_omap_get_vals_by_keys2(
                        op,
                        keys.as_ptr(),
                        keys.len(),
                        lengths.as_ptr(),
                        &mut slot.values,
                        &mut slot.code,
                    );
                }
                Self::Range(after, prefix, most) => ffi::rados_read_op_omap_get_vals2(
                    op,
                    after.as_ptr(),
                    prefix.as_ptr(),
                    *most,
                    &mut slot.values,
                    &mut slot.more,
                    &mut slot.code,
                ),
                Self::Exec(class, method, input) => ffi::rados_read_op_exec(
                    op,
                    class.as_ptr(),
                    method.as_ptr(),
                    bytes(input),
                    input.len(),
                    &mut slot.buffer,
                    &mut slot.length,
                    &mut slot.code,
                ),
                Self::Stat | Self::StatWithTime => {
                    ffi::rados_read_op_stat(op, &mut slot.size, &mut slot.mtime, &mut slot.code);
                }
                Self::Xattrs => ffi::rados_read_op_getxattrs(op, &mut slot.xattrs, &mut slot.code),
                Self::Read(offset, length) => ffi::rados_read_op_read(
                    op,
                    *offset,
                    *length,
                    slot.bytes.as_mut_ptr().cast(),
                    &mut slot.length,
                    &mut slot.code,
                ),
            }
        }
    }
}

/// What librados writes one step's results to.
pub(super) struct Slot {
    code: c_int,
    values: ffi::rados_omap_iter_t,
    xattrs: ffi::rados_xattrs_iter_t,
    more: c_uchar,
    buffer: *mut c_char,
    length: usize,
    bytes: Vec<u8>,
    size: u64,
    mtime: libc::time_t,
}

// SAFETY: the pointers are owned by the slot alone and are of no thread.
unsafe impl Send for Slot {}

impl Default for Slot {
    fn default() -> Self {
        Self {
            code: 0,
            values: null_mut(),
            xattrs: null_mut(),
            more: 0,
            buffer: null_mut(),
            length: 0,
            bytes: Vec::new(),
            size: 0,
            mtime: 0,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: all of them came from librados and are freed once, here.
        unsafe {
            if !self.values.is_null() {
                ffi::rados_omap_get_end(self.values);
            }
            if !self.xattrs.is_null() {
                ffi::rados_getxattrs_end(self.xattrs);
            }
            if !self.buffer.is_null() {
                ffi::rados_buffer_free(self.buffer);
            }
        }
    }
}

impl Slot {
    fn result(mut self, step: &Step) -> ReadResult {
        match step {
            Step::Keys(_) | Step::Range(..) => ReadResult::Omap { values: self.omap(), more: self.more != 0 },
            Step::Exec(..) => {
                // SAFETY: librados filled `buffer` with `length` bytes.
                ReadResult::Bytes(unsafe { owned(self.buffer, self.length) })
            }
            Step::Stat => ReadResult::Size(self.size),
            Step::StatWithTime => {
                let modified = Duration::from_secs(u64::try_from(self.mtime).unwrap_or(0));
                ReadResult::Stat { size: self.size, modified }
            }
            Step::Xattrs => ReadResult::Omap { values: self.xattrs(), more: false },
            Step::Read(..) => {
                let mut bytes = std::mem::take(&mut self.bytes);
                bytes.truncate(self.length);
                ReadResult::Bytes(bytes)
            }
        }
    }

    fn xattrs(&self) -> Omap {
        let mut xattrs = Omap::new();
        if self.xattrs.is_null() {
            return xattrs;
        }
        loop {
            let (mut name, mut value, mut length) = (null(), null(), 0);
            // SAFETY: a live iterator; the pointers it gives stay valid until it ends, and
            // a name ends with a NUL.
            let (code, found) = unsafe {
                let code = ffi::rados_getxattrs_next(self.xattrs, &mut name, &mut value, &mut length);
                let found = (!name.is_null()).then(|| (CStr::from_ptr(name), owned(value, length)));
                (code, found)
            };
            let Some((name, value)) = found.filter(|_| code >= 0) else { return xattrs };
            xattrs.insert(name.to_string_lossy().into_owned(), value);
        }
    }

    fn omap(&self) -> Omap {
        let mut omap = Omap::new();
        if self.values.is_null() {
            return omap;
        }
        loop {
            let (mut key, mut value, mut key_length, mut value_length) = (null_mut(), null_mut(), 0, 0);
            // SAFETY: a live iterator; the pointers it gives stay valid until it ends.
            let (code, name, content) = unsafe {
                let code = ffi::rados_omap_get_next2(
                    self.values,
                    &mut key,
                    &mut value,
                    &mut key_length,
                    &mut value_length,
                );
                (code, owned(key, key_length), owned(value, value_length))
            };
            if code < 0 || key.is_null() {
                return omap;
            }
            omap.insert(String::from_utf8_lossy(&name).into_owned(), content);
        }
    }
}

/// A copy of a C buffer; a null pointer is an empty one.
///
/// # Safety
/// `buffer` is null or has `length` bytes.
pub(super) unsafe fn owned(buffer: *const c_char, length: usize) -> Vec<u8> {
    if buffer.is_null() || length == 0 {
        return Vec::new();
    }
    // SAFETY: the caller's promise; the slice lives only for the copy.
    unsafe { (*slice_from_raw_parts(buffer.cast::<u8>(), length)).to_vec() }
}
