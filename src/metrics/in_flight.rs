//! The calls that are not answered yet: how many, and how old the oldest is.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// When each began; the number tells apart those of one instant.
static RUNNING: Mutex<BTreeSet<(Instant, u64)>> = Mutex::new(BTreeSet::new());

fn running() -> MutexGuard<'static, BTreeSet<(Instant, u64)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that runs, for as long as this lives.
#[derive(Debug)]
pub struct InFlight(Instant, u64);

impl InFlight {
    /// A call began now; `id` is no other's.
    pub fn start(id: u64) -> Self {
        let now = Instant::now();
        running().insert((now, id));
        Self(now, id)
    }

    /// How long it has run.
    pub fn age(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        running().remove(&(self.0, self.1));
    }
}

/// How many calls run now.
pub fn count() -> usize {
    running().len()
}

/// How long the oldest call has run; zero when none does.
pub fn oldest() -> Duration {
    running().first().map(|(began, _)| began.elapsed()).unwrap_or_default()
}

/// Shows both when the metrics are read.
#[derive(Debug)]
pub(super) struct Shown;

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let count = ConstGauge::new(i64::try_from(count()).unwrap_or(i64::MAX));
        let help = "CSI calls that are not answered yet";
        count.encode(encoder.encode_descriptor("rpcs_in_flight", help, None, MetricType::Gauge)?)?;
        let age = ConstGauge::new(oldest().as_secs_f64());
        let help = "How long the oldest unanswered CSI call has run";
        age.encode(encoder.encode_descriptor("oldest_rpc_seconds", help, None, MetricType::Gauge)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_counts_while_it_lives() {
        let call = InFlight::start(u64::MAX);
        let age = call.age();
        assert!(count() >= 1 && oldest() >= age);
        let registry = super::super::registry();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find(|line| line.starts_with("rbd_csi_rpcs_in_flight ")).unwrap();
        assert!(!line.ends_with(" 0"), "{line}");
        drop(call);
        assert!(!running().iter().any(|(_, id)| *id == u64::MAX));
    }
}
