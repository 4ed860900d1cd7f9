//! What changes nothing in Ceph: may a node have a volume (`attach`), and which snapshots are
//! there (`list`), also where a call comes without a secret (`key`).

pub mod attach;
pub mod key;
pub mod list;
