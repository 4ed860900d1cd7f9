//! Registering with the kubelet: the socket that it finds, and what it says there.
//!
//! Lives here: the service `Registration`, for node plugins without a registrar beside
//! them. What a reader gets wrong: the plugin calls nobody. The kubelet watches the
//! folder; a socket that appears is a plugin that wants to be used, one that vanishes is
//! a plugin that is gone, whose entry in the CSINode object goes too. So the socket comes
//! when CSI is served and goes with the order to end. One that a killed process left is
//! replaced by the next: to the kubelet a plugin that came anew. One that somebody removes
//! meanwhile is made again, or the node would be without its driver until a person sees
//! it: a registrar that ends removes this path whoever serves it, and one that starts
//! takes it. What a living process serves there is its own; its end is waited for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use crate::causes;
use crate::csi::proto::GetPluginInfoRequest;
use crate::csi::proto::identity_client::IdentityClient;
use crate::health::{Health, Registration as State};
use crate::server::listen::File;
use crate::server::stop::Stop;
use crate::server::{self, Listener};
use proto::registration_server::{Registration, RegistrationServer};

pub mod proto;

/// What the kubelet calls plugins of this kind.
const KIND: &str = "CSIPlugin";
/// The kubelet compares it with the releases of CSI that it knows; all 1.x are one to it.
const CSI: &str = "1.0.0";
/// How long the first answer of this very process may take.
const SERVED: Duration = Duration::from_secs(10);
/// How long to wait between two attempts to get it.
const AGAIN: Duration = Duration::from_millis(20);
/// How often to look whether the socket is still there, and to try again where it cannot be.
const LOOK: Duration = Duration::from_secs(2);

/// What the kubelet is told, and where.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The name of the CSIDriver object.
    pub name: String,
    /// The CSI socket as the node sees it.
    pub endpoint: String,
    /// The folder that the kubelet watches, as this process sees it.
    pub folder: PathBuf,
}

impl Plugin {
    /// The socket in that folder; registrars give it the same name, so it is one per driver.
    fn socket(&self) -> PathBuf {
        self.folder.join(format!("{}-reg.sock", self.name))
    }
}

/// Lets the kubelet find the plugin once CSI is served at `csi`, until asked to stop.
///
/// # Errors
/// One line for the operator: the plugin would run, and never be used.
pub async fn serve(plugin: Plugin, csi: &str, health: Health, mut stop: Stop) -> Result<(), String> {
    tokio::select! {
        answered = answers(csi) => answered?,
        () = stop.asked() => return Ok(()),
    }
    // At the start it is a mistake in how this process is run, and ends it.
    let mut listener = bind(&plugin).await?;
    while serve_until_lost(&plugin, listener, &health, stop.clone()).await? {
        tracing::warn!(
            socket = %plugin.socket().display(),
            "somebody removed or replaced the socket: the kubelet does not see this plugin until it is back"
        );
        tokio::select! {
            bound = bind_again(&plugin, &health) => listener = bound,
            () = stop.asked() => break,
        }
    }
    health.registration(State::NotOurs);
    Ok(())
}

/// Serves the kubelet. True: the socket's path leads elsewhere by now; false: asked to stop.
async fn serve_until_lost(
    plugin: &Plugin,
    listener: Listener,
    health: &Health,
    mut stop: Stop,
) -> Result<bool, String> {
    let (plugin, health, socket) = (plugin.clone(), health.clone(), plugin.socket());
    health.registration(State::Waiting(socket.clone()));
    tracing::info!(socket = %socket.display(), endpoint = plugin.endpoint, "waiting for the kubelet to register this plugin");
    let (end, ended) = watch::channel(false);
    let lost = lost(listener.file());
    let until = async {
        let lost = tokio::select! {
            () = lost => true,
            () = stop.asked() => false,
        };
        // Fails only when the server has ended by itself, which is told below.
        let _ = end.send(true);
        Ok(lost)
    };
    let service = RegistrationServer::new(Service { plugin, health, socket });
    let served = server::serve_beside(listener, Routes::new(service), Stop::on(ended));
    tokio::try_join!(served, until).map(|((), lost)| lost)
}

/// Returns when the socket's path is free or another file's.
async fn lost(file: Option<File>) {
    while file.as_ref().is_none_or(File::is_there) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Binds as soon as nobody else serves that path; says once why not yet.
async fn bind_again(plugin: &Plugin, health: &Health) -> Listener {
    let mut told = String::new();
    loop {
        let error = match bind(plugin).await {
            Ok(listener) => return listener,
            Err(error) => error,
        };
        health.registration(State::Lost(error.clone()));
        if error != told {
            tracing::warn!(error, "tried again every {LOOK:?}");
            told = error;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn bind(plugin: &Plugin) -> Result<Listener, String> {
    check(&plugin.folder)?;
    let listener = Listener::bind(&format!("unix://{}", plugin.socket().display())).await;
    listener.map_err(|error| format!("registering with the kubelet: {error}"))
}

/// The kubelet would never see a socket in a folder that is the container's own.
fn check(folder: &Path) -> Result<(), String> {
    if folder.is_dir() {
        return Ok(());
    }
    Err(format!(
        "--plugin-registration-path={}: there is no such folder; mount the node's \
         /var/lib/kubelet/plugins_registry there",
        folder.display()
    ))
}

/// Returns when CSI is served: the kubelet calls it as soon as it has found the plugin.
async fn answers(csi: &str) -> Result<(), String> {
    let endpoint =
        Endpoint::from_shared(csi.to_owned()).map_err(|error| format!("--endpoint={csi}: {error}"))?;
    let ask = async || {
        let channel = endpoint.connect().await.map_err(|error| causes::told(&error))?;
        let answer = IdentityClient::new(channel).get_plugin_info(GetPluginInfoRequest {}).await;
        answer.map(drop).map_err(|status| status.to_string())
    };
    let mut last = String::new();
    let served = async {
        while let Err(error) = ask().await {
            last = error;
            tokio::time::sleep(AGAIN).await;
        }
    };
    let in_time = tokio::time::timeout(SERVED, served).await;
    in_time.map_err(|_| format!("this driver does not answer at {csi}: {last}"))
}

struct Service {
    plugin: Plugin,
    health: Health,
    socket: PathBuf,
}

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<proto::InfoRequest>) -> Result<Response<proto::PluginInfo>, Status> {
        tracing::debug!("the kubelet asks who is here");
        Ok(Response::new(proto::PluginInfo {
            r#type: KIND.to_owned(),
            name: self.plugin.name.clone(),
            endpoint: self.plugin.endpoint.clone(),
            supported_versions: vec![CSI.to_owned()],
        }))
    }

    /// A refusal is shown and waited out: the kubelet tries again by itself, at growing
    /// intervals. A process that ended here, as a registrar does, would take running
    /// calls with it; who wants a restart has a liveness probe at /healthz.
    async fn notify_registration_status(
        &self,
        told: Request<proto::RegistrationStatus>,
    ) -> Result<Response<proto::RegistrationStatusResponse>, Status> {
        let told = told.into_inner();
        if told.plugin_registered {
            tracing::info!(driver = self.plugin.name, "the kubelet has registered this plugin");
            self.health.registration(State::Done(self.socket.clone()));
        } else {
            tracing::error!(
                error = told.error,
                endpoint = self.plugin.endpoint,
                "the kubelet refuses this plugin"
            );
            self.health.registration(State::Refused(told.error));
        }
        Ok(Response::new(proto::RegistrationStatusResponse {}))
    }
}
