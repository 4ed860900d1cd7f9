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
}

impl<'a> Lane<'a> {
    fn new(bench: &'a Bench, number: usize) -> Self {
        let mut site = Site::new(bench.lab, bench.cluster());
        site.flag(format!("--instanceid=lane{number}"));
        let directory = format!("csi.volumes.lane{number}");
        Self { bench, site, directory, name: format!("pvc-lane-{number}"), dice: Dice(number as u64 + 1) }
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
    fn measure(&self, call: &str, next: &str) -> Duration {
        assert!(self.reached(call), "{call} is not reached: {:?}", self.site.steps());
        let begun = Instant::now();
        assert!(self.reached(next), "{next} is not reached: {:?}", self.site.steps());
        begun.elapsed()
    }

    /// Both calls' durations, while the other lanes measure too.
    fn durations(&self) -> (Duration, Duration) {
        let driver = self.start();
        let mut longest = (Duration::ZERO, Duration::ZERO);
        for _ in 0..3 {
            self.site.arm("");
            let create = self.call(&driver, None);
            longest.0 = longest.0.max(self.measure("rbd_create4", "image id"));
            let id = self.bench.wait(create).unwrap().unwrap();
            self.site.arm("");
            let delete = self.call(&driver, Some(id.clone()));
            longest.1 = longest.1.max(self.measure("rbd_trash_remove", "journal forget purge"));
            self.bench.wait(delete).unwrap().unwrap();
        }
        longest
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

    /// Kills the driver at a random moment of a call; the handle when it was answered.
    fn kill_inside(
        &mut self,
        driver: Driver,
        delete: Option<String>,
        call: &str,
        most: Duration,
    ) -> Option<String> {
        self.site.arm("");
        let answer = self.call(&driver, delete);
        assert!(
            self.reached(call),
            "{call} is not reached: {:?}\n{}",
            self.site.steps(),
            last_lines(&self.site.log(), 9)
        );
        std::thread::sleep(self.dice.below(most));
        driver.kill();
        self.bench.wait(answer).unwrap().ok()
    }

    fn uuid(&self) -> Option<String> {
        self.bench.keys(&self.directory).get(&format!("csi.volume.{}", self.name)).cloned()
    }

    /// One create and one delete, both killed, both repeated.
    fn round(&mut self, driver: Driver, (create, purge): (Duration, Duration)) -> Driver {
        let answered = self.kill_inside(driver, None, "rbd_create4", create);
        let reserved = self.uuid();
        let driver = self.start();
        let id = self.bench.wait(self.call(&driver, None)).unwrap().unwrap();
        assert!(answered.is_none_or(|answered| answered == id), "another volume: {id}");
        assert!(reserved.is_some_and(|uuid| id.ends_with(&uuid)), "another volume: {id}");
        self.kill_inside(driver, Some(id.clone()), "rbd_trash_remove", purge);
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
    std::thread::scope(|scope| {
        for mut lane in lanes {
            let lab = bench.lab;
            scope.spawn(move || {
                lab.enter();
                let durations = lane.durations();
                println!("{}: create {:?}, purge {:?}", lane.name, durations.0, durations.1);
                let mut driver = lane.start();
                for _ in 0..KILLS / 2 / LANES {
                    driver = lane.round(driver, durations);
                }
                // A killed purge leaves a watch for half a minute; the last driver waits for it.
                let until = Instant::now() + Duration::from_secs(150);
                while !lane.bench.keys(&lane.directory).is_empty() {
                    assert!(Instant::now() < until, "{:?}", lane.bench.keys(&lane.directory));
                    std::thread::sleep(Duration::from_millis(50));
                }
                lane.site.check_that_no_file_holds(&lane.bench.cluster().admin_key);
            });
        }
    });
    let directories: Vec<&str> = directories.iter().map(String::as_str).collect();
    assert_eq!(bench.contents_of(&directories), Vec::<String>::new());
    for directory in directories {
        bench.wait(bench.rados.remove("clean up", directory)).unwrap();
    }
}
