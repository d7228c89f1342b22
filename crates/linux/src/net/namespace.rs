//! Work inside another network namespace: always on a thread of its own, which ends with the work.
//!
//! `setns` changes the calling thread for good. On a shared worker that would leak the namespace into unrelated tasks, and a
//! fork would copy a threaded process: so neither is done.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use nix::sched::CloneFlags;

/// Runs `work` in the namespace, on a thread that enters it first.
pub async fn run<T, F>(namespace: PathBuf, work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let result = enter(&namespace).and_then(|()| work());
        // Nobody waits any more where the caller was dropped: then there is nobody to tell.
        drop(sender.send(result));
    })?;
    receiver.await.map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

/// Moves the calling thread into a namespace, for good. Only for a thread that was made for it.
pub fn enter(namespace: &std::path::Path) -> io::Result<()> {
    let file = File::open(namespace)?;
    nix::sched::setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}

/// Moves the calling thread into a new, empty namespace, for good. The namespace lives as long as a thread, a socket or a
/// bind mount holds it.
pub fn enter_new() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
