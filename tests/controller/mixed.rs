//! Everything at once: 64 callers that make, snapshot, restore, clone, grow and delete, in two
//! pools, while controllers are killed and sometimes two of them are alive. In the end the
//! cluster holds what the callers were told, and nothing else.
//!
//! What a reader gets wrong: the callers are COs. Each repeats its call until it is answered for
//! good, at the same controller for as long as that lives; it gives up only what is made of
//! something that is gone. `SWEEP=full` goes on for five minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rbd_csi::csi::proto;
use rbd_csi::volume::id::VolumeId;
use tonic::{Code, Status};

use crate::audit::{self, Source, Told};
use crate::support::bench::{Bench, SOON};
use crate::support::driver;
use crate::support::fleet::{Bound, Fleet};
use crate::support::pool;
use crate::support::random::{self, Random};
use crate::support::snapshots::Of;
use crate::support::whole::Whole;

const CALLERS: u64 = 64;
/// Volumes and snapshots at once.
const MOST: usize = 200;
const SECOND: &str = "mixed-second";
const MIB: i64 = 1 << 20;
const SIZE: i64 = 64 * MIB;
/// No volume grows beyond it, so that it is enough for whatever is made of one.
const LARGEST: i64 = 512 * MIB;
/// What a caller waits for one answer.
const DEADLINE: Duration = Duration::from_secs(30);
/// What it waits for the end of all its repeats. A client that is dead keeps a lock for 30 s, and
/// a snapshot that was given up holds a deletion up for 60 s.
const PATIENCE: Duration = Duration::from_secs(300);

/// A call, to be sent as often as need be.
#[derive(Debug, Clone)]
enum Call {
    Create(proto::CreateVolumeRequest),
    Snapshot(proto::CreateSnapshotRequest),
    Grow(proto::ControllerExpandVolumeRequest),
    Delete(proto::DeleteVolumeRequest),
    DeleteSnapshot(proto::DeleteSnapshotRequest),
}

#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Volume(proto::Volume),
    Snapshot(proto::Snapshot),
    Grown(i64),
    Gone,
}

impl Call {
    async fn send(self, to: &Bound, within: Duration) -> Result<Answer, Status> {
        fn timed<T>(message: T, within: Duration) -> tonic::Request<T> {
            let mut request = tonic::Request::new(message);
            request.set_timeout(within);
            request
        }
        let mut client = to.client();
        Ok(match self {
            Self::Create(request) => {
                let answer = client.create_volume(timed(request, within)).await?;
                Answer::Volume(answer.into_inner().volume.unwrap())
            }
            Self::Snapshot(request) => {
                let answer = client.create_snapshot(timed(request, within)).await?;
                Answer::Snapshot(answer.into_inner().snapshot.unwrap())
            }
            Self::Grow(request) => {
                let answer = client.controller_expand_volume(timed(request, within)).await?;
                Answer::Grown(answer.into_inner().capacity_bytes)
            }
            Self::Delete(request) => {
                client.delete_volume(timed(request, within)).await?;
                Answer::Gone
            }
            Self::DeleteSnapshot(request) => {
                client.delete_snapshot(timed(request, within)).await?;
                Answer::Gone
            }
        })
    }

    fn is_deletion(&self) -> bool {
        matches!(self, Self::Delete(_) | Self::DeleteSnapshot(_))
    }

    /// What it is about, without secrets.
    fn shown(&self) -> String {
        match self {
            Self::Create(request) => {
                format!("CreateVolume {} of {:?}", request.name, request.volume_content_source)
            }
            Self::Snapshot(request) => {
                format!("CreateSnapshot {} of {}", request.name, request.source_volume_id)
            }
            Self::Grow(request) => format!("ControllerExpandVolume {}", request.volume_id),
            Self::Delete(request) => format!("DeleteVolume {}", request.volume_id),
            Self::DeleteSnapshot(request) => format!("DeleteSnapshot {}", request.snapshot_id),
        }
    }
}

/// A volume or snapshot as the CO knows it.
#[derive(Clone)]
struct Thing {
    told: Told,
    pool: &'static str,
    /// The call that made it.
    call: Call,
    answer: Answer,
    /// Its deletion was begun.
    leaving: bool,
    /// A call that changes it is under way.
    held: bool,
    /// Calls under way that make something of it.
    users: usize,
}

/// What a caller does next.
enum Task {
    Make { told: Told, pool: &'static str, call: Box<Call> },
    Grow { handle: String, size: i64 },
    Repeat { handle: String },
    Delete { handle: String },
}

/// What the COs know.
#[derive(Default)]
struct World {
    things: BTreeMap<String, Thing>,
    making: usize,
    next: u64,
    /// Names of what was deleted.
    free_names: Vec<String>,
    /// Deletions that were answered.
    deletions: Vec<Call>,
    counts: BTreeMap<&'static str, usize>,
    given_up: usize,
    /// No more calls but deletions.
    draining: bool,
}

impl World {
    fn pick(&self, random: &mut Random, fits: impl Fn(&Thing) -> bool) -> Option<String> {
        let fit: Vec<_> = self.things.values().filter(|thing| !thing.leaving && fits(thing)).collect();
        if fit.is_empty() { None } else { Some(fit[random.below(fit.len())].told.handle.clone()) }
    }

    /// A name that is new, or was a deleted volume's.
    fn name(&mut self, random: &mut Random, kind: &str) -> String {
        let of_kind: Vec<usize> =
            (0..self.free_names.len()).filter(|at| self.free_names[*at].starts_with(kind)).collect();
        if !of_kind.is_empty() && random.one_in(4) {
            return self.free_names.swap_remove(of_kind[random.below(of_kind.len())]);
        }
        self.next += 1;
        format!("{kind}-{}", self.next)
    }

    fn task(&mut self, random: &mut Random, bench: &Bench) -> Option<Task> {
        let full = self.things.len() + self.making >= MOST;
        let task = match if self.draining || full { 12 } else { random.below(14) } {
            0..=1 => self.make(random, bench, Source::Nothing),
            2..=3 => {
                let source = self.pick(random, |thing| !thing.told.snapshot)?;
                self.snapshot(random, bench, source)
            }
            4..=5 => {
                let source = self.pick(random, |thing| thing.told.snapshot)?;
                self.make(random, bench, Source::Snapshot(source))
            }
            6..=7 => {
                let source = self.pick(random, |thing| !thing.told.snapshot)?;
                self.make(random, bench, Source::Volume(source))
            }
            8 => {
                let fits = |thing: &Thing| !thing.told.snapshot && !thing.held && thing.told.size < LARGEST;
                let handle = self.pick(random, fits)?;
                let thing = self.things.get_mut(&handle)?;
                thing.held = true;
                Task::Grow { size: thing.told.size + 16 * MIB, handle }
            }
            9 => {
                let handle = self.pick(random, |thing| !thing.held)?;
                self.things.get_mut(&handle)?.held = true;
                Task::Repeat { handle }
            }
            _ => {
                // Half of the time also what others are making something of.
                let unused = !self.draining && random.one_in(2);
                let handle = self.pick(random, |thing| !thing.held && (!unused || thing.users == 0))?;
                self.things.get_mut(&handle)?.leaving = true;
                Task::Delete { handle }
            }
        };
        Some(task)
    }

    fn use_source(&mut self, source: &Source) {
        self.making += 1;
        if let Some(thing) = source.handle().and_then(|handle| self.things.get_mut(handle)) {
            thing.users += 1;
        }
    }

    fn make(&mut self, random: &mut Random, bench: &Bench, source: Source) -> Task {
        self.use_source(&source);
        let pool = if random.one_in(4) { SECOND } else { "rbd" };
        let name = self.name(random, "pvc-mixed");
        let mut request = bench.request(&name, &[("pool", pool)]);
        let range = request.capacity_range.as_mut().unwrap();
        match &source {
            Source::Nothing => range.required_bytes = SIZE,
            _ if random.one_in(2) => range.required_bytes = LARGEST,
            _ => request.capacity_range = None,
        }
        request.volume_content_source = match &source {
            Source::Nothing => None,
            Source::Snapshot(handle) => Some(Of::Snapshot(handle).content()),
            Source::Volume(handle) => Some(Of::Volume(handle).content()),
        };
        let told = Told { snapshot: false, name, handle: String::new(), size: 0, source };
        Task::Make { told, pool, call: Box::new(Call::Create(request)) }
    }

    fn snapshot(&mut self, random: &mut Random, bench: &Bench, handle: String) -> Task {
        let pool = self.things[&handle].pool;
        let source = Source::Volume(handle.clone());
        self.use_source(&source);
        let name = self.name(random, "snapshot-mixed");
        let call = Box::new(Call::Snapshot(bench.snapshot_request(&name, &handle)));
        let told = Told { snapshot: true, name, handle: String::new(), size: 0, source };
        Task::Make { told, pool, call }
    }

    /// Whether what is asked for cannot be there any more, or may be gone by now.
    fn may_be_gone(&self, handle: &str) -> bool {
        self.things.get(handle).is_none_or(|thing| thing.leaving)
    }
}

/// One run.
struct Mixed<'a> {
    bench: &'a Bench,
    fleet: Fleet<'a>,
    world: Mutex<World>,
    /// A caller has failed, or the time is up.
    ended: AtomicBool,
}

impl Mixed<'_> {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Sends a call until it is answered for good: with OK, or by the news that what it is made
    /// of is gone.
    fn insist(&self, random: &mut Random, call: &Call) -> Result<Answer, Status> {
        let since = Instant::now();
        let mut to = self.fleet.bind(random);
        loop {
            if !self.fleet.is_alive(&to) {
                to = self.fleet.bind(random);
            }
            // Now and then the caller does not wait, and comes back.
            let impatient = Duration::from_millis(20 + random.below(500) as u64);
            let within = if random.one_in(10) { impatient } else { DEADLINE };
            let status = match self.bench.wait(call.clone().send(&to, within)) {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let shown = format!("{}: {status}", call.shown());
            assert!(!shown.contains(&self.bench.cluster().admin_key), "a status holds the key");
            // What the driver did not send itself: it was killed, or the caller's time is over.
            let broken = status.source().is_some() || status.code() == Code::Cancelled;
            match status.code() {
                _ if broken => {}
                Code::Unavailable | Code::Aborted | Code::DeadlineExceeded => {}
                Code::FailedPrecondition if call.is_deletion() => {}
                Code::NotFound => return Err(status),
                _ => panic!("{shown}"),
            }
            assert!(since.elapsed() < PATIENCE, "still after {PATIENCE:?}: {shown}");
            std::thread::sleep(Duration::from_millis(50 + random.below(400) as u64));
        }
    }

    /// The call twice at once, maybe at both controllers: both get one answer.
    fn insist_twice(&self, random: &mut Random, call: &Call) -> Result<Answer, Status> {
        let seed = random.below(1 << 20) as u64;
        let answers = std::thread::scope(|scope| {
            let other = scope.spawn(|| self.insist(&mut Random::new(seed), call));
            [self.insist(random, call), other.join().unwrap()]
        });
        match answers {
            [Ok(one), Ok(other)] => {
                assert_eq!(one, other, "{}", call.shown());
                Ok(one)
            }
            // What it is made of went in between: whatever is said now is said for good.
            _ => self.insist(random, call),
        }
    }

    fn caller(&self, seed: u64) {
        let _end = EndAtPanic(&self.ended);
        let mut random = Random::new(seed);
        while !self.has_ended() {
            let (task, draining) = {
                let mut world = self.world();
                (world.task(&mut random, self.bench), world.draining)
            };
            match task {
                Some(Task::Make { told, pool, call }) => self.make(&mut random, told, pool, *call),
                Some(Task::Grow { handle, size }) => self.grow(&mut random, &handle, size),
                Some(Task::Repeat { handle }) => self.repeat(&mut random, &handle),
                Some(Task::Delete { handle }) => self.delete(&mut random, &handle),
                None if draining => return,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn make(&self, random: &mut Random, mut told: Told, pool: &'static str, call: Call) {
        let answer =
            if random.one_in(6) { self.insist_twice(random, &call) } else { self.insist(random, &call) };
        // As external-provisioner does with a claim: what was refused is asked for once more.
        let answer = answer.or_else(|_| self.insist(random, &call));
        if let Ok(answer) = &answer
            && random.one_in(4)
        {
            assert_eq!(self.insist(random, &call).unwrap(), *answer, "{}: repeated", call.shown());
        }
        let mut world = self.world();
        world.making -= 1;
        if let Some(thing) = told.source.handle().and_then(|handle| world.things.get_mut(handle)) {
            thing.users -= 1;
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                let gone = told.source.handle().is_some_and(|handle| world.may_be_gone(handle));
                assert!(gone, "{}, whose source stands: {status}", call.shown());
                world.given_up += 1;
                return;
            }
        };
        let kind = match (&answer, &told.source) {
            (Answer::Volume(volume), source) => {
                (told.handle, told.size) = (volume.volume_id.clone(), volume.capacity_bytes);
                match source {
                    Source::Nothing => "create",
                    Source::Snapshot(_) => "restore",
                    Source::Volume(_) => "clone",
                }
            }
            (Answer::Snapshot(snapshot), source) => {
                assert!(snapshot.ready_to_use, "{snapshot:?}");
                assert_eq!(Some(&*snapshot.source_volume_id), source.handle());
                (told.handle, told.size) = (snapshot.snapshot_id.clone(), snapshot.size_bytes);
                "snapshot"
            }
            (answer, _) => panic!("{}: {answer:?}", call.shown()),
        };
        *world.counts.entry(kind).or_default() += 1;
        let thing = Thing { told, pool, call, answer, leaving: false, held: false, users: 0 };
        let handle = thing.told.handle.clone();
        assert!(world.things.insert(handle.clone(), thing).is_none(), "{handle} was told twice");
    }

    fn grow(&self, random: &mut Random, handle: &str, size: i64) {
        let call = Call::Grow(proto::ControllerExpandVolumeRequest {
            volume_id: handle.to_owned(),
            capacity_range: Some(proto::CapacityRange { required_bytes: size, limit_bytes: 0 }),
            secrets: self.bench.site.secrets.clone(),
            volume_capability: Some(driver::mount()),
        });
        let answer =
            if random.one_in(6) { self.insist_twice(random, &call) } else { self.insist(random, &call) };
        let Ok(Answer::Grown(grown)) = answer else { panic!("{}: {answer:?}", call.shown()) };
        assert_eq!(grown, size, "{handle}");
        let mut world = self.world();
        *world.counts.entry("grow").or_default() += 1;
        let thing = world.things.get_mut(handle).unwrap();
        (thing.told.size, thing.held) = (size, false);
    }

    /// What made it long ago, sent again: the same answer, whatever has become of its source.
    fn repeat(&self, random: &mut Random, handle: &str) {
        let (call, mut expected, size) = {
            let thing = &self.world().things[handle];
            (thing.call.clone(), thing.answer.clone(), thing.told.size)
        };
        if let Answer::Volume(volume) = &mut expected {
            volume.capacity_bytes = size;
        }
        let answer = self.insist(random, &call);
        assert_eq!(answer.as_ref().ok(), Some(&expected), "{}: repeated: {answer:?}", call.shown());
        let mut world = self.world();
        *world.counts.entry("repeat").or_default() += 1;
        world.things.get_mut(handle).unwrap().held = false;
    }

    fn delete(&self, random: &mut Random, handle: &str) {
        let snapshot = self.world().things[handle].told.snapshot;
        let (id, secrets) = (handle.to_owned(), self.bench.site.secrets.clone());
        let call = match snapshot {
            true => Call::DeleteSnapshot(proto::DeleteSnapshotRequest { snapshot_id: id, secrets }),
            false => Call::Delete(proto::DeleteVolumeRequest { volume_id: id, secrets }),
        };
        let old = {
            let deletions = &self.world().deletions;
            if deletions.is_empty() { None } else { Some(deletions[random.below(deletions.len())].clone()) }
        };
        let answer =
            if random.one_in(6) { self.insist_twice(random, &call) } else { self.insist(random, &call) };
        assert_eq!(answer.as_ref().ok(), Some(&Answer::Gone), "{}: {answer:?}", call.shown());
        if let Some(old) = old.filter(|_| random.one_in(4)) {
            // Again is fine, also when its name has been used again since.
            let answer = self.insist(random, &old);
            assert_eq!(answer.as_ref().ok(), Some(&Answer::Gone), "{} again: {answer:?}", old.shown());
        }
        let mut world = self.world();
        let kind = if snapshot { "delete snapshot" } else { "delete" };
        *world.counts.entry(kind).or_default() += 1;
        let name = world.things.remove(handle).unwrap().told.name;
        world.free_names.push(name);
        world.deletions.push(call);
    }

    /// All callers at once until they end.
    fn run_callers(&self, seed: u64) {
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                scope.spawn(move || self.caller(seed * 1000 + caller));
            }
        });
    }

    /// Kills the first controller again and again, and lets a second come and go.
    fn disturb(&self, seed: u64) {
        let _end = EndAtPanic(&self.ended);
        let mut random = Random::new(seed);
        while !self.has_ended() {
            let until = Instant::now() + Duration::from_millis(1500 + random.below(4000) as u64);
            while Instant::now() < until && !self.has_ended() {
                std::thread::sleep(Duration::from_millis(50));
            }
            match (random.below(4), self.fleet.lives(1)) {
                (0 | 1, false) => self.fleet.start(1),
                (0, true) => self.fleet.kill(1),
                (1, true) => {
                    self.fleet.kill(1);
                    self.fleet.start(1);
                }
                _ => {
                    self.fleet.kill(0);
                    self.fleet.start(0);
                }
            }
        }
    }

    /// The load itself; what it came to.
    fn load(&self, seed: u64, time: Duration) {
        std::thread::scope(|scope| {
            scope.spawn(|| self.disturb(seed));
            scope.spawn(|| {
                let until = Instant::now() + time;
                while Instant::now() < until && !self.has_ended() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                self.ended.store(true, Ordering::Relaxed);
            });
            self.run_callers(seed);
        });
        let world = self.world();
        eprintln!(
            "{:?}; {} given up; {} controllers killed; {} stand",
            world.counts,
            world.given_up,
            self.fleet.killed(),
            world.things.len()
        );
        for kind in ["create", "snapshot", "restore", "clone", "grow", "delete", "delete snapshot"] {
            assert!(world.counts.contains_key(kind), "nothing came of {kind}: {:?}", world.counts);
        }
        assert!(self.fleet.killed() > 0);
    }

    /// Whoever was killed last has left in the background what it had begun. A controller that is
    /// started in its place finds it at its first call for the pool; one that has run for a while
    /// looks for it every ten minutes, which the audit does not wait for.
    fn take_over(&self, pools: &[&rbd_csi::ceph::Pool]) {
        for slot in [0, 1] {
            self.fleet.kill(slot);
        }
        self.fleet.start(0);
        let nothing = VolumeId::parse(&self.bench.nothing()).unwrap();
        for pool in pools {
            let id = VolumeId { pool_id: pool.id(), ..nothing.clone() }.to_string();
            let mut client = self.fleet.bind(&mut Random::new(0)).client();
            let request = driver::delete(&self.bench.site, &id);
            self.bench.wait(client.delete_volume(request)).unwrap();
        }
    }

    /// Waits until what is done in the background has ended, and nothing differs.
    fn audit(&self, pools: &[&rbd_csi::ceph::Pool]) {
        let told: Vec<Told> = self.world().things.values().map(|thing| thing.told.clone()).collect();
        let since = Instant::now();
        loop {
            let differences = audit::differences(self.bench, pools, &told);
            if differences.is_empty() {
                eprintln!("nothing differs after {:.1?}", since.elapsed());
                return;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "{differences:#?}\n{}",
                lines_about(&self.bench.site.log(), &differences)
            );
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// The lines of a log that have an id of these texts.
fn lines_about(log: &str, texts: &[String]) -> String {
    let words = texts.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    let ids: BTreeSet<&str> =
        words.filter(|word| word.len() > 10 && word.contains(|c: char| c.is_ascii_digit())).collect();
    let lines: Vec<_> = log.lines().filter(|line| ids.iter().any(|id| line.contains(id))).collect();
    lines.join("\n")
}

/// One caller's failure ends all.
struct EndAtPanic<'a>(&'a AtomicBool);

impl Drop for EndAtPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Volumes with data, which the first snapshots and clones are taken of.
fn begin(mixed: &Mixed<'_>, random: &mut Random) {
    for number in 0..4 {
        let told = Told {
            snapshot: false,
            name: format!("pvc-filled-{number}"),
            handle: String::new(),
            size: 0,
            source: Source::Nothing,
        };
        let mut request = mixed.bench.request(&told.name, &[]);
        request.capacity_range.as_mut().unwrap().required_bytes = SIZE;
        mixed.world().use_source(&told.source);
        mixed.make(random, told, "rbd", Call::Create(request));
    }
    let filled: Vec<_> = mixed.world().things.keys().cloned().collect();
    for handle in filled {
        mixed.bench.fill(&handle, 4);
    }
}

/// One of each, made and deleted: after that a pool has what it keeps for ever.
fn warm_up(bench: &Bench) {
    let driver = bench.start();
    for pool in ["rbd", SECOND] {
        let id = bench.send(&driver, bench.request("pvc-warm", &[("pool", pool)])).unwrap().volume_id;
        let snapshot = bench.snapshot(&driver, "snapshot-warm", &id).unwrap().snapshot_id;
        let clone = bench.request_of("pvc-warm-clone", Of::Volume(&id), &[("pool", pool)]);
        let clone = bench.send(&driver, clone).unwrap().volume_id;
        bench.delete(&driver, &id).unwrap();
        bench.delete(&driver, &clone).unwrap();
        bench.delete_snapshot(&driver, &snapshot).unwrap();
        pool::wait_until_empty(bench.cluster(), pool, SOON);
    }
}

#[test]
fn what_64_callers_were_told_is_what_the_cluster_holds() {
    let bench = Bench::new();
    let cluster = bench.cluster();
    pool::make(cluster, SECOND);
    let second = bench.pool(SECOND);
    let pools = [&bench.rados, &second];
    warm_up(&bench);
    let before = Whole::of(&bench, &pools);

    let seed = random::seed("the mixed calls");
    let time = Duration::from_secs(if random::full() { 300 } else { 20 });
    let mixed = Mixed {
        bench: &bench,
        fleet: Fleet::new(&bench),
        world: Mutex::default(),
        ended: AtomicBool::new(false),
    };
    begin(&mixed, &mut Random::new(seed));
    mixed.load(seed, time);
    mixed.take_over(&pools);
    mixed.audit(&pools);

    mixed.world().draining = true;
    mixed.ended.store(false, Ordering::Relaxed);
    mixed.run_callers(seed + 1);
    let left = mixed.world().things.len();
    assert_eq!(left, 0, "callers ended before all was deleted");
    before.wait_until_again(&bench, &pools, PATIENCE, "after all was deleted");
    pool::remove(cluster, SECOND);
}
