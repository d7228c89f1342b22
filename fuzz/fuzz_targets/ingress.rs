//! What a stranger sends to an Ingress: no bytes make a connection fail in another way than by an answer or its end, and none of
//! an Ingress without endpoints gets an answer of a pod.
#![no_main]

use std::sync::LazyLock;

use api::typed::networking::v1::Ingress;
use api::{Key, Typed};
use edge::ingress::routes::Routes;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};

/// More than a client sends in one go; hyper's own limits are beyond.
const BYTES_MAX: usize = 16 << 10;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

fn routes() -> Routes {
    let ingress = br#"{"metadata":{"name":"i","namespace":"n"},"spec":{"tls":[{"hosts":["s.x"],"secretName":"s"}],"rules":[
        {"host":"a.x","http":{"paths":[{"path":"/a","pathType":"Prefix","backend":{"service":{"name":"a","port":{"number":80}}}}]}},
        {"host":"*.x","http":{"paths":[{"path":"/","pathType":"Exact","backend":{"service":{"name":"a","port":{"number":80}}}}]}},
        {"host":"s.x","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"a","port":{"number":80}}}}]}}]}}"#;
    let mut routes = Routes::default();
    routes.apply(&Key::new("n", "i"), &Ingress::decode(ingress).expect("valid"));
    routes
}

fuzz_target!(|data: &[u8]| {
    let data = &data[..data.len().min(BYTES_MAX)];
    let answer = RUNTIME.block_on(async {
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let client = async move {
            // The server may close before it has read all.
            let _ = ours.write_all(data).await;
            let _ = ours.shutdown().await;
            let mut answer = Vec::new();
            let _ = ours.read_to_end(&mut answer).await;
            answer
        };
        let served = edge::ingress::speak_alone(routes(), theirs);
        tokio::join!(served, client).1
    });
    if let Some(status) = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)) {
        assert!(!matches!(status, b"200" | b"101" | b"502" | b"504"), "{}", String::from_utf8_lossy(&answer));
    }
});
