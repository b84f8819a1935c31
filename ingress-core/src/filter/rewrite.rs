//! Rewriting the path before the backend sees it.

use std::borrow::Cow;

use crate::path::{self, BadPath};
use crate::resource::PathMatch;
use crate::snapshot::Route;

/// The path that the backend gets in place of the request's (normalised) one; `None` when the route rewrites nothing.
///
/// As in nginx, the template replaces the whole path. A template with `?` yields a query too: [`rewrite_target`] knows how
/// to join it with the request's. An error means that this request cannot be rewritten without ambiguity: 400.
pub fn rewrite_path(route: &Route, path: &str) -> Result<Option<String>, BadPath> {
    let Some(rewrite) = &route.policy.rewrite else {
        return Ok(None);
    };
    let (path_template, query_template) = match rewrite.template.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rewrite.template.as_str(), None),
    };
    let groups = Groups::of(route, path);
    let mut rewritten = checked(&groups.expand(path_template))?;
    if let Some(query) = query_template {
        rewritten.push('?');
        rewritten.push_str(&groups.expand(query));
    }
    Ok(Some(rewritten))
}

/// As [`rewrite_path`], with the request's query appended as nginx does; `None` when the route rewrites nothing.
pub fn rewrite_target(route: &Route, path: &str, query: Option<&str>) -> Result<Option<String>, BadPath> {
    let Some(mut target) = rewrite_path(route, path)? else {
        return Ok(None);
    };
    if let Some(query) = query {
        let has_query = target.contains('?');
        target.push(if has_query { '&' } else { '?' });
        target.push_str(query);
    }
    Ok(Some(target))
}

/// What a group held may, next to what the template holds, become a dot segment: it would leave the template's folder.
fn checked(path: &str) -> Result<String, BadPath> {
    let rooted = match path.starts_with('/') {
        true => Cow::Borrowed(path),
        false => Cow::Owned(format!("/{path}")),
    };
    if rooted.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(BadPath("has a dot segment after the rewrite"));
    }
    path::normalise(&rooted).map(Cow::into_owned)
}

/// What the groups of a route's expression matched. Pieces of a normalised path, so they are safe in a URL.
pub(super) struct Groups<'p>(Option<regex::Captures<'p>>);

impl<'p> Groups<'p> {
    pub(super) fn of(route: &Route, path: &'p str) -> Self {
        match &route.path {
            PathMatch::Regex(regex) => Self(regex.regex.captures(path)),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => Self(None),
        }
    }

    /// Empty when there is no such group, or it took no part.
    pub(super) fn get(&self, number: usize) -> &'p str {
        let group = self.0.as_ref().and_then(|captures| captures.get(number));
        group.map_or("", |group| group.as_str())
    }

    /// Replaces `$0` to `$9` and `${0}` to `${9}`; any other `$` stays.
    fn expand(&self, template: &str) -> String {
        let mut out = String::with_capacity(template.len());
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            match group_number(after) {
                Some((number, tail)) => {
                    out.push_str(self.get(number));
                    rest = tail;
                }
                None => {
                    out.push('$');
                    rest = after;
                }
            }
        }
        out + rest
    }
}

fn group_number(text: &str) -> Option<(usize, &str)> {
    let braced = text.strip_prefix('{');
    let mut chars = braced.unwrap_or(text).chars();
    let digit = chars.next()?.to_digit(10)?;
    let tail = match braced {
        Some(_) => chars.as_str().strip_prefix('}')?,
        None => chars.as_str(),
    };
    Some((usize::try_from(digit).ok()?, tail))
}
