//! Snapshots of an image that nobody has open, by the object class itself.
//!
//! Lives here: what librbd writes for a snapshot, in its order, without opening the image:
//! 1. an id from the monitors ([`Pool::draw_snapshot_id`], one commit; several that are drawn
//!    side by side share one)
//! 2. `snapshot_add` on the header
//! 3. with `object-map`: the snapshot's own map, a copy of the image's; and in the image's each
//!    object as unchanged since
//!
//! What a reader gets wrong: whoever has the image open does not notice. Its writes go on
//! with the old snapshots in mind and change the new one until it reads the header anew,
//! which [`Pool::notify_header_update`] makes it do, but not at once. So
//! [`Pool::add_snapshot`] and [`Pool::remove_snapshot_entry`] are for images that nobody else knows yet, or any
//! more; what somebody writes to takes [`super::Image`].

use super::aio;
use super::door;
use super::encoding::Encoder;
use super::error::{CephError, Result};
use super::features::Features;
use super::header::{Header, SnapshotKind};
use super::image::{ImageId, RBD};
use super::omap::gone_is_false;
use super::pool::Pool;
use super::read_op::{ReadOp, ReadResult};
use super::write_op::WriteOp;

impl Pool {
    /// Draws a snapshot id of this pool (`rados_aio_ioctx_selfmanaged_snap_create`). One that is
    /// not used must be given back.
    pub async fn draw_snapshot_id(&self) -> Result<u64> {
        const OP: &str = "rados_aio_ioctx_selfmanaged_snap_create";
        let call = aio::draw_snapshot_id(self.context());
        self.connection().judge(door::pass(OP, self.name(), call).await).map(|(_, id)| id)
    }

    /// Gives an id back (`rados_aio_ioctx_selfmanaged_snap_remove`): the OSDs drop all data that only
    /// it keeps. One that was given back before is fine.
    pub async fn return_snapshot_id(&self, id: u64) -> Result<()> {
        const OP: &str = "rados_aio_ioctx_selfmanaged_snap_remove";
        let call = aio::return_snapshot_id(self.context(), id);
        let shown = format!("{} snapshot id {id}", self.name());
        self.connection().judge(door::pass(OP, &shown, call).await).map(|_| ())
    }

    /// Adds a snapshot with an id from [`Pool::draw_snapshot_id`] to an image that nobody has open;
    /// `header` is the image's. Again is fine, and goes on where a stop was. EEXIST: another
    /// snapshot has the name or the id; ESTALE: the image has a snapshot with a higher id (draw
    /// another); EINVAL: its object map is not valid (open the image for that). One operation, with an
    /// object map three, with `fast-diff` four.
    pub async fn add_snapshot(&self, id: &ImageId, header: &Header, snap_id: u64, name: &str) -> Result<()> {
        const OP: &str = "snapshot add";
        let mapped = header.features.contains(Features::OBJECT_MAP);
        if mapped && !header.object_map_valid() {
            return Err(CephError::new(OP, self.describe(&id.object_map_object()), libc::EINVAL));
        }
        let user = Encoder::default().versioned(1, 1, Encoder::default().u32(0)).finish();
        let input = [Encoder::default().text(name).u64(snap_id).finish(), user].concat();
        let op = WriteOp::new().assert_exists().exec(RBD, c"snapshot_add", input);
        match self.write(OP, &id.header_object(), op).await {
            Err(error) if error.is(libc::EEXIST) => {
                let header = self.image_header(id, &[]).await?;
                let same = |header: &Header| {
                    let mut all = header.snapshots.iter();
                    all.any(|s| s.id == snap_id && s.name == name && s.kind == SnapshotKind::User)
                };
                if !header.is_some_and(|header| same(&header)) {
                    return Err(error);
                }
            }
            added => added?,
        }
        if mapped { self.add_snapshot_map(id, header, snap_id).await } else { Ok(()) }
    }

    async fn add_snapshot_map(&self, id: &ImageId, header: &Header, snap_id: u64) -> Result<()> {
        const OP: &str = "snapshot object map";
        let object = id.object_map_object();
        let map = self.read_all(OP, &object).await?;
        // One that is there was copied before the image's map was changed, and is right.
        let copy = WriteOp::new().create_exclusive().write_full(map);
        match self.write(OP, &id.snapshot_map_object(snap_id), copy).await {
            Err(error) if error.is(libc::EEXIST) => {}
            copied => copied?,
        }
        if !header.features.contains(Features::FAST_DIFF) {
            return Ok(());
        }
        let op = WriteOp::new().assert_exists().exec(RBD, c"object_map_snap_add", Vec::new());
        self.write("snapshot in object map", &object, op).await
    }

    /// Moves a snapshot to the snapshots' trash, which is what librbd does with one that has
    /// clones: it keeps its id and its data under a random name until the last of them goes.
    /// Again is fine. ENOENT: no such snapshot; EBUSY: it is protected. May be done while others
    /// have the image open; [`Pool::notify_header_update`] tells them. One operation.
    pub async fn trash_snapshot(&self, id: &ImageId, snap_id: u64) -> Result<()> {
        let input = Encoder::default().u64(snap_id).finish();
        let op = WriteOp::new().assert_exists().exec(RBD, c"snapshot_trash_add", input);
        match self.write("snapshot trash", &id.header_object(), op).await {
            Err(error) if error.is(libc::EEXIST) => Ok(()),
            done => done,
        }
    }

    /// Removes a snapshot of an image that nobody has open, its map and its id, in librbd's
    /// order; again is fine. EBUSY: it has clones, or is protected; EINVAL: the image's object
    /// map is not valid. One operation and a monitor's commit, with an object map two more,
    /// with `fast-diff` four.
    pub async fn remove_snapshot_entry(&self, id: &ImageId, header: &Header, snap_id: u64) -> Result<()> {
        const OP: &str = "snapshot remove";
        let mapped = header.features.contains(Features::OBJECT_MAP);
        let snapshot = header.snapshots.iter().find(|snapshot| snapshot.id == snap_id);
        if snapshot.is_some_and(|snapshot| snapshot.children > 0) {
            return Err(CephError::new(OP, self.describe(&id.header_object()), libc::EBUSY));
        }
        if mapped && !header.object_map_valid() {
            return Err(CephError::new(OP, self.describe(&id.object_map_object()), libc::EINVAL));
        }
        if mapped {
            self.remove_snapshot_map(id, header, snap_id).await?;
        }
        // Before the header forgets it: a stop in between would leave its data for ever.
        self.return_snapshot_id(snap_id).await?;
        let input = Encoder::default().u64(snap_id).finish();
        let op = WriteOp::new().assert_exists().exec(RBD, c"snapshot_remove", input);
        gone_is_false(self.write(OP, &id.header_object(), op).await).map(|_| ())
    }

    /// What was new in the snapshot is new in the next younger one, or in the image.
    async fn remove_snapshot_map(&self, id: &ImageId, header: &Header, snap_id: u64) -> Result<()> {
        const OP: &str = "snapshot object map";
        let object = id.snapshot_map_object(snap_id);
        if header.features.contains(Features::FAST_DIFF) {
            match self.read(OP, &object, ReadOp::new().exec(RBD, c"object_map_load", Vec::new())).await {
                // Removed already, so the next map has been changed, too.
                Err(error) if error.is(libc::ENOENT) => return Ok(()),
                Err(error) => return Err(error),
                Ok(mut found) => {
                    let map = found.next().map(ReadResult::into_bytes).unwrap_or_default();
                    self.hand_on_what_is_new(id, header, snap_id, &map).await?;
                }
            }
        }
        self.remove_if_there(OP, &object).await.map(|_| ())
    }

    /// A younger snapshot has no map when its maker stopped half-way: then the next one gets it.
    async fn hand_on_what_is_new(
        &self,
        id: &ImageId,
        header: &Header,
        snap_id: u64,
        map: &[u8],
    ) -> Result<()> {
        const STEP: &str = "snapshot out of object map";
        let mut younger: Vec<u64> = header.snapshots.iter().map(|snapshot| snapshot.id).collect();
        younger.retain(|id| *id > snap_id);
        younger.sort_unstable();
        let op = || WriteOp::new().assert_exists().exec(RBD, c"object_map_snap_remove", map.to_vec());
        for next in younger {
            if gone_is_false(self.write(STEP, &id.snapshot_map_object(next), op()).await)? {
                return Ok(());
            }
        }
        self.write(STEP, &id.object_map_object(), op()).await
    }
}
