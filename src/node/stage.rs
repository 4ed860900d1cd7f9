//! NodeStage: a volume's image mapped, with a file system, mounted, or as a raw device.
//!
//! Lives here: the order of the steps and what is undone when one fails. The steps
//! themselves are `resolve`'s, `mapping`'s, `blank`'s and `host`'s; the way back is
//! `unstage`'s.
//!
//! What a reader gets wrong: the CO forgets a volume after a final error, and never
//! unstages it. So an error leaves nothing behind, or is one after which the CO calls
//! again. And the stash is written before the image is mapped, so that whatever a crash
//! leaves is found.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host::fs_kind::FsKind;
use crate::host::krbd::{self, Mapping};
use crate::host::mount_options::MountOptions;
use crate::host::probe::{self, Content};
use crate::host::thread::{EndsElsewhere, on_thread};
use crate::host::{HostError, bind, device, growth, mount, place, step_on_thread};
use crate::node::blank::format_mark::Mark;
use crate::node::blank::{Format, FsState, make_filesystem};
use crate::node::checks::Checks;
use crate::node::mapping::on_node::ImageKey;
use crate::node::mapping::{Mapper, Target, other_cluster};
use crate::node::staged::{self, Occupant, StagingPath};
use crate::node::stash::{self, Found, Stash};
use crate::node::unstage;
use crate::volume::capability::{Access, AccessMode, Capability};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::id::VolumeId;
use crate::volume::image::resolve::{RESTRICTED, Resolved, Resolver};
use crate::volume::map_options::{MapOptions, UnmapOptions};
use crate::volume::mount_flags;
use crate::volume::operation::Progress;
use crate::volume::request::Secrets;

/// A mount that waits for its cluster is not given up before this; a repeated call joins it.
const LONGEST: Duration = Duration::from_secs(600);
/// How long a staged volume's image is looked for.
const UNMARK: Duration = Duration::from_secs(10);
/// Reading a healthy device's superblock takes milliseconds.
const LOOK: Duration = Duration::from_secs(60);

/// A volume to be staged, and with what.
pub struct Staging {
    /// Where.
    pub place: StagingPath,
    /// How it will be used.
    pub capability: Capability,
    /// The volume's context, as CreateVolume or a PersistentVolume gave it.
    pub context: BTreeMap<String, String>,
    /// Whose key maps it.
    pub secrets: Secrets,
    /// The way to its image.
    pub resolver: Resolver,
    /// The way to its device.
    pub mapper: Mapper,
    /// The turns of the programs that check and make file systems.
    pub checks: Checks,
    /// This node's name.
    pub node: String,
    /// A folder for a sparse file of the volume's size.
    pub scratch: PathBuf,
}

/// What came of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounted {
    /// It is mounted.
    Yes,
    /// It is not: the file system's journal has to be replayed first, on a writable device.
    NeedsReplay(FsKind),
}

/// Stages the volume; what is staged the same way already is left as it is.
///
/// # Errors
/// See [`servable::check`](crate::volume::servable::check), [`Resolver::resolve`], [`Mapper::map`] and [`make_filesystem`];
/// [`Kind::AlreadyExists`] when it is staged there in another way.
pub async fn stage(staging: &Staging, progress: &Progress) -> Result<()> {
    let place = &staging.place;
    progress.step(format!("looking at {}", place.entry.display()));
    let stash = stash::usable(&place.folder).await.map_err(left_behind)?;
    if let Some(occupant) = staged::at(&place.entry).await.map_err(left_behind)? {
        if !occupant.is_stale(&place.volume_id, stash.as_ref()) {
            return staging.take_over(&occupant, stash.as_ref(), progress).await;
        }
        tracing::warn!(volume = place.volume_id, found = occupant.describe(), "staging it anew");
        let config = &staging.resolver.config;
        unstage::take_down(place, &staging.mapper, config, progress).await.map_err(Error::unsettled)?;
    }
    match staging.build(stash, progress).await {
        Ok(()) => Ok(()),
        Err(error) => Err(staging.undo(error, progress).await),
    }
}

impl Staging {
    /// What is mounted there already: by the same call before, or by ceph-csi.
    async fn take_over(&self, occupant: &Occupant, stash: Option<&Stash>, progress: &Progress) -> Result<()> {
        let (volume, entry) = (&self.place.volume_id, self.place.entry.display());
        let Some(mapping) = occupant.of_volume(volume, stash) else {
            let text = format!(
                "what is mounted at {entry} is {}, not volume {volume}; nothing was changed",
                occupant.describe()
            );
            let error = Error::new(Kind::Precondition, text);
            // An earlier try has been here, and its mapping may be left.
            return Err(if stash.is_some() { error.unsettled() } else { error });
        };
        if let Some(difference) = self.difference(occupant, mapping).await? {
            let text = format!("volume {volume} is staged at {entry} already, {difference}");
            return Err(Error::new(Kind::AlreadyExists, text));
        }
        if stash.is_none() {
            stash::write(&self.place.folder, &Stash::of_mapping(mapping)).await.map_err(Error::unsettled)?;
        }
        if !mapping.read_only && !occupant.mount.read_only {
            self.unmark(mapping, progress).await;
        }
        // The call before may have been interrupted just here.
        match FsKind::parse(&occupant.mount.fs_type) {
            Some(kind) if !occupant.is_block() && !mapping.read_only && !occupant.mount.read_only => {
                let device = mapping.device();
                let grown = self.grow_if_smaller(kind, &device, progress).await;
                self.warn_of_growth(grown);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A file system that cannot grow, or whose cluster does not answer just now, is as usable as
    /// before: the pod starts, and NodeExpandVolume says what is wrong.
    fn warn_of_growth(&self, grown: Result<()>) {
        if let Err(error) = grown {
            let volume = &self.place.volume_id;
            tracing::warn!(volume, %error, "the file system is smaller than its device, and did not grow");
        }
    }

    /// Removes a mark that whoever staged it, such as ceph-csi, has not known. The volume is
    /// in use, with or without its cluster, so a failure is no reason to fail.
    async fn unmark(&self, mapping: &Mapping, progress: &Progress) {
        progress.step(format!("looking for a format mark on {}", self.place.volume_id));
        let look = async {
            let (place, context) = (&self.place.volume_id, &self.context);
            let resolved = self.resolver.resolve(place, context, &self.secrets, &[]).await?;
            if resolved.image_id.as_str() == mapping.image_id {
                Mark::clear(&resolved.pool, &resolved.image_id).await?;
            }
            Ok::<_, Error>(())
        };
        let problem = match tokio::time::timeout(UNMARK, look).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer in {UNMARK:?}"),
        };
        tracing::warn!(volume = self.place.volume_id, problem, "whether it has a format mark is not known");
    }

    async fn difference(&self, occupant: &Occupant, mapping: &Mapping) -> Result<Option<String>> {
        if self.is_of_another_image(mapping).await {
            let spec = krbd::spec(&mapping.pool, &mapping.namespace, &mapping.image);
            return Ok(Some(format!("from image {spec} of cluster {}", mapping.cluster_fsid)));
        }
        let is_block = matches!(self.capability.access, Access::Block);
        if occupant.is_block() != is_block {
            return Ok(Some(format!("as a {}", if is_block { "file system" } else { "block device" })));
        }
        if let Access::Mount { fs_type, .. } = &self.capability.access
            && !fs_type.is_empty()
            && !staged::same_family(fs_type, &occupant.mount.fs_type)
        {
            return Ok(Some(format!("with file system type {}", occupant.mount.fs_type)));
        }
        let asked = MapOptions::parse(self.parameter("mapOptions"))?.read_only() || self.read_only();
        // Other drivers map it writable for a mount that leaves the journal out.
        let either = self.maps_read_only() && occupant.mount.read_only;
        Ok((mapping.read_only != asked && !either)
            .then(|| format!("mapped {}", if mapping.read_only { "read-only" } else { "writable" })))
    }

    /// A static volume's handle is the image's name, which images of several pools and clusters may
    /// have: what is mounted must be the one of this request's context. Asks no cluster.
    async fn is_of_another_image(&self, mapping: &Mapping) -> bool {
        if VolumeId::parse(&self.place.volume_id).is_some() {
            return false;
        }
        let (cluster_id, pool) = (self.parameter("clusterID"), self.parameter("pool"));
        let config = &self.resolver.config;
        // What is mounted stays usable without its entry of config.json.
        let namespace = config.cluster(cluster_id).map(|cluster| cluster.rados_namespace);
        let elsewhere = namespace.is_ok_and(|namespace| namespace != mapping.namespace);
        let other = (!pool.is_empty() && pool != mapping.pool) || elsewhere;
        other || other_cluster::is_of_another(mapping, cluster_id, config).await
    }

    /// Steps: 1. Which image, and the turn with it. 2. The stash. 3. Map. 4. The file system, or
    /// the raw device. An error in any leaves the rest to [`Staging::undo`].
    async fn build(&self, old: Option<Stash>, progress: &Progress) -> Result<()> {
        // 1.
        progress.step(format!("looking up volume {}", self.place.volume_id));
        let (volume, context) = (&self.place.volume_id, &self.context);
        let resolved = self.resolver.resolve(volume, context, &self.secrets, &[RESTRICTED]).await?;
        resolved.refuse_restricted(volume)?;
        unstage::refuse_content(&self.place.entry).await?;
        // 2.
        let unmap = UnmapOptions::parse(self.parameter("unmapOptions"))?;
        let stash = Stash::new(resolved.pool.name(), resolved.pool.namespace(), &resolved.image, unmap)
            .on(resolved.pool.connection().fsid_text(), resolved.image_id.as_str());
        let own = old.as_ref().is_some_and(|old| old.is_same_image(&stash));
        if old.is_some() && !own {
            unstage::take_down(&self.place, &self.mapper, &self.resolver.config, progress).await?;
        }
        let key = ImageKey::of_target(&self.target(&resolved));
        // Another handle may lead to the same image. What undoes this takes its own turn.
        let _turn = self.mapper.turn(key, progress).await?;
        // Before the stash says that it is ours.
        if let Err(used) = self.mapper.refuse_used(&self.target(&resolved)).await {
            return match own {
                true => self.share(&resolved, used, progress).await,
                false => Err(used),
            };
        }
        self.write_stash(&stash).await?;
        // 3. and 4.
        if let Access::Mount { .. } = &self.capability.access {
            return match self.read_only() {
                true => self.mount_for_readers(&resolved, progress).await,
                false => self.map_and_mount(&resolved, progress).await?.or_refuse(&resolved),
            };
        }
        let mapping = self.map(&resolved, progress).await?;
        holding(&mapping, async {
            if !mapping.read_only {
                // From now on what is there may be anybody's data, not an mkfs' remains.
                Mark::clear(&resolved.pool, &resolved.image_id).await?;
            }
            self.attach(&mapping, progress).await
        })
        .await
    }

    /// Stages a volume again that is still in use on this node as itself: its pods have it, though
    /// it is mounted at the staging path no more, or a mount of it is left in another container's
    /// view. The kernel has one state for all mounts of one device, so one more is safe; whoever
    /// else has claimed the device (LVM, mkfs) it refuses. Nothing is checked, formatted or grown.
    ///
    /// # Errors
    /// `used` when another volume has it, or it cannot be used as it is mapped.
    async fn share(&self, resolved: &Resolved, used: Error, progress: &Progress) -> Result<()> {
        let mappings = ImageKey::of_target(&self.target(resolved)).mappings().await?;
        let asked = MapOptions::parse(self.parameter("mapOptions"))?.read_only() || self.maps_read_only();
        let [mapping] = mappings.as_slice() else { return Err(used) };
        if mapping.read_only != asked || unstage::is_anothers(&mappings, &self.place).await? {
            return Err(used);
        }
        tracing::info!(volume = self.place.volume_id, %used, "staging it beside its other mounts");
        let Access::Mount { flags, fs_type, .. } = &self.capability.access else {
            return self.attach(mapping, progress).await;
        };
        holding(mapping, async {
            let device = mapping.device();
            let kind = match probe::look(&device, LOOK).await?.content {
                Content::Filesystem(kind) if fs_type.is_empty() || staged::same_family(fs_type, &kind) => {
                    FsKind::parse(&kind)
                }
                _ => None,
            };
            let Some(kind) = kind else { return Err(used) };
            let options = options(kind, &mount_flags::parse(flags, self.read_only())?, mapping.read_only);
            let mounted = self.mount_at_entry(&device, kind, &options, progress).await?;
            mounted.map_err(|error| match error.errno {
                libc::EBUSY => used.because(error),
                _ => explain(error, kind, !flags.is_empty()),
            })
        })
        .await
    }

    /// Maps the image and mounts its file system.
    pub(super) async fn map_and_mount(&self, resolved: &Resolved, progress: &Progress) -> Result<Mounted> {
        let mapping = self.map(resolved, progress).await?;
        holding(&mapping, self.mount(resolved, &mapping, progress)).await
    }

    async fn write_stash(&self, stash: &Stash) -> Result<()> {
        stash::write(&self.place.folder, stash).await.map_err(|error| {
            let folder = self.place.folder.display();
            error.while_doing(format!("staging_target_path {folder} must exist and be writable"))
        })
    }

    async fn map(&self, resolved: &Resolved, progress: &Progress) -> Result<Mapping> {
        self.mapper.map(&self.target(resolved), progress).await
    }

    pub(super) fn target<'a>(&'a self, resolved: &'a Resolved) -> Target<'a> {
        let is_block = matches!(self.capability.access, Access::Block);
        Target {
            pool: &resolved.pool,
            monitors: &resolved.cluster.monitors,
            credentials: &resolved.credentials,
            image: &resolved.image,
            image_id: &resolved.image_id,
            header: &resolved.header,
            map_options: self.parameter("mapOptions"),
            read_only: self.maps_read_only(),
            own_client: false,
            netns: resolved.cluster.net_namespace_file.as_deref(),
            multi_node_block: is_block && self.capability.mode == AccessMode::MultiNodeMultiWriter,
            mirror_daemons: resolved.cluster.mirror_daemon_count,
        }
    }

    /// A raw device: its file, bound onto an empty one.
    async fn attach(&self, mapping: &Mapping, progress: &Progress) -> Result<()> {
        let entry = &self.place.entry;
        progress.step(format!("mounting {} at {}", mapping.device().display(), entry.display()));
        self.make_entry(place::make_file, 0o600).await?;
        Ok(bind::bind(&mapping.device(), entry, false).await?)
    }

    /// A file system: found or made, mounted, and as large as its device.
    async fn mount(&self, resolved: &Resolved, mapping: &Mapping, progress: &Progress) -> Result<Mounted> {
        let Access::Mount { fs_type, flags, .. } = &self.capability.access else {
            return Err(Error::new(Kind::Internal, "a raw device is not mounted"));
        };
        let device = mapping.device();
        let format = Format {
            pool: &resolved.pool,
            image: &resolved.image,
            image_id: &resolved.image_id,
            device: &device,
            fs_type,
            mkfs_options: self.parameter("mkfsOptions"),
            node: &self.node,
            is_static: resolved.is_static,
            read_only: mapping.read_only,
            scratch: &self.scratch,
            checks: &self.checks,
        };
        let made = make_filesystem(&format, progress).await?;
        let kind = made.kind();
        let flags = mount_flags::parse(flags, self.read_only())?;
        let options = options(kind, &flags, mapping.read_only);
        let mounted = self.mount_at_entry(&device, kind, &options, progress).await?;
        match mounted {
            // What the kernel says of a journal that it would have to replay onto such a device.
            Err(error) if error.is(libc::EROFS) && mapping.read_only => {
                return Ok(Mounted::NeedsReplay(kind));
            }
            Err(error) if error.is(libc::EBUSY) => return Err(format.claimed(error).await),
            mounted => mounted.map_err(|error| explain(error, kind, !flags.is_empty()))?,
        }
        if let FsState::Found { can_grow: true, .. } = made
            && options.flags & libc::MS_RDONLY == 0
        {
            let grown = self.grow(kind, &device, progress).await;
            if grown.is_ok() && kind == FsKind::Xfs {
                self.write_new_size(&device, &options, progress).await?;
            }
            self.warn_of_growth(grown);
        }
        Ok(Mounted::Yes)
    }

    /// XFS keeps its new size in the journal alone until it has time, half a minute. Kernels
    /// such as 6.1 cannot replay what lies beyond the old size: until then a snapshot, or the
    /// node's death, makes a file system that is never mounted again. Unmounting writes it.
    async fn write_new_size(&self, device: &Path, options: &MountOptions, progress: &Progress) -> Result<()> {
        let entry = &self.place.entry;
        progress.step(format!("mounting {} at {} again", device.display(), entry.display()));
        match mount::unmount(entry, LONGEST).await {
            // Somebody looks into it; nobody writes yet.
            Err(error) if error.is(libc::EBUSY) => {
                tracing::warn!(volume = self.place.volume_id, %error, "the grown file system is not written out yet");
                return Ok(());
            }
            unmounted => unmounted?,
        };
        let mounted = mount::mount(device, entry, FsKind::Xfs.name(), options, LONGEST).await;
        mounted.map_err(|error| explain(error, FsKind::Xfs, false))
    }

    /// Makes the mount point and mounts the device there; what the kernel says of that is the
    /// caller's to tell.
    async fn mount_at_entry(
        &self,
        device: &Path,
        kind: FsKind,
        options: &MountOptions,
        progress: &Progress,
    ) -> Result<crate::host::Result<()>> {
        let entry = &self.place.entry;
        self.make_entry(place::make_directory, 0o750).await?;
        progress.step(format!("mounting {} at {}", device.display(), entry.display()));
        Ok(mount::mount(device, entry, kind.name(), options, LONGEST).await)
    }

    async fn make_entry(&self, make: fn(&Path, u32) -> crate::host::Result<bool>, mode: u32) -> Result<()> {
        let path = self.place.entry.clone();
        let object = path.display().to_string();
        step_on_thread("host: make mount point", "make", object, move || make(&path, mode)).await?;
        Ok(())
    }

    async fn grow_if_smaller(&self, kind: FsKind, device: &Path, progress: &Progress) -> Result<()> {
        progress.step(format!("comparing the file system on {} with its size", device.display()));
        match probe::look(device, LOOK).await?.superblock {
            Some(superblock) if superblock.can_grow() => self.grow(kind, device, progress).await,
            _ => Ok(()),
        }
    }

    async fn grow(&self, kind: FsKind, device: &Path, progress: &Progress) -> Result<()> {
        progress.step(format!("growing the {kind} file system on {}", device.display()));
        Ok(growth::grow(kind, device, &self.place.entry).await?)
    }

    pub(super) fn parameter(&self, name: &str) -> &str {
        self.context.get(name).map_or("", String::as_str)
    }

    pub(super) fn read_only(&self) -> bool {
        self.capability.read_only()
    }

    /// Who looks at a damaged file system without its journal wants the image to stay as it is.
    fn maps_read_only(&self) -> bool {
        let Access::Mount { flags, .. } = &self.capability.access else { return self.read_only() };
        let options = mount_flags::parse(flags, self.read_only());
        self.read_only() || options.is_ok_and(|options| mount_flags::without_journal(&options))
    }

    /// Takes back what was done, and says whether that succeeded by the error's kind.
    async fn undo(&self, error: Error, progress: &Progress) -> Error {
        // Without a stash nothing was mapped, by this call or one before it.
        let nothing = matches!(stash::read(&self.place.folder).await, Ok(Found::Nothing));
        if nothing {
            return error;
        }
        match unstage::take_down(&self.place, &self.mapper, &self.resolver.config, progress).await {
            Ok(()) => error,
            Err(left) => {
                let (volume, place) = (&self.place.volume_id, self.place.folder.display());
                tracing::warn!(volume, %place, error = %left, "a failed staging could not be undone");
                error.unsettled()
            }
        }
    }
}

/// The node cannot tell what an earlier try has left: an error of its own is not the CO's to
/// forget the volume after. A path that no volume could ever be staged at is.
fn left_behind(error: Error) -> Error {
    match error.kind {
        Kind::Precondition | Kind::InvalidArgument => error,
        _ => error.unsettled(),
    }
}

/// Keeps the device's name from becoming another image's while this is done with it: proven,
/// formatted, mounted. It is let go on every way out, before anything unmaps.
pub(super) async fn holding<T>(mapping: &Mapping, work: impl Future<Output = Result<T>>) -> Result<T> {
    let device = mapping.device().display().to_string();
    let this = mapping.clone();
    let held = on_thread("open", &device, move || device::hold(&this).map(EndsElsewhere::new)).await;
    let held = held.map_err(|error| match error.errno {
        libc::ENOENT => {
            let text = format!("{device} is missing; the driver needs the host's /dev");
            Error::new(Kind::Precondition, text).because(error)
        }
        libc::ESTALE => Error::new(Kind::Precondition, "the device is another's").because(error),
        _ => error.into(),
    })?;
    let done = work.await;
    held.let_go("close", &device).await;
    done
}

/// XFS refuses a second file system of the same uuid, which a clone or a restored
/// snapshot is.
fn options(kind: FsKind, flags: &[String], read_only: bool) -> MountOptions {
    let first = (kind == FsKind::Xfs).then_some("nouuid");
    let last = read_only.then_some("ro");
    MountOptions::from_items(first.into_iter().chain(flags.iter().map(String::as_str)).chain(last))
}

fn explain(error: HostError, kind: FsKind, has_flags: bool) -> Error {
    let (fact, text) = match error.errno {
        libc::EINVAL if has_flags => (
            Kind::InvalidArgument,
            "the kernel refuses an option among mount_flags, or the file system; its log says which",
        ),
        libc::EINVAL | libc::EUCLEAN | libc::EROFS | libc::EACCES => {
            (Kind::Precondition, "the kernel refuses the file system; its log (dmesg) says why")
        }
        libc::ENODEV => (Kind::Precondition, "this node's kernel does not have the file system"),
        _ => return Error::from(error).while_doing(format!("mounting {kind}")),
    };
    Error::new(fact, format!("mounting {kind}: {text}")).because(error)
}
