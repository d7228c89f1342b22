//! Questions to cluster DNS and answers of other name servers: no bytes make either fail; an answer has the id and question
//! of what it answers and is no longer than its client takes.
#![no_main]

use std::sync::LazyLock;

use api::Object;
use api::resources::{ENDPOINT_SLICES, SERVICES};
use edge::dns::answer::Zone;
use edge::dns::index::Index;
use edge::dns::respond::{Outcome, Responder, Via};
use edge::dns::wire::{Age, Body, HEADER_BYTES, Question, UDP_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

static RESPONDER: LazyLock<Responder> = LazyLock::new(|| {
    let mut index = Index::default();
    let object = |resource, json: String| Object::parse(resource, json.into_bytes().into()).expect("valid");
    for (name, spec) in [
        ("a", r#""clusterIPs":["10.43.0.7","fd43::7"],"ports":[{"name":"http","protocol":"TCP","port":80}]"#),
        ("h", r#""clusterIP":"None","ports":[{"name":"http","protocol":"TCP","port":80}]"#),
        ("e", r#""type":"ExternalName","externalName":"example.com""#),
        ("l", r#""type":"ExternalName","externalName":"l.n.svc.cluster.local""#),
    ] {
        let json = format!(r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"spec":{{{spec}}}}}"#);
        index.apply_service(&object(SERVICES, json)).expect("valid");
    }
    let endpoints: Vec<String> = (1..250).map(|last| format!(r#"{{"addresses":["10.42.0.{last}"]}}"#)).collect();
    let json = format!(
        r#"{{"metadata":{{"name":"h-1","namespace":"n","labels":{{"kubernetes.io/service-name":"h"}}}},"addressType":"IPv4",
        "ports":[{{"name":"http","protocol":"TCP","port":8080}}],"endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    index.apply_slice(&object(ENDPOINT_SLICES, json)).expect("valid");
    index.services_synced();
    index.slices_synced();
    Responder::new(Zone::new("cluster.local").expect("valid"), index)
});

/// An answer to a question of `message`, of at most so many bytes.
fn check(message: &[u8], answer: &[u8], limit: usize) {
    assert!(answer.len() <= limit && answer.len() >= HEADER_BYTES);
    assert_eq!(answer[..2], message[..2]);
    assert!(answer[2] & 0x80 != 0);
    if let Ok(question) = Question::read(message) {
        assert_eq!(&answer[HEADER_BYTES..HEADER_BYTES + question.raw.len()], question.raw);
        // What is written can be read.
        Body::read(answer, question.raw).expect("our own answer");
    }
}

fuzz_target!(|bytes: &[u8]| {
    // The first bytes say how long the question is; the rest is what another server answers.
    let split = bytes.first().map_or(0, |length| usize::from(*length).min(bytes.len() - 1));
    let (message, answer) = bytes.get(1..).unwrap_or_default().split_at(split);
    for (via, limit) in [(Via::Udp, usize::from(UDP_BYTES_MAX)), (Via::Tcp, usize::from(u16::MAX))] {
        let mut out = Vec::new();
        match RESPONDER.respond(message, via, &mut out) {
            Outcome::Nothing => assert!(out.is_empty()),
            Outcome::Answered => {
                check(message, &out, limit);
                // From what was kept, the same again, but for which address is first.
                let mut again = Vec::new();
                RESPONDER.respond(message, via, &mut again);
                assert_eq!(out.len(), again.len());
            }
            Outcome::Ask(asked) => {
                let others = [&[0, 0, 0x80, 0, 0, 1][..], answer.get(..6).unwrap_or_default(), &asked.target];
                let mut others = others.concat();
                others.extend_from_slice(answer.get(6..).unwrap_or_default());
                if let Some(body) = Body::read(&others, &asked.target) {
                    for age in [Age::Original, Age::Seconds(7), Age::Stale(30)] {
                        check(message, &asked.answer(&body, age), limit);
                    }
                    body.ttl();
                }
            }
        }
    }
});
