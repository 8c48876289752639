//! How far a replica is behind its primary, at most: the primary is asked how long its stream of writes is, and the replica how
//! much of it it has. Whatever the primary had written when it was asked for a length that the replica has reached, the
//! replica has. So a replica that was cut off without noticing is found out, and one that has nothing to copy is not suspected.

use std::collections::VecDeque;
use std::time::Duration;

use crate::upstream::info::field;

/// What one replica is held against. Times are µs of the process's clock.
pub struct Lag {
    most: Duration,
    /// The history of which the lengths are (`master_replid`).
    id: String,
    /// When the primary was asked, and the length of its stream then; the youngest last.
    lengths: VecDeque<(u64, u64)>,
    /// Why it was not asked, or refuses to tell.
    trouble: Option<String>,
}

/// Lengths that are kept within the longest lag: no more are needed to tell whether it is exceeded.
const LENGTHS: u64 = 256;

impl Lag {
    pub fn up_to(most: Duration) -> Lag {
        Lag {
            most,
            id: String::new(),
            lengths: VecDeque::new(),
            trouble: Some("it was not asked yet".to_owned()),
        }
    }

    /// What the primary has said in `INFO replication`, asked at this time; or why it has not.
    pub fn heard(&mut self, asked_us: u64, info: Result<&str, String>) {
        let told = info.and_then(|info| {
            let length = field(info, "master_repl_offset").and_then(|length| length.parse().ok());
            let told = field(info, "master_replid").zip(length);
            told.ok_or_else(|| "it does not say how long its stream is".to_owned())
        });
        match told {
            Ok((id, length)) => {
                if self.id != id {
                    self.id = id.to_owned();
                    self.lengths.clear();
                }
                self.trouble = None;
                let most_us = self.most.as_micros() as u64;
                self.lengths
                    .retain(|(at_us, _)| asked_us.saturating_sub(*at_us) <= most_us);
                // The oldest of those that are close to one another counts, and the youngest of all.
                let before = self.lengths.len().checked_sub(2).and_then(|at| self.lengths.get(at));
                if before.is_some_and(|(at_us, _)| asked_us.saturating_sub(*at_us) < most_us / LENGTHS) {
                    self.lengths.pop_back();
                }
                self.lengths.push_back((asked_us, length));
            }
            Err(why) => self.trouble = Some(why),
        }
    }

    /// Whether a replica that says this of itself now is too far behind, or of another primary; else how far it is behind at
    /// most (µs), if that can be told.
    ///
    /// # Errors
    /// Why it is not to be read from.
    pub fn of(&self, info: &str, now_us: u64) -> Result<Option<u64>, String> {
        if self.lengths.is_empty() {
            return self.by_silence(info).map(|()| None);
        }
        if field(info, "master_replid") != Some(&self.id) {
            let (host, port) = (field(info, "master_host"), field(info, "master_port"));
            let (host, port) = (host.unwrap_or("?"), port.unwrap_or("?"));
            return Err(format!("it follows {host}:{port}, which is not the primary"));
        }
        let has: u64 = field(info, "slave_repl_offset")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        let reached = self.lengths.iter().rev().find(|(_, length)| *length <= has);
        let behind_us = reached.map(|(at_us, _)| now_us.saturating_sub(*at_us));
        match behind_us {
            Some(behind_us) if u128::from(behind_us) <= self.most.as_micros() => Ok(Some(behind_us)),
            _ => {
                let why = self.trouble.as_ref().map(|why| format!(" (the primary: {why})"));
                Err(format!(
                    "it may be more than upstream.max_replica_lag behind{}",
                    why.unwrap_or_default()
                ))
            }
        }
    }

    /// The primary tells nothing: what is left is when the replica last heard of it, which with nothing to copy is as often as the
    /// primary has it (`repl-ping-replica-period`).
    fn by_silence(&self, info: &str) -> Result<(), String> {
        let silent_s: Option<u64> = field(info, "master_last_io_seconds_ago").and_then(|seconds| seconds.parse().ok());
        match silent_s {
            Some(silent_s) if silent_s <= self.most.as_secs() => Ok(()),
            Some(silent_s) => Err(format!(
                "it has not heard of its primary for {silent_s} s, more than upstream.max_replica_lag"
            )),
            None => Err("it does not say when it has heard of its primary".to_owned()),
        }
    }
}
