//! rbd-csi: a CSI driver that gives Kubernetes pods block volumes from Ceph RBD.
//!
//! Data flows one way, from the door to the leaves:
//! [`csi`] → [`volume`] → {[`ceph`], [`host`], [`kube`]}.
//! ARCHITECTURE.md is the map.

pub mod options;
pub mod start;

pub mod config;
pub mod health;
pub mod liveness;
pub mod registration;
pub mod server;
pub mod telemetry;

pub mod csi;

pub mod controller;
pub mod node;
pub mod volume;

pub mod ceph;
pub mod host;
pub mod kube;

pub mod causes;
pub mod errno;
pub mod fault;
pub mod metrics;
pub mod secret;
pub mod spelling;
