//! Source ranges: who may use a route.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::resource::SourceRanges;

/// Whether a client may use the route. A deny range goes before an allow range.
pub fn is_allowed(ranges: &SourceRanges, client: IpAddr) -> bool {
    if ranges.allow.is_empty() && ranges.deny.is_empty() {
        return true;
    }
    !contains(&ranges.deny, client) && (ranges.allow.is_empty() || contains(&ranges.allow, client))
}

/// IPv4-mapped IPv6 addresses count as the IPv4 addresses that they are.
pub(super) fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}
