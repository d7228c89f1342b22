//! `/portForward` over WebSocket: for the n-th port channel 2n carries its data and 2n+1 its errors, each beginning with the
//! port's number in two bytes, little end first.

use std::net::IpAddr;
use std::sync::Arc;

use api::Typed;
use api::typed::core::v1::Pod;
use base::chain;
use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::streams::{self, Socket, message};
use super::{Body, Connection, Query, Refusal, find_pod};
use crate::host::Host;

const PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "portforward.k8s.io"];
/// Ports of one request: two channels each, of 256.
const PORTS_MAX: usize = 100;
/// Messages that wait for a slow port.
const QUEUE_MAX: usize = 8;
const BLOCK_BYTES: usize = 32 << 10;

pub(super) async fn serve(
    host: &Arc<Host>,
    namespace: &str,
    pod: &str,
    query: &Query,
    request: Request<Incoming>,
    connection: &Connection,
) -> Result<Response<Body>, Refusal> {
    let ports = ports(query)?;
    let object = find_pod(host, namespace, pod)?;
    let ip =
        pod_ip(&object).ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, format!("pod \"{pod}\" has no address yet")))?;
    let (response, upgrade) = streams::upgrade(request, PROTOCOLS)?;
    let connection = connection.clone();
    host.tasks.spawn(format!("port forwarding to {namespace}/{pod}"), async move {
        let serve = async {
            let (socket, _) = upgrade.await?;
            forward(socket, ip, &ports).await
        };
        if let Some(Err(error)) = connection.stop.or_stopped(Box::pin(serve)).await {
            tracing::debug!(error = chain(&*error), "port forwarding ended early");
        }
    });
    Ok(response)
}

fn ports(query: &Query) -> Result<Vec<u16>, Refusal> {
    let bad = |message: String| Refusal(StatusCode::BAD_REQUEST, message);
    let texts: Vec<_> = query.all("port").into_iter().chain(query.all("ports")).collect();
    let texts: Vec<_> = texts.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() || texts.len() > PORTS_MAX {
        return Err(bad(format!("query parameter \"port\" is needed 1 to {PORTS_MAX} times")));
    }
    texts.into_iter().map(|text| text.parse().map_err(|_| bad(format!("unable to parse {text:?} as a port")))).collect()
}

fn pod_ip(object: &api::Object) -> Option<IpAddr> {
    Pod::decode(object.json()).ok()?.status?.pod_ip?.parse().ok()
}

async fn forward(
    mut socket: Socket,
    ip: IpAddr,
    ports: &[u16],
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for (index, port) in (0_u8..).zip(ports) {
        for channel in [2 * index, 2 * index + 1] {
            socket.send(message(channel, &port.to_le_bytes())).await?;
        }
    }
    let (mut sink, mut stream) = socket.split();
    let (to_client, mut from_ports) = mpsc::channel(QUEUE_MAX);
    let mut inputs = Vec::new();
    let mut connections = FuturesUnordered::new();
    for (index, port) in (0_u8..).zip(ports) {
        let (sender, receiver) = mpsc::channel::<Bytes>(QUEUE_MAX);
        inputs.push(sender);
        connections.push(connection(ip, *port, 2 * index, receiver, to_client.clone()));
    }
    drop(to_client);
    let read = async {
        while let Some(Ok(received)) = stream.next().await {
            let Message::Binary(data) = received else { continue };
            let Some(input) = data
                .first()
                .filter(|channel| **channel % 2 == 0)
                .and_then(|channel| inputs.get(usize::from(*channel / 2)))
            else {
                continue;
            };
            // A port that has closed takes nothing more; the others go on.
            let _ = input.send(data.slice(1..)).await;
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
        () = async { tokio::join!(write, connect); } => {}
    }
    let mut socket = sink.reunite(stream)?;
    streams::close(&mut socket).await;
    Ok(())
}

/// One port: connects when the first bytes for it come.
async fn connection(ip: IpAddr, port: u16, channel: u8, mut input: mpsc::Receiver<Bytes>, out: mpsc::Sender<Message>) {
    let Some(first) = input.recv().await else { return };
    let piped = async {
        let mut stream = TcpStream::connect((ip, port)).await?;
        stream.write_all(&first).await?;
        let (mut reader, mut writer) = stream.into_split();
        let send = async {
            while let Some(data) = input.recv().await {
                writer.write_all(&data).await?;
            }
            writer.shutdown().await
        };
        let receive = async {
            let mut block = vec![0; BLOCK_BYTES];
            loop {
                let length = reader.read(&mut block).await?;
                if length == 0 || out.send(message(channel, &block[..length])).await.is_err() {
                    return Ok::<_, std::io::Error>(());
                }
            }
        };
        tokio::select! {
            sent = send => sent,
            received = receive => received,
        }
    };
    if let Err(error) = piped.await {
        let why = format!("an error occurred forwarding {port}: {error}");
        let _ = out.send(message(channel + 1, why.as_bytes())).await;
    }
}
