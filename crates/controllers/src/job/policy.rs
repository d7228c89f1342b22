//! A Job's `podFailurePolicy` and `successPolicy`. Pure.

use serde_json::Value;

use super::indexes::Indexes;

/// What a pod's failure means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// One failure more.
    Count,
    /// None.
    Ignore,
    /// One failure more, and the last of its index.
    FailIndex,
    /// The end of the Job, and why.
    FailJob(String),
}

/// What the first rule that a failed pod matches says. Without one, every failure counts.
pub(super) fn verdict(policy: &Value, pod: &Value) -> Verdict {
    for (at, rule) in policy["rules"].as_array().into_iter().flatten().enumerate() {
        let matched = if rule["onExitCodes"].is_object() {
            container_that_ended(&rule["onExitCodes"], pod)
        } else {
            condition_that_holds(&rule["onPodConditions"], pod)
        };
        let Some(what) = matched else { continue };
        return match rule["action"].as_str().unwrap_or_default() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {at}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn name_of(pod: &Value) -> String {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text("namespace"), text("name"))
}

fn container_that_ended(rule: &Value, pod: &Value) -> Option<String> {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|field| pod["status"][field].as_array());
    let mut statuses = lists.into_iter().flatten().flatten();
    let (status, code) = statuses.find_map(|status| {
        let code = status["state"]["terminated"]["exitCode"].as_i64().filter(|code| *code != 0)?;
        let named = rule["containerName"].as_str().is_none_or(|name| status["name"] == name);
        let listed = rule["values"].as_array().is_some_and(|values| values.iter().any(|value| *value == code));
        let matches = match rule["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            _ => false,
        };
        (named && matches).then_some((status, code))
    })?;
    let name = status["name"].as_str().unwrap_or_default();
    Some(format!("Container {name} for pod {} failed with exit code {code}", name_of(pod)))
}

fn condition_that_holds(patterns: &Value, pod: &Value) -> Option<String> {
    let patterns = patterns.as_array()?;
    let condition = pod["status"]["conditions"].as_array()?.iter().find(|condition| {
        let same = |pattern: &Value, field: &str| pattern[field] == condition[field];
        patterns.iter().any(|pattern| same(pattern, "type") && same(pattern, "status"))
    })?;
    Some(format!("Pod {} has condition {}", name_of(pod), condition["type"].as_str().unwrap_or_default()))
}

/// Which rule of a success policy is met, in words.
pub(super) fn success(policy: &Value, completions: i64, succeeded: &Indexes) -> Option<String> {
    let met = |rule: &Value| {
        let count = rule["succeededCount"].as_i64();
        let Some(text) = rule["succeededIndexes"].as_str() else {
            return count.is_some_and(|count| succeeded.count() >= count);
        };
        let wanted = Indexes::parse(text, completions);
        let common = wanted.count_common(succeeded);
        wanted.count() > 0 && (common == wanted.count() || count.is_some_and(|count| common >= count))
    };
    if succeeded.count() == 0 {
        return None;
    }
    let at = policy["rules"].as_array()?.iter().position(met)?;
    Some(format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_matching_rule_decides() {
        let policy = json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 2]}},
        ]});
        let ended = |container: &str, code: i64| {
            json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"containerStatuses":
                [{"name": container, "state": {"terminated": {"exitCode": code}}}]}})
        };
        let why = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 1";
        let disrupted = json!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True"}]}});
        let table = [
            (disrupted, Verdict::Ignore),
            (ended("main", 42), Verdict::FailJob(why.to_owned())),
            (ended("side", 42), Verdict::FailIndex),
            (ended("main", 1), Verdict::Count),
            (ended("main", 0), Verdict::Count),
        ];
        for (pod, meant) in table {
            assert_eq!(verdict(&policy, &pod), meant, "{pod}");
        }
        assert_eq!(verdict(&Value::Null, &ended("main", 42)), Verdict::Count);
    }

    #[test]
    fn a_job_may_succeed_before_all_its_indexes() {
        let policy = json!({"rules": [{"succeededIndexes": "0,3-4", "succeededCount": 2}, {"succeededCount": 4}]});
        let check = |succeeded: &str| success(&policy, 9, &Indexes::parse(succeeded, 9));
        assert_eq!(check(""), None);
        assert_eq!(check("1,2,5"), None);
        assert_eq!(check("0,3").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(check("1,2,5,6").as_deref(), Some("Matched rules at index 1"));
    }
}
