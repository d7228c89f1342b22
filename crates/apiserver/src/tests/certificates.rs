//! Certificate signing requests: who asked is written down, approval and certificate have paths of their own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Cluster;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn request() -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "jane"},
        "spec": {"request": STANDARD.encode(pem), "signerName": "example.com/signer", "usages": ["client auth"],
            "username": "somebody-else", "groups": ["system:masters", "more"]},
        "status": {"conditions": [{"type": "Approved", "status": "True"}]}})
}

#[tokio::test]
async fn a_request_is_approved_and_answered_once() {
    let cluster = Cluster::start().await;
    let made = cluster.post(REQUESTS, request()).await;
    assert_eq!(made["spec"]["username"], "admin", "who asks is the server's to say");
    assert_eq!(made["spec"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(made["status"], json!({}), "nobody approves their own request by making it");

    let path = format!("{REQUESTS}/jane");
    let mut changed = made.clone();
    changed["spec"]["usages"] = json!(["server auth"]);
    let (code, answer) = cluster.call(Method::PUT, &path, &changed).await;
    assert_eq!((code, &answer["spec"]["usages"]), (StatusCode::OK, &json!(["client auth"])), "{answer}");

    // As `kubectl certificate approve` does.
    let mut approved = answer;
    approved["status"]["conditions"] =
        json!([{"type": "Approved", "status": "True", "reason": "KubectlApprove", "message": "approved"}]);
    let (code, answer) = cluster.call(Method::PUT, &format!("{path}/approval"), &approved).await;
    assert_eq!(code, StatusCode::OK, "{answer}");
    let condition = &answer["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string(), "{condition}");

    let denied = json!({"status": {"conditions": [condition, {"type": "Denied", "status": "True"}]}});
    let (code, answer) = cluster.call(Method::PATCH, &format!("{path}/approval"), &denied).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("Approved and Denied conditions are mutually exclusive"), "{message}");

    let certificate = STANDARD.encode(&cluster.pki.ca_pem);
    let issue = json!({"status": {"certificate": certificate}});
    let (code, answer) = cluster.call(Method::PATCH, &format!("{path}/approval"), &issue).await;
    assert_eq!((code, &answer["status"]["certificate"]), (StatusCode::OK, &Value::Null), "not by this path: {answer}");
    let (code, answer) = cluster.call(Method::PATCH, &format!("{path}/status"), &issue).await;
    assert_eq!((code, &answer["status"]["certificate"]), (StatusCode::OK, &json!(certificate)), "{answer}");
    let (code, _) =
        cluster.call(Method::PATCH, &format!("{path}/status"), &json!({"status": {"certificate": "eA=="}})).await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
}
