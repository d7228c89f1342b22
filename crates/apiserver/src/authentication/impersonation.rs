//! Impersonation: a user who may acts as another, with that one's rights and no others.
//!
//! The other's name, each group, the uid and each extra field are asked about one by one. Public behaviour: the Kubernetes
//! documentation's "User impersonation".

use std::collections::BTreeMap;

use api::{ApiError, Reason};
use http::HeaderMap;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};
use crate::authorization::Attributes;
use crate::request::query::percent_decode;

const EXTRA: &str = "impersonate-extra-";
const GROUP: &str = "authentication.k8s.io";

/// Whom a request wants to act as, and what must be allowed for that.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Impersonation {
    /// The other.
    pub(crate) user: UserInfo,
    /// All must be allowed.
    pub(crate) needs: Vec<Attributes>,
}

impl Impersonation {
    /// Reads the headers; `None` where there are none for it.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
        };
        let name = values("impersonate-user").into_iter().next().unwrap_or_default();
        let (groups, uid) =
            (values("impersonate-group"), values("impersonate-uid").into_iter().next().unwrap_or_default());
        let extra = extra(headers);
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extra.is_empty() {
                return Ok(None);
            }
            let message =
                "Internal error occurred: requested impersonation of groups, uid or extra without impersonating a user";
            return Err(ApiError::new(Reason::InternalError, message));
        }
        let mut needs = Vec::new();
        let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        needs.push(match account {
            Some((namespace, account)) => need("", "serviceaccounts", "", namespace, account),
            None => need("", "users", "", "", &name),
        });
        needs.extend(groups.iter().map(|group| need("", "groups", "", "", group)));
        for (key, values) in &extra {
            needs.extend(values.iter().map(|value| need(GROUP, "userextras", key, "", value)));
        }
        if !uid.is_empty() {
            needs.push(need(GROUP, "uids", "", "", &uid));
        }
        let groups = match account {
            Some((namespace, account)) if groups.is_empty() => UserInfo::service_account(namespace, account).groups,
            _ => with_class(&name, groups),
        };
        Ok(Some(Self { user: UserInfo { name, uid, groups, extra }, needs }))
    }
}

/// Everybody is either authenticated or not: the group that says so comes along.
fn with_class(name: &str, mut groups: Vec<String>) -> Vec<String> {
    let classed = groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED);
    if name == ANONYMOUS {
        if !groups.iter().any(|group| group == UNAUTHENTICATED) {
            groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !classed {
        groups.push(AUTHENTICATED.to_owned());
    }
    groups
}

/// The fields of `Impersonate-Extra-KEY`, whose keys are percent-encoded where a header's name cannot hold them.
fn extra(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(percent_decode(key).to_lowercase()).or_default().push(value.to_owned());
        }
    }
    extra
}

fn need(group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
    Attributes {
        verb: "impersonate".to_owned(),
        group: group.to_owned(),
        version: "v1".to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[(&str, &str)]) -> Result<Option<Impersonation>, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        Impersonation::read(&headers)
    }

    #[test]
    fn every_part_of_the_other_is_asked_about() {
        let other = read(&[
            ("Impersonate-User", "eve"),
            ("Impersonate-Group", "devs"),
            ("Impersonate-Uid", "7"),
            ("Impersonate-Extra-Acme.com%2Fproject", "x"),
            ("Impersonate-Extra-Acme.com%2Fproject", "y"),
        ])
        .unwrap()
        .unwrap();
        let needs: Vec<String> = other
            .needs
            .iter()
            .map(|need| format!("{}/{}/{} {}", need.group, need.resource, need.subresource, need.name))
            .collect();
        assert_eq!(
            needs,
            [
                "/users/ eve",
                "/groups/ devs",
                "authentication.k8s.io/userextras/acme.com/project x",
                "authentication.k8s.io/userextras/acme.com/project y",
                "authentication.k8s.io/uids/ 7",
            ]
        );
        assert_eq!((&*other.user.uid, other.user.groups), ("7", vec!["devs".to_owned(), AUTHENTICATED.to_owned()]));
        assert_eq!(other.user.extra["acme.com/project"], ["x", "y"]);
    }

    #[test]
    fn groups_fit_the_user() {
        let groups = |given: &[(&str, &str)]| read(given).unwrap().unwrap().user.groups.join(" ");
        let user = |name| ("Impersonate-User", name);
        let group = |name| ("Impersonate-Group", name);
        assert_eq!(groups(&[user("eve")]), "system:authenticated");
        assert_eq!(groups(&[user("system:anonymous")]), "system:unauthenticated");
        assert_eq!(groups(&[user("eve"), group("system:unauthenticated")]), "system:unauthenticated");
        assert_eq!(
            groups(&[user("system:serviceaccount:a:b")]),
            "system:serviceaccounts system:serviceaccounts:a system:authenticated"
        );
        assert_eq!(groups(&[user("system:serviceaccount:a:b"), group("x")]), "x system:authenticated");
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[group("x")]).unwrap_err().code, 500);
    }
}
