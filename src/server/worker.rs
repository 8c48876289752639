//! A worker's thread: its runtime, and the task that takes messages from its inbox.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};

use crate::clock;
use crate::downstream::session;
use crate::net::Stream;
use crate::proxy::client::{Client, ClientMeta};
use crate::proxy::owed;
use crate::proxy::read::below;
use crate::proxy::shared::{Message, NewClient, Shared};
use crate::proxy::worker::Worker;

/// Messages in one turn: clients that come in a storm cost some ten microseconds each, and those who are there wait.
const MESSAGES_A_TURN: usize = 32;

pub fn spawn(index: u16, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            match Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
            {
                Ok(runtime) => runtime.block_on(run(index, shared)),
                Err(error) => tracing::error!(%error, index, "a worker has no runtime"),
            }
        })
}

async fn run(index: u16, shared: Arc<Shared>) {
    let worker = Worker::new(index, Arc::clone(&shared));
    // The first connection is there before the first client.
    if shared.cluster.is_some() {
        worker.tick();
    } else if let Err(error) = worker.connection(shared.initial_db) {
        tracing::error!(error, "no shared connection");
    }
    tokio::task::spawn_local(ticks(Rc::clone(&worker)));
    let inbox = &shared.inboxes[usize::from(index)];
    loop {
        let mut taken = 0;
        while let Some(message) = inbox.pop() {
            taken += 1;
            match message {
                Message::Socket(new) => admit(&worker, new),
                Message::Answer { to, answer } => worker.take_answer(&to, &answer),
                Message::Found { place, found } => below::answered(&worker, place, found.as_deref(), clock::now_us()),
                Message::Paid => owed::paid(&worker),
                Message::Look { client } => worker.look(client),
                Message::Large { hash } => drop(worker.large_keys.borrow_mut().put(hash, ())),
                Message::NotLarge { hash } => drop(worker.large_keys.borrow_mut().pop(&hash)),
                Message::Switch => worker.follow_switch(),
                Message::Drain => worker.drain(),
                Message::Stop => return,
            }
            if taken % MESSAGES_A_TURN == 0 {
                worker.wake_touched();
                tokio::task::yield_now().await;
            }
        }
        worker.wake_touched();
        inbox.notified().await;
    }
}

async fn ticks(worker: Rc<Worker>) {
    let mut tick = tokio::time::interval(worker.tick_period());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        worker.tick();
    }
}

fn admit(worker: &Rc<Worker>, new: NewClient) {
    let (stream, address, local_address) = match adopt(new) {
        Ok(adopted) => adopted,
        Err(error) => {
            tracing::warn!(%error, "a client was lost while it was handed to its worker");
            worker.leave();
            return;
        }
    };
    let meta = ClientMeta::new(
        worker.shared.next_client_id(),
        worker.index,
        (address, local_address),
        worker.initial_db(),
    );
    let client = Rc::new(Client::new(
        Arc::new(meta),
        worker.initial_access(),
        worker.initial_db(),
    ));
    worker.enter(&client);
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        session::serve(Rc::clone(&worker), Rc::clone(&client), stream).await;
        worker.exit(&client);
    });
}

/// Registers the socket with this worker's runtime.
fn adopt(new: NewClient) -> io::Result<(Stream, String, String)> {
    match new {
        NewClient::Tcp(stream, peer) => {
            let local = stream.local_addr()?;
            Ok((
                Stream::Tcp(TcpStream::from_std(stream)?),
                peer.to_string(),
                local.to_string(),
            ))
        }
        NewClient::Unix(stream, path) => Ok((
            Stream::Unix(UnixStream::from_std(stream)?),
            format!("{path}:0"),
            format!("{path}:0"),
        )),
    }
}
