//! Priority levels.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{conditions, mandatory};
use crate::flow::defaults;
use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::tree::{child, is_set, present, remove, set};
use crate::registry::{ALL_BUT_STATUS, Context, Descriptor, Strategy, check};

pub(super) const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::PRIORITY_LEVEL_CONFIGURATIONS, strategy: |_| Arc::new(LevelStrategy) };

const SHARES: i64 = 30;
const HAND_SIZE: i64 = 8;
const QUEUES: i64 = 64;
const QUEUE_LENGTH: i64 = 50;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a flow's hash by which its queues are drawn: more draws than these would not be even.
const HASH_BITS_MAX: i64 = 60;
/// How an older version of this API kept apart 0 and absent.
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

struct LevelStrategy;

fn default(level: &mut Value) {
    let Some(spec) = child(level, "spec") else { return };
    let unset = |value: &mut Value, field: &str, default: i64| {
        if !is_set(value, field) {
            set(value, field, default);
        }
    };
    if let Some(exempt) = present(spec, "exempt") {
        unset(exempt, "nominalConcurrencyShares", 0);
        unset(exempt, "lendablePercent", 0);
    }
    let Some(limited) = present(spec, "limited") else { return };
    unset(limited, "nominalConcurrencyShares", SHARES);
    unset(limited, "lendablePercent", 0);
    if let Some(queuing) = child(limited, "limitResponse").and_then(|response| present(response, "queuing")) {
        for (field, default) in [("queues", QUEUES), ("handSize", HAND_SIZE), ("queueLengthLimit", QUEUE_LENGTH)] {
            if queuing[field] == 0 {
                remove(queuing, field);
            }
            unset(queuing, field, default);
        }
    }
}

impl Strategy for LevelStrategy {
    fn default(&self, level: &mut Value) {
        default(level);
    }

    fn prepare_for_create(&self, _: &Context<'_>, level: &mut Value) {
        set(level, "status", json!({}));
    }

    fn validate(&self, _: &Context<'_>, level: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(level, "");
        let (metadata, spec) = (root.at("metadata"), root.at("spec"));
        let (name, annotations) = (metadata.at("name").text(), metadata.at("annotations"));
        if annotations.at(PRESERVE_ZERO).is_set() {
            errors.push(annotations.forbidden(&format!("annotation '{PRESERVE_ZERO}' is forbidden")));
        }
        validate_spec(&mut errors, name, &spec);
        if let Some(fixed) = mandatory(defaults::levels(), name, default) {
            validate_mandatory(&mut errors, name, &spec, &fixed);
        }
        conditions(&mut errors, &root.at("status"));
        errors
    }

    fn validate_subresource_update(&self, _: &Context<'_>, _: &str, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        conditions(&mut errors, &At::new(&new["status"], "status"));
        errors
    }

    /// Metadata is written with the object itself only.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        if subresource.is_empty() { &[&["status"]] } else { ALL_BUT_STATUS }
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Of `exempt` an administrator may change how much of it is lent; of `catch-all` nothing.
fn validate_mandatory(errors: &mut Errors, name: &str, spec: &At<'_>, fixed: &Value) {
    let without = |spec: &Value| {
        let mut spec = spec.clone();
        if name == "exempt" {
            remove(&mut spec, "exempt");
        }
        spec
    };
    if without(spec.value()) != without(fixed) {
        let but = if name == "exempt" { " except the 'spec.exempt' field" } else { "" };
        errors.push(spec.invalid(&format!("spec of '{name}'{but} must equal the fixed value")));
    }
}

fn validate_spec(errors: &mut Errors, name: &str, spec: &At<'_>) {
    let (kind, exempt, limited) = (spec.text_at("type"), spec.at("exempt"), spec.at("limited"));
    if (name == "exempt") != (kind.text() == "Exempt") {
        errors.push(kind.invalid("must be 'Exempt' if and only if `name` is 'exempt'"));
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                errors.push(limited.forbidden("must be nil if the type is not Limited"));
            }
            shares(errors, &exempt);
            check::in_range(errors, &exempt.at("lendablePercent"), 0, 100);
        }
        "Limited" => {
            if exempt.is_set() {
                errors.push(exempt.forbidden("must be nil if the type is Limited"));
            }
            if limited.is_set() {
                validate_limited(errors, &limited);
            } else {
                errors.push(limited.required("must not be empty when type is Limited"));
            }
        }
        _ => errors.push(kind.not_supported(&["Exempt", "Limited"])),
    }
}

fn shares(errors: &mut Errors, at: &At<'_>) {
    let shares = at.at("nominalConcurrencyShares");
    if shares.number().is_some_and(|number| number < 0) {
        errors.push(shares.invalid("must be a non-negative integer"));
    }
}

fn validate_limited(errors: &mut Errors, limited: &At<'_>) {
    shares(errors, limited);
    let response = limited.at("limitResponse");
    let (kind, queuing) = (response.text_at("type"), response.at("queuing"));
    match (kind.text(), queuing.is_set()) {
        ("Reject", true) => {
            errors.push(queuing.forbidden("must be nil if limited.limitResponse.type is not Limited"));
        }
        ("Queue", false) => {
            errors.push(queuing.required("must not be empty if limited.limitResponse.type is Limited"));
        }
        ("Queue", true) => validate_queuing(errors, &queuing),
        ("Reject", false) => {}
        _ => errors.push(kind.not_supported(&["Queue", "Reject"])),
    }
    check::in_range(errors, &limited.at("lendablePercent"), 0, 100);
    let borrowed = limited.at("borrowingLimitPercent");
    if borrowed.number().is_some_and(|percent| percent < 0) {
        errors.push(borrowed.invalid("if specified, must be a non-negative integer"));
    }
}

fn validate_queuing(errors: &mut Errors, at: &At<'_>) {
    let [length, queues, hand] = ["queueLengthLimit", "queues", "handSize"].map(|field| at.number_at(field));
    let number = |at: &At<'_>| at.number().unwrap_or(0);
    if number(&length) <= 0 {
        errors.push(length.invalid("must be positive"));
    }
    if number(&queues) <= 0 {
        errors.push(queues.invalid("must be positive"));
    } else if number(&queues) > QUEUES_MAX {
        errors.push(queues.invalid(&format!("must not be greater than {QUEUES_MAX}")));
    }
    let (deck, dealt) = (number(&queues), number(&hand));
    if dealt <= 0 {
        errors.push(hand.invalid("must be positive"));
    } else if dealt > deck {
        errors.push(hand.invalid(&format!("should not be greater than queues ({deck})")));
    } else if !fits_hash(deck, dealt) {
        let why = format!(
            "required entropy bits of deckSize {deck} and handSize {dealt} should not be greater than {HASH_BITS_MAX}"
        );
        errors.push(hand.invalid(&why));
    }
}

/// Whether `dealt` draws from `deck` queues need no more bits than a hash has: log2(deck) * dealt, rounded up.
fn fits_hash(deck: i64, dealt: i64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "both are numbers of 32 bits")]
    let bits = (deck as f64).log2() * dealt as f64;
    #[expect(clippy::cast_precision_loss, reason = "60")]
    let max = HASH_BITS_MAX as f64;
    bits.ceil() <= max
}
