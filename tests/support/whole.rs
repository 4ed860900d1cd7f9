//! A pool down to the last byte that names something: every object of every namespace, with
//! every key and its value, and every extended attribute.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rbd_csi::ceph::Pool;

use super::bench::{Bench, last_lines};

/// What an object has besides its data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Has {
    keys: BTreeMap<String, Vec<u8>>,
    attributes: BTreeMap<String, Vec<u8>>,
}

/// Pools, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole(BTreeMap<String, Has>);

impl Whole {
    /// Looks at these pools.
    pub fn of(bench: &Bench, pools: &[&Pool]) -> Self {
        let mut all = BTreeMap::new();
        for pool in pools {
            for object in bench.cluster().objects(pool.name()) {
                // What is in a namespace is told by its name; these tests use none.
                let has = object.strip_prefix('/').map(|name| look(bench, pool, name)).unwrap_or_default();
                all.insert(format!("{}: {object}", pool.name()), has);
            }
        }
        Self(all)
    }

    /// Waits until the pools are again as they were then: purges go on after the answer.
    /// Gives how long that took.
    #[track_caller]
    pub fn wait_until_again(&self, bench: &Bench, pools: &[&Pool], within: Duration, at: &str) -> Duration {
        let since = Instant::now();
        loop {
            let now = Self::of(bench, pools);
            if now == *self {
                return since.elapsed();
            }
            assert!(
                since.elapsed() < within,
                "{at}: not as before within {within:?}: {:#?}\n{}",
                self.differences(&now),
                last_lines(&bench.site.log(), 20)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn differences(&self, now: &Self) -> Vec<String> {
        let objects = self.0.keys().chain(now.0.keys().filter(|object| !self.0.contains_key(*object)));
        objects
            .filter(|object| self.0.get(*object) != now.0.get(*object))
            .map(|object| format!("{object}: was {:?}, is {:?}", self.0.get(object), now.0.get(object)))
            .collect()
    }
}

/// None of both, of an object that has gone since the listing.
fn look(bench: &Bench, pool: &Pool, object: &str) -> Has {
    let there = |found: rbd_csi::ceph::Result<BTreeMap<String, Vec<u8>>>| match found {
        Err(error) if error.is(libc::ENOENT) => BTreeMap::new(),
        found => found.unwrap(),
    };
    let keys = there(bench.wait(pool.omap_all("look", object, "")));
    Has { keys, attributes: there(bench.wait(pool.list_xattrs("look", object))) }
}
