//! `/metrics`: what the kubelet counted, and what runs now; `/metrics/probes`: how probes were answered.

use std::collections::BTreeMap;

use base::chain;
use base::metrics::{Family, Text};
use cri::v1;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use super::{Body, Refusal, full};
use crate::host::Host;
use crate::plan::ProbeKind;

/// The kubelet's families, and `others`.
pub(super) async fn own(host: &Host, others: &[&'static dyn Family]) -> Result<Response<Body>, Refusal> {
    let failed = |error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, chain(&error));
    let sandboxes = host.runtime.list_pod_sandboxes(None).await.map_err(failed)?;
    let containers = host.runtime.list_containers(None).await.map_err(failed)?;
    let ready = sandboxes.iter().filter(|sandbox| sandbox.state() == v1::PodSandboxState::SandboxReady).count();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for container in &containers {
        let state = match container.state() {
            v1::ContainerState::ContainerCreated => "created",
            v1::ContainerState::ContainerRunning => "running",
            v1::ContainerState::ContainerExited => "exited",
            v1::ContainerState::ContainerUnknown => "unknown",
        };
        *states.entry(state).or_default() += 1;
    }
    let mut text = Text::default();
    text.family("kubelet_node_name", "The node's name. The count is always 1.", "gauge");
    text.sample("kubelet_node_name", &[("node", &host.node_name)], 1.0);
    text.family("kubelet_running_pods", "Number of pods that have a running pod sandbox", "gauge");
    text.sample("kubelet_running_pods", &[], ready as f64);
    text.family("kubelet_running_containers", "Number of containers currently running", "gauge");
    for (state, count) in states {
        text.sample("kubelet_running_containers", &[("container_state", state)], count as f64);
    }
    for family in crate::metrics::METRICS.iter().chain(control::metrics::METRICS).chain(others) {
        family.write(&mut text);
    }
    Ok(answer(text))
}

/// `prober_probe_total`
pub(super) fn probes(host: &Host) -> Response<Body> {
    const NAME: &str = "prober_probe_total";
    let mut text = Text::default();
    text.family(
        NAME,
        "Cumulative number of a liveness, readiness or startup probe for a container by result.",
        "counter",
    );
    for (name, counts) in host.probes.all() {
        for (result, count) in ["successful", "failed"].into_iter().zip(counts) {
            let labels = [
                ("container", &*name.container),
                ("namespace", &name.pod.namespace),
                ("pod", &name.pod.name),
                ("pod_uid", &name.pod.uid),
                ("probe_type", ProbeKind::name(name.kind)),
                ("result", result),
            ];
            text.sample(NAME, &labels, count as f64);
        }
    }
    answer(text)
}

/// A scrape's answer.
pub(super) fn answer(text: Text) -> Response<Body> {
    let mut response = Response::new(full(text.into_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Text::MEDIA_TYPE));
    response
}
