//! Containers that an installed OCI runtime starts: `create`, `start`, `exec`, `kill` and `delete` of its command line, in
//! place of our own launcher. Their processes become children of the shim all the same, since it adopts orphans: so exits,
//! streams and logs are its own as for any other container.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use linux::process;
use nix::libc;
use oci_spec::runtime::{self as oci, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Pid;

use super::bundle::{self, BUNDLE, Powers};
use super::launch::{self, Context, LaunchError, Launched, Streams, step};
use super::server::note;
use crate::records::ContainerRecord;

/// How long one call of the runtime may take: a virtual machine starts in it. The shim waits meanwhile.
const CALL_MAX: Duration = Duration::from_secs(60);

/// What a runtime said last is read up to this.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// Its state, below the sandbox's directory.
pub(crate) const STATE: &str = "oci";

/// What runtimes put before the cause, which users know by the cause alone.
const PREFACES: [&str; 3] =
    ["runc create failed: ", "unable to start container process: ", "error during container init: "];

/// An installed OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oci {
    program: PathBuf,
    /// Where it keeps the state of this pod's containers.
    state: PathBuf,
}

impl Oci {
    pub(super) fn new(program: PathBuf, sandbox: &Path) -> Self {
        Self { program, state: sandbox.join(STATE) }
    }

    /// Starts a container's first process.
    pub(super) fn start(
        &self,
        context: &Context,
        record: &ContainerRecord,
        spec: &Spec,
        target: Option<Pid>,
    ) -> Result<Launched, LaunchError> {
        let directory = context.directory.join(&record.id);
        let started = bundle::make(context, record, spec, target).and_then(|()| {
            let terminal = spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
            let bundle = directory.join(BUNDLE);
            let create = |command: &mut Command| {
                command.arg("create").arg("--bundle").arg(&bundle);
            };
            let launched = self.launch(&bundle, create, &record.id, terminal, record.stdin)?;
            self.call(&bundle, &["start", &record.id])?;
            Ok(launched)
        });
        started.inspect_err(|_| self.forget(&directory, &record.id))
    }

    /// Starts a command in a running container.
    pub(super) fn execute(
        &self,
        directory: &Path,
        id: &str,
        number: u64,
        process: &oci::Process,
        stdin: bool,
    ) -> Result<Launched, LaunchError> {
        let folder = directory.join(BUNDLE).join(format!("exec-{number}"));
        std::fs::create_dir_all(&folder).map_err(step("exec"))?;
        let file = folder.join("process.json");
        let mut json = serde_json::to_value(process).map_err(step("exec"))?;
        Powers::own()?.limit(&mut json);
        std::fs::write(&file, json.to_string()).map_err(step("exec"))?;
        let exec = |command: &mut Command| {
            command.arg("exec").arg("--detach").arg("--process").arg(&file);
        };
        let launched = self.launch(&folder, exec, id, process.terminal().unwrap_or(false), stdin);
        let removed = std::fs::remove_dir_all(&folder).map_err(step("exec"));
        launched.and_then(|launched| removed.map(|()| launched))
    }

    /// Sends a signal to a container's first process.
    pub(super) fn kill(&self, directory: &Path, id: &str, signal: i32) -> Result<(), LaunchError> {
        self.call(&directory.join(BUNDLE), &["kill", id, &signal.to_string()])
    }

    /// Removes what the runtime and [`bundle::make`] made for a container that has ended, or that never began.
    pub(super) fn forget(&self, directory: &Path, id: &str) {
        let deleted = self.call(&directory.join(BUNDLE), &["delete", "--force", id]);
        if let Err(error) = deleted {
            note(&format!("{} cannot delete {id}: {error}", self.program.display()));
        }
        if let Err(error) = bundle::unmake(directory) {
            note(&format!("cannot unmount the root of {id}: {error}"));
        }
    }

    /// Runs a call that leaves a process behind, with streams of ours.
    fn launch(
        &self,
        folder: &Path,
        verb: impl FnOnce(&mut Command),
        id: &str,
        terminal: bool,
        stdin: bool,
    ) -> Result<Launched, LaunchError> {
        let pid_file = folder.join("pid");
        let console = if terminal { Some(Console::listen(folder)?) } else { None };
        let (streams, theirs) = if terminal {
            (Streams::default(), None)
        } else {
            let (ours, theirs) = launch::pipes(stdin)?;
            (ours, Some(theirs))
        };
        self.run(folder, |command| {
            verb(command);
            command.arg("--pid-file").arg(&pid_file);
            if let Some(console) = &console {
                command.arg("--console-socket").arg(&console.path);
            }
            command.arg(id);
            if let Some(theirs) = theirs {
                command.stdin(theirs.stdin).stdout(theirs.stdout).stderr(theirs.stderr);
            }
        })?;
        let text = std::fs::read_to_string(&pid_file).map_err(step("process id"))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| LaunchError(format!("{text:?} is no process id")))?;
        let terminal = console.map(|console| console.receive()).transpose()?;
        Ok(Launched { pid, streams: Streams { terminal, ..streams } })
    }

    fn call(&self, folder: &Path, arguments: &[&str]) -> Result<(), LaunchError> {
        self.run(folder, |command| {
            command.args(arguments);
        })
    }

    /// Runs one call to its end. What failed is what the runtime logged last.
    fn run(&self, folder: &Path, build: impl FnOnce(&mut Command)) -> Result<(), LaunchError> {
        let log = folder.join("log.json");
        match std::fs::remove_file(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(step("runtime log")(error)),
            _ => {}
        }
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).arg("--log").arg(&log).args(["--log-format", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        build(&mut command);
        let name = self.program.display().to_string();
        let child = command.spawn().map_err(step(format!("run {name}")))?;
        // Our ends of the streams that it was given.
        drop(command);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a process id");
        let ended = process::pidfd(pid).and_then(|handle| process::wait_ended(&handle, CALL_MAX));
        if !matches!(ended, Ok(true)) {
            process::signal(pid, libc::SIGKILL).map_err(step("end the runtime"))?;
        }
        match process::wait_for(pid).map_err(step(format!("wait for {name}")))? {
            0 => Ok(()),
            code => Err(LaunchError(last_error(&log).unwrap_or_else(|| format!("{name} failed with code {code}")))),
        }
    }
}

/// The last error in a runtime's log, without what all begin with.
fn last_error(log: &Path) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(log).ok()?.take(LOG_BYTES_MAX).read_to_string(&mut text).ok()?;
    let message = text.lines().rev().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned)).flatten()
    })?;
    let mut rest = message.as_str();
    while let Some(shorter) = PREFACES.iter().find_map(|preface| rest.strip_prefix(preface)) {
        rest = shorter;
    }
    Some(rest.to_owned())
}

/// Where the runtime sends the terminal that it has made in the container.
#[derive(Debug)]
struct Console {
    listener: UnixListener,
    file: PathBuf,
    path: PathBuf,
    /// The path goes through it, as a socket's name may have 107 bytes only.
    _folder: std::fs::File,
}

impl Console {
    fn listen(folder: &Path) -> Result<Self, LaunchError> {
        let file = folder.join("console");
        let opened = std::fs::File::open(folder).map_err(step("console"))?;
        let path = format!("/proc/{}/fd/{}/console", std::process::id(), opened.as_raw_fd()).into();
        let listener = UnixListener::bind(&path).map_err(step("console"))?;
        Ok(Self { listener, file, path, _folder: opened })
    }

    fn receive(self) -> Result<OwnedFd, LaunchError> {
        let none = || LaunchError("the runtime sent no terminal".to_owned());
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        let timeout = Timespec { tv_sec: i64::try_from(CALL_MAX.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        if poll(&mut ready, Some(&timeout)).map_err(step("console"))? == 0 {
            return Err(none());
        }
        let (stream, _) = self.listener.accept().map_err(step("console"))?;
        let mut bytes = [0u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
            .map_err(step("console"))?;
        let sent = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let terminal = sent.ok_or_else(none)?;
        rustix::io::ioctl_fionbio(&terminal, true).map_err(step("console"))?;
        std::fs::remove_file(&self.file).map_err(step("console"))?;
        Ok(terminal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_what_the_runtime_said_last() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.json");
        assert_eq!(last_error(&log), None);
        let lines = concat!(
            r#"{"level":"error","msg":"first"}"#,
            "\n",
            r#"{"level":"error","msg":"runc create failed: unable to start container process: exec: \"no\": not found"}"#,
            "\n",
            r#"{"level":"warning","msg":"after"}"#,
            "\n",
            "no json\n",
        );
        std::fs::write(&log, lines).unwrap();
        assert_eq!(last_error(&log).unwrap(), r#"exec: "no": not found"#);
    }
}
