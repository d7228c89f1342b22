//! The client's side over SPDY: a session in a container whose runtime, or kubelet, is somebody else.

use std::future::Future;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio::sync::mpsc;

use super::{Ending, Options, RESULT_BYTES_MAX};
use crate::session::{BoxDuplex, ExecSession, Input, Output};
use crate::spdy::connection::{Ended, Opener};
use crate::spdy::{self, Config, Reader, Role, Stream, Writer};

/// Messages that wait in each direction of a session; then the side that sends waits.
const QUEUE_MAX: usize = 8;
/// How often the other side is shown that this one lives: as often as upstream's API server does.
const PING: Duration = Duration::from_secs(5);

/// Opens the streams of a session over a connection that has switched to SPDY. The future moves its bytes and ends with it.
pub fn open(io: BoxDuplex, protocol: String, options: Options) -> (ExecSession, impl Future<Output = ()> + Send) {
    let (input, inputs) = mpsc::channel(QUEUE_MAX);
    let (outputs, output) = mpsc::channel(QUEUE_MAX);
    let session = ExecSession { input, output };
    let (connection, run) = spdy::start(io, Config { role: Role::Client, accepts: |_| false, ping: Some(PING) });
    let moved = async move {
        let opener = connection.opener;
        let ending = match Streams::open(&opener, options, &protocol).await {
            Ok(streams) => streams.converse(inputs, &outputs, &protocol).await,
            Err(Ended) => Some(Ending::Failed("the other side did not accept the streams of the session".to_owned())),
        };
        let last = match ending {
            Some(Ending::Exited(code)) => Output::Exited(code),
            Some(Ending::Failed(why)) => Output::Failed(why),
            None => return,
        };
        let _ = outputs.send(last).await;
    };
    let both = async move {
        let (ran, ()) = tokio::join!(run, moved);
        if let Err(error) = ran {
            tracing::debug!(%error, "a session's connection broke");
        }
    };
    (session, both)
}

struct Streams {
    error: Stream,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    async fn open(opener: &Opener, options: Options, protocol: &str) -> Result<Self, Ended> {
        let one = async |kind: &str| opener.open(vec![("streamtype".to_owned(), kind.to_owned())]).await;
        let some = async |wanted: bool, kind: &str| if wanted { one(kind).await.map(Some) } else { Ok(None) };
        let resizes = options.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        Ok(Self {
            error: one("error").await?,
            stdin: some(options.stdin, "stdin").await?,
            stdout: some(options.stdout, "stdout").await?,
            stderr: some(options.stderr, "stderr").await?,
            resize: some(resizes, "resize").await?,
        })
    }

    /// Until the process has ended (its ending) or nobody wants its output (`None`).
    async fn converse(
        self,
        inputs: mpsc::Receiver<Input>,
        outputs: &mpsc::Sender<Output>,
        protocol: &str,
    ) -> Option<Ending> {
        let Self { mut error, stdin, stdout, stderr, resize } = self;
        let reader = |stream: Option<Stream>| {
            stream.map_or((None, None), |Stream { reader, writer, .. }| (Some(reader), Some(writer)))
        };
        let ((stdout, _stdout_writer), (stderr, _stderr_writer)) = (reader(stdout), reader(stderr));
        let ((_stdin_reader, stdin), (_resize_reader, resize)) = (reader(stdin), reader(resize));
        let said = async {
            let (words, (), ()) = tokio::join!(
                words(&mut error.reader),
                pump_output(stdout, outputs, Output::Stdout),
                pump_output(stderr, outputs, Output::Stderr),
            );
            words
        };
        let heard = async {
            pump_input(inputs, stdin, resize).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            words = said => Some(words.map_or_else(Ending::unknown, |words| Ending::of(&words, protocol))),
            () = heard => None,
            () = outputs.closed() => None,
        }
    }
}

/// What comes of the error stream. Before `v4` nothing may come: then an end without words is a success.
async fn words(reader: &mut Reader) -> Option<BytesMut> {
    let mut words = BytesMut::new();
    while let Some(data) = reader.next().await {
        if words.len() + data.len() > RESULT_BYTES_MAX {
            return None;
        }
        words.extend_from_slice(&data);
    }
    Some(words)
}

async fn pump_output(reader: Option<Reader>, outputs: &mpsc::Sender<Output>, kind: fn(Bytes) -> Output) {
    let Some(mut reader) = reader else { return };
    while let Some(data) = reader.next().await {
        let _ = outputs.send(kind(data)).await;
    }
}

async fn pump_input(mut inputs: mpsc::Receiver<Input>, mut stdin: Option<Writer>, resize: Option<Writer>) {
    while let Some(next) = inputs.recv().await {
        match next {
            Input::Stdin(data) => {
                if let Some(stdin) = &stdin {
                    let _ = stdin.send(data).await;
                }
            }
            Input::StdinClosed => {
                if let Some(stdin) = stdin.take() {
                    stdin.finish().await;
                }
            }
            Input::Resize(size) => {
                if let Some(resize) = &resize {
                    let text = json!({"Width": size.width, "Height": size.height}).to_string();
                    let _ = resize.send(text.into()).await;
                }
            }
        }
    }
    if let Some(stdin) = stdin.take() {
        stdin.finish().await;
    }
}
