//! What this process remembers of names and handles, so that a repeat is answered right or cheaply.
//!
//! Lives here: a bounded memory, and with it the creations that were begun, and how they ended.
//! What a reader gets wrong: it is a help and no truth. Another process and the one that is started
//! next know nothing of it, so nothing is written or removed because of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::volume::error::{Error, Kind, Result};

/// How many texts are remembered; the oldest go first.
const MOST: usize = 4096;

/// The texts that were added last.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<String>>>);

impl Recent {
    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is remembered.
    pub fn has(&self, text: &str) -> bool {
        self.lock().iter().any(|known| known == text)
    }

    /// Remembers a text. `true`: it was remembered already.
    pub fn add(&self, text: &str) -> bool {
        let mut known = self.lock();
        if known.iter().any(|known| known == text) {
            return true;
        }
        if known.len() == MOST {
            known.pop_front();
        }
        known.push_back(text.to_owned());
        false
    }

    /// Forgets a text.
    pub fn remove(&self, text: &str) {
        self.lock().retain(|known| known != text);
    }
}

/// One call that creates a volume or snapshot of a name.
///
/// The sidecars forget a claim that is deleted after an error that they take for final. Before the
/// journal is asked the driver cannot know what an earlier try has left, nor whether anybody has had
/// its answer; so it remembers which names it has begun or made, and is final only of others.
pub struct Attempt {
    names: Names,
    key: String,
}

/// The names that calls of this process have created, or begun to.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Not ended well.
    begun: Recent,
    /// Complete when they were answered.
    made: Recent,
}

impl Attempt {
    /// A call for the name of this key.
    pub fn new(names: &Names, key: &str) -> Self {
        Self { names: names.clone(), key: key.to_owned() }
    }

    /// To be called before anything is written. `true`: an earlier call did so, and what it has
    /// left or made may be there still.
    pub fn begin(&self) -> bool {
        self.names.begun.add(&self.key) || self.names.made.has(&self.key)
    }

    /// The outcome as the caller may be told it. What differs from the request is final in any case.
    ///
    /// # Errors
    /// The outcome's own, never a final one while something of the name may be left.
    pub fn end<T>(&self, outcome: Result<T>) -> Result<T> {
        // One that was made is asked for again since its answer was lost.
        let known = || self.names.begun.has(&self.key) || self.names.made.has(&self.key);
        let open = |error: &Error| !error.is_settled() && known();
        match outcome {
            Err(error) if error.kind != Kind::AlreadyExists && open(&error) => Err(error.unsettled()),
            outcome => {
                if outcome.as_ref().err().is_none_or(Error::is_settled) {
                    self.names.begun.remove(&self.key);
                }
                if outcome.is_ok() {
                    self.names.made.add(&self.key);
                }
                outcome
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_bounded_and_the_oldest_go() {
        let recent = Recent::default();
        for number in 0..=MOST {
            assert!(!recent.add(&number.to_string()));
        }
        assert!(!recent.has("0") && recent.has("1") && recent.add(&MOST.to_string()));
        recent.remove("1");
        assert!(!recent.has("1"));
    }

    #[test]
    fn an_error_is_final_only_of_a_name_that_left_nothing() {
        let names = Names::default();
        let attempt = Attempt::new(&names, "a");
        let end = |error: Error| attempt.end::<()>(Err(error)).unwrap_err().kind;
        let denied = || Error::new(Kind::Denied, "no");
        assert_eq!(end(denied()), Kind::Denied);
        assert!(!attempt.begin());
        assert_eq!(end(Error::new(Kind::Timeout, "late")), Kind::Timeout);
        assert!(attempt.begin());
        assert_eq!(end(denied()), Kind::Unavailable);
        assert_eq!(end(Error::new(Kind::AlreadyExists, "differs")), Kind::AlreadyExists);
        assert_eq!(Attempt::new(&names, "b").end::<()>(Err(denied())).unwrap_err().kind, Kind::Denied);
        assert_eq!(end(denied().settled()), Kind::Denied);
        assert_eq!(end(denied()), Kind::Denied);
        attempt.begin();
        assert!(attempt.end(Ok(())).is_ok());
        assert_eq!(end(denied()), Kind::Unavailable, "its answer may have been lost");
        assert!(attempt.begin() && !Attempt::new(&names, "b").begin());
    }
}
