//! For the n-th port channel 2n carries its data and 2n+1 its errors, each beginning with the port's number in two bytes,
//! little end first. Each port is connected at once.

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::{Connect, block, both, half_close};
use crate::exec::BoxError;
use crate::websocket::{Codec, Socket, close};

/// Messages that wait for a slow port.
const QUEUE_MAX: usize = 8;

pub(super) async fn serve(
    mut socket: Socket,
    protocol: &'static str,
    ports: &[u16],
    connect: Connect,
) -> Result<(), BoxError> {
    let codec = Codec::of(protocol);
    for (index, port) in (0_u8..).zip(ports) {
        for channel in [2 * index, 2 * index + 1] {
            socket.send(codec.encode(channel, &port.to_le_bytes())).await?;
        }
    }
    let (mut sink, mut stream) = socket.split();
    let (to_client, mut from_ports) = mpsc::channel(QUEUE_MAX);
    let mut inputs = Vec::new();
    let mut connections = FuturesUnordered::new();
    for (index, port) in (0_u8..).zip(ports) {
        let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE_MAX);
        inputs.push(sender);
        let out = Out { codec, channel: 2 * index, messages: to_client.clone() };
        connections.push(one(*port, receiver, out, connect.clone()));
    }
    drop(to_client);
    let read = async {
        while let Some(Ok(received)) = stream.next().await {
            let Some((channel, data)) = codec.decode(received) else { continue };
            let input = inputs.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0);
            if let Some(input) = input {
                // A port that has closed takes nothing more; the others go on.
                let _ = input.send(data).await;
            }
        }
    };
    let write = async {
        while let Some(next) = from_ports.recv().await {
            if sink.send(next).await.is_err() {
                break;
            }
        }
    };
    let connect = async { while connections.next().await.is_some() {} };
    tokio::select! {
        () = read => {}
        ((), ()) = async { tokio::join!(write, connect) } => {}
    }
    let mut socket = sink.reunite(stream)?;
    close(&mut socket).await;
    Ok(())
}

/// Where a port's bytes go.
struct Out {
    codec: Codec,
    channel: u8,
    messages: mpsc::Sender<Message>,
}

async fn one(port: u16, mut input: mpsc::Receiver<Bytes>, out: Out, connect: Connect) {
    let piped = async {
        let (mut from_pod, mut to_pod) = tokio::io::split(connect(port).await?);
        let send = async {
            while let Some(data) = input.recv().await {
                to_pod.write_all(&data).await?;
            }
            half_close(&mut to_pod).await
        };
        let receive = async {
            loop {
                let data = block(&mut from_pod).await?;
                if data.is_empty() || out.messages.send(out.codec.encode(out.channel, &data)).await.is_err() {
                    return Ok(());
                }
            }
        };
        both(send, receive).await.map_err(|error| error.to_string())
    };
    if let Err(why) = piped.await {
        let why = format!("error forwarding port {port} to pod: {why}");
        let _ = out.messages.send(out.codec.encode(out.channel + 1, why.as_bytes())).await;
    }
}
