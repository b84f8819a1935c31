//! Which connections are used again, and what happens when one was closed meanwhile.

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One request and its answer, after which the connection is kept or not.
async fn first(backend: &Backend, upstreams: &Upstreams, answer: &[u8]) -> Peer {
    let exchange = async {
        collect(response(Ask::get(backend).send(upstreams).await))
            .await
            .unwrap()
    };
    let (_, peer) = tokio::join!(exchange, async {
        let mut peer = backend.accept().await;
        peer.read_head().await;
        peer.write(answer).await;
        peer
    });
    peer
}

#[test]
fn a_connection_serves_the_next_request_too() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut peer = first(&backend, &upstreams, OK).await;
        let (reply, ()) = tokio::join!(Ask::get(&backend).send(&upstreams), async {
            peer.read_head().await;
            peer.write(OK).await;
        });
        assert!(reply.as_ref().is_ok_and(|reply| reply.timing.reused()));
        assert_eq!(text(response(reply)).await, "ok");
        let expected = PoolStats {
            idle: 1,
            open: 1,
            created: 1,
            reused: 1,
        };
        assert_eq!(upstreams.stats(), expected);
    });
}

#[test]
fn a_connection_that_the_backend_wants_closed_is_not_kept() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        for answer in [
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: x-a, Close\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\n",
        ] {
            let mut peer = first(&backend, &upstreams, answer.as_bytes()).await;
            assert_eq!(upstreams.stats().open, 0, "{answer}");
            peer.closed().await;
        }
    });
}

#[test]
fn a_body_that_is_dropped_early_closes_its_connection() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (reply, mut peer) = tokio::join!(Ask::get(&backend).send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx").await;
            peer
        });
        drop(response(reply));
        peer.closed().await;
        assert_eq!(upstreams.stats().open, 0);
    });
}

#[test]
fn a_kept_connection_that_ended_is_passed_over() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        drop(first(&backend, &upstreams, OK).await);
        let_reactor_look().await;
        let ask = Ask::post(&backend, text_body("hello"));
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            assert_eq!(peer.read_text(5).await, "hello");
            peer.write(OK).await;
        });
        assert_eq!(text(response(reply)).await, "ok");
        assert_eq!(upstreams.stats().reused, 0);
    });
}

#[test]
fn a_kept_connection_that_spoke_without_being_asked_is_never_used() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut poisoned = first(&backend, &upstreams, OK).await;
        poisoned
            .write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            .await;
        let_reactor_look().await;
        let (reply, ()) = tokio::join!(Ask::get(&backend).send(&upstreams), backend.answer_and_close(OK));
        assert_eq!(text(response(reply)).await, "ok");
        poisoned.closed().await;
    });
}

#[test]
fn a_get_whose_kept_connection_is_closed_under_it_is_sent_again_once_on_a_new_one() {
    run(async {
        for reset in [false, true] {
            let (backend, upstreams) = (Backend::start().await, upstreams());
            let mut stale = first(&backend, &upstreams, OK).await;
            let (reply, ()) = tokio::join!(Ask::get(&backend).send(&upstreams), async {
                stale.read_head().await;
                if reset {
                    stale.reset();
                } else {
                    drop(stale);
                }
                backend.answer_and_close(OK).await;
            });
            assert!(reply.as_ref().is_ok_and(|reply| !reply.timing.reused()));
            assert_eq!(text(response(reply)).await, "ok");
        }
    });
}

#[test]
fn a_put_with_a_small_body_is_sent_again_whole() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut stale = first(&backend, &upstreams, OK).await;
        let ask = Ask {
            method: Method::PUT,
            ..Ask::post(&backend, text_body("hello"))
        };
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            stale.read_head().await;
            drop(stale);
            let mut peer = backend.accept().await;
            assert!(peer.read_head().await.contains("\r\ncontent-length: 5\r\n"));
            assert_eq!(peer.read_text(5).await, "hello");
            peer.write(OK).await;
        });
        assert_eq!(text(response(reply)).await, "ok");
    });
}

#[test]
fn a_post_whose_kept_connection_is_closed_under_it_is_not_sent_again() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut stale = first(&backend, &upstreams, OK).await;
        let ask = Ask::post(&backend, text_body("hello"));
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            stale.read_head().await;
            stale.read_text(5).await;
            drop(stale);
        });
        let failed = failure(reply);
        assert_eq!(failed.error, ProxyError::UpstreamReset { idle: true });
        assert!(failed.sent);
        assert_eq!(upstreams.stats().created, 1);
    });
}

#[test]
fn a_refused_connection_gives_the_untouched_body_back() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let ask = Ask::post(&backend, text_body("hello"));
        drop(backend);
        let failed = failure(ask.send(&upstreams).await);
        assert_eq!(
            failed.error,
            ProxyError::ConnectFailed(std::io::ErrorKind::ConnectionRefused)
        );
        assert!(!failed.sent && failed.body.is_some_and(|body| body.untouched()));
    });
}

#[test]
fn no_more_connections_are_kept_than_the_budget_of_the_process_allows() {
    run(async {
        let backend = Backend::start().await;
        let budget = Arc::new(IdleBudget::new(1, 9));
        let workers = [(); 2].map(|()| Upstreams::new(Settings::default(), Arc::clone(&budget)));
        let _kept = first(&backend, &workers[0], OK).await;
        first(&backend, &workers[1], OK).await.closed().await;
        assert_eq!((workers[0].stats().idle, workers[1].stats().open), (1, 0));
        drop(workers);
        assert_eq!(budget.idle(), 0);
    });
}

#[test]
fn idle_connections_of_an_endpoint_that_went_away_are_closed() {
    run(async {
        let (backend, other, upstreams) = (Backend::start().await, Backend::start().await, upstreams());
        let mut gone = first(&backend, &upstreams, OK).await;
        let _stays = first(&other, &upstreams, OK).await;
        upstreams.close_idle(&|address| *address == other.address);
        gone.closed().await;
        assert_eq!(upstreams.stats().idle, 1);
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    run(async {
        let budget = Arc::new(IdleBudget::default());
        let settings = Settings {
            idle_timeout: Duration::from_millis(50),
            ..Settings::default()
        };
        let upstreams = Upstreams::new(settings, Arc::clone(&budget));
        let backend = Backend::start().await;
        let mut peer = first(&backend, &upstreams, OK).await;
        peer.closed().await;
        assert_eq!(upstreams.stats().open, 0);
        assert_eq!(budget.idle(), 0);
    });
}

#[test]
fn a_request_of_which_nothing_was_taken_is_repeated_whatever_its_method() {
    let failed = |sent, idle| Failed {
        error: ProxyError::UpstreamReset { idle },
        sent,
        body: Some(Box::new(RequestBody::empty())),
    };
    assert!(failed(false, true).repeatable(&Method::POST).is_ok());
    assert!(failed(true, true).repeatable(&Method::POST).is_err());
    assert!(failed(true, true).repeatable(&Method::DELETE).is_ok());
    assert!(failed(true, false).repeatable(&Method::GET).is_err());
}

#[test]
fn a_head_that_breaks_off_on_a_kept_connection_is_not_asked_for_again() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let mut stale = first(&backend, &upstreams, OK).await;
        let (reply, ()) = tokio::join!(Ask::get(&backend).send(&upstreams), async {
            stale.read_head().await;
            stale.write(b"HTTP/1.1 2").await;
            drop(stale);
        });
        assert_eq!(failure(reply).error, ProxyError::UpstreamReset { idle: false });
        assert_eq!(upstreams.stats().created, 1);
    });
}

#[test]
fn an_answer_that_comes_before_the_connection_is_cut_is_still_the_answer() {
    run(async {
        let (backend, upstreams) = (Backend::start().await, upstreams());
        let (sender, body) = RequestBody::script(None, None);
        let ask = Ask::post(&backend, body);
        let (reply, ()) = tokio::join!(ask.send(&upstreams), async {
            let mut peer = backend.accept().await;
            peer.read_head().await;
            peer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
                .await;
            drop(peer);
            data(&sender, "more");
        });
        assert_eq!(text(response(reply)).await, "no");
        assert_eq!(upstreams.stats().open, 0);
    });
}
