//! Processes and their namespaces, for a program that has one thread.
//!
//! [`fork`] refuses in a process with several threads: the child would inherit locks that nobody will ever release.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

pub use nix::sched::CloneFlags as Namespaces;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    /// The process that forked, with its child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks. Fails with `EBUSY` where this process has more than one thread.
pub fn fork() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(rustix::io::Errno::BUSY.into());
    }
    #[expect(unsafe_code, reason = "fork is unsafe in the presence of threads, and there are none")]
    // SAFETY: the only thread is this one, so the child holds every lock that it inherits in a consistent state.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
        nix::unistd::ForkResult::Parent { child } => {
            Ok(Forked::Parent(Pid::from_raw(child.as_raw()).expect("fork returns a positive id to the parent")))
        }
    }
}

/// Leaves a forked child at once: no destructors, no buffers flushed twice.
pub fn exit_now(code: i32) -> ! {
    #[expect(unsafe_code, reason = "_exit has no safe wrapper")]
    // SAFETY: _exit takes any code and does not return.
    unsafe {
        nix::libc::_exit(code)
    }
}

/// Moves this process into new namespaces (for a pid namespace: its next child).
pub fn unshare(namespaces: Namespaces) -> io::Result<()> {
    Ok(nix::sched::unshare(namespaces)?)
}

/// Moves this process into the namespace of an open file, or into several of an open pidfd's.
pub fn enter(namespace: impl AsFd, kind: Namespaces) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, kind)?)
}

/// Opens a namespace of a process: `net`, `pid`, `mnt` ...
pub fn namespace_of(pid: Option<Pid>, name: &str) -> io::Result<OwnedFd> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.as_raw_nonzero().to_string());
    Ok(std::fs::File::open(format!("/proc/{process}/ns/{name}"))?.into())
}

/// Runs `f` with this process' children going to another pid namespace (`None`: a new one, whose first process the first
/// child is), and sends later ones home again. A child that `f` forks must not return from it: it executes or exits there.
pub fn with_children_in<T>(target: Option<&OwnedFd>, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let home = namespace_of(None, "pid")?;
    match target {
        Some(namespace) => enter(namespace, CloneFlags::CLONE_NEWPID)?,
        None => unshare(CloneFlags::CLONE_NEWPID)?,
    }
    let done = f();
    enter(&home, CloneFlags::CLONE_NEWPID)?;
    done
}

/// A handle of a process that a later one with the same id cannot be mistaken for. Readable when the process has ended.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Sends a signal by number; a process that is gone already is no error.
pub fn signal(pid: Pid, number: i32) -> io::Result<()> {
    match nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get()),
        nix::sys::signal::Signal::try_from(number).map_err(|_| rustix::io::Errno::INVAL)?,
    ) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The next child that has ended, if one has: its id and exit code, 128 + signal where a signal ended it.
pub fn reap() -> io::Result<Option<(Pid, i32)>> {
    match rustix::process::wait(WaitOptions::NOHANG) {
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Ok(Some((pid, status))) => Ok(Some((pid, exit_code(status)))),
        Err(error) => Err(error.into()),
    }
}

/// Waits for one child to end.
pub fn wait_for(pid: Pid) -> io::Result<i32> {
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(exit_code(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// The number of a signal's name (`SIGTERM`, `TERM`, `SIGRTMIN+3`, `SIGRTMAX-3`) or decimal.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(offset) = short.strip_prefix("RTMAX") {
        let offset = if offset.is_empty() { 0 } else { offset.strip_prefix('-')?.parse::<i32>().ok()? };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    // Older names of the same signals.
    let short = match short {
        "CLD" => "CHLD",
        "POLL" => "IO",
        "IOT" => "ABRT",
        other => other,
    };
    format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// Sends any signal, real-time ones included, by its raw number.
pub fn signal_raw(pid: Pid, number: i32) -> io::Result<()> {
    #[expect(unsafe_code, reason = "nix and rustix know no real-time signals")]
    // SAFETY: kill takes plain numbers and touches no memory of ours.
    let done = unsafe { nix::libc::kill(pid.as_raw_nonzero().get(), number) };
    match (done, io::Error::last_os_error()) {
        (0, _) => Ok(()),
        (_, error) if error.raw_os_error() == Some(nix::libc::ESRCH) => Ok(()),
        (_, error) => Err(error),
    }
}

/// Gives a signal (by number) its default action back.
pub fn restore_default_action(number: i32) -> io::Result<()> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    let signal = Signal::try_from(number)?;
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    #[expect(unsafe_code, reason = "installing a handler is unsafe; the default one is none")]
    // SAFETY: SIG_DFL runs no code of ours.
    unsafe { sigaction(signal, &default) }?;
    Ok(())
}

/// Asks the kernel to kill this process when its parent ends.
pub fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Replaces this process by the program at `path`. Returns only an error.
pub fn exec(path: &Path, arguments: &[CString], environment: &[CString]) -> io::Error {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return rustix::io::Errno::INVAL.into();
    };
    match nix::unistd::execve(&path, arguments, environment) {
        Ok(never) => match never {},
        Err(error) => error.into(),
    }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) -> io::Result<()> {
    #[expect(unsafe_code, reason = "close_range has no safe wrapper: it can close what others own")]
    // SAFETY: callers have just been started and own nothing above their standard streams.
    let done = unsafe { nix::libc::close_range(first, u32::MAX, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Marks every descriptor from `first` on to be closed by exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    #[expect(unsafe_code, reason = "close_range has no safe wrapper")]
    // SAFETY: the flag only marks descriptors; none is closed here.
    let done = unsafe { nix::libc::close_range(first, u32::MAX, nix::libc::CLOSE_RANGE_CLOEXEC as i32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until a pidfd's process has ended, at most `timeout`; whether it has.
pub fn wait_ended(pidfd: &OwnedFd, timeout: std::time::Duration) -> io::Result<bool> {
    let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGNOPE", None),
            ("0", None),
            ("65", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }

    #[test]
    fn a_process_with_threads_does_not_fork() {
        let (hold, held) = std::sync::mpsc::sync_channel::<()>(0);
        let other = std::thread::spawn(move || held.recv());
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(nix::libc::EBUSY));
        drop(hold);
        let _ = other.join();
    }
}
