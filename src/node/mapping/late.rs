//! Clusters that the kernel lately did not reach: they are asked for less often.
//!
//! While the kernel opens a session it lets no other map of the machine go on (`client_mutex` of
//! rbd_get_client), so a cluster that never lets it in would keep all volumes of the node waiting.
//! After a map that timed out, maps of the same cluster are refused for twice as long as it took.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::host::greeting::Protocol;
use crate::node::mapping::monitors::Route;
use crate::volume::error::{Error, Kind};
use crate::volume::map_options::MapOptions;

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

    /// ` (in network namespace …)`, where there is one.
    pub fn place(&self) -> String {
        self.netns
            .as_ref()
            .map_or_else(String::new, |netns| format!(" (in network namespace {})", netns.display()))
    }

    /// The refusal of a map that would be the next to time out.
    pub fn refusal(&self, spec: &str, rest: Duration) -> Error {
        let text = format!(
            "{spec} is not mapped: a moment ago the kernel reached none of the monitors {}{}, though librados did. \
             Each try keeps all other volumes of this node waiting, so the next is made in {} s; is ms_mode wrong for \
             them, or is something between this node and the cluster cut off?",
            self.monitors.join(", "),
            self.place(),
            rest.as_secs() + 1
        );
        Error::new(Kind::Unavailable, text)
    }
}

/// The ways that ended nowhere.
#[derive(Debug, Clone, Default)]
pub struct LateWays(Arc<Mutex<HashMap<Way, Instant>>>);

impl LateWays {
    /// How long no map of this way may be tried; `None` when it may be now.
    pub fn rests(&self, way: &Way, now: Instant) -> Option<Duration> {
        let until = *self.lock().get(way)?;
        Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// Whether the last map of this way timed out.
    pub fn is_late(&self, way: &Way) -> bool {
        self.lock().contains_key(way)
    }

    /// A map of this way has timed out after that long.
    pub fn note(&self, way: Way, took: Duration, now: Instant) {
        self.lock().insert(way, now + took * 2);
    }

    /// A map of this way has been answered.
    pub fn forget(&self, way: &Way) {
        self.lock().remove(way);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Way, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_rests_for_twice_as_long_as_it_took() {
        let way = |netns: &str| Way {
            fsid: "f".into(),
            monitors: vec!["10.0.0.1:6789".into()],
            ms_mode: None,
            netns: Some(netns.into()),
        };
        let (ways, now, second) = (LateWays::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!(ways.rests(&way("/a"), now), None);
        ways.note(way("/a"), 60 * second, now);
        assert_eq!(ways.rests(&way("/a"), now + 20 * second), Some(100 * second));
        assert_eq!(ways.rests(&way("/b"), now), None);
        assert_eq!(ways.rests(&way("/a"), now + 120 * second), None);
        assert!(ways.is_late(&way("/a")));
        ways.forget(&way("/a"));
        assert!(!ways.is_late(&way("/a")));
    }
}
