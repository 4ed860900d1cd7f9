//! The monitors that the cluster has now, by address.
//!
//! From the live monitor map, not from the configuration: that may name one
//! monitor of three, or one that is gone.

use std::ffi::CString;
use std::net::SocketAddr;

use serde::Deserialize;

use super::connection::Connection;
use super::error::{CephError, Result};

/// One monitor's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorAddress {
    /// For the legacy protocol (krbd without `ms_mode`), usually port 6789.
    pub v1: Option<SocketAddr>,
    /// For messenger 2 (`ms_mode` other than legacy), usually port 3300.
    pub v2: Option<SocketAddr>,
}

#[derive(Deserialize)]
struct Dump {
    mons: Vec<Monitor>,
}

#[derive(Deserialize)]
struct Monitor {
    public_addrs: Addresses,
}

#[derive(Deserialize)]
struct Addresses {
    addrvec: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    addr: String,
}

const OP: &str = "mon dump";

impl Connection {
    /// The live monitor map (`ceph mon dump`); `mon 'profile rbd'` may ask for it.
    pub async fn monitors(&self) -> Result<Vec<MonitorAddress>> {
        let command = CString::from(c"{\"prefix\":\"mon dump\",\"format\":\"json\"}");
        let output = self.monitor_command(OP, command).await?;
        parse(&output).ok_or_else(|| CephError::new(OP, format!("{self:?}"), libc::EBADMSG))
    }
}

fn parse(output: &[u8]) -> Option<Vec<MonitorAddress>> {
    let dump: Dump = serde_json::from_slice(output).ok()?;
    Some(dump.mons.iter().map(|monitor| addresses(&monitor.public_addrs.addrvec)).collect())
}

fn addresses(list: &[Address]) -> MonitorAddress {
    let of = |kinds: &[&str]| {
        list.iter()
            .filter(|address| kinds.contains(&address.kind.as_str()))
            .find_map(|address| address.addr.parse().ok())
    };
    // "any" is what maps from before messenger 2 have.
    MonitorAddress { v1: of(&["v1", "any"]), v2: of(&["v2"]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_one_of_them_and_ipv6() {
        // Shortened from `ceph mon dump -f json` of 16.2.15.
        let dump = br#"{"epoch":1,"mons":[
            {"rank":0,"name":"a","public_addrs":{"addrvec":[
                {"type":"v2","addr":"10.98.0.1:3300","nonce":0},{"type":"v1","addr":"10.98.0.1:6789","nonce":0}]},
             "addr":"10.98.0.1:6789/0"},
            {"rank":1,"public_addrs":{"addrvec":[{"type":"v2","addr":"[::1]:3300","nonce":0}]}},
            {"rank":2,"public_addrs":{"addrvec":[{"type":"any","addr":"10.98.0.3:6789","nonce":0}]}}]}"#;
        let found = parse(dump).unwrap();
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            found,
            [
                MonitorAddress { v1: address("10.98.0.1:6789"), v2: address("10.98.0.1:3300") },
                MonitorAddress { v1: None, v2: address("[::1]:3300") },
                MonitorAddress { v1: address("10.98.0.3:6789"), v2: None },
            ]
        );
        assert_eq!(parse(b"{}"), None);
    }
}
