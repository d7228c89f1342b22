//! The text of a place in an object, such as `spec.containers[0].env[PATH]`, as validation errors name it.
//!
//! A [`Path`] borrows its parent, so that walking an object costs nothing until an error is written.

use std::fmt;

/// A place in an object.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// The object itself; its text is empty.
    Root,
    /// A field of the parent.
    Field(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
    /// An entry of a map, or an element of a list that is named by its key.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// A field of this object.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// An element of this list.
    pub fn index(&'a self, at: usize) -> Path<'a> {
        Path::Index(self, at)
    }

    /// An entry of this map.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, at) => write!(f, "{parent}[{at}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_upstream_writes_it() {
        let (root, spec) = (Path::Root, Path::Field(&Path::Root, "spec"));
        let containers = spec.field("containers");
        let first = containers.index(0);
        let limits = first.field("limits");
        assert_eq!(limits.key("cpu").to_string(), "spec.containers[0].limits[cpu]");
        assert_eq!(root.to_string(), "");
    }
}
