//! What is explored: who may do what, and how often. A session may issue any command of its list at any moment, up to its
//! window of unanswered ones, so a scenario contains every script of that length, pipelined or not.

use super::server::KEYS;
use super::wire::{Shape, Token, command, value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The read of the key that is kept: `GET`, or `HGETALL` of a hash.
    Get,
    /// Another one: `STRLEN`, `GETRANGE`, `EXISTS`; `HGET` of a hash.
    Other,
    /// A read that never asks L1: `DUMP`.
    Bypass,
    Set,
    SetTtl,
    Del,
    /// `MULTI; GET; SET; EXEC` in one piece, on the shared connection.
    Whole,
    /// `WATCH; MULTI; GET; SET; EXEC` on a connection of its own.
    Exec,
    /// The same with a read of each key.
    ExecRead,
    Mget,
    /// A read whose one reply depends on both keys: `SUNION`.
    Joint,
    Mset,
    /// A script that writes a key which it does not declare: only the push tells.
    Hidden,
    /// A script that declares no key and writes one.
    ScriptAll,
    /// A script that declares no key and reads both.
    ReadAll,
    FlushAll,
}

pub struct Plan {
    pub worker: usize,
    pub commands: usize,
    pub ops: &'static [(Op, usize)],
    /// Nothing is issued before L1 has so many entries: what would miss anyway only spoils the situation.
    pub least_entries: usize,
}

/// What the surroundings may still do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Budget {
    pub foreign: usize,
    pub purge: usize,
    pub kill: usize,
    pub tick: usize,
    pub spurious: usize,
    pub probe: usize,
    pub sweep: usize,
    /// L1 is emptied by eviction.
    pub squeeze: usize,
}

/// A connection that may break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Worker(usize),
    /// The one of a session's own.
    Session(usize),
}

pub struct Scenario {
    pub name: &'static str,
    pub sessions: &'static [Plan],
    pub foreign: &'static [(Op, usize)],
    pub kill: &'static [Whose],
    pub budget: Budget,
    /// The staleness bound.
    pub bound_ms: u64,
    /// How long a step takes. L1 compares the fillers of several entries by milliseconds.
    pub step_us: u64,
    /// The keys are hashes.
    pub is_hash: bool,
    /// After a loss the server may refuse to track.
    pub may_refuse: bool,
    /// For how long entries are shown for which nobody vouches, while the upstream cannot be asked.
    pub max_stale_ms: Option<u64>,
    /// After which time a request is answered with an error; its reply may come all the same.
    pub request_ms: Option<u64>,
    /// What L1 evicts goes to the disk.
    pub has_l3: bool,
    /// Something is there from the start, of which nobody knows whether it is still true.
    pub has_earlier_life: bool,
    /// The server tells digests, by which it is asked for what nobody has watched.
    pub revalidates: bool,
    /// The server broadcasts.
    pub is_broadcast: bool,
}

/// Unanswered commands of one session.
pub const WINDOW: usize = 3;
const AGES_MS: u64 = 60_000;

const fn plan(worker: usize, commands: usize, ops: &'static [(Op, usize)]) -> Plan {
    Plan {
        worker,
        commands,
        ops,
        least_entries: 0,
    }
}

const NOTHING: Budget = Budget {
    foreign: 0,
    purge: 0,
    kill: 0,
    tick: 0,
    spurious: 0,
    probe: 0,
    sweep: 0,
    squeeze: 0,
};

const fn scenario(
    name: &'static str,
    sessions: &'static [Plan],
    foreign: &'static [(Op, usize)],
    budget: Budget,
) -> Scenario {
    Scenario {
        name,
        sessions,
        foreign,
        kill: &[],
        budget,
        bound_ms: AGES_MS,
        step_us: 1,
        is_hash: false,
        may_refuse: false,
        max_stale_ms: None,
        request_ms: None,
        has_l3: false,
        has_earlier_life: false,
        revalidates: false,
        is_broadcast: false,
    }
}

use Op::*;

const READ_WRITE: &[(Op, usize)] = &[(Get, 0), (Get, 0), (Set, 0), (Bypass, 0)];
const READ: &[(Op, usize)] = &[(Get, 0), (Get, 0), (Bypass, 0)];
const EVERYTHING: &[(Op, usize)] = &[
    (Get, 0),
    (Get, 0),
    (Get, 0),
    (Get, 0),
    (Get, 0),
    (Get, 1),
    (Get, 1),
    (Other, 0),
    (Get, 0),
    (Get, 1),
    (Other, 0),
    (Set, 0),
    (Set, 1),
    (Bypass, 0),
    (Del, 0),
    (SetTtl, 0),
    (Whole, 0),
    (Mget, 0),
    (Joint, 0),
    (Joint, 0),
    (Mset, 0),
    (FlushAll, 0),
    (ReadAll, 0),
    (Hidden, 0),
    (Exec, 0),
    (ExecRead, 0),
    (ScriptAll, 1),
];

pub const CORE: Scenario = Scenario {
    budget: Budget {
        foreign: 2,
        purge: 1,
        ..NOTHING
    },
    ..scenario(
        "core",
        &[plan(0, 12, READ_WRITE), plan(1, 12, READ_WRITE)],
        &[(Set, 0)],
        NOTHING,
    )
};
pub const THREE: Scenario = scenario(
    "three",
    &[
        plan(0, 10, READ_WRITE),
        plan(1, 10, READ_WRITE),
        plan(1, 8, READ),
        plan(2, 8, READ_WRITE),
    ],
    &[(Set, 0), (Del, 0)],
    Budget { foreign: 2, ..NOTHING },
);
pub const PINNED: Scenario = scenario(
    "pinned",
    &[
        plan(0, 12, &[(Get, 0), (Exec, 0), (ExecRead, 0), (Set, 0), (Whole, 0)]),
        plan(1, 10, READ),
    ],
    &[(Set, 0)],
    Budget {
        foreign: 2,
        purge: 1,
        ..NOTHING
    },
);
pub const TWO_KEYS: Scenario = Scenario {
    step_us: 500,
    ..scenario(
        "twokeys",
        &[
            plan(0, 12, &[(Get, 0), (Get, 1), (Mget, 0)]),
            plan(1, 12, &[(Get, 0), (Get, 1), (Mget, 0)]),
        ],
        &[(Mset, 0)],
        Budget { foreign: 3, ..NOTHING },
    )
};
pub const MGET_FILL: Scenario = scenario(
    "mget-fill",
    &[
        plan(0, 10, &[(Get, 0), (Get, 1), (Mget, 0)]),
        plan(1, 10, &[(Get, 0), (Mget, 0), (Mset, 0)]),
    ],
    &[(Mset, 0)],
    Budget { foreign: 2, ..NOTHING },
);
const MGETS: Plan = Plan {
    least_entries: 2,
    ..plan(0, 4, &[(Mget, 0)])
};
pub const MGET_MIXED: Scenario = Scenario {
    step_us: 1000,
    ..scenario(
        "mget-mixed",
        &[plan(0, 6, &[(Get, 0), (Bypass, 0)]), plan(1, 3, &[(Get, 1)]), MGETS],
        &[(Mset, 0)],
        Budget { foreign: 2, ..NOTHING },
    )
};
pub const JOINT: Scenario = scenario(
    "joint",
    &[
        plan(0, 12, &[(Joint, 0), (Joint, 0), (Get, 0), (Get, 1), (Set, 1)]),
        plan(1, 12, &[(Joint, 0), (Joint, 0), (Get, 1), (Mset, 0)]),
    ],
    &[(Mset, 0), (Set, 1), (Del, 0)],
    Budget {
        foreign: 3,
        purge: 1,
        ..NOTHING
    },
);
pub const JOINT_TIME: Scenario = Scenario {
    bound_ms: 50,
    ..scenario(
        "joint-time",
        &[
            plan(0, 12, &[(Joint, 0), (Joint, 0), (SetTtl, 1), (Get, 0)]),
            plan(1, 10, &[(Joint, 0), (Joint, 0), (SetTtl, 0)]),
        ],
        &[(SetTtl, 0), (SetTtl, 1)],
        Budget {
            foreign: 2,
            tick: 5,
            sweep: 1,
            ..NOTHING
        },
    )
};
pub const JOINT_LOSS: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1)],
    may_refuse: true,
    max_stale_ms: Some(AGES_MS),
    ..scenario(
        "joint-loss",
        &[
            plan(0, 14, &[(Joint, 0), (Joint, 0), (Joint, 0), (Set, 0), (Set, 1)]),
            plan(1, 14, &[(Joint, 0), (Joint, 0), (Get, 1), (Set, 1)]),
        ],
        &[(Mset, 0), (Set, 1)],
        Budget {
            foreign: 2,
            kill: 3,
            ..NOTHING
        },
    )
};
pub const COMMANDS: Scenario = scenario(
    "commands",
    &[
        plan(0, 12, &[(Get, 0), (Other, 0), (Other, 0)]),
        plan(1, 12, &[(Get, 0), (Other, 0), (Set, 0)]),
    ],
    &[(Set, 0), (Del, 0)],
    Budget { foreign: 2, ..NOTHING },
);
pub const HASHES: Scenario = Scenario {
    is_hash: true,
    ..scenario(
        "hashes",
        &[
            plan(0, 12, &[(Get, 0), (Other, 0), (Other, 1)]),
            plan(1, 12, &[(Get, 0), (Other, 0), (Set, 0)]),
        ],
        &[(Set, 0), (Del, 0)],
        Budget {
            foreign: 2,
            purge: 1,
            ..NOTHING
        },
    )
};
pub const FLUSH: Scenario = scenario(
    "flush",
    &[
        plan(0, 10, &[(Get, 0), (Get, 1), (FlushAll, 0), (ScriptAll, 0), (Set, 0)]),
        plan(1, 12, READ),
    ],
    &[(FlushAll, 0), (Set, 0)],
    Budget { foreign: 3, ..NOTHING },
);
pub const HIDDEN: Scenario = scenario(
    "hidden",
    &[plan(0, 10, &[(Get, 0), (Hidden, 0)]), plan(1, 10, READ)],
    &[(Set, 0)],
    Budget {
        foreign: 1,
        spurious: 2,
        ..NOTHING
    },
);
/// Reads of keys that nobody has named, against what L1 keeps of each.
pub const FLOOR: Scenario = scenario(
    "floor",
    &[
        plan(0, 12, &[(Get, 0), (Get, 1), (ReadAll, 0)]),
        plan(1, 12, &[(Get, 0), (Get, 1), (ReadAll, 0), (Set, 0)]),
    ],
    &[(Set, 0), (Set, 1)],
    Budget { foreign: 2, ..NOTHING },
);
pub const LOSS: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1)],
    may_refuse: true,
    ..scenario(
        "loss",
        &[plan(0, 12, READ_WRITE), plan(1, 12, READ_WRITE)],
        &[(Set, 0)],
        Budget {
            foreign: 2,
            kill: 2,
            ..NOTHING
        },
    )
};
/// Those who follow a read that is lost, and sent again, are of the leader's own worker and send more.
pub const LOSS_FOLLOWED: Scenario = Scenario {
    kill: &[Whose::Worker(0)],
    ..scenario(
        "loss-followed",
        &[
            plan(0, 12, &[(Get, 0), (Get, 0), (Mget, 0), (Set, 0)]),
            plan(0, 12, &[(Get, 0), (Get, 0), (Mget, 0), (Set, 0)]),
            plan(1, 8, READ),
        ],
        &[(Set, 0)],
        Budget {
            foreign: 2,
            kill: 3,
            ..NOTHING
        },
    )
};
pub const LOSS_PINNED: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Session(0)],
    ..scenario(
        "loss-pinned",
        &[plan(0, 12, &[(Get, 0), (Exec, 0), (Set, 0)]), plan(1, 12, READ)],
        &[(Set, 0)],
        Budget {
            foreign: 1,
            kill: 2,
            ..NOTHING
        },
    )
};
pub const TIME: Scenario = Scenario {
    bound_ms: 2,
    ..scenario(
        "time",
        &[
            plan(0, 12, &[(Get, 0), (SetTtl, 0), (Bypass, 0)]),
            plan(1, 12, &[(Get, 0), (Bypass, 0), (Bypass, 1)]),
        ],
        &[(Set, 0), (SetTtl, 0)],
        Budget {
            foreign: 2,
            tick: 6,
            probe: 2,
            sweep: 1,
            ..NOTHING
        },
    )
};
/// Nothing expires, and a tick is the bound.
pub const SILENCE: Scenario = Scenario {
    bound_ms: 1,
    ..scenario(
        "silence",
        &[
            plan(0, 8, &[(Get, 0), (Bypass, 1)]),
            plan(1, 8, &[(Get, 0), (Bypass, 1)]),
        ],
        &[(Set, 0)],
        Budget {
            foreign: 2,
            tick: 6,
            probe: 2,
            ..NOTHING
        },
    )
};
/// The bound is longer than every TTL: only deadlines guard.
pub const TIME_WIDE: Scenario = Scenario {
    bound_ms: 50,
    ..scenario(
        "time-wide",
        &[
            plan(0, 12, &[(Get, 0), (Get, 0), (SetTtl, 0), (Other, 0)]),
            plan(1, 10, &[(Get, 0), (Get, 0), (Other, 0)]),
        ],
        &[(SetTtl, 0)],
        Budget {
            foreign: 2,
            tick: 5,
            sweep: 1,
            ..NOTHING
        },
    )
};
pub const TIME_LOSS: Scenario = Scenario {
    kill: &[Whose::Worker(0)],
    bound_ms: 2,
    ..scenario(
        "time-loss",
        &[plan(0, 10, READ), plan(1, 12, READ)],
        &[(SetTtl, 0)],
        Budget {
            foreign: 2,
            kill: 1,
            tick: 5,
            probe: 2,
            ..NOTHING
        },
    )
};
pub const ALL: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1), Whose::Session(0)],
    bound_ms: 5,
    may_refuse: true,
    ..scenario(
        "all",
        &[
            plan(0, 16, EVERYTHING),
            plan(1, 16, EVERYTHING),
            plan(2, 12, EVERYTHING),
        ],
        &[(Set, 0), (Mset, 0), (Del, 1), (SetTtl, 0), (FlushAll, 0)],
        Budget {
            foreign: 4,
            purge: 1,
            kill: 2,
            tick: 6,
            spurious: 1,
            probe: 2,
            sweep: 1,
            squeeze: 0,
        },
    )
};
/// Entries of lost connections are shown while there is no other.
pub const STALE: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1)],
    may_refuse: true,
    max_stale_ms: Some(AGES_MS),
    ..scenario(
        "stale",
        &[
            plan(0, 14, &[(Get, 0), (Get, 0), (Get, 0), (Set, 0), (Bypass, 0)]),
            plan(1, 14, &[(Get, 0), (Get, 0), (Get, 0), (Set, 0), (Bypass, 0)]),
        ],
        &[(Set, 0)],
        Budget {
            foreign: 2,
            kill: 3,
            purge: 1,
            ..NOTHING
        },
    )
};
pub const STALE_FLUSH: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1)],
    max_stale_ms: Some(AGES_MS),
    ..scenario(
        "stale-flush",
        &[
            plan(0, 12, &[(Get, 0), (Get, 0), (Get, 1), (FlushAll, 0), (ScriptAll, 0)]),
            plan(1, 12, &[(Get, 0), (Get, 0), (Mget, 0), (FlushAll, 0)]),
        ],
        &[(Set, 0)],
        Budget {
            foreign: 1,
            kill: 2,
            ..NOTHING
        },
    )
};
/// Longer than the bound, and shorter than a walk.
pub const STALE_TIME: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1)],
    bound_ms: 2,
    max_stale_ms: Some(5),
    ..scenario(
        "stale-time",
        &[
            plan(0, 12, &[(Get, 0), (Get, 0), (SetTtl, 0), (Bypass, 0)]),
            plan(1, 12, &[(Get, 0), (Get, 0), (Other, 0)]),
        ],
        &[(Set, 0), (SetTtl, 0)],
        Budget {
            foreign: 2,
            kill: 2,
            tick: 8,
            probe: 2,
            sweep: 2,
            ..NOTHING
        },
    )
};
/// Requests are given up whose replies come later, and connections that owe some of them are lost.
pub const LATE: Scenario = Scenario {
    kill: &[Whose::Worker(0), Whose::Worker(1)],
    max_stale_ms: Some(AGES_MS),
    request_ms: Some(2),
    ..scenario(
        "late",
        &[
            plan(
                0,
                14,
                &[(Get, 0), (Get, 0), (Set, 0), (Mget, 0), (Bypass, 0), (Whole, 0)],
            ),
            plan(1, 14, &[(Get, 0), (Get, 0), (Set, 0), (Bypass, 0)]),
        ],
        &[(Set, 0)],
        Budget {
            foreign: 2,
            kill: 1,
            tick: 6,
            probe: 10,
            ..NOTHING
        },
    )
};
/// Everything, with stale entries.
pub const STALE_ALL: Scenario = Scenario {
    name: "stale-all",
    max_stale_ms: Some(12),
    ..ALL
};
pub const ALL_HEALTHY: Scenario = scenario(
    "all-healthy",
    &[
        plan(0, 16, EVERYTHING),
        plan(1, 16, EVERYTHING),
        plan(1, 12, READ),
        plan(2, 12, EVERYTHING),
    ],
    &[(Set, 0), (Mset, 0)],
    Budget {
        foreign: 4,
        spurious: 1,
        purge: 1,
        ..NOTHING
    },
);

/// The same over a tier on the disk, into which L1 is emptied again and again.
const fn over_l3(name: &'static str, scenario: Scenario) -> Scenario {
    Scenario {
        name,
        has_l3: true,
        budget: Budget {
            squeeze: 6,
            ..scenario.budget
        },
        ..scenario
    }
}

pub const CORE_L3: Scenario = over_l3("core-l3", CORE);
pub const THREE_L3: Scenario = over_l3("three-l3", THREE);
pub const PINNED_L3: Scenario = over_l3("pinned-l3", PINNED);
pub const TWO_KEYS_L3: Scenario = over_l3("twokeys-l3", TWO_KEYS);
pub const COMMANDS_L3: Scenario = over_l3("commands-l3", COMMANDS);
pub const HASHES_L3: Scenario = over_l3("hashes-l3", HASHES);
pub const FLUSH_L3: Scenario = over_l3("flush-l3", FLUSH);
pub const HIDDEN_L3: Scenario = over_l3("hidden-l3", HIDDEN);
pub const FLOOR_L3: Scenario = over_l3("floor-l3", FLOOR);
pub const JOINT_L3: Scenario = over_l3("joint-l3", JOINT);
pub const LOSS_L3: Scenario = over_l3("loss-l3", LOSS);
/// One connection fills, is lost while the disk is asked for what it filled, and comes back.
pub const LOSS_WHILE_READ_L3: Scenario = over_l3(
    "loss-while-read-l3",
    Scenario {
        kill: &[Whose::Worker(0)],
        ..scenario(
            "",
            &[plan(0, 6, &[(Get, 0), (Bypass, 1)]), plan(1, 6, &[(Get, 0)])],
            &[(Set, 0)],
            Budget {
                foreign: 1,
                kill: 1,
                ..NOTHING
            },
        )
    },
);
pub const MGET_MIXED_L3: Scenario = over_l3("mget-mixed-l3", MGET_MIXED);
/// Only reads of both keys ask the disk.
pub const MGET_L3: Scenario = over_l3(
    "mget-l3",
    Scenario {
        step_us: 200,
        ..scenario(
            "",
            &[
                plan(0, 10, &[(Mget, 0), (Mget, 0), (Mget, 0), (Set, 0), (ReadAll, 0)]),
                plan(1, 10, &[(Mget, 0), (Mget, 0), (Set, 1), (Bypass, 0)]),
            ],
            &[(Mset, 0), (Set, 0)],
            Budget {
                foreign: 3,
                purge: 1,
                ..NOTHING
            },
        )
    },
);
/// Two connections fill one key each, and both keys are read together from the disk.
pub const MGET_FILLERS_L3: Scenario = over_l3(
    "mget-fillers-l3",
    Scenario {
        step_us: 1000,
        ..scenario(
            "",
            &[
                plan(0, 3, &[(Get, 0)]),
                plan(1, 3, &[(Get, 1)]),
                plan(0, 6, &[(Mget, 0)]),
            ],
            &[(Mset, 0)],
            Budget { foreign: 2, ..NOTHING },
        )
    },
);
pub const MGET_TIME_L3: Scenario = over_l3(
    "mget-time-l3",
    Scenario {
        bound_ms: 50,
        ..scenario(
            "",
            &[
                plan(0, 12, &[(Mget, 0), (Mget, 0), (SetTtl, 0)]),
                plan(1, 10, &[(Mget, 0)]),
            ],
            &[(SetTtl, 0)],
            Budget {
                foreign: 2,
                tick: 5,
                sweep: 1,
                ..NOTHING
            },
        )
    },
);
pub const MGET_LOSS_L3: Scenario = over_l3(
    "mget-loss-l3",
    Scenario {
        kill: &[Whose::Worker(0), Whose::Worker(1)],
        ..scenario(
            "",
            &[
                plan(0, 10, &[(Mget, 0), (Mget, 0), (Bypass, 0)]),
                plan(1, 10, &[(Mget, 0), (Mget, 0), (Set, 0)]),
            ],
            &[(Mset, 0), (Set, 0)],
            Budget {
                foreign: 2,
                kill: 2,
                ..NOTHING
            },
        )
    },
);
pub const MGET_STALE_L3: Scenario = over_l3(
    "mget-stale-l3",
    Scenario {
        kill: &[Whose::Worker(0), Whose::Worker(1)],
        may_refuse: true,
        max_stale_ms: Some(AGES_MS),
        ..scenario(
            "",
            &[
                plan(0, 14, &[(Mget, 0), (Mget, 0), (Mget, 0), (Set, 0), (Bypass, 0)]),
                plan(1, 14, &[(Mget, 0), (Mget, 0), (Mget, 0), (Set, 0), (Get, 1)]),
            ],
            &[(Mset, 0)],
            Budget {
                foreign: 2,
                kill: 3,
                ..NOTHING
            },
        )
    },
);
pub const STALE_L3: Scenario = over_l3("stale-l3", STALE);
pub const STALE_FLUSH_L3: Scenario = over_l3("stale-flush-l3", STALE_FLUSH);
pub const STALE_TIME_L3: Scenario = over_l3("stale-time-l3", STALE_TIME);
pub const TIME_L3: Scenario = over_l3("time-l3", TIME);
pub const SILENCE_L3: Scenario = over_l3("silence-l3", SILENCE);
pub const TIME_WIDE_L3: Scenario = over_l3("time-wide-l3", TIME_WIDE);
pub const TIME_LOSS_L3: Scenario = over_l3("time-loss-l3", TIME_LOSS);
pub const ALL_L3: Scenario = over_l3("all-l3", ALL);
pub const ALL_HEALTHY_L3: Scenario = over_l3("all-healthy-l3", ALL_HEALTHY);

/// What an earlier process has left is asked for by its digest, and what connections filled that were lost. What it was before the
/// walk is older than the bound.
const fn revalidated(name: &'static str, scenario: Scenario) -> Scenario {
    Scenario {
        has_earlier_life: true,
        revalidates: true,
        bound_ms: if scenario.bound_ms < 900 {
            scenario.bound_ms
        } else {
            900
        },
        ..over_l3(name, scenario)
    }
}

const READS: &[(Op, usize)] = &[(Get, 0), (Get, 0), (Get, 1), (Set, 0), (Bypass, 0)];

pub const RESTART: Scenario = revalidated(
    "restart",
    scenario(
        "",
        &[plan(0, 10, READS), plan(1, 10, READS)],
        &[(Set, 0), (Set, 0), (Set, 1), (Del, 0)],
        Budget {
            foreign: 3,
            purge: 1,
            ..NOTHING
        },
    ),
);
/// One connection, and nothing in the way of what the disk has.
pub const RESTART_ALONE: Scenario = revalidated(
    "restart-alone",
    scenario(
        "",
        &[plan(0, 6, &[(Get, 0), (Get, 0), (Set, 0), (Bypass, 0)])],
        &[(Set, 0), (Set, 0), (Del, 0)],
        Budget { foreign: 2, ..NOTHING },
    ),
);
pub const RESTART_FOLLOWED: Scenario = revalidated("restart-followed", THREE);
pub const RESTART_PINNED: Scenario = revalidated("restart-pinned", PINNED);
pub const RESTART_MGET: Scenario = revalidated("restart-mget", TWO_KEYS);
pub const RESTART_FLUSH: Scenario = revalidated("restart-flush", FLUSH);
pub const RESTART_SILENCE: Scenario = revalidated("restart-silence", SILENCE);
pub const RESTART_TIME: Scenario = revalidated("restart-time", TIME_WIDE);
pub const RESTART_LOSS: Scenario = revalidated(
    "restart-loss",
    Scenario {
        kill: &[Whose::Worker(0), Whose::Worker(1)],
        may_refuse: true,
        ..scenario(
            "",
            &[plan(0, 12, READS), plan(1, 12, READS)],
            &[(Set, 0), (Set, 1)],
            Budget {
                foreign: 2,
                kill: 3,
                ..NOTHING
            },
        )
    },
);
pub const RESTART_BROADCAST: Scenario = broadcast("restart-broadcast", RESTART);
pub const RESTART_ALL: Scenario = revalidated("restart-all", ALL);

const fn broadcast(name: &'static str, scenario: Scenario) -> Scenario {
    Scenario {
        name,
        is_broadcast: true,
        ..scenario
    }
}

pub const CORE_BROADCAST: Scenario = broadcast("core-broadcast", CORE);
pub const PINNED_BROADCAST: Scenario = broadcast("pinned-broadcast", PINNED);
pub const TWO_KEYS_BROADCAST: Scenario = broadcast("twokeys-broadcast", TWO_KEYS);
pub const MGET_MIXED_BROADCAST: Scenario = broadcast("mget-mixed-broadcast", MGET_MIXED);
pub const JOINT_BROADCAST: Scenario = broadcast("joint-broadcast", JOINT);
pub const COMMANDS_BROADCAST: Scenario = broadcast("commands-broadcast", COMMANDS);
pub const HASHES_BROADCAST: Scenario = broadcast("hashes-broadcast", HASHES);
pub const FLUSH_BROADCAST: Scenario = broadcast("flush-broadcast", FLUSH);
pub const FLOOR_BROADCAST: Scenario = broadcast("floor-broadcast", FLOOR);
pub const LOSS_BROADCAST: Scenario = broadcast("loss-broadcast", LOSS);
/// The time in which a turn may lie is that of a vouched entry.
pub const SILENCE_BROADCAST: Scenario = broadcast("silence-broadcast", SILENCE);
pub const TIME_WIDE_BROADCAST: Scenario = broadcast("time-wide-broadcast", TIME_WIDE);
pub const STALE_BROADCAST: Scenario = broadcast("stale-broadcast", STALE);
pub const ALL_BROADCAST: Scenario = broadcast("all-broadcast", ALL);
pub const ALL_L3_BROADCAST: Scenario = broadcast("all-l3-broadcast", ALL_L3);

pub const SCENARIOS: &[&Scenario] = &[
    &CORE_BROADCAST,
    &PINNED_BROADCAST,
    &TWO_KEYS_BROADCAST,
    &MGET_MIXED_BROADCAST,
    &JOINT_BROADCAST,
    &COMMANDS_BROADCAST,
    &HASHES_BROADCAST,
    &FLUSH_BROADCAST,
    &FLOOR_BROADCAST,
    &LOSS_BROADCAST,
    &SILENCE_BROADCAST,
    &TIME_WIDE_BROADCAST,
    &STALE_BROADCAST,
    &ALL_BROADCAST,
    &ALL_L3_BROADCAST,
    &CORE,
    &THREE,
    &PINNED,
    &TWO_KEYS,
    &MGET_FILL,
    &MGET_MIXED,
    &JOINT,
    &JOINT_TIME,
    &JOINT_LOSS,
    &COMMANDS,
    &HASHES,
    &FLUSH,
    &HIDDEN,
    &FLOOR,
    &LOSS,
    &LOSS_FOLLOWED,
    &LOSS_PINNED,
    &TIME,
    &SILENCE,
    &TIME_WIDE,
    &TIME_LOSS,
    &ALL,
    &STALE,
    &STALE_FLUSH,
    &STALE_TIME,
    &LATE,
    &STALE_ALL,
    &ALL_HEALTHY,
    &CORE_L3,
    &THREE_L3,
    &PINNED_L3,
    &TWO_KEYS_L3,
    &COMMANDS_L3,
    &HASHES_L3,
    &FLUSH_L3,
    &HIDDEN_L3,
    &FLOOR_L3,
    &JOINT_L3,
    &LOSS_L3,
    &LOSS_WHILE_READ_L3,
    &MGET_L3,
    &MGET_MIXED_L3,
    &MGET_FILLERS_L3,
    &MGET_TIME_L3,
    &MGET_LOSS_L3,
    &MGET_STALE_L3,
    &STALE_L3,
    &STALE_FLUSH_L3,
    &STALE_TIME_L3,
    &TIME_L3,
    &SILENCE_L3,
    &TIME_WIDE_L3,
    &TIME_LOSS_L3,
    &ALL_L3,
    &ALL_HEALTHY_L3,
    &RESTART,
    &RESTART_ALONE,
    &RESTART_FOLLOWED,
    &RESTART_PINNED,
    &RESTART_MGET,
    &RESTART_FLUSH,
    &RESTART_SILENCE,
    &RESTART_TIME,
    &RESTART_LOSS,
    &RESTART_BROADCAST,
    &RESTART_ALL,
];

impl Scenario {
    pub fn workers(&self) -> usize {
        self.sessions.iter().map(|plan| plan.worker + 1).max().unwrap_or(1)
    }

    /// Whether the pairs of an MGET can be judged: a key that expires is absent before anything tells.
    pub fn has_ttl(&self) -> bool {
        self.foreign
            .iter()
            .chain(self.sessions.iter().flat_map(|plan| plan.ops))
            .any(|(op, _)| *op == SetTtl)
    }
}

/// What a client waits for: one reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Anything but an error.
    Status,
    Read(Shape, usize),
    Both,
    /// An acknowledgement of a write of these keys.
    Wrote(Vec<usize>),
    /// The elements of a transaction.
    Exec(Vec<Part>),
}

/// The requests of an operation, each with the reply that it gets.
pub fn requests(
    op: Op,
    k: usize,
    token: Token,
    choice: usize,
    names: &[Vec<u8>; KEYS],
    is_hash: bool,
) -> Vec<(Vec<u8>, Part)> {
    let name = &names[k][..];
    let value = value(token);
    let set = |op: Op| {
        let ttl = [b"1", b"2", b"3"][choice % 3];
        match (is_hash, op) {
            (true, _) => command(&[b"HSET", name, b"f", &value]),
            (false, Op::SetTtl) => command(&[b"SET", name, &value, b"PX", ttl]),
            (false, _) => command(&[b"SET", name, &value]),
        }
    };
    let get = || match is_hash {
        true => (command(&[b"HGETALL", name]), Part::Read(Shape::Fields, k)),
        false => (command(&[b"GET", name]), Part::Read(Shape::Value, k)),
    };
    let other = || match (is_hash, choice % 3) {
        (true, _) => (command(&[b"HGET", name, b"f"]), Part::Read(Shape::Value, k)),
        (_, 0) => (command(&[b"STRLEN", name]), Part::Read(Shape::Length, k)),
        (_, 1) => (command(&[b"GETRANGE", name, b"0", b"2"]), Part::Read(Shape::Prefix, k)),
        (_, _) => (command(&[b"EXISTS", name]), Part::Read(Shape::Count, k)),
    };
    let multi = || (command(&[b"MULTI"]), Part::Status);
    let exec = |parts| (command(&[b"EXEC"]), Part::Exec(parts));
    let watch = || (command(&[b"WATCH", b"other"]), Part::Status);
    let queued = |request: (Vec<u8>, Part)| (request.0, Part::Status);
    match op {
        Op::Get => vec![get()],
        Op::Other => vec![other()],
        Op::Bypass => vec![(command(&[b"DUMP", name]), Part::Read(Shape::Value, k))],
        Op::Set | Op::SetTtl => vec![(set(op), Part::Wrote(vec![k]))],
        Op::Del => vec![(command(&[b"DEL", name, &value]), Part::Wrote(vec![k]))],
        Op::Mget => vec![(command(&[b"MGET", &names[0], &names[1]]), Part::Both)],
        Op::Joint => vec![(command(&[b"SUNION", &names[0], &names[1]]), Part::Both)],
        Op::Mset => vec![(
            command(&[b"MSET", &names[0], &value, &names[1], &value]),
            Part::Wrote(vec![0, 1]),
        )],
        Op::Hidden => vec![(command(&[b"EVAL", b"s", b"1", b"other", name, &value]), Part::Status)],
        Op::ScriptAll => vec![(command(&[b"EVAL", b"s", b"0", name, &value]), Part::Wrote(vec![k]))],
        Op::ReadAll => vec![(command(&[b"EVAL_RO", b"s", b"0"]), Part::Both)],
        Op::FlushAll => vec![(command(&[b"FLUSHALL", &value]), Part::Wrote(vec![0, 1]))],
        Op::Whole | Op::Exec => {
            let parts = vec![get().1, Part::Wrote(vec![k])];
            let mut all = vec![multi(), queued(get()), (set(Op::Set), Part::Status), exec(parts)];
            if op == Op::Exec {
                all.insert(0, watch());
            }
            all
        }
        Op::ExecRead => {
            let reads = [0, 1].map(|k| (command(&[b"DUMP", &names[k]]), Part::Read(Shape::Value, k)));
            let [a, b] = reads;
            let parts = vec![a.1.clone(), b.1.clone()];
            vec![watch(), multi(), queued(a), queued(b), exec(parts)]
        }
    }
}
