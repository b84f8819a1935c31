use super::*;

fn endpoint(n: usize) -> SocketAddr {
    let port = u16::try_from(n % 60_000).unwrap();
    SocketAddr::from(([10, 0, u8::try_from(n / 60_000).unwrap(), 1], port))
}

fn key(owner: u32) -> SumKey {
    SumKey {
        side: BACKEND,
        listener: 0,
        owner,
    }
}

#[test]
fn a_number_is_given_once_and_there_is_an_end_to_them() {
    let accounts = Accounts::new(None, None);
    let first = accounts.endpoint(endpoint(0));
    assert!(Arc::ptr_eq(&first, &accounts.endpoint(endpoint(0))));
    let numbers: HashSet<_> = (0..MOST_OWNERS)
        .map(|n| accounts.endpoint(endpoint(n)).number)
        .collect();
    assert_eq!(numbers.len(), MOST_OWNERS);
    assert!(!numbers.contains(&NOBODY) && !numbers.contains(&OTHERS));
    let one_more = accounts.endpoint(endpoint(MOST_OWNERS));
    assert_eq!((one_more.side, one_more.number), (BACKEND, OTHERS));
}

#[test]
fn an_owner_that_nothing_comes_from_makes_room_and_its_number_does_not_come_again() {
    let accounts = Accounts::new(None, None);
    let held = accounts.endpoint(endpoint(0));
    let busy = accounts.endpoint(endpoint(1)).number;
    (2..MOST_OWNERS).for_each(|n| drop(accounts.endpoint(endpoint(n))));
    // A window is as long as two turns.
    for _ in 0..2 {
        accounts.turn();
        accounts.endpoint(endpoint(1)).samples.rtt.observe(7);
    }
    accounts.turn();
    let left: Vec<_> = accounts.owners().iter().map(|owner| owner.number).collect();
    assert!(left.contains(&held.number) && left.contains(&busy), "{left:?}");
    assert_eq!(left.len(), 2 + 2, "and the two that stand for all others");
    assert!(accounts.endpoint(endpoint(2)).number > busy);
}

#[test]
fn sums_of_nobody_are_let_go_and_those_of_listeners_and_others_stay() {
    let mut book = Book::default();
    let sums = [4_000, OTHERS, NOBODY].map(|owner| (key(owner), Sums::default()));
    let now = Reading {
        sums: sums.into_iter().collect(),
        ..Reading::default()
    };
    assert_eq!(book.forget_idle(&Reading::default(), &now), [key(4_000)]);
}
