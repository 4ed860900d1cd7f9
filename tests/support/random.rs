//! What a run draws: numbers that their seed repeats, without a crate for that.

/// xorshift64*, enough to draw without order.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number from 0 on, below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    /// Whether one of so many cases comes.
    pub fn one_in(&mut self, cases: usize) -> bool {
        self.below(cases) == 0
    }

    /// All of them, in another order.
    pub fn shuffled<T>(&mut self, mut all: Vec<T>) -> Vec<T> {
        let mut order = Vec::new();
        while !all.is_empty() {
            order.push(all.swap_remove(self.below(all.len())));
        }
        order
    }
}

/// The seed of this run: `SWEEP_SEED`, else a new one. It is printed, since a failed run is
/// drawn again by it.
pub fn seed(of: &str) -> u64 {
    let given = std::env::var("SWEEP_SEED").ok().and_then(|seed| seed.parse().ok());
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64 % 1_000_000;
    let seed = given.unwrap_or_else(now);
    eprintln!("{of}: SWEEP_SEED={seed}");
    seed
}

/// Whether all is to be tried, and not a sample (`make soak`).
pub fn full() -> bool {
    std::env::var("SWEEP").is_ok_and(|value| value == "full")
}
