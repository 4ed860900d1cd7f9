//! What the allocator keeps after work goes back to the kernel.
//!
//! glibc gives back by itself only what is free at the end of an arena. librbd's open images
//! and librados' messages of many calls at once lie before what stays (connections, maps), so a
//! burst would be paid for until the process ends.

use std::time::Duration;

use super::thread;
use crate::metrics;

/// How soon after work; a trim takes milliseconds, in which other threads wait for memory.
const PAUSE: Duration = Duration::from_secs(10);

/// Gives memory back after each time in which calls to Ceph were made (malloc_trim(3)). Never ends.
pub async fn give_back_after_work() {
    let mut at_last = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let made = metrics::ceph_calls_made();
        if made != at_last {
            at_last = made;
            // One that cannot be made now is made the next time.
            let _ = thread::on_thread("malloc_trim", "allocator", || {
                // SAFETY: it takes a plain integer and locks each arena itself.
                unsafe { libc::malloc_trim(0) };
                Ok(())
            })
            .await;
        }
    }
}
