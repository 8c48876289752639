//! The commands that the proxy sends for itself: to fill its cache, to look whether a server is there, to follow it. Their
//! names are spelled as no client spells them, with a small last letter. To a server that is the same command; `MONITOR`
//! shows the name as it was sent, and a client that watches the server through the proxy is spared those lines.

pub const ASKING: &[u8] = b"ASKINg";
pub const AUTH: &[u8] = b"AUTh";
pub const CLIENT: &[u8] = b"CLIENt";
pub const CLUSTER: &[u8] = b"CLUSTEr";
pub const COMMAND: &[u8] = b"COMMANd";
pub const CONFIG: &[u8] = b"CONFIg";
pub const DIGEST: &[u8] = b"DIGESt";
pub const HELLO: &[u8] = b"HELLo";
pub const INFO: &[u8] = b"INFo";
pub const MODULE: &[u8] = b"MODULe";
pub const PING: &[u8] = b"PINg";
pub const PSUBSCRIBE: &[u8] = b"PSUBSCRIBe";
pub const PTTL: &[u8] = b"PTTl";
pub const READONLY: &[u8] = b"READONLy";
pub const ROLE: &[u8] = b"ROLe";
pub const SELECT: &[u8] = b"SELECt";
pub const SPUBLISH: &[u8] = b"SPUBLISh";
pub const TOUCH: &[u8] = b"TOUCh";
pub const UNWATCH: &[u8] = b"UNWATCh";

const ALL: [&[u8]; 19] = [
    ASKING, AUTH, CLIENT, CLUSTER, COMMAND, CONFIG, DIGEST, HELLO, INFO, MODULE, PING, PSUBSCRIBE, PTTL, READONLY,
    ROLE, SELECT, SPUBLISH, TOUCH, UNWATCH,
];

/// `ASKING` as a request.
pub const ASKING_REQUEST: &[u8] = b"*1\r\n$6\r\nASKINg\r\n";
/// `PING` as a request.
pub const PING_REQUEST: &[u8] = b"*1\r\n$4\r\nPINg\r\n";
/// Two requests behind which `WAIT` waits for all that was written before them, over whatever connection: to servers of today
/// only what goes to replicas counts (a message to a channel on which nobody listens), to those before them any command.
pub const CATCH_UP_REQUESTS: &[u8] = b"*1\r\n$4\r\nPINg\r\n*3\r\n$8\r\nSPUBLISh\r\n$14\r\nnearcache:wait\r\n$0\r\n\r\n";
/// `UNWATCH` as a request.
pub const UNWATCH_REQUEST: &[u8] = b"*1\r\n$7\r\nUNWATCh\r\n";

/// Whether a line of `MONITOR` (`+1700000000.123456 [0 127.0.0.1:50000] "PTTl" "key"`) shows such a command.
pub fn is_shown_by(line: &[u8]) -> bool {
    const BEFORE_NAME: &[u8] = b"] \"";
    let Some(at) = line.windows(BEFORE_NAME.len()).position(|window| window == BEFORE_NAME) else {
        return false;
    };
    let rest = &line[at + BEFORE_NAME.len()..];
    let mut words = rest.split(|&byte| byte == b'"').step_by(2);
    let name = words.next().unwrap_or_default();
    // What changes the server is not the proxy's, however it is spelled.
    ALL.contains(&name) && (name != CONFIG || words.next() == Some(b"GET"))
}

#[cfg(test)]
mod tests;
