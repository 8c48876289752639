//! Who may use the proxy.
//!
//! Shared upstream connections run as the proxy's own upstream user, so a client must prove that it may
//! act as that user. Read once at start; immutable afterwards.

use super::reader::Reader;
use super::{Printed, Secret};

/// What clients must prove.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Auth {
    /// The user and password of the upstream URL; nothing when it carries none. The default.
    #[default]
    Upstream,
    /// Nothing, whatever the upstream asks of the proxy.
    None,
    /// A user and password of the proxy's own.
    Password(Credentials),
}

/// A user with a password.
#[derive(Clone, Debug, PartialEq)]
pub struct Credentials {
    /// The user's name; `default` where none was written, as in Redis.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl Auth {
    /// What a client must prove before it is served, where the proxy itself shows this to the upstream; `None` = nothing
    /// (protected mode applies then).
    #[must_use]
    pub fn required(&self, upstream: Option<Credentials>) -> Option<Credentials> {
        match self {
            Self::None => None,
            Self::Password(credentials) => Some(credentials.clone()),
            Self::Upstream => upstream,
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Self {
        let user = reader.text("auth.user");
        let password = reader.text("auth.password");
        let mode = reader.choice("auth.mode", Mode::Upstream, &MODES);
        match (mode, password) {
            (Mode::Password, Some(password)) if !password.is_empty() => Self::Password(Credentials {
                user: user.unwrap_or_else(|| DEFAULT_USER.to_owned()),
                password: Secret::new(password),
            }),
            (Mode::Password, _) => {
                reader.problem("auth.mode", "\"password\" needs auth.password, not empty");
                Self::Upstream
            }
            (mode, password) => {
                if password.is_some() || user.is_some() {
                    reader.problem(
                        "auth.mode",
                        "must be \"password\" where auth.user or auth.password is set",
                    );
                }
                if mode == Mode::None { Self::None } else { Self::Upstream }
            }
        }
    }

    pub(super) fn settings(&self) -> Vec<Printed> {
        match self {
            Self::Upstream => vec![("mode", "upstream".into())],
            Self::None => vec![("mode", "none".into())],
            Self::Password(credentials) => vec![
                ("mode", "password".into()),
                ("user", credentials.user.clone().into()),
                ("password", credentials.password.to_string().into()),
            ],
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Upstream,
    None,
    Password,
}

const MODES: [(&str, Mode); 3] = [
    ("upstream", Mode::Upstream),
    ("none", Mode::None),
    ("password", Mode::Password),
];

/// The user whom `AUTH password` means (Redis documentation, ACL).
pub(super) const DEFAULT_USER: &str = "default";
