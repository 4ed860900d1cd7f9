//! A network namespace from which nobody is reached, on the node that the test runs in.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::lab::Running;

/// It exists while this lives.
pub struct Lonely(Running);

impl Lonely {
    /// A new one.
    pub fn new() -> Self {
        let this = Self(Running(Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().unwrap()));
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        // Until unshare has done its work it shares ours.
        while std::fs::read_link(this.path()).unwrap() == own {
            assert!(Instant::now() < until, "no network namespace was made");
            std::thread::sleep(Duration::from_millis(20));
        }
        this
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.0.id()).into()
    }
}
