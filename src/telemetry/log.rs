//! How log lines leave the process: to stderr, filtered by klog's `--v`.
//!
//! Lives here: the subscriber and the levels. Other crates' lines are shown from
//! warnings up only: h2's debug lines hold header values and frames, secrets too.

use std::panic::PanicHookInfo;

use tracing::Level;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::options::LogFormat;

/// From klog's level: 0 to 3 calls, 4 requests, 5 and more each Ceph call.
pub fn level(verbosity: u8) -> Level {
    match verbosity {
        0..=3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

/// Starts logging; only the first call of a process has an effect.
pub fn start(verbosity: u8, format: LogFormat) {
    let filter = Targets::new()
        .with_default(LevelFilter::WARN)
        // It logs each failure as an error, and returns it too: the call that asked tells it.
        .with_target("kube_client::client::builder", LevelFilter::OFF)
        .with_target("rbd_csi", level(verbosity));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(false).with_target(false).boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed()
        }
    };
    // A second subscriber is refused: tests start several drivers in one process.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    std::panic::set_hook(Box::new(told));
}

/// A panic is a mistake of ours: one line of the log, like everything else.
fn told(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload_as_str().unwrap_or_default();
    tracing::error!(place, text, "panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_klog() {
        assert_eq!(
            [0, 3, 4, 5, 10].map(level),
            [Level::INFO, Level::INFO, Level::DEBUG, Level::TRACE, Level::TRACE]
        );
    }
}
