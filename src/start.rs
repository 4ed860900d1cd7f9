//! From checked options to a running process, and its orderly end.
//!
//! Lives here: the wiring — who is made of what. Not here: what they do.
//!
//! What a reader gets wrong: the process closes its librados clients and then
//! leaves without destructors. Operations that still run hold clients of their
//! own, and an ordinary exit would tear the C++ library down under the threads
//! that are still in it, and abort instead of giving 0.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tonic::service::Routes;

use crate::ceph::Connections;
use crate::config::ConfigFiles;
use crate::controller::ask::attach::Attacher;
use crate::controller::change::depth::CloneLimits;
use crate::controller::{Controller, ControllerOptions};
use crate::health::Health;
use crate::host::boot::boot_id;
use crate::host::thread::on_thread;
use crate::host::{command, hardening, krbd, memory, module, pids, place};
use crate::kube::Kube;
use crate::node::mapping;
use crate::node::{Node, NodeOptions};
use crate::options::{MapWith, Options, Role};
use crate::registration::{self, Plugin};
use crate::server::stop::Stop;
use crate::server::{self, Listener};
use crate::telemetry::{http, log};
use crate::volume::image::resolve::Resolver;
use crate::volume::operation::Operations;
use crate::{csi, liveness};

/// Threads that run futures; the driver waits far more than it computes.
const WORKERS: usize = 2;
/// Threads for calls that block (librados' own pool is bounded besides).
const BLOCKING_THREADS: usize = 192;
/// How long the librados clients may take to close, and programs to end; with the server's own limit
/// this stays below the 25 s in which the process has to be gone.
const CLOSE: Duration = Duration::from_secs(3);

/// Runs the process until it is told to end; its exit code is 1 when it could not run.
pub fn run(options: Options) -> ! {
    log::start(options.verbosity, options.log_format);
    if let Err(error) = hardening::harden() {
        tracing::warn!(%error, "the process is not hardened");
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(5))
        .thread_name("rbd-csi")
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => run_on(runtime, options),
        Err(error) => Err(format!("the threads cannot be started: {error}")),
    };
    if let Err(error) = &ended {
        tracing::error!("{error}");
    }
    hardening::leave(i32::from(ended.is_err()))
}

fn run_on(runtime: Runtime, options: Options) -> Result<(), String> {
    let ended = runtime.block_on(async {
        let stop = Stop::on_signals().map_err(|error| format!("signals cannot be received: {error}"))?;
        match options.role {
            Role::Rbd => driver(options, stop).await,
            Role::Liveness => liveness::run(options, stop).await,
            Role::Controller => controller_role(stop).await,
        }
    });
    // Threads in calls that never return must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

async fn driver(options: Options, stop: Stop) -> Result<(), String> {
    if options.node {
        place::require_kernel().map_err(|error| error.to_string())?;
    }
    prepare(&options).await;
    let listener = Listener::bind(&options.endpoint).await.map_err(|error| format!("--endpoint={error}"))?;
    let connections = Connections::new(Some(options.ceph_conf.clone()));
    let config =
        ConfigFiles { cluster: options.cluster_config.clone(), mapping: options.cluster_mapping.clone() };
    let health = Health::new(config.clone(), options.node);
    if let Some(port) = options.metrics_port {
        http::start(options.pod_ip.as_deref(), port, &options.metrics_path, Some(health.clone())).await;
    }
    let routes = routes(&options, &listener, &connections, config, health.clone());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        driver = options.driver_name,
        node = options.node_id,
        controller = options.controller,
        node_service = options.node,
        endpoint = options.endpoint,
        "serving"
    );
    let registering = register(&options, health, stop.clone());
    tokio::try_join!(server::serve(listener, routes, options.slow_call_interval, stop), registering)?;
    // An e2fsck that is killed in the middle of its writes may leave damage.
    let programs = on_thread("end programs", "all", || Ok(command::end_all(CLOSE)));
    let (closed, programs) = tokio::join!(connections.close(CLOSE), programs);
    tracing::info!(closed, programs_left = programs.unwrap_or_default(), "ended");
    Ok(())
}

/// What surrounds the driver; nothing here is worth not starting for.
async fn prepare(options: &Options) {
    for flag in &options.without_effect {
        tracing::warn!(flag, "accepted, but this version has no such feature: nothing of it happens");
    }
    let folder = &options.plugin_path;
    if let Err(error) = std::fs::create_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "--pluginpath is missing and cannot be made");
    }
    tokio::spawn(memory::give_back_after_work());
    if options.node {
        tokio::spawn(load_module());
    }
    if options.node && options.pid_limit != 0 {
        let most = options.pid_limit;
        match tokio::task::spawn_blocking(move || pids::limit(most)).await {
            Ok(Ok(())) => tracing::info!(most, "limit of processes set"),
            Ok(Err(error)) => tracing::warn!(%error, "--pidlimit could not be set"),
            Err(error) => tracing::warn!(%error, "--pidlimit could not be set"),
        }
    }
}

fn routes(
    options: &Options,
    listener: &Listener,
    connections: &Connections,
    config: ConfigFiles,
    health: Health,
) -> Routes {
    let resolver = Resolver { connections: connections.clone(), config, instance: options.instance.clone() };
    let operations = Operations::default();
    let kube = options.kubernetes.as_ref().map(|api| Kube::new(&api.host, api.port, &api.account));
    let controller = options.controller.then(|| {
        let controller = ControllerOptions {
            cluster_name: options.cluster_name.clone(),
            strict_parameters: options.strict_parameters,
            identity: listener.identity(&this_boot(&options.host_name)),
            takeover_grace: options.takeover_grace,
            clone_limits: CloneLimits {
                hard_depth: options.hard_depth,
                soft_depth: options.soft_depth,
                most_snapshots: options.most_snapshots,
                many_snapshots: options.many_snapshots,
            },
            flatten_concurrency: options.flatten_concurrency,
        };
        Controller::new(controller, resolver.clone(), operations.clone()).with_kube(kube.clone())
    });
    let node = options.node.then(|| {
        let map_with = match options.map_with {
            MapWith::Krbd => mapping::MapWith::Kernel,
            MapWith::Rbd => mapping::MapWith::Rbd,
        };
        let node = NodeOptions { node_id: options.node_id.clone(), map_with, scratch: std::env::temp_dir() };
        Node::new(node, resolver.clone(), operations.clone())
    });
    csi::routes(&options.driver_name, controller, kube.map(Attacher::new), node, health)
}

/// A node's name is not enough: where two Kubernetes share a Ceph, each may have one of that name,
/// with a folder in memory that has the same inode in both.
fn this_boot(host: &str) -> String {
    match boot_id() {
        Ok(boot) => format!("{host} {boot}"),
        Err(error) => {
            tracing::warn!(%error, "the kernel does not tell its boot: another node of this name is not told apart");
            host.to_owned()
        }
    }
}

/// Lets the kubelet find this node plugin, if that was asked for.
async fn register(options: &Options, health: Health, stop: Stop) -> Result<(), String> {
    let Some(asked) = &options.registration else { return Ok(()) };
    let plugin = Plugin {
        name: options.driver_name.clone(),
        endpoint: asked.endpoint.clone(),
        folder: asked.folder.clone(),
    };
    registration::serve(plugin, &options.endpoint, health, stop).await
}

/// A node's first volume must not wait for it, and a node that lacks it is told of before a
/// pod fails. /healthz looks again, and so does each map.
async fn load_module() {
    if krbd::is_loaded() {
        return;
    }
    match on_thread("modprobe", "rbd", module::ensure_loaded).await {
        Ok(()) => tracing::info!("kernel module rbd loaded"),
        Err(error) => tracing::warn!(%error, "no volume can be mapped: {}", module::ADVICE),
    }
}

/// `--type=controller`: manifests start it, and a pod that ends would be restarted for ever.
async fn controller_role(mut stop: Stop) -> Result<(), String> {
    tracing::info!("--type=controller has no work yet: nothing is watched, nothing is changed");
    stop.asked().await;
    tracing::info!("ended");
    Ok(())
}
