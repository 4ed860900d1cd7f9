//! CreateVolume and DeleteVolume through the driver's own gRPC service on a real Ceph.
//!
//! One program, since its tests share one lab: `life` is what is made and refused, the
//! others are what goes wrong on the way and what is found from other times.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "controller/audit.rs"]
mod audit;
#[path = "controller/budget.rs"]
mod budget;
#[path = "controller/ceph_conf.rs"]
mod ceph_conf;
#[path = "controller/chain.rs"]
mod chain;
#[path = "controller/crash.rs"]
mod crash;
#[path = "controller/damaged.rs"]
mod damaged;
#[path = "controller/expand.rs"]
mod expand;
#[path = "controller/failing.rs"]
mod failing;
#[path = "controller/fixture.rs"]
mod fixture;
#[path = "controller/flatten.rs"]
mod flatten;
#[path = "controller/inside.rs"]
mod inside;
#[path = "controller/legacy.rs"]
mod legacy;
#[path = "controller/life.rs"]
mod life;
#[path = "controller/list.rs"]
mod list;
#[path = "controller/metrics.rs"]
mod metrics;
#[path = "controller/mirror.rs"]
mod mirror;
#[path = "controller/mixed.rs"]
mod mixed;
#[path = "controller/options.rs"]
mod options;
#[path = "controller/outage.rs"]
mod outage;
#[path = "controller/partial.rs"]
mod partial;
#[path = "controller/purge.rs"]
mod purge;
#[path = "controller/race.rs"]
mod race;
#[path = "controller/refused.rs"]
mod refused;
#[path = "controller/snapshot.rs"]
mod snapshot;
#[path = "controller/snapshot_crash.rs"]
mod snapshot_crash;
#[path = "controller/stop.rs"]
mod stop;
#[path = "controller/users.rs"]
mod users;
