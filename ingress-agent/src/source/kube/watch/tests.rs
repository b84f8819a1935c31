//! What one watch asks of an API server, and what it makes of the answers. Time is virtual.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::client::Body;

use super::*;
use crate::source::kube::resource::Resource;

/// Answers, in order; then silence.
type Script = Vec<(u16, String)>;

/// 200, and the body never ends.
const ENDLESS: u16 = 299;

struct Asked {
    questions: Arc<Mutex<Vec<String>>>,
    inbox: mpsc::Receiver<(FeedId, News)>,
}

fn follow(script: Script) -> Asked {
    let questions = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&questions);
    let script = Arc::new(Mutex::new(VecDeque::from(script)));
    let server = tower::service_fn(move |request: Request<Body>| {
        asked.lock().unwrap().push(request.uri().to_string());
        let answer = script.lock().unwrap().pop_front();
        async move {
            match answer {
                Some((status, body)) => {
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(body)));
                    let rest = if status == ENDLESS {
                        stream::pending().boxed()
                    } else {
                        stream::empty().boxed()
                    };
                    let body = StreamBody::new(stream::iter([frame]).chain(rest));
                    let status = if status == ENDLESS { 200 } else { status };
                    Ok::<_, kube::Error>(Response::builder().status(status).body(body).unwrap())
                }
                None => std::future::pending().await,
            }
        }
    });
    let (tell, inbox) = mpsc::channel(100);
    let feed: Feed<Service> = Feed {
        id: 1,
        scope: Scope {
            resource: Resource::Services,
            namespace: None,
            name: None,
        },
        api: Api::all(Client::new(server, "default")),
        labels: None,
        fields: None,
        tell,
        counts: crate::source::kube::counts(),
        size: AtomicU32::new(0),
    };
    tokio::spawn(feed.follow());
    Asked { questions, inbox }
}

impl Asked {
    /// The next piece of news, in short.
    async fn next(&mut self) -> String {
        let (_, news) = self.inbox.recv().await.unwrap();
        match news {
            News::All(all) => format!("all {}", all.len()),
            News::Set(object) => format!("set {}", object.reference().name),
            News::Gone(key) => format!("gone {}", key.name),
            News::Failed(failure) => format!("failed {:?}", failure.cause),
            News::Well => "well".to_owned(),
        }
    }

    async fn question(&self, index: usize) -> String {
        loop {
            if let Some(question) = self.questions.lock().unwrap().get(index) {
                return question.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn event(kind: &str, name: &str, version: u32) -> String {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "resourceVersion": version.to_string()},
    });
    serde_json::json!({"type": kind, "object": object}).to_string() + "\n"
}

fn end_of_list(version: u32) -> String {
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}},
    });
    serde_json::json!({"type": "BOOKMARK", "object": object}).to_string() + "\n"
}

fn status(code: u16, message: &str) -> String {
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message, "reason": "x"})
        .to_string()
}

fn has(question: &str, parts: &[&str]) {
    for part in parts {
        let is_there = match part.strip_prefix('!') {
            Some(absent) => !question.contains(absent),
            None => question.contains(part),
        };
        assert!(is_there, "{part}: {question}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_streamed_list_is_told_when_it_is_complete_and_the_watch_goes_on_where_it_was() {
    let stream =
        event("ADDED", "a", 3) + &event("ADDED", "b", 4) + &end_of_list(7) + &event("DELETED", "a", 8);
    let mut asked = follow(vec![(200, stream)]);
    assert_eq!(asked.next().await, "all 2");
    assert_eq!(asked.next().await, "gone a");
    has(
        &asked.question(0).await,
        &[
            "sendInitialEvents=true",
            "resourceVersion=0",
            "allowWatchBookmarks=true",
        ],
    );
    has(
        &asked.question(1).await,
        &["resourceVersion=8", "watch=true", "!sendInitialEvents"],
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_without_streaming_lists_is_listed_from_its_cache() {
    let refusal = status(
        422,
        "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
    );
    let list = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "5"},
        "items": [{"metadata": {"name": "a", "namespace": "shop"}}],
    });
    let mut asked = follow(vec![(422, refusal), (200, list.to_string())]);
    assert_eq!(asked.next().await, "all 1");
    has(
        &asked.question(1).await,
        &[
            "resourceVersion=0",
            "resourceVersionMatch=NotOlderThan",
            "!watch=",
            "!limit",
        ],
    );
    has(&asked.question(2).await, &["resourceVersion=5", "watch=true"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_the_wish_for_a_streamed_list_is_listed_too() {
    let list = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "5"}, "items": [],
    });
    // The end of the list never comes.
    let mut asked = follow(vec![(ENDLESS, event("ADDED", "a", 3)), (200, list.to_string())]);
    assert_eq!(asked.next().await, "failed Silent(10s)");
    assert_eq!(asked.next().await, "all 0");
    has(
        &asked.question(1).await,
        &["resourceVersion=0", "!sendInitialEvents"],
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_is_not_told_and_asked_for_again() {
    let mut asked = follow(vec![(200, event("ADDED", "a", 3)), (200, end_of_list(5))]);
    assert_eq!(asked.next().await, "failed CutShort");
    assert_eq!(asked.next().await, "all 0");
    has(&asked.question(1).await, &["sendInitialEvents=true"]);
}

#[tokio::test(start_paused = true)]
async fn after_a_compacted_version_comes_a_whole_list_that_is_not_older_than_what_was_seen() {
    let gone = serde_json::json!({"type": "ERROR", "object": {"code": 410, "message": "too old", "reason": "Expired"}});
    let again = event("ADDED", "b", 9) + &end_of_list(12);
    let mut asked = follow(vec![
        (
            200,
            event("ADDED", "a", 3) + &end_of_list(7) + &gone.to_string() + "\n",
        ),
        (200, again),
    ]);
    assert_eq!(asked.next().await, "all 1");
    assert_eq!(asked.next().await, "failed TooOld");
    assert_eq!(asked.next().await, "all 1");
    has(
        &asked.question(1).await,
        &["sendInitialEvents=true", "resourceVersion=7"],
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_versions_went_back_is_asked_for_its_newest() {
    let too_new = status(504, "Timeout: Too large resource version: 7, current: 3");
    let mut asked = follow(vec![
        (200, end_of_list(7)),
        (504, too_new),
        (200, event("ADDED", "a", 2) + &end_of_list(3)),
    ]);
    assert_eq!(asked.next().await, "all 0");
    assert_eq!(asked.next().await, "failed TooNew");
    assert_eq!(asked.next().await, "all 1");
    has(
        &asked.question(2).await,
        &[
            "sendInitialEvents=true",
            "!resourceVersion=0",
            "!resourceVersion=7",
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn an_asked_for_pause_is_kept_and_a_missing_right_is_tried_again() {
    let throttled = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 429, "message": "slow", "reason": "TooManyRequests",
        "details": {"retryAfterSeconds": 9},
    });
    let mut asked = follow(vec![
        (429, throttled.to_string()),
        (403, status(403, "forbidden")),
        (200, end_of_list(1)),
    ]);
    assert_eq!(asked.next().await, "failed Throttled");
    let begun = Instant::now();
    assert_eq!(asked.next().await, "failed Forbidden(\"forbidden\")");
    assert!(begun.elapsed() >= Duration::from_secs(9));
    assert_eq!(asked.next().await, "all 0");
}

#[test]
fn the_larger_the_list_the_longer_agents_are_spread_before_they_ask_for_it_again() {
    assert_eq!(before_relist(50, 1.0), Duration::from_millis(1050));
    assert_eq!(before_relist(10_000, 1.0), Duration::from_secs(11));
    assert_eq!(before_relist(10_000, 0.5), Duration::from_millis(5500));
    assert_eq!(before_relist(u32::MAX, 1.0), RELIST_AT_MOST);
}
