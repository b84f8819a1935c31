//! Many Ingresses have the same annotations: the policies that these come to are kept once. Knows nothing of what a policy says.

use std::collections::VecDeque;
use std::sync::Arc;

use ingress_core::resource::RoutePolicy;

/// Those that were read last: enough to find the same again, few enough to compare with each.
const KEPT: usize = 16;

#[derive(Default)]
pub(super) struct Policies {
    recent: VecDeque<Arc<RoutePolicy>>,
}

impl Policies {
    /// An equal one that is there already, or this one.
    pub(super) fn share(&mut self, policy: Arc<RoutePolicy>) -> Arc<RoutePolicy> {
        if let Some(equal) = self.recent.iter().find(|recent| **recent == policy) {
            return Arc::clone(equal);
        }
        self.recent.truncate(KEPT - 1);
        self.recent.push_front(Arc::clone(&policy));
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_policies_are_one_and_others_are_not() {
        let of = |limit| {
            Arc::new(RoutePolicy {
                body_limit: Some(limit),
                ..RoutePolicy::default()
            })
        };
        let mut policies = Policies::default();
        let first = policies.share(of(1));
        assert!(!Arc::ptr_eq(&first, &policies.share(of(2))));
        assert!(Arc::ptr_eq(&first, &policies.share(of(1))));
        for limit in 0..100 {
            assert_eq!(policies.share(of(limit)).body_limit, Some(limit));
        }
        assert_eq!(policies.recent.len(), KEPT);
    }
}
