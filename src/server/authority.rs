//! Serves clients whose `:authority` is no authority.
//!
//! Old kubelets and tools name the socket's path there (`/csi/csi.sock`), and h2
//! resets such a call before anybody else sees it. So this filter sits between
//! the socket and h2: it reads the client's frames, and in the headers of a
//! call puts `localhost` where something else stands that h2 would refuse.
//!
//! Easily missed: the table of HPACK is shared state of both ends of a
//! connection. The filter keeps the client's table and sends everything on as
//! literals without indexing, so that h2's own table stays empty. What is
//! malformed ends the connection; frames other than HEADERS and CONTINUATION
//! pass unread, the limits on those are h2's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::codegen::http::uri::Authority;
use tonic::transport::server::Connected;

use super::hpack;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
/// The largest frame that h2 takes while nobody agreed on more, and nobody does.
const LARGEST_FRAME: usize = 16 << 10;
/// The most that the headers of one call may be, coded and decoded: h2's own limit.
const MOST_HEADERS: usize = 16 << 10;
const READ_AT_ONCE: usize = 8 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// What comes next from the client.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// A frame's header.
    Frame,
    /// So many bytes that pass.
    Pass(usize),
    /// The payload of a frame whose headers we want.
    Headers { length: usize, flags: u8 },
    /// Not HTTP/2: all passes, h2 says what is wrong.
    Anything,
}

/// Changes the bytes of one client's connection.
struct Rewriter {
    next: Next,
    /// The begin of a frame header or of a HEADERS payload.
    held: Vec<u8>,
    /// The block of headers that CONTINUATION frames go on with.
    open: Option<Block>,
    decoder: hpack::Decoder,
}

struct Block {
    stream: [u8; 4],
    /// END_STREAM and PRIORITY of the HEADERS frame.
    flags: u8,
    priority: Vec<u8>,
    fragment: Vec<u8>,
}

impl Rewriter {
    fn new() -> Self {
        Self {
            next: Next::Preface(0),
            held: Vec::new(),
            open: None,
            decoder: hpack::Decoder::new(MOST_HEADERS),
        }
    }

    /// Takes what the client sent and appends what h2 shall see.
    fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            match self.next {
                Next::Preface(seen) => {
                    let take = bytes.len().min(PREFACE.len() - seen);
                    let is_preface = bytes[..take] == PREFACE[seen..seen + take];
                    self.next = match seen + take {
                        _ if !is_preface => Next::Anything,
                        all if all == PREFACE.len() => Next::Frame,
                        part => Next::Preface(part),
                    };
                    if is_preface {
                        out.extend_from_slice(&bytes[..take]);
                        bytes = &bytes[take..];
                    }
                }
                Next::Anything => {
                    out.extend_from_slice(bytes);
                    return Ok(());
                }
                Next::Pass(left) => {
                    let take = bytes.len().min(left);
                    out.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    self.next = if take == left { Next::Frame } else { Next::Pass(left - take) };
                }
                Next::Frame => {
                    if self.hold(&mut bytes, HEADER) {
                        self.frame(out)?;
                    }
                }
                Next::Headers { length, flags } => {
                    if self.hold(&mut bytes, HEADER + length) {
                        self.next = Next::Frame;
                        let frame = std::mem::take(&mut self.held);
                        self.headers(&frame, flags, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Holds bytes back until there are so many; true when there are.
    fn hold(&mut self, bytes: &mut &[u8], wanted: usize) -> bool {
        let take = bytes.len().min(wanted - self.held.len());
        self.held.extend_from_slice(&bytes[..take]);
        *bytes = &bytes[take..];
        self.held.len() == wanted
    }

    /// A frame's header is complete: decides what happens to the frame.
    fn frame(&mut self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let [high, middle, low, kind, flags, ..] = self.held[..] else { return Ok(()) };
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let wanted = kind == if self.open.is_some() { CONTINUATION } else { HEADERS };
        if self.open.is_some() && (!wanted || Some(&self.held[5..]) != self.open_stream()) {
            return Err("headers that are not continued");
        }
        if !wanted {
            out.append(&mut self.held);
            self.next = if length == 0 { Next::Frame } else { Next::Pass(length) };
            return Ok(());
        }
        if length > LARGEST_FRAME {
            return Err("a frame that is too large");
        }
        self.next = Next::Headers { length, flags };
        if length == 0 {
            self.next = Next::Frame;
            let frame = std::mem::take(&mut self.held);
            return self.headers(&frame, flags, out);
        }
        Ok(())
    }

    fn open_stream(&self) -> Option<&[u8]> {
        self.open.as_ref().map(|block| &block.stream[..])
    }

    /// A HEADERS or CONTINUATION frame is complete.
    fn headers(&mut self, frame: &[u8], flags: u8, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let (header, payload) = frame.split_at_checked(HEADER).ok_or("a truncated frame")?;
        let mut block = match self.open.take() {
            Some(mut block) => {
                block.fragment.extend_from_slice(payload);
                block
            }
            None => Block::begin(header, payload, flags)?,
        };
        if block.fragment.len() > MOST_HEADERS {
            return Err("headers that are too long");
        }
        if flags & END_HEADERS == 0 {
            self.open = Some(block);
            return Ok(());
        }
        let mut headers = self.decoder.decode(&block.fragment)?;
        block.fragment.clear();
        for header in &mut headers {
            if header.0 == b":authority" && Authority::try_from(&header.1[..]).is_err() {
                header.1 = b"localhost".to_vec();
            }
            hpack::encode(header, &mut block.fragment);
        }
        block.write(out);
        Ok(())
    }
}

impl Block {
    /// Takes padding and priority off a HEADERS frame (RFC 9113, 6.2).
    fn begin(header: &[u8], mut payload: &[u8], flags: u8) -> Result<Self, &'static str> {
        let wrong = "a HEADERS frame that is too short";
        if flags & PADDED != 0 {
            let (&padding, rest) = payload.split_first().ok_or(wrong)?;
            let length = rest.len().checked_sub(padding.into()).ok_or(wrong)?;
            payload = &rest[..length];
        }
        let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
        let (priority, fragment) = payload.split_at_checked(priority).ok_or(wrong)?;
        let stream = header.last_chunk().ok_or(wrong)?;
        Ok(Self {
            stream: *stream,
            flags: flags & (END_STREAM | PRIORITY),
            priority: priority.to_vec(),
            fragment: fragment.to_vec(),
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        let first = self.fragment.len().min(LARGEST_FRAME - self.priority.len());
        let (mut part, mut rest) = self.fragment.split_at(first);
        let (mut kind, mut flags, mut front) = (HEADERS, self.flags, &self.priority[..]);
        loop {
            let end = if rest.is_empty() { END_HEADERS } else { 0 };
            // At most LARGEST_FRAME, so the upper byte is 0.
            let length = ((front.len() + part.len()) as u32).to_be_bytes();
            out.extend_from_slice(&length[1..]);
            out.extend_from_slice(&[kind, flags | end]);
            out.extend_from_slice(&self.stream);
            out.extend_from_slice(front);
            out.extend_from_slice(part);
            if rest.is_empty() {
                return;
            }
            (kind, flags, front) = (CONTINUATION, 0, &[]);
            (part, rest) = rest.split_at(rest.len().min(LARGEST_FRAME));
        }
    }
}

/// A client's connection as h2 shall see it.
pub struct Repaired<S> {
    stream: S,
    rewriter: Rewriter,
    /// Rewritten and not read yet, from `read` on.
    ready: Vec<u8>,
    read: usize,
}

impl<S> Repaired<S> {
    /// Repairs what is read from `stream`; what is written passes.
    pub fn new(stream: S) -> Self {
        Self { stream, rewriter: Rewriter::new(), ready: Vec::new(), read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Repaired<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.read == this.ready.len() {
            let mut space = [0; READ_AT_ONCE];
            let mut fresh = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut fresh))?;
            if fresh.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.read = 0;
            if let Err(why) = this.rewriter.feed(fresh.filled(), &mut this.ready) {
                tracing::debug!(why, "a client sent what is not HTTP/2; its connection is closed");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
            }
        }
        let take = buf.remaining().min(this.ready.len() - this.read);
        buf.put_slice(&this.ready[this.read..this.read + take]);
        this.read += take;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Repaired<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Connected for Repaired<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests;
