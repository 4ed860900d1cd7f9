//! Kills inside librbd's calls, whose own operations no fault can name: at random moments
//! of the create and of the purge, each followed by a repeat and a deletion.
//!
//! What a reader gets wrong: the moment is random within the call, not within the RPC: the
//! kill waits until the call has begun. Each lane has a journal of its own, else the lanes
//! would purge each other's images.

use std::time::{Duration, Instant};

use crate::support::bench::{Bench, last_lines};
use crate::support::driver::{self, Driver, Site};

const KILLS: usize = 500;
const LANES: usize = 5;
/// So many of the kills must strike before the call came back.
const INSIDE: usize = 300;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: Duration) -> Duration {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        limit.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

struct Lane<'a> {
    bench: &'a Bench,
    site: Site,
    directory: String,
    name: String,
    dice: Dice,
    create: Call,
    purge: Call,
    kills: usize,
}

/// A call of librbd's, and within which time after its begin kills strike.
#[derive(Clone, Copy)]
struct Call {
    name: &'static str,
    /// The step that begins when it has come back.
    next: &'static str,
    most: Duration,
    inside: usize,
}

impl Call {
    fn new(name: &'static str, next: &'static str) -> Self {
        Self { name, next, most: Duration::ZERO, inside: 0 }
    }

    /// The machine is faster one minute and slower the next, so the time follows: in the long
    /// run, three kills of four come before the end, and the late moments are not left out.
    fn learn(&mut self, inside: bool) {
        self.inside += usize::from(inside);
        self.most = self.most.mul_f64(if inside { 1.04 } else { 0.89 });
    }
}

impl<'a> Lane<'a> {
    fn new(bench: &'a Bench, number: usize) -> Self {
        let mut site = Site::new(bench.lab, bench.cluster());
        site.flag(format!("--instanceid=lane{number}"));
        let directory = format!("csi.volumes.lane{number}");
        Self {
            bench,
            site,
            directory,
            name: format!("pvc-lane-{number}"),
            dice: Dice(number as u64 + 1),
            create: Call::new("rbd_create4", "image id"),
            purge: Call::new("rbd_trash_remove_with_progress", "journal forget purge"),
            kills: 0,
        }
    }

    /// A driver that is connected, and has resumed what its predecessor left.
    fn start(&self) -> Driver {
        let driver = self.site.controller(self.bench.lab);
        self.bench.delete(&driver, &self.bench.nothing()).unwrap();
        driver
    }

    /// Waits until the driver has begun this call; `false` when it ended without.
    fn reached(&self, call: &str) -> bool {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if self.site.steps().iter().any(|step| step.starts_with(call)) {
                return true;
            }
            std::thread::sleep(Duration::from_micros(300));
        }
        false
    }

    /// How long a call takes: until the trace shows the next step.
    fn measure(&self, call: Call) -> Duration {
        assert!(self.reached(call.name), "{} is not reached: {:?}", call.name, self.site.steps());
        let begun = Instant::now();
        assert!(self.reached(call.next), "{} is not reached: {:?}", call.next, self.site.steps());
        begun.elapsed()
    }

    /// Both calls' longest durations, while the other lanes measure too: where to begin.
    fn measure_both(&mut self) {
        let driver = self.start();
        for _ in 0..3 {
            self.site.arm("");
            let create = self.call(&driver, None);
            self.create.most = self.create.most.max(self.measure(self.create));
            let id = self.bench.wait(create).unwrap().unwrap();
            self.site.arm("");
            let delete = self.call(&driver, Some(id.clone()));
            self.purge.most = self.purge.most.max(self.measure(self.purge));
            self.bench.wait(delete).unwrap().unwrap();
        }
    }

    /// CreateVolume, or DeleteVolume of that handle, on its way; the handle in the end.
    fn call(
        &self,
        driver: &Driver,
        delete: Option<String>,
    ) -> tokio::task::JoinHandle<Result<String, tonic::Status>> {
        let mut client = self.bench.wait(driver.client());
        let create = driver::create(&self.site, &self.name, 1 << 30);
        let delete = delete.map(|id| driver::delete(&self.site, &id));
        self.bench.runtime.spawn(async move {
            match delete {
                Some(delete) => {
                    let id = delete.volume_id.clone();
                    client.delete_volume(delete).await.map(|_| id)
                }
                None => Ok(client.create_volume(create).await?.into_inner().volume.unwrap().volume_id),
            }
        })
    }

    /// Kills the driver at a random moment of a call. Whether the call had not come back by
    /// then, which the trace tells; and the handle when the RPC was answered.
    fn kill_inside(&mut self, driver: Driver, delete: Option<String>, call: Call) -> (bool, Option<String>) {
        self.site.arm("");
        let answer = self.call(&driver, delete);
        assert!(
            self.reached(call.name),
            "{} is not reached: {:?}\n{}",
            call.name,
            self.site.steps(),
            last_lines(&self.site.log(), 9)
        );
        std::thread::sleep(self.dice.below(call.most));
        driver.kill();
        self.kills += 1;
        let steps = self.site.steps();
        let begun = steps.iter().position(|step| step.starts_with(call.name)).unwrap();
        let inside = !steps[begun..].iter().any(|step| step.starts_with(call.next));
        let at = format!("killed in {} ({inside})", call.name);
        self.bench.check_that_ceph_csi_could_go_on_in(&self.directory, &at);
        (inside, self.bench.wait(answer).unwrap().ok())
    }

    fn uuid(&self) -> Option<String> {
        self.bench.keys(&self.directory).get(&format!("csi.volume.{}", self.name)).cloned()
    }

    /// One create and one delete, both killed, both repeated.
    fn round(&mut self, driver: Driver) -> Driver {
        let (inside, answered) = self.kill_inside(driver, None, self.create);
        self.create.learn(inside);
        let reserved = self.uuid();
        let driver = self.start();
        let id = self.bench.wait(self.call(&driver, None)).unwrap().unwrap();
        assert!(answered.is_none_or(|answered| answered == id), "another volume: {id}");
        assert!(reserved.is_some_and(|uuid| id.ends_with(&uuid)), "another volume: {id}");
        let (inside, _) = self.kill_inside(driver, Some(id.clone()), self.purge);
        self.purge.learn(inside);
        let driver = self.start();
        self.bench.wait(self.call(&driver, Some(id))).unwrap().unwrap();
        assert_eq!(self.uuid(), None);
        driver
    }
}

#[test]
fn five_hundred_kills_at_random_moments_leave_nothing() {
    let bench = Bench::new();
    let lanes: Vec<_> = (0..LANES).map(|number| Lane::new(&bench, number)).collect();
    let directories: Vec<_> = lanes.iter().map(|lane| lane.directory.clone()).collect();
    let lanes = std::thread::scope(|scope| {
        let running = lanes.into_iter().map(|mut lane| {
            let lab = bench.lab;
            scope.spawn(move || {
                lab.enter();
                lane.measure_both();
                println!("{}: create {:?}, purge {:?}", lane.name, lane.create.most, lane.purge.most);
                let mut driver = lane.start();
                for _ in 0..KILLS / 2 / LANES {
                    driver = lane.round(driver);
                }
                // A killed purge leaves a watch for half a minute; the last driver waits for it.
                let until = Instant::now() + Duration::from_secs(150);
                while !lane.bench.keys(&lane.directory).is_empty() {
                    assert!(Instant::now() < until, "{:?}", lane.bench.keys(&lane.directory));
                    std::thread::sleep(Duration::from_millis(50));
                }
                lane.site.check_that_no_file_holds(&lane.bench.cluster().admin_key);
                lane
            })
        });
        let running: Vec<_> = running.collect();
        running.into_iter().map(|lane| lane.join().unwrap()).collect::<Vec<_>>()
    });
    let of = |count: fn(&Lane<'_>) -> usize| lanes.iter().map(count).sum::<usize>();
    let (kills, create, purge) =
        (of(|lane| lane.kills), of(|lane| lane.create.inside), of(|lane| lane.purge.inside));
    println!("{kills} kills: {create} inside creates, {purge} inside purges");
    assert_eq!(kills, KILLS);
    assert!(create.min(purge) * 2 >= INSIDE, "{create} kills inside creates, {purge} inside purges");
    let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
    assert_eq!(bench.contents_of(&directories), Vec::<String>::new());
    for directory in directories {
        bench.wait(bench.rados.remove("clean up", directory)).unwrap();
    }
}
