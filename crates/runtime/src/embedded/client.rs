//! The runtime's side of a shim's socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cri::{ExecSession, Input, Output};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::records;
use crate::shim::protocol::{self, Answer, Change, Control, FrameError, HEADER_BYTES, Kind, Request};

/// Frames that wait on either side of a session.
const SESSION_QUEUE: usize = 16;

/// Input goes to the shim in pieces of at most this.
const INPUT_CHUNK_BYTES: usize = 16 << 10;

/// A port on the loopback answers at once, or its owner has no place for one more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A shim could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens, or it stopped to.
    #[error("the pod's shim does not answer")]
    Connection(#[source] std::io::Error),
    /// It answered in another language.
    #[error("the pod's shim answers nonsense")]
    Frame(#[source] FrameError),
    /// It could not do it.
    #[error("{0}")]
    Refused(String),
    /// The container does not run.
    #[error("the container is not running")]
    NotRunning,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
}

impl Connection {
    /// Connects to the shim of the sandbox in `directory`. The path goes through a descriptor, as a socket's name may have
    /// 107 bytes only.
    pub(super) async fn open(directory: &Path) -> Result<Self, ClientError> {
        let folder = std::fs::File::open(directory).map_err(ClientError::Connection)?;
        let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), records::SOCKET);
        Ok(Self { stream: UnixStream::connect(path).await.map_err(ClientError::Connection)? })
    }

    async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ClientError> {
        self.stream.write_all(&protocol::message(message)).await.map_err(ClientError::Connection)
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let (_, payload) = read_frame(&mut self.stream).await?;
        understand(&payload)
    }
}

async fn read_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Result<(Kind, Bytes), ClientError> {
    let mut header = [0u8; HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(ClientError::Connection)?;
    let (kind, length) = protocol::parse_header(header).map_err(ClientError::Frame)?;
    let mut payload = vec![0u8; length];
    stream.read_exact(&mut payload).await.map_err(ClientError::Connection)?;
    Ok((kind, payload.into()))
}

fn understand<T: DeserializeOwned>(payload: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(payload).map_err(|error| ClientError::Frame(FrameError::Message(error)))
}

/// Asks once.
pub(super) async fn ask(directory: &Path, request: &Request) -> Result<Answer, ClientError> {
    let mut connection = Connection::open(directory).await?;
    connection.send(request).await?;
    match connection.receive().await? {
        Answer::Failed { message } => Err(ClientError::Refused(message)),
        Answer::NotRunning => Err(ClientError::NotRunning),
        answer => Ok(answer),
    }
}

/// The changes in a shim, all states first.
pub(super) struct Changes(Connection);

impl Changes {
    pub(super) async fn open(directory: &Path) -> Result<Self, ClientError> {
        let mut connection = Connection::open(directory).await?;
        connection.send(&Request::Watch).await?;
        Ok(Self(connection))
    }

    /// The next change; an error when the shim has gone.
    pub(super) async fn next(&mut self) -> Result<Change, ClientError> {
        self.0.receive().await
    }
}

/// Connects to a port on the loopback of a shim's network. What a pod's processes serve to each other alone is reached too.
pub(super) async fn connect_to_port(directory: &Path, port: u16) -> io::Result<TcpStream> {
    // While the connection is held, its process id is the shim's.
    let shim = Connection::open(directory).await.map_err(io::Error::other)?;
    let pid = shim.stream.peer_cred()?.pid().ok_or_else(|| io::Error::other("the shim has no process id"))?;
    let stream = linux::net::namespace::run(format!("/proc/{pid}/ns/net").into(), move || {
        let connect = |host: IpAddr| std::net::TcpStream::connect_timeout(&(host, port).into(), CONNECT_TIMEOUT);
        let stream = connect(Ipv4Addr::LOCALHOST.into()).or_else(|first| {
            // The first error is the one to tell: few pods listen on IPv6 alone.
            connect(Ipv6Addr::LOCALHOST.into()).map_err(|_| first)
        })?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    });
    TcpStream::from_std(stream.await?)
}

/// Opens a session: `request` is `Exec` or `Attach`. Its two tasks end with the process, or when the session is dropped.
pub(super) async fn session(
    directory: &Path,
    request: &Request,
    tasks: &base::Tasks,
) -> Result<ExecSession, ClientError> {
    let mut connection = Connection::open(directory).await?;
    connection.send(request).await?;
    match connection.receive().await? {
        Answer::Failed { message } => return Err(ClientError::Refused(message)),
        Answer::NotRunning => return Err(ClientError::NotRunning),
        Answer::Done | Answer::Started { .. } => {}
    }
    let (input, inputs) = mpsc::channel(SESSION_QUEUE);
    let (outputs, output) = mpsc::channel(SESSION_QUEUE);
    let (reader, writer) = connection.stream.into_split();
    let over = CancellationToken::new();
    tasks.spawn("session output", read_session(reader, outputs, over.clone()));
    tasks.spawn("session input", write_session(writer, inputs, over));
    Ok(ExecSession { input, output })
}

async fn read_session(mut reader: OwnedReadHalf, outputs: mpsc::Sender<Output>, over: CancellationToken) {
    // Ends the writer too, and with it the connection: the shim kills what nobody reads.
    let _over = over.drop_guard();
    loop {
        let frame = tokio::select! {
            frame = read_frame(&mut reader) => frame,
            () = outputs.closed() => return,
        };
        let output = match frame {
            Ok((Kind::Stdout, bytes)) => Output::Stdout(bytes),
            Ok((Kind::Stderr, bytes)) => Output::Stderr(bytes),
            Ok((Kind::Message, bytes)) => match understand(&bytes) {
                Ok(Control::Exited { exit_code }) => Output::Exited(exit_code),
                _ => continue,
            },
            Ok((Kind::Stdin, _)) => continue,
            Err(error) => {
                tracing::warn!(error = base::chain(&error), "a session with a container broke off");
                return;
            }
        };
        let last = matches!(output, Output::Exited(_));
        if outputs.send(output).await.is_err() || last {
            return;
        }
    }
}

async fn write_session(mut writer: OwnedWriteHalf, mut inputs: mpsc::Receiver<Input>, over: CancellationToken) {
    let pass = async {
        while let Some(input) = inputs.recv().await {
            let done = match input {
                Input::Stdin(bytes) => write_input(&mut writer, &bytes).await,
                Input::StdinClosed => writer.write_all(&protocol::message(&Control::StdinClosed)).await,
                Input::Resize(size) => {
                    let resize = Control::Resize { width: size.width, height: size.height };
                    writer.write_all(&protocol::message(&resize)).await
                }
            };
            if done.is_err() {
                return;
            }
        }
        // The reader notices if this does not arrive.
        let _ = writer.write_all(&protocol::message(&Control::StdinClosed)).await;
        // The connection stays open for the output.
        over.cancelled().await;
    };
    tokio::select! {
        () = pass => {}
        () = over.cancelled() => {}
    }
}

async fn write_input(writer: &mut OwnedWriteHalf, bytes: &[u8]) -> std::io::Result<()> {
    for chunk in bytes.chunks(INPUT_CHUNK_BYTES) {
        writer.write_all(&protocol::header(Kind::Stdin, chunk.len())).await?;
        writer.write_all(chunk).await?;
    }
    Ok(())
}
