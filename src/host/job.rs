//! What the driver and its helper process say to each other: the driver's side is `child`, the
//! other one `helper`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The largest message between the driver and its helper.
pub(super) const LARGEST: usize = 64 << 10;

/// Something to do in the helper process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Job {
    /// mount(2); no symlink is followed in `target`. Answers `()`.
    Mount {
        /// The device, or what the file system type takes for it.
        source: PathBuf,
        /// The directory, absolute.
        target: PathBuf,
        /// The file system type.
        fs_type: String,
        /// MS_… as in mount(2).
        flags: u64,
        /// The file system's own options.
        data: String,
    },
    /// umount2(2); no symlink is followed in `target`. Answers `()`.
    Unmount {
        /// The mount point, absolute.
        target: PathBuf,
    },
    /// What is on a device. Answers [`super::probe::Look`].
    Look {
        /// The device, absolute.
        device: PathBuf,
    },
    /// Replays the log of the XFS on a device. Answers `()`.
    Replay {
        /// The device, absolute.
        device: PathBuf,
    },
}

impl Job {
    pub(super) fn op(&self) -> &'static str {
        match self {
            Self::Mount { .. } => "mount",
            Self::Unmount { .. } => "unmount",
            Self::Look { .. } => "probe",
            Self::Replay { .. } => "replay journal",
        }
    }

    pub(super) fn object(&self) -> String {
        match self {
            Self::Mount { source, target, .. } => format!("{} at {}", source.display(), target.display()),
            Self::Unmount { target, .. } => target.display().to_string(),
            Self::Look { device } | Self::Replay { device } => device.display().to_string(),
        }
    }
}

/// What the driver tells the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Start a job.
    Run(u64, Job),
    /// Kill it, if it still runs.
    Kill(u64),
}

/// What the helper tells the driver of the job of that number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum News {
    /// It runs as this process.
    Started(u64, i32),
    /// It is done: JSON.
    Done(u64, serde_json::Value),
    /// It failed with an errno and perhaps more words.
    Failed(u64, i32, Option<String>),
    /// Its process is gone; without `Done` or `Failed` before, it was killed.
    Gone(u64),
}

impl News {
    pub(super) fn job(&self) -> u64 {
        match self {
            Self::Started(id, _) | Self::Done(id, _) | Self::Failed(id, ..) | Self::Gone(id) => *id,
        }
    }
}
