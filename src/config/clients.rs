//! Bounds on what clients may take.
//!
//! Every queue and buffer that a client can fill has its limit here; limits of size are in bytes. Read once
//! at start; immutable afterwards.

use super::reader::{Reader, print_bytes, print_length, print_length_or_off};
use super::{Printed, integer};
use std::time::Duration;

/// Limits for the client side. Each field's default is that of [`Clients::default`].
#[derive(Clone, Debug, PartialEq)]
pub struct Clients {
    /// Most clients at a time; default 10,000 (as Redis), minimum 1.
    pub max_clients: usize,
    /// A client silent for so long is disconnected; zero = never (default, as Redis), minimum 1 s.
    pub idle_timeout: Duration,
    /// Interval of TCP keep-alive probes; default 300 s (as Redis), zero = none, minimum 1 s.
    pub tcp_keepalive: Duration,
    /// A client that leaves more replies unread than this is disconnected; default 256 MiB, minimum 1 MiB.
    pub output_limit_bytes: usize,
    /// The same for a client that listens to channels; default 32 MiB (as Redis), minimum 1 MiB.
    pub pubsub_output_limit_bytes: usize,
    /// One that leaves more than this unread for `pubsub_output_soft_time`; default 8 MiB (as Redis), minimum 1 MiB.
    pub pubsub_output_soft_limit_bytes: usize,
    /// Default 60 s (as Redis), minimum 1 s.
    pub pubsub_output_soft_time: Duration,
    /// All buffers together; default 512 MiB, minimum 16 MiB.
    pub buffer_budget_bytes: usize,
    /// A request announced as larger is streamed, not held; default 1 MiB, minimum 16 KiB.
    pub max_request_held_bytes: usize,
    /// Most unanswered requests of one client; further ones wait in the socket; default 1024, minimum 1.
    pub max_inflight_requests: usize,
    /// While others are served, large values move for so many hundredths of a worker's time; default 10, 1 to 100.
    pub transfer_share_percent: usize,
    /// Without a password, serve loopback and Unix sockets only; default yes.
    pub protected_mode: bool,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            idle_timeout: Duration::ZERO,
            tcp_keepalive: Duration::from_secs(300),
            output_limit_bytes: 256 << 20,
            pubsub_output_limit_bytes: 32 << 20,
            pubsub_output_soft_limit_bytes: 8 << 20,
            pubsub_output_soft_time: Duration::from_secs(60),
            buffer_budget_bytes: 512 << 20,
            max_request_held_bytes: 1 << 20,
            max_inflight_requests: 1024,
            transfer_share_percent: 10,
            protected_mode: true,
        }
    }
}

impl Clients {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let default = Self::default();
        let second = Duration::from_secs(1);
        Self {
            max_clients: reader.number("clients.max_clients", default.max_clients, 1, 1_000_000),
            idle_timeout: reader
                .length_or_off("clients.idle_timeout", None, second)
                .unwrap_or_default(),
            tcp_keepalive: read_keepalive(reader, default.tcp_keepalive),
            output_limit_bytes: reader.bytes("clients.output_limit", default.output_limit_bytes, 1 << 20),
            pubsub_output_limit_bytes: reader.bytes(
                "clients.pubsub_output_limit",
                default.pubsub_output_limit_bytes,
                1 << 20,
            ),
            pubsub_output_soft_limit_bytes: reader.bytes(
                "clients.pubsub_output_soft_limit",
                default.pubsub_output_soft_limit_bytes,
                1 << 20,
            ),
            pubsub_output_soft_time: reader.length(
                "clients.pubsub_output_soft_time",
                default.pubsub_output_soft_time,
                second,
            ),
            buffer_budget_bytes: reader.bytes("clients.buffer_budget", default.buffer_budget_bytes, 16 << 20),
            max_request_held_bytes: reader.bytes("clients.max_request_held", default.max_request_held_bytes, 16 << 10),
            max_inflight_requests: reader.number(
                "clients.max_inflight_requests",
                default.max_inflight_requests,
                1,
                1 << 20,
            ),
            transfer_share_percent: reader.number("clients.transfer_share", default.transfer_share_percent, 1, 100),
            protected_mode: reader.flag("clients.protected_mode", default.protected_mode),
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        let optional = |length: Duration| print_length_or_off((!length.is_zero()).then_some(length));
        vec![
            ("max_clients", integer(self.max_clients)),
            ("idle_timeout", optional(self.idle_timeout)),
            ("tcp_keepalive", optional(self.tcp_keepalive)),
            ("output_limit", print_bytes(self.output_limit_bytes)),
            ("pubsub_output_limit", print_bytes(self.pubsub_output_limit_bytes)),
            (
                "pubsub_output_soft_limit",
                print_bytes(self.pubsub_output_soft_limit_bytes),
            ),
            ("pubsub_output_soft_time", print_length(self.pubsub_output_soft_time)),
            ("buffer_budget", print_bytes(self.buffer_budget_bytes)),
            ("max_request_held", print_bytes(self.max_request_held_bytes)),
            ("max_inflight_requests", integer(self.max_inflight_requests)),
            ("transfer_share", integer(self.transfer_share_percent)),
            ("protected_mode", self.protected_mode.into()),
        ]
    }
}

fn read_keepalive(reader: &mut Reader, default: Duration) -> Duration {
    let second = Duration::from_secs(1);
    let keepalive = reader
        .length_or_off("clients.tcp_keepalive", Some(default), second)
        .unwrap_or_default();
    if keepalive > LONGEST_KEEPALIVE {
        reader.problem("clients.tcp_keepalive", "must be at most 32767s, or \"off\"".to_owned());
    }
    keepalive
}

/// Linux takes no longer one (`MAX_TCP_KEEPIDLE` in include/net/tcp.h).
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);
