//! Whether one type can stand where another is wanted, and what that says of types that are not known yet.

use std::sync::Arc;

use super::types::Type;

/// What is known of the types that were not known. What was learnt on the way to a contradiction is forgotten.
#[derive(Default)]
pub(super) struct Bindings {
    bound: Vec<Option<Type>>,
    trail: Vec<(u32, Option<Type>)>,
}

impl Bindings {
    /// Fresh variables: the number of the first.
    pub(super) fn fresh(&mut self, count: u32) -> u32 {
        let first = self.bound.len() as u32;
        self.bound.resize(self.bound.len() + count as usize, None);
        first
    }

    fn find(&self, at: u32) -> Option<&Type> {
        self.bound[at as usize].as_ref()
    }

    fn bind(&mut self, at: u32, to: Type) {
        let before = self.bound[at as usize].replace(to);
        self.trail.push((at, before));
    }

    /// Whether all of `given` can stand where `wanted` are.
    pub(super) fn all_fit(&mut self, given: &[Type], wanted: &[Type]) -> bool {
        let mark = self.trail.len();
        let fit = given.len() == wanted.len() && given.iter().zip(wanted).all(|(one, other)| self.fits(one, other));
        if !fit {
            for (at, before) in self.trail.drain(mark..).rev() {
                self.bound[at as usize] = before;
            }
        }
        fit
    }

    /// Whether the two can be one type.
    pub(super) fn fit(&mut self, one: &Type, other: &Type) -> bool {
        self.all_fit(std::slice::from_ref(one), std::slice::from_ref(other))
    }

    fn fits(&mut self, one: &Type, other: &Type) -> bool {
        if let Type::Param(at) = other {
            let (fits, known) = self.stands_for(one, *at);
            if fits || known {
                return fits;
            }
        }
        if let Type::Param(at) = one {
            return self.stands_for(other, *at).0;
        }
        if one.is_dyn_or_error() || other.is_dyn_or_error() {
            return true;
        }
        match (one, other) {
            (Type::Null, other) => is_nullable(other),
            (one, Type::Null) => is_nullable(one),
            (Type::List(one), Type::List(other)) | (Type::Optional(one), Type::Optional(other)) => {
                self.fits(&one.clone(), &other.clone())
            }
            (Type::Map(one), Type::Map(other)) => {
                let (one, other) = (one.clone(), other.clone());
                self.fits(&one.0, &other.0) && self.fits(&one.1, &other.1)
            }
            (Type::Type(_), Type::Type(_)) => true,
            _ => one.same(other),
        }
    }

    /// Whether a variable can be the type, and whether it stood for something already.
    fn stands_for(&mut self, one: &Type, variable: u32) -> (bool, bool) {
        if matches!(one, Type::Param(at) if *at == variable) {
            return (true, true);
        }
        if let Some(bound) = self.find(variable).cloned() {
            if one.same(&bound) {
                return (true, true);
            }
            if !self.fits(one, &bound) {
                return (false, true);
            }
            let general = if is_less_specific(one, &bound) { one.clone() } else { bound };
            if !self.occurs(variable, &general) {
                self.bind(variable, general);
            }
            return (true, true);
        }
        if self.occurs(variable, one) {
            return (false, false);
        }
        self.bind(variable, one.clone());
        (true, false)
    }

    /// Whether a variable is a part of a type: it cannot stand for that then.
    fn occurs(&self, variable: u32, within: &Type) -> bool {
        match within {
            Type::Param(at) if *at == variable => true,
            Type::Param(at) => self.find(*at).is_some_and(|bound| self.occurs(variable, bound)),
            Type::List(of) | Type::Optional(of) | Type::Type(of) => self.occurs(variable, of),
            Type::Map(of) => self.occurs(variable, &of.0) || self.occurs(variable, &of.1),
            _ => false,
        }
    }

    /// A type with what is known put into it. What is not known stays, or becomes `dyn` where `rest` says so.
    pub(super) fn resolved(&self, of: &Type, rest: Rest) -> Type {
        match of {
            Type::Param(at) => match (self.find(*at), rest) {
                (Some(bound), _) => self.resolved(bound, rest),
                (None, Rest::Dyn) => Type::Dyn,
                (None, Rest::Keep) => of.clone(),
            },
            Type::List(inner) => Type::List(Arc::new(self.resolved(inner, rest))),
            Type::Optional(inner) => Type::Optional(Arc::new(self.resolved(inner, rest))),
            Type::Type(inner) => Type::Type(Arc::new(self.resolved(inner, rest))),
            Type::Map(inner) => Type::map(self.resolved(&inner.0, rest), self.resolved(&inner.1, rest)),
            _ => of.clone(),
        }
    }
}

/// What becomes of variables of which nothing is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    Keep,
    Dyn,
}

fn is_nullable(of: &Type) -> bool {
    matches!(
        of,
        Type::Null
            | Type::Opaque(_)
            | Type::Made(_)
            | Type::Object(_)
            | Type::Optional(_)
            | Type::Duration
            | Type::Timestamp
    )
}

/// Whether the first says no more than the second.
pub(super) fn is_less_specific(one: &Type, other: &Type) -> bool {
    match (one, other) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(one), Type::List(other)) | (Type::Optional(one), Type::Optional(other)) => {
            is_less_specific(one, other)
        }
        (Type::Map(one), Type::Map(other)) => is_less_specific(&one.0, &other.0) && is_less_specific(&one.1, &other.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => one.same(other),
    }
}
