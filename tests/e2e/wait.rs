//! Waiting, always with a bound, and telling what was seen last.

use std::time::{Duration, Instant};

/// Each look is a process or two on a machine that has other work.
const PAUSE: Duration = Duration::from_millis(500);

pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Looks until it is so; gives how long that took.
pub fn until(what: &str, limit: Duration, mut look: impl FnMut() -> Result<(), String>) -> Duration {
    let started = Instant::now();
    loop {
        let Err(seen) = look() else { return started.elapsed() };
        assert!(started.elapsed() < limit, "{what}: not within {} s; last seen: {seen}", limit.as_secs());
        std::thread::sleep(PAUSE);
    }
}
