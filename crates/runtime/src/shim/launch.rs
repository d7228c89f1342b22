//! Turns an OCI runtime specification into a running process: our own launcher, a child of the shim from its first moment.
//!
//! The child joins its control group, takes its namespaces, builds its root from descriptors (nothing of a container's is
//! ever mounted where the machine sees it, so nothing is left when it dies), gives up its powers and becomes the program.
//! Whatever fails is told through a socket that the program itself never sees, so that a start is answered with its cause.
//!
//! Devices: unprivileged containers have `nodev` on every mount and the standard devices bound in one by one. A device node
//! that such a container makes cannot be opened, under any version of control groups and without a BPF program.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use linux::capability;
use linux::cgroup::{Cgroups, Limits};
use linux::process::{self, Forked, Namespaces};
use linux::seccomp::Filter;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{self as oci, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Pid;

use super::oci::Oci;
use super::{filter, root};
use crate::records::{ContainerRecord, ProcessNamespace};

/// How long a child may take to become the program; a mount from a server that does not answer would hold the shim forever.
const START_SECONDS_MAX: u64 = 60;

/// A container or a command could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct LaunchError(pub(super) String);

/// Wraps a failed step, named.
pub(super) fn step<E: std::error::Error + 'static>(what: impl std::fmt::Display) -> impl FnOnce(E) -> LaunchError {
    move |error| LaunchError(format!("{what}: {}", base::chain(&error)))
}

/// The runtime's side of a process' streams.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// Set with a terminal: input and output both, and what is resized.
    pub(super) terminal: Option<OwnedFd>,
}

/// A process that runs, with our side of its streams.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) streams: Streams,
}

/// The child's side.
#[derive(Debug)]
pub(super) struct ChildStreams {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// What is the same for all containers of the pod.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) cgroups: Cgroups,
    /// The sandbox's directory, absolute.
    pub(super) directory: PathBuf,
    /// Where layers are, absolute.
    pub(super) layers: PathBuf,
    /// The pod's process namespace, where its containers share one.
    pub(super) pod_processes: Option<OwnedFd>,
    /// The installed OCI runtime that starts its containers in this launcher's place.
    pub(super) oci: Option<Oci>,
}

/// Starts a container's first process. `target` is the first process of the container whose processes it joins.
pub(super) fn start(
    context: &Context,
    record: &ContainerRecord,
    spec: &Spec,
    target: Option<Pid>,
) -> Result<Launched, LaunchError> {
    let process = spec.process().as_ref().ok_or_else(|| LaunchError("the specification has no process".to_owned()))?;
    context.cgroups.create(&record.cgroup, &limits(spec)).map_err(step("cgroup"))?;
    let namespace = match (&record.processes, target) {
        (ProcessNamespace::Private, _) => Children::New,
        (ProcessNamespace::Host, _) => Children::Here,
        (ProcessNamespace::Pod, _) => {
            let pod =
                context.pod_processes.as_ref().ok_or_else(|| LaunchError("the pod shares no processes".to_owned()))?;
            Children::In(pod.try_clone().map_err(step("process namespace"))?)
        }
        (ProcessNamespace::Target(id), None) => {
            return Err(LaunchError(format!("container {id}, whose processes are to be joined, does not run")));
        }
        (ProcessNamespace::Target(_), Some(pid)) => {
            Children::In(process::namespace_of(Some(pid), "pid").map_err(step("process namespace"))?)
        }
    };
    let filter = filter::of_spec(spec)?;
    let child = |streams: ChildStreams, channel: &UnixStream| {
        context.cgroups.join(&record.cgroup).map_err(step("join cgroup"))?;
        set_oom_score(process);
        root::enter(context, record, spec)?;
        become_program(process, filter.as_ref(), streams, channel)
    };
    launch(&namespace, process.terminal().unwrap_or(false), record.stdin, child).inspect_err(|_| {
        // The child has ended; a group that stays is found by the container's removal.
        let _ = context.cgroups.remove(&record.cgroup);
    })
}

/// Starts a command in a running container.
pub(super) fn execute(
    context: &Context,
    record: &ContainerRecord,
    spec: &Spec,
    process: &oci::Process,
    container: Pid,
    stdin: bool,
) -> Result<Launched, LaunchError> {
    let pidfd = process::pidfd(container).map_err(step("container process"))?;
    let processes = process::namespace_of(Some(container), "pid").map_err(step("process namespace"))?;
    let filter = filter::of_spec(spec)?;
    let child = |streams: ChildStreams, channel: &UnixStream| {
        context.cgroups.join(&record.cgroup).map_err(step("join cgroup"))?;
        set_oom_score(process);
        let namespaces = Namespaces::CLONE_NEWNS | Namespaces::CLONE_NEWCGROUP;
        process::enter(&pidfd, namespaces).map_err(step("enter the container"))?;
        become_program(process, filter.as_ref(), streams, channel)
    };
    launch(&Children::In(processes), process.terminal().unwrap_or(false), stdin, child)
}

/// Where a child's process namespace is.
enum Children {
    New,
    Here,
    In(OwnedFd),
}

fn launch(
    namespace: &Children,
    terminal: bool,
    stdin: bool,
    child: impl FnOnce(ChildStreams, &UnixStream) -> Result<std::convert::Infallible, LaunchError>,
) -> Result<Launched, LaunchError> {
    let (ours, theirs) = UnixStream::pair().map_err(step("socket"))?;
    let (mut streams, child_streams) = if terminal { terminal_streams()? } else { pipes(stdin)? };
    let fork = || match process::fork()? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            let Err(error) = prepare().and_then(|()| child(child_streams, &theirs));
            let _ = (&theirs).write_all(format!("E{error}").as_bytes());
            process::exit_now(127)
        }
    };
    let pid = match namespace {
        Children::Here => fork(),
        Children::New => process::with_children_in(None, fork),
        Children::In(target) => process::with_children_in(Some(target), fork),
    }
    .map_err(step("fork"))?;
    drop(theirs);
    // What the child did not take it never will: its ends of the pipes close here, and with them our view of its output.
    match report(&ours) {
        Ok(master) => {
            if let Some(master) = &master {
                rustix::io::ioctl_fionbio(master, true).map_err(step("terminal"))?;
            }
            streams.terminal = master;
            Ok(Launched { pid, streams })
        }
        Err(error) => {
            let _ = process::signal(pid, libc::SIGKILL);
            process::wait_for(pid).map_err(step("wait for the child"))?;
            Err(error)
        }
    }
}

/// Waits until the child has become the program (its end closes) or says what failed; the terminal's descriptor may come on
/// the way.
fn report(channel: &UnixStream) -> Result<Option<OwnedFd>, LaunchError> {
    channel.set_read_timeout(Some(std::time::Duration::from_secs(START_SECONDS_MAX))).map_err(step("socket"))?;
    let mut terminal = None;
    loop {
        let mut bytes = [0u8; 1];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(channel, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC).map_err(|error| {
            LaunchError(format!("the container did not start within {START_SECONDS_MAX} s: {error}"))
        })?;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                terminal = descriptors.last().or(terminal);
            }
        }
        match (received.bytes, bytes[0]) {
            (0, _) => return Ok(terminal),
            (_, b'E') => {
                let mut text = String::new();
                channel.take(16 << 10).read_to_string(&mut text).map_err(step("socket"))?;
                return Err(LaunchError(text));
            }
            _ => {}
        }
    }
}

pub(super) fn pipes(stdin: bool) -> Result<(Streams, ChildStreams), LaunchError> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(step("pipe"));
    let (out_read, out_write) = pipe()?;
    let (error_read, error_write) = pipe()?;
    let (in_write, in_read) = if stdin {
        let (read, write) = pipe()?;
        (Some(write), read)
    } else {
        (None, null_device()?)
    };
    for ours in [Some(&out_read), Some(&error_read), in_write.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(ours, true).map_err(step("pipe"))?;
    }
    let streams = Streams { stdin: in_write, stdout: Some(out_read), stderr: Some(error_read), terminal: None };
    Ok((streams, ChildStreams { stdin: in_read, stdout: out_write, stderr: error_write }))
}

/// A terminal's slave comes from the container's own devpts; until then the child's streams lead nowhere.
fn terminal_streams() -> Result<(Streams, ChildStreams), LaunchError> {
    let streams = ChildStreams { stdin: null_device()?, stdout: null_device()?, stderr: null_device()? };
    Ok((Streams::default(), streams))
}

fn null_device() -> Result<OwnedFd, LaunchError> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(step("/dev/null"))
}

/// Undoes what the shim did to itself: blocked signals, ignored ones, its session.
fn prepare() -> Result<(), LaunchError> {
    use nix::sys::signal::SigSet;
    rustix::process::setsid().map_err(step("setsid"))?;
    process::restore_default_action(libc::SIGPIPE).map_err(step("signals"))?;
    SigSet::all().thread_unblock().map_err(step("signals"))
}

/// Best effort: without `CAP_SYS_RESOURCE` the score cannot be lowered, and the shim said so once.
pub(super) fn set_oom_score(process: &oci::Process) {
    if let Some(score) = process.oom_score_adj() {
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
}

/// The last steps, in the container's root: terminal, limits, identity, filter, program. Returns only with an error.
fn become_program(
    process: &oci::Process,
    filter: Option<&Filter>,
    streams: ChildStreams,
    channel: &UnixStream,
) -> Result<std::convert::Infallible, LaunchError> {
    connect(streams, process, channel)?;
    for limit in process.rlimits().iter().flatten() {
        set_limit(limit)?;
    }
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(step("no_new_privs"))?;
    }
    // With powers left a filter can be put in force without no_new_privs, which must stay off here.
    if let (Some(filter), false) = (filter, no_new_privileges) {
        linux::seccomp::load(filter).map_err(step("seccomp"))?;
    }
    set_identity(process)?;
    if let (Some(filter), true) = (filter, no_new_privileges) {
        linux::seccomp::load(filter).map_err(step("seccomp"))?;
    }
    let directory = process.cwd();
    rustix::process::chdir(directory)
        .map_err(step(format!("chdir to cwd {:?} set in config.json failed", directory.display())))?;
    process::die_with_parent().map_err(step("parent death signal"))?;
    run(process)
}

fn connect(streams: ChildStreams, process: &oci::Process, channel: &UnixStream) -> Result<(), LaunchError> {
    let ChildStreams { stdin, stdout, stderr } = streams;
    if !process.terminal().unwrap_or(false) {
        let (user, group) = (process.user().uid(), process.user().gid());
        for stream in [&stdin, &stdout, &stderr] {
            // So that the program can open /dev/stdout as its own user. /dev/null is not its to have.
            if rustix::fs::fstat(stream)
                .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo)
            {
                let owner = (Some(rustix::fs::Uid::from_raw(user)), Some(rustix::fs::Gid::from_raw(group)));
                rustix::fs::fchown(stream, owner.0, owner.1).map_err(step("own the streams"))?;
            }
        }
        rustix::stdio::dup2_stdin(&stdin).map_err(step("stdin"))?;
        rustix::stdio::dup2_stdout(&stdout).map_err(step("stdout"))?;
        return rustix::stdio::dup2_stderr(&stderr).map_err(step("stderr"));
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(step("open a terminal"))?;
    rustix::pty::unlockpt(&master).map_err(step("unlock the terminal"))?;
    let peer_flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer_flags).map_err(step("open the terminal"))?;
    let owner = rustix::fs::Uid::from_raw(process.user().uid());
    rustix::fs::fchown(&slave, Some(owner), None).map_err(step("own the terminal"))?;
    let descriptors = [master.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(channel.as_raw_fd(), &[IoSlice::new(b"T")], &message, MsgFlags::empty(), None)
        .map_err(step("hand over the terminal"))?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(step("control the terminal"))?;
    rustix::stdio::dup2_stdin(&slave).map_err(step("stdin"))?;
    rustix::stdio::dup2_stdout(&slave).map_err(step("stdout"))?;
    rustix::stdio::dup2_stderr(&slave).map_err(step("stderr"))
}

fn set_limit(limit: &oci::PosixRlimit) -> Result<(), LaunchError> {
    use nix::sys::resource::{Resource, setrlimit};
    use oci::PosixRlimitType as Type;
    let resource = match limit.typ() {
        Type::RlimitCpu => Resource::RLIMIT_CPU,
        Type::RlimitFsize => Resource::RLIMIT_FSIZE,
        Type::RlimitData => Resource::RLIMIT_DATA,
        Type::RlimitStack => Resource::RLIMIT_STACK,
        Type::RlimitCore => Resource::RLIMIT_CORE,
        Type::RlimitRss => Resource::RLIMIT_RSS,
        Type::RlimitNproc => Resource::RLIMIT_NPROC,
        Type::RlimitNofile => Resource::RLIMIT_NOFILE,
        Type::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        Type::RlimitAs => Resource::RLIMIT_AS,
        Type::RlimitLocks => Resource::RLIMIT_LOCKS,
        Type::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        Type::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        Type::RlimitNice => Resource::RLIMIT_NICE,
        Type::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        Type::RlimitRttime => Resource::RLIMIT_RTTIME,
    };
    setrlimit(resource, limit.soft(), limit.hard()).map_err(step(format!("limit {resource:?}")))
}

fn set_identity(process: &oci::Process) -> Result<(), LaunchError> {
    let sets = capability_sets(process.capabilities().as_ref());
    capability::limit_bounding(sets.bounding).map_err(step("capabilities"))?;
    let user = process.user();
    let groups: Vec<_> =
        user.additional_gids().iter().flatten().map(|gid| rustix::thread::Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).map_err(step("setgroups"))?;
    if let Some(mask) = user.umask() {
        rustix::process::umask(Mode::from_raw_mode(mask));
    } else {
        rustix::process::umask(Mode::from_raw_mode(0o022));
    }
    rustix::thread::set_keep_capabilities(true).map_err(step("capabilities"))?;
    let (uid, gid) = (rustix::thread::Uid::from_raw(user.uid()), rustix::thread::Gid::from_raw(user.gid()));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("setgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("setuid"))?;
    rustix::thread::set_keep_capabilities(false).map_err(step("capabilities"))?;
    capability::apply(&sets).map_err(step("capabilities"))
}

fn capability_sets(wanted: Option<&oci::LinuxCapabilities>) -> capability::Sets {
    let set = |names: &Option<oci::Capabilities>| {
        let named = names.iter().flatten().filter_map(|name| capability::Set::named(&name.to_string()));
        named.fold(capability::Set::EMPTY, capability::Set::union)
    };
    wanted.map_or_else(capability::Sets::default, |wanted| capability::Sets {
        bounding: set(wanted.bounding()),
        effective: set(wanted.effective()),
        permitted: set(wanted.permitted()),
        inheritable: set(wanted.inheritable()),
        ambient: set(wanted.ambient()),
    })
}

fn run(process: &oci::Process) -> Result<std::convert::Infallible, LaunchError> {
    let arguments = process.args().as_deref().unwrap_or_default();
    let environment = process.env().as_deref().unwrap_or_default();
    let name = arguments
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| LaunchError("no command specified".to_owned()))?;
    let text = |texts: &[String]| texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let arguments = text(arguments).map_err(step("arguments"))?;
    let environment_text = text(environment).map_err(step("environment"))?;
    let path = find_program(name, environment)?;
    process::close_on_exec_from(3).map_err(step("descriptors"))?;
    let error = process::exec(&path, &arguments, &environment_text);
    Err(LaunchError(format!("exec {}: {error}", path.display())))
}

/// The program as a shell would find it, with the messages that Kubernetes users know.
fn find_program(name: &str, environment: &[String]) -> Result<PathBuf, LaunchError> {
    let runnable = |path: &Path| match rustix::fs::stat(path) {
        Err(error) => Err(error),
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory => {
            Err(rustix::io::Errno::ISDIR)
        }
        Ok(_) => rustix::fs::access(path, rustix::fs::Access::EXEC_OK),
    };
    if name.contains('/') {
        let text = |error: rustix::io::Errno| match error {
            rustix::io::Errno::NOENT => format!("exec: {name:?}: stat {name}: no such file or directory"),
            rustix::io::Errno::ACCESS => format!("exec: {name:?}: permission denied"),
            rustix::io::Errno::ISDIR => format!("exec: {name:?}: is a directory"),
            other => format!("exec: {name:?}: {other}"),
        };
        return runnable(Path::new(name)).map(|()| PathBuf::from(name)).map_err(|error| LaunchError(text(error)));
    }
    let search = environment
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let mut denied = false;
    for directory in search.split(':') {
        let path = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match runnable(&path) {
            Ok(()) => return Ok(path),
            Err(error) => denied |= error == rustix::io::Errno::ACCESS,
        }
    }
    let why = if denied { "permission denied" } else { "executable file not found in $PATH" };
    Err(LaunchError(format!("exec: {name:?}: {why}")))
}

/// The limits of a specification, as control groups know them.
pub(super) fn limits(spec: &Spec) -> Limits {
    let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) else {
        return Limits::default();
    };
    limits_of(resources)
}

/// The same of resources alone.
pub(crate) fn limits_of(resources: &oci::LinuxResources) -> Limits {
    let (cpu, memory) = (resources.cpu().as_ref(), resources.memory().as_ref());
    let pages = resources.hugepage_limits().iter().flatten();
    Limits {
        cpu_shares: cpu.and_then(oci::LinuxCpu::shares),
        cpu_quota: cpu.and_then(oci::LinuxCpu::quota),
        cpu_period: cpu.and_then(oci::LinuxCpu::period),
        cpuset_cpus: cpu.and_then(|cpu| cpu.cpus().clone()),
        cpuset_mems: cpu.and_then(|cpu| cpu.mems().clone()),
        memory_bytes: memory.and_then(oci::LinuxMemory::limit),
        memory_swap_bytes: memory.and_then(oci::LinuxMemory::swap),
        pids_max: resources.pids().as_ref().map(oci::LinuxPids::limit),
        hugepage_bytes: pages
            .filter_map(|page| Some((page.page_size().clone(), u64::try_from(page.limit()).ok()?)))
            .collect(),
        unified: resources.unified().clone().map(BTreeMap::from_iter).unwrap_or_default(),
    }
}

/// Reads what is there: `None` when nothing is yet, `Some(0)` at the end.
pub(super) fn read_some(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::read(fd, buffer) {
        Ok(count) => Ok(Some(count)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        // A terminal whose last user has gone.
        Err(rustix::io::Errno::IO) => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}
