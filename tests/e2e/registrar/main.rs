//! A stand-in for node-driver-registrar in tests: the container beside a node plugin that
//! announces it to the kubelet. It takes that program's flags and does its work.
//!
//! Lives here because that program's source is not to be had everywhere. What a reader
//! gets wrong: it shares no code with the driver's own registration, or a test of the one
//! would be a test of the other; only the filter without which h2 takes no call of a kubelet.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::path::PathBuf;
use std::time::Duration;

use rbd_csi::server::authority::Repaired;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
mod csi {
    tonic::include_proto!("csi.v1");
}
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]
mod registration {
    tonic::include_proto!("pluginregistration");
}

use registration::registration_server::{Registration, RegistrationServer};
use registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

struct Announcement {
    name: String,
    endpoint: String,
}

#[tonic::async_trait]
impl Registration for Announcement {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        println!("the kubelet asks");
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        println!("registered: {} {}", status.plugin_registered, status.error);
        // The container is started again, and with it the registration.
        assert!(status.plugin_registered, "the kubelet does not take the plugin: {}", status.error);
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// The value of `--NAME=VALUE`.
fn flag(name: &str) -> String {
    let prefix = format!("--{name}=");
    std::env::args()
        .find_map(|argument| argument.strip_prefix(&prefix).map(str::to_owned))
        .unwrap_or_else(|| panic!("--{name} is missing"))
}

/// Asks the driver for its name until it answers.
async fn driver_name(address: &str) -> String {
    loop {
        if let Ok(channel) = Endpoint::from_shared(format!("unix://{address}")).unwrap().connect().await {
            let mut client = csi::identity_client::IdentityClient::new(channel);
            match client.get_plugin_info(csi::GetPluginInfoRequest::default()).await {
                Ok(answer) => return answer.into_inner().name,
                Err(status) => println!("{status}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let endpoint = flag("kubelet-registration-path");
    let name = driver_name(&flag("csi-address")).await;
    let socket = PathBuf::from(format!("/registration/{name}-reg.sock"));
    let _ = std::fs::remove_file(&socket);
    // The kubelet names the socket's path as the authority, which h2 refuses.
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let listener = listener.map(|stream| stream.map(Repaired::new));
    println!("announcing {name} at {}", socket.display());
    let mut end = signal(SignalKind::terminate()).unwrap();
    Server::builder()
        .add_service(RegistrationServer::new(Announcement { name, endpoint }))
        .serve_with_incoming_shutdown(listener, async move { _ = end.recv().await })
        .await
        .unwrap();
    // The kubelet forgets the driver when its socket goes.
    let _ = std::fs::remove_file(&socket);
}
