//! The keys of TLS session tickets (RFC 5077, RFC 8446 4.6.1): one ring for all workers, which rotates and passes from agent to agent.
//!
//! A ticket is the key's name, a nonce, and the session sealed with AES-256-GCM, the name authenticated with it. The newest key seals; a key opens what it
//! sealed for as long again. Time is an argument: what rustls asks goes by the wall clock, which may jump without harm but that of a full handshake.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::server::ProducesTickets;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

/// For how long a key seals, in seconds. Random nonces are safe for 2³² tickets a key (NIST SP 800-38D, 8.3): 198,000 a second.
const SEALS: u64 = 6 * 3600;
/// For how long it opens.
const OPENS: u64 = 2 * SEALS;
/// More than two come together only where agents follow each other quickly.
const MOST_KEYS: usize = 8;
/// A session with a client's certificates is larger than this by far; nobody else's ticket is.
const LONGEST: usize = 16 * 1024;

const NAME: usize = 16;
const NONCE: usize = 12;
const SECRET: usize = 32;

/// The ring; read without a lock at each handshake.
pub struct TicketKeys {
    ring: ArcSwap<Vec<Arc<Key>>>,
}

struct Key {
    name: [u8; NAME],
    secret: [u8; SECRET],
    /// Seconds since 1970.
    made: u64,
    cipher: RandomizedNonceKey,
}

/// A key on its way to the agent that takes over, by the control socket that only this agent's user can open.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedKey {
    /// Base64, as is `secret`.
    name: String,
    secret: String,
    /// Seconds since 1970.
    made: u64,
}

impl TicketKeys {
    /// # Errors
    /// When there is no randomness to be had.
    pub fn new(now: u64) -> Result<Self, Unspecified> {
        Ok(Self {
            ring: ArcSwap::from_pointee(vec![Arc::new(Key::generate(now)?)]),
        })
    }

    /// What the next agent needs to open our tickets.
    pub fn share(&self, now: u64) -> Vec<SharedKey> {
        let ring = self.ring.load();
        ring.iter()
            .filter(|key| key.opens(now))
            .map(|key| key.share())
            .collect()
    }

    /// Takes over the keys of the agents before; how many are of use. If one of them still seals, it goes on sealing here, so that an agent
    /// that takes the traffic back can open what was sealed meanwhile. To be called before the first handshake: it replaces the own first key then.
    pub fn adopt(&self, shared: &[SharedKey], now: u64) -> usize {
        let mut names = HashSet::new();
        let mut keys: Vec<_> = shared.iter().filter_map(Key::adopt).collect();
        keys.retain(|key| key.opens(now) && names.insert(key.name));
        keys.sort_by_key(|key| std::cmp::Reverse(key.made));
        keys.truncate(MOST_KEYS - 1);
        let adopted = keys.len();
        let mut keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        if !keys.first().is_some_and(|newest| newest.seals(now)) {
            keys.splice(0..0, self.ring.load().iter().take(1).cloned());
        }
        self.ring.store(Arc::new(keys));
        adopted
    }

    fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        self.rotate(now);
        let ring = self.ring.load();
        ring.first()?.seal(session).ok()
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        if ticket.len() > LONGEST {
            return None;
        }
        let (name, sealed) = ticket.split_first_chunk::<NAME>()?;
        let ring = self.ring.load();
        // Names are no secret.
        let key = ring.iter().find(|key| key.name == *name && key.opens(now))?;
        key.open(sealed).ok()
    }

    /// Makes a new key when the newest has done its time. Without randomness the old one goes on.
    fn rotate(&self, now: u64) {
        if self.ring.load().first().is_some_and(|newest| newest.seals(now)) {
            return;
        }
        let Ok(fresh) = Key::generate(now).map(Arc::new) else {
            return;
        };
        self.ring.rcu(|ring| {
            if ring.first().is_some_and(|newest| newest.seals(now)) {
                return Arc::clone(ring); // another worker was faster
            }
            let older = ring.iter().filter(|key| key.opens(now)).take(MOST_KEYS - 1);
            Arc::new(std::iter::once(&fresh).chain(older).cloned().collect())
        });
    }
}

impl Key {
    fn generate(now: u64) -> Result<Self, Unspecified> {
        let (mut name, mut secret) = ([0; NAME], [0; SECRET]);
        aws_lc_rs::rand::fill(&mut name)?;
        aws_lc_rs::rand::fill(&mut secret)?;
        Self::of(name, secret, now)
    }

    fn of(name: [u8; NAME], secret: [u8; SECRET], made: u64) -> Result<Self, Unspecified> {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &secret)?;
        Ok(Self {
            name,
            secret,
            made,
            cipher,
        })
    }

    fn adopt(shared: &SharedKey) -> Option<Self> {
        let name = BASE64.decode(&shared.name).ok()?.try_into().ok()?;
        let secret = BASE64.decode(&shared.secret).ok()?.try_into().ok()?;
        Self::of(name, secret, shared.made).ok()
    }

    fn share(&self) -> SharedKey {
        SharedKey {
            name: BASE64.encode(self.name),
            secret: BASE64.encode(self.secret),
            made: self.made,
        }
    }

    fn seals(&self, now: u64) -> bool {
        now.saturating_sub(self.made) < SEALS
    }

    fn opens(&self, now: u64) -> bool {
        now.saturating_sub(self.made) < OPENS
    }

    fn seal(&self, session: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut sealed = session.to_vec();
        let nonce = self
            .cipher
            .seal_in_place_append_tag(Aad::from(self.name), &mut sealed)?;
        Ok([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    /// What comes after the name.
    fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or(Unspecified)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self
            .cipher
            .open_in_place(nonce, Aad::from(self.name), &mut opened)?
            .len();
        opened.truncate(length);
        Ok(opened)
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    UnixTime::now().as_secs()
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    /// In seconds; a ticket that is sealed at a key's end can be opened for half of this.
    fn lifetime(&self) -> u32 {
        u32::try_from(OPENS).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, now())
    }
}

/// Without secrets.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketKeys({})", self.ring.load().len())
    }
}

/// Without the secret.
impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKey({}, made {})", self.name, self.made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000;

    fn keys(now: u64) -> TicketKeys {
        TicketKeys::new(now).unwrap()
    }

    #[test]
    fn ticket_keys_rotate_and_open_their_tickets_for_as_long_again() {
        let keys = keys(START);
        let first = keys.seal(b"session", START).unwrap();
        let later = keys.seal(b"session", START + SEALS - 1).unwrap();
        assert_eq!(first[..NAME], later[..NAME], "six hours with one key");
        let rotated = keys.seal(b"session", START + SEALS).unwrap();
        assert_ne!(first[..NAME], rotated[..NAME], "then a new one");
        let opened = |ticket: &[u8], now| keys.open(ticket, now).as_deref() == Some(b"session");
        assert!(opened(&later, START + OPENS - 1));
        assert!(!opened(&later, START + OPENS));
        assert!(opened(&rotated, START + OPENS));
        // Nobody came for days.
        keys.seal(b"session", START + 20 * SEALS).unwrap();
        assert_eq!(keys.share(START + 20 * SEALS).len(), 1, "old keys are gone");
    }

    #[test]
    fn a_clock_that_jumps_back_does_no_harm() {
        let keys = keys(START);
        let ticket = keys.seal(b"session", START - 3600).unwrap();
        assert!(keys.open(&ticket, START - 7200).is_some());
    }

    #[test]
    fn an_agent_that_takes_over_opens_the_tickets_of_the_one_before_and_seals_with_its_key() {
        let old = keys(START);
        let ticket = old.seal(b"session", START + 10).unwrap();
        let new = keys(START + 20);
        assert_eq!(new.adopt(&old.share(START + 20), START + 20), 1);
        assert_eq!(new.open(&ticket, START + 20).as_deref(), Some(&b"session"[..]));
        let since = new.seal(b"later", START + 30).unwrap();
        assert_eq!(old.open(&since, START + 30).as_deref(), Some(&b"later"[..]));
    }

    #[test]
    fn keys_that_do_not_fit_are_left_out() {
        let old = keys(START);
        let mut shared = old.share(START);
        shared.extend(old.share(START));
        shared.push(SharedKey {
            name: "garbage".into(),
            ..shared[0].clone()
        });
        shared.push(SharedKey {
            secret: String::new(),
            ..shared[0].clone()
        });
        let new = keys(START);
        assert_eq!(new.adopt(&shared, START), 1);
        let expired = keys(START + OPENS);
        assert_eq!(expired.adopt(&shared, START + OPENS), 0);
        assert!(expired.seal(b"", START + OPENS).is_some());
        let many: Vec<_> = (0..100).flat_map(|_| keys(START).share(START)).collect();
        assert_eq!(new.adopt(&many, START), MOST_KEYS - 1);
    }

    #[test]
    fn a_ticket_that_was_changed_anywhere_opens_nothing() {
        let keys = keys(START);
        let ticket = keys.seal(b"session", START).unwrap();
        for at in 0..ticket.len() {
            assert_eq!(keys.open(&ticket[..at], START), None);
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(keys.open(&changed, START), None, "{at}");
        }
        let mut long = ticket.clone();
        long.resize(LONGEST + 1, 0);
        assert_eq!(keys.open(&long, START), None);
    }

    #[test]
    fn no_secret_is_in_what_is_logged() {
        let keys = keys(START);
        let shared = keys.share(START);
        assert!(!format!("{shared:?}").contains(&shared[0].secret));
    }
}
