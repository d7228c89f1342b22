//! One call of a plugin: its environment and input, how long it may take, and what it says.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// A plugin that takes longer hangs: the pod would wait for ever, and with it who deletes it.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Results are a few kilobytes; without a bound a plugin could fill the memory.
const BYTES_MAX: u64 = 1 << 20;
/// What plugins find programs of their own by, such as `iptables`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// It is not there, or no program.
    #[error("cannot run {}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It hangs.
    #[error("it did not end within {} s and was killed", TIME_MAX.as_secs())]
    Time,
    /// It says too much.
    #[error("it wrote more than {BYTES_MAX} bytes")]
    Size,
    /// It says what was wrong.
    #[error("{message}{details} (code {code})", details = if details.is_empty() { String::new() } else { format!("; {details}") })]
    Said {
        /// The specification's number, or the plugin's own.
        code: u64,
        /// What.
        message: String,
        /// More.
        details: String,
    },
    /// It ended badly and says nothing that is understood.
    #[error("it ended with {status}: {output:?}")]
    Ended {
        /// How.
        status: String,
        /// The beginning of what it wrote.
        output: String,
    },
    /// It ended well and says nothing that is understood.
    #[error("its result is not JSON: {0}")]
    Result(String),
}

/// A call that is to be made.
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) environment: Vec<(&'static str, OsString)>,
    pub(super) input: String,
}

impl Program {
    /// What it says, if anything. It is killed when this future is dropped.
    pub(super) async fn run(self) -> Result<Option<Value>, PluginError> {
        let failed = |source| PluginError::Run { path: self.path.clone(), source };
        let mut command = Command::new(&self.path);
        command.env_clear().env("PATH", PATH).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // One that does not read its input may end well all the same.
                let _ = stdin.write_all(self.input.as_bytes()).await;
            }
            Ok(())
        };
        let talk = async {
            let ((), output, complaint) = tokio::try_join!(write, read(stdout), read(stderr))?;
            let status = child.wait().await.map_err(failed)?;
            Ok((status, output, complaint))
        };
        let talked = tokio::time::timeout(TIME_MAX, talk).await.map_err(|_| PluginError::Time)?;
        let (status, output, complaint) = talked?;
        understand(status.success(), &status.to_string(), &output, &complaint)
    }
}

/// All that comes, unless it is too much.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, PluginError> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // What was read of a stream that breaks off is what there is.
        let _ = stream.take(BYTES_MAX + 1).read_to_end(&mut bytes).await;
    }
    if bytes.len() as u64 > BYTES_MAX { Err(PluginError::Size) } else { Ok(bytes) }
}

/// Pure.
fn understand(success: bool, status: &str, output: &[u8], complaint: &[u8]) -> Result<Option<Value>, PluginError> {
    let said = serde_json::from_slice::<Value>(output);
    if success {
        return match output.trim_ascii().is_empty() {
            true => Ok(None),
            false => said.map(Some).map_err(|error| PluginError::Result(error.to_string())),
        };
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match said {
        Ok(error) if error["code"].is_u64() => Err(PluginError::Said {
            code: error["code"].as_u64().unwrap_or_default(),
            message: text(&error["msg"]),
            details: text(&error["details"]),
        }),
        _ => {
            let wrote = if output.is_empty() { complaint } else { output };
            let output = String::from_utf8_lossy(wrote).chars().take(500).collect();
            Err(PluginError::Ended { status: status.to_owned(), output })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plugin_says_is_understood_or_named() {
        let of = |success, output: &str, complaint: &str| {
            let said = understand(success, "exit status: 1", output.as_bytes(), complaint.as_bytes());
            said.map(|value| value.map(|value| value.to_string())).map_err(|error| error.to_string())
        };
        for (success, output, complaint, expected) in [
            (true, "{}", "chatter", Ok(Some("{}".to_owned()))),
            (true, " \n", "", Ok(None)),
            (false, r#"{"code": 11, "msg": "later", "details": "busy"}"#, "", Err("later; busy (code 11)")),
            (false, r#"{"code": 7, "msg": "no subnet"}"#, "", Err("no subnet (code 7)")),
            (false, "", "segfault", Err("it ended with exit status: 1: \"segfault\"")),
            (false, "not json", "", Err("it ended with exit status: 1: \"not json\"")),
        ] {
            assert_eq!(of(success, output, complaint), expected.map_err(str::to_owned), "{output}{complaint}");
        }
        assert!(of(true, "{", "").unwrap_err().starts_with("its result is not JSON"));
    }
}
