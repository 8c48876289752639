mod below;
mod budget;
mod entries;
mod events;
mod model;
mod packed;
mod quality;
mod schedules;
mod situations;
mod stale;
mod threads;

use super::*;

/// The staleness bound of the tests: 1 s.
const T: u64 = 1_000_000;

/// An L1 with two links, and short forms for what the tests do with it.
struct Rig {
    l1: L1<u32>,
    links: Arc<Links>,
    a: LinkId,
    b: LinkId,
}

fn config() -> Config {
    Config {
        budget_bytes: 1 << 20,
        shards: Some(4),
        max_value_bytes: 16 << 10,
        negative_ttl_us: None,
        max_age_us: None,
        max_stale_us: None,
        consistency: Consistency::Coherent,
        objective: Objective::Requests,
        compression: None,
    }
}

fn rig() -> Rig {
    rig_with(config())
}

fn rig_with(config: Config) -> Rig {
    let links = Arc::new(Links::new(T));
    let (a, b) = (links.add().unwrap(), links.add().unwrap());
    Rig {
        l1: L1::new(config, links.clone()),
        links,
        a,
        b,
    }
}

fn get(name: &str) -> Query<'_> {
    read(name, "")
}

fn read<'a>(name: &'a str, variant: &'a str) -> Query<'a> {
    Query {
        hash: name_hash(name.as_bytes()),
        db: 0,
        name: name.as_bytes(),
        variant: variant.as_bytes(),
    }
}

fn on(link: LinkId, now_us: u64) -> Asker {
    Asker {
        now_us,
        link,
        own: Own::Clear,
        floor_us: 0,
        takes_stale: false,
    }
}

fn value(text: &str) -> Option<Fill<'_>> {
    expiring(text, -1)
}

fn expiring(text: &str, pttl_ms: i64) -> Option<Fill<'_>> {
    Some(Fill {
        value: Value::Bytes(text.as_bytes()),
        pttl_ms,
        is_plain: false,
        most_us: None,
    })
}

fn absent() -> Option<Fill<'static>> {
    Some(Fill {
        value: Value::Absent(b"_\r\n"),
        pttl_ms: -2,
        is_plain: false,
        most_us: None,
    })
}

fn text(view: View<'_>) -> String {
    let bytes = match view.value {
        ViewValue::Absent(frame) => return format!("absent {}", String::from_utf8_lossy(frame).trim_end()),
        ViewValue::Small(bytes) => bytes,
        ViewValue::Large(bytes) => bytes,
        ViewValue::Packed { .. } => return "compressed".to_owned(),
    };
    String::from_utf8_lossy(bytes).into_owned()
}

impl Rig {
    fn decide(&self, q: Query<'_>, a: Asker) -> Decision<String> {
        self.l1.decide(&q, &a, Leasing::Allowed, || 7, text)
    }

    #[track_caller]
    fn lease(&self, q: Query<'_>, a: Asker) -> LeaseId {
        match self.decide(q, a) {
            Decision::Leased(lease) => lease,
            other => panic!("no lease but {other:?}"),
        }
    }

    /// Leases, fills, and lets the link answer at the same time.
    #[track_caller]
    fn fill(&self, q: Query<'_>, a: Asker, fill: Option<Fill<'_>>) {
        let lease = self.lease(q, a);
        self.l1.got(lease);
        self.l1.complete(lease, fill, a.now_us);
        self.links.answered(a.link, a.now_us);
    }

    fn peek(&self, q: Query<'_>, a: Asker) -> Option<String> {
        self.l1.peek(&q, &a, text)
    }

    fn many(&self, qs: &[Query<'_>], a: Asker) -> Option<Vec<String>> {
        self.many_of(qs, a, Which::This)
    }

    fn many_of(&self, qs: &[Query<'_>], a: Asker, which: Which) -> Option<Vec<String>> {
        let mut all = Vec::new();
        let is_hit = self.l1.peek_many(qs, &a, which, |i, view| {
            assert_eq!(i, all.len());
            all.push(text(view));
        });
        is_hit.then_some(all)
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.into())
}
