//! Precedence among routes of one host, as an order: the least rank wins.

use std::cmp::Reverse;

use crate::resource::{Conditions, PathMatch, RouteSpec, Seniority};

/// Where a route stands among those of its host. The fields are compared in this order.
///
/// The order is Ingress v1's, with conditions where Gateway API has them (`HTTPRouteRule.matches`): a second family of
/// routes with an order of its own becomes a field before or after `path`, not a second matcher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank<'a> {
    /// `spec.defaultBackend` stands behind every rule.
    fallback: bool,
    path: PathRank<'a>,
    conditions: ConditionRank,
    seniority: &'a Seniority,
}

/// Exact before prefix is right although "longest first" is the first rule: an exact path has as many elements as the
/// request, and no prefix that matches has more. Texts of one kind and length never match the same path; ordering by them
/// keeps equal paths together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank<'a> {
    Exact(&'a str),
    Prefix(Reverse<usize>, &'a str),
    /// By length of the source.
    Regex(Reverse<usize>),
}

/// A method first, then more headers, then more query parameters (Gateway API, `HTTPRouteRule.matches`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ConditionRank(Reverse<(bool, usize, usize)>);

impl<'a> Rank<'a> {
    pub fn of(spec: &'a RouteSpec) -> Self {
        Self {
            fallback: spec.fallback,
            path: PathRank::of(&spec.path),
            conditions: ConditionRank::of(&spec.conditions),
            seniority: &spec.seniority,
        }
    }
}

impl<'a> PathRank<'a> {
    fn of(path: &'a PathMatch) -> Self {
        match path {
            PathMatch::Exact(text) => Self::Exact(text),
            PathMatch::Prefix(text) => Self::Prefix(Reverse(elements(text)), text),
            PathMatch::Regex(regex) => Self::Regex(Reverse(regex.source.len())),
        }
    }
}

impl ConditionRank {
    fn of(conditions: &Conditions) -> Self {
        Self(Reverse((
            conditions.method.is_some(),
            conditions.headers.len(),
            conditions.query.len(),
        )))
    }
}

/// How many path elements a prefix has; the root has none.
pub(super) fn elements(path: &str) -> usize {
    path.bytes().filter(|b| *b == b'/').count()
}
