//! One watch: list, follow, resume, list again. Tells what it learns, and what went wrong; knows nothing of what others watch.
//!
//! The first list comes as a stream where the server has that (Kubernetes 1.32 and later), else in one answer from its watch cache
//! (`resourceVersion=0`, which takes no page size). A list is told only when it is complete, so that there is never a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::Api;
use kube::api::{GetParams, ListParams, VersionMatch, WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::counts::SourceCounts;
use super::failure::{Cause, Failure};
use super::resource::Scope;
use super::retry::Backoff;
use super::trim::Kept;
use crate::objects::Key;
use crate::source::manifest::object::Object;

/// Until the head of an answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Until a whole list.
const LIST: Duration = Duration::from_secs(120);
/// Without any event of a streamed list: an old server ignores the wish for one, and its end never comes.
const INITIAL: Duration = Duration::from_secs(10);
/// Beyond the time after which the server was asked to end a watch.
const GRACE: Duration = Duration::from_secs(30);
/// A watch that ends sooner is not begun again at once.
const SHORTEST: Duration = Duration::from_secs(1);
/// Between two questions for one object, with half of it by chance.
const POLL: Duration = Duration::from_secs(40);
/// The longest pause before the first request, so that a cluster that comes up doesn't ask all at once.
const START: Duration = Duration::from_millis(200);
/// The longest pause before a new list because the last version was compacted, as after a restart of the API server: that happens to all agents
/// together, and the larger the list, the longer they should be spread.
const RELIST: Duration = Duration::from_secs(1);
const RELIST_PER_OBJECT: Duration = Duration::from_millis(1);
const RELIST_AT_MOST: Duration = Duration::from_secs(15);

/// Between two attempts to read what the agent has no right to and can do without, with half of it by chance.
const SELDOM: Duration = Duration::from_secs(300);

/// Which watch.
pub(super) type FeedId = usize;

/// What a watch tells.
#[derive(Debug)]
pub(super) enum News {
    /// Everything there is; what was known and is not in it, is gone.
    All(Vec<Object>),
    Set(Object),
    Gone(Key),
    Failed(Failure),
    /// It is up (again).
    Well,
}

/// A watch, ready to run.
pub(super) struct Feed<K> {
    pub(super) id: FeedId,
    pub(super) scope: Scope,
    pub(super) api: Api<K>,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    pub(super) tell: mpsc::Sender<(FeedId, News)>,
    pub(super) counts: Arc<SourceCounts>,
    /// Objects of the last whole list.
    pub(super) size: AtomicU32,
}

/// Where a watch stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// Nothing is known, or only a list at least as new as this version helps.
    Nowhere(Start),
    /// Everything up to this resource version is known.
    At(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    /// Whatever the server's cache holds.
    Cached,
    /// Never older than what was seen: another server's cache may lag.
    NotOlder(String),
    /// The newest: the server's versions have gone back, as after a restored backup.
    Newest,
}

/// The other end has gone: nobody wants to know any more.
struct Unwanted;

impl<K: Kept> Feed<K> {
    /// Runs until nobody listens.
    pub(super) async fn follow(self) {
        let mut place = Place::Nowhere(Start::Cached);
        let mut streams = true;
        let mut backoff = Backoff::default();
        sleep(START.mul_f64(fastrand::f64())).await;
        loop {
            let begun = Instant::now();
            let was_listed = matches!(place, Place::At(_));
            match self.round(&mut place, streams, &mut backoff).await {
                Ok(Ok(())) if was_listed && begun.elapsed() < SHORTEST => {
                    sleep(SHORTEST.mul_f64(1.0 + fastrand::f64())).await;
                }
                Ok(Ok(())) => {}
                Ok(Err(failure)) if failure.cause == Cause::NoStreaming => streams = false,
                Ok(Err(failure)) => {
                    if failure.cause == Cause::Silent(INITIAL) {
                        streams = false;
                    }
                    let pause = self.judge(&failure, &mut place, &mut backoff);
                    if self.tell(News::Failed(failure)).await.is_err() {
                        return;
                    }
                    sleep(pause).await;
                }
                Err(Unwanted) => return,
            }
        }
    }

    /// Where to go on after a failure, and when.
    fn judge(&self, failure: &Failure, place: &mut Place, backoff: &mut Backoff) -> Duration {
        self.counts.failure(self.scope.resource);
        match (&failure.cause, &place) {
            (Cause::TooOld, Place::At(version)) => {
                *place = Place::Nowhere(Start::NotOlder(version.clone()));
                return before_relist(self.size.load(Ordering::Relaxed), fastrand::f64());
            }
            (Cause::TooOld | Cause::TooNew, _) => *place = Place::Nowhere(Start::Newest),
            (Cause::Forbidden(_), _) if self.scope.resource.without().is_some() => {
                return SELDOM.mul_f64(1.0 + fastrand::f64());
            }
            _ => {}
        }
        backoff.next(fastrand::f64(), failure.wait)
    }

    /// One list or watch, to its end.
    async fn round(
        &self,
        place: &mut Place,
        streams: bool,
        backoff: &mut Backoff,
    ) -> Result<Result<(), Failure>, Unwanted> {
        let version = match (&*place, streams) {
            (Place::Nowhere(start), false) => return self.list(start.clone(), place, backoff).await,
            (Place::Nowhere(start), true) => start.version().to_owned(),
            (Place::At(version), _) => version.clone(),
        };
        // The server ends a watch after this, by chance, so that agents don't come back together.
        let seconds = fastrand::u32(300..600);
        let params = WatchParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: matches!(place, Place::Nowhere(_)),
        };
        match timeout(ANSWER, self.api.watch(&params, &version)).await {
            Err(_elapsed) => Ok(Err(Cause::Silent(ANSWER).into())),
            Ok(Err(error)) => Ok(Err(error.into())),
            Ok(Ok(stream)) => {
                let silence = Duration::from_secs(seconds.into()) + GRACE;
                self.read(Box::pin(stream), silence, place, backoff).await
            }
        }
    }

    async fn read(
        &self,
        mut stream: impl Stream<Item = kube::Result<WatchEvent<K>>> + Unpin,
        silence: Duration,
        place: &mut Place,
        backoff: &mut Backoff,
    ) -> Result<Result<(), Failure>, Unwanted> {
        let mut initial = match place {
            Place::Nowhere(_) => Some(Vec::new()),
            Place::At(_) => {
                self.tell(News::Well).await?;
                None
            }
        };
        loop {
            let patience = if initial.is_some() { INITIAL } else { silence };
            let event = match timeout(patience, stream.next()).await {
                Err(_elapsed) => return Ok(Err(Cause::Silent(patience).into())),
                Ok(None) if initial.is_some() => return Ok(Err(Cause::CutShort.into())),
                Ok(None) => return Ok(Ok(())),
                Ok(Some(Err(error))) => return Ok(Err(error.into())),
                Ok(Some(Ok(event))) => event,
            };
            match event {
                WatchEvent::Error(status) => return Ok(Err((*status).into())),
                WatchEvent::Bookmark(bookmark) => {
                    backoff.reset();
                    let is_end = bookmark
                        .metadata
                        .annotations
                        .contains_key("k8s.io/initial-events-end");
                    if is_end && let Some(all) = initial.take() {
                        self.counts.list(self.scope.resource);
                        self.note_size(all.len());
                        self.tell(News::All(all)).await?;
                    }
                    if initial.is_none() {
                        *place = Place::At(bookmark.metadata.resource_version);
                    }
                }
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let (version, object) = kept(object);
                    match &mut initial {
                        Some(all) => all.push(object),
                        None => self.step(version, place, News::Set(object)).await?,
                    }
                }
                WatchEvent::Deleted(object) if initial.is_none() => {
                    let (version, object) = kept(object);
                    let gone = object.reference();
                    let key = Key::new(&*gone.namespace, &*gone.name);
                    self.step(version, place, News::Gone(key)).await?;
                }
                WatchEvent::Deleted(_) => {}
            }
        }
    }

    async fn step(&self, version: Option<String>, place: &mut Place, news: News) -> Result<(), Unwanted> {
        self.counts.event(self.scope.resource);
        self.tell(news).await?;
        if let Some(version) = version {
            *place = Place::At(version);
        }
        Ok(())
    }

    async fn list(
        &self,
        start: Start,
        place: &mut Place,
        backoff: &mut Backoff,
    ) -> Result<Result<(), Failure>, Unwanted> {
        let params = ListParams {
            label_selector: self.labels.clone(),
            field_selector: self.fields.clone(),
            version_match: (start != Start::Newest).then_some(VersionMatch::NotOlderThan),
            resource_version: (start != Start::Newest).then(|| start.version().to_owned()),
            ..ListParams::default()
        };
        let list = match timeout(LIST, self.api.list(&params)).await {
            Err(_elapsed) => return Ok(Err(Cause::Silent(LIST).into())),
            Ok(Err(error)) => return Ok(Err(error.into())),
            Ok(Ok(list)) => list,
        };
        let Some(version) = list.metadata.resource_version else {
            return Ok(Err(Cause::Malformed("it has no resourceVersion").into()));
        };
        backoff.reset();
        self.counts.list(self.scope.resource);
        let all: Vec<_> = list.items.into_iter().map(|object| kept(object).1).collect();
        self.note_size(all.len());
        self.tell(News::All(all)).await?;
        *place = Place::At(version);
        Ok(Ok(()))
    }

    /// Asks for the one object `name` now and then, until nobody listens; soon again while it isn't there.
    pub(super) async fn poll(self, name: String) {
        let mut backoff = Backoff::default();
        loop {
            // From the server's cache, like the watches.
            let asking = timeout(ANSWER, self.api.get_with(&name, &GetParams::any())).await;
            let answer = match asking {
                Err(_elapsed) => Err(Cause::Silent(ANSWER).into()),
                Ok(Err(error)) => Err(Failure::from(error)),
                Ok(Ok(object)) => Ok(kept(object).1),
            };
            let (news, pause) = match answer {
                Ok(object) => {
                    backoff.reset();
                    (News::All(vec![object]), POLL.mul_f64(1.0 + fastrand::f64()))
                }
                Err(failure) if failure.cause == Cause::NotFound => {
                    (News::All(Vec::new()), backoff.next(fastrand::f64(), None))
                }
                Err(failure) => {
                    self.counts.failure(self.scope.resource);
                    let pause = backoff.next(fastrand::f64(), failure.wait);
                    (News::Failed(failure), pause)
                }
            };
            if self.tell(news).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    }

    fn note_size(&self, objects: usize) {
        let objects = u32::try_from(objects).unwrap_or(u32::MAX);
        self.size.store(objects, Ordering::Relaxed);
    }

    async fn tell(&self, news: News) -> Result<(), Unwanted> {
        self.tell.send((self.id, news)).await.map_err(|_| Unwanted)
    }
}

impl Start {
    fn version(&self) -> &str {
        match self {
            Self::Cached => "0",
            Self::NotOlder(version) => version,
            Self::Newest => "",
        }
    }
}

/// `random` is from 0 to 1.
fn before_relist(objects: u32, random: f64) -> Duration {
    let longest = RELIST + RELIST_PER_OBJECT.saturating_mul(objects);
    longest.min(RELIST_AT_MOST).mul_f64(random)
}

/// The object without what nobody reads, and its resource version.
fn kept<K: Kept>(mut object: K) -> (Option<String>, Object) {
    let version = object.meta_mut().resource_version.take();
    object.trim();
    (
        version.filter(|version| !version.is_empty()),
        object.into_object(),
    )
}

#[cfg(test)]
mod tests;
