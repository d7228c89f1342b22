//! A client against the server, and a pod behind it.

use base::Tasks;
use futures::FutureExt;
use tokio::io::duplex;

use super::*;

/// Port 7 gives back what it hears when it has heard all; port 25 speaks first and closes; others are refused.
fn pod(tasks: Tasks) -> Connect {
    let tasks = Arc::new(tasks);
    Arc::new(move |port| {
        let tasks = tasks.clone();
        async move {
            let (ours, mut theirs) = duplex(4 << 10);
            match port {
                7 => tasks.spawn("echo", async move {
                    let mut heard = Vec::new();
                    theirs.read_to_end(&mut heard).await.unwrap();
                    theirs.write_all(&heard).await.unwrap();
                }),
                25 => tasks.spawn("greeter", async move { theirs.write_all(b"220 hello").await.unwrap() }),
                _ => return Err("connection refused".to_owned()),
            }
            Ok(BoxDuplex::new(ours))
        }
        .boxed()
    })
}

/// Sends and half-closes; what came back, and what the other side had to say.
async fn talk(port: u16, sent: &[u8]) -> (Vec<u8>, Result<(), String>) {
    let (ours, theirs) = duplex(4 << 10);
    let served = serve(Opened::Spdy(BoxDuplex::new(theirs), PROTOCOL), &[], pod(Tasks::new("pod")));
    let (mut io, moved) = client::open(BoxDuplex::new(ours), port);
    let used = async move {
        let mut heard = Vec::new();
        // Who refuses the connection does not take what is sent.
        let _ = io.write_all(sent).await;
        let _ = io.shutdown().await;
        io.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let (served, moved, heard) = tokio::join!(served, moved, used);
    assert!(served.is_ok(), "{served:?}");
    (heard, moved)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let sent = vec![b'x'; 300_000];
    let (heard, ended) = talk(7, &sent).await;
    assert_eq!((heard.len(), ended), (sent.len(), Ok(())));
    assert_eq!(talk(25, b"").await, (b"220 hello".to_vec(), Ok(())));
}

#[tokio::test]
async fn a_refused_port_is_told() {
    let (heard, ended) = talk(81, b"hello").await;
    assert_eq!((&heard[..], ended), (&b""[..], Err("error forwarding port 81 to pod: connection refused".to_owned())));
}
