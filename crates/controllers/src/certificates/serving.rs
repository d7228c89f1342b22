//! A node's request for the certificate that its kubelet serves with is approved when it asks for nothing but itself.
//!
//! The asker must be the node's own agent; every name and address must stand in the node's status, and no other node may
//! claim one of them: a node that lies about its address would else be taken for its neighbour. A request that does not fit
//! stays open, for an administrator to decide and because the node's status may only be late. Upstream approves none of
//! these by itself and leaves them to whoever runs the cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use api::{Key, Object, resources};
use bytes::Bytes;
use control::{Informers, Next, ReconcileError, Trigger};
use futures::FutureExt;
use serde_json::{Value, json};

use super::request::{self, Request};
use crate::{Ctx, Descriptor, conditions};

/// The row of the table.
pub const CONTROLLER: Descriptor = Descriptor {
    name: "kubelet-serving-approver",
    reconciles: resources::CERTIFICATE_SIGNING_REQUESTS,
    owns: &[],
    watches: &[Trigger { resource: resources::NODES, keys: open_requests }],
    reads: &[],
    workers_max: 1,
    resync: Duration::ZERO,
    reconcile: |key, ctx| async move { reconcile(&key, &ctx).await }.boxed(),
};

const SIGNER: &str = "kubernetes.io/kubelet-serving";
const NODE_USER: &str = "system:node:";
const NODE_GROUP: &str = "system:nodes";

fn is_ours(request: &Object) -> bool {
    request.field(resources::CERTIFICATE_SIGNING_REQUESTS, "spec.signerName") == Some(SIGNER)
}

/// A node's status may bring what its request waits for.
fn open_requests(informers: &Informers, node: &Object) -> Vec<Key> {
    let user = format!("{NODE_USER}{}", node.key().name);
    let requests = informers.all(resources::CERTIFICATE_SIGNING_REQUESTS).all();
    let asked = |request: &&Object| is_ours(request) && request.to_value()["spec"]["username"] == user.as_str();
    requests.iter().filter(asked).map(|request| request.key().clone()).collect()
}

async fn reconcile(key: &Key, ctx: &Ctx) -> Result<Next, ReconcileError> {
    let requests = ctx.cache(resources::CERTIFICATE_SIGNING_REQUESTS);
    let Some(object) = requests.get(key).filter(is_ours) else { return Ok(Next::OnChange) };
    let mut tree = object.to_value();
    let nodes: Vec<Value> = ctx.cache(resources::NODES).all().iter().map(Object::to_value).collect();
    match plan(&tree, &nodes) {
        Plan::Nothing => {}
        Plan::Leave(why) => tracing::warn!(request = &*key.name, why, "a node's serving certificate is not approved"),
        Plan::Approve => {
            let message = "Auto approving kubelet serving certificate: it names the asking node only.";
            let condition = json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message});
            conditions::put(&mut tree["status"], condition);
            let body = Bytes::from(tree.to_string());
            ctx.client.update_part(resources::CERTIFICATE_SIGNING_REQUESTS, key, "approval", body).await?;
        }
    }
    Ok(Next::OnChange)
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Approve,
    Leave(String),
}

fn plan(tree: &Value, nodes: &[Value]) -> Plan {
    let (spec, status) = (&tree["spec"], &tree["status"]);
    let decided = ["Approved", "Denied"].iter().any(|kind| conditions::find(status, kind).is_some());
    if decided || status["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty()) {
        return Plan::Nothing;
    }
    match Request::of(spec).map_err(|error| error.to_string()).and_then(|request| check(&request, spec, nodes)) {
        Ok(()) => Plan::Approve,
        Err(why) => Plan::Leave(why),
    }
}

fn check(request: &Request, spec: &Value, nodes: &[Value]) -> Result<(), String> {
    request::kubelet_serving(request, &request::usages(spec))?;
    let groups = spec["groups"].as_array().into_iter().flatten();
    if spec["username"] != request.common_name.as_str() || !groups.into_iter().any(|group| group == NODE_GROUP) {
        return Err("whoever asks is not the node's own agent".to_owned());
    }
    let name = request.common_name.strip_prefix(NODE_USER).unwrap_or_default();
    let own = nodes.iter().find(|node| node["metadata"]["name"] == name);
    let own = addresses(own.ok_or_else(|| format!("there is no node {name}"))?);
    let asked = request.addresses.iter().map(|bytes| address(bytes)).collect::<Option<BTreeSet<String>>>();
    let mut asked = asked.ok_or("an IP subjectAltName is of no known length")?;
    asked.extend(request.dns_names.iter().filter(|dns| *dns != name).cloned());
    if let Some(foreign) = asked.iter().find(|name| !own.contains(*name)) {
        return Err(format!("{foreign} is not among the addresses of node {name}"));
    }
    let others = nodes.iter().filter(|node| node["metadata"]["name"] != name);
    match others.into_iter().find_map(|other| Some((other, addresses(other).intersection(&asked).next()?.clone()))) {
        Some((other, shared)) => Err(format!("{shared} is an address of node {} too", other["metadata"]["name"])),
        None => Ok(()),
    }
}

/// All addresses of a node, names too.
fn addresses(node: &Value) -> BTreeSet<String> {
    let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    addresses.filter_map(|address| address["address"].as_str().map(str::to_owned)).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    let v6 = || <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)));
    v4.or_else(|_| v6()).ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use control::harness::{Api, Step, check_converges};

    use super::*;
    use crate::certificates::authority::tests::request;
    use crate::fixtures::settings;

    fn node(name: &str, address: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": [
            {"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]}})
    }

    fn csr(name: &str, username: &str, names: &[&str]) -> Value {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"signerName": SIGNER, "username": username, "groups": ["system:nodes", "system:authenticated"],
                "usages": ["digital signature", "server auth"], "request": request("system:node:a", "system:nodes", names)}})
    }

    #[test]
    fn a_node_vouches_for_itself_only() {
        let nodes = [node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("liar", "10.0.0.3"), node("c", "10.0.0.3")];
        for (username, names, expected) in [
            ("system:node:a", &["a", "10.0.0.1"][..], Ok(())),
            ("system:node:a", &["10.0.0.1"], Ok(())),
            ("system:node:b", &["a", "10.0.0.1"], Err("whoever asks is not the node's own agent")),
            ("jane", &["a"], Err("whoever asks is not the node's own agent")),
            ("system:node:a", &["a", "10.0.0.2"], Err("10.0.0.2 is not among the addresses of node a")),
            ("system:node:a", &["kubernetes"], Err("kubernetes is not among the addresses of node a")),
        ] {
            let expected = expected.map_or_else(|why: &str| Plan::Leave(why.to_owned()), |()| Plan::Approve);
            assert_eq!(plan(&csr("r", username, names), &nodes), expected, "{username} {names:?}");
        }
        let shared = [node("a", "10.0.0.3"), node("c", "10.0.0.3")];
        let shared = plan(&csr("r", "system:node:a", &["10.0.0.3"]), &shared);
        assert_eq!(shared, Plan::Leave("10.0.0.3 is an address of node \"c\" too".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_the_nodes_status() {
        let approved = |api: &Api, name: &str| {
            let csr = api.get(resources::CERTIFICATE_SIGNING_REQUESTS, "", name).expect("the request");
            conditions::is_true(&csr["status"], "Approved")
        };
        let come = |node: &mut Value| {
            let late = node["status"].is_null();
            if late {
                node["status"] = json!({"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]});
            }
            late
        };
        let late = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
        let steps = [
            Step::Do(&|api| assert!(!approved(api, "own"))),
            Step::Do(&|api| assert!(api.change_each(resources::NODES, come))),
        ];
        let objects = [late, csr("own", "system:node:a", &["10.0.0.1"]), csr("other", "system:node:a", &["10.0.0.9"])];
        let end = check_converges(&CONTROLLER, settings(), &objects, &steps).await;
        assert!(approved(&end, "own") && !approved(&end, "other"));
    }
}
