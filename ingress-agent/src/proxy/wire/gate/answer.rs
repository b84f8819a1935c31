//! The agent's answers to requests that no service will see.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::proxy::moment;
use crate::proxy::wire::Refusal;

/// The whole answer to a refused request: status from the reason, the reason's code in header and body, then the end.
pub(crate) fn answer(refusal: Refusal, tell_reason: bool) -> Vec<u8> {
    let status = refusal.reason.status();
    let code = refusal.reason.code();
    let header = if tell_reason {
        format!("x-ingress-agent-reason: {code}\r\n")
    } else {
        String::new()
    };
    format!(
        "HTTP/1.1 {} {}\r\ndate: {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n{header}\r\n{code}\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        http_date(SystemTime::now()),
        code.len().saturating_add(1),
    )
    .into_bytes()
}

/// Gives the present date (RFC 9110, 6.6.1) as text that is made once a second.
pub(super) fn with_date(give: impl FnOnce(&[u8])) {
    thread_local! {
        /// The text, and until when it is the date.
        static MADE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
    }
    let now = moment::now();
    MADE.with_borrow_mut(|made| match made {
        Some((until, text)) if now < *until => give(text.as_bytes()),
        _ => {
            let wall = SystemTime::now();
            let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let rest =
                Duration::from_secs(1).saturating_sub(Duration::from_nanos(since.subsec_nanos().into()));
            let (_, text) = made.insert((now + rest, http_date(wall)));
            give(text.as_bytes());
        }
    });
}

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// IMF-fixdate (RFC 9110 5.6.7).
fn http_date(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let weekday = pick(&DAYS, days % 7);
    let name = pick(&MONTHS, month);
    format!(
        "{weekday}, {day:02} {name} {year:04} {:02}:{:02}:{:02} GMT",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

fn pick(names: &[&'static str], index: u64) -> &'static str {
    usize::try_from(index)
        .ok()
        .and_then(|i| names.get(i).copied())
        .unwrap_or_default()
}

/// Year, month from 0 and day from 1 of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let february = if days_of_year(year) == 366 { 29 } else { 28 };
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn days_of_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_rfc_9110_wants_it() {
        let at = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(at(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(at(1_798_761_599), "Thu, 31 Dec 2026 23:59:59 GMT");
    }
}
