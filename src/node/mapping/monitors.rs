//! Which monitors' addresses the kernel gets, and which protocol it speaks to them.
//!
//! What a reader gets wrong: the kernel takes an address as it stands and speaks the
//! protocol of `ms_mode`; an address of the other protocol costs seconds or ends in
//! ETIMEDOUT. So the list holds one protocol's addresses only. It takes IP addresses
//! with ports, and assumes 6789 where none is given, whatever the protocol.

use std::net::{IpAddr, SocketAddr};

use crate::ceph::MonitorAddress;
use crate::volume::error::{Error, Kind, Result};
use crate::volume::map_options::MapOptions;

/// The default ports of a monitor (`CEPH_MON_PORT_LEGACY`, `CEPH_MON_PORT_IANA`).
const PORTS: (u16, u16) = (6789, 3300);

/// What goes into the map line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// `ip:port`, all of the one protocol.
    pub monitors: Vec<String>,
    /// The `ms_mode` to add, when the kernel's default (legacy) does not do.
    pub ms_mode: Option<&'static str>,
}

/// The user's `ms_mode` wins; else legacy where any monitor has a v1 address, else
/// prefer-crc.
///
/// # Errors
/// No monitor has an address of the protocol that the user asks for.
pub fn route(monitors: &[MonitorAddress], options: &MapOptions) -> Result<Route> {
    let v1: Vec<_> = monitors.iter().filter_map(|monitor| monitor.v1).collect();
    let v2: Vec<_> = monitors.iter().filter_map(|monitor| monitor.v2).collect();
    let (addresses, ms_mode, wanted) = match options.value("ms_mode") {
        Some("legacy") => (v1, None, "v1, which ms_mode=legacy speaks"),
        Some(_) => (v2, None, "v2, which every ms_mode but legacy speaks"),
        None if !v1.is_empty() => (v1, None, ""),
        None => (v2, Some("prefer-crc"), "any kind"),
    };
    if addresses.is_empty() {
        return Err(Error::new(
            Kind::Precondition,
            format!("no monitor of the cluster has an address of protocol {wanted}"),
        ));
    }
    Ok(Route { monitors: addresses.iter().map(SocketAddr::to_string).collect(), ms_mode })
}

/// The monitors of config.json, for a cluster that does not tell its own: `ip`,
/// `ip:port`, `v2:ip:port`, `[v2:ip:port,v1:ip:port]`, host names looked up. Blocking.
pub fn from_config(monitors: &[String]) -> Vec<MonitorAddress> {
    let all = monitors.iter().flat_map(|text| addresses_in(text));
    all.flat_map(|(protocol, address)| {
        let socket = |port| resolve(address, port);
        match protocol {
            Some(1) => both(socket(PORTS.0), vec![]),
            Some(_) => both(vec![], socket(PORTS.1)),
            // Without a protocol the port decides, as for librados.
            None => match port_of(address) {
                Some(port) if port == PORTS.1 => both(vec![], socket(port)),
                Some(port) => both(socket(port), vec![]),
                None => both(socket(PORTS.0), socket(PORTS.1)),
            },
        }
    })
    .collect()
}

fn both(v1: Vec<SocketAddr>, v2: Vec<SocketAddr>) -> Vec<MonitorAddress> {
    let most = v1.len().max(v2.len());
    (0..most).map(|n| MonitorAddress { v1: v1.get(n).copied(), v2: v2.get(n).copied() }).collect()
}

fn addresses_in(text: &str) -> Vec<(Option<u8>, &str)> {
    let vector = text.strip_prefix("[v").and_then(|rest| rest.strip_suffix(']'));
    let parts: Vec<&str> = match vector {
        Some(_) => text[1..text.len() - 1].split(',').collect(),
        None => text.split(',').collect(),
    };
    let one = |part: &'_ str| -> (Option<u8>, usize) {
        match part.get(..3) {
            Some("v1:") => (Some(1), 3),
            Some("v2:") => (Some(2), 3),
            _ => (None, 0),
        }
    };
    parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (protocol, from) = one(part);
            // A nonce may follow: ip:port/0.
            (protocol, part[from..].split('/').next().unwrap_or_default())
        })
        .collect()
}

fn port_of(address: &str) -> Option<u16> {
    if address.parse::<IpAddr>().is_ok() {
        return None;
    }
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok())
}

fn resolve(address: &str, port: u16) -> Vec<SocketAddr> {
    if let Ok(ip) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
        return vec![SocketAddr::new(ip, port)];
    }
    if let Ok(socket) = address.parse() {
        return vec![socket];
    }
    let named = if port_of(address).is_some() { address.to_owned() } else { format!("{address}:{port}") };
    std::net::ToSocketAddrs::to_socket_addrs(&named).map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(v1: Option<&str>, v2: Option<&str>) -> MonitorAddress {
        MonitorAddress { v1: v1.map(|a| a.parse().unwrap()), v2: v2.map(|a| a.parse().unwrap()) }
    }

    fn options(raw: &str) -> MapOptions {
        MapOptions::parse(raw).unwrap()
    }

    #[test]
    fn one_protocol_at_a_time() {
        let two =
            [monitor(Some("10.0.0.1:6789"), Some("10.0.0.1:3300")), monitor(None, Some("[fd00::2]:3300"))];
        let chosen = |raw| route(&two, &options(raw)).unwrap();
        assert_eq!(chosen("").monitors, ["10.0.0.1:6789"]);
        assert_eq!(chosen("").ms_mode, None);
        assert_eq!(chosen("ms_mode=secure").monitors, ["10.0.0.1:3300", "[fd00::2]:3300"]);
        assert_eq!(chosen("ms_mode=secure").ms_mode, None);
        assert_eq!(chosen("ms_mode=legacy").monitors, ["10.0.0.1:6789"]);
    }

    #[test]
    fn a_cluster_without_v1_gets_prefer_crc() {
        let modern = [monitor(None, Some("10.0.0.1:3300"))];
        let chosen = route(&modern, &options("")).unwrap();
        assert_eq!((chosen.monitors[0].as_str(), chosen.ms_mode), ("10.0.0.1:3300", Some("prefer-crc")));
        assert!(route(&modern, &options("ms_mode=legacy")).is_err());
        assert!(route(&[], &options("")).is_err());
    }

    #[test]
    fn config_knows_many_ways_to_write_an_address() {
        let read = |text: &str| from_config(&[text.to_owned()]);
        let default = monitor(Some("10.0.0.1:6789"), Some("10.0.0.1:3300"));
        assert_eq!(read("10.0.0.1"), [default]);
        assert_eq!(read("10.0.0.1:6789"), [monitor(Some("10.0.0.1:6789"), None)]);
        assert_eq!(read("10.0.0.1:3300"), [monitor(None, Some("10.0.0.1:3300"))]);
        assert_eq!(read("v2:10.0.0.1:3301/0"), [monitor(None, Some("10.0.0.1:3301"))]);
        assert_eq!(read("[fd00::1]:6790"), [monitor(Some("[fd00::1]:6790"), None)]);
        assert_eq!(
            read("[v2:10.0.0.1:3300,v1:10.0.0.1:6789]"),
            [monitor(None, Some("10.0.0.1:3300")), monitor(Some("10.0.0.1:6789"), None)]
        );
        assert_eq!(read("[fd00::1]").len(), 1);
        assert_eq!(read("localhost:6789").len().min(1), 1);
    }
}
