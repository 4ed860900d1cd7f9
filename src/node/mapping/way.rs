//! The ways by which the kernel goes to clusters, and those that lately led nowhere.
//!
//! While the kernel opens a session it lets no other map of the machine go on (`client_mutex` of
//! rbd_get_client), so a cluster that never lets it in would keep all volumes of the node waiting.
//! So only one map at a time tries a way that has not been found open yet; after one that timed
//! out, maps of that way are refused for twice as long, and the next gets less time for its session.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedMutexGuard;

use crate::host::greeting::Protocol;
use crate::host::netns;
use crate::node::mapping::monitors::Route;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::MapOptions;
use crate::volume::operation::Progress;

/// What decides whether the kernel reaches a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Way {
    fsid: String,
    pub(super) monitors: Vec<String>,
    ms_mode: Option<String>,
    pub(super) netns: Option<PathBuf>,
}

impl Way {
    /// The way of a map with these options.
    pub fn new(fsid: &str, route: &Route, options: &MapOptions, netns: Option<&Path>) -> Self {
        Self {
            fsid: fsid.to_owned(),
            monitors: route.monitors.clone(),
            ms_mode: options.value("ms_mode").or(route.ms_mode).map(str::to_owned),
            netns: netns.map(Path::to_owned),
        }
    }

    /// The protocol that the kernel would speak.
    pub fn protocol(&self) -> Protocol {
        match self.ms_mode.as_deref() {
            None | Some("legacy") => Protocol::V1,
            Some(_) => Protocol::V2,
        }
    }

    /// The refusal of a map that would be the next to time out.
    pub fn refusal(&self, spec: &str, rest: Duration) -> Error {
        let text = format!(
            "{spec} is not mapped: a moment ago the kernel reached none of the monitors {}{}, though librados did. \
             Each try keeps all other volumes of this node waiting, so the next is made in {} s; is ms_mode wrong for \
             them, or is something between this node and the cluster cut off?",
            self.monitors.join(", "),
            netns::suffix(self.netns.as_deref()),
            rest.as_secs() + 1
        );
        Error::new(Kind::Unavailable, text)
    }
}

/// How long the first map gets for its session that comes after one that timed out.
const SECOND_TRY: Duration = Duration::from_secs(10);

/// What is known of a way.
#[derive(Debug, Default)]
struct State {
    /// The kernel has answered by this way, and has not timed out since.
    open: bool,
    /// Maps in a row that timed out.
    failures: u32,
    rests_until: Option<Instant>,
    /// Held by the map that tries it.
    trying: Arc<tokio::sync::Mutex<()>>,
}

/// The ways of this node.
#[derive(Debug, Clone, Default)]
pub struct Ways(Arc<Mutex<HashMap<Way, State>>>);

/// The right to ask the kernel.
#[derive(Debug, Default)]
pub struct Pass {
    /// What the kernel may take for the session, where it is less than usual.
    pub most: Option<Duration>,
    _trying: Option<OwnedMutexGuard<()>>,
}

impl Ways {
    /// Waits until the kernel may be asked to go this way.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] while the way rests; [`Kind::Busy`] when the call's time ends while
    /// another map tries it.
    pub async fn pass(&self, way: &Way, spec: &str, progress: &Progress) -> Result<Pass> {
        let Look::Unknown { trying, .. } = self.look(way, spec, Instant::now())? else {
            return Ok(Pass::default());
        };
        progress.step(format!("waiting for another volume's map, the first to its cluster, to map {spec}"));
        let Ok(held) = tokio::time::timeout(progress.deadline.left(), trying.lock_owned()).await else {
            let text = format!(
                "mapping {spec}: another volume's map is finding out whether the kernel reaches the cluster"
            );
            return Err(Error::new(Kind::Busy, text));
        };
        // The other may have found out.
        let Look::Unknown { failures, .. } = self.look(way, spec, Instant::now())? else {
            return Ok(Pass::default());
        };
        let most = failures.checked_sub(1).map(|more| SECOND_TRY * 2_u32.saturating_pow(more.min(8)));
        Ok(Pass { most, _trying: Some(held) })
    }

    fn look(&self, way: &Way, spec: &str, now: Instant) -> Result<Look> {
        let mut ways = self.lock();
        let state = ways.entry(way.clone()).or_default();
        let rest = state.rests_until.map(|until| until.saturating_duration_since(now));
        match rest.filter(|rest| !rest.is_zero()) {
            Some(rest) => Err(way.refusal(spec, rest)),
            None if state.open => Ok(Look::Open),
            None => Ok(Look::Unknown { trying: state.trying.clone(), failures: state.failures }),
        }
    }

    /// A map of this way has timed out after that long.
    pub fn timed_out(&self, way: Way, took: Duration, now: Instant) {
        let mut ways = self.lock();
        let state = ways.entry(way).or_default();
        state.open = false;
        state.failures += 1;
        state.rests_until = Some(now + took * 2);
    }

    /// A map of this way has been answered, whatever the answer was.
    pub fn answered(&self, way: Way) {
        let mut ways = self.lock();
        let state = ways.entry(way).or_default();
        (state.open, state.failures, state.rests_until) = (true, 0, None);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Way, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Look {
    Open,
    Unknown { trying: Arc<tokio::sync::Mutex<()>>, failures: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_led_nowhere_rests_for_twice_as_long_as_it_took() {
        let way = |netns: &str| Way {
            fsid: "f".into(),
            monitors: vec!["10.0.0.1:6789".into()],
            ms_mode: None,
            netns: Some(netns.into()),
        };
        let (ways, now, second) = (Ways::default(), Instant::now(), Duration::from_secs(1));
        let refused = |netns: &str, after: u32| ways.look(&way(netns), "rbd/x", now + after * second).err();
        let is_open = |netns: &str| matches!(ways.look(&way(netns), "rbd/x", now), Ok(Look::Open));
        assert!(refused("/a", 0).is_none() && !is_open("/a"), "nobody has tried it");
        ways.timed_out(way("/a"), 60 * second, now);
        let error = refused("/a", 20).unwrap().to_string();
        assert!(error.contains("10.0.0.1:6789") && error.contains("in 101 s"), "{error}");
        assert!(refused("/b", 20).is_none());
        assert!(refused("/a", 120).is_none());
        ways.answered(way("/a"));
        assert!(is_open("/a") && !is_open("/b"));
        ways.timed_out(way("/a"), second, now);
        assert!(!is_open("/a"));
    }
}
