//! LEAF: librados and librbd behind a safe face. Knows nothing of CSI.
//!
//! In reading order: `connections` → `connection` → `pool` → `omap` (objects) →
//! `image`, `trash` → `open`, `clone`, `snapshot`. Every C call goes through `door`; how C is called is in
//! `aio` (objects, asynchronous) and `connection` (all else, on threads).

mod aio;
mod ancestry;
mod children;
mod clone;
pub mod conf_file;
mod connect;
mod connection;
mod connections;
mod context;
mod credentials;
mod door;
mod encoding;
mod error;
mod features;
#[allow(missing_docs)]
mod ffi;
mod header;
mod image;
mod image_lock;
mod keep_going;
pub mod lock;
mod maps;
mod metadata;
mod mirror;
mod monitors;
mod notify;
mod object_map;
mod omap;
mod open;
mod pool;
mod read_op;
pub mod resize;
mod shutdown;
mod snapshot;
mod trash;
mod watchers;
mod write_op;

pub use ancestry::{Moment, Origin};
pub use children::Child;
pub use connection::Connection;
pub use connections::Connections;
pub use credentials::Credentials;
pub use error::{CephError, Result};
pub use features::{Features, UnknownFeature};
pub use header::{Header, Parent, Snapshot, SnapshotKind};
pub use image::{ImageId, ImageSpec};
pub use image_lock::{HeldBy, ImageLock, Taking};
pub use keep_going::KeepGoing;
pub use mirror::MirrorState;
pub use monitors::MonitorAddress;
pub use object_map::{MOST_OBJECTS, ObjectMap, largest_mapped};
pub use open::{Image, OpenMode};
pub use pool::Pool;
pub use read_op::{Omap, ReadOp, ReadResult, ReadResults};
pub use trash::{TrashEntry, TrashState};
pub use watchers::{Watch, Watcher, is_kernels};
pub use write_op::WriteOp;
