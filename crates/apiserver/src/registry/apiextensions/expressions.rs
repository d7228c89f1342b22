//! Rules of a definition's schemas: that they can be read, that what they speak of exists, and that they cannot cost too
//! much. Paths and texts are upstream's `ValidateCustomResourceDefinitionOpenAPISchema`.
//!
//! A definition whose schema does not change is let off the limit of each rule: it may have been taken under other limits.

use machinery::cel::Declared;
use serde_json::{Value, json};

use crate::custom::schema::{Rule, has_rules};
use crate::invalid::FieldError;
use crate::registry::tree::{entries, list, text};

/// What a rule may cost in an object of the largest size.
const RULE_COST_MAX: u64 = 10_000_000;
/// What all rules of a version may cost together.
const TOTAL_COST_MAX: u64 = 100_000_000;
/// How many of the most expensive rules are named where all together cost too much.
const EXPENSIVE_MAX: usize = 4;

/// All that is wrong with the rules of a schema that is right otherwise. `unchanged` is whether it was so before.
pub(super) fn errors(schema: &Value, path: &str, unchanged: bool) -> Vec<FieldError> {
    if !has_rules(schema) {
        return Vec::new();
    }
    let Some(declared) = Declared::of_schema(schema, true) else { return Vec::new() };
    let mut run = Run { errors: Vec::new(), unchanged, total: 0, expensive: Vec::new() };
    run.place(schema, path, Here { declared: Some(&declared), count: Some(1), uncorrelatable: None });
    run.total_errors(path);
    run.errors
}

/// A place of a schema.
#[derive(Clone, Copy)]
struct Here<'a> {
    /// What it is for expressions; `None` where they do not see it.
    declared: Option<&'a Declared>,
    /// How often it can be in an object; `None` where nothing limits that.
    count: Option<u64>,
    /// The list above whose elements are not told apart.
    uncorrelatable: Option<&'a str>,
}

struct Run {
    errors: Vec<FieldError>,
    unchanged: bool,
    total: u64,
    expensive: Vec<(u64, String)>,
}

impl Run {
    fn place(&mut self, schema: &Value, path: &str, here: Here<'_>) {
        if !schema.is_object() {
            return;
        }
        let count = here.count.zip(elements_max(schema)).map(|(count, more)| count.saturating_mul(more));
        let inner = Here { declared: here.declared.and_then(Declared::inner), count, ..here };
        if schema["additionalProperties"].is_object() {
            self.place(&schema["additionalProperties"], &format!("{path}.additionalProperties"), inner);
        }
        for (name, property) in entries(&schema["properties"]) {
            let declared = here.declared.and_then(|declared| declared.field(name));
            self.place(property, &format!("{path}.properties[{name}]"), Here { declared, count, ..here });
        }
        if schema["items"].is_object() {
            let told_apart = schema["x-kubernetes-list-type"] == "map";
            let uncorrelatable = if told_apart { here.uncorrelatable } else { here.uncorrelatable.or(Some(path)) };
            self.place(&schema["items"], &format!("{path}.items"), Here { uncorrelatable, ..inner });
        }
        for (at, rule) in list(&schema["x-kubernetes-validations"]).iter().enumerate() {
            self.rule(rule, schema, &format!("{path}.x-kubernetes-validations[{at}]"), here);
        }
    }

    fn rule(&mut self, rule: &Value, schema: &Value, path: &str, here: Here<'_>) {
        // A place of its own where it is not seen from above.
        let own = if here.declared.is_none() { Declared::of_schema(schema, false) } else { None };
        let Some(declared) = here.declared.or(own.as_ref()) else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to \
                       convert structural schema to CEL declarations";
            return self.errors.push(FieldError::invalid(path, &Value::Null, why));
        };
        let compiled = Rule::compile(rule, schema, declared);
        let at = |name: &str| format!("{path}.{name}");
        let times = here.count.unwrap_or_else(|| declared.cardinality_max());
        match &compiled.program {
            None => {}
            Some(Err(why)) => self.errors.push(FieldError::invalid(at("rule"), &whole(rule), why)),
            Some(Ok(program)) => {
                self.cost("estimated rule cost", at("rule"), program.cost_max.saturating_mul(times));
                self.old_self(rule, path, here, program.uses_old());
            }
        }
        match &compiled.message_expression {
            None => {}
            Some(Err(why)) => self.errors.push(FieldError::invalid(at("messageExpression"), &whole(rule), why)),
            Some(Ok(program)) => {
                self.cost("estimated messageExpression cost", at("messageExpression"), program.cost_max);
            }
        }
    }

    fn old_self(&mut self, rule: &Value, path: &str, here: Here<'_>, used: bool) {
        if let Some(above) = here.uncorrelatable.filter(|_| used) {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {above}");
            self.errors.push(FieldError::invalid(format!("{path}.rule"), &rule["rule"], &why));
        }
        if let Some(given) = rule.get("optionalOldSelf").filter(|given| !used && !given.is_null()) {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(format!("{path}.optionalOldSelf"), given, why));
        }
    }

    fn cost(&mut self, name: &str, path: String, cost: u64) {
        if !self.unchanged && cost > RULE_COST_MAX {
            self.errors.push(FieldError::forbidden(&*path, &too_expensive(name, cost, RULE_COST_MAX)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= TOTAL_COST_MAX / 100 {
            self.expensive.push((cost, path));
        }
    }

    fn total_errors(&mut self, path: &str) {
        if self.total <= TOTAL_COST_MAX {
            return;
        }
        self.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, path) in self.expensive.drain(..).take(EXPENSIVE_MAX) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(FieldError::forbidden(path, why));
        }
        let name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        self.errors.push(FieldError::forbidden(path, &too_expensive(name, self.total, TOTAL_COST_MAX)));
    }
}

/// How many there can be of what is in a place; `None` where nothing limits it.
fn elements_max(schema: &Value) -> Option<u64> {
    let count = |name: &str| schema[name].as_i64().map(|count| count.max(0) as u64);
    match text(&schema["type"]) {
        "object" if schema["additionalProperties"].is_null() => Some(1),
        "object" => count("maxProperties"),
        "array" => count("maxItems"),
        _ => Some(1),
    }
}

fn too_expensive(name: &str, cost: u64, max: u64) -> String {
    let factor = cost as f64 / max as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{name} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// A rule as upstream shows it.
fn whole(rule: &Value) -> Value {
    json!({
        "Rule": text(&rule["rule"]), "Message": text(&rule["message"]), "MessageExpression": text(&rule["messageExpression"]),
        "Reason": rule["reason"], "FieldPath": text(&rule["fieldPath"]), "OptionalOldSelf": rule["optionalOldSelf"],
    })
}
