//! What is counted, for `/metrics` and for tests. One registry for the process.
//!
//! Lives here: the counters and their Prometheus names. Not here: the HTTP
//! server that shows them (`telemetry`), nor any decision.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

pub mod in_flight;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    call: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    call: &'static str,
    errno: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PurgeLabels {
    state: &'static str,
}

/// What a deleted image waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// Its turn; it may be under way.
    Queued,
    /// Clones of it.
    WaitingForClones,
    /// A client that has it open, a lock, the mgr, a person.
    Blocked,
}

impl Purge {
    const ALL: [Self; 3] = [Self::Queued, Self::WaitingForClones, Self::Blocked];

    fn labels(self) -> PurgeLabels {
        let state = match self {
            Self::Queued => "queued",
            Self::WaitingForClones => "waiting_for_clones",
            Self::Blocked => "blocked",
        };
        PurgeLabels { state }
    }
}

struct Metrics {
    ceph_calls: Family<CallLabels, Histogram>,
    ceph_failures: Family<FailureLabels, Counter>,
    rpcs: Family<RpcLabels, Histogram>,
    operations: Gauge<i64, AtomicI64>,
    purge_backlog: Family<PurgeLabels, Gauge<i64, AtomicI64>>,
    flatten_backlog: Gauge<i64, AtomicI64>,
    flatten_objects_left: Gauge<i64, AtomicI64>,
    config_faults: Gauge<i64, AtomicI64>,
    /// Without a value, and so not shown, in a process that does not register itself.
    kubelet_registered: Family<Vec<(String, String)>, Gauge<i64, AtomicI64>>,
}

fn histogram() -> Histogram {
    // 1 ms to about two minutes: the range from a replayed read to a node call's deadline.
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
    ceph_calls: Family::new_with_constructor(histogram),
    ceph_failures: Family::default(),
    rpcs: Family::new_with_constructor(histogram),
    operations: Gauge::default(),
    purge_backlog: Family::default(),
    flatten_backlog: Gauge::default(),
    flatten_objects_left: Gauge::default(),
    config_faults: Gauge::default(),
    kubelet_registered: Family::default(),
});

/// A registry that shows the process's counters.
pub fn registry() -> Registry {
    let mut registry = Registry::with_prefix("rbd_csi");
    registry.register(
        "ceph_call_seconds",
        "Calls to librados and librbd by function",
        METRICS.ceph_calls.clone(),
    );
    registry.register(
        "ceph_call_failures",
        "Failed calls to librados and librbd by errno",
        METRICS.ceph_failures.clone(),
    );
    registry.register("rpc_seconds", "CSI calls by method and gRPC code", METRICS.rpcs.clone());
    for state in Purge::ALL {
        // Shown also while there is nothing.
        purge_backlog(state, 0);
    }
    registry.register("operations", "State-changing operations that run now", METRICS.operations.clone());
    registry.register(
        "purge_backlog",
        "Deleted images that wait in the trash for their purge, by what they wait for",
        METRICS.purge_backlog.clone(),
    );
    registry.register(
        "flatten_backlog",
        "Clones that get all data of their own, or wait for it",
        METRICS.flatten_backlog.clone(),
    );
    registry.register(
        "flatten_objects_left",
        "Objects that the flattens under way have not looked at yet",
        METRICS.flatten_objects_left.clone(),
    );
    registry.register(
        "config_faults",
        "Entries of config.json that cannot be understood: their clusters are not served",
        METRICS.config_faults.clone(),
    );
    registry.register(
        "kubelet_registered",
        "Whether the kubelet has registered this plugin, which registers itself",
        METRICS.kubelet_registered.clone(),
    );
    registry.register_collector(Box::new(in_flight::Shown));
    registry
}

/// So many entries of config.json cannot be understood.
pub fn config_faults(count: i64) {
    METRICS.config_faults.set(count);
}

static CEPH_CALLS: AtomicU64 = AtomicU64::new(0);

/// How many Ceph calls have ended: whether anything was done since the last look.
pub fn ceph_calls_made() -> u64 {
    CEPH_CALLS.load(Ordering::Relaxed)
}

/// A Ceph call ended; `errno` is positive for a failure.
pub fn ceph_call(call: &'static str, time: Duration, errno: Option<i32>) {
    CEPH_CALLS.fetch_add(1, Ordering::Relaxed);
    METRICS.ceph_calls.get_or_create(&CallLabels { call }).observe(time.as_secs_f64());
    if let Some(errno) = errno {
        METRICS.ceph_failures.get_or_create(&FailureLabels { call, errno: errno.into() }).inc();
    }
}

/// A CSI call was answered; `method` is the last part of its path, `code` the gRPC code's name.
pub fn rpc(method: &str, code: &'static str, time: Duration) {
    METRICS.rpcs.get_or_create(&RpcLabels { method: method.to_owned(), code }).observe(time.as_secs_f64());
}

/// A state-changing operation began.
pub fn operation_started() {
    METRICS.operations.inc();
}

/// A state-changing operation ended.
pub fn operation_ended() {
    METRICS.operations.dec();
}

/// So many more (or fewer) images wait for their purge.
pub fn purge_backlog(state: Purge, change: i64) {
    METRICS.purge_backlog.get_or_create(&state.labels()).inc_by(change);
}

/// So many more (or fewer) images are flattened or wait for it.
pub fn flatten_backlog(change: i64) {
    METRICS.flatten_backlog.inc_by(change);
}

/// So many more (or fewer) objects are to be looked at by flattens that run.
pub fn flatten_objects_left(change: i64) {
    METRICS.flatten_objects_left.inc_by(change);
}

/// The kubelet has registered this plugin, or not (yet).
pub fn kubelet_registered(yes: bool) {
    METRICS.kubelet_registered.get_or_create(&Vec::new()).set(i64::from(yes));
}
