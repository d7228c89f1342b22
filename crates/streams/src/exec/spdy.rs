//! A session whose streams are SPDY's: the client opens `error`, and of `stdin`, `stdout`, `stderr` and `resize` those that it
//! asked for; then the process starts.

use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::{BoxError, Ending, Options, Start, size_of};
use crate::session::{BoxDuplex, ExecSession, Input, Output};
use crate::spdy::{self, Config, Connection, Reader, Role, Stream, Writer, connection::header};

/// How long the client may take to open its streams.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// A terminal's size is some thirty bytes.
const SIZE_BYTES_MAX: usize = 1024;

const KINDS: [&str; 5] = ["error", "stdin", "stdout", "stderr", "resize"];

pub(super) async fn serve(
    io: BoxDuplex,
    protocol: &'static str,
    options: Options,
    start: Start<'_>,
) -> Result<(), BoxError> {
    let accepts = |headers: &spdy::Headers| header(headers, "streamtype").is_some_and(|kind| KINDS.contains(&kind));
    let (connection, run) = spdy::start(io, Config { role: Role::Server, accepts, ping: None });
    tokio::pin!(run);
    tokio::select! {
        // The client went away: dropping the session ends the process.
        ended = &mut run => return ended.map_err(Into::into),
        served = converse(connection, protocol, options, start) => served?,
    }
    run.await.map_err(Into::into)
}

/// The streams by kind, as far as the client has opened them.
#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn place(&mut self, kind: &str) -> Option<&mut Option<Stream>> {
        match kind {
            "error" => Some(&mut self.error),
            "stdin" => Some(&mut self.stdin),
            "stdout" => Some(&mut self.stdout),
            "stderr" => Some(&mut self.stderr),
            "resize" => Some(&mut self.resize),
            _ => None,
        }
    }

    async fn of(connection: &mut Connection, protocol: &str, options: Options) -> Option<Self> {
        let resizes = options.tty && matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io");
        let wanted = [true, options.stdin, options.stdout, options.stderr, resizes];
        let mut streams = Self::default();
        while !KINDS.iter().zip(wanted).all(|(kind, wanted)| !wanted || streams.has(kind)) {
            let stream = connection.opened.recv().await?;
            let kind = stream.header("streamtype").unwrap_or_default().to_owned();
            if let Some(place) = streams.place(&kind) {
                *place = Some(stream);
            }
        }
        Some(streams)
    }

    fn has(&mut self, kind: &str) -> bool {
        self.place(kind).is_some_and(|place| place.is_some())
    }
}

async fn converse(
    mut connection: Connection,
    protocol: &str,
    options: Options,
    start: Start<'_>,
) -> Result<(), BoxError> {
    let opened = tokio::time::timeout(STREAMS_TIMEOUT, Streams::of(&mut connection, protocol, options)).await;
    let Streams { error, stdin, stdout, stderr, resize } =
        opened.ok().flatten().ok_or("the client did not open its streams")?;
    // Further ones are refused.
    connection.opened.close();
    // Both halves of each stream are kept to the end: dropped early, what comes late would look like an error.
    let half =
        |stream: Option<Stream>| stream.map_or((None, None), |stream| (Some(stream.reader), Some(stream.writer)));
    let ((stdin, stdin_answer), (resize, resize_answer)) = (half(stdin), half(resize));
    let ((_stdout_reader, stdout), (_stderr_reader, stderr)) = (half(stdout), half(stderr));
    let (_, error) = half(error);
    let ending = match start.await {
        Ok(ExecSession { input, mut output }) => {
            let pumped = async {
                tokio::join!(pump_input(stdin, &input), pump_sizes(resize, &input));
                // The end of the input is not that of the session.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ending = pump_output(&mut output, stdout.as_ref(), stderr.as_ref()) => ending,
                () = pumped => Ending::unknown(),
            }
        }
        Err(why) => Ending::Failed(why),
    };
    if let (Some(error), Some(words)) = (&error, ending.words(protocol, options.attached)) {
        error.send(words).await?;
    }
    for writer in [error, stdout, stderr, stdin_answer, resize_answer].into_iter().flatten() {
        writer.finish().await;
    }
    Ok(())
}

async fn pump_input(stdin: Option<Reader>, input: &mpsc::Sender<Input>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(data) = stdin.next().await {
        // A process that has ended takes nothing more; its result is on the way.
        let _ = input.send(Input::Stdin(data)).await;
    }
    let _ = input.send(Input::StdinClosed).await;
}

/// Sizes come as JSON, one after the other.
async fn pump_sizes(resize: Option<Reader>, input: &mpsc::Sender<Input>) {
    let Some(mut resize) = resize else { return };
    let mut text = BytesMut::new();
    while let Some(data) = resize.next().await {
        if text.len() + data.len() > SIZE_BYTES_MAX {
            text.clear();
            continue;
        }
        text.extend_from_slice(&data);
        let mut values = serde_json::Deserializer::from_slice(&text).into_iter();
        let (mut last, mut read) = (None, 0);
        while let Some(Ok(value)) = values.next() {
            (last, read) = (size_of(&value), values.byte_offset());
        }
        drop(text.split_to(read));
        if let Some(size) = last {
            let _ = input.send(Input::Resize(size)).await;
        }
    }
}

async fn pump_output(output: &mut mpsc::Receiver<Output>, stdout: Option<&Writer>, stderr: Option<&Writer>) -> Ending {
    while let Some(next) = output.recv().await {
        let (writer, data) = match next {
            Output::Stdout(data) => (stdout, data),
            Output::Stderr(data) => (stderr, data),
            Output::Exited(code) => return Ending::Exited(code),
            Output::Failed(why) => return Ending::Failed(why),
        };
        // Who has ended a stream wants no more of it; the process may go on.
        if let Some(writer) = writer {
            let _ = writer.send(data).await;
        }
    }
    Ending::unknown()
}
