use super::*;

fn route_of(book: &mut Book) -> u32 {
    book.admit().number
}

#[test]
fn a_number_is_given_once_and_there_is_an_end_to_them() {
    let mut book = Book::default();
    let first = route_of(&mut book);
    let second = route_of(&mut book);
    assert!(first != NOBODY && second != NOBODY && first != second);
    for n in 0..MOST_OWNERS {
        let port = u16::try_from(n % 60_000).unwrap();
        let address = SocketAddr::from(([10, 0, u8::try_from(n / 60_000).unwrap(), 1], port));
        let owner = book.admit();
        book.endpoints.insert(address, owner);
    }
    assert_eq!(book.admit().number, OTHERS);
    assert!(Arc::ptr_eq(&book.admit(), &book.admit()), "one for all of them");
}

#[test]
fn sums_of_nobody_are_let_go_and_an_owner_that_is_in_use_stays() {
    let mut book = Book::default();
    let held = book.admit();
    book.endpoints
        .insert("10.0.0.1:80".parse().unwrap(), Arc::clone(&held));
    let key = |owner| SumKey {
        side: BACKEND,
        listener: 0,
        owner,
    };
    let sums = [held.number, 4_000, OTHERS, NOBODY].map(|owner| (key(owner), Sums::default()));
    let gone = book.forget_idle(&sums.into_iter().collect());
    assert_eq!(gone, [key(4_000)]);
    assert_eq!(book.endpoints.len(), 1);
}
