//! Two controllers of one site that come and go while callers go on: each is killed and
//! started again at its own socket, as in a pod.

use std::sync::{Mutex, MutexGuard};

use rbd_csi::csi::proto::controller_client::ControllerClient;
use tonic::transport::Channel;

use super::bench::Bench;
use super::driver::Driver;
use super::random::Random;

const SOCKETS: [&str; 2] = ["first.sock", "second.sock"];

struct Running {
    driver: Driver,
    channel: Channel,
    /// Told apart from whoever ran at this socket before.
    turn: u64,
}

/// A controller that a caller keeps to for as long as it lives, as a sidecar does.
pub struct Bound {
    slot: usize,
    turn: u64,
    channel: Channel,
}

impl Bound {
    /// A client of it.
    pub fn client(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone())
    }
}

/// The controllers.
pub struct Fleet<'a> {
    bench: &'a Bench,
    slots: Mutex<[Option<Running>; 2]>,
    /// How many were killed.
    killed: Mutex<u64>,
}

impl<'a> Fleet<'a> {
    /// With the first of them alive.
    pub fn new(bench: &'a Bench) -> Self {
        let this = Self { bench, slots: Mutex::default(), killed: Mutex::default() };
        this.start(0);
        this
    }

    fn slots(&self) -> MutexGuard<'_, [Option<Running>; 2]> {
        self.slots.lock().unwrap()
    }

    /// Whether that one is alive.
    pub fn lives(&self, slot: usize) -> bool {
        self.slots()[slot].is_some()
    }

    /// Starts that one, which is not alive.
    pub fn start(&self, slot: usize) {
        let driver = self.bench.site.controller_without_faults(self.bench.lab, SOCKETS[slot]);
        let channel = self.bench.wait(driver.channel());
        let turn = u64::from(driver.pid());
        self.slots()[slot] = Some(Running { driver, channel, turn });
    }

    /// SIGKILL for that one.
    pub fn kill(&self, slot: usize) {
        let running = self.slots()[slot].take();
        if let Some(running) = running {
            running.driver.kill();
            *self.killed.lock().unwrap() += 1;
        }
    }

    /// How many were killed until now.
    pub fn killed(&self) -> u64 {
        *self.killed.lock().unwrap()
    }

    /// One that is alive; waits for one that is being started.
    pub fn bind(&self, random: &mut Random) -> Bound {
        loop {
            let slot = random.below(2);
            if let Some(running) = &self.slots()[slot] {
                return Bound { slot, turn: running.turn, channel: running.channel.clone() };
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Whether it is alive still.
    pub fn is_alive(&self, bound: &Bound) -> bool {
        self.slots()[bound.slot].as_ref().is_some_and(|running| running.turn == bound.turn)
    }
}
