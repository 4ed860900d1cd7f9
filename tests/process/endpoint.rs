//! The socket: whose it is, who may use it, and that TCP works too.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use nix::sys::signal::Signal;
use rbd_csi::csi::proto::identity_client::IdentityClient;
use rbd_csi::csi::proto::{GetPluginInfoRequest, ProbeRequest};
use tonic::transport::Endpoint;

use super::page::free_port;
use super::program::Place;

const CONTROLLER: &[&str] = &["--controllerserver=true"];

#[test]
fn the_socket_of_a_killed_driver_is_replaced() {
    let place = Place::new();
    let mut first = place.serve(CONTROLLER);
    first.signal(Signal::SIGKILL);
    first.ended();
    assert!(place.socket().exists(), "SIGKILL leaves the socket");
    let second = place.serve(CONTROLLER);
    assert!(!second.log().contains("ERROR"), "{}", second.log());
    second.stop_within(5);
    assert!(!place.socket().exists(), "an orderly end removes the socket");
}

#[tokio::test]
async fn the_socket_of_a_living_driver_is_left_alone() {
    let place = Place::new();
    let _first = place.serve(CONTROLLER);
    let mut second = place.start(CONTROLLER);
    let (status, _) = second.ended();
    assert_eq!(status.code(), Some(1));
    let log = second.log();
    assert!(log.contains("another process serves") && log.contains("csi.sock"), "{log}");
    place.identity().await.probe(ProbeRequest {}).await.unwrap();
}

#[test]
fn a_file_in_the_sockets_place_is_left_alone() {
    let place = Place::new();
    std::fs::write(place.socket(), "precious").unwrap();
    let mut program = place.start(CONTROLLER);
    assert_eq!(program.ended().0.code(), Some(1));
    assert!(program.log().contains("no socket"), "{}", program.log());
    assert_eq!(std::fs::read_to_string(place.socket()).unwrap(), "precious");
}

#[test]
fn the_socket_is_closed_to_others_and_nothing_is_beside_it() {
    let place = Place::new();
    let program = place.serve(CONTROLLER);
    let socket = std::fs::metadata(place.socket()).unwrap();
    assert!(socket.file_type().is_socket());
    let mode = socket.permissions().mode() & 0o777;
    assert!([0o600, 0o660].contains(&mode), "{mode:o}");
    let mut names: Vec<_> = std::fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("log."))
        .collect();
    names.sort();
    // The plugin folder is made, as ceph-csi does.
    assert_eq!(names, ["ceph.conf", "config.json", "csi.sock", "plugins"]);
    program.stop_within(5);
}

#[tokio::test]
async fn tcp_is_served() {
    let place = Place::new();
    let port = free_port();
    let program = place.start(&["--controllerserver=true", &format!("--endpoint=tcp://127.0.0.1:{port}")]);
    program.wait_until("it serves", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    let mut identity = IdentityClient::new(endpoint.connect().await.unwrap());
    let info = identity.get_plugin_info(GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "rbd.csi.ceph.com");
    assert!(!place.socket().exists());
    program.stop_within(5);
}
