//! `ImageLocality`: better where the pod's images are already, weighed by their size and by how far they are spread, so that
//! a node that happens to have an image does not draw all its pods.

use super::{Normalize, Plugin, Score, silent};
use crate::cycle::Cycle;
use crate::image::{Image, Node, What};
use crate::intern::Symbol;

/// Less than this is pulled before anybody notices.
const BYTES_MIN: i64 = 23 * 1024 * 1024;
/// More than this a container does not count.
const BYTES_MAX: i64 = 1000 * 1024 * 1024;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "ImageLocality",
    relevant: |cycle| !cycle.images.is_empty(),
    filter: None,
    explain: silent,
    score: Some(Score { score, normalize: Normalize::No, weight: 1 }),
    hints: What::NOTHING,
    everywhere: false,
};

/// The pod's images that some node has.
pub fn compile(images: &[Box<str>], image: &Image) -> Vec<Symbol> {
    let known = images.iter().filter_map(|name| {
        let found = image.interner().find(name);
        found.or_else(|| image.interner().find(&normalized(name)?))
    });
    known.filter(|symbol| image.nodes_with_image(*symbol) > 0).collect()
}

/// A name without a tag means `latest`.
fn normalized(name: &str) -> Option<String> {
    let last = name.rsplit('/').next().unwrap_or(name);
    (!last.contains(':') && !last.contains('@')).then(|| format!("{name}:latest"))
}

fn score(cycle: &Cycle<'_>, node: &Node) -> i64 {
    let nodes = cycle.image.order().len().max(1) as f64;
    let mut total = 0;
    for image in &cycle.images {
        if let Ok(at) = node.images.binary_search_by_key(image, |known| known.0) {
            let spread = cycle.image.nodes_with_image(*image) as f64 / nodes;
            total += (node.images[at].1 as f64 * spread) as i64;
        }
    }
    let most = BYTES_MAX * cycle.needs.containers.max(1) as i64;
    100 * (total.clamp(BYTES_MIN, most) - BYTES_MIN) / (most - BYTES_MIN)
}
