//! Looking at what others on a node could see, again and again while a test goes on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Somebody who looks.
pub struct Spy {
    stop: Arc<AtomicBool>,
    seen: JoinHandle<BTreeSet<String>>,
}

impl Spy {
    /// Starts; each look adds what it sees.
    pub fn start(look: impl Fn(&mut BTreeSet<String>) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = stop.clone();
        let seen = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !flag.load(Ordering::Relaxed) {
                look(&mut seen);
                std::thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        Self { stop, seen }
    }

    /// All that was seen.
    pub fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.seen.join().unwrap()
    }
}

/// All processes' arguments.
pub fn arguments(seen: &mut BTreeSet<String>) {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        seen.insert(text_of(&process.path().join("cmdline")));
    }
}

/// What a file says, with blanks for NUL bytes; nothing when it is gone.
pub fn text_of(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).replace('\0', " ")
}
