//! A client that names the socket's path as `:authority`, byte by byte, as old
//! kubelets do: h2 alone resets such calls.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::program::Place;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

/// A literal with incremental indexing: both sides put it into their tables.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap());
        block.extend_from_slice(text.as_bytes());
    }
    block
}

fn call(stream: u8, block: &[u8]) -> Vec<u8> {
    let empty_message = [0; 5];
    [frame(HEADERS, END_HEADERS, stream, block), frame(DATA, END_STREAM, stream, &empty_message)].concat()
}

/// What came on the stream until its end: the kinds of its frames, and its data.
fn answer(socket: &mut UnixStream, stream: u8) -> (Vec<u8>, Vec<u8>) {
    let (mut kinds, mut data) = (Vec::new(), Vec::new());
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).expect("the connection stays open until the answer");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        socket.read_exact(&mut payload).unwrap();
        if head[8] != stream {
            continue;
        }
        kinds.push(head[3]);
        if head[3] == DATA {
            data.extend_from_slice(&payload);
        }
        if head[4] & END_STREAM != 0 || head[3] == 3 {
            return (kinds, data);
        }
    }
}

#[test]
fn a_client_with_a_path_for_authority_is_served() {
    let place = Place::new();
    let program = place.serve(&["--controllerserver=true"]);
    let mut socket = UnixStream::connect(place.socket()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let first = [
        vec![0x83, 0x86],
        header(":path", "/csi.v1.Identity/GetPluginInfo"),
        header(":authority", "/csi/csi.sock"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat();
    // The newest entry of the table is 62, so these are te, content-type, authority and path.
    let again = [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    socket.write_all(&[hello, call(1, &first)].concat()).unwrap();
    for stream in [1, 3, 5] {
        let (kinds, data) = answer(&mut socket, stream);
        assert_eq!(kinds, [HEADERS, DATA, HEADERS], "stream {stream}");
        assert!(data.windows(16).any(|part| part == b"rbd.csi.ceph.com"), "{data:?}");
        // One byte at a time the third time.
        for part in call(stream + 2, &again).chunks(if stream == 1 { 1000 } else { 1 }) {
            socket.write_all(part).unwrap();
        }
    }
    drop(socket);
    program.stop_within(5);
}
