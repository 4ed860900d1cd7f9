//! A volume's image as a device of this node, and back.
//!
//! Lives here: what is decided before the kernel is asked, in this order: the module is
//! there; an existing mapping is taken over; the kernel knows the image's features; no
//! other client uses it; librados has just reached the cluster. How the kernel is asked
//! is `host::krbd` or, with `--map-with=rbd`, `host::rbd_program`.
//!
//! What a reader gets wrong: the kernel has one lock for all maps of the node while it
//! opens a session, so a map to a cluster that does not answer stops every other volume
//! for up to `mount_timeout`. That is why librados goes first, why a monitor has to greet in the
//! kernel's own network (`host::greeting`), why a cluster that the kernel did not reach all the same is
//! left alone for a while (`way`), and why the time-out is never longer than what is left of
//! the call. Steps are not cut off at the deadline:
//! they run on threads of their own, the operation waits for them, and the repeat of the
//! call joins the operation, so a late map is not lost.

pub mod answers;
pub mod in_use;
pub mod monitors;
pub mod on_node;
pub mod other_cluster;
mod target;
mod way;

use std::time::{Duration, Instant};

use crate::host::krbd::{self, MapRequest, Mapping};
use crate::host::thread::on_thread;
use crate::host::{HostError, greeting, holders, module, rbd_program};
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::{MapOptions, UnmapOptions};
use crate::volume::operation::Progress;
use answers::explain;
use in_use::{require_alone, wait_until_free};
use on_node::{ImageKey, Turn, Turns};
use target::{NOSHARE, check_features, route};
use way::{Way, Ways};

pub use target::Target;

/// An unmap is tried again for this long: udev and probes hold a device for moments.
const BUSY_FOR: Duration = Duration::from_secs(3);

/// A reader maps anew when a writer came meanwhile, such as another node that replays the
/// journal, but not for ever.
const MOST_MAPS: usize = 5;

/// A map by the program is not ended before this: the kernel would go on with it alone.
const LONGEST_MAP: Duration = Duration::from_secs(600);

/// How long a monitor may take to greet.
const GREETING: Duration = Duration::from_secs(10);

/// The least time that a run of the program `rbd` gets.
const LEAST_RUN: Duration = Duration::from_secs(5);

/// Who talks to the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MapWith {
    /// The driver itself, through sysfs.
    #[default]
    Kernel,
    /// Ceph's program `rbd`.
    Rbd,
}

/// Maps and unmaps images.
#[derive(Debug, Clone, Default)]
pub struct Mapper {
    with: MapWith,
    turns: Turns,
    ways: Ways,
}

impl Mapper {
    /// A mapper that works through this.
    pub fn new(with: MapWith) -> Self {
        Self { with, ..Self::default() }
    }

    /// Waits for the turn with an image, which whoever maps, mounts or unmaps it here has.
    ///
    /// # Errors
    /// As [`Turns::take`].
    pub async fn turn(&self, key: ImageKey, progress: &Progress) -> Result<Turn> {
        self.turns.take(key, progress).await
    }

    /// Refuses an image that somebody uses on this node already. The caller has the turn with it.
    ///
    /// # Errors
    /// [`Kind::InUse`] with the device and who uses it.
    pub async fn refuse_used(&self, target: &Target<'_>) -> Result<Vec<Mapping>> {
        let found = ImageKey::of_target(target).mappings().await?;
        for mapping in &found {
            if let Some(user) = on_node::user_of(mapping).await? {
                return Err(on_node::in_use(&target.spec(), mapping, &user));
            }
        }
        Ok(found)
    }

    /// Maps the image, or takes over the mapping of it that is there and that nobody uses. The
    /// caller has the turn with the image. Afterwards this is its one device on the node.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for the options; [`Kind::Precondition`] for features that
    /// the kernel lacks; [`Kind::InUse`] when another client has the image, or it is used on this
    /// node already; the kernel's answers as [`explain`] tells them.
    pub async fn map(&self, target: &Target<'_>, progress: &Progress) -> Result<Mapping> {
        for _ in 0..MOST_MAPS {
            let Some(mapping) = self.map_once(target, progress).await? else { continue };
            // A person's `rbd map` asks for no turn.
            let all = ImageKey::of_target(target).mappings().await?;
            let Some(other) = all.iter().find(|other| !other.is_same(&mapping)) else { return Ok(mapping) };
            let user = "it was mapped at this moment, not by this driver";
            let error = on_node::in_use(&target.spec(), other, user);
            return Err(self.give_back(&mapping, error, progress).await);
        }
        let text = format!("{} is used by one writer after the other, and cannot be read", target.spec());
        Err(Error::new(Kind::InUse, text))
    }

    /// `None` when a reader has let go of it again for a writer that came meanwhile.
    async fn map_once(&self, target: &Target<'_>, progress: &Progress) -> Result<Option<Mapping>> {
        let options = MapOptions::parse(target.map_options)?;
        let spec = target.spec();
        // 1. The module: without it there is nothing to look into.
        progress.step("loading the kernel module rbd");
        on_thread("modprobe", "rbd", module::ensure_loaded).await.map_err(no_module)?;
        // 2. What is mapped already: by a driver that was killed here, or before a retry.
        progress.step(format!("looking for a mapping of {spec}"));
        if let Some(mapping) = self.take_over_or_unmap(target, &options, progress).await? {
            tracing::info!(image = spec, device = %mapping.device().display(), "taking over a mapping");
            return self.alone(target, mapping, progress).await;
        }
        // 3. What the kernel can do.
        check_features(target).await?;
        // 4. Nobody else has it.
        if !target.multi_node_block {
            wait_until_free(target.pool, target.image_id, target.image, target.mirror_daemons, progress)
                .await?;
        }
        // 5. The monitors, asked now: librados reaches them before the kernel tries.
        progress.step(format!("asking the monitors for their addresses, to map {spec}"));
        let route = route(target, &options).await?;
        // 6. The map itself.
        let fsid = target.pool.connection().fsid().await?;
        let way = Way::new(&fsid, &route, &options, target.netns);
        progress.step(format!("waiting for a monitor to greet in this node's network, to map {spec}"));
        require_greeting(target, &way, progress).await?;
        let pass = self.ways.pass(&way, &spec, progress).await?;
        let left = progress.deadline.left().min(pass.most.unwrap_or(Duration::MAX));
        let (request, mount_timeout) = target.request(&options, route, &fsid, left)?;
        progress.step(format!("mapping {spec} with the kernel"));
        let features = target.header.features.to_string();
        let mapped = self.ask_kernel(&request, mount_timeout, way).await;
        drop(pass);
        let mapping = mapped.map_err(|error| explain(error, &request, &features, mount_timeout))?;
        // 7. The kernel went by the name; it must be the image that was looked up.
        if let Some(error) = target.another(&mapping, &fsid) {
            return Err(self.give_back(&mapping, error, progress).await);
        }
        // 8. Nobody came meanwhile.
        self.alone(target, mapping, progress).await
    }

    /// Lets the kernel map it. A client that other mappings of this node share may be on the
    /// cluster's blocklist, and lives until the last of them is gone; a new one is not.
    async fn ask_kernel(
        &self,
        request: &MapRequest,
        mount_timeout: u64,
        way: Way,
    ) -> crate::host::Result<Mapping> {
        let since = Instant::now();
        let mut mapped = self.map_as_asked(request.clone()).await;
        let shares = !request.options.iter().any(|option| option == NOSHARE);
        if shares && matches!(&mapped, Err(error) if error.is(libc::ESHUTDOWN)) {
            tracing::warn!(
                image = request.spec(),
                "the cluster has fenced this node's client: mapping with a new one"
            );
            let mut alone = request.clone();
            alone.options.push(NOSHARE.to_owned());
            mapped = self.map_as_asked(alone).await;
        }
        match &mapped {
            // Of an image or an object, not of the cluster.
            Err(error)
                if error.is(libc::ETIMEDOUT) && request.options.iter().any(|option| has_own_time(option)) => {
            }
            Err(error) if error.is(libc::ETIMEDOUT) => {
                // It may have waited for another map before.
                let took = since.elapsed().min(Duration::from_secs(mount_timeout));
                self.ways.timed_out(way, took, Instant::now());
            }
            _ => self.ways.answered(way),
        }
        mapped
    }

    async fn map_as_asked(&self, request: MapRequest) -> crate::host::Result<Mapping> {
        let (with, spec) = (self.with, request.spec());
        on_thread("krbd map", &spec, move || match with {
            MapWith::Kernel => krbd::map(&request),
            MapWith::Rbd => rbd_program::map(&request, LONGEST_MAP),
        })
        .await
    }

    /// Looks again, now that this node's own watch is to be seen: of two nodes that map
    /// at the same moment at least one sees the other, and one goes on.
    async fn alone(
        &self,
        target: &Target<'_>,
        mapping: Mapping,
        progress: &Progress,
    ) -> Result<Option<Mapping>> {
        if target.multi_node_block {
            return Ok(Some(mapping));
        }
        progress.step(format!("looking for other clients of {}", target.spec()));
        let (pool, id, daemons) = (target.pool, target.image_id, target.mirror_daemons);
        match require_alone(pool, id, target.image, daemons, mapping.client_id, progress).await {
            Ok(()) => Ok(Some(mapping)),
            // What was read of the device so far may be of before the writer's work.
            Err(error) if error.kind == Kind::InUse && target.read_only => {
                self.unmap_one(&mapping, UnmapOptions::default(), progress)
                    .await
                    .map_err(Error::unsettled)?;
                tracing::info!(image = target.spec(), %error, "waiting for a writer");
                Ok(None)
            }
            Err(error) if error.kind == Kind::InUse => Err(self.give_back(&mapping, error, progress).await),
            Err(error) => Err(error),
        }
    }

    async fn give_back(&self, mapping: &Mapping, error: Error, progress: &Progress) -> Error {
        match self.unmap_one(mapping, UnmapOptions::default(), progress).await {
            Ok(()) => error,
            Err(left) => {
                tracing::warn!(device = %mapping.device().display(), error = %left, "a refused mapping stays");
                error.unsettled()
            }
        }
    }

    /// The mapping of the same image that nobody uses and that is as it is wanted. Others that
    /// nobody uses are unmapped: those with another name, the other of ro and rw, dropped by the
    /// cluster, or a second one.
    async fn take_over_or_unmap(
        &self,
        target: &Target<'_>,
        options: &MapOptions,
        progress: &Progress,
    ) -> Result<Option<Mapping>> {
        let found = self.refuse_used(target).await?;
        if found.is_empty() {
            return Ok(None);
        }
        let watchers = target.pool.image_watchers(target.image_id).await?;
        let mut taken = None;
        for mapping in found {
            let wrong = if mapping.image != target.image || mapping.pool != target.pool.name() {
                "it was mapped under another name"
            } else if mapping.read_only != (target.read_only || options.read_only()) {
                "it differs in being read-only"
            } else if !mapping.read_only && watchers.iter().all(|watcher| watcher.client != mapping.client_id)
            {
                "the cluster has dropped the client that mapped it"
            } else if taken.is_some() {
                "it is mapped twice"
            } else {
                taken = Some(mapping);
                continue;
            };
            let device = mapping.device().display().to_string();
            tracing::warn!(device, wrong, "unmapping a left-over mapping");
            let undone = self.unmap_one(&mapping, UnmapOptions::default(), progress).await;
            undone.map_err(|error| {
                error.while_doing(format!(
                    "{} is mapped as {device} and cannot be used: {wrong}",
                    target.spec()
                ))
            })?;
        }
        Ok(taken)
    }

    /// Unmaps these mappings.
    ///
    /// # Errors
    /// [`Kind::InUse`] with who holds a device. The other mappings are unmapped all the same.
    pub async fn unmap(
        &self,
        mappings: &[Mapping],
        options: UnmapOptions,
        progress: &Progress,
    ) -> Result<()> {
        let mut outcome = Ok(());
        for mapping in mappings {
            let one = self.unmap_one(mapping, options, progress).await;
            outcome = outcome.and(one);
        }
        outcome
    }

    async fn unmap_one(&self, mapping: &Mapping, options: UnmapOptions, progress: &Progress) -> Result<()> {
        let device = mapping.device();
        let name = device.display().to_string();
        let spec = krbd::spec(&mapping.pool, &mapping.namespace, &mapping.image);
        progress.step(format!("unmapping {name} ({spec})"));
        let (with, limit) = (self.with, progress.deadline.left().max(LEAST_RUN));
        let again = tokio::time::Instant::now() + progress.deadline.left_at_most(BUSY_FOR);
        loop {
            let this = mapping.clone();
            let unmapped = on_thread("krbd unmap", &name, move || match with {
                MapWith::Kernel => krbd::unmap(&this, options.force),
                MapWith::Rbd => rbd_program::unmap(&this, options.force, limit),
            });
            let error = match unmapped.await {
                Ok(()) => return Ok(()),
                Err(error) if error.is(libc::EBUSY) => error,
                Err(error) => return Err(Error::from(error).while_doing(format!("unmapping {spec}"))),
            };
            if tokio::time::Instant::now() < again {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            progress.step(format!("looking for who holds {name} ({spec})"));
            let path = device.clone();
            let held = holders::told(&name, move || holders::of_device(&path)).await;
            return Err(Error::new(Kind::InUse, format!("{spec} cannot be unmapped: {held}")).because(error));
        }
    }
}

/// Map options by which the kernel gives up waiting for a lock or an object.
fn has_own_time(option: &str) -> bool {
    ["lock_timeout=", "osd_request_timeout="].iter().any(|name| option.starts_with(name))
}

/// The kernel would wait for a monitor that it cannot reach, and all other maps of the node with it.
async fn require_greeting(target: &Target<'_>, way: &Way, progress: &Progress) -> Result<()> {
    let (monitors, netns, protocol) = (way.monitors.clone(), way.netns.clone(), way.protocol());
    let (spec, limit) = (target.spec(), progress.deadline.left_at_most(GREETING));
    if limit < Duration::from_secs(1) {
        return Err(target.no_time_left());
    }
    let greeted = on_thread(greeting::GREETING, &spec, move || {
        greeting::wait(&monitors, netns.as_deref(), protocol, limit)
    });
    greeted.await.map_err(|error| answers::not_greeted(error, target, way))
}

fn no_module(error: HostError) -> Error {
    if !error.is(libc::ENODEV) && !error.is(libc::ENOENT) {
        return error.into();
    }
    Error::new(Kind::Precondition, module::ADVICE).because(error)
}
