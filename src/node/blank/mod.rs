//! A file system on a volume: found, or made when the volume is proven blank.
//!
//! A device is formatted only when its probe finds nothing, its image is not a static
//! volume's, none of its data objects exists, and none of an ancestor's shows through
//! ([`crate::volume::image::ancestors`]), so that there is nothing that could be lost. The
//! one exception is a mkfs of ours that was interrupted: the image carries its mark
//! ([`crate::node::blank::format_mark`]), and the same mkfs runs again when no object exists
//! that it would not write itself.
//!
//! Not here: mapping and mounting. Easily missed: the mark goes before the file
//! system is first mounted, so a marked image has never held anybody's files. The image's
//! own snapshots do not matter: what they hold stays, whatever is written to the image.
//! And a clone that was taken in the middle of a mkfs is refused: it has no mark of its
//! own, and somebody else's is no proof.

pub mod format_mark;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::ceph::{Header, ImageId, Pool};
use crate::host::filesystem::{self, Care};
use crate::host::fs_kind::FsKind;
use crate::host::probe::{self, Content, Look};
use crate::host::superblock::Superblock;
use crate::host::thread::on_thread;
use crate::host::{HostError, device, foresight, holders};
use crate::node::checks::{Checks, Turn};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::image::ancestors::{Inherited, inherited};
use crate::volume::image::data_objects::{objects_of, unexpected};
use crate::volume::operation::Progress;
use crate::volume::servable;
use format_mark::Mark;

/// Reading a healthy device's ends takes milliseconds.
const LOOK: Duration = Duration::from_secs(60);
/// How many objects are counted before an image is refused.
const COUNTED: usize = 1000;

/// What to do with a clone of half a file system.
const COPY_OF_AN_MKFS: &str = "If it was restored or cloned from a volume at its very first use, it is a copy of \
    an unfinished mkfs and holds nobody's files: delete it, and restore or clone again from a snapshot taken now. \
    The source goes on as before";

/// A mapped volume that shall have a file system.
#[derive(Debug, Clone, Copy)]
pub struct Format<'a> {
    /// The image's pool.
    pub pool: &'a Pool,
    /// The image's name, for people.
    pub image: &'a str,
    /// The image.
    pub image_id: &'a ImageId,
    /// The device that it is mapped to.
    pub device: &'a Path,
    /// What the capability asks for; empty leaves it to what is there, else ext4.
    pub fs_type: &'a str,
    /// The parameter of that name; empty means ceph-csi's defaults.
    pub mkfs_options: &'a str,
    /// This node's name.
    pub node: &'a str,
    /// Whether somebody else made the image: such a one is never formatted.
    pub is_static: bool,
    /// Whether the device refuses writes.
    pub read_only: bool,
    /// A folder for a sparse file of the device's size, such as `/tmp`.
    pub scratch: &'a Path,
    /// The turns of the programs.
    pub checks: &'a Checks,
}

/// Where the file system on the device comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsState {
    /// It was made now.
    Created(FsKind),
    /// It was there, and was checked.
    Found {
        /// What it is.
        kind: FsKind,
        /// Whether it leaves room on the device that growing could use.
        can_grow: bool,
    },
}

impl FsState {
    /// What to mount.
    pub fn kind(self) -> FsKind {
        match self {
            Self::Created(kind) | Self::Found { kind, .. } => kind,
        }
    }
}

/// Sees to it that the device has a file system that can be mounted.
///
/// # Errors
/// [`Kind::InvalidArgument`] for a kind that is not supported; [`Kind::Precondition`]
/// when the device holds something else, or cannot be proven blank; it is left
/// as it is then.
pub async fn make_filesystem(volume: &Format<'_>, progress: &Progress) -> Result<FsState> {
    let wanted = wanted(volume.fs_type)?;
    progress.step(format!("looking at what {} holds", volume.device.display()));
    let Look { content, superblock } = probe::look(volume.device, LOOK).await?;
    let header = volume.pool.image_header(volume.image_id, &[format_mark::KEY]).await?;
    let header =
        header.ok_or_else(|| volume.refuse("has no header any more; it was removed while it was mapped"))?;
    let mark = Mark::of(&header).map_err(|error| error.while_doing(volume.name()))?;
    let own = mark.as_ref().is_some_and(|mark| mark.is_of(volume.image_id, &header));
    // XFS alone: ext's superblock is the last that its mkfs writes.
    let unfinished = superblock.is_some_and(|superblock| superblock.unfinished);
    match (content, mark) {
        (Content::Filesystem(kind), mark) => {
            let kind = volume.acceptable(&kind, wanted)?;
            match mark {
                Some(mark) if own && unfinished => volume.resume(&header, mark, wanted, progress).await,
                _ if unfinished => Err(volume.refuse(format!(
                    "holds an {kind} file system that its mkfs has not finished. {COPY_OF_AN_MKFS}"
                ))),
                mark => volume.take(kind, superblock, mark, progress).await,
            }
        }
        (Content::Nothing, Some(mark)) if own => volume.resume(&header, mark, wanted, progress).await,
        (Content::Nothing, foreign) => volume.start(&header, foreign.as_ref(), wanted, progress).await,
        (content, _) => Err(volume.refuse(format!(
            "holds {content}, which is not a file system that this driver mounts; it is never formatted over"
        ))),
    }
}

fn wanted(fs_type: &str) -> Result<Option<FsKind>> {
    if fs_type.is_empty() {
        return Ok(None);
    }
    FsKind::parse(fs_type).map(Some).ok_or_else(|| servable::unknown_type(fs_type))
}

impl Format<'_> {
    fn name(&self) -> String {
        format!("image {} on {}", self.pool.describe(self.image), self.device.display())
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::Precondition, format!("{} {why}", self.name()))
    }

    /// The found file system's kind, when it is one that may be mounted as what is wanted.
    fn acceptable(&self, found: &str, wanted: Option<FsKind>) -> Result<FsKind> {
        let kind = FsKind::parse(found).ok_or_else(|| {
            self.refuse(format!("holds a {found} file system; only ext4, xfs, ext3 and ext2 are mounted"))
        })?;
        match wanted {
            // The kernel's ext4 code mounts all of its family.
            Some(wanted) if wanted != kind && !(wanted.is_ext() && kind.is_ext()) => {
                Err(self.refuse(format!(
                    "holds a file system of type {kind}, but {wanted} is asked for; it is not formatted over"
                )))
            }
            _ => Ok(kind),
        }
    }

    /// Takes a file system that is there.
    async fn take(
        &self,
        kind: FsKind,
        superblock: Option<Superblock>,
        mark: Option<Mark>,
        progress: &Progress,
    ) -> Result<FsState> {
        let can_grow = superblock.is_some_and(|superblock| superblock.can_grow());
        let found = FsState::Found { kind, can_grow };
        if self.read_only {
            return Ok(found);
        }
        progress.step(format!("checking the {kind} file system on {}", self.device.display()));
        let care = match mark {
            Some(_) => Care::Full,
            None if superblock.is_some_and(|superblock| superblock.clean) => Care::Clean,
            None => Care::Usual,
        };
        let turn = match care {
            Care::Clean => None,
            Care::Usual | Care::Full => Some(self.checks.turn(self.pool, progress).await?),
        };
        let checked = filesystem::fsck(kind, self.device, care).await;
        drop(turn);
        if let Err(error) = checked {
            return Err(self.unhealthy(error).await);
        }
        if mark.is_some() {
            Mark::remove(self.pool, self.image_id).await?;
        }
        Ok(found)
    }

    async fn unhealthy(&self, error: HostError) -> Error {
        match error.errno {
            libc::EUCLEAN | libc::EOPNOTSUPP => self.refuse("is not mounted").because(error),
            libc::EBUSY => self.claimed(error).await,
            _ => Error::from(error).while_doing(self.name()),
        }
    }

    async fn is_claimed(&self) -> bool {
        let (name, path) = (self.device.display().to_string(), self.device.to_owned());
        on_thread("open", &name, move || device::is_claimed(&path)).await.unwrap_or(false)
    }

    /// Somebody has claimed the device since it was mapped: multipath and LVM take any that comes.
    pub(super) async fn claimed(&self, error: HostError) -> Error {
        let (name, path) = (self.device.display().to_string(), self.device.to_owned());
        let held = holders::told(&name, move || holders::of_device(&path)).await;
        let text = format!("{}: {held}. Filter /dev/rbd* in LVM and multipath", self.name());
        Error::new(Kind::InUse, text).because(error)
    }

    /// Formats an image that no mkfs of ours has touched, if it is blank. A mark on it is
    /// another image's.
    async fn start(
        &self,
        header: &Header,
        foreign: Option<&Mark>,
        wanted: Option<FsKind>,
        progress: &Progress,
    ) -> Result<FsState> {
        self.may_format()?;
        if let Some(inherited) = self.inherited(progress).await? {
            return Err(self.not_empty(&inherited, foreign));
        }
        let found = self.objects_beyond(header, &BTreeSet::new(), COUNTED, progress).await?;
        if found.is_empty() {
            return self.begin(header, wanted, progress).await;
        }
        let why = match foreign {
            Some(mark) => format!("it carries the mark of {mark}, put onto another image. {COPY_OF_AN_MKFS}"),
            None => "no file system is known there, but it is not blank: this driver has never formatted it"
                .into(),
        };
        Err(self.not_blank(header, &found, &why))
    }

    /// Data of an ancestor that the image shows. Asked before the image's own objects, since
    /// a flatten carries data from there to here.
    async fn inherited(&self, progress: &Progress) -> Result<Option<Inherited>> {
        let found = inherited(self.pool, self.image_id, progress).await;
        found.map_err(|error| error.while_doing(format!("proving that {} is blank", self.name())))
    }

    fn not_empty(&self, inherited: &Inherited, foreign: Option<&Mark>) -> Error {
        let marked = foreign.map_or_else(String::new, |mark| format!(" It carries the mark of {mark}."));
        self.refuse(format!(
            "holds no file system that is known, but shows its parent's data ({inherited}). It is not \
             formatted.{marked} {COPY_OF_AN_MKFS}. Else copy the data away, or make a file system on it by hand"
        ))
    }

    /// Marks and formats an image that is proven blank.
    async fn begin(&self, header: &Header, wanted: Option<FsKind>, progress: &Progress) -> Result<FsState> {
        let kind = wanted.unwrap_or(FsKind::Ext4);
        let arguments = self.arguments(kind).await?;
        let mark = Mark::new(self.node, self.image_id, kind, arguments.clone())?;
        let turn = self.checks.turn(self.pool, progress).await?;
        if let Err(error) = self.claim(&mark, header, &BTreeSet::new(), progress).await {
            // Left there, it would say that what was found is of an mkfs.
            if error.kind == Kind::Precondition
                && let Err(left) = mark.take_back(self.pool, self.image_id).await
            {
                tracing::warn!(image = self.name(), error = %left, "its format mark could not be removed");
            }
            return Err(error);
        }
        self.format(kind, &arguments, turn, progress).await
    }

    /// Puts this call's mark in place of what the header had, and looks again: another
    /// node may have marked, formatted and unmarked the image since the look before.
    async fn claim(
        &self,
        mark: &Mark,
        header: &Header,
        expected: &BTreeSet<u64>,
        progress: &Progress,
    ) -> Result<()> {
        let put = mark.put(self.pool, self.image_id, header).await;
        put.map_err(|error| error.while_doing(self.name()))?;
        let found = self.objects_beyond(header, expected, COUNTED, progress).await?;
        if found.is_empty() {
            return Ok(());
        }
        Err(self.not_blank(header, &found, "somebody has written them just now, while this node looked"))
    }

    /// Goes on after a mkfs of ours that was interrupted.
    async fn resume(
        &self,
        header: &Header,
        mark: Mark,
        wanted: Option<FsKind>,
        progress: &Progress,
    ) -> Result<FsState> {
        self.may_format()?;
        if let Some(inherited) = self.inherited(progress).await? {
            return Err(self.not_empty(&inherited, None));
        }
        if self.objects_beyond(header, &BTreeSet::new(), 1, progress).await?.is_empty() {
            // It did not get to write anything, so it binds nobody.
            return self.begin(header, wanted, progress).await;
        }
        let kind = mark.filesystem;
        if wanted.is_some_and(|wanted| wanted != kind) {
            return Err(
                self.refuse(format!("holds what an interrupted {mark} left, but another type is asked for"))
            );
        }
        progress.step(format!("finding out what the interrupted {} would have written", kind.mkfs()));
        let written =
            foresight::written_by(kind, &mark.arguments, self.device, header.size, self.scratch).await?;
        let expected = objects_of(header, &written);
        let found = self.objects_beyond(header, &expected, COUNTED, progress).await?;
        if !found.is_empty() {
            let why = format!("an interrupted {mark} does not account for them");
            return Err(self.not_blank(header, &found, &why));
        }
        let mine = Mark::new(self.node, self.image_id, kind, mark.arguments.clone())?;
        let turn = self.checks.turn(self.pool, progress).await?;
        self.claim(&mine, header, &expected, progress).await?;
        let mut arguments = mark.arguments;
        if kind == FsKind::Xfs && !arguments.iter().any(|argument| argument == "-f") {
            // It refuses to run over the superblock that its first run began with.
            arguments.push("-f".into());
        }
        self.format(kind, &arguments, turn, progress).await
    }

    /// What forbids formatting whatever the device holds.
    fn may_format(&self) -> Result<()> {
        let why = if self.is_static {
            "holds no file system, and a static volume is never formatted; make one on it before it is used"
        } else if self.read_only {
            "holds no file system and is mapped read-only; use it once by a pod that writes, or make a file \
             system on its source and restore again"
        } else {
            return Ok(());
        };
        Err(self.refuse(why))
    }

    async fn objects_beyond(
        &self,
        header: &Header,
        expected: &BTreeSet<u64>,
        most: usize,
        progress: &Progress,
    ) -> Result<Vec<u64>> {
        progress.step(format!("proving that {} is blank", self.name()));
        unexpected(self.pool, self.image_id, header, expected, most, progress)
            .await
            .map_err(|error| error.while_doing(format!("proving that {} is blank", self.name())))
    }

    fn not_blank(&self, header: &Header, found: &[u64], why: &str) -> Error {
        let count =
            if found.len() < COUNTED { found.len().to_string() } else { format!("at least {COUNTED}") };
        let first = header.data_object(found.iter().copied().min().unwrap_or(0));
        self.refuse(format!(
            "holds {count} data objects (the first is {first}): {why}. It is not formatted. If its data is not \
             needed, delete the volume and make a new one; else copy it away, or make a file system on it by hand"
        ))
    }

    async fn arguments(&self, kind: FsKind) -> Result<Vec<String>> {
        filesystem::mkfs_arguments(kind, self.mkfs_options).await.map_err(|error| match error.errno {
            libc::EINVAL => Error::new(Kind::InvalidArgument, "mkfsOptions").because(error),
            _ => error.into(),
        })
    }

    /// Formats; the caller has proven that nothing is lost by it and has put the mark.
    /// The turn is taken before the last look at the image, so that nothing is waited for behind it.
    async fn format(
        &self,
        kind: FsKind,
        arguments: &[String],
        turn: Turn,
        progress: &Progress,
    ) -> Result<FsState> {
        progress.step(format!("{} on {}", kind.mkfs(), self.device.display()));
        let formatted = filesystem::mkfs(kind, arguments, self.device).await;
        drop(turn);
        if let Err(error) = formatted {
            return Err(match self.is_claimed().await {
                true => self.claimed(error).await,
                false => Error::from(error).while_doing(self.name()),
            });
        }
        let content = probe::probe(self.device, LOOK).await?;
        let made = match &content {
            Content::Filesystem(found) => self.acceptable(found, Some(kind)).is_ok(),
            _ => false,
        };
        if !made {
            return Err(Error::new(
                Kind::Internal,
                format!("{} holds {content} after {} succeeded on it", self.name(), kind.mkfs()),
            ));
        }
        Mark::remove(self.pool, self.image_id).await?;
        Ok(FsState::Created(kind))
    }
}
