//! Registering with the kubelet, as the kubelet sees it.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use rbd_csi::csi::proto::GetPluginInfoRequest;
use rbd_csi::registration::proto::registration_client::RegistrationClient;
use rbd_csi::registration::proto::{InfoRequest, RegistrationStatus};
use tonic::transport::{Channel, Endpoint};

use super::http::get;
use super::page::free_port;
use super::program::{Place, Program};

/// Where the CSI socket is on the node: not where the driver has it.
const ON_THE_NODE: &str = "/var/lib/kubelet/plugins/rbd.csi.ceph.com/csi.sock";
const NODE: &str = "--nodeserver=true";

fn folder(place: &Place) -> PathBuf {
    let folder = place.path("plugins_registry");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn socket(place: &Place) -> PathBuf {
    folder(place).join("rbd.csi.ceph.com-reg.sock")
}

fn start(place: &Place, more: &[&str]) -> Program {
    let folder = format!("--plugin-registration-path={}", folder(place).display());
    let asked = format!("--kubelet-registration-path={ON_THE_NODE}");
    place.start(&[&[NODE, &folder, &asked], more].concat())
}

/// Starts it and waits until the kubelet could find it.
fn serve(place: &Place, more: &[&str]) -> Program {
    let program = start(place, more);
    program.wait_for(&socket(place));
    program
}

/// Somebody else's socket in the place of the plugin's, as when a registrar starts; in one
/// step, so that the plugin cannot come between.
fn taken(place: &Place) -> UnixListener {
    let beside = place.path("registrar.sock");
    let registrar = UnixListener::bind(&beside).unwrap();
    std::fs::rename(beside, socket(place)).unwrap();
    registrar
}

async fn kubelet(place: &Place) -> RegistrationClient<Channel> {
    let endpoint = format!("unix://{}", socket(place).display());
    RegistrationClient::new(Endpoint::from_shared(endpoint).unwrap().connect().await.unwrap())
}

fn status(error: &str) -> RegistrationStatus {
    RegistrationStatus { plugin_registered: error.is_empty(), error: error.to_owned() }
}

fn shown(port: u16) -> Option<String> {
    let text = get(port, "/metrics").1;
    let line = text.lines().find(|line| line.starts_with("rbd_csi_kubelet_registered"))?;
    line.split_whitespace().last().map(str::to_owned)
}

#[tokio::test]
async fn the_kubelet_finds_the_plugin_and_csi_is_served_by_then() {
    let place = Place::new();
    let program = serve(&place, &[]);
    // At once, without waiting: the kubelet does not wait either.
    place.identity().await.get_plugin_info(GetPluginInfoRequest {}).await.unwrap();
    let info = kubelet(&place).await.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "rbd.csi.ceph.com"));
    assert_eq!((info.endpoint.as_str(), info.supported_versions), (ON_THE_NODE, vec!["1.0.0".to_owned()]));
    program.stop_within(5);
}

#[tokio::test]
async fn what_the_kubelet_says_is_seen_in_log_metrics_and_health() {
    let place = Place::new();
    let port = free_port();
    let program = serve(&place, &[&format!("--metricsport={port}")]);
    let mut kubelet = kubelet(&place).await;
    // A machine without krbd is not healthy, so the words are compared and not the number.
    let refusal = "RegisterPlugin error -- plugin name is taken";
    assert_eq!(shown(port).as_deref(), Some("0"));
    assert!(!get(port, "/healthz").1.contains("kubelet"));

    kubelet.notify_registration_status(status("")).await.unwrap();
    assert_eq!(shown(port).as_deref(), Some("1"));
    assert!(!get(port, "/healthz").1.contains("kubelet"));

    kubelet.notify_registration_status(status(refusal)).await.unwrap();
    assert_eq!(shown(port).as_deref(), Some("0"));
    let (code, text) = get(port, "/healthz");
    assert!(code == 503 && text.contains(refusal), "{code} {text}");
    assert!(program.log().lines().any(|line| line.contains("ERROR") && line.contains(refusal)));

    // The kubelet tries again by itself, and so it may be well again.
    kubelet.notify_registration_status(status("")).await.unwrap();
    assert_eq!(shown(port).as_deref(), Some("1"));
    assert!(!get(port, "/healthz").1.contains(refusal));

    program.stop_within(5);
}

#[tokio::test]
async fn a_socket_that_somebody_removes_is_made_again() {
    let place = Place::new();
    let port = free_port();
    let program = serve(&place, &[&format!("--metricsport={port}")]);
    let mut first = kubelet(&place).await;
    first.notify_registration_status(status("")).await.unwrap();
    assert_eq!(shown(port).as_deref(), Some("1"));

    std::fs::remove_file(socket(&place)).unwrap();
    // The kubelet sees a plugin that came anew.
    program.wait_for(&socket(&place));
    program.wait_until("it is not registered", || shown(port).as_deref() == Some("0"));
    assert!(!get(port, "/healthz").1.contains("-reg.sock"));
    let mut second = kubelet(&place).await;
    second.get_info(InfoRequest {}).await.unwrap();
    second.notify_registration_status(status("")).await.unwrap();
    assert_eq!(shown(port).as_deref(), Some("1"));

    // And once more, with one that nobody serves any more in its place.
    drop(taken(&place));
    program.wait_for(&socket(&place));
    kubelet(&place).await.get_info(InfoRequest {}).await.unwrap();
    program.stop_within(5);
    assert!(!socket(&place).exists());
}

#[tokio::test]
async fn a_socket_that_a_registrar_takes_is_left_to_it_until_it_ends() {
    let place = Place::new();
    let port = free_port();
    let program = serve(&place, &[&format!("--metricsport={port}")]);
    kubelet(&place).await.notify_registration_status(status("")).await.unwrap();
    let registrar = taken(&place);
    let theirs = std::fs::metadata(socket(&place)).unwrap().ino();
    program.wait_for_log("another process serves");
    // The log is written just after health and metrics are set.
    assert_eq!(shown(port).as_deref(), Some("0"));
    let (code, text) = get(port, "/healthz");
    assert!(code == 503 && text.contains("another process serves"), "{code} {text}");
    // Some attempts later it is the registrar's still, and told once.
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!(std::fs::metadata(socket(&place)).unwrap().ino(), theirs);
    let log = program.log();
    assert_eq!(log.lines().filter(|line| line.contains("another process serves")).count(), 1, "{log}");

    // As they do when they end.
    std::fs::remove_file(socket(&place)).unwrap();
    drop(registrar);
    program.wait_for(&socket(&place));
    kubelet(&place).await.get_info(InfoRequest {}).await.unwrap();
    assert!(!get(port, "/healthz").1.contains("another process"));
    program.stop_within(5);
}

#[test]
fn a_plugin_that_ends_leaves_a_registrar_its_socket() {
    let place = Place::new();
    let program = serve(&place, &[]);
    let _registrar = taken(&place);
    program.wait_for_log("another process serves");
    program.stop_within(5);
    assert!(socket(&place).exists(), "it is the registrar's");
}

#[tokio::test]
async fn a_killed_plugin_is_replaced_and_an_ended_one_leaves_nothing() {
    let place = Place::new();
    let mut first = serve(&place, &[]);
    first.signal(Signal::SIGKILL);
    first.ended();
    assert!(socket(&place).exists(), "SIGKILL leaves the socket");

    let second = serve(&place, &[]);
    kubelet(&place).await.get_info(InfoRequest {}).await.unwrap();
    // With a kubelet that stays connected.
    let mut connected = kubelet(&place).await;
    connected.get_info(InfoRequest {}).await.unwrap();
    second.stop_within(5);
    assert!(!socket(&place).exists() && !place.socket().exists());
    assert_eq!(std::fs::read_dir(folder(&place)).unwrap().count(), 0);
}

#[test]
fn the_kubelet_is_told_of_the_end_at_once_and_not_after_the_last_call() {
    let place = Place::new();
    let mut program = serve(&place, &["--controllerserver=true"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut controller = runtime.block_on(place.controller());
    let call = runtime.spawn(async move { controller.create_volume(super::program::create("pvc")).await });
    program.wait_until("the call runs", || program.log().contains("SIGTERM") || !call.is_finished());
    std::thread::sleep(std::time::Duration::from_millis(300));
    program.signal(Signal::SIGTERM);
    program.wait_until("the socket goes", || !socket(&place).exists());
    assert!(program.is_running() && !call.is_finished(), "the call ended before: {}", program.log());
}

#[test]
fn a_folder_that_is_missing_or_taken_ends_the_start() {
    let place = Place::new();
    let nowhere = format!("--plugin-registration-path={}", place.path("nowhere").display());
    let mut program = start(&place, &[&nowhere]);
    assert_eq!(program.ended().0.code(), Some(1));
    assert!(program.log().contains("plugins_registry"), "{}", program.log());
    assert!(!place.path("nowhere").exists(), "a folder of our own would hide the mistake");

    let _registrar = UnixListener::bind(socket(&place)).unwrap();
    let mut program = start(&place, &[]);
    assert_eq!(program.ended().0.code(), Some(1));
    assert!(program.log().contains("another process serves"), "{}", program.log());
    assert!(socket(&place).exists(), "it is the other's");
}

#[test]
fn with_a_registrar_beside_it_nothing_is_made_or_shown() {
    let place = Place::new();
    let port = free_port();
    let registry = format!("--plugin-registration-path={}", folder(&place).display());
    let program = place.serve(&[NODE, &registry, &format!("--metricsport={port}")]);
    assert_eq!(shown(port), None);
    assert_eq!(std::fs::read_dir(folder(&place)).unwrap().count(), 0);
    program.stop_within(5);
}

#[test]
fn a_node_whose_module_cannot_be_loaded_serves_and_says_what_to_do() {
    let place = Place::new();
    let advice = "/lib/modules";
    // Nothing is found in this PATH, so modprobe is not.
    let arguments = place.arguments().into_iter().chain([NODE.to_owned()]);
    let program = place.run_with(&[("PATH", "/nowhere")], arguments);
    program.wait_for(&place.socket());
    if std::path::Path::new("/sys/bus/rbd").exists() {
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(!program.log().contains(advice), "{}", program.log());
    } else {
        program.wait_for_log(advice);
        let log = program.log();
        assert!(log.lines().any(|line| line.contains("WARN") && line.contains(advice)), "{log}");
    }
    program.stop_within(5);
}
