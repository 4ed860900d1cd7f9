//! What the mgr has been asked to remove (`rbd task add trash remove`, as ceph-csi does).
//!
//! Its module `rbd_support` keeps its tasks in the omap of `rbd_task`, in the pool and namespace
//! of the image: a value is JSON, with the image's id in `refs`.

use crate::ceph::{ImageId, Pool};
use crate::volume::error::Result;

const TASKS: &str = "rbd_task";

/// Whether the mgr has a task for an image that is in the trash. One operation for a thousand tasks.
///
/// # Errors
/// What Ceph answers.
pub async fn has_task(pool: &Pool, id: &ImageId) -> Result<bool> {
    match pool.omap_all("mgr tasks", TASKS, "").await {
        Err(error) if error.is(libc::ENOENT) => Ok(false),
        tasks => Ok(tasks?.values().any(|task| names(task, id))),
    }
}

fn names(task: &[u8], id: &ImageId) -> bool {
    let task: serde_json::Value = serde_json::from_slice(task).unwrap_or_default();
    task["refs"]["image_id"].as_str() == Some(id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_of_the_mgr_names_its_image() {
        // Written by rbd_support of Ceph 16.2.15.
        let task = br#"{"sequence": 1, "id": "b2e4a0a2", "message": "Removing image rbd/1022 from trash",
            "refs": {"action": "trash remove", "pool_name": "rbd", "pool_namespace": "", "image_id": "1022"}}"#;
        assert!(names(task, &ImageId::new("1022")));
        assert!(!names(task, &ImageId::new("102")) && !names(b"x", &ImageId::new("1022")));
    }
}
