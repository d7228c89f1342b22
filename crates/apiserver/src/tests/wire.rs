//! What goes over the wire: protobuf answers equal the JSON ones, in every verb; lists in pages; compression.

use std::io::Read;

use bytes::Bytes;
use control::Body;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};

use super::{CONFIG_MAPS, Cluster, config_map, read};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn get_as(cluster: &Cluster, accept: &str, uri: &str) -> (StatusCode, HeaderMap, Bytes) {
    let request = Request::get(uri).header("accept", accept).body(Bytes::new()).unwrap();
    let (parts, body) = cluster.send(request).await.into_parts();
    (parts.status, parts.headers, read(body).await)
}

fn decoded(bytes: &[u8]) -> Value {
    api::protobuf::decode(bytes).unwrap().2
}

/// In a protobuf list the items do not say what they are.
fn without_kinds(mut list: Value) -> Value {
    for item in list["items"].as_array_mut().unwrap() {
        let fields = item.as_object_mut().unwrap();
        fields.retain(|name, _| name != "apiVersion" && name != "kind");
    }
    list
}

#[tokio::test]
async fn protobuf_says_what_json_says() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, config_map("a", json!({"k": "v"}))).await;
    let one = format!("{CONFIG_MAPS}/a");
    let paths = [
        &*one,
        CONFIG_MAPS,
        "/api/v1/namespaces",
        "/api/v1/services",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    ];
    for path in paths {
        let (status, headers, body) = get_as(&cluster, PROTOBUF, path).await;
        assert_eq!((status, &headers["content-type"]), (StatusCode::OK, &PROTOBUF.parse().unwrap()), "{path}");
        let (seen, expected) = (decoded(&body), cluster.get(path).await);
        let plain = |list: Value| if list["items"].is_array() { without_kinds(list) } else { list };
        assert_eq!(plain(seen), plain(expected), "{path}");
    }
    let accept = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (_, headers, body) = get_as(&cluster, &accept, CONFIG_MAPS).await;
    assert_eq!(headers["content-type"], PROTOBUF);
    assert!(body.starts_with(b"k8s\0"));
    let (status, headers, body) = get_as(&cluster, PROTOBUF, &format!("{CONFIG_MAPS}/none")).await;
    assert_eq!((status, &headers["content-type"]), (StatusCode::NOT_FOUND, &PROTOBUF.parse().unwrap()));
    assert_eq!(decoded(&body)["message"], "configmaps \"none\" not found");
    let (status, headers, body) = get_as(&cluster, PROTOBUF, "/apis/apps/v1").await;
    assert_eq!((status, &headers["content-type"]), (StatusCode::OK, &PROTOBUF.parse().unwrap()));
    assert_eq!(decoded(&body)["groupVersion"], "apps/v1");
}

/// Upstream's conformance suite asks for everything as protobuf first. `/version` has no such form and `/api` does not say its
/// version: both answered 500.
#[tokio::test]
async fn a_document_without_a_protobuf_form_comes_as_json() {
    let cluster = Cluster::start().await;
    for path in ["/version", "/api"] {
        let (status, headers, body) = get_as(&cluster, &format!("{PROTOBUF},application/json"), path).await;
        assert_eq!(
            (status, &headers["content-type"]),
            (StatusCode::OK, &"application/json".parse().unwrap()),
            "{path}"
        );
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), cluster.get(path).await, "{path}");
    }
}

#[tokio::test]
async fn writes_answer_in_protobuf_too() {
    let cluster = Cluster::start().await;
    let request = Request::post(CONFIG_MAPS)
        .header("accept", PROTOBUF)
        .header("content-type", "application/json")
        .body(config_map("a", json!({"k": "v"})).to_string().into())
        .unwrap();
    let response = cluster.send(request).await;
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::CREATED, &PROTOBUF.parse().unwrap())
    );
    let created = read(response.into_body()).await;
    assert_eq!(decoded(&created)["data"], json!({"k": "v"}));
    // What came as protobuf can be sent back.
    let request = Request::put(format!("{CONFIG_MAPS}/a")).header("content-type", PROTOBUF).body(created).unwrap();
    let response = cluster.send(request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let request = Request::delete(format!("{CONFIG_MAPS}/a")).header("accept", PROTOBUF).body(Bytes::new()).unwrap();
    let deleted = decoded(&read(cluster.send(request).await.into_body()).await);
    assert_eq!((&deleted["kind"], &deleted["status"]), (&json!("Status"), &json!("Success")));
}

/// One event of a protobuf watch: its type and its object.
fn event(frame: &[u8]) -> (String, Value) {
    let (length, rest) = frame.split_first_chunk::<4>().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, rest.len());
    // `type` is field 1; the enveloped object begins with the magic bytes.
    let name = String::from_utf8(rest[2..2 + usize::from(rest[1])].to_vec()).unwrap();
    let at = rest.windows(4).position(|window| window == b"k8s\0").unwrap();
    (name, decoded(&rest[at..]))
}

#[tokio::test]
async fn a_watch_in_protobuf_shows_the_same_events() {
    let cluster = Cluster::start().await;
    cluster.post(CONFIG_MAPS, config_map("old", json!({"k": "v"}))).await;
    let accept = format!("{PROTOBUF};stream=watch");
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let request = Request::get(format!("{CONFIG_MAPS}?{query}")).header("accept", &accept).body(Bytes::new()).unwrap();
    let response = cluster.send(request).await;
    assert_eq!(response.headers()["content-type"], *accept);
    let Body::Stream(mut frames) = response.into_body() else { panic!("a watch is a stream") };
    let mut json = cluster.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    cluster.call(Method::PATCH, &format!("{CONFIG_MAPS}/old"), &json!({"data": {"k": "w"}})).await;
    cluster.call(Method::DELETE, &format!("{CONFIG_MAPS}/old"), &Value::Null).await;
    for expected in ["ADDED", "BOOKMARK", "MODIFIED", "DELETED"] {
        let (name, object) = event(&frames.next().await.unwrap().unwrap());
        let mut same = json.next().await.unwrap();
        if name == "BOOKMARK" {
            // A time that was never set is no time on the wire.
            same["object"]["metadata"].as_object_mut().unwrap().shift_remove("creationTimestamp");
        }
        assert_eq!((&*name, same["type"].as_str().unwrap()), (expected, expected));
        assert_eq!(object, same["object"], "{name}");
    }
    let (status, _, body) = get_as(&cluster, "application/yaml", &format!("{CONFIG_MAPS}?watch=1")).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    assert!(String::from_utf8_lossy(&body).contains("application/json;stream=watch"));
}

#[tokio::test]
async fn a_watch_in_protobuf_ends_with_an_error_in_protobuf() {
    let cluster = Cluster::start().await;
    cluster.get(CONFIG_MAPS).await;
    cluster.forget(2).await;
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion=1");
    let (_, _, body) = get_as(&cluster, PROTOBUF, &uri).await;
    let (name, status) = event(&body);
    assert_eq!((&*name, &status["code"], &status["reason"]), ("ERROR", &json!(410), &json!("Expired")));
}

#[tokio::test]
async fn pages_show_one_moment_and_say_what_is_left() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        cluster.post(CONFIG_MAPS, config_map(name, json!({}))).await;
    }
    let names = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().unwrap();
        items.iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a".into(), "b".into()], &json!(3)));
    // What happens between the pages does not show.
    cluster.call(Method::DELETE, &format!("{CONFIG_MAPS}/d"), &Value::Null).await;
    cluster.post(CONFIG_MAPS, config_map("bb", json!({}))).await;
    let next =
        |page: &Value| format!("{CONFIG_MAPS}?limit=2&continue={}", page["metadata"]["continue"].as_str().unwrap());
    let second = cluster.get(&next(&first)).await;
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["c".into(), "d".into()], &json!(1)));
    let third = cluster.get(&next(&second)).await;
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["e".into()], None));
    assert_eq!(first["metadata"]["resourceVersion"], third["metadata"]["resourceVersion"]);
    let selected = cluster.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=%21x")).await;
    assert_eq!(selected["metadata"].get("remainingItemCount"), None);
    assert!(selected["metadata"]["continue"].is_string());
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_it() {
    let cluster = Cluster::start().await;
    let text = "0123456789".repeat(10_000);
    for name in ["a", "b"] {
        cluster.post(CONFIG_MAPS, config_map(name, json!({"k": text}))).await;
    }
    let plain = cluster.get(CONFIG_MAPS).await;
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    for (accept, compressed) in
        [("application/json", true), (PROTOBUF, true), ("application/yaml", true), (table, false)]
    {
        let uri = if compressed { CONFIG_MAPS.to_owned() } else { format!("{CONFIG_MAPS}?includeObject=None") };
        let request = Request::get(&uri).header("accept", accept).header("accept-encoding", "br, gzip");
        let response = cluster.send(request.body(Bytes::new()).unwrap()).await;
        let (parts, body) = response.into_parts();
        let body = read(body).await;
        assert_eq!(parts.headers.get("content-encoding").is_some(), compressed, "{accept}");
        if !compressed {
            continue;
        }
        assert_eq!(parts.headers["vary"], "Accept-Encoding");
        let mut inflated = Vec::new();
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut inflated).unwrap();
        match accept {
            PROTOBUF => assert_eq!(without_kinds(decoded(&inflated)), without_kinds(plain.clone())),
            "application/json" => assert_eq!(serde_json::from_slice::<Value>(&inflated).unwrap(), plain),
            _ => assert!(inflated.starts_with(b"kind:")),
        }
    }
}

#[tokio::test]
async fn schemas_come_in_the_form_that_go_asks_for_and_are_kept_by_name() {
    let cluster = Cluster::start().await;
    let asked = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (status, headers, body) = get_as(&cluster, asked, "/openapi/v2").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert!(body.starts_with(b"\x0a\x032.0"));
    let again = Request::get("/openapi/v2").header("accept", asked).header("if-none-match", &headers["etag"]);
    assert_eq!(cluster.send(again.body(Bytes::new()).unwrap()).await.status(), StatusCode::NOT_MODIFIED);
    let index = cluster.get("/openapi/v3").await;
    let place = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let (status, headers, _) = get_as(&cluster, "application/json", place).await;
    assert_eq!(
        (status, &headers["cache-control"]),
        (StatusCode::OK, &"public, immutable, max-age=31536000".parse().unwrap())
    );
    let (status, headers, _) = get_as(&cluster, "application/json", "/openapi/v3/apis/apps/v1?hash=old").await;
    assert_eq!((status, headers["location"].to_str().unwrap()), (StatusCode::MOVED_PERMANENTLY, place));
}

/// A page's token that was kept for too long ends in 410, with one that goes on at the present.
#[tokio::test]
async fn a_page_that_is_asked_for_too_late_goes_on_at_the_present() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.post(CONFIG_MAPS, config_map(name, json!({}))).await;
    }
    let selector = "labelSelector=!none";
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=1&{selector}")).await;
    let next = |page: &Value| {
        format!("{CONFIG_MAPS}?limit=1&{selector}&continue={}", page["metadata"]["continue"].as_str().unwrap())
    };
    assert_eq!(cluster.get(&next(&first)).await["items"][0]["metadata"]["name"], "b");
    let moved = cluster.post(CONFIG_MAPS, config_map("aa", json!({}))).await;
    let revision = moved["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    cluster.server.caches.give_up_moments_before(revision);
    let (status, expired) = cluster.call(Method::GET, &next(&first), &Value::Null).await;
    assert_eq!((status, &expired["reason"]), (StatusCode::GONE, &json!("Expired")));
    assert_eq!(cluster.get(&next(&expired)).await["items"][0]["metadata"]["name"], "aa");
    let exact = format!("{CONFIG_MAPS}?resourceVersionMatch=Exact&resourceVersion=");
    assert_eq!(cluster.call(Method::GET, &format!("{exact}{}", revision - 1), &Value::Null).await.0, StatusCode::GONE);
    assert_eq!(cluster.call(Method::GET, &format!("{exact}{revision}"), &Value::Null).await.0, StatusCode::OK);
}
