use super::*;

const SETTINGS: Settings = Settings {
    failures: 3,
    window: Duration::from_secs(3600),
    pause: (Duration::from_millis(10), Duration::from_secs(1)),
};

/// The beginning of an attempt, later than what has failed until now: in another microsecond.
fn now_us() -> u64 {
    let before_us = clock::now_us();
    loop {
        let now_us = clock::now_us();
        if now_us > before_us {
            return now_us;
        }
    }
}

#[test]
fn failures_in_a_row_open_it() {
    let breaker = Breaker::new(SETTINGS);
    assert!(!breaker.failed(0, now_us(), "a") && !breaker.failed(0, now_us(), "b"));
    assert_eq!((breaker.state(), breaker.cut()), (State::Closed, None));
    assert!(breaker.failed(0, now_us(), "refused"));
    assert_eq!(breaker.state(), State::Open);
    assert!(!breaker.failed(0, now_us(), "late"), "one tends it already");
    breaker.wait_for_probe(Duration::from_millis(400));
    let cut = breaker.cut().unwrap();
    assert!((1..=400).contains(&cut.probe_in_ms) && !cut.is_server_state, "{cut:?}");
    let text = Cut { probe_in_ms: 7, ..cut }.to_string();
    assert_eq!(
        text,
        "its breaker is open after 3 failures in a row, the next probe is in 7 ms; the last failure: refused"
    );
    breaker.begin_probe();
    assert_eq!(
        breaker.cut().unwrap().to_string(),
        "its breaker is half-open after 3 failures in a row, a probe is under way; the last failure: refused"
    );
    breaker.close();
    assert_eq!((breaker.state(), breaker.is_cut()), (State::Closed, false));
    assert_eq!(State::ALL.map(|state| breaker.changes(state)), [1, 1, 1]);
    assert!(!breaker.failed(0, now_us(), "a"), "it begins anew");
}

#[test]
fn what_the_node_answers_others_takes_failures_back() {
    let breaker = Breaker::new(SETTINGS);
    let begun_us = now_us();
    for _ in 0..2 {
        assert!(!breaker.failed(0, begun_us, "slow"));
    }
    // Somebody else was answered after these attempts began: they were slow, the node was not away.
    breaker.answered(begun_us + ANSWERED_GRAIN_US + 1);
    for _ in 0..9 {
        assert!(!breaker.failed(0, begun_us, "slow"));
    }
    let later_us = begun_us + ANSWERED_GRAIN_US + 2;
    while clock::now_us() <= later_us {}
    assert!(!breaker.failed(0, now_us(), "refused") && !breaker.failed(0, now_us(), "refused"));
    assert!(breaker.failed(0, now_us(), "refused"));
}

/// A link that breaks soon after each handshake: nothing else was ever answered, and yet the node is there.
#[test]
fn a_handshake_is_an_answer_but_does_not_say_that_the_node_has_loaded() {
    let breaker = Breaker::new(SETTINGS);
    for _ in 0..9 {
        assert!(!breaker.failed(0, now_us(), "the handshake broke off") && !breaker.failed(0, now_us(), "once more"));
        breaker.greeted();
    }
    for _ in 0..2 {
        assert!(!breaker.failed(0, now_us(), "LOADING it reads"));
        breaker.greeted();
    }
    assert!(breaker.failed(0, now_us(), "LOADING it reads"));
}

#[test]
fn attempts_that_were_under_way_together_fail_once() {
    let breaker = Breaker::new(SETTINGS);
    for _ in 0..2 {
        let begun_us = now_us();
        for _ in 0..100 {
            assert!(!breaker.failed(0, begun_us, "lost with a hundred requests"));
        }
    }
    assert_eq!(breaker.state(), State::Closed);
    assert!(breaker.failed(0, now_us(), "refused"), "the third");
}

#[test]
fn every_opening_is_counted_for_all_nodes() {
    let breaker = Breaker::new(SETTINGS);
    let another = breaker.another();
    let opened = (0..3).map(|_| another.failed(0, now_us(), "refused"));
    assert_eq!(opened.collect::<Vec<_>>(), [false, false, true]);
    assert_eq!((breaker.openings(), another.openings()), (1, 1));
    another.begin_probe();
    another.wait_for_probe(Duration::from_secs(1));
    assert_eq!((breaker.openings(), breaker.is_cut()), (2, false));
}

/// Whoever sees it open may have no runtime, or one that is busy or about to end.
#[test]
fn a_node_is_probed_by_the_runtime_in_which_its_target_was_made() {
    use crate::config::Endpoint;
    use crate::upstream::dial::Access;
    let control = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let target = {
        let _in_it = control.enter();
        let nobody = Endpoint::Unix("/nonexistent/redis.sock".into());
        Target::fixed(nobody, Access::default(), Duration::from_secs(1), SETTINGS)
    };
    let seen = target.clone();
    let elsewhere = std::thread::spawn(move || (0..3).for_each(|_| seen.failed(0, now_us(), "refused")));
    elsewhere.join().unwrap();
    assert!(target.breaker().is_cut());
    control.block_on(async {
        let is_probed = async {
            while target.breaker().changes(State::HalfOpen) < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), is_probed).await.unwrap();
    });
}

#[test]
fn connections_that_are_up_are_counted_as_long_as_they_are() {
    let breaker = Breaker::new(SETTINGS);
    let (one, two) = (breaker.connected(), breaker.connected());
    drop(one);
    assert!(breaker.is_connected() && !breaker.another().is_connected());
    drop(two);
    assert!(!breaker.is_connected());
    for silence in [
        DialError::Timeout(Duration::from_secs(1)),
        DialError::TlsTimeout(Duration::from_secs(1)),
    ] {
        assert!(is_silence(&silence) && is_silence(&DialError::At("n".into(), Box::new(silence.clone()))));
    }
    assert!(!is_silence(&DialError::Io("connection refused".to_owned())));
}

#[test]
fn failures_of_long_ago_do_not_count() {
    let breaker = Breaker::new(Settings {
        window: Duration::ZERO,
        ..SETTINGS
    });
    for _ in 0..9 {
        let begun_us = now_us();
        assert!(!breaker.failed(0, begun_us, "refused"));
        let failed_us = clock::now_us();
        while clock::now_us() <= failed_us {}
    }
}

#[test]
fn another_node_begins_with_a_clean_record() {
    let breaker = Breaker::new(SETTINGS);
    assert!(!breaker.failed(0, now_us(), "a") && !breaker.failed(0, now_us(), "b"));
    assert!(!breaker.failed(1, now_us(), "c") && !breaker.failed(1, now_us(), "d"));
    assert!((0..9).all(|_| !breaker.failed(0, now_us(), "of the old one")));
    assert!(breaker.failed(1, now_us(), "e"));
}

#[test]
fn without_a_number_it_never_opens() {
    let breaker = Breaker::new(Settings {
        failures: 0,
        ..SETTINGS
    });
    assert!((0..99).all(|_| !breaker.failed(0, now_us(), "refused")));
}

#[test]
fn a_server_that_loads_is_told_in_its_own_words() {
    let breaker = Breaker::new(SETTINGS);
    for _ in 0..3 {
        let _ = breaker.failed(0, now_us(), "LOADING Redis is loading the dataset in memory");
    }
    let error = DialError::Cut(breaker.cut().unwrap());
    let text = error.server_state().unwrap();
    assert!(
        text.starts_with("LOADING Redis is loading the dataset in memory (nearcache: its breaker is open "),
        "{text}"
    );
    assert!(!is_failure(&error), "it was not asked");
}

#[test]
fn what_a_node_refuses_is_no_failure_of_the_node() {
    let refused = |error: &str| DialError::Refused {
        request: "HELLO 3",
        error: error.to_owned(),
    };
    for error in [
        refused("WRONGPASS invalid username-password pair"),
        refused("ERR max number of clients reached"),
        refused("BUSY Redis is busy running a script"),
        DialError::NotPrimary("slave".to_owned()),
        DialError::Unknown("no sentinel answers".to_owned()),
    ] {
        assert!(
            !is_failure(&error) && !is_failure(&DialError::At("n".into(), Box::new(error.clone()))),
            "{error}"
        );
    }
    for error in [
        refused("LOADING Redis is loading the dataset in memory"),
        DialError::Timeout(Duration::from_secs(1)),
        DialError::Io("connection refused".to_owned()),
        DialError::Protocol("?".to_owned()),
    ] {
        assert!(
            is_failure(&error) && is_failure(&DialError::At("n".into(), Box::new(error.clone()))),
            "{error}"
        );
    }
}
