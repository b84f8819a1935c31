use crate::fields::Fields;
use proptest::prelude::*;

use super::*;
use crate::balance::EndpointRegistry;
use crate::fixture::*;
use crate::matching::tests::some_routes;
use crate::resource::Nearness;
use crate::resource::{EndpointCondition, EndpointList};

fn told(snapshot: &Snapshot, host: &str, path: &str) -> Vec<Step> {
    explain(snapshot, &get(host, path, &Fields::default()), Duration::ZERO)
}

#[test]
fn an_explanation_names_what_lost_what_won_and_the_endpoints_behind() {
    let all = snapshot(vec![
        route("exact", "shop.example", "Exact /x"),
        route("root", "shop.example", "Prefix /"),
    ]);
    let endpoint = Endpoint {
        address: ([10, 0, 0, 1], 80).into(),
        state: EndpointCondition::NotReady,
        zone: None,
        node: None,
        nearness: Nearness::default(),
    };
    let list = EndpointList {
        endpoints: vec![endpoint],
        missing: None,
    };
    let key = cluster("root");
    let set = EndpointRegistry::default().build(&key, &list, Duration::ZERO);
    all.cluster(&key).unwrap().set_endpoints(Arc::new(set));
    let steps = told(&all, "shop.example", "/y");
    let [
        Step::HostKnown { .. },
        Step::Lost { route: lost, unmet },
        Step::Won { route: won },
        Step::Backend { .. },
        Step::NoEndpoint { reason },
        Step::Endpoint(endpoint),
    ] = &*steps
    else {
        panic!("{steps:#?}")
    };
    assert_eq!((&*lost.object, *unmet), ("Ingress shop/exact", Unmet::Path));
    assert_eq!(won.object, "Ingress shop/root");
    assert_eq!(*reason, "endpoints_not_ready");
    assert!(!endpoint.active);
}

proptest! {
    #[test]
    fn an_explanation_ends_where_the_request_path_ends(
        routes in some_routes(),
        host in prop_oneof![Just("a.x"), Just("c.x"), Just("y"), Just("q.a.x")],
        path in "(/[ab]{0,2}){1,3}",
    ) {
        let all = snapshot(routes);
        let steps = told(&all, host, &path);
        let headers = Fields::default();
        let outcome = match all.find(&get(host, &path, &headers)) {
            Ok(route) => format!("{} {}", route.object, route.field),
            Err(miss) => miss.reason().code().to_owned(),
        };
        let ends: Vec<_> = steps.iter().filter_map(|step| match step {
            Step::Won { route } => Some(format!("{} {}", route.object, route.field)),
            Step::Miss { reason, .. } => Some((*reason).to_owned()),
            _ => None,
        }).collect();
        prop_assert_eq!(ends, [outcome]);
    }
}
