//! The way of an image out: into the trash, then purged. Repeatable at any point.
//!
//! Lives here: the trash move, made of class `rbd`'s own methods without opening
//! the image, and the purge, which is librbd's. The order is librbd's:
//! 1. `trash_add` in state MOVING
//! 2. `rbd_id.<name>` and the directory's keys go
//! 3. state NORMAL
//!
//! so that librbd, the mgr or another driver can go on from wherever we stop.
//! What a reader gets wrong: `rbd_trash_move` answers ENOENT while the image is
//! whole (when `trash_add` failed), and leaves an entry that no purge takes when
//! it is killed before step 3. Neither function looks at snapshots or watchers
//! before the move; the purge does, and refuses.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::encoding::{Decoded, Decoder, Encoder, Malformed, text};
use super::error::{CephError, Result};
use super::features::Features;
use super::ffi;
use super::header::Header;
use super::image::{ImageId, RBD};
use super::keep_going::{KeepGoing, asked};
use super::omap::gone_is_false;
use super::pool::Pool;
use super::read_op::{ReadOp, ReadResult};
use super::write_op::WriteOp;

const TRASH: &str = "rbd_trash";
/// `RBD_OPERATION_FEATURE_GROUP`.
const IN_GROUP: u64 = 4;
const SOURCE_USER: u8 = 0;
/// librbd's errno for an entry in state MOVING.
const UNCLEAN: i32 = libc::EUCLEAN;

/// How far an image is on its way through the trash (`TrashImageState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrashState {
    /// It lies there.
    Normal,
    /// It is being moved there.
    Moving,
    /// It is being purged.
    Removing,
    /// It is being taken back.
    Restoring,
    /// Of a Ceph newer than this program.
    Other(u8),
}

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashEntry {
    /// The name that it had.
    pub name: String,
    /// How far it is.
    pub state: TrashState,
    /// `TrashImageSource`: 0 a user's deletion, 1 mirroring, 2 migration, 3 librbd's remove.
    pub source: u8,
    /// When it came there, since 1970.
    pub deleted: Duration,
    /// Until when librbd refuses to purge it (EPERM), since 1970.
    pub kept_until: Duration,
}

impl TrashState {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Normal,
            1 => Self::Moving,
            2 => Self::Removing,
            3 => Self::Restoring,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Moving => 1,
            Self::Removing => 2,
            Self::Restoring => 3,
            Self::Other(number) => number,
        }
    }
}

impl TrashEntry {
    /// `cls::rbd::TrashImageSpec`.
    fn encode(&self) -> Encoder {
        let fields = Encoder::default()
            .u8(self.source)
            .text(&self.name)
            .time(self.deleted)
            .time(self.kept_until)
            .u8(self.state.number());
        Encoder::default().versioned(2, 1, fields)
    }

    fn decode(data: &[u8]) -> Decoded<Self> {
        let mut outer = Decoder::new(data).versioned()?;
        let fields = &mut outer.contents;
        Ok(Self {
            source: fields.u8()?,
            name: fields.text()?,
            deleted: fields.time()?,
            kept_until: fields.time()?,
            state: if outer.version >= 2 { TrashState::of(fields.u8()?) } else { TrashState::Normal },
        })
    }
}

impl Pool {
    /// Moves an image to the trash, from whichever state it is in; again is fine,
    /// and so is one of which nothing is left. Six operations; a mirrored image
    /// goes through librbd. EMLINK: it is in a group; EBUSY: it is being migrated
    /// or taken out of the trash. Never looks at watchers or snapshots.
    pub async fn trash_move(&self, name: &str, id: &ImageId) -> Result<()> {
        self.trash_move_at(name, id, SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()).await
    }

    /// The same with the time, since 1970, that the entry in the trash is to say (whole
    /// microseconds and less are kept). An entry that is there already keeps its own,
    /// and librbd writes its own for a mirrored image.
    pub async fn trash_move_at(&self, name: &str, id: &ImageId, deleted: Duration) -> Result<()> {
        let (header, mirrored) = tokio::join!(self.image_header(id, &[]), self.is_mirrored(id));
        let header = header?;
        if mirrored? {
            return self.trash_move_mirrored(name, id).await;
        }
        if let Some(header) = &header {
            movable(header).map_err(|errno| CephError::new("trash move", self.describe(name), errno))?;
        }
        let there = header.is_some() || self.directory_id(name).await?.as_ref() == Some(id);
        let added = there && self.trash_add(name, id, deleted).await?;
        let (by_name, by_directory) = tokio::join!(
            self.remove_id_object("trash unlink name", name, id),
            self.remove_directory_entry("trash unlink directory", name, id),
        );
        by_name?;
        let listed = by_directory?;
        // Another may have moved and purged the image since its header was read: then the entry
        // is of nothing.
        if added && !listed && self.image_header(id, &[]).await?.is_none() {
            return self.trash_forget(id).await;
        }
        self.trash_settle(id).await
    }

    async fn trash_forget(&self, id: &ImageId) -> Result<()> {
        let op = WriteOp::new().assert_exists().exec(RBD, c"trash_remove", text(id.as_str()));
        gone_is_false(self.write("trash forget", TRASH, op).await).map(|_| ())
    }

    /// Makes the trash's object if there is none. librbd does so with the first image that
    /// comes there, which a full pool refuses (EDQUOT): then nothing could be deleted.
    /// EOPNOTSUPP, and no object, in a pool that is erasure-coded and takes no keys: hence the
    /// step without any.
    pub async fn prepare_trash(&self) -> Result<()> {
        let no_keys: [(&str, &[u8]); 0] = [];
        self.write("trash prepare", TRASH, WriteOp::new().create().omap_set(no_keys)).await
    }

    /// The image's entry in the trash; one operation.
    pub async fn trash_entry(&self, id: &ImageId) -> Result<Option<TrashEntry>> {
        const OP: &str = "trash get";
        match self.read(OP, TRASH, ReadOp::new().exec(RBD, c"trash_get", text(id.as_str()))).await {
            Err(error) if error.is(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
            Ok(mut results) => {
                let data = results.next().map(ReadResult::into_bytes).unwrap_or_default();
                self.entry(OP, &data).map(Some)
            }
        }
    }

    /// The ids and names of all images in the trash whose name ends so. Lists the
    /// whole trash, one operation per thousand images. EBADMSG for an entry that cannot be
    /// read and has that text in it; others of that kind are passed over.
    pub async fn trash_find(&self, name_ends_with: &str) -> Result<Vec<(ImageId, String)>> {
        const OP: &str = "trash list";
        const PREFIX: &str = "id_";
        let mut found = Vec::new();
        let look = |key: &str, value: &[u8]| {
            let name = match self.entry(OP, value) {
                Ok(entry) => entry.name,
                Err(error) if String::from_utf8_lossy(value).contains(name_ends_with) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, key, "an entry of the trash cannot be read");
                    return Ok(());
                }
            };
            if name.ends_with(name_ends_with) {
                found.push((ImageId::new(key.trim_start_matches(PREFIX)), name));
            }
            Ok(())
        };
        self.omap_walk(OP, TRASH, PREFIX, look).await?;
        Ok(found)
    }

    /// Removes an image that is in the trash, and what an interrupted move or
    /// purge left of it; again is fine, and so is one that is gone. Takes as long
    /// as the image has objects. Refuses, and leaves everything, with ENOTEMPTY:
    /// it has snapshots (or clones, which need one); EBUSY: somebody watches it;
    /// EPERM: its time in the trash is not over; EEXIST: it is no longer in the
    /// trash, somebody took it back.
    pub async fn purge(&self, id: &ImageId) -> Result<()> {
        self.purge_while(id, &KeepGoing::always()).await
    }

    /// The same, asked for each object whether to go on. ECANCELED: it was told to stop; the image is
    /// in the trash as before, without the objects that were removed.
    pub async fn purge_while(&self, id: &ImageId, keep_going: &KeepGoing) -> Result<()> {
        match self.trash_remove(id, keep_going).await {
            Err(error) if error.is(UNCLEAN) => {
                // A move that stopped before its last step.
                let Some(entry) = self.trash_entry(id).await? else { return Ok(()) };
                self.trash_move(&entry.name, id).await?;
                self.trash_remove(id, keep_going).await
            }
            // ENOENT may also come from inside; only the trash itself can tell.
            Err(error) if error.is(libc::ENOENT) => match self.trash_entry(id).await? {
                Some(_) => Err(error),
                None => self.purge_stray(id, keep_going).await,
            },
            done => done,
        }
    }

    /// An image without an entry in the trash: gone, taken back, or a header that
    /// nothing names any more.
    async fn purge_stray(&self, id: &ImageId, keep_going: &KeepGoing) -> Result<()> {
        if self.directory_name(id).await?.is_some() {
            return Err(CephError::new("purge", self.describe(id.as_str()), libc::EEXIST));
        }
        if self.image_header(id, &[]).await?.is_some() {
            // librbd checks for snapshots and watchers, and removes the data, only
            // of what the trash names.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.trash_add("", id, now).await?;
            self.trash_settle(id).await?;
            return self.trash_remove(id, keep_going).await;
        }
        self.remove_if_there("purge object map", &id.object_map_object()).await?;
        self.remove_if_there("purge header", &id.header_object()).await?;
        Ok(())
    }

    /// `rbd_trash_remove_with_progress`, not forced.
    async fn trash_remove(&self, id: &ImageId, keep_going: &KeepGoing) -> Result<()> {
        let keep_going = keep_going.clone();
        let call = move |io: ffi::rados_ioctx_t, id: &std::ffi::CStr| {
            let argument = keep_going.argument();
            // SAFETY: a live context and a C string; the argument outlives the call.
            unsafe { ffi::rbd_trash_remove_with_progress(io, id.as_ptr(), false, Some(asked), argument) }
                .into()
        };
        self.blocking_long("rbd_trash_remove_with_progress", id.as_str(), id.as_str(), call).await
    }

    /// librbd disables mirroring first. Its answer is not believed: it can be
    /// ENOENT for an image that is whole.
    async fn trash_move_mirrored(&self, name: &str, id: &ImageId) -> Result<()> {
        let call = |io: ffi::rados_ioctx_t, name: &std::ffi::CStr| {
            // SAFETY: a live context and a C string.
            (unsafe { ffi::rbd_trash_move(io, name.as_ptr(), 0) }.into(), ())
        };
        match self.blocking("rbd_trash_move", name, name, call).await {
            Err(error) if error.is(libc::ENOENT) => match self.directory_name(id).await? {
                Some(_) => Err(CephError::new(error.op, error.object, libc::EIO)),
                None => self.trash_settle(id).await,
            },
            done => done,
        }
    }

    /// Step 1; an entry that exists is left as it is. EBUSY when the image is just being
    /// taken out of the trash: its names must stay then.
    /// `false`: it has an entry.
    async fn trash_add(&self, name: &str, id: &ImageId, deleted: Duration) -> Result<bool> {
        let entry = TrashEntry {
            name: name.to_owned(),
            state: TrashState::Moving,
            source: SOURCE_USER,
            deleted,
            kept_until: deleted,
        };
        let input = [text(id.as_str()), entry.encode().finish()].concat();
        match self.write("trash add", TRASH, WriteOp::new().exec(RBD, c"trash_add", input)).await {
            Err(error) if error.is(libc::EEXIST) => match self.trash_entry(id).await? {
                Some(TrashEntry { state: TrashState::Restoring, .. }) => {
                    Err(CephError::new(error.op, error.object, libc::EBUSY))
                }
                _ => Ok(false),
            },
            done => done.map(|()| true),
        }
    }

    /// Step 3, from MOVING to NORMAL. An entry that is being purged, or is gone
    /// by now, needs nothing.
    async fn trash_settle(&self, id: &ImageId) -> Result<()> {
        let input = Encoder::default()
            .text(id.as_str())
            .u8(TrashState::Normal.number())
            .u8(TrashState::Moving.number())
            .finish();
        let op = WriteOp::new().assert_exists().exec(RBD, c"trash_state_set", input);
        match self.write("trash settle", TRASH, op).await {
            Err(error) if error.is(libc::ENOENT) => Ok(()),
            Err(error) if error.is(libc::ESTALE) => match self.trash_entry(id).await? {
                Some(TrashEntry { state: TrashState::Restoring, .. }) => {
                    Err(CephError::new(error.op, error.object, libc::EBUSY))
                }
                _ => Ok(()),
            },
            done => done,
        }
    }

    fn entry(&self, what: &'static str, data: &[u8]) -> Result<TrashEntry> {
        TrashEntry::decode(data)
            .map_err(|Malformed| CephError::new(what, self.describe(TRASH), libc::EBADMSG))
    }
}

/// What librbd refuses to move: the errno.
fn movable(header: &Header) -> std::result::Result<(), i32> {
    if header.features.contains(Features::MIGRATING) {
        return Err(libc::EBUSY);
    }
    if header.op_features & IN_GROUP != 0 {
        return Err(libc::EMLINK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by librbd 16.2.15 for an image named `enc`.
    const ENTRY: &[u8] = b"\x02\x01\x19\0\0\0\0\x03\0\0\0enc\xb6\x7c\x01\x6b\xf5\x99\x9f\x38\xc6\x8a\x01\x6b\xf5\x99\x9f\x38\0";

    #[test]
    fn an_entry_is_librbd_s_to_the_byte() {
        let entry = TrashEntry::decode(ENTRY).unwrap();
        assert_eq!((entry.name.as_str(), entry.state, entry.source), ("enc", TrashState::Normal, 0));
        assert_eq!(entry.kept_until - entry.deleted, Duration::from_secs(3600));
        assert_eq!(entry.encode().finish(), ENTRY);
    }

    #[test]
    fn an_entry_of_an_old_release_has_no_state() {
        let fields = Encoder::default().u8(0).text("enc").u32(1).u32(0).u32(1).u32(0);
        let old = Encoder::default().versioned(1, 1, fields).finish();
        assert_eq!(TrashEntry::decode(&old).unwrap().state, TrashState::Normal);
        assert_eq!(TrashEntry::decode(&old[..9]), Err(Malformed));
    }
}
