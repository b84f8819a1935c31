use proptest::prelude::*;

use super::*;
use crate::fixture::cluster;
use crate::resource::Nearness;
use crate::resource::{ClusterKey, EndpointCondition, EndpointList};

const START: Duration = Duration::from_secs(1000);

fn address(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 8080))
}

fn endpoint(number: u16, state: EndpointCondition) -> Endpoint {
    Endpoint {
        address: address(number),
        state,
        zone: None,
        node: None,
        nearness: Nearness::default(),
    }
}

fn list(endpoints: Vec<Endpoint>) -> EndpointList {
    EndpointList {
        endpoints,
        missing: None,
    }
}

fn ready(numbers: impl IntoIterator<Item = u16>) -> EndpointList {
    let ready = |number| endpoint(number, EndpointCondition::Ready);
    list(numbers.into_iter().map(ready).collect())
}

fn key(balance: Balance) -> ClusterKey {
    ClusterKey {
        balance,
        ..cluster("web")
    }
}

fn set(list: &EndpointList) -> EndpointSet {
    EndpointRegistry::default().build(&key(Balance::default()), list, START)
}

fn request(balance: Balance) -> PickRequest<'static> {
    PickRequest {
        balance,
        hash: 0,
        sticky: None,
        tried: &[],
        now: START,
    }
}

fn p2c() -> PickRequest<'static> {
    request(Balance::P2cPeakEwma)
}

/// How often each endpoint is chosen in so many throws of a fixed sequence.
fn counts(set: &EndpointSet, request: &PickRequest<'_>, throws: u64) -> Vec<(SocketAddr, u32)> {
    let mut counts = std::collections::BTreeMap::new();
    for throw in 0..throws {
        let chosen = set.pick(request, hash::mix(throw)).unwrap();
        *counts.entry(chosen.endpoint.address).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn answer(endpoint: &LiveEndpoint, millis: u64, now: Duration) {
    endpoint.begin();
    let latency = Duration::from_millis(millis);
    endpoint.end(Attempt::Answered { status: 200, latency }, now);
}

fn fail(endpoint: &LiveEndpoint, times: u32, now: Duration) {
    for _ in 0..times {
        endpoint.begin();
        endpoint.end(Attempt::Failed, now);
    }
}

const ALL_BALANCES: [Balance; 4] = [
    Balance::P2cPeakEwma,
    Balance::RoundRobin,
    Balance::HashSource,
    Balance::HashUri,
];

#[test]
fn draining_endpoints_are_used_only_when_nothing_is_ready() {
    use EndpointCondition::*;
    let both = set(&list(vec![
        endpoint(1, Draining),
        endpoint(2, Ready),
        endpoint(3, NotReady),
    ]));
    assert_eq!(counts(&both, &p2c(), 20), [(address(2), 20)]);
    assert_eq!(both.passive().len(), 2);
    let last = set(&list(vec![endpoint(1, Draining), endpoint(3, NotReady)]));
    assert_eq!(counts(&last, &p2c(), 20), [(address(1), 20)]);
}

/// Ready endpoints with their nearness.
fn near(numbers: &[(u16, Nearness)]) -> EndpointList {
    let one = |(number, nearness): &(u16, Nearness)| Endpoint {
        nearness: *nearness,
        ..endpoint(*number, EndpointCondition::Ready)
    };
    list(numbers.iter().map(one).collect())
}

const TURNS: [Balance; 2] = [Balance::P2cPeakEwma, Balance::RoundRobin];

fn set_of(balance: Balance, list: &EndpointList) -> EndpointSet {
    EndpointRegistry::default().build(&key(balance), list, START)
}

#[test]
fn the_nearest_are_taken_while_they_are_fit_and_not_overloaded() {
    use Nearness::*;
    let all = near(&[(1, Anywhere), (2, SameZone), (3, SameNode), (4, SameZone)]);
    for balance in TURNS {
        let set = set_of(balance, &all);
        let request = request(balance);
        assert_eq!(counts(&set, &request, 50), [(address(3), 50)], "{balance:?}");
        fail(&set.active()[0], 5, START);
        let in_zone: Vec<_> = counts(&set, &request, 50)
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(
            in_zone,
            [address(2), address(4)],
            "the one on the node is ejected"
        );
        let tried = [address(2), address(4)];
        let retry = PickRequest {
            tried: &tried,
            ..request
        };
        assert_eq!(counts(&set, &retry, 10), [(address(1), 10)]);
    }
}

#[test]
fn an_idle_service_stays_near_however_slow_it_was_and_however_long_ago_another_was_asked() {
    use Nearness::*;
    let set = set(&near(&[(1, SameZone), (2, Anywhere)]));
    let [slow, fast] = set.active() else { panic!() };
    answer(slow, 800, START);
    answer(fast, 2, START);
    let later = PickRequest {
        now: START + Duration::from_secs(3600),
        ..p2c()
    };
    for request in [p2c(), later] {
        assert_eq!(counts(&set, &request, 50), [(address(1), 50)]);
    }
}

#[test]
fn an_overloaded_near_endpoint_spills_over_until_the_load_is_spread() {
    use Nearness::*;
    for balance in TURNS {
        let set = set_of(balance, &near(&[(1, SameZone), (2, Anywhere)]));
        let request = request(balance);
        let [close, far] = set.active() else { panic!() };
        answer(close, 20, START);
        // Nothing is known of the other: by requests in flight alone.
        for throw in 0..170 {
            set.pick(&request, hash::mix(throw)).unwrap().begin();
        }
        assert_eq!((close.in_flight(), far.in_flight()), (160, 10), "{balance:?}");
        // A near one that has become ten times as slow keeps about as much as the other.
        answer(close, 200, START);
        answer(far, 20, START);
        assert_eq!(counts(&set, &request, 20), [(address(2), 20)]);
    }
}

#[test]
fn a_near_endpoint_that_joins_others_starts_slowly_all_the_same() {
    use Nearness::*;
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let before = registry.build(&key, &near(&[(2, Anywhere)]), START);
    let set = registry.build(
        &key,
        &near(&[(1, SameNode), (2, Anywhere)]),
        START + Duration::from_secs(1),
    );
    drop(before);
    let share = |seconds| {
        let request = PickRequest {
            now: START + Duration::from_secs(seconds),
            ..p2c()
        };
        counts(&set, &request, 1000)[0].1
    };
    assert!((50..200).contains(&share(1)), "{}", share(1));
    assert_eq!(share(60), 1000);
}

proptest! {
    #[test]
    fn without_load_the_choice_is_always_among_the_nearest_that_were_not_tried(
        kinds in prop::collection::vec(0..3_u8, 1..20),
        tried in prop::collection::vec(1..20_u16, 0..8),
        random: u64,
    ) {
        let nearness = |kind: &u8| [Nearness::SameNode, Nearness::SameZone, Nearness::Anywhere][usize::from(*kind)];
        let all: Vec<_> = (1..).zip(kinds.iter().map(nearness)).collect();
        let tried: Vec<_> = tried.into_iter().map(address).collect();
        let left = || all.iter().filter(|(number, _)| !tried.contains(&address(*number)));
        for balance in TURNS {
            let set = set_of(balance, &near(&all));
            let request = PickRequest { tried: &tried, ..request(balance) };
            let chosen = &set.pick(&request, random).unwrap().endpoint;
            if let Some(nearest) = left().map(|(_, nearness)| *nearness).min() {
                prop_assert_eq!(chosen.nearness, nearest);
                prop_assert!(!tried.contains(&chosen.address));
            }
        }
    }
}

#[test]
fn a_hashed_key_belongs_to_the_same_endpoint_from_everywhere() {
    use Nearness::*;
    for number in 1..80 {
        let here: Vec<_> = (1..80)
            .map(|n| (n, if n == number { SameNode } else { Anywhere }))
            .collect();
        let set = set_of(Balance::HashUri, &near(&here));
        let request = PickRequest {
            hash: hash_bytes(b"/x"),
            ..request(Balance::HashUri)
        };
        let other = set_of(Balance::HashUri, &ready(1..80));
        let address = |set: &EndpointSet| set.pick(&request, 0).unwrap().endpoint.address;
        assert_eq!(address(&set), address(&other));
    }
}

#[test]
fn an_empty_set_says_why() {
    let why = |list: &EndpointList| set(list).pick(&p2c(), 0).unwrap_err().0;
    assert_eq!(why(&list(vec![])), Reason::NoEndpoints);
    let not_ready = list(vec![endpoint(1, EndpointCondition::NotReady)]);
    assert_eq!(why(&not_ready), Reason::EndpointsNotReady);
    let missing = EndpointList {
        missing: Some(Reason::ServiceMissing),
        ..list(vec![])
    };
    assert_eq!(why(&missing), Reason::ServiceMissing);
    assert_eq!(
        EndpointSet::default().pick(&p2c(), 0).unwrap_err().0,
        Reason::NoEndpoints
    );
}

#[test]
fn two_choices_prefer_the_faster_and_the_less_loaded() {
    let set = set(&ready([1, 2]));
    let [fast, slow] = set.active() else { panic!() };
    answer(fast, 10, START);
    answer(slow, 100, START);
    assert!(share(&set, &p2c(), 1) > 0.95);
    (0..100).for_each(|_| fast.begin());
    assert!(share(&set, &p2c(), 2) > 0.95);
}

#[test]
fn one_slow_answer_does_not_starve_a_twin_when_requests_come_one_by_one() {
    let set = set(&ready([1, 2]));
    let [unlucky, twin] = set.active() else { panic!() };
    set.active()[0].begin();
    unlucky.end(
        Attempt::Answered {
            status: 200,
            latency: Duration::from_micros(900),
        },
        START,
    );
    twin.begin();
    twin.end(
        Attempt::Answered {
            status: 200,
            latency: Duration::from_micros(400),
        },
        START,
    );
    let share = share(&set, &p2c(), 1);
    assert!((0.1..0.5).contains(&share), "{share}");
}

/// Which part of the picks an endpoint gets.
fn share(set: &EndpointSet, request: &PickRequest<'_>, number: u16) -> f64 {
    let counted = counts(set, request, 1000);
    let picked = counted
        .iter()
        .find(|(at, _)| *at == address(number))
        .map_or(0, |(_, count)| *count);
    f64::from(picked) / 1000.0
}

#[test]
fn an_endpoint_that_was_slow_gets_another_chance_as_its_measurement_fades() {
    let set = set(&ready([1, 2]));
    let [fast, slow] = set.active() else { panic!() };
    answer(slow, 500, START);
    let later = START + Duration::from_secs(60);
    answer(fast, 10, later);
    let request = PickRequest { now: later, ..p2c() };
    assert!(share(&set, &request, 2) > 0.9);
}

#[test]
fn latency_rises_at_once_and_falls_slowly() {
    let set = set(&ready([1]));
    let one = &set.active()[0];
    answer(one, 10, START);
    answer(one, 200, START);
    assert_eq!(one.latency(START), Some(Duration::from_millis(200)));
    answer(one, 10, START + Duration::from_secs(1));
    let after = one.latency(START + Duration::from_secs(1)).unwrap();
    assert!((150..200).contains(&after.as_millis()), "{after:?}");
}

#[test]
fn failing_fast_does_not_attract_requests() {
    let set = set(&ready([1]));
    let one = &set.active()[0];
    answer(one, 100, START);
    one.begin();
    let latency = Duration::from_millis(1);
    one.end(
        Attempt::Answered { status: 500, latency },
        START + Duration::from_secs(5),
    );
    assert!(one.latency(START).unwrap() >= Duration::from_millis(100));
}

#[test]
fn endpoints_without_measurements_share_fairly_with_those_that_have_some() {
    let set = set(&ready(1..=4));
    answer(&set.active()[0], 50, START);
    for (address, count) in counts(&set, &p2c(), 4000) {
        assert!((700..1500).contains(&count), "{address}: {count}");
    }
}

#[test]
fn an_endpoint_that_joins_others_starts_slowly_and_the_first_ones_do_not() {
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let first = registry.build(&key, &ready([1, 2]), START);
    let second = registry.build(&key, &ready([1, 2, 3]), START);
    let of_third = |set: &EndpointSet, age: u64| {
        let now = START + Duration::from_secs(age);
        let counts = counts(set, &PickRequest { now, ..p2c() }, 3000);
        counts
            .iter()
            .find(|(found, _)| *found == address(3))
            .map_or(0, |(_, count)| *count)
    };
    let shares = [0, 5, 10].map(|age| of_third(&second, age));
    assert!(shares[0] < 200 && shares[0] > 0, "{shares:?}");
    assert!((300..700).contains(&shares[1]), "{shares:?}");
    assert!((850..1150).contains(&shares[2]), "{shares:?}");
    assert!(first.active().iter().all(|endpoint| endpoint.share(START) >= 1.0));
}

#[test]
fn round_robin_takes_all_in_turn_and_skips_the_ejected() {
    let set = set(&ready(1..=4));
    let request = request(Balance::RoundRobin);
    assert!(counts(&set, &request, 40).iter().all(|(_, count)| *count == 10));
    fail(&set.active()[1], 5, START);
    assert!(
        counts(&set, &request, 40)
            .iter()
            .all(|(found, _)| *found != address(2))
    );
}

#[test]
fn five_failures_in_a_row_eject_for_ten_seconds_and_then_twice_as_long() {
    let set = set(&ready([1, 2]));
    let one = &set.active()[0];
    fail(one, 4, START);
    answer(one, 1, START);
    fail(one, 4, START);
    assert_eq!(one.ejected_for(START), None);
    fail(one, 1, START);
    assert_eq!(one.ejected_for(START), Some(Duration::from_secs(10)));
    assert_eq!(counts(&set, &p2c(), 20), [(address(2), 20)]);
    let back = START + Duration::from_secs(10);
    assert_eq!(one.ejected_for(back), None);
    fail(one, 1, back);
    assert_eq!(one.ejected_for(back), Some(Duration::from_secs(20)));
}

#[test]
fn ejections_grow_to_five_minutes_and_are_forgiven_after_a_good_time() {
    let set = set(&ready([1, 2]));
    let one = &set.active()[0];
    let mut now = START;
    fail(one, 4, now);
    for _ in 0..10 {
        fail(one, 1, now);
        now += one.ejected_for(now).unwrap();
    }
    fail(one, 1, now);
    assert_eq!(one.ejected_for(now), Some(Duration::from_secs(300)));
    now += Duration::from_secs(600);
    answer(one, 1, now);
    fail(one, 5, now);
    assert_eq!(one.ejected_for(now), Some(Duration::from_secs(10)));
}

#[test]
fn at_most_half_of_a_set_is_ejected_and_a_single_endpoint_never() {
    for (size, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
        let set = set(&ready(1..=size));
        set.active().iter().for_each(|endpoint| fail(endpoint, 20, START));
        let out = set
            .active()
            .iter()
            .filter(|endpoint| endpoint.is_ejected(START))
            .count();
        assert_eq!(out, most, "of {size}");
    }
}

#[test]
fn when_all_that_is_left_is_ejected_it_is_used() {
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let two = registry.build(&key, &ready([1, 2]), START);
    fail(&two.active()[0], 5, START);
    let one = registry.build(&key, &ready([1]), START);
    assert!(one.active()[0].is_ejected(START));
    for balance in ALL_BALANCES {
        assert!(one.pick(&request(balance), 0).is_ok(), "{balance:?}");
    }
}

#[test]
fn a_retry_goes_to_another_endpoint_as_long_as_there_is_one() {
    let set = set(&ready([1, 2, 3]));
    fail(&set.active()[2], 5, START);
    for balance in ALL_BALANCES {
        let picked = |tried: &[SocketAddr]| {
            let request = PickRequest {
                tried,
                ..request(balance)
            };
            set.pick(&request, 7).unwrap().endpoint.address
        };
        assert_eq!(picked(&[address(1)]), address(2), "{balance:?}");
        // An ejected one is better than one that just failed.
        assert_eq!(picked(&[address(1), address(2)]), address(3), "{balance:?}");
        picked(&[address(1), address(2), address(3)]);
    }
}

#[test]
fn a_cookie_leads_back_to_its_endpoint_until_that_is_gone() {
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let before = registry.build(&key, &ready(1..=9), START);
    let id = before.active()[4].sticky_id();
    assert_eq!(id.len(), 16);
    let request = PickRequest {
        sticky: Some(&id),
        ..p2c()
    };
    let after = registry.build(&key, &ready(4..=30), START);
    assert_eq!(counts(&after, &request, 50), [(address(5), 50)]);
    let gone = registry.build(&key, &ready(6..=9), START);
    assert!(counts(&gone, &request, 50).len() > 1);
    for nonsense in ["", "zz", "+000000000000001", "123456789012345678901234"] {
        let request = PickRequest {
            sticky: Some(nonsense),
            ..p2c()
        };
        assert!(after.pick(&request, 1).is_ok());
    }
}

#[test]
fn few_keys_move_when_an_endpoint_leaves_small_and_large_sets() {
    for size in [5, 100] {
        let set = |numbers| EndpointRegistry::default().build(&key(Balance::HashUri), &ready(numbers), START);
        let (before, after) = (set(1..=size), set(2..=size));
        let of = |set: &EndpointSet, key: u64| {
            let request = PickRequest {
                hash: hash_bytes(&key.to_be_bytes()),
                ..request(Balance::HashUri)
            };
            set.pick(&request, 0).unwrap().endpoint.address
        };
        let keys = 0..5000;
        let moved = keys.filter(|key| {
            let was = of(&before, *key);
            was != address(1) && was != of(&after, *key)
        });
        assert!(moved.count() < 250, "of {size}");
    }
}

#[test]
fn a_table_gives_every_endpoint_its_share() {
    let ids: Vec<_> = (0..100_u64).map(hash::mix).collect();
    let table = Table::new(&ids).unwrap();
    let mut counts = vec![0_u32; 100];
    (0..100_000_u64).for_each(|key| counts[table.get(hash::mix(key)).unwrap()] += 1);
    assert!(
        counts.iter().all(|count| (750..1250).contains(count)),
        "{counts:?}"
    );
}

#[test]
fn an_endpoint_that_stays_keeps_what_was_learnt_through_changes_of_readiness_and_list() {
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let one = registry.build(&key, &ready([1, 2]), START);
    answer(&one.active()[0], 50, START);
    let two = registry.build(&key, &list(vec![endpoint(1, EndpointCondition::NotReady)]), START);
    drop(one);
    let three = registry.build(&key, &ready([1, 3]), START);
    drop(two);
    assert_eq!(three.active()[0].latency(START), Some(Duration::from_millis(50)));
}

#[test]
fn an_endpoint_that_returns_later_starts_anew_even_while_an_old_request_holds_it() {
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let one = registry.build(&key, &ready([1]), START);
    let held = Arc::clone(&one.active()[0]);
    answer(&held, 50, START);
    let none = registry.build(&key, &ready([]), START);
    drop(one);
    let again = registry.build(&key, &ready([1]), START);
    drop(none);
    assert_eq!(again.active()[0].latency(START), None);
    assert_eq!(held.latency(START), Some(Duration::from_millis(50)));
}

#[test]
fn the_registry_forgets_endpoints_that_are_gone() {
    let mut registry = EndpointRegistry::default();
    let key = key(Balance::default());
    let mut set = EndpointSet::default();
    for round in 0..1000_u16 {
        set = registry.build(&key, &ready([round, round + 1]), START);
    }
    assert_eq!(set.active().len(), 2);
    assert!(registry.len() < 100, "{}", registry.len());
}

#[test]
fn requests_in_flight_are_counted_and_never_below_none() {
    let set = set(&ready([1]));
    let one = &set.active()[0];
    one.begin();
    one.begin();
    one.end(Attempt::Abandoned, START);
    assert_eq!(one.in_flight(), 1);
    one.end(Attempt::Failed, START);
    one.end(Attempt::Failed, START);
    assert_eq!(one.in_flight(), 0);
}

#[test]
fn retries_are_a_fifth_of_the_requests_and_ten_a_second() {
    let budget = RetryBudget::default();
    let taken = |now| std::iter::from_fn(|| budget.withdraw(now).then_some(())).count();
    assert_eq!(taken(Duration::ZERO), 10);
    (0..50).for_each(|_| budget.deposit());
    assert_eq!(taken(Duration::ZERO), 10);
    assert_eq!(taken(Duration::from_secs(1)), 10);
    assert_eq!(taken(Duration::from_millis(1500)), 5);
    (0..100_000).for_each(|_| budget.deposit());
    assert_eq!(taken(Duration::from_millis(1500)), 100);
    assert_eq!(
        taken(Duration::from_secs(1)),
        0,
        "a clock that goes back pays nothing"
    );
}

proptest! {
    #[test]
    fn something_is_always_picked_from_a_set_that_is_not_empty(
        size in 1..80_u16,
        tried in proptest::collection::vec(1..80_u16, 0..5),
        failing in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
        random: u64,
        hash: u64,
    ) {
        let tried: Vec<_> = tried.into_iter().map(address).collect();
        for balance in ALL_BALANCES {
            let set = EndpointRegistry::default().build(&key(balance), &ready(1..=size), START);
            failing.iter().for_each(|index| fail(&set.active()[index.index(set.active().len())], 5, START));
            let request = PickRequest { hash, tried: &tried, ..request(balance) };
            let picked = set.pick(&request, random).unwrap();
            let untried = set.active().iter().any(|e| !tried.contains(&e.endpoint.address));
            prop_assert!(!untried || !tried.contains(&picked.endpoint.address));
        }
    }
}
