//! The shim's loop: one `poll` over its signals, its socket, its connections and its processes' streams. Everything happens
//! in the order in which the kernel tells it; there is no timer and nothing is asked twice.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

use base::{Clock, SystemClock};
use linux::process;
use nix::libc;
use nix::sys::signalfd::SignalFd;
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Pid;

use super::connection::{Connection, Role};
use super::launch::{self, Context, LaunchError, Streams, read_some, step};
use super::log::{Log, Stream};
use super::protocol::{Answer, Change, Control, Kind, Request};
use crate::records::{self, ContainerRecord, Durability, Exit, ProcessNamespace, Started};

/// More connections than this wait unanswered in the socket's queue. Each command and each reader of a log is one.
const CONNECTIONS_MAX: usize = 512;

/// Input that a process does not read waits here up to this, then in the connection, then with its sender.
const STDIN_BYTES_MAX: usize = 256 << 10;

/// The last output of a process that has ended is read up to this; a descendant that writes on without end must not hold
/// the loop.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// How much one read takes.
const CHUNK_BYTES: usize = 16 << 10;

/// The bytes that wait to become a process' input.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Close after the last byte.
    ends: bool,
}

/// A process' streams, as the loop sees them.
#[derive(Debug, Default)]
struct Pipes {
    streams: Streams,
    pending: Pending,
}

#[derive(Debug)]
struct Container {
    record: ContainerRecord,
    pid: Option<Pid>,
    started_at: i64,
    pipes: Pipes,
    log: Log,
    exit: Option<Exit>,
    log_failed: bool,
}

#[derive(Debug)]
struct Exec {
    pid: Pid,
    connection: u64,
    pipes: Pipes,
}

/// What a descriptor in the poll set is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Signals,
    Listener,
    Connection(u64),
    Output(Owner, Stream),
    Input(Owner),
}

/// Whose stream it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Container(String),
    Exec(u64),
}

/// The shim's state.
#[derive(Debug)]
pub(super) struct Server {
    context: Context,
    listener: UnixListener,
    signals: SignalFd,
    connections: BTreeMap<u64, Connection>,
    containers: BTreeMap<String, Container>,
    execs: BTreeMap<u64, Exec>,
    next: u64,
    /// Set when it is to end: who asked, if somebody waits for the answer.
    ending: Option<Option<u64>>,
}

/// Says something in the shim's log file: for what no answer can carry.
pub(super) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{:.3} {text}", SystemClock.now());
}

fn now() -> i64 {
    i64::try_from(SystemClock.now().as_nanosecond()).unwrap_or(i64::MAX)
}

impl Pipes {
    fn new(streams: Streams) -> Self {
        Self { streams, pending: Pending::default() }
    }

    fn output(&self, stream: Stream) -> Option<&OwnedFd> {
        match stream {
            Stream::Stdout => self.streams.terminal.as_ref().or(self.streams.stdout.as_ref()),
            Stream::Stderr => self.streams.stderr.as_ref(),
        }
    }

    fn input(&self) -> Option<&OwnedFd> {
        self.streams.terminal.as_ref().or(self.streams.stdin.as_ref())
    }

    fn close_output(&mut self, stream: Stream) {
        match stream {
            Stream::Stdout => {
                self.streams.terminal = None;
                self.streams.stdout = None;
            }
            Stream::Stderr => self.streams.stderr = None,
        }
    }

    /// Gives waiting input to the process as far as it takes it.
    fn feed(&mut self) {
        while let (Some(input), false) = (self.input(), self.pending.bytes.is_empty()) {
            match rustix::io::write(input, &self.pending.bytes) {
                Ok(count) => drop(self.pending.bytes.drain(..count)),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    // The process closed its input: what was meant for it goes nowhere, as in a shell's pipe.
                    self.pending.bytes.clear();
                    self.streams.stdin = None;
                    return;
                }
            }
        }
        if self.pending.ends && self.pending.bytes.is_empty() {
            // A terminal has no end of input: the program reads on until the session ends.
            self.streams.stdin = None;
        }
    }

    fn resize(&self, width: u16, height: u16) {
        if let Some(terminal) = &self.streams.terminal {
            let size = rustix::termios::Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
            if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
                note(&format!("cannot resize a terminal: {error}"));
            }
        }
    }
}

impl Server {
    pub(super) fn new(context: Context, listener: UnixListener, signals: SignalFd) -> Self {
        Self {
            context,
            listener,
            signals,
            connections: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            next: 0,
            ending: None,
        }
    }

    /// Serves until it is told to end and has said that it does.
    pub(super) fn run(mut self) -> u8 {
        while !self.is_over() {
            if let Err(error) = self.turn() {
                note(&base::chain(&error));
                return 1;
            }
        }
        self.leave();
        0
    }

    /// Whether everything has ended and whoever asked for it knows.
    fn is_over(&self) -> bool {
        let told = |asker: &u64| self.connections.get(asker).is_none_or(|asker| asker.is_idle());
        self.ending.as_ref().is_some_and(|asker| asker.as_ref().is_none_or(told))
            && self.containers.values().all(|container| container.pid.is_none())
    }

    fn leave(&self) {
        for name in [records::SHM, records::SOCKET] {
            let path = self.context.directory.join(name);
            let done = if name == records::SHM {
                linux::mount::unmount(&path, linux::mount::UnmountFlags::DETACH).map_err(std::io::Error::from)
            } else {
                std::fs::remove_file(&path)
            };
            if let Err(error) = done.or_else(|error| match error.raw_os_error() {
                // No shared memory of its own.
                Some(libc::EINVAL | libc::ENOENT) => Ok(()),
                _ => Err(error),
            }) {
                note(&format!("cannot remove {}: {error}", path.display()));
            }
        }
    }

    fn turn(&mut self) -> Result<(), LaunchError> {
        for source in self.wait()? {
            match source {
                Source::Signals => self.signalled()?,
                Source::Listener => self.accept(),
                Source::Connection(id) => self.connection_ready(id),
                Source::Output(owner, stream) => {
                    self.pass_output(&owner, stream);
                }
                Source::Input(owner) => {
                    if let Some(pipes) = self.pipes(&owner) {
                        pipes.feed();
                    }
                }
            }
        }
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            self.take_frames(id);
        }
        self.answer_shutdown();
        let sent = |connection: &mut Connection| {
            connection.send() && !(connection.role == Role::Answered && connection.is_idle())
        };
        let over: Vec<_> =
            self.connections.iter_mut().filter_map(|(id, connection)| (!sent(connection)).then_some(*id)).collect();
        over.into_iter().for_each(|id| self.close(id));
        Ok(())
    }

    /// Waits for the kernel, and names what is ready.
    fn wait(&self) -> Result<Vec<Source>, LaunchError> {
        let mut watched = vec![(Source::Signals, self.signals.as_fd(), PollFlags::IN)];
        if self.connections.len() < CONNECTIONS_MAX {
            watched.push((Source::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        for (id, connection) in &self.connections {
            let mut flags = if self.takes_input(connection) { PollFlags::IN } else { PollFlags::empty() };
            flags.set(PollFlags::OUT, !connection.is_idle());
            watched.push((Source::Connection(*id), connection.as_fd(), flags));
        }
        for (id, container) in &self.containers {
            let full = self.connections.values().any(|connection| {
                connection.is_full() && matches!(&connection.role, Role::Attach { container, .. } if container == id)
            });
            watch_pipes(&mut watched, &container.pipes, &Owner::Container(id.clone()), full);
        }
        for (id, exec) in &self.execs {
            let full = self.connections.get(&exec.connection).is_some_and(Connection::is_full);
            watch_pipes(&mut watched, &exec.pipes, &Owner::Exec(*id), full);
        }
        let mut fds: Vec<_> = watched.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(step("poll")(error)),
        }
        let ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(watched.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|((source, ..), _)| source).collect())
    }

    /// Whether what a connection sends can go somewhere now.
    fn takes_input(&self, connection: &Connection) -> bool {
        let pipes = match &connection.role {
            Role::Exec(exec) => self.execs.get(exec).map(|exec| &exec.pipes),
            Role::Attach { container, .. } => self.containers.get(container).map(|container| &container.pipes),
            Role::New | Role::Answered | Role::Watch => None,
        };
        pipes.is_none_or(|pipes| pipes.pending.bytes.len() < STDIN_BYTES_MAX)
    }

    fn pipes(&mut self, owner: &Owner) -> Option<&mut Pipes> {
        match owner {
            Owner::Container(id) => self.containers.get_mut(id).map(|container| &mut container.pipes),
            Owner::Exec(id) => self.execs.get_mut(id).map(|exec| &mut exec.pipes),
        }
    }

    fn accept(&mut self) {
        match self.listener.accept().and_then(|(stream, _)| Connection::new(stream)) {
            Ok(connection) => {
                self.next += 1;
                self.connections.insert(self.next, connection);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => note(&format!("cannot accept a connection: {error}")),
        }
    }

    fn connection_ready(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match connection.receive() {
            Ok(true) => {}
            Ok(false) => self.close(id),
            Err(error) => {
                note(&format!("connection failed: {error}"));
                self.close(id);
            }
        }
    }

    /// A peer that goes takes its command with it; a container's main process only loses a reader.
    fn close(&mut self, id: u64) {
        let Some(connection) = self.connections.remove(&id) else { return };
        match connection.role {
            Role::Exec(exec) => {
                if let Some(exec) = self.execs.get_mut(&exec) {
                    exec.connection = 0;
                    // Not every OCI runtime makes a command the leader of a group.
                    let group = rustix::process::kill_process_group(exec.pid, rustix::process::Signal::KILL);
                    if let Err(error) =
                        group.or_else(|_| rustix::process::kill_process(exec.pid, rustix::process::Signal::KILL))
                    {
                        note(&format!("cannot kill a command that nobody reads: {error}"));
                    }
                }
            }
            Role::Attach { container, stdin: true } => {
                if let Some(container) =
                    self.containers.get_mut(&container).filter(|container| container.record.stdin_once)
                {
                    container.pipes.pending.ends = true;
                    container.pipes.feed();
                }
            }
            _ => {}
        }
    }

    fn take_frames(&mut self, id: u64) {
        loop {
            let Some(connection) = self.connections.get(&id) else { return };
            if !self.takes_input(connection) {
                return;
            }
            let role = connection.role.clone();
            let connection = self.connections.get_mut(&id).expect("found above");
            let (kind, payload) = match connection.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => frame,
                Err(error) => {
                    note(&base::chain(&error));
                    return self.close(id);
                }
            };
            match role {
                Role::New => self.requested(id, &payload),
                Role::Exec(exec) => self.feed_process(&Owner::Exec(exec), kind, &payload),
                Role::Attach { container, stdin } => {
                    if stdin || kind == Kind::Message {
                        self.feed_process(&Owner::Container(container), kind, &payload);
                    }
                }
                Role::Answered | Role::Watch => {}
            }
        }
    }

    fn feed_process(&mut self, owner: &Owner, kind: Kind, payload: &[u8]) {
        let Some(pipes) = self.pipes(owner) else { return };
        match kind {
            Kind::Stdin if pipes.input().is_some() => pipes.pending.bytes.extend(payload),
            Kind::Message => match serde_json::from_slice(payload) {
                Ok(Control::Resize { width, height }) => pipes.resize(width, height),
                Ok(Control::StdinClosed) => pipes.pending.ends = true,
                Ok(Control::Exited { .. }) => {}
                Err(error) => note(&format!("cannot understand a message: {error}")),
            },
            Kind::Stdin | Kind::Stdout | Kind::Stderr => {}
        }
        pipes.feed();
    }

    fn requested(&mut self, id: u64, payload: &[u8]) {
        let request = match serde_json::from_slice::<Request>(payload) {
            Ok(request) => request,
            Err(error) => {
                return self.answer(id, &Answer::Failed { message: format!("cannot understand the request: {error}") });
            }
        };
        let answer = match request {
            Request::Start { container } => self.start(&container),
            Request::Signal { container, signal } => self.signal(&container, signal),
            // The end of the first process is the end of all: by the kernel in a process namespace, else by `container_ended`.
            Request::Kill { container } => self.signal(&container, libc::SIGKILL),
            Request::Exec { container, command, tty, stdin } => return self.exec(id, &container, command, tty, stdin),
            Request::Attach { container, stdin } => return self.attach(id, container, stdin),
            Request::ReopenLog { container } => self.reopen_log(&container),
            Request::Forget { container } => self.forget(&container),
            Request::Watch => return self.watch(id),
            Request::Shutdown => return self.shut_down(Some(id)),
        };
        self.answer(id, &answer);
    }

    fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.push_message(answer);
            connection.role = Role::Answered;
        }
    }

    fn signal(&self, id: &str, signal: i32) -> Answer {
        let Some(pid) = self.containers.get(id).and_then(|container| container.pid) else {
            return Answer::NotRunning;
        };
        let sent = match &self.context.oci {
            Some(oci) => oci.kill(&self.context.directory.join(id), id, signal),
            None => process::signal_raw(pid, signal).map_err(|error| LaunchError(error.to_string())),
        };
        match sent {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Failed { message: error.to_string() },
        }
    }

    fn start(&mut self, id: &str) -> Answer {
        if self.containers.contains_key(id) {
            return Answer::Failed { message: format!("container {id} was started already") };
        }
        let started_at = now();
        match self.launch(id, started_at) {
            Ok(container) => {
                self.containers.insert(id.to_owned(), container);
                self.tell(&Change::Running { container: id.to_owned(), started_at });
                Answer::Started { started_at }
            }
            Err(error) => {
                let message = format!("unable to start container process: {error}");
                let exit = Exit {
                    exit_code: 128,
                    finished_at: now(),
                    reason: "StartError".to_owned(),
                    message: message.clone(),
                };
                self.record_exit(id, &exit);
                self.tell(&Change::Exited { container: id.to_owned(), exit });
                Answer::Failed { message }
            }
        }
    }

    fn launch(&self, id: &str, started_at: i64) -> Result<Container, LaunchError> {
        let (record, spec) = self.read(id)?;
        let target = match &record.processes {
            ProcessNamespace::Target(target) => self.containers.get(target).and_then(|container| container.pid),
            _ => None,
        };
        let log = Log::open(record.log_path.clone()).map_err(step("open the log"))?;
        // Written before the process is made: whoever finds this without an exit knows that there may have been one.
        let directory = self.context.directory.join(id);
        records::write(&directory, records::STARTED, &Started { started_at }, Durability::Process)
            .map_err(step("record"))?;
        let launched = match &self.context.oci {
            Some(oci) => oci.start(&self.context, &record, &spec, target),
            None => launch::start(&self.context, &record, &spec, target),
        }?;
        let pipes = Pipes::new(launched.streams);
        Ok(Container { record, pid: Some(launched.pid), started_at, pipes, log, exit: None, log_failed: false })
    }

    fn read(&self, id: &str) -> Result<(ContainerRecord, Spec), LaunchError> {
        let missing = || LaunchError(format!("container {id} is not in this sandbox"));
        if id.is_empty() || id.contains('/') || id.starts_with('.') {
            return Err(missing());
        }
        let directory = self.context.directory.join(id);
        let record = records::read(&directory, records::CONTAINER).map_err(step("record"))?.ok_or_else(missing)?;
        let spec = records::read(&directory, records::SPEC).map_err(step("specification"))?.ok_or_else(missing)?;
        Ok((record, spec))
    }

    fn exec(&mut self, id: u64, container: &str, command: Vec<String>, tty: bool, stdin: bool) {
        match self.launch_exec(container, command, tty, stdin) {
            Ok(None) => self.answer(id, &Answer::NotRunning),
            Err(error) => self.answer(id, &Answer::Failed { message: error.to_string() }),
            Ok(Some(launched)) => {
                self.next += 1;
                let pipes = Pipes::new(launched.streams);
                self.execs.insert(self.next, Exec { pid: launched.pid, connection: id, pipes });
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.role = Role::Exec(self.next);
                    connection.push_message(&Answer::Done);
                }
            }
        }
    }

    fn launch_exec(
        &self,
        id: &str,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<Option<launch::Launched>, LaunchError> {
        let Some((container, pid)) = self.containers.get(id).and_then(|found| Some((found, found.pid?))) else {
            return Ok(None);
        };
        let (_, spec) = self.read(id)?;
        let mut process =
            spec.process().clone().ok_or_else(|| LaunchError("the container has no process".to_owned()))?;
        process.set_args(Some(command));
        process.set_terminal(Some(tty));
        if tty {
            let environment = process.env_mut().get_or_insert_with(Vec::new);
            if !environment.iter().any(|entry| entry.starts_with("TERM=")) {
                environment.push("TERM=xterm".to_owned());
            }
        }
        match &self.context.oci {
            Some(oci) => oci.execute(&self.context.directory.join(id), id, self.next, &process, stdin),
            None => launch::execute(&self.context, &container.record, &spec, &process, pid, stdin),
        }
        .map(Some)
    }

    fn attach(&mut self, id: u64, container: String, stdin: bool) {
        if self.containers.get(&container).is_none_or(|container| container.pid.is_none()) {
            return self.answer(id, &Answer::NotRunning);
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.push_message(&Answer::Done);
            connection.role = Role::Attach { container, stdin };
        }
    }

    fn reopen_log(&mut self, id: &str) -> Answer {
        match self.containers.get_mut(id).map(|container| container.log.reopen()) {
            None => Answer::NotRunning,
            Some(Ok(())) => Answer::Done,
            Some(Err(error)) => Answer::Failed { message: format!("cannot open the log anew: {error}") },
        }
    }

    fn forget(&mut self, id: &str) -> Answer {
        if self.containers.get(id).is_some_and(|container| container.pid.is_some()) {
            return Answer::Failed { message: format!("container {id} still runs") };
        }
        self.containers.remove(id);
        Answer::Done
    }

    fn watch(&mut self, id: u64) {
        let state = |(id, container): (&String, &Container)| match &container.exit {
            Some(exit) => Change::Exited { container: id.clone(), exit: exit.clone() },
            None => Change::Running { container: id.clone(), started_at: container.started_at },
        };
        let states: Vec<_> = self.containers.iter().map(state).collect();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        states.iter().chain([&Change::Current]).for_each(|change| connection.push_message(change));
        connection.role = Role::Watch;
    }

    fn tell(&mut self, change: &Change) {
        for connection in self.connections.values_mut().filter(|connection| connection.role == Role::Watch) {
            connection.push_message(change);
        }
    }

    fn shut_down(&mut self, asker: Option<u64>) {
        self.ending = Some(asker);
        for container in self.containers.values().filter_map(|container| container.pid) {
            if let Err(error) = process::signal(container, libc::SIGKILL) {
                note(&format!("cannot kill a container: {error}"));
            }
        }
    }

    fn answer_shutdown(&mut self) {
        let Some(Some(asker)) = self.ending else { return };
        let running = self.containers.values().any(|container| container.pid.is_some());
        if !running && self.connections.get(&asker).is_some_and(|asker| asker.role == Role::New) {
            self.answer(asker, &Answer::Done);
        }
    }

    fn signalled(&mut self) -> Result<(), LaunchError> {
        while let Some(signal) = self.signals.read_signal().map_err(step("read signals"))? {
            if i32::try_from(signal.ssi_signo) == Ok(libc::SIGTERM) {
                note("told to end: killing all containers");
                self.shut_down(None);
            }
        }
        while let Some((pid, exit_code)) = process::reap().map_err(step("collect children"))? {
            let container = self.containers.iter().find(|(_, container)| container.pid == Some(pid));
            if let Some(id) = container.map(|(id, _)| id.clone()) {
                self.container_ended(&id, exit_code);
            } else if let Some(id) = self.execs.iter().find(|(_, exec)| exec.pid == pid).map(|(id, _)| *id) {
                self.exec_ended(id, exit_code);
            }
        }
        Ok(())
    }

    fn container_ended(&mut self, id: &str, exit_code: i32) {
        let owner = Owner::Container(id.to_owned());
        let container = self.containers.get_mut(id).expect("the caller found it");
        let group = container.record.cgroup.clone();
        // In a process namespace of its own nothing is left; where it is shared, the others end here.
        let killed = self.context.cgroups.kill(&group);
        self.drain(&owner);
        let out_of_memory = self.context.cgroups.oom_kills(&group) > 0;
        if let Some(oci) = &self.context.oci {
            oci.forget(&self.context.directory.join(id), id);
        }
        if let Err(error) = killed.and_then(|()| self.context.cgroups.remove(&group)) {
            // The container's removal tries again and tells.
            note(&base::chain(&error));
        }
        let reason = match (out_of_memory, exit_code) {
            (true, code) if code != 0 => "OOMKilled",
            (_, 0) => "Completed",
            _ => "Error",
        };
        let exit = Exit { exit_code, finished_at: now(), reason: reason.to_owned(), message: String::new() };
        let container = self.containers.get_mut(id).expect("the caller found it");
        container.pid = None;
        container.pipes = Pipes::default();
        if let Err(error) = container.log.finish() {
            note(&format!("cannot write the end of the log of {id}: {error}"));
        }
        container.exit = Some(exit.clone());
        self.record_exit(id, &exit);
        self.tell(&Change::Exited { container: id.to_owned(), exit });
        for connection in self.connections.values_mut() {
            if matches!(&connection.role, Role::Attach { container, .. } if container == id) {
                connection.push_message(&Control::Exited { exit_code });
                connection.role = Role::Answered;
            }
        }
    }

    /// On disk before anybody hears of it: a job that succeeded must not run again after a power loss.
    fn record_exit(&self, id: &str, exit: &Exit) {
        let directory = self.context.directory.join(id);
        if let Err(error) = records::write(&directory, records::EXIT, exit, Durability::Disk) {
            note(&base::chain(&error));
        }
    }

    fn exec_ended(&mut self, id: u64, exit_code: i32) {
        self.drain(&Owner::Exec(id));
        let Some(exec) = self.execs.remove(&id) else { return };
        if let Some(connection) = self.connections.get_mut(&exec.connection) {
            connection.push_message(&Control::Exited { exit_code });
            connection.role = Role::Answered;
        }
    }

    /// Reads what a process that has ended left in its pipes.
    fn drain(&mut self, owner: &Owner) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut drained = 0;
            while let Some(count) = self.pass_output(owner, stream).filter(|count| *count > 0) {
                drained += count;
                if drained >= DRAIN_BYTES_MAX {
                    break;
                }
            }
        }
    }

    /// Passes one chunk on; how much it was, `None` where nothing waits.
    fn pass_output(&mut self, owner: &Owner, stream: Stream) -> Option<usize> {
        let mut chunk = [0u8; CHUNK_BYTES];
        let pipes = self.pipes(owner)?;
        let read = read_some(pipes.output(stream)?, &mut chunk);
        let count = match read {
            Ok(None) => return None,
            Ok(Some(0)) => {
                pipes.close_output(stream);
                return Some(0);
            }
            Ok(Some(count)) => count,
            Err(error) => {
                note(&format!("cannot read output: {error}"));
                pipes.close_output(stream);
                return None;
            }
        };
        let (kind, bytes) = (if stream == Stream::Stdout { Kind::Stdout } else { Kind::Stderr }, &chunk[..count]);
        match owner {
            Owner::Exec(id) => {
                let connection = self.execs.get(id).map(|exec| exec.connection);
                if let Some(connection) = connection.and_then(|id| self.connections.get_mut(&id)) {
                    connection.push(kind, bytes);
                }
            }
            Owner::Container(id) => {
                if let Some(container) = self.containers.get_mut(id) {
                    container.write_log(stream, bytes);
                }
                for connection in self.connections.values_mut() {
                    if matches!(&connection.role, Role::Attach { container, .. } if container == id) {
                        connection.push(kind, bytes);
                    }
                }
            }
        }
        Some(count)
    }
}

impl Container {
    /// A log that cannot be written (a full disk) loses lines, and says so once until it works again.
    fn write_log(&mut self, stream: Stream, bytes: &[u8]) {
        match self.log.write(stream, bytes) {
            Ok(()) => self.log_failed = false,
            Err(error) if !self.log_failed => {
                self.log_failed = true;
                note(&format!("lines of container {} are lost: {error}", self.record.id));
            }
            Err(_) => {}
        }
    }
}

fn watch_pipes<'a>(
    watched: &mut Vec<(Source, BorrowedFd<'a>, PollFlags)>,
    pipes: &'a Pipes,
    owner: &Owner,
    readers_are_full: bool,
) {
    if !readers_are_full {
        for stream in [Stream::Stdout, Stream::Stderr] {
            if let Some(fd) = pipes.output(stream) {
                watched.push((Source::Output(owner.clone(), stream), fd.as_fd(), PollFlags::IN));
            }
        }
    }
    if let (Some(fd), false) = (pipes.input(), pipes.pending.bytes.is_empty()) {
        watched.push((Source::Input(owner.clone()), fd.as_fd(), PollFlags::OUT));
    }
}
