//! Ingresses.

use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{list, set, text};
use crate::registry::{Context, Descriptor, Strategy, check, ip};

/// The strategy's line in the list.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::INGRESSES, strategy: |_| Arc::new(IngressStrategy) };

/// Where the class was named before it had a field.
const CLASS: &str = "kubernetes.io/ingress.class";

struct IngressStrategy;

impl Strategy for IngressStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, ingress: &mut Value) {
        set(ingress, "status", json!({"loadBalancer": {}}));
    }

    fn validate(&self, context: &Context<'_>, ingress: &Value) -> Vec<FieldError> {
        let mut errors = self.validate_update(context, ingress, &Value::Null);
        let root = At::new(ingress, "");
        let (annotation, class) = (&ingress["metadata"]["annotations"][CLASS], &ingress["spec"]["ingressClassName"]);
        if annotation.is_string() && class.is_string() && annotation != class {
            let why = "must match `ingressClassName` when both are specified";
            errors.push(root.at("annotations").at(CLASS).invalid_as(annotation.clone(), why));
        }
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(new, "");
        let spec = root.at("spec");
        let (backend, rules) = (spec.at("defaultBackend"), spec.at("rules"));
        if !backend.is_set() && rules.count() == 0 {
            let shown = if rules.is_set() { json!([]) } else { Value::Null };
            errors.push(spec.invalid_as(shown, "either `defaultBackend` or `rules` must be specified"));
        }
        if backend.is_set() {
            validate_backend(&mut errors, &backend);
        }
        rules.items().for_each(|rule| validate_rule(&mut errors, &rule));
        for tls in spec.at("tls").items() {
            tls.at("hosts").items().for_each(|host| validate_host(&mut errors, &host));
            check::optional_text(&mut errors, &tls.at("secretName"), names::dns1123_subdomain);
        }
        if spec.at("ingressClassName").is_set() {
            check::text(&mut errors, &spec.at("ingressClassName"), names::dns1123_subdomain);
        }
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let kept: Vec<&str> =
            list(&old["status"]["loadBalancer"]["ingress"]).iter().map(|ingress| text(&ingress["ip"])).collect();
        let root = At::new(new, "");
        let status = root.at("status");
        let balancer = status.at("loadBalancer");
        for ingress in balancer.at("ingress").items() {
            let (address, host) = (ingress.at("ip"), ingress.at("hostname"));
            if address.has_text() {
                ip::address_or_kept(&mut errors, &address, &kept);
            }
            if host.has_text() {
                check::text(&mut errors, &host, names::dns1123_subdomain);
                not_an_address(&mut errors, &host);
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allows_create_on_update(&self) -> bool {
        false
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let annotated = !new["metadata"]["annotations"][CLASS].is_null() && old.is_none();
        let warning = format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead");
        if annotated { vec![warning] } else { Vec::new() }
    }
}

fn validate_host(errors: &mut Errors, at: &At<'_>) {
    let wild = at.text().contains('*');
    check::text(errors, at, if wild { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain });
}

fn not_an_address(errors: &mut Errors, at: &At<'_>) {
    if ip::parse_sloppily(at.text()).is_some() {
        errors.push(at.invalid("must be a DNS name, not an IP address"));
    }
}

fn validate_rule(errors: &mut Errors, rule: &At<'_>) {
    let (host, http) = (rule.at("host"), rule.at("http"));
    if host.has_text() {
        not_an_address(errors, &host);
        validate_host(errors, &host);
    }
    let paths = http.at("paths");
    if http.is_set() && paths.count() == 0 {
        errors.push(paths.required(""));
    }
    paths.items().for_each(|path| validate_path(errors, &path));
}

fn validate_path(errors: &mut Errors, at: &At<'_>) {
    let (kind, path) = (at.at("pathType"), at.text_at("path"));
    if !kind.is_set() {
        errors.push(kind.required("pathType must be specified"));
        return;
    }
    check::one_of(errors, &kind, &["Exact", "ImplementationSpecific", "Prefix"]);
    let strict = matches!(kind.text(), "Exact" | "Prefix");
    let loose = kind.text() == "ImplementationSpecific" && path.has_text();
    if (strict || loose) && !path.text().starts_with('/') {
        errors.push(path.invalid("must be an absolute path"));
    }
    if strict {
        for sequence in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|sequence| path.text().contains(**sequence)) {
            errors.push(path.invalid(&format!("must not contain '{sequence}'")));
        }
        for end in ["/..", "/."].iter().filter(|end| path.text().ends_with(**end)) {
            errors.push(path.invalid(&format!("cannot end with '{end}'")));
        }
    }
    validate_backend(errors, &at.at("backend"));
}

fn validate_backend(errors: &mut Errors, at: &At<'_>) {
    let (service, resource) = (at.at("service"), at.at("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => errors.push(at.invalid_as("", "cannot set both resource and service backends")),
        (false, true) => object_reference(errors, &resource),
        (false, false) => errors.push(at.invalid_as("", "resource or service backend is required")),
        (true, false) => {
            check::required_text(errors, &service.at("name"), names::dns1123_label);
            let port = service.at("port");
            let (name, number) = (port.at("name"), port.at("number"));
            match (name.has_text(), number.number().unwrap_or(0) != 0) {
                (true, true) => errors.push(at.invalid_as("", "cannot set both port name & port number")),
                (true, false) => check::text(errors, &name, names::port_name),
                (false, true) => check::port_number(errors, &number),
                (false, false) => errors.push(at.required("port name or number is required")),
            }
        }
    }
}

/// A reference to an object of any kind, in the same namespace.
pub(super) fn object_reference(errors: &mut Errors, at: &At<'_>) {
    if at.at("apiGroup").is_set() {
        check::text(errors, &at.at("apiGroup"), names::dns1123_subdomain);
    }
    check::required_text(errors, &at.at("kind"), names::path_segment);
    check::required_text(errors, &at.at("name"), names::path_segment);
}
