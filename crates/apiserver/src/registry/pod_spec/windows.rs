//! What only Windows containers have.

use machinery::names;

use super::CONTAINER_LISTS;
use crate::registry::at::{At, Errors};
use crate::registry::check;

const CREDENTIAL_SPEC_BYTES_MAX: usize = 64 * 1024;
const DOMAIN_LENGTH_MAX: usize = 256;
const USER_LENGTH_MAX: usize = 104;
const NETBIOS_LENGTH_MAX: usize = 15;
const DNS_LABEL_LENGTH_MAX: usize = 63;

/// Checks `windowsOptions`.
pub(super) fn options(errors: &mut Errors, at: &At<'_>) {
    let name = at.at("gmsaCredentialSpecName");
    if name.is_set() {
        check::text(errors, &name, names::dns1123_subdomain);
    }
    let credentials = at.at("gmsaCredentialSpec");
    if credentials.is_set() && !credentials.has_text() {
        errors.push(credentials.invalid("gmsaCredentialSpec cannot be an empty string"));
    } else if credentials.text().len() > CREDENTIAL_SPEC_BYTES_MAX {
        errors.push(credentials.invalid("gmsaCredentialSpec size must be under 64 KiB"));
    }
    let user = at.at("runAsUserName");
    if user.is_set() {
        user_name(errors, &user);
    }
}

/// `USER` or `DOMAIN\USER`.
fn user_name(errors: &mut Errors, at: &At<'_>) {
    let name = at.text();
    let parts: Vec<&str> = name.split('\\').collect();
    let whole = if name.is_empty() {
        Some("runAsUserName cannot be an empty string")
    } else if name.chars().any(|c| c.is_ascii_control()) {
        Some("runAsUserName cannot contain control characters")
    } else if parts.len() > 2 {
        Some("runAsUserName cannot contain more than one backslash")
    } else {
        None
    };
    if let Some(why) = whole {
        errors.push(at.invalid(why));
        return;
    }
    let (domain, user) = if let [domain, user] = parts[..] { (Some(domain), user) } else { (None, name) };
    let domain_text = domain.unwrap_or_default();
    let checks = [
        (domain_text.len() >= DOMAIN_LENGTH_MAX, "runAsUserName's Domain length must be under 256 characters"),
        (
            domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)),
            "runAsUserName's Domain doesn't match the NetBios nor the DNS format",
        ),
        (user.is_empty(), "runAsUserName's User cannot be empty"),
        (user.len() > USER_LENGTH_MAX, "runAsUserName's User length must not be longer than 104 characters"),
        (
            !user.is_empty() && user.chars().all(|c| c == '.' || c == ' '),
            "runAsUserName's User cannot contain only periods or spaces",
        ),
        (
            user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']),
            r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#,
        ),
    ];
    errors.extend(checks.iter().filter(|(wrong, _)| *wrong).map(|(_, why)| at.invalid(why)));
}

fn is_netbios(domain: &str) -> bool {
    let length = domain.chars().count();
    let forbidden = |c: char| matches!(c, '\\' | '/' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    (1..=NETBIOS_LENGTH_MAX).contains(&length) && !domain.starts_with('.') && !domain.contains(forbidden)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=DNS_LABEL_LENGTH_MAX).contains(&bytes.len())
            && bytes.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    })
}

/// A pod with one host process container has nothing else, and is in the host's network.
pub(super) fn host_process(errors: &mut Errors, spec: &At<'_>) {
    let of = |owner: &At<'_>| owner.at("securityContext").at("windowsOptions").at("hostProcess").value().as_bool();
    let pod = of(spec);
    let (mut containers, mut host_processes) = (0, 0);
    // In the order in which upstream visits them.
    for kind in CONTAINER_LISTS {
        for container in spec.at(kind).items() {
            containers += 1;
            let own = of(&container);
            if let (Some(pod), Some(own)) = (pod, own)
                && pod != own
            {
                let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
                let context = container.at("securityContext");
                errors.push(context.at("windowsOptions").at("hostProcess").invalid_as(own, &why));
            }
            host_processes += i32::from(own.or(pod) == Some(true));
        }
    }
    if host_processes == 0 {
        return;
    }
    if host_processes != containers {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(spec.invalid_as("", why));
    }
    if !spec.at("hostNetwork").is_true() {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(spec.at("hostNetwork").invalid_as(false, why));
    }
}
