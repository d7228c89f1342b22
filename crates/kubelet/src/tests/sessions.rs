//! Sessions with the kubelet's endpoints as their clients speak them.

use http::{HeaderValue, Request, Uri};
use streams::websocket::{Codec, Tunnel};
use streams::{BoxDuplex, Input, Output, exec, port_forward, upgrade};

use super::*;

/// A cluster with a running pod, its kubelet, and a connection to its endpoints.
async fn with_pod() -> (Cluster, Kubelet) {
    let cluster = Cluster::new();
    let kubelet = cluster.start().await;
    cluster.pod("web", json!({"containers": [{"name": "web", "image": "busybox:1"}]}));
    cluster.phase("web", "Running").await;
    (cluster, kubelet)
}

async fn connect(cluster: &Cluster, kubelet: &Kubelet) -> BoxDuplex {
    BoxDuplex::new(cluster.identities.connect(kubelet.address, "kube-apiserver").await)
}

async fn websocket(
    cluster: &Cluster,
    kubelet: &Kubelet,
    path: &str,
    protocol: &str,
) -> tokio_tungstenite::WebSocketStream<BoxDuplex> {
    let request = Request::get(format!("ws://node{path}"))
        .header("host", "node")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(())
        .unwrap();
    let stream = connect(cluster, kubelet).await;
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
    socket
}

#[tokio::test]
async fn a_process_is_run_over_spdy() {
    let (cluster, kubelet) = with_pod().await;
    for (asked, expected) in
        [(exec::SPDY_PROTOCOLS, "v4.channel.k8s.io"), (&["v2.channel.k8s.io", "channel.k8s.io"], "v2.channel.k8s.io")]
    {
        let uri = Uri::from_static("/exec/default/web/web?command=cat&input=1&output=1&error=1");
        let stream = connect(&cluster, &kubelet).await;
        let (io, protocol) = upgrade::ask(stream, uri, HeaderValue::from_static("node"), asked).await.unwrap();
        assert_eq!(protocol, expected);
        let options = exec::Options { stdin: true, stdout: true, stderr: true, ..Default::default() };
        let (mut session, moved) = exec::client::open(io, protocol, options);
        let used = async {
            session.input.send(Input::Stdin("hello".into())).await.unwrap();
            session.input.send(Input::StdinClosed).await.unwrap();
            let mut seen = Vec::new();
            while let Some(output) = session.output.recv().await {
                seen.push(output);
            }
            seen
        };
        let ((), mut seen) = tokio::join!(moved, used);
        let last = seen.pop();
        // The two outputs are two streams.
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen.contains(&Output::Stdout("hello".into())) && seen.contains(&Output::Stderr("bye".into())));
        match last.unwrap() {
            Output::Exited(code) => assert_eq!((code, expected), (3, "v4.channel.k8s.io")),
            Output::Failed(why) => assert!(why.contains("exit status 3"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    kubelet.end().await;
}

#[tokio::test]
async fn what_is_not_spoken_is_refused() {
    let (cluster, kubelet) = with_pod().await;
    let ask = async |path: &'static str, protocols| {
        let stream = connect(&cluster, &kubelet).await;
        let host = HeaderValue::from_static("node");
        match upgrade::ask(stream, Uri::from_static(path), host, protocols).await {
            Err(upgrade::AskError::Refused { status, message }) => (status.as_u16(), message),
            other => panic!("{:?}", other.map(|(_, protocol)| protocol)),
        }
    };
    let exec = "/exec/default/web/web?command=cat&output=1";
    let (status, message) = ask(exec, &["v9.channel.k8s.io"]).await;
    assert!(status == 403 && message.contains("client supports [v9.channel.k8s.io]"), "{message}");
    assert_eq!(ask(exec, &[]).await.0, 400);
    assert_eq!(ask("/exec/default/web/other?command=cat&output=1", exec::SPDY_PROTOCOLS).await.0, 404);
    assert_eq!(ask("/exec/default/web/web?command=cat", exec::SPDY_PROTOCOLS).await.0, 400);
    assert_eq!(ask("/portForward/default/none", port_forward::OFFER.spdy).await.0, 404);
    kubelet.end().await;
}

/// Says hello to a port over a connection that has switched to SPDY; what came back and what the kubelet had to say.
async fn forward(io: BoxDuplex, port: u16) -> (String, Result<(), String>) {
    let (mut stream, moved) = port_forward::client::open(io, port);
    let used = async move {
        let mut heard = String::new();
        // A port that is refused takes nothing.
        let _ = stream.write_all(b"hello").await;
        let _ = stream.shutdown().await;
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    };
    let (ended, heard) = tokio::join!(moved, used);
    (heard, ended)
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_and_over_spdy_in_websocket() {
    let (cluster, kubelet) = with_pod().await;
    for (port, heard, said) in
        [(7, "hello", ""), (81, "", "error forwarding port 81 to pod: invalid request: connection refused")]
    {
        let (uri, host) = (Uri::from_static("/portForward/default/web"), HeaderValue::from_static("node"));
        let stream = connect(&cluster, &kubelet).await;
        let (io, _) = upgrade::ask(stream, uri, host, port_forward::OFFER.spdy).await.unwrap();
        let plain = forward(io, port).await;
        let socket = websocket(&cluster, &kubelet, "/portForward/default/web", port_forward::TUNNEL_PROTOCOL).await;
        let tunnelled = forward(BoxDuplex::new(Tunnel::new(socket)), port).await;
        for (seen, ended) in [plain, tunnelled] {
            assert_eq!((seen.as_str(), ended.err().unwrap_or_default().as_str()), (heard, said));
        }
    }
    kubelet.end().await;
}

/// The messages of each channel of a session, in the form of its protocol, after `sent` on channel 0.
async fn channels(
    mut socket: tokio_tungstenite::WebSocketStream<BoxDuplex>,
    codec: Codec,
    sent: &[u8],
) -> [Vec<u8>; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    socket.send(codec.encode(0, sent)).await.unwrap();
    while let Some(Ok(message)) = socket.next().await {
        let Some((channel, data)) = codec.decode(message) else { continue };
        channels[usize::from(channel)].extend_from_slice(&data);
        if channels[0].ends_with(sent) || channels[1].ends_with(sent) {
            break;
        }
    }
    channels
}

#[tokio::test]
async fn channels_come_in_base64_too() {
    let (cluster, kubelet) = with_pod().await;
    for protocol in ["v4.base64.channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"] {
        let path = "/exec/default/web/web?command=cat&input=1&output=1";
        let socket = websocket(&cluster, &kubelet, path, protocol).await;
        let [_, output, ..] = channels(socket, Codec::of(protocol), b"hello").await;
        assert_eq!(output, b"hello", "{protocol}");
    }
    // Each channel of a forwarded port begins with its number.
    for protocol in ["v4.base64.channel.k8s.io", "v4.channel.k8s.io"] {
        let socket = websocket(&cluster, &kubelet, "/portForward/default/web?port=81", protocol).await;
        let [data, errors, ..] = channels(socket, Codec::of(protocol), b"hello").await;
        assert_eq!((&data[..], &errors[..2]), (&[81, 0][..], &[81, 0][..]));
        assert!(errors.ends_with(b"connection refused"), "{errors:?}");
    }
    kubelet.end().await;
}
