//! Volume attachments.

use std::sync::Arc;

use machinery::names;
use serde_json::{Value, json};

use crate::invalid::FieldError;
use crate::registry::at::{At, Errors};
use crate::registry::core::persistent_volume;
use crate::registry::pod_spec::volume_sources::csi_driver_name;
use crate::registry::tree::{present, set};
use crate::registry::{ALL_BUT_STATUS, Context, Descriptor, Strategy, check, pod_spec};

/// Volume attachments.
pub const DESCRIPTOR: Descriptor =
    Descriptor { resource: api::resources::VOLUME_ATTACHMENTS, strategy: |_| Arc::new(AttachmentStrategy) };

const METADATA_BYTES_MAX: usize = 256 * 1024;
const MESSAGE_BYTES_MAX: usize = 1024;

struct AttachmentStrategy;

impl Strategy for AttachmentStrategy {
    fn default(&self, attachment: &mut Value) {
        let source = present(attachment, "spec").and_then(|spec| present(spec, "source"));
        if let Some(volume) = source.and_then(|source| present(source, "inlineVolumeSpec")) {
            pod_spec::default_sources_of_storage(volume);
        }
    }

    fn prepare_for_create(&self, _: &Context<'_>, attachment: &mut Value) {
        set(attachment, "status", json!({"attached": false}));
    }

    fn validate(&self, _: &Context<'_>, attachment: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let root = At::new(attachment, "");
        let (spec, status) = (root.at("spec"), root.at("status"));
        csi_driver_name(&mut errors, &spec.at("attacher"));
        validate_source(&mut errors, &root, &spec.at("source"));
        check::text(&mut errors, &spec.text_at("nodeName"), names::dns1123_subdomain);
        let metadata = status.at("attachmentMetadata");
        if metadata.entries().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > METADATA_BYTES_MAX {
            errors.push(metadata.too_long(METADATA_BYTES_MAX));
        }
        for field in ["attachError", "detachError"] {
            let error = status.at(field);
            if error.at("message").text().len() > MESSAGE_BYTES_MAX {
                // Upstream names the bound of something else here.
                errors.push(error.at("message").too_long(METADATA_BYTES_MAX));
            }
            check::in_range(&mut errors, &error.at("errorCode"), 0, i64::from(i32::MAX));
        }
        errors
    }

    fn validate_update(&self, context: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(context, new);
        check::immutable(&mut errors, &At::new(new, "").at("spec"), &old["spec"]);
        errors
    }

    /// Metadata is written with the object itself only.
    fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        if subresource.is_empty() { &[&["status"]] } else { ALL_BUT_STATUS }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_source(errors: &mut Errors, root: &At<'_>, at: &At<'_>) {
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    let (inline, volume) = (at.at("inlineVolumeSpec"), at.at("persistentVolumeName"));
    match (inline.is_set(), volume.is_set()) {
        (false, false) => errors.push(at.required(ONE)),
        (true, true) => errors.push(at.forbidden(ONE)),
        (false, true) if !volume.has_text() => {
            errors.push(volume.required("must specify non empty persistentVolumeName"));
        }
        (true, false) => persistent_volume::validate_inline(errors, &inline),
        _ => {}
    }
    if volume.is_set() {
        check::text(
            errors,
            &root.at("spec.source.persistentVolumeName").with(volume.value()),
            names::dns1123_subdomain,
        );
    }
}
