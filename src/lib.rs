//! nearcache: a RESP-compatible caching proxy. Clients connect to it instead of Redis; hot reads are answered from memory
//! (L1), everything else is forwarded (L2), and what is kept is dropped as soon as it changes upstream.
//!
//! # The walk of a GET
//! `downstream::session` reads from the socket and has `resp` find the request's end; `proxy::request` looks the command
//! up in `command::Table` and sees a cacheable read; `proxy::read` asks `cache::L1`, which in one critical section says
//! *hit* (the reply is copied into the client's `proxy::outbox` and written with the rest of the batch), *join* (somebody
//! is reading the key already: wait for him), *lease* (go and read it for everybody) or *forward*. A leader's `GET` and
//! `PTTL` are queued on the worker's `upstream::connection`, whose task writes them together with other clients'
//! requests, reads the replies and pushes in stream order and hands them to `proxy::replies`, which inserts the value if its
//! lease still stands, and answers the leader and everybody who joined.
//!
//! A `GET` in the form in which clients send it is tried in `proxy::read::hits` first, which serves one hit behind the other
//! and leaves everything else to the walk above.
//!
//! With a tier on the disk a leader has that asked before he sends anything (`proxy::read::below`). What is there and has not been
//! watched all the time, because it is of an earlier process or its connection was lost, is not shown: where the server knows `DIGEST`,
//! `proxy::read::revalidation` asks for that in the place of the `GET`, and the copy is kept as what was read if it is the same.
//!
//! # The walk of a SET
//! The same way to `proxy::request`, which notes which keys it touches in the client's outbox and queues it; what the
//! requests of a pipeline have in common is looked up once, in `proxy::request::straight`. When the reply comes,
//! `proxy::replies` drops what L1 holds of the keys and voids the leases of other connections, and only then answers the
//! client. The server's push, on whichever connection had read the key, does the same for other writers.
//!
//! A client whose state lives in its connection (`MULTI`, blocking commands) leaves this walk: its session runs in
//! `downstream::pipe`, over an upstream connection of its own, followed by `proxy::pinned`. Subscriptions do not need
//! one: `proxy::pubsub` has them for all clients of a worker on one connection.
//!
//! # The walk of a failover
//! `upstream::sentinel` asks the sentinels and publishes whom most of them name, and since when they agree.
//! `server::upstream` passes the time on to `cache::Links`, since no copy may be shown much longer than that; when the node
//! is another one it begins a new generation there, voids everything, and only then gives the node to `upstream::dial`,
//! by which all connections are made. Each worker closes what leads to the old node, and its connections dial the new one,
//! which has to say itself that it is the primary.
//!
//! # The walk to a cluster
//! `proxy::request` hands every request to `proxy::cluster` first, which finds the slot of its keys, and by the topology that
//! the worker has seen last (`upstream::cluster`) the node, whose connection the request then takes on the walks above. The
//! reply comes to `proxy::cluster::redirect` before anybody else sees it: a `MOVED` or `ASK` is sent again to the node that it
//! names, on that node's connection, while its client waits with everything else. `upstream::cluster::watch` asks the nodes
//! what has gone where; `server::upstream` publishes it, and only then voids what was read from the nodes concerned.
//!
//! # The walk to a replica
//! Where the operator lets replicas answer reads, `upstream::readers` looks at each of them, and each worker's tick has
//! `proxy::readers` choose those that reads are spread over. A read then takes one of their connections instead of the primary's, on
//! the walk of a GET; what the replica refuses, or takes with it when it is lost, `proxy::replies` sends to the primary.
//!
//! # The walk of a failure
//! `upstream::connection` finds out that its node fails (no connection, silence, no RESP) and tells `upstream::breaker`, of
//! which each node has one. Requests that were not sent yet, and reads that may be repeated, wait for the next connection; the
//! others fail with what is known of them. Once the breaker is open nothing is asked of the node any more, until a probe of
//! its own has been answered. Meanwhile `proxy::read` and `proxy::read::hits` answer from what `cache::L1` has kept of lost links,
//! if the operator allows that; `cache::Links` knows until when each of them vouched for what it had filled.

pub mod cli;

pub mod downstream;
pub mod resp;

pub mod command;

pub mod proxy;

pub mod cache;

pub mod upstream;

pub mod admin;
pub mod metrics;
pub mod server;

pub mod config;

pub mod clock;
pub mod glob;
pub mod net;
pub mod units;
