//! The shim: one small process per pod, with one thread. It holds the sandbox's namespaces, is the parent of its containers,
//! writes their logs, carries the streams of commands, and records how each container ended. It outlives the binary that
//! started it, which is the same binary; it needs nothing of it and can be reached by a later one through its socket.
//!
//! `timonier shim run DIRECTORY` with the sandbox's directory. The first line on its standard output is `ready`, or why not.

mod bundle;
mod connection;
mod filter;
mod hold;
mod launch;
mod log;
mod oci;
pub(crate) mod protocol;
mod root;
mod server;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use linux::cgroup::Cgroups;
use linux::mount::{self, Attributes};
use linux::process::{self, Namespaces};
use nix::sys::signal::{SigSet, Signal};

pub(crate) use launch::limits_of;
pub(crate) use oci::STATE;

use crate::records::{self, SandboxRecord, Share};
use launch::{Context, LaunchError, step};
use server::note;

/// Runs the shim with the arguments after `shim`; returns the process' exit code. To be called before any thread is made.
pub fn main(arguments: &[OsString]) -> u8 {
    let (Some(verb), Some(directory), 2) = (arguments.first(), arguments.get(1), arguments.len()) else {
        return answer("usage: shim run DIRECTORY", 2);
    };
    if verb != "run" {
        return answer("usage: shim run DIRECTORY", 2);
    }
    match begin(Path::new(directory)) {
        Ok(server) => server.run(),
        Err(error) => answer(&base::chain(&error), 1),
    }
}

fn answer(text: &str, code: u8) -> u8 {
    // The runtime that would read this may be gone; there is nobody else to tell.
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

/// Becomes a sandbox: namespaces, name, parameters, shared memory, socket. Then says that it is ready.
fn begin(directory: &Path) -> Result<server::Server, LaunchError> {
    // A shim with more than its streams open would keep the binary's files, sockets and locks alive.
    process::close_from(3).map_err(step("close descriptors"))?;
    rustix::process::setsid().map_err(step("setsid"))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let directory = directory.canonicalize().map_err(step(format!("find {}", directory.display())))?;
    let record: SandboxRecord = records::read(&directory, records::SANDBOX)
        .map_err(step("sandbox"))?
        .ok_or_else(|| LaunchError(format!("{} has no {}", directory.display(), records::SANDBOX)))?;
    let layers = directory.parent().and_then(Path::parent).map(|root| root.join("layers"));
    let layers = layers.ok_or_else(|| LaunchError(format!("{} is not below a root", directory.display())))?;
    let signals = block_signals()?;
    redirect_errors(&directory)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(step("subreaper"))?;
    rustix::process::chdir("/").map_err(step("chdir"))?;
    protect_from_oom();
    take_namespaces(&record)?;
    if record.oci_runtime.is_some() {
        // Roots that an OCI runtime finds mounted are mounted here, where the machine does not see them.
        process::unshare(Namespaces::CLONE_NEWNS).map_err(step("mount namespace"))?;
        mount::isolate_namespace().map_err(step("mount namespace"))?;
        hide_second_hierarchy();
    }
    if record.ipc == Share::Pod {
        make_shared_memory(&directory)?;
    }
    let pod = if record.shared_processes { Some(hold::start()?) } else { None };
    let cgroups = Cgroups::detect().map_err(step("cgroups"))?;
    let listener = listen(&directory)?;
    let oci = record.oci_runtime.clone().map(|program| oci::Oci::new(program, &directory));
    let context = Context { cgroups, directory, layers, pod_processes: pod.map(|(_, namespace)| namespace), oci };
    say_ready()?;
    // On cgroup v1 this waits for the kernel for some milliseconds: while the runtime goes on with the network.
    let group = &record.shim_cgroup;
    let moved =
        context.cgroups.create(group, &linux::cgroup::Limits::default()).and_then(|()| context.cgroups.join(group));
    if let Err(error) = moved {
        note(&format!("stays in the control group of its parent: {}", base::chain(&error)));
    }
    Ok(server::Server::new(context, listener, signals))
}

fn block_signals() -> Result<nix::sys::signalfd::SignalFd, LaunchError> {
    use nix::sys::signalfd::{SfdFlags, SignalFd};
    let mut set = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGPIPE] {
        set.add(signal);
    }
    set.thread_block().map_err(step("block signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(step("signals"))
}

/// Input leads nowhere; errors and panics go to a file beside the sandbox.
fn redirect_errors(directory: &Path) -> Result<(), LaunchError> {
    let null = std::fs::File::open("/dev/null").map_err(step("/dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(step("stdin"))?;
    let path = directory.join(records::SHIM_LOG);
    let log = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(step("shim.log"))?;
    rustix::stdio::dup2_stderr(&log).map_err(step("stderr"))
}

/// A pod that runs out of memory must not lose the process that would tell. Without `CAP_SYS_RESOURCE` the score stays as it
/// is, as do those of containers that ask for a lower one.
fn protect_from_oom() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-998") {
        note(&format!("cannot lower oom_score_adj, going on without: {error}"));
    }
}

fn take_namespaces(record: &SandboxRecord) -> Result<(), LaunchError> {
    let mut wanted = Namespaces::empty();
    if record.network == Share::Pod {
        wanted |= Namespaces::CLONE_NEWNET | Namespaces::CLONE_NEWUTS;
    }
    if record.ipc == Share::Pod {
        wanted |= Namespaces::CLONE_NEWIPC;
    }
    process::unshare(wanted).map_err(step("namespaces"))?;
    if record.network == Share::Pod {
        nix::unistd::sethostname(&record.hostname).map_err(step(format!("host name {:?}", record.hostname)))?;
    }
    for (name, value) in &record.sysctls {
        let path = sysctl_path(name).ok_or_else(|| LaunchError(format!("sysctl {name:?} is not a name")))?;
        // A process in new namespaces sees its own network's and IPC's parameters in the machine's /proc.
        std::fs::write(&path, value).map_err(step(format!("set sysctl {name} to {value:?}")))?;
    }
    Ok(())
}

/// Where control groups are version 1's and a few controllers version 2's beside them, crun starts nothing. No limit of a pod is
/// in those few, so this pod's runtime does not see them.
fn hide_second_hierarchy() {
    match mount::unmount("/sys/fs/cgroup/unified", mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {}
        Err(error) => note(&format!("cannot hide control groups of version 2: {error}")),
    }
}

/// `net.ipv4.ip_forward` or, where a part of the name holds dots, `net/ipv4/conf/eth0.1/forwarding`.
fn sysctl_path(name: &str) -> Option<PathBuf> {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let plain = !path.is_empty() && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    plain.then(|| Path::new("/proc/sys").join(path))
}

/// `/dev/shm` of the whole pod. The one mount that the machine sees: containers that start later must find it.
fn make_shared_memory(directory: &Path) -> Result<(), LaunchError> {
    let target = directory.join(records::SHM);
    std::fs::create_dir_all(&target).map_err(step("shm"))?;
    let harmless = Attributes::MOUNT_ATTR_NOSUID | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    let tree = mount::filesystem("tmpfs", &[("mode", "1777"), ("size", "65536k")], harmless).map_err(step("shm"))?;
    mount::attach_at(tree, &target).map_err(step("mount shm"))
}

/// Listens beside the sandbox's record. The path goes through a descriptor, as a socket's name may have 107 bytes only.
fn listen(directory: &Path) -> Result<UnixListener, LaunchError> {
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(directory).map_err(step("sandbox directory"))?;
    let path = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), records::SOCKET);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path).map_err(step("listen"))?;
    rustix::process::umask(rustix::fs::Mode::empty());
    listener.set_nonblocking(true).map_err(step("listen"))?;
    Ok(listener)
}

/// Tells the runtime. If that is gone it never learned of this sandbox, and nobody would ever end it: then this fails.
fn say_ready() -> Result<(), LaunchError> {
    let mut out = std::io::stdout();
    out.write_all(b"ready\n").and_then(|()| out.flush()).map_err(step("tell that the sandbox is ready"))?;
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").map_err(step("/dev/null"))?;
    rustix::stdio::dup2_stdout(&null).map_err(step("stdout"))
}
