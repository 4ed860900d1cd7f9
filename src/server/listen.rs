//! The endpoint: a unix socket or a TCP port, and the streams accepted there.
//!
//! What a reader gets wrong: a socket file that exists is not in the way by
//! itself. Nobody answers behind the one that a killed process left, so it is
//! replaced; one that answers belongs to a living driver and is left alone.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::stat::{Mode, fchmod};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tonic::transport::server::Connected;

/// How long the owner of an existing socket may take to accept.
const ALIVE: Duration = Duration::from_secs(2);

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A bound endpoint.
#[derive(Debug)]
pub struct Listener {
    endpoint: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, file: SocketFile },
    Tcp(TcpListener),
}

impl Listener {
    /// Binds `unix://PATH` or `tcp://ADDRESS:PORT`.
    ///
    /// # Errors
    /// One line that says what is in the way.
    pub async fn bind(endpoint: &str) -> Result<Self, String> {
        let failed = |error: io::Error| format!("{endpoint}: {error}");
        let socket = match endpoint.split_once("://") {
            Some(("unix", path)) => bind_unix(Path::new(path)).await.map_err(failed)?,
            Some(("tcp", address)) => {
                Socket::Tcp(TcpListener::bind(tcp_address(address)).await.map_err(failed)?)
            }
            _ => return Err(failed(io::Error::other("must be unix://PATH or tcp://ADDRESS:PORT"))),
        };
        Ok(Self { endpoint: endpoint.to_owned(), socket })
    }

    /// What tells this process from every other one that lives, and is the same
    /// for the one started in its place: a socket's folder (by its inode, since
    /// each container sees it at the same path) has one living driver. `host` says which node it
    /// is, and which boot of it.
    pub fn identity(&self, host: &str) -> String {
        match &self.socket {
            Socket::Unix { file, .. } => {
                let (device, inode) = file.folder;
                format!("{host} {} {device}:{inode}", self.endpoint)
            }
            Socket::Tcp(_) => format!("{host} {}", self.endpoint),
        }
    }

    /// The TCP port or socket file that is served.
    pub fn describe(&self) -> String {
        match &self.socket {
            Socket::Unix { file, .. } => file.file.path.display().to_string(),
            Socket::Tcp(listener) => {
                listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
            }
        }
    }

    /// The socket's file; none for TCP.
    pub fn file(&self) -> Option<File> {
        match &self.socket {
            Socket::Unix { file, .. } => Some(file.file.clone()),
            Socket::Tcp(_) => None,
        }
    }

    /// The next client.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small answers must not wait for the next packet.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

/// Go's `net.Listen` takes `:port` for all addresses.
fn tcp_address(address: &str) -> String {
    if address.starts_with(':') { format!("[::]{address}") } else { address.to_owned() }
}

async fn bind_unix(path: &Path) -> io::Result<Socket> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    remove_stale(path).await?;
    let listener = bind_closed(path)?;
    let (socket, folder) = (fs::symlink_metadata(path)?, fs::metadata(folder)?);
    let file = SocketFile {
        file: File { path: path.to_owned(), inode: (socket.dev(), socket.ino()) },
        folder: (folder.dev(), folder.ino()),
    };
    Ok(Socket::Unix { listener, file })
}

/// Whoever may connect may read secrets and delete volumes: root alone, from the first
/// moment. Linux gives the file the mode that the socket has before it is bound; the
/// process's umask would do as well, but for the files that other threads make meanwhile.
fn bind_closed(path: &Path) -> io::Result<UnixListener> {
    let kind = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, kind, None)?;
    fchmod(&socket, Mode::from_bits_truncate(0o600))?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    UnixListener::from_std(socket.into())
}

async fn remove_stale(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::other(
            "the file there is no socket, and is left alone: remove it, or choose another path",
        ));
    }
    match tokio::time::timeout(ALIVE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "replacing the socket of a driver that has ended");
            fs::remove_file(path)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => {
            Err(io::Error::other("another process serves this socket: end it first, or choose another path"))
        }
    }
}

/// The file that was made when a socket was bound.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
    inode: (u64, u64),
}

impl File {
    /// Does its path still lead to this socket? As long as that is bound the kernel keeps
    /// the inode, so its number cannot be that of another file by now.
    pub fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode)
    }
}

/// The socket's file; removed in the end if it is still ours.
#[derive(Debug)]
struct SocketFile {
    file: File,
    folder: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let path = &self.file.path;
        if self.file.is_there()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(socket = %path.display(), %error, "the socket could not be removed");
        }
    }
}

/// An accepted client.
#[derive(Debug)]
pub enum Stream {
    /// Over a socket file.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/csi.sock");
        let endpoint = format!("unix://{}", path.display());
        fs::create_dir(folder.path().join("new")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

        let first = Listener::bind(&endpoint).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = Listener::bind(&endpoint).await.unwrap_err();
        assert!(refused.contains("another process"), "{refused}");
        let identity = first.identity("host");
        drop(first);
        assert!(!path.exists());
        // The one that is started in its place is the same to others.
        assert_eq!(Listener::bind(&endpoint).await.unwrap().identity("host"), identity);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("csi.sock");
        fs::write(&path, "data").unwrap();
        let refused = Listener::bind(&format!("unix://{}", path.display())).await.unwrap_err();
        assert!(refused.contains("no socket"), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[tokio::test]
    async fn drivers_in_two_folders_are_two() {
        let identity = |folder: &Path| {
            let endpoint = format!("unix://{}/csi.sock", folder.display());
            async move { Listener::bind(&endpoint).await.unwrap().identity("host") }
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_ne!(identity(one.path()).await, identity(two.path()).await);
    }

    #[tokio::test]
    async fn tcp_is_served_and_a_port_in_use_is_told() {
        let listener = Listener::bind("tcp://127.0.0.1:0").await.unwrap();
        let used = format!("tcp://{}", listener.describe());
        assert!(Listener::bind(&used).await.unwrap_err().contains(&used));
    }
}
