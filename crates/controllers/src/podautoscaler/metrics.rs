//! Asks the three metrics APIs: resource, custom and external metrics.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use machinery::Quantity;
use machinery::labels::Selector;
use machinery::{duration, time};
use serde_json::Value;

use crate::Ctx;

/// One pod's value, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) value: i64,
    pub(super) at: Option<Timestamp>,
    /// Over how long it was measured.
    pub(super) window: SignedDuration,
}

/// Values by the name of the pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// What metrics without a window were measured over.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);

/// Reads a quantity, which JSON may write as a number.
pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text).ok(),
        Value::Number(number) => Quantity::parse(&number.to_string()).ok(),
        _ => None,
    }
}

/// The usage of a resource by each pod, or by one of its containers.
pub(super) async fn of_resource(
    ctx: &Ctx,
    namespace: &str,
    selector: &Selector,
    resource: &str,
    container: &str,
) -> Result<Samples, String> {
    let uri = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}", encode(selector));
    let list =
        get(ctx, &uri).await.map_err(|why| format!("unable to fetch metrics from resource metrics API: {why}"))?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    let samples = items.iter().filter_map(|item| {
        let name = item["metadata"]["name"].as_str()?.to_owned();
        let containers = item["containers"].as_array()?;
        let usage = |container: &Value| quantity(&container["usage"][resource]).map(|usage| usage.milli_value());
        let value = match container {
            "" if containers.is_empty() => None,
            "" => containers.iter().map(usage).sum(),
            name => containers.iter().find(|container| container["name"] == name).and_then(usage),
        };
        let window = item["window"].as_str().and_then(|window| duration::parse(window).ok());
        let window = window.and_then(|window| SignedDuration::try_from(window).ok()).unwrap_or(WINDOW);
        Some((name, Sample { value: value?, at: timestamp(item), window }))
    });
    Ok(samples.collect())
}

/// A metric of each pod.
pub(super) async fn of_pods(
    ctx: &Ctx,
    namespace: &str,
    selector: &Selector,
    metric: &str,
    metric_selector: &Value,
) -> Result<Samples, String> {
    let mut uri = format!(
        "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{namespace}/pods/*/{metric}?labelSelector={}",
        encode(selector)
    );
    add_selector(&mut uri, "metricLabelSelector", metric_selector)?;
    let list = get(ctx, &uri).await.map_err(|why| format!("unable to fetch metrics from custom metrics API: {why}"))?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        return Err("no metrics returned from custom metrics API".to_owned());
    }
    let samples = items.iter().filter_map(|item| {
        let name = item["describedObject"]["name"].as_str()?.to_owned();
        let window = item["windowSeconds"].as_i64().map_or(WINDOW, SignedDuration::from_secs);
        Some((name, Sample { value: quantity(&item["value"])?.milli_value(), at: timestamp(item), window }))
    });
    Ok(samples.collect())
}

/// A metric of one object, in thousandths.
pub(super) async fn of_object(
    ctx: &Ctx,
    namespace: &str,
    object: &Value,
    metric: &str,
    metric_selector: &Value,
) -> Result<i64, String> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (kind, name) = (text("kind"), text("name"));
    let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
    let root = "/apis/custom.metrics.k8s.io/v1beta2";
    let mut uri = if kind == "Namespace" && group.is_empty() {
        format!("{root}/namespaces/{namespace}/metrics/{metric}?")
    } else {
        let resource = plural(ctx, text("apiVersion"), kind).await?;
        format!("{root}/namespaces/{namespace}/{resource}/{name}/{metric}?")
    };
    add_selector(&mut uri, "metricLabelSelector", metric_selector)?;
    let list = get(ctx, uri.trim_end_matches(['?', '&'])).await;
    let list = list.map_err(|why| format!("unable to fetch metrics from custom metrics API: {why}"))?;
    let value = quantity(&list["items"][0]["value"]).map(|value| value.milli_value());
    value.ok_or_else(|| {
        "unable to fetch metrics from custom metrics API: the custom metrics API server returned no value".to_owned()
    })
}

/// The sum of an external metric's values, in thousandths.
pub(super) async fn external(ctx: &Ctx, namespace: &str, metric: &str, selector: &Value) -> Result<i64, String> {
    let mut uri = format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}?");
    add_selector(&mut uri, "labelSelector", selector)?;
    let list = get(ctx, uri.trim_end_matches(['?', '&'])).await;
    let list = list.map_err(|why| format!("unable to fetch metrics from external metrics API: {why}"))?;
    let items = list["items"].as_array().cloned().unwrap_or_default();
    if items.is_empty() {
        return Err("no metrics returned from external metrics API".to_owned());
    }
    let values = items.iter().filter_map(|item| quantity(&item["value"])).map(|value| value.milli_value());
    Ok(values.fold(0, i64::saturating_add))
}

/// `deployments.apps`
async fn plural(ctx: &Ctx, api_version: &str, kind: &str) -> Result<String, String> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = match api::resources::by_kind(group, version, kind) {
        Some(resource) => resource.clone(),
        None => {
            let found = control::served::scalable(&ctx.client, group, version, kind).await;
            let found = found.map_err(|error| error.to_string())?;
            found.ok_or_else(|| format!("no matches for kind {kind:?} in version {api_version:?}"))?.0
        }
    };
    Ok(if group.is_empty() { resource.plural.to_string() } else { format!("{}.{group}", resource.plural) })
}

async fn get(ctx: &Ctx, uri: &str) -> Result<Value, String> {
    let body = ctx.client.request(Method::GET, uri, None, Bytes::new()).await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}

fn timestamp(item: &Value) -> Option<Timestamp> {
    item["timestamp"].as_str().and_then(|at| time::parse(at).ok())
}

fn add_selector(uri: &mut String, parameter: &str, selector: &Value) -> Result<(), String> {
    if selector.is_null() {
        return Ok(());
    }
    let selector = Selector::from_label_selector(selector).map_err(|error| error.to_string())?;
    if !uri.ends_with('?') {
        uri.push('&');
    }
    uri.push_str(parameter);
    uri.push('=');
    uri.push_str(&encode(&selector));
    Ok(())
}

fn encode(selector: &Selector) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
    let mut encoded = String::new();
    for c in selector.to_string().chars() {
        if plain(c) {
            encoded.push(c);
        } else {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    encoded
}
