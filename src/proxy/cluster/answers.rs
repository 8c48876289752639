//! `CLUSTER …` and its kin, answered by the proxy: to clients that know clusters it is the one node that has all slots, at
//! the address at which the client has reached it. So such a client sends everything here and is never sent elsewhere.

use std::fmt::Write as _;
use std::rc::Rc;

use super::View;
use crate::command::slot::{SLOTS, slot};
use crate::proxy::client::Client;
use crate::proxy::local::{integer, wrong_arity};
use crate::proxy::request::{self, Reason, Request, Step};
use crate::proxy::worker::Worker;
use crate::resp::request::Args;
use crate::resp::{Version, encode};

/// `CLIENT` subcommands that would hold back one node of several.
pub fn is_about_one_node(args: Args<'_>) -> bool {
    [&b"pause"[..], b"unpause"]
        .iter()
        .any(|sub| args.arg(1).eq_ignore_ascii_case(sub))
}

/// `None`: it is something else.
pub fn local(worker: &Rc<Worker>, view: &View, client: &Rc<Client>, request: &Request<'_>) -> Option<Step> {
    let args = request.args;
    match &*request.spec.name {
        // The client may say so as often as it likes: nothing here is read from replicas, or imported.
        "readonly" | "readwrite" | "asking" => {
            client.state.borrow_mut().ok();
            Some(Step::DONE)
        }
        "cluster" => Some(cluster(worker, view, client, request, args)),
        _ => None,
    }
}

fn cluster(worker: &Rc<Worker>, view: &View, client: &Rc<Client>, request: &Request<'_>, args: Args<'_>) -> Step {
    let sub = args.arg(1).to_ascii_lowercase();
    // The node of a slot knows its keys.
    if matches!((&sub[..], args.len()), (b"countkeysinslot", 3) | (b"getkeysinslot", 4)) {
        let named = integer(args.arg(2)).and_then(|n| u16::try_from(n).ok());
        return match named.filter(|slot| *slot < SLOTS) {
            Some(_) => request::pin(client, Reason::Side),
            None => {
                client.state.borrow_mut().error("ERR Invalid slot");
                Step::DONE
            }
        };
    }
    let own = Own::new(worker, client);
    let mut state = client.state.borrow_mut();
    let version = state.version;
    let mut write = |each: &dyn Fn(&mut Vec<u8>)| state.outbox.answer_now(|ready| each(&mut ready.bytes));
    match (&sub[..], args.len()) {
        (b"slots", 2) => write(&|out| own.slots(out, version)),
        (b"shards", 2) => write(&|out| own.shards(out, version)),
        (b"nodes", 2) => write(&|out| encode::verbatim(out, version, "txt", own.line())),
        (b"info", 2) => {
            let text = own.info(view);
            write(&|out| encode::verbatim(out, version, "txt", &text));
        }
        (b"myid", 2) => write(&|out| encode::bulk(out, &own.id)),
        (b"myshardid", 2) => write(&|out| encode::bulk(out, &own.id)),
        (b"links", 2) => write(&|out| encode::array_header(out, 0)),
        (b"replicas" | b"slaves", 3) => {
            if args.arg(2) == own.id.as_bytes() {
                write(&|out| encode::array_header(out, 0));
            } else {
                let name = String::from_utf8_lossy(args.arg(2)).into_owned();
                state.error(format!("ERR Unknown node {name}"));
            }
        }
        (b"keyslot", 3) => write(&|out| encode::integer(out, slot(args.arg(2)).into())),
        (
            b"slots" | b"shards" | b"nodes" | b"info" | b"myid" | b"myshardid" | b"links" | b"replicas" | b"slaves"
            | b"keyslot" | b"countkeysinslot" | b"getkeysinslot",
            _,
        ) => state.error(wrong_arity(&request.spec.full_name(args))),
        _ => {
            let name = request.spec.full_name(args).to_uppercase().replace('|', " ");
            state.error(format!(
                "ERR nearcache: {name} is not passed on: to clients the proxy is the only node of the cluster; send it to a node itself"
            ));
        }
    }
    Step::DONE
}

/// The proxy as a node.
struct Own {
    /// 40 hexadecimal digits, the same for the life of the process.
    id: String,
    host: String,
    port: i64,
}

impl Own {
    fn new(worker: &Worker, client: &Client) -> Own {
        let address = &client.meta.local_address;
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
        let shared = &worker.shared;
        Own {
            id: format!(
                "{:016x}{:016x}{:08x}",
                shared.started_unix_s,
                shared.started_us,
                std::process::id()
            ),
            host: match host.starts_with('/') {
                // Over a Unix socket a client cannot be told where to connect to.
                true => String::new(),
                false => host.trim_matches(['[', ']']).to_owned(),
            },
            port: port.parse().unwrap_or(0),
        }
    }

    fn slots(&self, out: &mut Vec<u8>, version: Version) {
        encode::array_header(out, 1);
        encode::array_header(out, 3);
        encode::integer(out, 0);
        encode::integer(out, i64::from(SLOTS) - 1);
        encode::array_header(out, 4);
        encode::bulk(out, &self.host);
        encode::integer(out, self.port);
        encode::bulk(out, &self.id);
        encode::map_header(out, version, 0);
    }

    fn shards(&self, out: &mut Vec<u8>, version: Version) {
        encode::array_header(out, 1);
        encode::map_header(out, version, 2);
        encode::bulk(out, "slots");
        encode::array_header(out, 2);
        encode::integer(out, 0);
        encode::integer(out, i64::from(SLOTS) - 1);
        encode::bulk(out, "nodes");
        encode::array_header(out, 1);
        encode::map_header(out, version, 7);
        encode::bulk(out, "id");
        encode::bulk(out, &self.id);
        encode::bulk(out, "port");
        encode::integer(out, self.port);
        for name in ["ip", "endpoint"] {
            encode::bulk(out, name);
            encode::bulk(out, &self.host);
        }
        encode::bulk(out, "role");
        encode::bulk(out, "master");
        encode::bulk(out, "replication-offset");
        encode::integer(out, 0);
        encode::bulk(out, "health");
        encode::bulk(out, "online");
    }

    fn line(&self) -> String {
        format!(
            "{} {}:{}@{} myself,master - 0 0 1 connected 0-{}\n",
            self.id,
            self.host,
            self.port,
            self.port + 10_000,
            SLOTS - 1
        )
    }

    /// What clients look at is of the cluster behind; the counts of nodes are those of the one that they see.
    fn info(&self, view: &View) -> String {
        let topology = view.topology();
        let assigned = topology.assigned();
        let is_ok = assigned == usize::from(SLOTS) && topology.failed.is_empty();
        let mut text = String::new();
        for (name, value) in [
            ("cluster_state", if is_ok { "ok".to_owned() } else { "fail".to_owned() }),
            ("cluster_slots_assigned", assigned.to_string()),
            ("cluster_slots_ok", assigned.to_string()),
            ("cluster_slots_pfail", "0".to_owned()),
            ("cluster_slots_fail", "0".to_owned()),
            ("cluster_known_nodes", "1".to_owned()),
            ("cluster_size", "1".to_owned()),
            ("cluster_current_epoch", topology.version.to_string()),
            ("cluster_my_epoch", topology.version.to_string()),
            ("cluster_stats_messages_sent", "0".to_owned()),
            ("cluster_stats_messages_received", "0".to_owned()),
            ("total_cluster_links_buffer_limit_exceeded", "0".to_owned()),
        ] {
            let _ = write!(text, "{name}:{value}\r\n");
        }
        text
    }
}
