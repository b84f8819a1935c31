//! Host, path and conditions to a route.
//!
//! Owns the tables that a request is looked up in and the precedence among what matches. Knows nothing of Ingress: objects
//! arrive as routes with a host, a path, conditions and a seniority.

mod conditions;
mod host;
mod path;
mod rank;

use std::sync::Arc;

use http::Method;

use crate::fields::Fields;
use crate::reason::Reason;
use crate::resource::UnownedHost;
use crate::snapshot::{Route, Snapshot};

pub use conditions::Unmet;
pub(crate) use host::HostMap;
pub use host::HostMatch;
pub(crate) use path::PathTable;
pub use rank::Rank;

/// What matching looks at. The host is in [`crate::host::RequestHost`] form, the path normalised.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    pub method: &'a Method,
    pub host: &'a str,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: &'a Fields,
}

/// Why nothing matched.
#[derive(Clone, Debug)]
pub enum Miss {
    HostUnknown,
    HostUnowned(Arc<UnownedHost>),
    PathUnmatched,
}

impl Miss {
    pub fn reason(&self) -> Reason {
        match self {
            Self::HostUnknown => Reason::HostUnknown,
            Self::HostUnowned(_) => Reason::HostUnowned,
            Self::PathUnmatched => Reason::PathUnmatched,
        }
    }
}

/// The routes by host.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    pub(crate) tables: HostMap<Arc<PathTable>>,
}

impl HostTable {
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let tables = self.tables.sorted();
        tables.into_iter().flat_map(|(_, table)| table.routes())
    }
}

impl Snapshot {
    /// The route of a request. Allocates nothing.
    ///
    /// The most specific host that is known decides; its paths, then its own fallback, then the fallback of all.
    pub fn find(&self, request: &RequestView<'_>) -> Result<&Arc<Route>, Miss> {
        let tables = &self.hosts.tables;
        let table = tables.get(request.host).map(|(_, table)| table);
        table
            .and_then(|table| table.find(request))
            .or_else(|| tables.any()?.find_fallback(request))
            .ok_or_else(|| self.miss(request.host))
    }

    /// Why a request for this host, which no route takes, finds nothing.
    fn miss(&self, host: &str) -> Miss {
        match self.hosts.tables.get(host) {
            Some((HostMatch::Exact | HostMatch::Wildcard, _)) => Miss::PathUnmatched,
            known => match (self.unowned.get(host), known) {
                (Some((_, unowned)), _) => Miss::HostUnowned(Arc::clone(unowned)),
                (None, Some((_, table))) if table.has_rules() => Miss::PathUnmatched,
                _ => Miss::HostUnknown,
            },
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
