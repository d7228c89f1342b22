//! Kills a writing process at random moments and opens its store: every acknowledged transaction is there, none is there
//! by half. The process is this test itself, started anew with `--write PATH`.

#![expect(clippy::print_stdout, reason = "the test runner's protocol, and the writer's acknowledgements")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first thing that goes wrong")]

use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use store::{EmbeddedStore, Options, Range, Store, Txn, TxnOutcome, Write};

const ROUNDS: usize = 12;
const WRITERS: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "--write", path] => write_for_ever(Path::new(path)),
        // What the test runner asks before it runs anything.
        _ if arguments.iter().any(|argument| argument == "--list") => {
            if !arguments.iter().any(|argument| argument == "--ignored") {
                println!("acknowledged_writes_survive_a_kill: test");
            }
        }
        _ => acknowledged_writes_survive_a_kill(),
    }
}

fn options() -> Options {
    // Small, so that compaction is among what is interrupted.
    Options { retained_revisions_max: 200, ..Options::default() }
}

/// Each transaction writes two keys with the same number; each acknowledgement is one line.
fn write_for_ever(path: &Path) {
    let store = EmbeddedStore::open(path, options()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let writer = async |writer: usize| {
        for number in 1_u64.. {
            let value = Bytes::from(format!("{}-{number}", store.committed()));
            let pair = ["left", "right"].map(|side| Write::Put(format!("{writer}/{side}").into(), value.clone()));
            let outcome = store.txn(Txn { preconditions: Vec::new(), writes: pair.to_vec() }).await.unwrap();
            let TxnOutcome::Committed(revision) = outcome else { panic!("nothing was asked for") };
            let line = format!("{writer} {revision} {}\n", String::from_utf8_lossy(&value));
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        }
    };
    runtime.block_on(futures::future::join_all((0..WRITERS).map(writer)));
}

fn acknowledged_writes_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let random = base::Random::from_seed(11);
    for round in 0..ROUNDS {
        let acknowledged = write_and_kill(&path, 1 + random.below(600));
        let store = EmbeddedStore::open(&path, options()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let items = runtime.block_on(store.range(Range::prefix(""))).unwrap().items;
        for (writer, (revision, value)) in acknowledged.iter().enumerate() {
            let side = |side: &str| items.iter().find(|item| item.key == format!("{writer}/{side}"));
            let (left, right) = (side("left"), side("right"));
            assert_eq!(
                left.map(|item| &item.value),
                right.map(|item| &item.value),
                "round {round}: half a transaction"
            );
            if *revision > 0 {
                let left = left.expect("an acknowledged key is there");
                let kept = left.modified.0 > *revision || (left.modified.0 == *revision && left.value == *value);
                assert!(kept, "round {round}: acknowledged {value} at {revision}, found {left:?}");
            }
        }
    }
}

/// Lets a process write until it acknowledged `lines` transactions, kills it, and gives each writer's last revision and
/// value that it acknowledged.
fn write_and_kill(path: &Path, lines: usize) -> Vec<(u64, String)> {
    let mut writer =
        Command::new(std::env::current_exe().unwrap()).arg("--write").arg(path).stdout(Stdio::piped()).spawn().unwrap();
    let mut acknowledged = vec![(0, String::new()); WRITERS];
    let mut output = BufReader::new(writer.stdout.take().unwrap()).lines();
    let mut note = |line: String| {
        // The last line may be cut off by the kill: then nobody was told.
        if let [writer, revision, value] = line.split(' ').collect::<Vec<_>>()[..] {
            acknowledged[writer.parse::<usize>().unwrap()] = (revision.parse().unwrap(), value.to_owned());
        }
    };
    output.by_ref().take(lines).for_each(|line| note(line.unwrap()));
    writer.kill().unwrap();
    let mut rest: Vec<String> = output.map_while(Result::ok).collect();
    writer.wait().unwrap();
    rest.pop();
    rest.into_iter().for_each(note);
    acknowledged
}
