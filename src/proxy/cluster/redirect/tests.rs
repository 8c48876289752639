use super::Redirect;
use crate::config::Endpoint;

#[test]
fn what_a_node_says_is_told_from_its_other_errors() {
    let at = |host: &str, port| Endpoint::Tcp {
        host: host.to_owned(),
        port,
    };
    let of = |frame: &[u8]| Redirect::of(frame, || Some(at("own", 1)));
    assert_eq!(
        of(b"-MOVED 3999 127.0.0.1:6381\r\n"),
        Some(Redirect::Moved(Some(at("127.0.0.1", 6381))))
    );
    assert_eq!(
        of(b"-MOVED 3999 :6381\r\n"),
        Some(Redirect::Moved(Some(at("own", 6381))))
    );
    assert_eq!(of(b"-ASK 3999 h:6381\r\n"), Some(Redirect::Ask(Some(at("h", 6381)))));
    assert_eq!(of(b"-ASK 3999\r\n"), Some(Redirect::Ask(None)));
    assert_eq!(
        of(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"),
        Some(Redirect::TryAgain)
    );
    assert_eq!(of(b"-CLUSTERDOWN The cluster is down\r\n"), Some(Redirect::Down));
    for other in [
        &b"-ERR MOVED\r\n"[..],
        b"+MOVED 1 h:1\r\n",
        b"-MOVEDX 1 h:1\r\n",
        b"$5\r\n-ASK \r\n",
        b"",
    ] {
        assert_eq!(of(other), None);
    }
}
