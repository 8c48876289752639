//! The integration tests, one binary: a module for each topic, named by what a user would notice.
//!
//! Almost everything here talks to the real `nearcache` binary in front of a real `redis-server` that the test itself started;
//! `coherence` drives the library with a server of its own.

mod admin;
mod architecture;
mod auth;
mod breaker;
mod caching;
mod churn;
mod client_command;
mod clients;
mod cluster;
mod coherence;
mod coherence_live;
mod command_table;
mod config;
mod credentials;
mod deadlines;
mod differential;
mod embedded;
mod flights;
mod l3;
mod ladder;
mod limits;
mod many_clients;
mod newer;
mod operation;
mod options;
mod pinned;
mod pipe;
mod pubsub;
mod replicas;
mod resp2;
mod sentinel;
mod stale;
mod support;
mod tls;
mod touch;
mod transactions;
mod trouble;
