use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn clock(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn lease(holder: &str, second: i64, seats: &str) -> Lease {
    Lease {
        metadata: ObjectMeta {
            annotations: Some([(SEATS_ANNOTATION.to_owned(), seats.to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(12),
            renew_time: Some(MicroTime(clock(second))),
            ..LeaseSpec::default()
        }),
    }
}

const FULL: &str = "a@1,b@1";

fn me() -> Rules {
    Rules::new("me".into())
}

#[test]
fn a_lease_is_taken_when_nobody_has_it_and_kept_while_it_is_ours() {
    let (mut rules, now) = (me(), Instant::now());
    assert_eq!(rules.decide(None, now, clock(1)), Act::Create);
    assert_eq!(rules.decide(Some(&lease("", 1, FULL)), now, clock(1)), Act::Hold);
    assert_eq!(
        rules.decide(Some(&lease("me", 1, FULL)), now, clock(1)),
        Act::Hold
    );
}

#[test]
fn anothers_lease_is_taken_only_when_it_was_seen_unchanged_for_its_duration() {
    let (mut rules, start) = (me(), Instant::now());
    // Its own clock is years behind: that says nothing.
    let mut at = |renewed, seconds| {
        let now = start + Duration::from_secs(seconds);
        rules.decide(Some(&lease("other", renewed, FULL)), now, clock(1_000_000_000))
    };
    assert_eq!(at(1, 0), Act::Wait);
    assert_eq!(at(1, 11), Act::Wait);
    assert_eq!(at(2, 12), Act::Wait, "it was renewed");
    assert_eq!(at(2, 23), Act::Wait);
    assert_eq!(at(2, 24), Act::Hold);
}

#[test]
fn a_seat_is_taken_when_one_is_free_kept_by_signs_and_taken_away_when_these_end() {
    let (mut rules, start) = (me(), Instant::now());
    let with = |seats| lease("other", 1, seats);
    assert_eq!(rules.decide(Some(&with("a@1")), start, clock(1)), Act::Sit);
    let written = rules.written(Act::Sit, Some(with("a@1")), start, clock(5));
    let spec = written.spec.as_ref().unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some("other"));
    assert_eq!(
        seats(&written),
        [("a".into(), "1".into()), ("me".into(), "5".into())]
    );
    let soon = start + Duration::from_secs(5);
    assert_eq!(rules.decide(Some(&written), soon, clock(6)), Act::Wait);
    let mut holder = Rules::new("other".into());
    let mut prune = |seconds| {
        let now = start + Duration::from_secs(seconds);
        assert_eq!(holder.decide(Some(&written), now, clock(6)), Act::Hold);
        seats(&holder.written(Act::Hold, Some(written.clone()), now, clock(6))).len()
    };
    assert_eq!((prune(0), prune(170), prune(181)), (2, 2, 0));
}

#[test]
fn whoever_ends_gives_back_the_lease_or_the_seat() {
    let mut rules = me();
    let held = rules.given_back(lease("me", 1, FULL)).unwrap();
    assert_eq!(held.spec.unwrap().holder_identity.as_deref(), Some(""));
    let seated = rules.given_back(lease("other", 1, "me@1,b@1")).unwrap();
    assert_eq!(seats(&seated), [("b".into(), "1".into())]);
    assert_eq!(seated.spec.unwrap().holder_identity.as_deref(), Some("other"));
    assert_eq!(rules.given_back(lease("other", 1, FULL)), None);
}

#[test]
fn a_broken_list_of_seats_costs_nothing_but_the_seats() {
    let long = "x@1,".repeat(100_000);
    for text in ["", ",,,", "@", "a", long.as_str()] {
        let mut rules = me();
        rules.decide(Some(&lease("other", 1, text)), Instant::now(), clock(1));
        let written = rules.written(Act::Hold, Some(lease("other", 1, text)), Instant::now(), clock(1));
        assert!(seats(&written).len() <= SEATS, "{text:.10}");
    }
}

/// Agents with a Lease between them, by virtual time.
struct World {
    start: Instant,
    agents: Vec<(Rules, Duration, bool)>,
    lease: Option<Lease>,
    requests: u32,
}

const DAY: i64 = 1_800_000_000;

impl World {
    fn new(agents: usize) -> Self {
        let agent = |index| (Rules::new(format!("agent-{index}")), Duration::ZERO, true);
        Self {
            start: Instant::now(),
            agents: (0..agents).map(agent).collect(),
            lease: None,
            requests: 0,
        }
    }

    /// Until that time, by whoever looks first.
    fn run(&mut self, until: Duration) {
        let mut random = 0.1_f64;
        loop {
            let next = self.agents.iter_mut().filter(|(_, _, lives)| *lives);
            let Some((rules, at, _)) = next.min_by_key(|(_, at, _)| *at) else {
                return;
            };
            if *at > until {
                return;
            }
            let now = self.start + *at;
            let time = clock(DAY + as_seconds(*at));
            self.requests += 1;
            let act = rules.decide(self.lease.as_ref(), now, time);
            if act != Act::Wait {
                self.requests += 1;
                self.lease = Some(rules.written(act, self.lease.take(), now, time));
            }
            random = (random * 977.0 + 0.137).fract();
            *at += rules.pause(random);
        }
    }

    fn holder(&self) -> String {
        let spec = self.lease.as_ref().and_then(|lease| lease.spec.clone());
        spec.and_then(|spec| spec.holder_identity).unwrap_or_default()
    }

    fn kill(&mut self, name: &str) {
        for (rules, _, lives) in &mut self.agents {
            *lives &= rules.me != name;
        }
    }
}

#[test]
fn five_hundred_agents_ask_a_few_times_a_second_and_the_holder_is_replaced_within_twenty_seconds() {
    let hour = Duration::from_secs(3600);
    let mut world = World::new(500);
    world.run(hour);
    let before = world.requests;
    world.run(hour * 2);
    let asked = f64::from(world.requests - before) / hour.as_secs_f64();
    // The three that matter 1.1 times a second, each other one every 7.5 minutes.
    assert!(asked < 3.0, "{asked} a second");

    let first = world.holder();
    world.kill(&first);
    world.run(hour * 2 + Duration::from_secs(20));
    let second = world.holder();
    assert_ne!(second, first);

    // With all that have seats: somebody else looks, and makes sure.
    let lost: Vec<_> = seats(world.lease.as_ref().unwrap())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    world.run(hour * 3);
    world.kill(&second);
    for name in seats(world.lease.as_ref().unwrap())
        .into_iter()
        .map(|(name, _)| name)
        .chain(lost)
    {
        world.kill(&name);
    }
    world.run(hour * 3 + Duration::from_secs(60));
    assert_ne!(world.holder(), second);
}

#[test]
fn a_clock_that_is_wrong_makes_nobody_look_more_often_for_long() {
    let (mut rules, start) = (me(), Instant::now());
    let mut looks = 0;
    let mut at = Duration::ZERO;
    while at < Duration::from_secs(3600) {
        // Renewed all the time, by a clock that is an hour behind ours.
        let renewed = as_seconds(at) / 4 * 4;
        rules.decide(
            Some(&lease("other", renewed, FULL)),
            start + at,
            clock(renewed + 3600),
        );
        at += rules.pause(0.5);
        looks += 1;
    }
    assert!(looks < 25, "{looks}");
}
