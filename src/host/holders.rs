//! Who holds a block device, for the error that says why it cannot be let go.
//!
//! Lives here: what the kernel shows of devices stacked on it, swap and loop devices.
//! Processes with their files and mounts, in whichever mount namespace, are in
//! [`super::processes`]. Nothing here lets anything go.
//!
//! What a reader gets wrong: this is for people and decides nothing. It looks for a
//! bounded time and says so when it has not seen everything.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::device_numbers::{Devices, split};
use super::processes;
use super::thread::on_thread;

/// How long a search takes at most.
const MOST_TIME: Duration = Duration::from_secs(2);

/// How long a search is waited for: one look into `/proc` may block and has no limit.
const MOST_WAIT: Duration = Duration::from_secs(3);

/// How many holders are named.
const MOST_NAMED: usize = 6;

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders {
    /// `pid 123 (postgres) has /data/x open`, …
    pub found: Vec<String>,
    /// Whether the search ended before it had seen everything.
    pub partial: bool,
}

impl std::fmt::Display for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.found.is_empty() {
            f.write_str("no holder is visible from here (perhaps a process in another process namespace)")?;
        } else {
            let named: Vec<_> = self.found.iter().take(MOST_NAMED).map(String::as_str).collect();
            write!(f, "held by {}", named.join("; "))?;
        }
        if self.found.len() > MOST_NAMED {
            write!(f, "; and {} more", self.found.len() - MOST_NAMED)?;
        }
        if self.partial { f.write_str("; the search was cut short") } else { Ok(()) }
    }
}

/// Who holds the block device, a partition of it, or a file system on it. Blocking,
/// a few seconds at most.
pub fn of_device(device: &Path) -> Holders {
    match fs::metadata(device) {
        Ok(inode) if inode.file_type().is_block_device() => of_number(split(inode.rdev())),
        _ => Holders::default(),
    }
}

/// What a search says within a few seconds, for an error's text. A process's maps and
/// mounts can block for as long as a cluster does; the search's thread is left behind then.
pub async fn told<F>(object: &str, search: F) -> String
where
    F: FnOnce() -> Holders + Send + 'static,
{
    let search = on_thread("search holders", object, move || Ok(search()));
    match tokio::time::timeout(MOST_WAIT, search).await {
        Ok(Ok(holders)) => holders.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("who holds it is unknown, the search did not end in {} s", MOST_WAIT.as_secs()),
    }
}

/// As [`of_device`], by the device's number: for a mount, its file system's `st_dev`.
pub fn of_number(number: (u32, u32)) -> Holders {
    let until = Instant::now() + MOST_TIME;
    let folder = format!("/sys/dev/block/{}:{}", number.0, number.1);
    let mut devices = Devices { numbers: vec![number] };
    let mut found = stacked(Path::new(&folder));
    for partition in partitions(Path::new(&folder)) {
        found.extend(stacked(&partition));
        devices.numbers.extend(number_in(&partition));
    }
    found.extend(swaps(&devices));
    found.extend(loops(&devices));
    let partial = !processes::search(&devices, until, &mut found);
    Holders { found, partial }
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn partitions(folder: &Path) -> Vec<std::path::PathBuf> {
    entries(folder).into_iter().filter(|path| path.join("partition").exists()).collect()
}

fn number_in(folder: &Path) -> Option<(u32, u32)> {
    let text = fs::read_to_string(folder.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Device mapper, RAID, bcache: what is built on it.
fn stacked(folder: &Path) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let describe = |path: &std::path::PathBuf| match fs::read_to_string(path.join("dm/name")) {
        Ok(mapper) => format!("device {} ({})", name(path), mapper.trim()),
        Err(_) => format!("device {}", name(path)),
    };
    entries(&folder.join("holders")).iter().map(describe).collect()
}

fn swaps(devices: &Devices) -> Vec<String> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths
        .filter(|path| processes::holds(Path::new(path), devices))
        .map(|path| format!("swap {path}"))
        .collect()
}

fn loops(devices: &Devices) -> Vec<String> {
    let mut found = Vec::new();
    for device in entries(Path::new("/sys/block")) {
        let Ok(file) = fs::read_to_string(device.join("loop/backing_file")) else { continue };
        if processes::holds(Path::new(file.trim_end()), devices) {
            found.push(format!("loop device {} on {}", device.display(), file.trim_end()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_few_and_counts_the_rest() {
        let found = (1..=8).map(|pid| format!("pid {pid} (x)")).collect();
        let text = Holders { found, partial: true }.to_string();
        assert!(text.starts_with("held by pid 1 (x); pid 2 (x)"), "{text}");
        assert!(text.ends_with("pid 6 (x); and 2 more; the search was cut short"), "{text}");
    }

    #[test]
    fn an_open_file_names_this_process() {
        let file = tempfile::tempfile().unwrap();
        let number = split(file.metadata().unwrap().dev());
        let mut found = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        processes::search(&Devices { numbers: vec![number] }, until, &mut found);
        let me = format!("pid {} (", std::process::id());
        assert!(found.iter().any(|holder| holder.starts_with(&me)), "{found:?}");
    }

    #[tokio::test]
    async fn a_search_that_blocks_is_not_waited_for() {
        let (release, blocked) = std::sync::mpsc::channel::<()>();
        let search = move || {
            let _ = blocked.recv();
            Holders::default()
        };
        let text = told("x", search).await;
        assert!(text.contains("did not end in 3 s"), "{text}");
        drop(release);
    }

    #[test]
    fn a_search_out_of_time_says_so() {
        let mut found = Vec::new();
        let past = Instant::now();
        assert!(!processes::search(&Devices::default(), past, &mut found));
    }
}
