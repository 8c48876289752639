//! Deep pipelines: how much of a worker's time they have at once.

/// Requests in one turn: what they take is about what fifty clients with one request each take, so that a deep pipeline
/// is to the others like fifty more clients.
const REQUESTS_A_TURN: u32 = 512;
/// The same of a deep pipeline beside clients that ask for less. Measured with 50 such clients and a pipeline of 10,000 on two
/// cores: their p50 and p99 beside it are 100 and 240 to 950 µs with 512, 87 and 240 to 690 with 128, 75 and 150 to 230 with
/// 64, 70 and 160 to 190 with 32; the pipeline's requests a second 9.3, 7.0, 5.4 and 4.0 million, redis-server's 2.9.
const REQUESTS_BESIDE_OTHERS: u32 = 64;
/// A client that used up a turn has a deep pipeline for so long.
const DEEP_US: u64 = 20_000;

/// Whether a client has a deep pipeline, and until when it counts as one that has.
#[derive(Default)]
pub struct Deep {
    /// 0: it has none.
    until_us: u64,
}

impl Deep {
    #[inline]
    pub fn is_it(&self) -> bool {
        self.until_us != 0
    }

    /// Requests that the client may have decided in the turn that begins. The clock is not asked for those without a deep
    /// pipeline.
    #[inline]
    pub fn requests_a_turn(&mut self, now_us: impl Fn() -> u64, is_polite_served: impl Fn(u64) -> bool) -> u32 {
        if !self.is_it() {
            return REQUESTS_A_TURN;
        }
        let now_us = now_us();
        if now_us >= self.until_us {
            self.until_us = 0;
            return REQUESTS_A_TURN;
        }
        match is_polite_served(now_us) {
            true => REQUESTS_BESIDE_OTHERS,
            false => REQUESTS_A_TURN,
        }
    }

    /// The client had as many requests as it may have in a turn, or more.
    pub fn used_up(&mut self, now_us: u64) {
        self.until_us = now_us + DEEP_US;
    }
}

#[cfg(test)]
mod tests;
