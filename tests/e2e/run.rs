//! Runs tests one after the other, tells how each ended, and counts.
//!
//! What a reader gets wrong: a test says by a panic what is not as it must be. It is
//! caught here, and what the cluster has to say to it is printed with it.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use super::deployment;
use super::explain::explain;
use super::picture::Picture;
use super::space::Space;
use super::world::World;

/// A test: what it is called, what it shows, and its steps in a namespace of its own.
pub struct Test {
    pub name: &'static str,
    pub about: &'static str,
    pub steps: fn(&Space),
}

impl Test {
    /// A test after which nothing may be left.
    pub const fn new(name: &'static str, about: &'static str, steps: fn(&Space)) -> Self {
        Self { name, about, steps }
    }
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

#[derive(Default)]
pub struct Run {
    passed: Vec<String>,
    failed: Vec<String>,
}

impl Run {
    pub fn new() -> Self {
        std::panic::set_hook(Box::new(|panic| {
            let text = panic.payload_as_str().unwrap_or("a panic without a text");
            let place = panic.location().map(|at| format!("\n  at {at}")).unwrap_or_default();
            PANIC.with_borrow_mut(|kept| *kept = format!("{text}{place}"));
        }));
        Self::default()
    }

    /// Starts what all tests need.
    pub fn start<T>(&mut self, start: impl FnOnce() -> T) -> Option<T> {
        let started = Instant::now();
        match caught(start) {
            Ok(value) => {
                println!("lab and image are there ({:.0} s)", started.elapsed().as_secs_f64());
                Some(value)
            }
            Err(text) => {
                println!("no test can be run: {text}");
                None
            }
        }
    }

    /// Runs a test in a namespace of its own; afterwards nothing of it may be left.
    pub fn one(&mut self, world: &World, test: &Test) {
        self.step(world, test.name, test.about, |space| {
            let before = world.residue();
            (test.steps)(space);
            space.remove();
            world.wait_until_left(&before);
        });
    }

    /// Deploys the driver, runs the tests that need it, and removes it, after which cluster
    /// and nodes are as before. When it cannot be deployed, they are not run.
    pub fn deployed(&mut self, world: &World, tests: &[&Test]) {
        let about = "plugin-deploy.sh, secret and StorageClass on a clean cluster";
        let mut before = None;
        let deployed = self.step(world, "deploy", about, |space| {
            let world = space.world;
            before = Some(Picture::take(world));
            space.if_it_fails(|| deployment::remove(world));
            deployment::deploy(world);
        });
        if !deployed {
            return self.not_run(tests.iter().copied());
        }
        tests.iter().for_each(|test| self.one(world, test));
        let about = "plugin-teardown.sh after all that: cluster and nodes are as before";
        self.step(world, "teardown", about, |space| {
            let world = space.world;
            space.if_it_fails(|| deployment::remove(world));
            deployment::teardown(world);
            before.iter().for_each(|before| before.wait_until_as(world));
        });
    }

    /// Tests that something else kept from running: they count as failed.
    pub fn not_run<'t>(&mut self, tests: impl IntoIterator<Item = &'t Test>) {
        self.failed.extend(tests.into_iter().map(|test| format!("{} (not run)", test.name)));
    }

    fn step(&mut self, world: &World, name: &str, about: &str, steps: impl FnOnce(&Space)) -> bool {
        println!("test {name}: {about}");
        let started = Instant::now();
        let mut space = None;
        let ended = caught(|| steps(space.insert(Space::new(world, name))));
        let seconds = started.elapsed().as_secs_f64();
        if let Err(text) = &ended {
            println!("---- {name} failed: {text}\n{}\n---- end of {name}", explain(world, space.as_ref()));
        }
        if let Some(space) = &space {
            if ended.is_ok() {
                space.clear();
            } else {
                space.clear_failed();
            }
        }
        println!("test {name} … {} ({seconds:.0} s)\n", if ended.is_ok() { "ok" } else { "FAILED" });
        let list = if ended.is_ok() { &mut self.passed } else { &mut self.failed };
        list.push(format!("{name} ({seconds:.0} s)"));
        ended.is_ok()
    }

    pub fn end(&self) -> ExitCode {
        self.passed.iter().for_each(|name| println!("  ok      {name}"));
        self.failed.iter().for_each(|name| println!("  FAILED  {name}"));
        println!("{} passed, {} failed", self.passed.len(), self.failed.len());
        if self.failed.is_empty() && !self.passed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

fn caught<T>(steps: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(steps)).map_err(|_| PANIC.with_borrow_mut(std::mem::take))
}
