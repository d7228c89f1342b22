//! What the metrics of an autoscaler propose together.

use api::Object;
use machinery::labels::Selector;
use serde_json::{Value, json};

use super::behavior::{self, Bounds};
use super::metrics;
use super::replicas::{self, Pods, Proposal, Tolerance};
use super::{Plan, Remembered, Round, Target};

/// How far a metric may be from its target before anything is done, unless the autoscaler says otherwise. Upstream's figure.
const TOLERANCE: f64 = 0.1;

/// One metric's answer.
struct Answer {
    proposal: Proposal,
    name: String,
    status: Value,
}

/// Why a metric has no answer.
struct Silence {
    reason: &'static str,
    message: String,
    /// What goes before the message where all metrics are told of.
    about: String,
}

impl Round<'_> {
    /// Decides, and sets the conditions that tell of it.
    pub(super) async fn plan(&mut self, target: &Target, current: i64, remembered: &mut Remembered) -> Plan {
        let spec = self.tree["spec"].clone();
        let number = |field: &str, default: i64| spec[field].as_i64().unwrap_or(default);
        let (least, most) = (number("minReplicas", 1), number("maxReplicas", 0));
        let only =
            |desired: i64, reason: &str| Plan { desired: Some(desired), reason: reason.to_owned(), statuses: vec![] };
        if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.set("ScalingActive", "False", "ScalingDisabled", message);
            return only(0, "");
        }
        if current > most {
            return only(most, "Current number of replicas above Spec.MaxReplicas");
        }
        if current < least {
            return only(least, "Current number of replicas below Spec.MinReplicas");
        }
        let Some(selector) = self.selector(target, remembered) else {
            return Plan { reason: "selector is required".to_owned(), ..Plan::default() };
        };
        let pods = self.pods(&selector);
        let others = self.ctx.settings.autoscalers.also_selecting(self.key, &pods);
        if !others.is_empty() {
            let names = [self.key.clone()].into_iter().chain(others);
            let names: Vec<String> = names.map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            let message = format!("pods by selector {selector} are controlled by multiple HPAs: [{}]", names.join(" "));
            self.warn("AmbiguousSelector", &message);
            self.set("ScalingActive", "False", "AmbiguousSelector", &message);
            return Plan { reason: message, ..Plan::default() };
        }
        let mut plan = self.ask_all(&spec, target, &selector, &pods, current).await;
        let Some(proposed) = plan.desired else { return plan };
        let metric = std::mem::take(&mut plan.reason);
        if proposed > current {
            plan.reason = format!("{metric} above target");
        } else if proposed < current {
            plan.reason = "All metrics below target".to_owned();
        }
        let bounds = Bounds { least, most, current };
        let limited = behavior::limit(&spec["behavior"], &mut remembered.history, bounds, proposed, self.now);
        self.set("AbleToScale", "True", limited.able.0, limited.able.1);
        self.set("ScalingLimited", if limited.is_limited { "True" } else { "False" }, limited.why.0, limited.why.1);
        plan.desired = Some(limited.replicas);
        plan
    }

    fn selector(&mut self, target: &Target, remembered: &mut Remembered) -> Option<Selector> {
        let text = target.scale["status"]["selector"].as_str().unwrap_or_default();
        if text.is_empty() {
            self.warn("SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            self.set("ScalingActive", "False", "InvalidSelector", message);
            return None;
        }
        match Selector::parse(text) {
            Ok(selector) => {
                remembered.selector = Some(selector.clone());
                Some(selector)
            }
            Err(error) => {
                let message =
                    format!("couldn't convert selector into a corresponding internal selector object: {error}");
                self.warn("InvalidSelector", &message);
                self.set("ScalingActive", "False", "InvalidSelector", &message);
                None
            }
        }
    }

    fn pods(&self, selector: &Selector) -> Vec<Object> {
        let pods = self.ctx.cache(api::resources::PODS);
        let candidates = match selector.exact() {
            Some((label, value)) => pods.with_label(label, value),
            None => pods.in_namespace(&self.key.namespace),
        };
        let ours =
            |pod: &Object| pod.key().namespace == self.key.namespace && selector.matches_pairs(&pod.index().labels);
        candidates.into_iter().filter(ours).collect()
    }

    /// The largest proposal counts. Where some metrics are silent, nothing is scaled down.
    async fn ask_all(
        &mut self,
        spec: &Value,
        target: &Target,
        selector: &Selector,
        pods: &[Object],
        current: i64,
    ) -> Plan {
        let metrics = spec["metrics"].as_array().cloned().unwrap_or_default();
        let (mut best, mut silences, mut statuses): (Option<Answer>, Vec<Silence>, Vec<Value>) = (None, vec![], vec![]);
        for metric in &metrics {
            match self.ask(metric, target, selector, pods, current).await {
                Ok(answer) => {
                    statuses.push(answer.status.clone());
                    if best.as_ref().is_none_or(|best| answer.proposal.replicas > best.proposal.replicas) {
                        best = Some(answer);
                    }
                }
                Err(silence) => {
                    self.warn(silence.reason, &silence.message);
                    statuses.push(json!({"type": ""}));
                    silences.push(silence);
                }
            }
        }
        let proposed = best.as_ref().map_or(0, |best| best.proposal.replicas);
        let mute = silences.len() >= metrics.len() || !silences.is_empty() && proposed < current;
        if let Some(first) = silences.first().filter(|_| mute) {
            let message = format!("the HPA was unable to compute the replica count: {}", first.message);
            self.set("ScalingActive", "False", first.reason, &message);
            let reason = format!(
                "invalid metrics ({} invalid out of {}), first error is: {}: {}",
                silences.len(),
                metrics.len(),
                first.about,
                first.message
            );
            return Plan { desired: None, reason, statuses };
        }
        let name = best.map(|best| best.name).unwrap_or_default();
        let message = format!("the HPA was able to successfully calculate a replica count from {name}");
        self.set("ScalingActive", "True", "ValidMetricFound", &message);
        Plan { desired: Some(proposed), reason: name, statuses }
    }

    async fn ask(
        &self,
        metric: &Value,
        target: &Target,
        selector: &Selector,
        pods: &[Object],
        current: i64,
    ) -> Result<Answer, Silence> {
        let behavior = &self.tree["spec"]["behavior"];
        let pods = Pods { pods, current, tolerance: Tolerance::of(behavior, TOLERANCE), now: self.now };
        let stated = target.scale["status"]["replicas"].as_i64().unwrap_or(0);
        let source = Source { round: self, selector, pods, stated };
        match metric["type"].as_str().unwrap_or_default() {
            "Resource" => {
                let about = format!("failed to get {} resource metric value", text(&metric["resource"]["name"]));
                source.resource(metric, "resource", "").await.map_err(silent("FailedGetResourceMetric", about))
            }
            "ContainerResource" => {
                let container = text(&metric["containerResource"]["container"]);
                let about = format!("failed to get {container} container metric value");
                let asked = source.resource(metric, "containerResource", container).await;
                asked.map_err(silent("FailedGetContainerResourceMetric", about))
            }
            "Pods" => {
                let about = "failed to get pods metric value".to_owned();
                source.pods_metric(metric).await.map_err(silent("FailedGetPodsMetric", about))
            }
            "Object" => {
                let about = "failed to get object metric value".to_owned();
                source.object(metric).await.map_err(silent("FailedGetObjectMetric", about))
            }
            "External" => {
                let about =
                    format!("failed to get {} external metric value", text(&metric["external"]["metric"]["name"]));
                source.external(metric).await.map_err(silent("FailedGetExternalMetric", about))
            }
            other => {
                let message = format!("unknown metric source type {other:?}");
                Err(Silence { reason: "InvalidMetricSourceType", about: message.clone(), message })
            }
        }
    }
}

fn silent(reason: &'static str, about: String) -> impl FnOnce(String) -> Silence {
    move |message| Silence { reason, message, about }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Where the numbers come from.
struct Source<'a> {
    round: &'a Round<'a>,
    selector: &'a Selector,
    pods: Pods<'a>,
    /// How many replicas the target says that it has.
    stated: i64,
}

impl Source<'_> {
    async fn resource(&self, metric: &Value, kind: &str, container: &str) -> Result<Answer, String> {
        let source = &metric[kind];
        let (name, target) = (text(&source["name"]), &source["target"]);
        let samples = metrics::of_resource(self.round.ctx, &self.round.key.namespace, self.selector, name, container);
        let samples = samples.await.map_err(|why| format!("unable to get metrics for resource {name}: {why}"));
        let (proposal, current, what) = match (milli(&target["averageValue"]), target["averageUtilization"].as_i64()) {
            (Some(wanted), _) => {
                let failed = |why: String| format!("failed to get {name} usage: {why}");
                let samples = samples.map_err(failed)?;
                let proposal = replicas::by_usage(&self.pods, samples, Some(name), wanted).map_err(failed)?;
                let current = json!({"averageValue": shown(name, proposal.usage)});
                (proposal, current, format!("{name} resource"))
            }
            (None, Some(percent)) => {
                let failed = |why: String| format!("failed to get {name} utilization: {why}");
                let samples = samples.map_err(failed)?;
                let proposal =
                    replicas::by_utilization(&self.pods, samples, name, container, percent).map_err(failed)?;
                let current = json!({"averageUtilization": proposal.utilization,
                    "averageValue": shown(name, proposal.usage)});
                let of = if container.is_empty() { "" } else { "container " };
                (proposal, current, format!("{name} {of}resource utilization (percentage of request)"))
            }
            (None, None) => {
                return Err(
                    "invalid resource metric source: neither an average utilization target nor an average value \
                            (usage) target was set"
                        .to_owned(),
                );
            }
        };
        let mut status = json!({"name": name, "current": current});
        if !container.is_empty() {
            status["container"] = container.into();
        }
        Ok(Answer { proposal, name: what, status: json!({"type": metric["type"], kind: status}) })
    }

    async fn pods_metric(&self, metric: &Value) -> Result<Answer, String> {
        let source = &metric["pods"];
        let name = text(&source["metric"]["name"]);
        let namespace = &self.round.key.namespace;
        let samples =
            metrics::of_pods(self.round.ctx, namespace, self.selector, name, &source["metric"]["selector"]).await;
        let samples = samples.map_err(|why| format!("unable to get metric {name}: {why}"))?;
        let wanted = milli(&source["target"]["averageValue"]).unwrap_or(0);
        let proposal = replicas::by_usage(&self.pods, samples, None, wanted)?;
        let current = json!({"averageValue": plain(proposal.usage)});
        let status = json!({"metric": source["metric"], "current": current});
        Ok(Answer { proposal, name: format!("pods metric {name}"), status: json!({"type": "Pods", "pods": status}) })
    }

    async fn object(&self, metric: &Value) -> Result<Answer, String> {
        let source = &metric["object"];
        let (name, of, target) = (text(&source["metric"]["name"]), &source["describedObject"], &source["target"]);
        let namespace = &self.round.key.namespace;
        let usage = metrics::of_object(self.round.ctx, namespace, of, name, &source["metric"]["selector"]).await;
        let (kind, object) = (text(&of["kind"]), text(&of["name"]));
        let usage =
            usage.map_err(|why| format!("unable to get metric {name}: {kind} on {namespace} {object}/{why}"))?;
        let (proposal, current) = match (text(&target["type"]), milli(&target["value"]), milli(&target["averageValue"]))
        {
            ("Value", Some(wanted), _) => {
                let proposal = replicas::by_total(&self.pods, usage, wanted)?;
                (proposal.clone(), json!({"value": plain(proposal.usage)}))
            }
            ("AverageValue", _, Some(wanted)) => {
                let proposal = replicas::per_pod(&self.pods, self.stated, usage, wanted);
                (proposal.clone(), json!({"averageValue": plain(proposal.usage)}))
            }
            _ => {
                return Err("invalid object metric source: neither a value target nor an average value target was set"
                    .to_owned());
            }
        };
        let status = json!({"describedObject": of, "metric": source["metric"], "current": current});
        let name = format!("{kind} metric {name}");
        Ok(Answer { proposal, name, status: json!({"type": "Object", "object": status}) })
    }

    async fn external(&self, metric: &Value) -> Result<Answer, String> {
        let source = &metric["external"];
        let (name, target) = (text(&source["metric"]["name"]), &source["target"]);
        let namespace = &self.round.key.namespace;
        let usage = metrics::external(self.round.ctx, namespace, name, &source["metric"]["selector"]).await;
        let usage = usage.map_err(|why| format!("unable to get external metric {namespace}/{name}: {why}"))?;
        let (proposal, current) = match (milli(&target["averageValue"]), milli(&target["value"])) {
            (Some(wanted), _) => {
                let proposal = replicas::per_pod(&self.pods, self.stated, usage, wanted);
                (proposal.clone(), json!({"averageValue": plain(proposal.usage)}))
            }
            (None, Some(wanted)) => {
                let proposal = replicas::by_total(&self.pods, usage, wanted)?;
                (proposal.clone(), json!({"value": plain(proposal.usage)}))
            }
            (None, None) => {
                return Err(
                    "invalid external metric source: neither a value target nor an average value target was set"
                        .to_owned(),
                );
            }
        };
        let status = json!({"metric": source["metric"], "current": current});
        let name = format!("external metric {name}");
        Ok(Answer { proposal, name, status: json!({"type": "External", "external": status}) })
    }
}

fn milli(value: &Value) -> Option<i64> {
    metrics::quantity(value).map(|quantity| quantity.milli_value())
}

fn plain(milli: i64) -> String {
    machinery::Quantity::from_milli(milli).to_string()
}

/// An average as the metrics API writes it: memory in powers of two.
fn shown(resource: &str, milli: i64) -> String {
    match resource {
        "memory" if milli % 1000 == 0 => {
            machinery::Quantity::from_value(milli / 1000, machinery::quantity::Format::BinarySi).to_string()
        }
        _ => plain(milli),
    }
}
