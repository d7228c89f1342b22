//! Two ends of one connection.

use tokio::io::{DuplexStream, duplex};

use super::*;

fn config(role: Role) -> Config {
    Config { role, accepts: |headers| header(headers, "streamtype") != Some("bad"), ping: None }
}

fn named(kind: &str) -> Headers {
    vec![("streamtype".to_owned(), kind.to_owned())]
}

/// Runs both ends beside `work`, which gets them; the ends must end well after it.
async fn check<F>(work: impl FnOnce(Connection, Connection) -> F)
where
    F: Future<Output = ()>,
{
    let (left, right) = duplex(8 << 10);
    let (client, run_client) = start(left, config(Role::Client));
    let (server, run_server) = start(right, config(Role::Server));
    let (client_end, server_end, ()) = tokio::join!(run_client, run_server, work(client, server));
    assert!(client_end.is_ok() && server_end.is_ok(), "{client_end:?} {server_end:?}");
}

async fn rest(reader: &mut Reader) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(data) = reader.next().await {
        bytes.extend_from_slice(&data);
    }
    bytes
}

#[tokio::test]
async fn each_direction_of_a_stream_ends_by_itself() {
    check(async |client, mut server| {
        let sent = Bytes::from(vec![7; 300_000]);
        let ask = async {
            let mut stream = client.opener.open(named("data")).await.unwrap();
            stream.writer.send(sent.clone()).await.unwrap();
            stream.writer.finish().await;
            assert_eq!(rest(&mut stream.reader).await, b"300000 bytes");
        };
        let answer = async {
            let mut stream = server.opened.recv().await.unwrap();
            assert_eq!(stream.header("streamtype"), Some("data"));
            let heard = rest(&mut stream.reader).await;
            stream.writer.send(format!("{} bytes", heard.len()).into()).await.unwrap();
            stream.writer.finish().await;
        };
        tokio::join!(ask, answer);
        assert!(client.opener.shared.streams().open.is_empty() && server.opener.shared.streams().open.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_not_accepted_is_reset() {
    check(async |client, mut server| {
        assert!(client.opener.open(named("bad")).await.is_err());
        server.opened.close();
        assert!(client.opener.open(named("late")).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_reset_ends_both_directions() {
    check(async |client, mut server| {
        let mut stream = client.opener.open(named("data")).await.unwrap();
        server.opened.recv().await.unwrap().writer.reset().await;
        assert_eq!(stream.reader.next().await, None);
        assert_eq!(stream.writer.send("x".into()).await, Err(Ended));
    })
    .await;
}

/// Nobody reads what a client floods one stream with: only so much is taken, and it goes on when somebody reads.
#[tokio::test]
async fn what_nobody_reads_is_not_taken() {
    check(async |client, mut server| {
        let stream = client.opener.open(named("data")).await.unwrap();
        let flood = async {
            for _ in 0..200 {
                stream.writer.send(Bytes::from(vec![1; 32 << 10])).await.unwrap();
            }
            stream.writer.finish().await;
        };
        let mut other = server.opened.recv().await.unwrap();
        tokio::pin!(flood);
        let stuck = tokio::time::timeout(Duration::from_millis(200), &mut flood).await;
        assert!(stuck.is_err(), "all was taken");
        let waiting = WAITING_BYTES_MAX - server.opener.shared.waiting.available_permits();
        assert!(waiting <= (PIECES_MAX + 1) * PIECE_BYTES_MAX, "{waiting} bytes wait");
        let (heard, ()) = tokio::join!(rest(&mut other.reader), flood);
        assert_eq!(heard.len(), 200 * (32 << 10));
    })
    .await;
}

async fn speak(io: &mut DuplexStream, frames: &[Frame]) {
    let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
    frames.iter().for_each(|frame| encoder.encode(frame, &mut out));
    io.write_all(&out).await.unwrap();
}

async fn hear(io: &mut DuplexStream, count: usize) -> Vec<Frame> {
    let (mut decoder, mut buffer, mut frames) = (Decoder::default(), BytesMut::new(), Vec::new());
    while frames.len() < count {
        match decoder.next(&mut buffer).unwrap() {
            Some(frame) => frames.push(frame),
            None => assert_ne!(io.read_buf(&mut buffer).await.unwrap(), 0, "{frames:?}"),
        }
    }
    frames
}

#[tokio::test]
async fn streams_are_counted_and_numbered() {
    let (mut peer, own) = duplex(1 << 20);
    let (mut server, run) = start(own, config(Role::Server));
    let work = async move {
        let open = |id| Frame::SynStream { id, fin: false, headers: named("data") };
        // An even number is not a client's; a number comes once.
        speak(&mut peer, &[open(2), open(5), open(5), Frame::Ping(1), Frame::Ping(2)]).await;
        let reset = |id, status| Frame::RstStream { id, status };
        let reply = Frame::SynReply { id: 5, fin: false, headers: Vec::new() };
        let expected = [reset(2, PROTOCOL_ERROR), reply, reset(5, PROTOCOL_ERROR), Frame::Ping(1)];
        assert_eq!(hear(&mut peer, 4).await, expected);
        speak(&mut peer, &[Frame::Data { id: 5, fin: true, data: "x".into() }, Frame::GoAway { last: 0, status: 0 }])
            .await;
        let mut stream = server.opened.recv().await.unwrap();
        assert_eq!(rest(&mut stream.reader).await, b"x");
    };
    assert!(tokio::join!(run, work).0.is_ok());
}

#[tokio::test]
async fn too_many_streams_are_refused() {
    let (mut peer, own) = duplex(1 << 20);
    let (mut server, run) = start(own, config(Role::Server));
    let work = async move {
        let mut kept = Vec::new();
        let ids = (0..=STREAMS_MAX).map(|number| 2 * u32::try_from(number).unwrap() + 1);
        let all: Vec<Frame> = ids.map(|id| Frame::SynStream { id, fin: false, headers: Vec::new() }).collect();
        let take = async {
            while kept.len() < STREAMS_MAX {
                kept.push(server.opened.recv().await.unwrap());
            }
        };
        let ask = async {
            speak(&mut peer, &all).await;
            hear(&mut peer, all.len()).await
        };
        let ((), heard) = tokio::join!(take, ask);
        let refused = heard.iter().filter(|frame| matches!(frame, Frame::RstStream { status: REFUSED_STREAM, .. }));
        assert_eq!(refused.count(), 1);
    };
    assert!(tokio::join!(run, work).0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_shows_that_it_lives() {
    let (mut peer, own) = duplex(1 << 10);
    let (client, run) = start(own, Config { ping: Some(Duration::from_secs(5)), ..config(Role::Client) });
    let work = async move {
        assert_eq!(hear(&mut peer, 2).await, [Frame::Ping(3), Frame::Ping(5)]);
        drop((client, peer));
    };
    let _ = tokio::join!(run, work);
}
