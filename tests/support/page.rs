//! Pages that a driver shows over HTTP: `/metrics` and `/healthz`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long after its start a driver may take until it listens there, too.
const PATIENCE: Duration = Duration::from_secs(10);

/// The status and body of a page.
pub fn get(server: impl ToSocketAddrs, path: &str) -> (u16, String) {
    let mut stream = connect(server);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn connect(server: impl ToSocketAddrs) -> TcpStream {
    let until = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(&server) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The value of a metric in a page of them; its labels in any order.
pub fn value(page: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let line = page.lines().find(|line| {
        let (series, _) = line.rsplit_once(' ').unwrap_or((line, ""));
        let (found, with) = series.split_once('{').unwrap_or((series, ""));
        found == name && labels.iter().all(|label| with.contains(label.as_str()))
    })?;
    line.rsplit_once(' ')?.1.parse().ok()
}
