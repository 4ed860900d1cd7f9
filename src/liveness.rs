//! `--type=liveness`: asks a driver's Probe again and again, and shows the answer
//! as the gauge `csi_liveness`, as ceph-csi's container of that name does.

use std::sync::LazyLock;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Endpoint;

use crate::causes;
use crate::csi::proto::ProbeRequest;
use crate::csi::proto::identity_client::IdentityClient;
use crate::options::Options;
use crate::server::stop::Stop;
use crate::telemetry::http;

static ALIVE: LazyLock<Gauge<i64, AtomicI64>> = LazyLock::new(Gauge::default);

/// The one gauge; its name is ceph-csi's, so it has no prefix.
fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register("csi_liveness", "Whether the CSI driver answers its Probe", ALIVE.clone());
    registry
}

/// Polls until asked to stop.
///
/// # Errors
/// When the endpoint cannot be one.
pub async fn run(options: Options, mut stop: Stop) -> Result<(), String> {
    let endpoint = endpoint(&options.endpoint, options.probe_timeout)?;
    if let Some(port) = options.metrics_port {
        http::serve(options.pod_ip.as_deref(), port, &options.metrics_path, registry, None).await;
    }
    tracing::info!(endpoint = options.endpoint, every = ?options.poll_time, "probing");
    let mut polls = interval(options.poll_time.max(Duration::from_millis(10)));
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.asked() => break,
            _ = polls.tick() => show(probe(&endpoint, options.probe_timeout).await),
        }
    }
    tracing::info!("ended");
    Ok(())
}

fn endpoint(text: &str, limit: Duration) -> Result<Endpoint, String> {
    // tonic knows unix://PATH; TCP is http to it.
    let uri = text.replacen("tcp://:", "tcp://localhost:", 1).replacen("tcp://", "http://", 1);
    let endpoint = Endpoint::from_shared(uri).map_err(|error| format!("--endpoint={text}: {error}"))?;
    Ok(endpoint.connect_timeout(limit).timeout(limit))
}

/// Each time anew: a kept connection would say nothing of a socket that is gone.
async fn probe(endpoint: &Endpoint, limit: Duration) -> Result<(), String> {
    let asked = async {
        let channel = endpoint.connect().await.map_err(|error| causes::told(&error))?;
        let answer = IdentityClient::new(channel).probe(ProbeRequest {}).await;
        match answer.map_err(|status| status.to_string())?.into_inner().ready {
            Some(false) => Err("the driver says that it is not ready; its own log says why".to_owned()),
            // Absent means ready (CSI, Probe).
            _ => Ok(()),
        }
    };
    tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("no answer in {limit:?}")))
}

fn show(answer: Result<(), String>) {
    let before = ALIVE.set(i64::from(answer.is_ok()));
    match answer {
        Err(error) => tracing::warn!(error, "the driver does not answer its Probe"),
        Ok(()) if before == 0 => tracing::info!("the driver answers its Probe"),
        Ok(()) => {}
    }
}
