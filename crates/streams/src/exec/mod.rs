//! `exec` and `attach`: input, output, error output, result and terminal size of one process, each a stream or channel.
//!
//! Public behaviour: the `remotecommand` protocols `v5.channel.k8s.io` (WebSocket only: the input can be closed alone) down to
//! `channel.k8s.io`. From `v4` on the result is a `Status`; before, the text of a failure, and nothing of a success. From `v3` on
//! the terminal's size is sent.
//!
//! A slow client slows the process down: nothing is queued beyond the session's own bounded channels.

pub mod client;
mod spdy;
mod websocket;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use crate::session::{ExecSession, TerminalSize};
use crate::upgrade::{Offer, Opened};

/// The protocols over SPDY, the best first.
pub const SPDY_PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

/// What servers of exec and attach speak.
pub const OFFER: Offer = Offer {
    spdy: SPDY_PROTOCOLS,
    websocket: &[V5, "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"],
};

/// The protocol in which a client can close the input alone.
pub const V5: &str = "v5.channel.k8s.io";

/// Longest result that is read: a process's own words never go there.
const RESULT_BYTES_MAX: usize = 64 << 10;

/// Errors of a session are of many kinds, and all end in one log line.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the client wants connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The process's input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its error output; never with a terminal, which has one output.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
    /// Whether it is a container's main process, whose exit code is no result of the session.
    pub attached: bool,
}

/// Starts the process, when all is ready for it; the error is what the client is told.
pub type Start<'a> = BoxFuture<'a, Result<ExecSession, String>>;

/// Serves a session to its end.
pub async fn serve(opened: Opened, options: Options, start: Start<'_>) -> Result<(), BoxError> {
    match opened {
        Opened::Spdy(io, protocol) => spdy::serve(io, protocol, options, start).await,
        Opened::WebSocket(socket, protocol) => websocket::serve(*socket, protocol, options, start).await,
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    Exited(i32),
    Failed(String),
}

impl Ending {
    fn unknown() -> Self {
        Self::Failed("the session ended without a result".to_owned())
    }

    /// The `Status` that ends a session.
    fn status(&self, attached: bool) -> Value {
        match self {
            Self::Exited(code) if *code == 0 || attached => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: error executing command in container: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(why) => {
                json!({"metadata": {}, "status": "Failure", "message": why, "reason": "InternalError", "code": 500})
            }
        }
    }

    /// The bytes that say so in a protocol; `None` where nothing is said.
    fn words(&self, protocol: &str, attached: bool) -> Option<Bytes> {
        let status = self.status(attached);
        if protocol.starts_with("v4.") || protocol.starts_with("v5.") {
            return Some(status.to_string().into());
        }
        status["message"].as_str().map(|failure| Bytes::from(failure.to_owned()))
    }

    /// What a server's last words mean.
    fn of(words: &[u8], protocol: &str) -> Self {
        if !protocol.starts_with("v4.") {
            let text = String::from_utf8_lossy(words).into_owned();
            return if text.is_empty() { Self::Exited(0) } else { Self::Failed(text) };
        }
        let Ok(status) = serde_json::from_slice::<Value>(words) else { return Self::unknown() };
        if status["status"] == "Success" {
            return Self::Exited(0);
        }
        let causes = status["details"]["causes"].as_array().into_iter().flatten();
        let code = causes
            .filter(|cause| cause["reason"] == "ExitCode")
            .find_map(|cause| cause["message"].as_str()?.parse().ok());
        match code {
            Some(code) => Self::Exited(code),
            None => Self::Failed(status["message"].as_str().unwrap_or("the session failed").to_owned()),
        }
    }
}

/// `{"Width": 80, "Height": 24}`
fn size_of(value: &Value) -> Option<TerminalSize> {
    let side = |name: &str| value[name].as_u64().and_then(|side| u16::try_from(side).ok());
    Some(TerminalSize { width: side("Width")?, height: side("Height")? })
}

#[cfg(test)]
mod tests;
