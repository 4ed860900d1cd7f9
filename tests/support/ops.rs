//! RADOS operations, counted by those who send or do them: each librados client and each
//! of Ceph's daemons tells its counters at an admin socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::driver::{Driver, Site};

/// The setting for a driver's ceph.conf that [`sent`] needs: a socket of each of its clients.
pub fn sockets_in(folder: &Path) -> String {
    format!("admin_socket = {}/$pid.$cctid.asok", folder.display())
}

/// What a driver has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub operations: u64,
    /// By so many librados clients.
    pub clients: usize,
}

/// Since the start of that driver, over all its connections, told by its sockets in the folder.
pub fn sent(folder: &Path, pid: u32) -> Sent {
    let clients = clients(folder, pid);
    Sent { operations: sent_by(&clients), clients: clients.len() }
}

/// The sockets of a driver's clients as of now.
pub fn clients(folder: &Path, pid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let own = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with(&format!("{pid}.")) && name.ends_with(".asok")
    });
    own.map(|entry| entry.path()).collect()
}

/// What these have sent since they connected.
pub fn sent_by(clients: &[PathBuf]) -> u64 {
    clients.iter().map(|socket| counter(socket, "objecter", "op_send")).sum()
}

/// Has the drivers of a site count what they send.
pub fn count(site: &Site) {
    site.ceph_conf(&sockets_in(&site.path("")));
}

/// What a driver of that site has sent since its start; it must have a client by now.
pub fn counted(site: &Site, driver: &Driver) -> u64 {
    let sent = sent(&site.path(""), driver.pid());
    assert!(sent.clients > 0, "process {} has an admin socket in {}", driver.pid(), site.path("").display());
    sent.operations
}

/// A counter of whoever listens at that socket: it takes a command that ends with NUL, and
/// gives four bytes of length, then JSON.
pub fn counter(socket: &Path, section: &str, name: &str) -> u64 {
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{}: {e}", socket.display()));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"{\"prefix\": \"perf dump\"}\0").unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut text = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut text).unwrap();
    let dump: serde_json::Value = serde_json::from_slice(&text).unwrap();
    dump[section][name].as_u64().unwrap_or_else(|| panic!("{} counts no {name}", socket.display()))
}
