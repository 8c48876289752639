//! The words and the bounds of Redis 7.0.15, as observed on a server.

use super::*;

#[test]
fn errors_read_as_those_of_redis() {
    let texts = [
        (
            ProtocolError::InvalidMultibulkLength,
            "Protocol error: invalid multibulk length",
        ),
        (ProtocolError::InvalidBulkLength, "Protocol error: invalid bulk length"),
        (
            ProtocolError::UnauthenticatedMultibulk,
            "Protocol error: unauthenticated multibulk length",
        ),
        (
            ProtocolError::UnauthenticatedBulk,
            "Protocol error: unauthenticated bulk length",
        ),
        (
            ProtocolError::ExpectedDollar(b'x'),
            "Protocol error: expected '$', got 'x'",
        ),
        (ProtocolError::TooBigInline, "Protocol error: too big inline request"),
        (
            ProtocolError::TooBigMbulkCount,
            "Protocol error: too big mbulk count string",
        ),
        (
            ProtocolError::TooBigBulkCount,
            "Protocol error: too big bulk count string",
        ),
        (
            ProtocolError::UnbalancedQuotes,
            "Protocol error: unbalanced quotes in request",
        ),
    ];
    for (error, text) in texts {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.text(), text.as_bytes());
    }
    let odd = ProtocolError::ExpectedDollar(0xff).text();
    assert_eq!(odd, b"Protocol error: expected '$', got '\xff'");
}

#[test]
fn the_unauthenticated_hear_of_their_own_limits_up_to_those_of_everybody() {
    let (all, some) = (Limits::AUTHENTICATED, Limits::UNAUTHENTICATED);
    assert_eq!(all.args(2_147_483_647), Ok(2_147_483_647));
    assert_eq!(all.args(2_147_483_648), Err(ProtocolError::InvalidMultibulkLength));
    assert_eq!(all.args(-5), Ok(0));
    assert_eq!(some.args(10), Ok(10));
    assert_eq!(some.args(11), Err(ProtocolError::UnauthenticatedMultibulk));
    assert_eq!(some.args(2_147_483_648), Err(ProtocolError::InvalidMultibulkLength));
    assert_eq!(all.bulk(536_870_912), Ok(536_870_912));
    assert_eq!(all.bulk(536_870_913), Err(ProtocolError::InvalidBulkLength));
    assert_eq!(all.bulk(-1), Err(ProtocolError::InvalidBulkLength));
    assert_eq!(some.bulk(16_384), Ok(16_384));
    assert_eq!(some.bulk(16_385), Err(ProtocolError::UnauthenticatedBulk));
    assert_eq!(some.bulk(536_870_913), Err(ProtocolError::InvalidBulkLength));
}

#[test]
fn a_limit_set_by_hand_is_not_blamed_on_authentication() {
    let limits = Limits {
        max_bulk_bytes: 1024 * 1024,
        ..Limits::AUTHENTICATED
    };
    assert_eq!(limits.bulk(1024 * 1024 + 1), Err(ProtocolError::InvalidBulkLength));
}
