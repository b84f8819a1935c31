//! The routes of one host, by path.

use std::sync::Arc;

use super::rank::elements;
use super::{RequestView, Unmet};
use crate::fast_map::FastMap;
use crate::resource::PathMatch;
use crate::snapshot::Route;

/// A host with up to this many routes is searched one by one, which is as fast as hashing and needs no index.
const UNINDEXED: usize = 8;

/// The routes of one host: rules in the order of their rank, then fallbacks.
#[derive(Debug, Default)]
pub(crate) struct PathTable {
    routes: Box<[Arc<Route>]>,
    /// The paths again, close together, in a table without an index: looking at a route costs a cache miss, and most are
    /// looked at in vain.
    keys: Box<[Key]>,
    texts: Box<str>,
    /// How many of `routes` are rules; the rest are fallbacks.
    rules: usize,
    index: Option<Box<Index>>,
}

/// A route's path: its kind, and where its text ends in the table's `texts`. It begins where the one before ends.
#[derive(Clone, Copy, Debug)]
struct Key {
    kind: Kind,
    end: u32,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Exact,
    Prefix,
    /// Has no text: the route holds the expression.
    Regex,
}

/// Where to look in a long table. Routes with equal paths stand together.
#[derive(Debug)]
struct Index {
    exact: FastMap<Arc<str>, Run>,
    prefix: FastMap<Arc<str>, Run>,
    /// The most elements that a prefix has: bounds the probes for a hostile path.
    deepest: usize,
    regexes: Run,
}

/// A stretch of the table: from, to.
type Run = (usize, usize);

impl PathTable {
    /// Takes the routes in the order of their rank.
    pub(crate) fn new(routes: Vec<Arc<Route>>) -> Self {
        let rules = routes.iter().take_while(|route| !route.fallback).count();
        let index = (rules > UNINDEXED).then(|| Box::new(Index::new(&routes, rules)));
        let (keys, texts) = match index {
            None => pack(&routes),
            Some(_) => Default::default(),
        };
        Self {
            routes: routes.into_boxed_slice(),
            keys,
            texts,
            rules,
            index,
        }
    }

    pub(crate) fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    pub(crate) fn fallbacks(&self) -> &[Arc<Route>] {
        self.routes.get(self.rules..).unwrap_or_default()
    }

    pub(crate) fn has_rules(&self) -> bool {
        self.rules > 0
    }

    /// The best route of this host: a rule, else the host's own fallback.
    pub(super) fn find(&self, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        match &self.index {
            None => self.first_packed(request),
            Some(index) => self
                .find_indexed(index, request)
                .or_else(|| self.find_fallback(request)),
        }
    }

    pub(super) fn find_fallback(&self, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        first_match(self.fallbacks(), request)
    }

    /// [`first_match`] over the whole table, on the packed paths.
    fn first_packed(&self, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        let mut start = 0;
        for (key, route) in self.keys.iter().zip(&self.routes) {
            let end = usize::try_from(key.end).unwrap_or(usize::MAX);
            let text = self.texts.get(start..end)?;
            start = end;
            let matches = match key.kind {
                Kind::Exact => text == request.path,
                Kind::Prefix => is_prefix(text, request.path),
                Kind::Regex => path_matches(&route.path, request.path),
            };
            if matches && route.check_conditions(request).is_ok() {
                return Some(route);
            }
        }
        None
    }

    fn find_indexed(&self, index: &Index, request: &RequestView<'_>) -> Option<&Arc<Route>> {
        let in_run = |run: &Run| first_met(self.routes.get(run.0..run.1)?, request);
        let path = request.path;
        index
            .exact
            .get(path)
            .and_then(in_run)
            .or_else(|| {
                prefixes(path, index.deepest).find_map(|prefix| index.prefix.get(prefix).and_then(in_run))
            })
            .or_else(|| first_match(self.routes.get(index.regexes.0..index.regexes.1)?, request))
    }
}

impl Index {
    fn new(routes: &[Arc<Route>], rules: usize) -> Self {
        let mut index = Self {
            exact: FastMap::default(),
            prefix: FastMap::default(),
            deepest: 0,
            regexes: (rules, rules),
        };
        for (at, route) in routes.iter().take(rules).enumerate() {
            match &route.path {
                PathMatch::Exact(text) => extend(&mut index.exact, text, at),
                PathMatch::Prefix(text) => {
                    extend(&mut index.prefix, text, at);
                    index.deepest = index.deepest.max(elements(text));
                }
                PathMatch::Regex(_) => index.regexes.0 = index.regexes.0.min(at),
            }
        }
        index.exact.shrink_to_fit();
        index.prefix.shrink_to_fit();
        index
    }
}

fn extend(runs: &mut FastMap<Arc<str>, Run>, text: &Arc<str>, at: usize) {
    let run = runs.entry(Arc::clone(text)).or_insert((at, at));
    run.1 = at + 1;
}

/// The path prefixes that end at an element's border, longest first, of at most `deepest` elements.
fn prefixes(path: &str, deepest: usize) -> impl Iterator<Item = &str> {
    let mut borders = path
        .bytes()
        .enumerate()
        .filter(|(_, b)| *b == b'/')
        .map(|(at, _)| at);
    let mut end = Some(borders.nth(deepest).unwrap_or(path.len()));
    std::iter::from_fn(move || {
        let prefix = path.get(..end?)?;
        end = prefix.rfind('/');
        Some(prefix)
    })
}

fn first_match<'a>(routes: &'a [Arc<Route>], request: &RequestView<'_>) -> Option<&'a Arc<Route>> {
    routes.iter().find(|route| route.check(request).is_ok())
}

/// As [`first_match`], for routes whose path is known to match.
fn first_met<'a>(routes: &'a [Arc<Route>], request: &RequestView<'_>) -> Option<&'a Arc<Route>> {
    routes
        .iter()
        .find(|route| route.check_conditions(request).is_ok())
}

impl Route {
    /// Whether a request for this route's host is this route's, and if not, the first thing that keeps it away.
    pub fn check(&self, request: &RequestView<'_>) -> Result<(), Unmet> {
        match path_matches(&self.path, request.path) {
            true => self.check_conditions(request),
            false => Err(Unmet::Path),
        }
    }

    fn check_conditions(&self, request: &RequestView<'_>) -> Result<(), Unmet> {
        match &self.conditions {
            None => Ok(()),
            Some(conditions) => conditions.check(request),
        }
    }
}

/// Whether a path rule covers a request's path, both normalised.
fn path_matches(rule: &PathMatch, path: &str) -> bool {
    match rule {
        PathMatch::Exact(text) => **text == *path,
        PathMatch::Prefix(text) => is_prefix(text, path),
        PathMatch::Regex(regex) => regex.regex.is_match(path),
    }
}

/// By element: what follows the prefix is nothing or begins with a slash.
fn is_prefix(prefix: &str, path: &str) -> bool {
    let rest = path.as_bytes().strip_prefix(prefix.as_bytes());
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Paths beyond 32 bits, which no API server lets pass, go unmatched rather than wrong.
fn pack(routes: &[Arc<Route>]) -> (Box<[Key]>, Box<str>) {
    let mut texts = String::new();
    let key = |route: &Arc<Route>| {
        let (kind, text) = match &route.path {
            PathMatch::Exact(text) => (Kind::Exact, &**text),
            PathMatch::Prefix(text) => (Kind::Prefix, &**text),
            PathMatch::Regex(_) => (Kind::Regex, ""),
        };
        texts.push_str(text);
        Key {
            kind,
            end: u32::try_from(texts.len()).unwrap_or(u32::MAX),
        }
    };
    let keys = routes.iter().map(key).collect();
    (keys, texts.into_boxed_str())
}
