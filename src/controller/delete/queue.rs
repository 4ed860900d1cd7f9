//! What waits in one journal, when each image is tried again, and when the place is left alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};

use super::attempt::{Outcome, Wait};
use crate::ceph::ImageId;
use crate::controller::reach::Reach;
use crate::metrics::{self, Purge};
use crate::volume::error::{Kind, Result};

const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often the owner of a lock is looked at that is cut off.
const CUT_OFF: Duration = Duration::from_secs(15);
/// What clones need is looked at so often at first, and then more and more rarely: ceph-csi or
/// a person may have removed the last one.
const CLONES_FIRST: Duration = Duration::from_secs(600);
const CLONES_LONGEST: Duration = Duration::from_secs(6 * 3600);
/// After so many tries in a row that timed out, a place is left alone for a while.
const LATE_AT_MOST: u32 = 3;
const REST: Duration = Duration::from_secs(120);
const KEPT: &str = "a deleted image stays in the trash for now";

/// What waits in a place.
pub(super) struct Queue {
    pub(super) reach: Reach,
    pub(super) looked: Option<Instant>,
    pub(super) ready: bool,
    pub(super) items: BTreeMap<ImageId, Item>,
    /// Tries in a row that timed out.
    pub(super) late: u32,
    pub(super) rest_until: Option<Instant>,
    pub(super) runs: bool,
    pub(super) wake: Arc<Notify>,
}

pub(super) struct Item {
    pub(super) state: Purge,
    pub(super) running: bool,
    /// It was woken while it was tried.
    pub(super) again: bool,
    pub(super) due: Instant,
    pub(super) pause: Duration,
    pub(super) told: String,
    /// A lock's owner that has no watch, and since when that is known.
    pub(super) seen: Option<(String, Instant)>,
}

/// What a place's task does next.
pub(super) enum Next {
    Try(ImageId, Arc<Semaphore>),
    Wait(Option<Instant>, Arc<Notify>),
    End,
}

impl Queue {
    pub(super) fn new(reach: &Reach) -> Self {
        Self {
            reach: reach.clone(),
            looked: None,
            ready: false,
            items: BTreeMap::new(),
            late: 0,
            rest_until: None,
            runs: false,
            wake: Arc::default(),
        }
    }

    pub(super) fn next(&mut self, slots: &Arc<Semaphore>) -> Next {
        if self.items.is_empty() {
            self.runs = false;
            return Next::End;
        }
        let rest = self.rest_until.unwrap_or_else(Instant::now);
        let idle = self.items.iter_mut().filter(|(_, item)| !item.running);
        match idle.min_by_key(|(_, item)| item.due) {
            Some((id, item)) if item.due.max(rest) <= Instant::now() => {
                item.running = true;
                item.set(Purge::Queued);
                Next::Try(id.clone(), slots.clone())
            }
            Some((_, item)) => Next::Wait(Some(item.due.max(rest)), self.wake.clone()),
            None => Next::Wait(None, self.wake.clone()),
        }
    }

    /// What a try came to.
    pub(super) fn settle(&mut self, id: &ImageId, outcome: Result<Outcome>) {
        let late = matches!(&outcome, Err(error) if error.kind == Kind::Timeout);
        self.late = if late { self.late + 1 } else { 0 };
        if self.late >= LATE_AT_MOST {
            self.rest_until = Some(Instant::now() + REST);
        }
        self.wake.notify_one();
        let Some(item) = self.items.get_mut(id) else { return };
        item.running = false;
        let woken = std::mem::take(&mut item.again);
        match outcome {
            Ok(Outcome::Done | Outcome::PoolGone) if !woken => return self.remove(id),
            Ok(Outcome::Done | Outcome::PoolGone) => {}
            Ok(Outcome::Later(wait, text)) => item.wait_for(id, wait, text),
            Err(error) => {
                let pause_secs = item.later(Purge::Queued, FIRST_PAUSE, LONGEST_PAUSE).as_secs();
                tracing::warn!(image_id = id.as_str(), %error, pause_secs, "{KEPT}");
            }
        }
        if woken {
            item.wake();
        }
    }

    pub(super) fn remove(&mut self, id: &ImageId) {
        if let Some(item) = self.items.remove(id) {
            metrics::purge_backlog(item.state, -1);
        }
    }
}

impl Item {
    pub(super) fn new() -> Self {
        metrics::purge_backlog(Purge::Queued, 1);
        Self {
            state: Purge::Queued,
            running: false,
            again: false,
            due: Instant::now(),
            pause: FIRST_PAUSE,
            told: String::new(),
            seen: None,
        }
    }

    pub(super) fn set(&mut self, state: Purge) {
        metrics::purge_backlog(self.state, -1);
        metrics::purge_backlog(state, 1);
        self.state = state;
    }

    pub(super) fn wake(&mut self) {
        self.again = self.running;
        self.due = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    /// Told each time it is tried, but for clones, whose end wakes it.
    fn wait_for(&mut self, id: &ImageId, wait: Wait, text: String) {
        let image_id = id.as_str();
        match wait {
            Wait::Blocked => {
                let pause_secs = self.later(Purge::Blocked, FIRST_PAUSE, LONGEST_PAUSE).as_secs();
                tracing::warn!(image_id, pause_secs, "{KEPT}: {text}");
            }
            Wait::CutOff => {
                let pause_secs = self.later(Purge::Blocked, CUT_OFF, CUT_OFF).as_secs();
                tracing::warn!(image_id, pause_secs, "{KEPT}: {text}");
            }
            Wait::Clones => {
                self.later(Purge::WaitingForClones, CLONES_FIRST, CLONES_LONGEST);
                if self.told != text {
                    tracing::info!(image_id, "{KEPT}: {text}");
                    self.told = text;
                }
            }
        }
    }

    /// To be tried again after a pause, the next one longer.
    fn later(&mut self, state: Purge, first: Duration, longest: Duration) -> Duration {
        if self.state != state {
            self.pause = self.pause.max(first);
        }
        self.set(state);
        let pause = self.pause.clamp(first, longest);
        self.due = Instant::now() + pause;
        self.pause = (pause * 2).min(longest);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceph::{Connections, Credentials};
    use crate::config::ClusterEntry;
    use crate::secret::Secret;
    use crate::volume::error::Error;

    fn queue(ids: &[&str]) -> Queue {
        let credentials = Credentials { user: "a".into(), key: Secret::new("k".to_owned()) };
        let reach = Reach::new(&Connections::new(None), &ClusterEntry::default(), &credentials);
        let mut queue = Queue::new(&reach);
        queue.items = ids.iter().map(|id| (ImageId::new(*id), Item::new())).collect();
        queue
    }

    fn next(queue: &mut Queue) -> std::result::Result<String, Option<Duration>> {
        match queue.next(&Arc::new(Semaphore::new(1))) {
            Next::Try(id, _) => Ok(id.as_str().to_owned()),
            Next::Wait(until, _) => Err(until.map(|until| until.saturating_duration_since(Instant::now()))),
            Next::End => Err(None),
        }
    }

    #[test]
    fn a_place_that_does_not_answer_is_left_alone_for_a_while() {
        let mut queue = queue(&["1", "2", "3", "4"]);
        for id in ["1", "2", "3"] {
            assert_eq!(next(&mut queue), Ok(id.to_owned()));
            queue.settle(&ImageId::new(id), Err(Error::new(Kind::Timeout, "late")));
        }
        let rest = next(&mut queue).unwrap_err().unwrap();
        assert!(rest > REST - FIRST_PAUSE, "the fourth was not tried, and waits: {rest:?}");
        // An answer of any kind ends the count.
        queue.rest_until = None;
        assert_eq!(next(&mut queue), Ok("4".to_owned()));
        queue.settle(&ImageId::new("4"), Ok(Outcome::Done));
        assert_eq!((queue.late, queue.items.len()), (0, 3));
    }

    #[test]
    fn what_clones_need_is_not_polled_and_is_woken_also_while_it_is_tried() {
        let mut queue = queue(&["1"]);
        let id = ImageId::new("1");
        let waits = || Ok(Outcome::Later(Wait::Clones, "1 clone(s) need it".to_owned()));
        assert!(next(&mut queue).is_ok());
        queue.settle(&id, waits());
        let pause = next(&mut queue).unwrap_err().unwrap();
        assert!(pause > CLONES_FIRST - FIRST_PAUSE, "{pause:?}");
        queue.items.get_mut(&id).unwrap().wake();
        assert!(next(&mut queue).is_ok());
        // Its last clone goes between the look and the end of the try.
        queue.items.get_mut(&id).unwrap().wake();
        queue.settle(&id, waits());
        assert!(next(&mut queue).is_ok());
        queue.settle(&id, Ok(Outcome::Done));
        assert_eq!(next(&mut queue), Err(None));
    }
}
