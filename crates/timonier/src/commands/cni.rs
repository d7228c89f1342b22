//! The binary as a network plugin of a container runtime. The node's agent has the network; this passes on what the runtime
//! wants, and the answer.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cri::cni::{self, BYTES_MAX, Call, CniError, Command};
use serde_json::Value;

use super::say;

/// An agent that does not answer must not hold a runtime for ever.
const ANSWER: Duration = Duration::from_secs(120);

/// Whether the program was started as a plugin: as `timonier cni`, or without arguments by somebody who says what a plugin
/// should do.
pub(crate) fn is_meant(args: &[std::ffi::OsString]) -> bool {
    match args {
        [] => variable("CNI_COMMAND").is_some(),
        [only] => only == "cni",
        _ => false,
    }
}

#[expect(clippy::disallowed_methods, reason = "the environment is read here, in the binary")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Answers on the output.
pub(crate) fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(BYTES_MAX).read_to_end(&mut input);
    let read = read.map_err(|error| CniError::new(CniError::IO, format!("cannot read the configuration: {error}")));
    let (version, answered) = if is_loopback() {
        let (version, call) = cni::parse_loopback(variable, &input);
        (version, read.and(call).and_then(|call| loopback(&call)))
    } else {
        let (version, call) = cni::parse(variable, &input);
        (version, read.and(call).and_then(|call| answer(&call)))
    };
    match answered {
        Ok(Value::Null) => ExitCode::SUCCESS,
        Ok(answer) => {
            say(answer);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(error.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

/// Whether the name that we were called by is that of the plugin that brings up a pod's loopback.
fn is_loopback() -> bool {
    let program = std::env::args_os().next().map(PathBuf::from);
    program.is_some_and(|program| program.file_name().is_some_and(|name| name == cni::LOOPBACK))
}

/// Brings a pod's loopback up. It goes with the pod's network, and nothing is kept of it.
fn loopback(call: &Call) -> Result<Value, CniError> {
    match call.command {
        Command::Add => {}
        Command::Version => return Ok(cni::versions()),
        Command::Del | Command::Check | Command::Status | Command::Gc => return Ok(Value::Null),
    }
    let failed = |error: String| CniError::new(CniError::NETWORK, format!("cannot bring the loopback up: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let up = async {
        let node = linux::net::Kernel::new()?;
        let pod = linux::net::Net::enter(&node, Path::new(&call.namespace)).await?;
        pod.set_up("lo").await
    };
    let up = runtime.map_err(|error| failed(error.to_string()))?.block_on(up);
    up.map_err(|error| failed(base::chain(&error)))?;
    Ok(call.loopback_added())
}

fn answer(call: &Call) -> Result<Value, CniError> {
    if call.command == Command::Version {
        return Ok(cni::versions());
    }
    let failed = |error: std::io::Error| {
        let code = if call.command == Command::Status { CniError::NOT_AVAILABLE } else { CniError::TRY_AGAIN };
        CniError::new(code, format!("the node's agent does not answer at {}: {error}", call.socket))
    };
    let answer = ask(call).map_err(failed)?;
    let mut answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| CniError::new(CniError::DECODING, format!("the agent's answer cannot be read: {error}")))?;
    match answer.get("error").filter(|error| !error.is_null()) {
        None => Ok(answer["result"].take()),
        Some(error) => {
            let code = error["code"].as_u64().and_then(|code| u32::try_from(code).ok()).unwrap_or(CniError::NETWORK);
            Err(CniError::new(code, error["message"].as_str().unwrap_or_default()))
        }
    }
}

fn ask(call: &Call) -> std::io::Result<Vec<u8>> {
    let mut agent = UnixStream::connect(&call.socket)?;
    agent.set_read_timeout(Some(ANSWER))?;
    agent.set_write_timeout(Some(ANSWER))?;
    agent.write_all(&serde_json::to_vec(call)?)?;
    agent.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    agent.take(BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}
