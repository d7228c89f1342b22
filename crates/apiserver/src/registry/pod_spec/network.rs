//! Names and addresses of a pod: DNS, host aliases, host names, host ports.

use machinery::names;

use crate::registry::at::{At, Errors};
use crate::registry::{check, ip};

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCHES_LENGTH_MAX: usize = 2048;
const HOSTNAME_LENGTH_MAX: usize = 64;

/// Checks `dnsConfig`.
pub(super) fn dns(errors: &mut Errors, spec: &At<'_>) {
    let (at, none) = (spec.at("dnsConfig"), spec.at("dnsPolicy").text() == "None");
    let (servers, searches) = (at.at("nameservers"), at.at("searches"));
    if none && !at.is_set() {
        errors.push(at.required("must provide `dnsConfig` when `dnsPolicy` is None"));
        return;
    }
    if none && servers.count() == 0 {
        errors.push(servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None"));
        return;
    }
    if servers.count() > NAMESERVERS_MAX {
        errors.push(servers.invalid(&format!("must not have more than {NAMESERVERS_MAX} nameservers")));
    }
    for server in servers.items() {
        ip::address(errors, &server);
    }
    if searches.count() > SEARCHES_MAX {
        errors.push(searches.invalid(&format!("must not have more than {SEARCHES_MAX} search paths")));
    }
    let length = searches.items().map(|path| path.text().len() + 1).sum::<usize>().saturating_sub(1);
    if length > SEARCHES_LENGTH_MAX {
        let why =
            format!("must not have more than {SEARCHES_LENGTH_MAX} characters (including spaces) in the search list");
        errors.push(searches.invalid(&why));
    }
    for path in searches.items().filter(|path| path.text() != ".") {
        let name = path.text().strip_suffix('.').unwrap_or(path.text());
        let complaints = names::dns1123_subdomain_with_underscore(name);
        errors.extend(complaints.iter().map(|why| path.invalid_as(name, why)));
    }
    for option in at.at("options").items().filter(|option| !option.at("name").has_text()) {
        errors.push(option.required("must not be empty"));
    }
}

/// Checks `hostAliases`.
pub(super) fn host_aliases(errors: &mut Errors, at: &At<'_>) {
    for alias in at.items() {
        ip::address(errors, &alias.at("ip"));
        for name in alias.at("hostnames").items() {
            check::text(errors, &name, names::dns1123_subdomain);
        }
    }
}

/// Checks `hostnameOverride`.
pub(super) fn host_name(errors: &mut Errors, spec: &At<'_>) {
    let name = spec.at("hostnameOverride");
    if !name.is_set() {
        return;
    }
    for other in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.at(other).is_true() {
            errors.push(name.forbidden(&format!("may not be specified when {other} is true")));
        }
    }
    if name.text().len() > HOSTNAME_LENGTH_MAX {
        errors.push(name.too_long(HOSTNAME_LENGTH_MAX));
    }
    check::text(errors, &name, names::dns1123_subdomain);
}

/// In the host's network a container's ports are the host's. Templates may leave them out.
pub(super) fn host_network_ports(errors: &mut Errors, spec: &At<'_>, is_pod: bool) {
    if !spec.at("hostNetwork").is_true() {
        return;
    }
    for container in spec.at("containers").items() {
        for port in container.at("ports").items() {
            let host = port.number_at("hostPort");
            let own = port.at("containerPort").number().unwrap_or(0);
            let given = host.number().unwrap_or(0);
            if (is_pod || given != 0) && given != own {
                errors.push(host.invalid("must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}
