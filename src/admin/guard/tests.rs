use super::*;

fn guard(bound: &str) -> Guard {
    Guard::new(bound.parse().unwrap())
}

#[test]
fn on_loopback_only_names_of_this_machine_are_served() {
    for bound in ["127.0.0.1:9091", "127.0.0.2:0", "[::1]:9091", "[::ffff:127.0.0.1]:9091"] {
        let guard = guard(bound);
        for host in [
            "localhost",
            "LocalHost:9091",
            "localhost.:9091",
            "nearcache.localhost",
            "127.0.0.1",
            "127.0.0.1:1",
            "127.8.9.1",
            "[::1]",
            "[::1]:9091",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert!(guard.admits(host), "{bound} {host}");
        }
        for host in [
            "",
            "rebound.example",
            "rebound.example:9091",
            "localhost.rebound.example",
            "notlocalhost",
            "127.0.0.1.rebound.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "[::1",
            "localhost@rebound.example",
            "rebound.example@localhost",
            "local host",
        ] {
            assert!(!guard.admits(host), "{bound} {host}");
        }
    }
}

#[test]
fn elsewhere_any_name_will_do() {
    assert!(guard("10.0.0.7:9091").admits("nearcache.example:9091"));
    assert!(guard("0.0.0.0:9091").admits("node-7"));
}

#[test]
fn host_is_needed_once_from_http_1_1_on() {
    let judge = |version: Version, uri: &str, hosts: &[&str]| {
        let mut request = axum::http::Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        guard("127.0.0.1:9091")
            .judge(&request.body(Body::empty()).unwrap())
            .map_err(|(status, _)| status)
    };
    assert_eq!(judge(Version::HTTP_11, "/health", &["localhost"]), Ok(()));
    assert_eq!(judge(Version::HTTP_10, "/health", &[]), Ok(()));
    assert_eq!(
        judge(Version::HTTP_10, "/health", &["rebound.example"]),
        Err(StatusCode::FORBIDDEN)
    );
    assert_eq!(judge(Version::HTTP_11, "/health", &[]), Err(StatusCode::BAD_REQUEST));
    assert_eq!(
        judge(Version::HTTP_11, "/health", &["localhost", "localhost"]),
        Err(StatusCode::BAD_REQUEST)
    );
    assert_eq!(
        judge(Version::HTTP_11, "http://rebound.example/health", &["localhost"]),
        Err(StatusCode::FORBIDDEN)
    );
}
