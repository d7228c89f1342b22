//! A pod's resolver settings, hosts file and host name. Pure; limits and texts are upstream's.

use std::net::IpAddr;

use api::typed::core::v1::{HostAlias, Pod, PodSpec};
use cri::v1::DnsConfig;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// The resolver settings of a pod; `host` is the node's `resolv.conf`.
pub(crate) fn config(pod: &Pod, cluster_dns: &[IpAddr], domain: &str, host: &str) -> DnsConfig {
    let Some(spec) = &pod.spec else { return DnsConfig::default() };
    let host_network = spec.host_network == Some(true);
    let host = parse(host);
    let mut config = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "ClusterFirstWithHostNet" => cluster_first(pod, cluster_dns, domain, &host),
        "ClusterFirst" if !host_network => cluster_first(pod, cluster_dns, domain, &host),
        _ => host,
    };
    let Some(own) = &spec.dns_config else { return limited(config) };
    append_new(&mut config.servers, own.nameservers.iter().flatten());
    append_new(&mut config.searches, own.searches.iter().flatten());
    for option in own.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        // The pod's own value of an option replaces the one it got.
        config.options.retain(|known| known.split(':').next() != Some(name));
        config.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
    limited(config)
}

fn cluster_first(pod: &Pod, cluster_dns: &[IpAddr], domain: &str, host: &DnsConfig) -> DnsConfig {
    if cluster_dns.is_empty() {
        return host.clone();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    append_new(&mut searches, host.searches.iter());
    DnsConfig {
        servers: cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append_new<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for entry in more {
        if !list.contains(entry) {
            list.push(entry.clone());
        }
    }
}

fn limited(mut config: DnsConfig) -> DnsConfig {
    config.servers.truncate(NAMESERVERS_MAX);
    config.searches.truncate(SEARCHES_MAX);
    config
}

fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.take(1)),
            Some("search") => config.searches = words.filter(|search| search != ".").collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

/// The pod's host name, and its fully qualified name where it has a subdomain.
pub(crate) fn host_name(pod: &Pod, node_name: &str, domain: &str) -> (String, Option<String>) {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else { return (name.to_owned(), None) };
    if let Some(own) = spec.hostname_override.as_ref().filter(|own| !own.is_empty()) {
        return (own.clone(), None);
    }
    if spec.host_network == Some(true) {
        return (node_name.to_owned(), None);
    }
    let host = spec.hostname.as_deref().filter(|host| !host.is_empty()).unwrap_or(name);
    // A host name has at most 63 characters and does not end in a separator.
    let host: String = host.chars().take(63).collect();
    let host = host.trim_end_matches(['-', '.']).to_owned();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let full = spec
        .subdomain
        .as_deref()
        .filter(|subdomain| !subdomain.is_empty())
        .map(|subdomain| format!("{host}.{subdomain}.{namespace}.svc.{domain}"));
    match full {
        Some(full) if spec.set_hostname_as_fqdn == Some(true) => (full.clone(), Some(full)),
        full => (host, full),
    }
}

/// The hosts file of a pod's containers; `host` is the node's own, for pods on the node's network.
pub(crate) fn hosts_file(
    spec: &PodSpec,
    ips: &[IpAddr],
    host_name: &str,
    full_name: Option<&str>,
    host: &str,
) -> String {
    let mut text = if spec.host_network == Some(true) {
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        let mut text =
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
                .to_owned();
        for ip in ips {
            match full_name {
                Some(full) => {
                    text.push_str(&format!("{ip}\t{full}\t{}\n", host_name.split('.').next().unwrap_or(host_name)));
                }
                None => text.push_str(&format!("{ip}\t{host_name}\n")),
            }
        }
        text
    };
    let aliases: Vec<&HostAlias> = spec.host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.iter().flatten().map(String::as_str).collect::<Vec<_>>();
            text.push_str(&format!("{}\t{}\n", alias.ip, names.join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn the_policy_chooses_the_resolver() {
        for (spec, wanted) in [
            ("", "10.43.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local lan | ndots:5"),
            (r#""hostNetwork":true,"#, "192.0.2.53 | lan | edns0"),
            (r#""dnsPolicy":"Default","#, "192.0.2.53 | lan | edns0"),
            (
                r#""dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"options":[{"name":"ndots","value":"2"}]},"#,
                "1.1.1.1 |  | ndots:2",
            ),
            (
                r#""dnsConfig":{"searches":["x"],"options":[{"name":"ndots","value":"1"}]},"#,
                "10.43.0.10 | ns.svc.cluster.local svc.cluster.local cluster.local lan x | ndots:1",
            ),
        ] {
            let pod = pod(&format!(r#"{{"metadata":{{"namespace":"ns"}},"spec":{{{spec}"containers":[]}}}}"#));
            let host = "search lan\nnameserver 192.0.2.53\noptions edns0\n";
            let config = config(&pod, &["10.43.0.10".parse().unwrap()], "cluster.local", host);
            let text = [config.servers, config.searches, config.options].map(|list| list.join(" ")).join(" | ");
            assert_eq!(text, wanted, "{spec}");
        }
    }

    #[test]
    fn host_names_and_the_hosts_file_know_the_subdomain_and_aliases() {
        let json = r#"{"metadata":{"name":"p","namespace":"ns"},"spec":{"containers":[],"hostname":"web","subdomain":"sub",
            "hostAliases":[{"ip":"10.1.1.1","hostnames":["a","b"]}]}}"#;
        let pod = pod(json);
        let (host, full) = host_name(&pod, "node", "cluster.local");
        assert_eq!((host.as_str(), full.as_deref()), ("web", Some("web.sub.ns.svc.cluster.local")));
        let file = hosts_file(pod.spec.as_ref().unwrap(), &["10.42.0.9".parse().unwrap()], &host, full.as_deref(), "");
        assert!(file.contains("10.42.0.9\tweb.sub.ns.svc.cluster.local\tweb\n"), "{file}");
        assert!(file.ends_with("# Entries added by HostAliases.\n10.1.1.1\ta\tb\n"), "{file}");
    }
}
