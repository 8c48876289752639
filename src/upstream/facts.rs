//! What is known of the upstream: its version, its databases, its own command table. Learned by the control runtime over
//! a connection of its own, after the start and after each loss; until then the built-in table serves.

use std::sync::Arc;
use std::time::Duration;

use super::dial::{DialError, Target};
use super::exchange::Exchange;
use super::info::field;
use crate::command::{Table, decode_command_reply, own};
use crate::resp::{Version, reply};

/// Databases of a server that does not tell (Redis's default).
const DATABASES: u32 = 16;
/// An answer may take longer than a connection.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Facts {
    pub server: String,
    pub version: String,
    /// The version of Redis that it is compatible with; the same, unless the server is not Redis.
    pub redis_version: String,
    pub role: String,
    /// The modules of its `HELLO` reply, as it told them: in RESP2 if it has no RESP3.
    pub modules: Vec<u8>,
    pub databases: u32,
    pub table: Arc<Table>,
    /// It can tell a digest of a string: `DIGEST` of Redis 8.4.
    pub has_digest: bool,
    pub is_known: bool,
}

impl Facts {
    /// Before the upstream was reached.
    pub fn unknown() -> Facts {
        Facts {
            server: "redis".into(),
            version: "7.0.0".into(),
            redis_version: "7.0.0".into(),
            role: "master".into(),
            modules: b"*0\r\n".to_vec(),
            databases: DATABASES,
            table: Arc::new(Table::builtin()),
            has_digest: false,
            is_known: false,
        }
    }

    /// Whether it is a Redis of this version, or compatible with one.
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        numbers(&self.redis_version) >= (major, minor)
    }

    pub fn is_valkey(&self) -> bool {
        self.server == "valkey"
    }

    /// Whether it is a Valkey of this version, by its own count.
    pub fn is_valkey_at_least(&self, major: u32, minor: u32) -> bool {
        self.is_valkey() && numbers(&self.version) >= (major, minor)
    }

    /// Asks the upstream.
    pub async fn ask(target: &Target) -> Result<Facts, DialError> {
        let within = target.connect_timeout.max(ANSWER_WITHIN);
        let mut upstream = Exchange::open(target).await?;
        let mut facts = Facts::unknown();
        let info = upstream.ask(&[own::INFO, b"server"], within).await?;
        if let Some(text) = reply::text(&info).filter(|_| !reply::is_error(&info)) {
            let text = String::from_utf8_lossy(text);
            if let Some(version) = field(&text, "redis_version") {
                facts.redis_version = version.to_owned();
                facts.version = version.to_owned();
            }
            if let Some(version) = field(&text, "valkey_version") {
                facts.server = "valkey".to_owned();
                facts.version = version.to_owned();
            }
        }
        if upstream.version == Version::Resp3 {
            let hello = upstream.ask(&[own::HELLO, b"3"], within).await?;
            facts.take_hello(&hello);
        } else {
            facts.ask_otherwise(&mut upstream, within).await?;
        }
        let databases = upstream.ask(&[own::CONFIG, b"GET", b"databases"], within).await?;
        if let Some(number) = reply::setting(&databases)
            && let Some(number) = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok())
        {
            facts.databases = number;
        }
        let commands = upstream.ask(&[own::COMMAND], within).await?;
        match decode_command_reply(&commands) {
            Ok(commands) if !commands.is_empty() => {
                facts.table = Arc::new(Table::join(&commands));
                facts.has_digest = commands
                    .iter()
                    .any(|command| command.name == "digest" && command.has("readonly"));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "the upstream's command table is not understood; the built-in one serves")
            }
        }
        facts.is_known = true;
        Ok(facts)
    }
}

impl Facts {
    /// What `HELLO` would tell, of a server that has none.
    async fn ask_otherwise(&mut self, upstream: &mut Exchange, within: Duration) -> Result<(), DialError> {
        let info = upstream.ask(&[own::INFO, b"replication"], within).await?;
        let text = String::from_utf8_lossy(reply::text(&info).unwrap_or_default()).into_owned();
        if let Some(role) = field(&text, "role") {
            self.role = role.to_owned();
        }
        let modules = upstream.ask(&[own::MODULE, b"LIST"], within).await?;
        if !reply::is_error(&modules) {
            self.modules = modules.to_vec();
        }
        Ok(())
    }

    fn take_hello(&mut self, frame: &[u8]) {
        let Some(mut fields) = reply::elements(frame) else {
            return;
        };
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            let word = || reply::text(value).map(|text| String::from_utf8_lossy(text).into_owned());
            match reply::text(name) {
                Some(b"server") => word().into_iter().for_each(|word| self.server = word),
                Some(b"version") => word().into_iter().for_each(|word| self.version = word),
                Some(b"role") => word().into_iter().for_each(|word| self.role = word),
                Some(b"modules") => self.modules = value.to_vec(),
                _ => {}
            }
        }
    }
}

/// The first two numbers of a version.
fn numbers(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}
