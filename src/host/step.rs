//! The frame in which a step on the node runs, so that test builds can strike before
//! and after it.

use super::error::{HostError, Result};
use super::thread::on_thread;
use crate::fault;

/// Runs one step; `name` (`host: map`) is the fault's name, `op` (`krbd map`) the error's.
///
/// # Errors
/// The work's own, or the fault that a test build injects.
pub fn step<T>(
    name: &'static str,
    op: &'static str,
    object: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    fault::before(name, object).map_err(|errno| HostError::new(op, object, errno))?;
    let done = work()?;
    fault::after(name, object).map_err(|errno| HostError::new(op, object, errno))?;
    Ok(done)
}

/// As [`step`], on a thread of its own.
///
/// # Errors
/// As [`step`] and [`on_thread`].
pub async fn step_on_thread<T, F>(name: &'static str, op: &'static str, object: String, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    let of = object.clone();
    on_thread(op, &object, move || step(name, op, &of, work)).await
}
