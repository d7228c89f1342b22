//! Strategies of the `storage.k8s.io` group.

pub mod csi;
pub mod storage_class;
#[cfg(test)]
mod tests;
pub mod volume_attachment;

use machinery::names;

use super::at::{At, Errors};

const PARAMETERS_BYTES_MAX: usize = 256 * 1024;
const PARAMETERS_MAX: usize = 512;

/// Who provides volumes: a domain with a name, in any case.
fn provisioner(errors: &mut Errors, at: &At<'_>) {
    let name = at.text().to_lowercase();
    if name.is_empty() {
        errors.push(at.required(""));
    } else {
        errors.extend(names::qualified_name(&name).iter().map(|why| at.invalid_as(name.as_str(), why)));
    }
}

/// What the provider is told.
fn parameters(errors: &mut Errors, at: &At<'_>) {
    if at.count() > PARAMETERS_MAX {
        errors.push(at.too_long(PARAMETERS_MAX));
        return;
    }
    if at.entries().any(|(key, _)| key.is_empty()) {
        errors.push(at.invalid_as("", "field can not be empty."));
    }
    if at.entries().map(|(key, value)| key.len() + value.text().len()).sum::<usize>() > PARAMETERS_BYTES_MAX {
        errors.push(at.too_long(PARAMETERS_BYTES_MAX));
    }
}
