//! The types that the checker knows, and how they are written in messages.

use std::fmt;
use std::sync::Arc;

use super::declared::Object;

/// A type.
#[derive(Debug, Clone)]
pub enum Type {
    /// What stands in the place of something wrong.
    Error,
    /// Anything; checked when it is evaluated.
    Dyn,
    /// `null_type`
    Null,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `uint`
    Uint,
    /// `double`
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Duration`
    Duration,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `list(T)`
    List(Arc<Type>),
    /// `map(K, V)`
    Map(Arc<(Type, Type)>),
    /// `optional_type(T)`
    Optional(Arc<Type>),
    /// `type(T)`
    Type(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<Object>),
    /// The type of what an expression makes.
    Made(Arc<str>),
    /// A type of a library, by its name.
    Opaque(&'static str),
    /// A type that is not known yet.
    Param(u32),
}

impl Type {
    pub(super) fn list(of: Type) -> Self {
        Self::List(Arc::new(of))
    }

    pub(super) fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// `optional_type(of)`
    pub fn optional(of: Type) -> Self {
        Self::Optional(Arc::new(of))
    }

    pub(super) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Whether both are the very same type.
    pub(super) fn same(&self, other: &Type) -> bool {
        match (self, other) {
            (Self::List(one), Self::List(other))
            | (Self::Optional(one), Self::Optional(other))
            | (Self::Type(one), Self::Type(other)) => one.same(other),
            (Self::Map(one), Self::Map(other)) => one.0.same(&other.0) && one.1.same(&other.1),
            (Self::Object(one), Self::Object(other)) => one.name() == other.name(),
            (Self::Opaque(one), Self::Opaque(other)) => one == other,
            (Self::Made(one), Self::Made(other)) => one == other,
            (Self::Param(one), Self::Param(other)) => one == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other) && !self.has_parts(),
        }
    }

    fn has_parts(&self) -> bool {
        matches!(
            self,
            Self::List(_)
                | Self::Map(_)
                | Self::Optional(_)
                | Self::Type(_)
                | Self::Object(_)
                | Self::Opaque(_)
                | Self::Made(_)
                | Self::Param(_)
        )
    }

    /// Whether its values are all of one size.
    pub(super) fn is_scalar(&self) -> bool {
        match self {
            Self::Bool | Self::Double | Self::Duration | Self::Int | Self::Timestamp | Self::Uint => true,
            Self::Optional(of) => of.is_scalar(),
            _ => false,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("!error!"),
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("duration"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(of) => write!(f, "map({}, {})", of.0, of.1),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Type(of) => write!(f, "type({of})"),
            Self::Object(of) => f.write_str(of.name()),
            Self::Opaque(name) => f.write_str(name),
            Self::Made(name) => f.write_str(name),
            Self::Param(at) => write!(f, "_var{at}"),
        }
    }
}
