//! What the sources need that pods and persistent volumes share, most of them of storage systems of the past.

use machinery::names;

use crate::registry::at::{At, Errors};
use crate::registry::check;

/// Name of a volume, a colon and the portal, where an initiator is named.
const ISCSI_NAME_MAX: usize = 64;
pub(crate) const ISCSI_NAME_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
     characters if iscsi.initiatorName is specified.";
const CSI_DRIVER_NAME_MAX: usize = 63;
const QUOBYTE_TENANT_MAX: usize = 64;

pub(crate) fn gce_disk(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("pdName"));
    partition(errors, &at.at("partition"));
}

pub(crate) fn aws_store(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("volumeID"));
    partition(errors, &at.at("partition"));
}

/// Upstream's text names 1 as the least, its code takes 0.
fn partition(errors: &mut Errors, at: &At<'_>) {
    if at.number().is_some_and(|partition| !(0..=255).contains(&partition)) {
        errors.push(at.invalid("must be between 1 and 255, inclusive"));
    }
}

pub(crate) fn nfs(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("server"));
    let path = at.at("path");
    check::required(errors, &path);
    if !path.text().starts_with('/') {
        errors.push(path.invalid("must be an absolute path"));
    }
}

/// Whether a volume of that name cannot have the initiator that it names.
pub(crate) fn iscsi_name_too_long(at: &At<'_>, volume: &str) -> bool {
    at.at("initiatorName").is_set() && volume.len() + 1 + at.at("targetPortal").text().len() > ISCSI_NAME_MAX
}

pub(crate) fn iscsi(errors: &mut Errors, at: &At<'_>) {
    iscsi_with(errors, at, "must be valid format starting with iqn, eui, or naa");
}

/// As [`iscsi`], in the words that upstream has for persistent volumes.
pub(crate) fn persistent_iscsi(errors: &mut Errors, at: &At<'_>, volume: &str) {
    let portal = at.at("targetPortal");
    if iscsi_name_too_long(at, volume) {
        errors.push(at.at("targetportal").invalid_as(portal.text(), ISCSI_NAME_TOO_LONG));
    }
    iscsi_with(errors, at, "must be valid format");
    if at.at("secretRef").is_set() {
        check::required(errors, &at.at("secretRef").at("name"));
    }
}

fn iscsi_with(errors: &mut Errors, at: &At<'_>, unknown: &str) {
    check::required(errors, &at.at("targetPortal"));
    let name = at.at("iqn");
    if name.has_text() {
        iscsi_name(errors, &name, unknown);
    } else {
        errors.push(name.required(""));
    }
    check::in_range(errors, &at.at("lun"), 0, 255);
    let authenticates = at.at("chapAuthDiscovery").is_true() || at.at("chapAuthSession").is_true();
    if authenticates && !at.at("secretRef").is_set() {
        errors.push(at.at("secretRef").required(""));
    }
    let initiator = at.at("initiatorName");
    if initiator.is_set() {
        iscsi_name(errors, &at.at("initiatorname").with(initiator.value()), unknown);
    }
}

fn iscsi_name(errors: &mut Errors, at: &At<'_>, unknown: &str) {
    let name = at.text();
    let word = |text: &str, length: usize| {
        text.len() == length && text.chars().next().is_some() && text.bytes().all(|c| c.is_ascii_alphanumeric())
    };
    // One character of any kind stands between the prefix and the rest.
    let rest = || name.char_indices().nth(4).map_or("", |(at, _)| &name[at..]);
    let well_formed = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => word(rest(), 16),
        Some("naa") => word(rest(), 32),
        _ => {
            errors.push(at.invalid(unknown));
            return;
        }
    };
    if !well_formed {
        errors.push(at.invalid("must be valid format"));
    }
}

/// `iqn.`year`-`month`.`authority`:`name.
fn is_iqn(name: &str) -> bool {
    let digits = |text: Option<&str>| text.is_some_and(|text| text.bytes().all(|c| c.is_ascii_digit()));
    let dated = name.get(3..4) == Some(".")
        && digits(name.get(4..8))
        && name.get(8..9) == Some("-")
        && digits(name.get(9..11))
        && name.get(11..12) == Some(".");
    let Some((authority, unique)) = name.get(12..).and_then(|rest| rest.split_once(':')).filter(|_| dated) else {
        return false;
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
    let allowed = |c: char| !matches!(c, ',' | ';' | '*' | '&' | '$' | '|') && !c.is_ascii_whitespace();
    !authority.is_empty() && authority.bytes().all(plain) && !unique.is_empty() && unique.chars().all(allowed)
}

pub(crate) fn glusterfs(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("endpoints"));
    check::required(errors, &at.at("path"));
}

pub(crate) fn flocker(errors: &mut Errors, at: &At<'_>) {
    let name = at.at("datasetName");
    match (name.has_text(), at.at("datasetUUID").has_text()) {
        (false, false) => errors.push(at.required("one of datasetName and datasetUUID is required")),
        (true, true) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(at.invalid_as("resource", why));
        }
        _ => {}
    }
    if name.text().contains('/') {
        errors.push(name.invalid("must not contain '/'"));
    }
}

pub(crate) fn rbd(errors: &mut Errors, at: &At<'_>) {
    cephfs(errors, at);
    check::required(errors, &at.at("image"));
}

pub(crate) fn cephfs(errors: &mut Errors, at: &At<'_>) {
    if at.at("monitors").count() == 0 {
        errors.push(at.at("monitors").required(""));
    }
}

pub(crate) fn cinder(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("volumeID"));
    if at.at("secretRef").is_set() {
        check::required(errors, &at.at("secretRef").at("name"));
    }
}

pub(crate) fn quobyte(errors: &mut Errors, at: &At<'_>) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.at("registry");
    if !registry.has_text() {
        errors.push(registry.required(PAIRS));
    } else if at.at("tenant").text().len() > QUOBYTE_TENANT_MAX {
        errors.push(at.at("tenant").required("must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let malformed = registry.text().split(',').filter(|pair| !is_host_and_port(pair));
        errors.extend(malformed.map(|_| registry.invalid(PAIRS)));
    }
    check::required(errors, &at.at("volume"));
}

fn is_host_and_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        Some((host, _)) if host.starts_with('[') => host.ends_with(']'),
        Some((host, _)) => !host.contains(':'),
        None => false,
    }
}

pub(crate) fn fibre_channel(errors: &mut Errors, at: &At<'_>) {
    let (names, ids) = (at.at("targetWWNs"), at.at("wwids"));
    if names.count() == 0 && ids.count() == 0 {
        errors.push(names.required("must specify either targetWWNs or wwids, but not both"));
    }
    if names.count() > 0 && ids.count() > 0 {
        errors.push(names.invalid("targetWWNs and wwids can not be specified simultaneously"));
    }
    if names.count() > 0 {
        let unit = at.at("lun");
        if unit.is_set() {
            check::in_range(errors, &unit, 0, 255);
        } else {
            errors.push(unit.required("lun is required if targetWWNs is specified"));
        }
    }
}

pub(crate) fn flex(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("driver"));
    for (key, option) in at.at("options").entries() {
        let domain = format!(".{}", key.split('/').next().unwrap_or_default().to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.push(option.invalid_as(key, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

pub(crate) fn azure_file(errors: &mut Errors, at: &At<'_>) {
    check::required(errors, &at.at("secretName"));
    check::required(errors, &at.at("shareName"));
}

pub(crate) fn azure_disk(errors: &mut Errors, at: &At<'_>) {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let (uri, kind) = (at.text_at("diskURI"), at.at("kind"));
    check::required(errors, &at.at("diskName"));
    check::required(errors, &uri);
    check::one_of(errors, &at.at("cachingMode"), &["None", "ReadOnly", "ReadWrite"]);
    check::one_of(errors, &kind, &["Dedicated", "Managed", "Shared"]);
    let managed = kind.text() == "Managed";
    if managed && !uri.text().starts_with("/subscriptions/") {
        errors.push(uri.not_supported(&[MANAGED]));
    }
    if kind.is_set() && !managed && !uri.text().starts_with("https://") {
        errors.push(uri.not_supported(&[BLOB]));
    }
}

pub(crate) fn storage_os(errors: &mut Errors, at: &At<'_>) {
    check::required_text(errors, &at.at("volumeName"), names::dns1123_label);
    check::optional_text(errors, &at.at("volumeNamespace"), names::dns1123_label);
    if at.at("secretRef").is_set() {
        check::required(errors, &at.at("secretRef").at("name"));
    }
}

pub(crate) fn scale_io(errors: &mut Errors, at: &At<'_>) {
    for field in ["gateway", "system", "volumeName"] {
        check::required(errors, &at.at(field));
    }
}

/// The name of a CSI driver, which is a DNS name in any case.
pub(crate) fn csi_driver_name(errors: &mut Errors, at: &At<'_>) {
    if !at.has_text() {
        errors.push(at.required(""));
        return;
    }
    if at.text().len() > CSI_DRIVER_NAME_MAX {
        errors.push(at.too_long(CSI_DRIVER_NAME_MAX));
    }
    let complaints = names::dns1123_subdomain(&at.text().to_lowercase());
    errors.extend(complaints.iter().map(|why| at.invalid(why)));
}
