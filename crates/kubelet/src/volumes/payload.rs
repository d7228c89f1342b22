//! Which files a volume of configuration holds: config maps, secrets, downward API, tokens, and projections of them. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use api::typed::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume, VolumeProjection};

use super::atomic::{File, Payload};
use crate::environment::{self, Lookup};
use crate::resources::{self, Capacity};

/// Why a volume's files cannot be made as things stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PayloadError(pub(crate) String);

/// A token that a volume asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenClaim {
    pub(crate) audience: String,
    pub(crate) expiration_seconds: i64,
}

/// What files are made from.
pub(crate) struct Sources<'a> {
    pub(crate) lookup: &'a dyn Lookup,
    pub(crate) tokens: &'a BTreeMap<TokenClaim, String>,
    pub(crate) pod_ips: &'a [IpAddr],
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) capacity: Capacity,
}

const MODE_DEFAULT: i32 = 0o644;
const TOKEN_SECONDS_DEFAULT: i64 = 3600;

/// The tokens that a pod's volumes ask for.
pub(crate) fn token_claims(pod: &Pod) -> Vec<TokenClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources =
        volumes.filter_map(|volume| volume.projected.as_ref()).flat_map(|projected| projected.sources.iter().flatten());
    sources.filter_map(claim).collect()
}

fn claim(source: &VolumeProjection) -> Option<TokenClaim> {
    let token = source.service_account_token.as_ref()?;
    Some(TokenClaim {
        audience: token.audience.clone().unwrap_or_default(),
        expiration_seconds: token.expiration_seconds.unwrap_or(TOKEN_SECONDS_DEFAULT),
    })
}

/// The config maps and secrets that a pod's volumes name.
pub(crate) fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    (maps, secrets)
}

/// The files of a volume; `None` where it is not made of configuration.
pub(crate) fn files(pod: &Pod, volume: &Volume, sources: &Sources<'_>) -> Option<Result<Payload, PayloadError>> {
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        return Some(config_map(&source.name, source.items.as_deref(), source.optional, mode, sources));
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        let name = source.secret_name.as_deref().unwrap_or_default();
        return Some(secret(name, source.items.as_deref(), source.optional, mode, sources));
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        return Some(downward(pod, source.items.as_deref(), mode, sources));
    }
    let projected = volume.projected.as_ref()?;
    let mode = projected.default_mode.unwrap_or(MODE_DEFAULT);
    let mut payload = Payload::new();
    for source in projected.sources.iter().flatten() {
        match projection(pod, source, mode, sources) {
            Ok(files) => payload.extend(files),
            Err(error) => return Some(Err(error)),
        }
    }
    Some(Ok(payload))
}

fn projection(pod: &Pod, source: &VolumeProjection, mode: i32, sources: &Sources<'_>) -> Result<Payload, PayloadError> {
    if let Some(source) = &source.config_map {
        return config_map(&source.name, source.items.as_deref(), source.optional, mode, sources);
    }
    if let Some(source) = &source.secret {
        return secret(&source.name, source.items.as_deref(), source.optional, mode, sources);
    }
    if let Some(source) = &source.downward_api {
        return downward(pod, source.items.as_deref(), mode, sources);
    }
    if let (Some(claim), Some(projection)) = (claim(source), &source.service_account_token) {
        let token = sources.tokens.get(&claim).ok_or_else(|| PayloadError("token is not available yet".to_owned()))?;
        let owner = only_user(pod);
        // A token is for the pod's own user alone, where the pod says who that is.
        let group =
            pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|context| context.fs_group);
        let mode = if owner.is_some() || group.is_some() { 0o600 } else { mode };
        return Ok([(projection.path.clone(), file(token.as_bytes().to_vec(), mode, owner))].into());
    }
    Err(PayloadError("unsupported volume projection".to_owned()))
}

/// The user of all containers, if it is one.
fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.as_ref()?.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = crate::identity::containers(pod)
        .map(|(_, container)| container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn file(data: Vec<u8>, mode: i32, owner: Option<u32>) -> File {
    File { data, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, owner }
}

fn config_map(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    sources: &Sources<'_>,
) -> Result<Payload, PayloadError> {
    let data = match sources.lookup.config_map(name) {
        Some(map) => {
            let text = map.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
            text.chain(map.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect()
        }
        None if optional == Some(true) => BTreeMap::new(),
        None => return Err(PayloadError(format!("configmap \"{name}\" not found"))),
    };
    keys(data, items, optional, mode)
}

fn secret(
    name: &str,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
    sources: &Sources<'_>,
) -> Result<Payload, PayloadError> {
    let data = match sources.lookup.secret(name) {
        Some(secret) => secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect(),
        None if optional == Some(true) => BTreeMap::new(),
        None => return Err(PayloadError(format!("secret \"{name}\" not found"))),
    };
    keys(data, items, optional, mode)
}

fn keys(
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: Option<bool>,
    mode: i32,
) -> Result<Payload, PayloadError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, value)| (key, file(value, mode, None))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.get_mut(&item.key) {
            Some(value) => {
                payload.insert(item.path.clone(), file(value.clone(), item.mode.unwrap_or(mode), None));
            }
            None if optional == Some(true) => {}
            None => return Err(PayloadError(format!("references non-existent config key: {}", item.key))),
        }
    }
    Ok(payload)
}

fn downward(
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: i32,
    sources: &Sources<'_>,
) -> Result<Payload, PayloadError> {
    let mut payload = Payload::new();
    for item in items.unwrap_or_default() {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => environment::pod_field(pod, &selector.field_path, sources.pod_ips, sources.host_ips),
            (None, Some(selector)) => resources::field(pod, None, selector, sources.capacity),
            (None, None) => None,
        };
        let value =
            value.ok_or_else(|| PayloadError(format!("unsupported downward API field of file {}", item.path)))?;
        payload.insert(item.path.clone(), file(value.into_bytes(), item.mode.unwrap_or(mode), None));
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use api::Typed;
    use api::typed::core::v1::{ConfigMap, Secret};

    use super::*;
    use crate::testing::pod;

    struct Objects;

    impl Lookup for Objects {
        fn config_map(&self, name: &str) -> Option<ConfigMap> {
            let json = br#"{"metadata":{"name":"ca"},"data":{"ca.crt":"CA","other":"x"}}"#;
            (name == "ca").then(|| ConfigMap::decode(json).unwrap())
        }
        fn secret(&self, _: &str) -> Option<Secret> {
            None
        }
    }

    fn check(spec_rest: &str, volume: &str) -> String {
        let json = format!(
            r#"{{"metadata":{{"namespace":"ns","labels":{{"a":"b","c":"d"}}}},"spec":{{{spec_rest}"containers":[{{"name":"c"}}],"volumes":[{volume}]}}}}"#
        );
        let pod = pod(&json);
        let tokens = token_claims(&pod).into_iter().map(|claim| (claim, "TOKEN".to_owned())).collect();
        let sources =
            Sources { lookup: &Objects, tokens: &tokens, pod_ips: &[], host_ips: &[], capacity: Capacity::default() };
        match files(&pod, &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0], &sources) {
            Some(Ok(files)) => {
                let text = files
                    .iter()
                    .map(|(path, file)| format!("{path}={}:{:o}", String::from_utf8_lossy(&file.data), file.mode));
                text.collect::<Vec<_>>().join(" ")
            }
            Some(Err(error)) => error.to_string(),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn files_come_from_what_the_volume_names() {
        let token = r#"{"name":"t","projected":{"sources":[{"serviceAccountToken":{"path":"token"}},
            {"configMap":{"name":"ca","items":[{"key":"ca.crt","path":"ca.crt"}]}},
            {"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"fieldPath":"metadata.namespace"}}]}}]}}"#;
        for (spec, volume, wanted) in [
            ("", r#"{"name":"v","configMap":{"name":"ca","defaultMode":256}}"#, "ca.crt=CA:400 other=x:400"),
            (
                "",
                r#"{"name":"v","configMap":{"name":"ca","items":[{"key":"other","path":"d/o","mode":511}]}}"#,
                "d/o=x:777",
            ),
            (
                "",
                r#"{"name":"v","configMap":{"name":"ca","items":[{"key":"no","path":"p"}]}}"#,
                "references non-existent config key: no",
            ),
            ("", r#"{"name":"v","configMap":{"name":"none"}}"#, "configmap \"none\" not found"),
            ("", r#"{"name":"v","secret":{"secretName":"none","optional":true}}"#, ""),
            ("", token, "ca.crt=CA:644 namespace=ns:644 token=TOKEN:644"),
            (r#""securityContext":{"runAsUser":7},"#, token, "ca.crt=CA:644 namespace=ns:644 token=TOKEN:600"),
            (
                "",
                r#"{"name":"v","downwardAPI":{"items":[{"path":"l","fieldRef":{"fieldPath":"metadata.labels"}}]}}"#,
                "l=a=\"b\"\nc=\"d\":644",
            ),
            ("", r#"{"name":"v","emptyDir":{}}"#, "none"),
        ] {
            assert_eq!(check(spec, volume), wanted, "{volume}");
        }
    }
}
