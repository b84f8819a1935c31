use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 60;

fn limits() -> Limits {
    Limits {
        offences: [5, 10, 0],
        window: Duration::from_secs(WINDOW),
        lasts: Duration::from_secs(600),
    }
}

fn source(text: &str) -> Source {
    Source::of(text.parse().unwrap())
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Which of so many offences at these seconds is one too many.
fn first_too_many(offences: &mut Offences, seconds: impl IntoIterator<Item = u64>) -> Option<usize> {
    let seconds: Vec<_> = seconds.into_iter().collect();
    let client = source("192.0.2.1");
    seconds
        .iter()
        .position(|second| offences.offence(client, Offence::Handshake, at(*second)))
}

#[test]
fn so_many_offences_in_a_window_are_enough_and_fewer_or_slower_ones_are_not() {
    let mut offences = Offences::new(limits());
    assert_eq!(first_too_many(&mut offences, [1, 2, 3, 4, 5]), Some(4));
    // Then it begins anew.
    assert_eq!(first_too_many(&mut offences, [6, 7, 8, 9]), None);
    assert_eq!(
        first_too_many(&mut Offences::new(limits()), (0..100).map(|n| n * 20)),
        None
    );
    // Across the end of a window.
    assert_eq!(
        first_too_many(&mut Offences::new(limits()), [57, 58, 59, 60, 61, 62]),
        Some(5)
    );
}

#[test]
fn a_kind_without_a_limit_is_not_counted_and_kinds_do_not_add_up() {
    let mut offences = Offences::new(limits());
    let client = source("192.0.2.1");
    for n in 0..1000 {
        assert!(!offences.offence(client, Offence::Scan, at(n / 100)));
    }
    assert_eq!(offences.watched(), 0);
    for _ in 0..4 {
        assert!(!offences.offence(client, Offence::Handshake, at(11)));
        assert!(!offences.offence(client, Offence::Unmatched, at(11)));
    }
}

#[test]
fn a_source_that_is_also_served_well_is_not_banned_until_that_is_long_ago() {
    let mut offences = Offences::new(limits());
    let nat = source("192.0.2.1");
    offences.good(nat, at(1));
    assert_eq!(first_too_many(&mut offences, vec![2; 100]), None);
    assert_eq!(
        first_too_many(&mut offences, vec![WINDOW + 2; 100]),
        None,
        "in the window before"
    );
    assert!(first_too_many(&mut offences, vec![3 * WINDOW; 100]).is_some());
}

#[test]
fn an_ipv6_subscriber_is_one_source_and_an_ipv4_address_is_one_however_it_is_written() {
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8:0:1::1"), source("2001:db8::1"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    assert_eq!(source("192.0.2.1").to_string(), "192.0.2.1");
    assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
    let overlaps = |one: &str, net: &str| source(one).overlaps(&net.parse().unwrap());
    assert!(overlaps("10.1.2.3", "10.0.0.0/8") && !overlaps("11.1.2.3", "10.0.0.0/8"));
    assert!(
        overlaps("2001:db8::1", "2001:db8::5/128"),
        "a part of it is trusted"
    );
    assert!(!overlaps("2001:db8::1", "2001:db8:1::/48"));
}

#[test]
fn a_ban_ends_by_itself_or_is_lifted_and_the_later_end_stands() {
    let mut bans = Bans::default();
    let ban = |until| Ban {
        source: source("192.0.2.1"),
        why: Why::Order,
        until: at(until),
    };
    assert_eq!(bans.add(ban(20)), Ok(at(20)));
    assert_eq!(bans.add(ban(10)), Ok(at(20)), "what the kernel is to be told");
    assert!(bans.is_banned(source("192.0.2.1"), at(19)));
    assert!(!bans.is_banned(source("192.0.2.1"), at(20)));
    assert!(bans.expire(at(19)).is_empty());
    assert_eq!(bans.expire(at(20)), [ban(20)]);
    assert!(bans.is_empty() && !bans.lift(source("192.0.2.1")));
    for n in 0..MAX_BANS {
        let source = Source::of(IpAddr::from(n.to_be_bytes()));
        bans.add(Ban { source, ..ban(9) }).unwrap();
    }
    assert_eq!(bans.add(ban(30)), Err(Full));
}

#[test]
fn what_a_ban_was_for_is_known_by_its_word() {
    for why in Offence::ALL.map(Why::Offence).into_iter().chain([Why::Order]) {
        assert_eq!(Why::of(why.code()), Some(why));
    }
    assert_eq!(Why::of("moods"), None);
}

proptest! {
    #[test]
    fn nobody_is_banned_for_fewer_offences_than_the_limit_and_memory_stays_bounded(
        deeds in prop::collection::vec((0u32..20_000, 0u64..5), 0..3000)
    ) {
        let mut offences = Offences::new(limits());
        let (mut now, mut since): (u64, HashMap<Source, u32>) = (0, HashMap::new());
        for (client, wait) in deeds {
            now += wait;
            let client = Source::of(IpAddr::from(client.to_be_bytes()));
            let count = since.entry(client).or_default();
            *count += 1;
            if offences.offence(client, Offence::Handshake, at(now)) {
                prop_assert!(*count >= 5);
                *count = 0;
            }
            prop_assert!(offences.watched() <= 2 * MOST_WATCHED);
        }
    }
}
