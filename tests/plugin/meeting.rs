//! Parts in several nodes that wait for each other.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(180);

/// Where so many parts meet, again and again; each says something.
pub struct Meeting {
    size: usize,
    /// Of each meeting what was said.
    said: Mutex<Vec<Vec<String>>>,
    changed: Condvar,
}

impl Meeting {
    pub fn of(size: usize) -> Self {
        Self { size, said: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until all are there; gives what they said, sorted. Who waits in vain fails, as
    /// the others have done.
    pub fn arrive(&self, word: &str) -> Vec<String> {
        let mut said = self.said.lock().unwrap();
        if said.last().is_none_or(|words| words.len() == self.size) {
            said.push(Vec::new());
        }
        let number = said.len() - 1;
        said[number].push(word.to_owned());
        self.changed.notify_all();
        let incomplete = |said: &mut Vec<Vec<String>>| said[number].len() < self.size;
        let (said, waited) = self.changed.wait_timeout_while(said, PATIENCE, incomplete).unwrap();
        assert!(!waited.timed_out(), "{word}: nobody else came");
        let mut words = said[number].clone();
        words.sort();
        words
    }
}
