//! The two sides of a session against each other, and what is said at its end.

use base::Tasks;
use bytes::Bytes;
use futures::FutureExt;
use tokio::io::duplex;
use tokio::sync::mpsc;

use super::*;
use crate::session::{BoxDuplex, Input, Output};

#[test]
fn the_result_comes_in_the_form_of_the_protocol() {
    let unknown = "the session ended without a result";
    let exited = |code| Ending::Exited(code);
    for (protocol, ending, expected) in [
        ("", exited(0), None),
        ("channel.k8s.io", exited(0), None),
        ("v3.channel.k8s.io", exited(0), None),
        ("base64.channel.k8s.io", Ending::unknown(), Some(unknown.to_owned())),
        ("v4.channel.k8s.io", exited(0), Some(exited(0).status(false).to_string())),
        ("v4.base64.channel.k8s.io", exited(3), Some(exited(3).status(false).to_string())),
        ("v5.channel.k8s.io", Ending::unknown(), Some(Ending::unknown().status(false).to_string())),
    ] {
        let seen = ending.words(protocol, false);
        assert_eq!(seen, expected.map(Bytes::from), "{protocol} {ending:?}");
    }
    assert_eq!(exited(3).status(true)["status"], "Success");
}

#[test]
fn last_words_are_understood() {
    let four = "v4.channel.k8s.io";
    for ending in [Ending::Exited(0), Ending::Exited(137), Ending::Failed("no such file".to_owned())] {
        let words = ending.words(four, false).unwrap();
        assert_eq!(Ending::of(&words, four), ending);
    }
    assert_eq!(Ending::of(b"", "v2.channel.k8s.io"), Ending::Exited(0));
    assert_eq!(Ending::of(b"bad", "channel.k8s.io"), Ending::Failed("bad".to_owned()));
    assert_eq!(Ending::of(b"bad", four), Ending::unknown());
}

/// A process that gives back what it is given until its input ends or its terminal is wide; its exit code is the width.
fn echo(tasks: &Tasks) -> Result<ExecSession, String> {
    let (input, mut inputs) = mpsc::channel(1);
    let (outputs, output) = mpsc::channel(1);
    let run = async move {
        let mut width = 3;
        while let Some(next) = inputs.recv().await {
            match next {
                Input::Stdin(data) => outputs.send(Output::Stdout(data)).await.unwrap(),
                Input::Resize(size) if size.width < 100 => {}
                Input::Resize(size) => {
                    width = size.width;
                    break;
                }
                Input::StdinClosed => break,
            }
        }
        outputs.send(Output::Stderr("bye".into())).await.unwrap();
        outputs.send(Output::Exited(width.into())).await.unwrap();
    };
    tasks.spawn("echo", run);
    Ok(ExecSession { input, output })
}

/// Runs a session over one protocol; what came of output and error output, and the last message.
async fn session(protocol: &'static str, options: Options, inputs: Vec<Input>) -> (Vec<u8>, Vec<u8>, Output) {
    let tasks = Tasks::new("test");
    let (ours, theirs) = duplex(4 << 10);
    let served = serve(Opened::Spdy(BoxDuplex::new(theirs), protocol), options, async move { echo(&tasks) }.boxed());
    let (ExecSession { input, mut output }, moved) = client::open(BoxDuplex::new(ours), protocol.to_owned(), options);
    let used = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let send = async {
            for next in inputs {
                input.send(next).await.unwrap();
            }
        };
        let receive = async {
            loop {
                match output.recv().await.unwrap() {
                    Output::Stdout(data) => out.extend_from_slice(&data),
                    Output::Stderr(data) => err.extend_from_slice(&data),
                    last => return last,
                }
            }
        };
        let ((), last) = tokio::join!(send, receive);
        (out, err, last)
    };
    let (served, (), seen) = tokio::join!(served, moved, used);
    assert!(served.is_ok(), "{served:?}");
    seen
}

#[tokio::test]
async fn all_protocols_over_spdy_carry_a_session() {
    let all = Options { stdin: true, stdout: true, stderr: true, ..Options::default() };
    let big = Bytes::from(vec![b'x'; 200_000]);
    for protocol in SPDY_PROTOCOLS {
        let inputs = vec![Input::Stdin(big.clone()), Input::StdinClosed];
        let (out, err, last) = session(protocol, all, inputs).await;
        assert_eq!((out.len(), &err[..]), (big.len(), &b"bye"[..]), "{protocol}");
        let text = "command terminated with non-zero exit code: error executing command in container: exit status 3";
        let expected =
            if *protocol == "v4.channel.k8s.io" { Output::Exited(3) } else { Output::Failed(text.to_owned()) };
        assert_eq!(last, expected, "{protocol}");
    }
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let options = Options { stdin: true, stdout: true, tty: true, ..Options::default() };
    let size = |width| Input::Resize(TerminalSize { width, height: 9 });
    let (_, _, last) = session("v4.channel.k8s.io", options, vec![size(80), size(132)]).await;
    assert_eq!(last, Output::Exited(132));
}
