use super::*;

const WELL: Seen = Seen {
    links: Links {
        wanted: 4,
        tracked: 4,
        untracked: 0,
        refused: 0,
        silent: 0,
    },
    caching: Caching::Tracked,
    nodes: 1,
    cut: 0,
    is_upstream_known: true,
    is_draining: false,
    is_primary_confirmed: true,
    stale_left_ms: 0,
};

#[test]
fn every_link_up_and_tracked_is_healthy() {
    let verdict = WELL.judge();
    assert_eq!(
        (verdict.status, verdict.l1, verdict.l2),
        (Status::Healthy, Status::Healthy, Status::Healthy)
    );
    assert!(verdict.reasons.is_empty());
}

#[test]
fn no_link_up_is_unhealthy() {
    for caching in [Caching::Off, Caching::ByAge, Caching::Tracked] {
        let verdict = Seen {
            links: Links {
                wanted: 4,
                ..Links::default()
            },
            caching,
            ..WELL
        }
        .judge();
        assert_eq!(
            (verdict.status, verdict.l2),
            (Status::Unhealthy, Status::Unhealthy),
            "{caching:?}"
        );
        assert_eq!(verdict.reasons, [Reason::UpstreamUnreachable]);
        assert_eq!(
            verdict.l1 == Status::Healthy,
            caching != Caching::Tracked,
            "{caching:?}"
        );
    }
}

#[test]
fn what_is_less_than_configured_is_degraded_and_says_why() {
    let links = |tracked, refused, silent| Seen {
        links: Links {
            wanted: 4,
            tracked,
            untracked: 0,
            refused,
            silent,
        },
        ..WELL
    };
    let degraded = [
        (links(3, 0, 0), Reason::LinksDown { down: 1, wanted: 4 }),
        (links(4, 0, 2), Reason::LinksSilent { silent: 2, wanted: 4 }),
        (
            Seen {
                caching: Caching::Refused,
                ..links(0, 4, 0)
            },
            Reason::TrackingRefused,
        ),
        (
            Seen {
                is_upstream_known: false,
                ..WELL
            },
            Reason::FactsUnknown,
        ),
        (
            Seen {
                is_draining: true,
                ..WELL
            },
            Reason::Draining,
        ),
    ];
    for (seen, reason) in degraded {
        let verdict = seen.judge();
        assert_eq!(
            (verdict.status, verdict.reasons),
            (Status::Degraded, vec![reason]),
            "{seen:?}"
        );
    }
}

#[test]
fn refused_tracking_is_no_harm_where_nobody_needs_it() {
    for caching in [Caching::Off, Caching::ByAge] {
        let seen = Seen {
            links: Links {
                wanted: 4,
                tracked: 0,
                untracked: 0,
                refused: 4,
                silent: 0,
            },
            caching,
            ..WELL
        };
        assert_eq!(seen.judge().status, Status::Healthy, "{caching:?}");
    }
}

#[test]
fn stale_copies_are_better_than_nothing() {
    let away = |stale_left_ms| {
        Seen {
            links: Links {
                wanted: 4,
                ..Links::default()
            },
            stale_left_ms,
            ..WELL
        }
        .judge()
    };
    let verdict = away(700);
    assert_eq!((verdict.status, verdict.l2), (Status::Degraded, Status::Unhealthy));
    assert_eq!(
        verdict.reasons,
        [Reason::UpstreamUnreachable, Reason::StaleReads { left_ms: 700 }]
    );
    assert_eq!(away(0).status, Status::Unhealthy, "they may not be shown any more");
    let well = Seen {
        stale_left_ms: 700,
        ..WELL
    };
    assert_eq!(well.judge().reasons, [], "none is shown");
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (unix_s, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_704_067_199, "2023-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(rfc3339(unix_s), text);
    }
}

#[test]
fn a_node_that_is_cut_off_is_told_even_while_links_are_up() {
    let cut = |cut, nodes| Seen { cut, nodes, ..WELL }.judge();
    let verdict = cut(1, 1);
    assert_eq!((verdict.status, verdict.l2), (Status::Unhealthy, Status::Unhealthy));
    assert_eq!(verdict.reasons, [Reason::BreakersOpen { open: 1, nodes: 1 }]);
    assert_eq!(cut(1, 3).status, Status::Degraded);
}
