//! Whether a Ceph monitor answers in the network in which the kernel would connect to it.
//!
//! Lives here: a TCP connection from a network namespace, and the banner that a monitor sends at
//! once whoever connects. Nothing is logged in, nothing is told to the monitor.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::error::{HostError, Result};
use super::netns;

/// [`HostError::op`] when no monitor greets.
pub const GREETING: &str = "reach monitor";

/// What the messengers' banners begin with (`CEPH_BANNER`, `CEPH_BANNER_V2_PREFIX`).
const V1: &[u8] = b"ceph v027";
const V2: &[u8] = b"ceph v2\n";

/// Which of Ceph's protocols a monitor is to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// msgr1, the kernel's `ms_mode=legacy`.
    V1,
    /// msgr2.
    V2,
}

impl Protocol {
    fn banner(self) -> &'static [u8] {
        match self {
            Self::V1 => V1,
            Self::V2 => V2,
        }
    }
}

/// Waits until one of the monitors (`ip:port`) greets in that network namespace, this one's if none
/// is named. Blocking; all are asked at once.
///
/// # Errors
/// Those of [`netns::enter`]; ETIMEDOUT with what became of each when none has greeted by `limit`,
/// or none can.
pub fn wait(monitors: &[String], netns: Option<&Path>, protocol: Protocol, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    let object = monitors.join(", ");
    let (sender, answers) = channel();
    for monitor in monitors {
        let (sender, monitor, netns) = (sender.clone(), monitor.clone(), netns.map(Path::to_owned));
        // In a thread that ends, since it moves to another network.
        let ask = move || {
            let entered = netns.as_deref().map_or(Ok(()), netns::enter);
            let greeted = entered.map(|()| greet(&monitor, protocol, limit));
            let _ = sender.send((monitor, greeted));
        };
        let started = std::thread::Builder::new().name(GREETING.into()).spawn(ask);
        started.map_err(|error| HostError::io(GREETING, &*object, &error).with("cannot start a thread"))?;
    }
    drop(sender);
    let mut told = Vec::new();
    loop {
        match answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((_, Err(error))) => return Err(error),
            Ok((_, Ok(Ok(())))) => return Ok(()),
            Ok((monitor, Ok(Err(error)))) => told.push(format!("{monitor}: {error}")),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
    }
    if told.len() < monitors.len() {
        told.push(format!("no answer in {} s", limit.as_secs()));
    }
    Err(HostError::new(GREETING, object, libc::ETIMEDOUT).with(told.join("; ")))
}

fn greet(monitor: &str, protocol: Protocol, limit: Duration) -> io::Result<()> {
    let address: SocketAddr = monitor.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let expected = protocol.banner();
    let mut banner = vec![0; expected.len()];
    stream.read_exact(&mut banner)?;
    if banner == expected {
        return Ok(());
    }
    let found = String::from_utf8_lossy(&banner).trim_end().escape_debug().to_string();
    Err(io::Error::other(format!(
        "what answers there is no monitor of the protocol {protocol:?}: it says {found:?}"
    )))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Somebody who says this to all who come, and then nothing; its address.
    fn says(words: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                stream.write_all(words).unwrap();
                kept.push(stream);
            }
        });
        address
    }

    #[test]
    fn one_monitor_that_greets_is_enough() {
        let silent = says(b"");
        let monitors = [silent, "127.0.0.1:1".to_owned(), says(b"ceph v027........")];
        wait(&monitors, None, Protocol::V1, LIMIT).unwrap();
        wait(&[says(b"ceph v2\n")], None, Protocol::V2, LIMIT).unwrap();
    }

    #[test]
    fn none_is_told_with_the_reason_of_each() {
        let other = says(b"ceph v2\n....");
        let closed = "127.0.0.1:1".to_owned();
        let error = wait(&[other.clone(), closed.clone()], None, Protocol::V1, LIMIT).unwrap_err();
        let text = error.to_string();
        assert!(error.is(libc::ETIMEDOUT) && text.contains(&closed) && text.contains("refused"), "{text}");
        assert!(text.contains(&format!("{other}: what answers there")), "{text}");
        let error = wait(&[says(b"")], None, Protocol::V1, Duration::from_millis(200)).unwrap_err();
        assert!(error.is(libc::ETIMEDOUT), "{error}");
    }
}
