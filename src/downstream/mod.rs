//! The client side: accepting, and one session for each client that reads requests, has them decided, and writes what is
//! ready. A session owns its socket and never leaves its worker.

mod deep;
pub mod listener;
mod pipe;
pub mod session;
