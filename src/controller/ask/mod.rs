//! What a CO asks of the controller without changing anything in Ceph.

pub mod attach;
