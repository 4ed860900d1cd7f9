//! Asynchronous operations: a librados completion as a future.
//!
//! Lives here: who owns the buffers while librados works. What a reader gets
//! wrong: dropping the future does not cancel the operation. Everything that
//! librados may still touch belongs to the [`Flight`], which only the callback
//! takes back, so a dropped future is safe.

use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::context::Context;
use super::ffi;
use super::read_op::{ReadOp, ReadResults, Slot};
use super::write_op::WriteOp;

/// What librados is asked to do.
#[derive(Clone, Copy)]
enum Call {
    Write(ffi::rados_write_op_t),
    Read(ffi::rados_read_op_t),
    /// The place for the id.
    DrawSnapshot(*mut u64),
    ReturnSnapshot(u64),
}

/// The same, released when it goes.
struct Operation(Call);

// SAFETY: a plain heap object of librados, or a place in the flight that owns this; only
// one thread has it at a time.
unsafe impl Send for Operation {}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by the matching create function, released once.
        unsafe {
            match self.0 {
                Call::Write(op) => ffi::rados_release_write_op(op),
                Call::Read(op) => ffi::rados_release_read_op(op),
                Call::DrawSnapshot(_) | Call::ReturnSnapshot(_) => {}
            }
        }
    }
}

/// What an operation under way owns; freed by the callback.
struct Flight<O> {
    operation: Operation,
    output: O,
    answer: oneshot::Sender<(i64, Option<O>)>,
    context: Arc<Context>,
}

/// librados' callback, on a thread of librados.
///
/// # Safety
/// `argument` is the `Flight<O>` that was given to the completion.
unsafe extern "C" fn landed<O>(completion: ffi::rados_completion_t, argument: *mut c_void) {
    // SAFETY: the box was given up at the start and comes back here once; a
    // completion may be released from its own callback.
    let (flight, code) = unsafe {
        let flight = Box::from_raw(argument.cast::<Flight<O>>());
        let code = ffi::rados_aio_get_return_value(completion);
        ffi::rados_aio_release(completion);
        (flight, code)
    };
    let Flight { operation, output, answer, context } = *flight;
    drop(operation);
    // Nobody listens any more when the future was dropped.
    let _ = answer.send((code.into(), Some(output)));
    drop(context);
}

/// Sends the operation off and waits for its end.
async fn fly<O: Send>(
    context: Arc<Context>,
    object: CString,
    operation: Operation,
    output: O,
    fill: impl FnOnce(&mut Call, &mut O),
) -> (i64, Option<O>) {
    let landing = {
        let (answer, landing) = oneshot::channel();
        let io = context.io();
        // A context of our own, too: the callback may be through before the
        // function that submits has returned.
        let context = context.clone();
        let flight = Box::into_raw(Box::new(Flight { operation, output, answer, context }));
        // SAFETY: until it is submitted, nobody else knows the flight; from then
        // on only the callback touches it, at its final address.
        let code = unsafe {
            fill(&mut (*flight).operation.0, &mut (*flight).output);
            submit::<O>(flight, io, &object)
        };
        if code < 0 {
            // SAFETY: librados refused it and will not call back.
            drop(unsafe { Box::from_raw(flight) });
            return (code.into(), None);
        }
        landing
    };
    let landed = landing.await.unwrap_or((-i64::from(libc::EIO), None));
    drop(context);
    landed
}

/// # Safety
/// `flight` is a live box that was given up; on success the callback frees it.
unsafe fn submit<O>(flight: *mut Flight<O>, io: ffi::rados_ioctx_t, object: &CString) -> c_int {
    let mut completion = null_mut();
    // SAFETY: the operation is live; librados calls `landed::<O>` once.
    unsafe {
        // Copied out first: once submitted, the flight may be gone.
        let call = (*flight).operation.0;
        let code = ffi::rados_aio_create_completion2(flight.cast(), Some(landed::<O>), &mut completion);
        if code < 0 {
            return code;
        }
        let code = match call {
            Call::Write(op) => {
                ffi::rados_aio_write_op_operate(op, io, completion, object.as_ptr(), null_mut(), 0)
            }
            Call::Read(op) => ffi::rados_aio_read_op_operate(op, io, completion, object.as_ptr(), 0),
            Call::DrawSnapshot(id) => {
                ffi::rados_aio_ioctx_selfmanaged_snap_create(io, id, completion);
                0
            }
            Call::ReturnSnapshot(id) => {
                ffi::rados_aio_ioctx_selfmanaged_snap_remove(io, id, completion);
                0
            }
        };
        if code < 0 {
            ffi::rados_aio_release(completion);
        }
        code
    }
}

/// `rados_aio_write_op_operate`: what C returned.
pub(super) async fn write(context: Arc<Context>, object: CString, op: WriteOp) -> (i64, ()) {
    // SAFETY: no precondition.
    let operation = Operation(Call::Write(unsafe { ffi::rados_create_write_op() }));
    let codes: Box<[c_int]> = vec![0; op.len()].into();
    let fill = |call: &mut Call, codes: &mut Box<[c_int]>| {
        if let Call::Write(handle) = call {
            // SAFETY: the codes are on the heap and owned by the flight.
            unsafe { op.fill(*handle, codes.as_mut_ptr()) }
        }
    };
    let (code, _) = fly(context, object, operation, codes, fill).await;
    (code, ())
}

/// `rados_aio_read_op_operate`: what C returned, and the results.
pub(super) async fn read(context: Arc<Context>, object: CString, op: ReadOp) -> (i64, ReadResults) {
    // SAFETY: no precondition.
    let operation = Operation(Call::Read(unsafe { ffi::rados_create_read_op() }));
    let slots = op.slots();
    let fill = |call: &mut Call, slots: &mut Vec<Slot>| {
        if let Call::Read(handle) = call {
            // SAFETY: the slots are on the heap and owned by the flight.
            unsafe { op.fill(*handle, slots) }
        }
    };
    let (code, slots) = fly(context, object, operation, slots, fill).await;
    match slots {
        Some(slots) if code >= 0 => (code, op.results(slots)),
        _ => (code, Vec::new().into_iter()),
    }
}

/// `rados_aio_ioctx_selfmanaged_snap_create`: what C returned, and the id.
pub(super) async fn draw_snapshot_id(context: Arc<Context>) -> (i64, u64) {
    let fill = |call: &mut Call, id: &mut u64| *call = Call::DrawSnapshot(id);
    let (code, id) =
        fly(context, CString::default(), Operation(Call::DrawSnapshot(null_mut())), 0, fill).await;
    (code, id.unwrap_or(0))
}

/// `rados_aio_ioctx_selfmanaged_snap_remove`: what C returned.
pub(super) async fn return_snapshot_id(context: Arc<Context>, id: u64) -> (i64, ()) {
    let (code, _) =
        fly(context, CString::default(), Operation(Call::ReturnSnapshot(id)), (), |_, ()| {}).await;
    (code, ())
}
